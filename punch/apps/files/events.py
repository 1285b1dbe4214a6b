"""
The transfers of a process as their user sees them, the events that report them, and what is unusual about
names of files.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from punch.apps.files.messages import FilesOffer, TransferFailed
from punch.identity import PeerID
from punch.local.protocol import CommandError
from punch.sanitize import unseen

ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of text."""
_WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
_NOT_IN_WINDOWS = re.compile(r'[<>:"\\|?*]|[. ]$')


class Oddity(Enum):
    """What is unusual about a name."""

    CONTROL = "control"
    """It has control characters, or characters that change the direction of text. They become "_"."""
    INVISIBLE = "invisible"
    """It has characters that are not seen, so that it looks like another name. They become "_"."""
    HIDDEN = "hidden"
    """It begins with a dot."""
    WINDOWS = "windows"
    """Windows can't have it."""
    SPACE = "space"
    """It begins or ends with a space."""


def oddities(name: str) -> list[Oddity]:
    """Return what is unusual about a name."""
    found = []
    if ACTING.search(name):
        found.append(Oddity.CONTROL)
    if not all(ACTING.match(name, index) for index in unseen(name)):
        found.append(Oddity.INVISIBLE)
    if name.startswith("."):
        found.append(Oddity.HIDDEN)
    if _WINDOWS.fullmatch(name) or _NOT_IN_WINDOWS.search(name):
        found.append(Oddity.WINDOWS)
    if name != name.strip():
        found.append(Oddity.SPACE)
    return found


class OddNames:
    """
    How many names in the folders of a transfer are unusual. Hidden ones are not counted: they are usual
    there.

    :ivar counts: by what is unusual.
    :ivar examples: a name for each.
    """

    def __init__(self) -> None:
        self.counts: Counter[Oddity] = Counter()
        self.examples: dict[Oddity, str] = {}

    def add(self, path: bytes) -> None:
        """Look at a path of a transfer; what has no folder is shown in its offer."""
        _, inside, name = path.rpartition(b"/")
        if not inside:
            return
        text = os.fsdecode(name)
        for oddity in oddities(text):
            if oddity is not Oddity.HIDDEN:
                self.counts[oddity] += 1
                self.examples.setdefault(oddity, text)


class Stage(str, Enum):
    """How far a transfer is, for its user."""

    OFFERED = "offered"
    """The receiving user has not answered yet."""
    RUNNING = "running"
    """Files are sent."""
    WAITING = "waiting"
    """
    It was interrupted, or the peer is not there. One that is sent is tried again; one that is received
    continues when it is offered again.
    """
    DONE = "done"
    """Everything has arrived."""
    FAILED = "failed"
    """It has ended before that."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Stage.DONE, Stage.FAILED)


class PeerBlocked(CommandError):
    """The user has blocked the peer to which something is to be sent."""

    def __init__(self) -> None:
        super().__init__("blocked", "")


@dataclass
class Transfer:
    """
    A transfer of this process.

    :ivar number: its name for commands, unique in this process.
    :ivar outgoing: whether this side sends.
    :ivar position: bytes that are there.
    :ivar problem: why it waits or has failed; None: not known, or the connection was lost.
    :ivar folder: where received files go, once it is accepted.
    :ivar finals: where the received items are, once all has arrived.
    :ivar left_out: links that the file system did not take.
    :ivar odd_names: what is unusual about names in received folders, once all has arrived.
    """

    number: int
    peer: PeerID
    outgoing: bool
    offer: FilesOffer
    stage: Stage = Stage.OFFERED
    position: int = 0
    problem: TransferFailed | CommandError | None = None
    folder: Path | None = None
    finals: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    odd_names: OddNames = field(default_factory=OddNames)


@dataclass(frozen=True)
class TransferEvent:
    """Anything that is reported of a transfer."""

    transfer: Transfer


class TransferChanged(TransferEvent):
    """A transfer was added, or has reached another stage."""


class TransferProgress(TransferEvent):
    """More of a transfer has arrived."""


class TransferDismissed(TransferEvent):
    """A transfer that is over is no longer listed."""


class TransferProblem(str, Enum):
    """Why something can't be done with a transfer."""

    NOT_THERE = "not-there"
    NOT_OFFERED = "not-offered"
    """It does not wait for an answer."""
    OVER = "over"
    NOT_OVER = "not-over"
    NO_FOLDER = "no-folder"
    """It has no folder on this machine."""


class UnknownTransfer(Exception):
    """
    No transfer has this number, or what was asked for is not possible with it.

    :ivar problem: why not.
    :ivar number: the number.
    """

    def __init__(self, problem: TransferProblem, number: int) -> None:
        super().__init__(problem.value, number)
        self.problem = problem
        self.number = number


class TooManyTransfers(Exception):
    """As many transfers to peers are under way as may be, `most`."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most

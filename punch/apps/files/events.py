"""What is told of the transfers of a process, and a transfer as its user sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from punch.apps.files.messages import FilesOffer, TransferFailed
from punch.apps.files.odd_names import OddNames
from punch.identity import PeerID
from punch.local.protocol import CommandError


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
    """Anything that is told of a transfer."""

    transfer: Transfer


@dataclass(frozen=True)
class TransferChanged(TransferEvent):
    """A transfer is there, or has reached another stage."""


@dataclass(frozen=True)
class TransferProgress(TransferEvent):
    """More of a transfer has arrived."""


@dataclass(frozen=True)
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

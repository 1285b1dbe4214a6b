"""What codes are for, and what comes of one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from punch.identity import PeerID

LIFE = 600.0
"""Seconds for which a code is good."""
REGISTERED_NAME = "code"
"""What both sides call themselves at the rendezvous, which learns no other name."""


class CodePurpose(str, Enum):
    """What a code is for. Both sides have to mean the same."""

    CONTACT = "contact"
    """`punch invite` and `punch join`: each gets into the other's address book."""
    FILES = "files"
    """`punch send` without a peer, and `punch receive CODE`."""


@dataclass(frozen=True)
class Card:
    """Who one side is: a peer ID, whose key has signed this exchange, and what it calls itself."""

    peer: PeerID
    name: str
    purpose: CodePurpose


class CodeFailure(str, Enum):
    """Why an exchange failed, a code for programs."""

    WRONG = "wrong-code"
    """The other side has another code. This one is void."""
    EXPIRED = "code-expired"
    """Nobody has used the code in time."""
    NOBODY = "no-such-code"
    """Nobody waits under the number."""
    NUMBER_TAKEN = "number-taken"
    """Somebody else has registered under the number."""
    TOO_MANY = "too-many"
    """Too many exchanges were begun and not finished."""
    BUSY = "busy"
    """The rendezvous lets nobody call the number now."""
    LOST = "lost"
    """The other side, or the rendezvous, was lost during the exchange."""
    OTHER_PURPOSE = "other-purpose"
    """The code is for another command."""
    OTHER_VERSION = "version"
    """The other side knows another version of this exchange."""
    MALFORMED = "malformed"
    """The other side knows the code, but what it says makes no sense."""


class CodeFailed(Exception):
    """An exchange failed. `card` is that of the other side, if it has proved to know the code."""

    def __init__(self, failure: CodeFailure, card: Card | None = None) -> None:
        super().__init__(failure.value)
        self.failure = failure
        self.card = card

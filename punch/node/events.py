"""
What a node tells whoever runs it: the stages of registration, of a call and of a link.

`reason` is a code for programs: a rendezvous `ErrorCode`, or a `Reason`. `text` is one sentence for a person
that says what happened and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from punch.identity import PeerID
from punch.node.path import Path

if TYPE_CHECKING:
    from punch.link.link import Link


class Reason(str, Enum):
    """The codes that are not the rendezvous' own (`punch.wire.control.ErrorCode` has those)."""

    UNREACHABLE = "unreachable"
    """No pair of candidates worked."""
    RENDEZVOUS_UNREACHABLE = "rendezvous-unreachable"
    """No connection to the rendezvous."""
    BAD_PIN = "bad-pin"
    """The rendezvous has another key than its address says."""
    CERTIFICATE = "certificate"
    """A certificate was refused, the rendezvous' by us or ours by the rendezvous."""
    SELF = "self"
    """A call to one's own ID."""
    LOST = "lost"
    """The path died and nothing replaced it."""
    BYE = "bye"
    """One side hung up."""
    PROOF = "proof"
    """The other side did not prove the ID that was called."""
    PROTOCOL = "protocol"
    """The other side broke the protocol, or someone changed its messages."""
    STATE = "state"
    """The state directory failed."""

    def __str__(self) -> str:
        return self.value


class Event:
    """Anything a `Node` reports."""


@dataclass(frozen=True)
class Ready(Event):
    """The node runs; `peer_id` is its own ID."""

    peer_id: PeerID


@dataclass(frozen=True)
class Registered(Event):
    """The rendezvous has welcomed this peer."""

    rendezvous: str


@dataclass(frozen=True)
class Unregistered(Event):
    """The rendezvous was lost or not reached; the next try comes in `retry_in` seconds (None: never)."""

    reason: str
    text: str
    retry_in: float | None


@dataclass(frozen=True)
class Calling(Event):
    """A call was placed, or waits for the rendezvous."""

    peer: PeerID


@dataclass(frozen=True)
class AlreadyConnected(Event):
    """A call to a peer that has just answered on the link that is there already: nothing else happens."""

    peer: PeerID


@dataclass(frozen=True)
class IncomingCall(Event):
    """
    Someone calls. `name` is the caller's own choice.

    `decided`: policy has answered already, so that `Node.accept` and `Node.reject` have nothing to decide.
    """

    peer: PeerID
    name: str
    known: bool
    decided: bool = False


@dataclass(frozen=True)
class CallUnanswerable(Event):
    """A call was refused here, because nobody who could decide it can be asked."""

    peer: PeerID


@dataclass(frozen=True)
class Introduced(Event):
    """Offer and answer are exchanged: each side has the other's candidates."""

    peer: PeerID
    name: str


@dataclass(frozen=True)
class Checking(Event):
    """Connectivity checks run over `pairs` candidate pairs."""

    peer: PeerID
    pairs: int


@dataclass(frozen=True)
class Connected(Event):
    """The link is up and the other side has proved its ID."""

    peer: PeerID
    name: str
    path: Path
    link: Link = field(repr=False, compare=False)


@dataclass(frozen=True)
class PathChanged(Event):
    """The link moved to another candidate pair."""

    peer: PeerID
    path: Path


@dataclass(frozen=True)
class PathLost(Event):
    """The link has no path now. It is kept, and `PathChanged` says when there is one again."""

    peer: PeerID
    text: str


@dataclass(frozen=True)
class Disconnected(Event):
    """A link that was connected is over."""

    peer: PeerID
    reason: str
    text: str


@dataclass
class CallFailed(Event, Exception):
    """
    A call failed; with no `peer`, the node itself cannot go on. It is an event, and the exception with which
    `Node.connect` fails.
    """

    peer: PeerID | None
    reason: str
    text: str

    def __str__(self) -> str:
        return self.text

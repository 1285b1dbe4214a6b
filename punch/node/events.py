"""
What a node tells whoever runs it: the stages of registration, of a call and of a link.

`cause` says why a call, a link or the registration ended, and `reason` is its code for programs.
`punch.ui.text.causes` makes sentences of such events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from punch.identity import PeerID
from punch.link.events import Path
from punch.node.causes import Cause, RelayFailure
from punch.wire.stun_attributes import RelayLimit

if TYPE_CHECKING:
    from punch.link.link import Link


class CallState(Enum):
    """The state of a call, or of the link that it has become."""

    CALLING = "calling"
    """Our offer is not answered yet, or waits for the rendezvous."""
    RINGING = "ringing"
    """The peer's offer waits for an answer here."""
    INTRODUCED = "introduced"
    """The call was accepted: each side has the other's candidates."""
    CHECKING = "checking"
    """Connectivity checks are being made; the link is not proved yet, or has no path yet."""
    CONNECTED = "connected"
    """The link is proved and has a path."""
    DISCONNECTED = "disconnected"
    """The link is proved; its path does not answer, and another one is looked for."""
    CLOSED = "closed"
    """The call or its link is over."""


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

    cause: Cause
    retry_in: float | None

    @property
    def reason(self) -> str:
        """The code of the cause."""
        return self.cause.reason


@dataclass(frozen=True)
class Calling(Event):
    """A call was placed, or waits for the rendezvous."""

    peer: PeerID


@dataclass(frozen=True)
class AlreadyConnected(Event):
    """A call to a peer that has just answered on the link that is there already: nothing else happens."""

    peer: PeerID


@dataclass(frozen=True)
class PeerReturned(Event):
    """
    A peer that was not registered when it was called has registered: a call may succeed now. The rendezvous
    says so once for each failed call, within an hour after it.
    """

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
    """
    The link has no path now. It is kept, and `PathChanged` says when there is one again.

    :ivar name: the peer's own choice, if it is known, here and in the events below.
    :ivar relay: why the relay gives no address, if it says so; that may be why the path was lost.
    """

    peer: PeerID
    name: str | None = None
    relay: RelayFailure | None = None


@dataclass(frozen=True)
class PathSlowed(Event):
    """
    A relay drops datagrams of the link, because more come than this limit allows. The event comes again only
    after half a minute in which nothing was dropped (`LinkStatus.slowed`).

    :ivar there: it is a relay of the other side, which reports this; the limit is also one of the other side.
    """

    peer: PeerID
    limit: RelayLimit
    name: str | None = None
    there: bool = False


@dataclass(frozen=True)
class Disconnected(Event):
    """A link that was connected is over."""

    peer: PeerID
    cause: Cause
    name: str | None = None

    @property
    def reason(self) -> str:
        """The code of the cause."""
        return self.cause.reason


@dataclass
class CallFailed(Event, Exception):
    """
    A call failed; without `peer`, the node itself cannot go on. This is an event, and also the exception with
    which `Node.connect` fails.
    """

    peer: PeerID | None
    cause: Cause
    name: str | None = None

    @property
    def reason(self) -> str:
        """The code of the cause."""
        return self.cause.reason

    def __str__(self) -> str:
        return self.reason

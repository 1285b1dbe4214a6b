"""What the registry has for its service: messages to deliver, and what is worth a line in the log."""

from __future__ import annotations

from dataclasses import dataclass

from punch.identity import PeerID
from punch.net.sources import Source
from punch.wire.control import Error, Reply


@dataclass(frozen=True)
class Deliver:
    """Send `reply` on this connection."""

    connection: int
    reply: Reply


@dataclass(frozen=True)
class Disconnect:
    """Send `error` on this connection and close it."""

    connection: int
    error: Error


@dataclass(frozen=True)
class PeerRegistered:
    """A peer is registered; `again` if it was registered already, on another connection."""

    peer: PeerID
    name: str
    again: bool


@dataclass(frozen=True)
class PeerUnregistered:
    """A peer is no longer registered."""

    peer: PeerID
    reason: str


@dataclass(frozen=True)
class LimitHit:
    """
    A registration or a call of this peer ended to make room for one of another source, or its call from
    another process was refused.
    """

    peer: PeerID
    address: str
    limit: str


@dataclass(frozen=True)
class DeliverToProcess:
    """
    Send `reply` to a peer that is registered at another process of the service.

    :ivar source: that of the peer.
    :ivar address: where the called peer is, whose reply it is; empty if it is not here any more.
    """

    process: str
    peer: PeerID
    reply: Reply
    source: Source
    address: str = ""


Output = Deliver | DeliverToProcess | Disconnect | PeerRegistered | PeerUnregistered | LimitHit

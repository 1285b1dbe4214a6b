"""
What a link core reports, the codes a link is closed with, and the bounds on what the other side can make
grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from punch.identity import PeerID

MAX_DATAGRAM = 1100
"""Bytes of an unreliable datagram: a larger one does not fit a 1,200-byte QUIC packet and would wedge it."""
MAX_REASON = 256
"""Bytes of UTF-8 of a close reason."""
INITIAL_CREDIT = 16 * 1024
"""
Bytes each side may send on a stream before the other has granted any: a first message costs no round trip.
"""


class LinkRole(Enum):
    """Who called. The caller is the QUIC client, whatever the ICE roles are."""

    CALLER = 1
    CALLEE = 2


class CloseCode(IntEnum):
    """Why a link ended; the number is what goes over the wire."""

    OK = 0
    """Somebody said goodbye."""
    REPLACED = 1
    """A newer link with the same peer took over."""
    PROTOCOL = 2
    """The other side broke a rule of the protocol, or grew something past its bound."""
    PROOF = 3
    """The other side could not prove that it is who it should be."""
    TIMEOUT = 4
    """The link was not secured in time."""
    LOST = 5
    """No path is left, or the other side is gone without a word."""
    REFUSED = 6
    """This connection is not wanted, for example because another one was first."""
    INTERNAL = 7
    """A fault on the side that closed."""
    SHUTDOWN = 8
    """The process at the other side ends."""


class LinkError(Exception):
    """A link can't do what was asked; `str()` is a sentence."""


class StreamLimitError(LinkError):
    """Too many streams are open on this link at once."""


class RefusalCode(IntEnum):
    """Why a stream was refused; the number is what goes over the wire, as the code of its reset."""

    NO_SERVICE = 1
    """The other side has no service of this name."""
    FAILED = 3
    """The service raised an exception."""
    NOT_ALLOWED = 4
    """The service is not for this peer."""


_REFUSALS = {
    RefusalCode.NO_SERVICE: "has no service",
    RefusalCode.FAILED: "could not start the service",
    RefusalCode.NOT_ALLOWED: "does not allow this peer to use the service",
}


class ServiceRefused(LinkError):
    """
    The other side refused a stream.

    :ivar service: the name of the service that was asked for.
    :ivar code: why it was refused.
    """

    def __init__(self, service: str, code: RefusalCode) -> None:
        super().__init__(f"The other side {_REFUSALS[code]} {service!a}.")
        self.service = service
        self.code = code


@dataclass(frozen=True)
class LinkLimits:
    """Bounds on what the other side can make grow. Sizes in bytes, times in seconds."""

    streams: int = 256
    """Streams the other side may have open at once (the QUIC library may allow fewer)."""
    unproved: int = 4
    """Connections that have not proved themselves, at once."""
    unproved_seconds: float = 5.0
    """From a caller's first Initial until it has proved itself, where round trips are short."""
    slowest_seconds: float = 25.0
    """The same, however long they are."""
    unproved_bytes: int = 64 * 1024
    prove_seconds: float = 20.0
    """From `LinkCore.start` until somebody must have proved itself."""
    header_seconds: float = 10.0
    """From a stream's first byte to the end of its name."""
    close_seconds: float = 1.0
    """How long an orderly close waits for the other side."""
    early_bytes: int = 24 * 1024
    """
    What a caller sends on its streams before the callee has accepted its proof: far below `unproved_bytes`.
    """
    max_window: int = 4 * 1024 * 1024
    """What one stream may have on the way or unread."""
    total_window: int = 16 * 1024 * 1024
    """The same for all streams of a link, beyond the initial credit of each."""


@dataclass(frozen=True)
class Proved:
    """The other side is `remote`, proved; streams and datagrams work from now on."""

    remote: PeerID


@dataclass(frozen=True)
class StreamOpened:
    """The other side opened a stream and said what it is for."""

    stream_id: int
    name: str


@dataclass(frozen=True)
class StreamAccepted:
    """The other side has accepted a stream that we opened: a service answers there."""

    stream_id: int


@dataclass(frozen=True)
class StreamData:
    """
    Bytes arrived, in order; `fin` says that they are the last. Tell `LinkCore.consumed` when they are used.
    """

    stream_id: int
    data: bytes
    fin: bool


@dataclass(frozen=True)
class StreamReset:
    """The other side gave the stream up in both directions."""

    stream_id: int
    code: int


@dataclass(frozen=True)
class StreamSendable:
    """The stream was full, and has room again."""

    stream_id: int


@dataclass(frozen=True)
class Datagram:
    """An unreliable message."""

    data: bytes


@dataclass(frozen=True)
class ControlFrame:
    """A control frame for a layer above: new candidates, an ICE restart (see `frames.py`)."""

    frame_type: int
    payload: bytes


@dataclass(frozen=True)
class PingAnswered:
    """The other side has answered a `LinkCore.ping`: it is there."""


@dataclass(frozen=True)
class ConnectionIDAdded:
    """Datagrams with this connection ID are for this link from now on."""

    connection_id: bytes


@dataclass(frozen=True)
class ConnectionIDRemoved:
    """Datagrams with this connection ID are no longer for this link."""

    connection_id: bytes


@dataclass(frozen=True)
class Closed:
    """The link is over. Nothing follows."""

    code: CloseCode
    reason: str
    by_peer: bool


Event = (
    Proved
    | StreamOpened
    | StreamAccepted
    | StreamData
    | StreamReset
    | StreamSendable
    | Datagram
    | ControlFrame
    | PingAnswered
    | ConnectionIDAdded
    | ConnectionIDRemoved
    | Closed
)

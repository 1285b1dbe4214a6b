"""
The values of a link: what happens on it (`Event`), its path and status, close codes, errors, limits, and the
names of streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

from punch.identity import PeerID
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit

MAX_DATAGRAM = 1100
"""The largest unreliable datagram in bytes: a larger one does not fit into a 1,200-byte QUIC packet."""
MAX_REASON = 256
"""The longest close reason in bytes of UTF-8."""
INITIAL_CREDIT = 16 * 1024
"""
How many bytes each side may send on a stream before the other has granted credit, so that a first message
costs no round trip.
"""


MAX_NAME: Final = 255
"""The longest name of a stream in bytes of UTF-8."""


def encode_name(name: str) -> bytes:
    """
    Return the bytes with which a stream begins: length (1 byte) ‖ name (UTF-8).

    :raise ValueError: the name is empty, or longer than 255 bytes.
    """
    data = name.encode("utf-8")
    if not 1 <= len(data) <= MAX_NAME:
        raise ValueError("a stream's name has 1 to 255 bytes of UTF-8")
    return bytes([len(data)]) + data


class LinkRole(Enum):
    """Which side called. The caller is the QUIC client, whatever the ICE roles are."""

    CALLER = 1
    CALLEE = 2


class LinkState(Enum):
    """
    WAITING: no connection has proved itself. OPEN: one has. CLOSING: the other side was told that the link
    ends, and has not answered. CLOSED: the link has ended.
    """

    WAITING = "waiting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class CloseCode(IntEnum):
    """Why a link ended. The number is sent to the other side."""

    OK = 0
    """It was closed normally."""
    REPLACED = 1
    """A newer link with the same peer took over."""
    PROTOCOL = 2
    """The other side violated the protocol or exceeded a limit."""
    PROOF = 3
    """The other side could not prove its identity."""
    TIMEOUT = 4
    """The link was not secured in time."""
    LOST = 5
    """No path is left, or the other side no longer answers."""
    REFUSED = 6
    """This connection is not wanted, for example because another one was first."""
    INTERNAL = 7
    """An internal error on the side that closed."""
    SHUTDOWN = 8
    """The process of the side that closed ends."""


class LinkError(Exception):
    """A link can't do what was requested; `str()` is a sentence."""


class StreamLimitError(LinkError):
    """Too many streams are open on this link at once."""


FIRST_APPLICATION_CODE = 256
"""
The first of the codes with which applications may give up streams. Each protocol on streams has its own.
"""


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
    """Limits on what the other side can use. Sizes are in bytes, times in seconds."""

    streams: int = 1024
    """How many streams each side may have open (the QUIC library may allow fewer)."""
    unproved: int = 4
    """How many unproved connections there may be."""
    unproved_seconds: float = 5.0
    """The time from a caller's first Initial to its proof, if round trips are short."""
    slowest_seconds: float = 25.0
    """The same time if round trips are long."""
    unproved_bytes: int = 64 * 1024
    """How many bytes an unproved connection may send."""
    prove_seconds: float = 20.0
    """The time from `LinkCore.start` until a connection must be proved."""
    header_seconds: float = 10.0
    """The time from a stream's first byte to the end of its name."""
    close_seconds: float = 1.0
    """How long an orderly close waits for the other side."""
    early_bytes: int = 24 * 1024
    """
    How many bytes a caller sends on its streams before the callee has accepted its proof. It is far below
    `unproved_bytes`.
    """
    max_window: int = 4 * 1024 * 1024
    """How many bytes of one stream may be under way or unread."""
    total_window: int = 16 * 1024 * 1024
    """The same for all streams of a link, in addition to the initial credit of each."""


@dataclass(frozen=True)
class Path:
    """
    The selected pair of a link as applications see it. Two paths are equal whatever their round-trip times
    are.

    :ivar kind: "host", "srflx", "prflx" or "relay", as `Pair.path`.
    :ivar local: the address that the peer sees us as.
    :ivar remote: the peer's address.
    :ivar protocol: the transport protocol, "udp" or "tcp". It is "udp" with a relay, however that is reached.
    :ivar rtt: the round-trip time in seconds, 0 while it is unknown.
    """

    kind: str
    local: Address
    remote: Address
    protocol: str
    rtt: float = field(compare=False)


@dataclass(frozen=True)
class LinkStatus:
    """
    The state of a link that has been connected. It changes with the events of the node about the link.

    :ivar path: its path, or the last one.
    :ivar since: when the link came up, in seconds since 1970.
    :ivar disconnected: the path is lost; the link waits for another one.
    :ivar slowed: the limit because of which a relay, ours or the other side's, drops datagrams of it now;
        None: none does.
    :ivar post_quantum: its keys were agreed with X25519MLKEM768 (`Link.post_quantum`).
    :ivar post_quantum_offers: the offer and the answer of its call were sealed with ML-KEM-768 as well as
        X25519 (`Signaling.post_quantum`).
    """

    path: Path
    since: float
    disconnected: bool = False
    post_quantum: bool = False
    post_quantum_offers: bool = False
    slowed: RelayLimit | None = None


@dataclass(frozen=True)
class Proved:
    """The other side has proved that it is `remote`. Streams and datagrams can be used from now on."""

    remote: PeerID


@dataclass(frozen=True)
class StreamOpened:
    """The other side opened a stream to the service `name`."""

    stream_id: int
    name: str


@dataclass(frozen=True)
class StreamAccepted:
    """The other side has accepted a stream that we opened: a service answers there."""

    stream_id: int


@dataclass(frozen=True)
class StreamData:
    """
    Bytes of a stream arrived, in order; with `fin` they are the last. Call `LinkCore.consumed` when they are
    used.
    """

    stream_id: int
    data: bytes
    fin: bool


@dataclass(frozen=True)
class StreamReset:
    """The other side aborted the stream in both directions."""

    stream_id: int
    code: int


@dataclass(frozen=True)
class StreamSendable:
    """The stream was full and has room again."""

    stream_id: int


@dataclass(frozen=True)
class Datagram:
    """An unreliable datagram arrived."""

    data: bytes


@dataclass(frozen=True)
class ControlFrame:
    """A control frame for a layer above arrived, such as new candidates or an ICE restart."""

    frame_type: int
    payload: bytes


@dataclass(frozen=True)
class PingAnswered:
    """The other side has answered a `LinkCore.ping`."""


@dataclass(frozen=True)
class ConnectionIDAdded:
    """Datagrams with this connection ID are for this link from now on."""

    connection_id: bytes


@dataclass(frozen=True)
class ConnectionIDRemoved:
    """Datagrams with this connection ID are no longer for this link."""

    connection_id: bytes


@dataclass(frozen=True)
class LinkClosed:
    """
    The link has ended. No event follows.

    :ivar reason: a sentence that says why, at most `MAX_REASON` bytes; may be empty.
    :ivar by_peer: whether the other side ended it.
    """

    code: CloseCode
    reason: str
    by_peer: bool = False


class LinkClosedError(LinkError):
    """The link ended before it was proved; `closed` says how."""

    def __init__(self, closed: LinkClosed) -> None:
        super().__init__(closed.reason or f"The link was closed ({closed.code.name.lower()}).")
        self.closed = closed


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
    | LinkClosed
)

"""
The interface of a QUIC library (RFC 9000) as the rest of the link uses it, and the values that all of them
are configured with.

What the rest of the link relies on, and neither library's documentation says:

- QUIC is always given one constant peer address; which path a datagram really takes is decided elsewhere.
  Both libraries would otherwise validate paths on their own, of which qh3 keeps four and aioquic's client
  none.
- Datagrams have 1,200 bytes, and probing for more is off: QUIC doesn't see a path change to a smaller size.
- The idle timeout is seven days: whether a link is dead is decided above QUIC, which would be wrong after a
  sleep.
- An Ed25519 certificate is accepted only if the client lists the algorithm, and `CERT_NONE` still checks the
  handshake's signature; whose certificate it is, the link checks itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from punch.link.proof import LinkCertificate
from punch.link.receive_limits import LimitExceeded
from punch.wire.address import FULL_SIZE

ALPN: Final = "punch-link/1"
DATAGRAM_SIZE: Final = FULL_SIZE
IDLE_TIMEOUT: Final = 7 * 86400.0
CONNECTION_WINDOW: Final = 24 * 1024 * 1024
"""
QUIC's own flow control, in bytes; both libraries renew it on arrival, so it only bounds what is out of order.
It is above the largest window of credits, which is the limit that counts.
"""
STREAM_WINDOW: Final = 6 * 1024 * 1024
MAX_DATAGRAM_FRAME: Final = 1200
INITIAL_RTT: Final = 0.2
"""
Seconds; a path that ICE has found has answered well within the 333 ms that RFC 9002 assumes of an unknown
one.
"""
KEY_UPDATE_AFTER: Final = 1 << 22
"""
Packets sent under one key, half of what RFC 9001, section 6.6, allows with AES-GCM: some five gigabytes.
Neither library counts.
"""
LOGICAL_ADDRESS: Final = ("192.0.2.1", 443)
VERSION_1: Final = 1

# With no handler of its own, what the libraries log would go to stderr, in the middle of somebody's chat.
logging.getLogger("quic").addHandler(logging.NullHandler())


class QuicError(Exception):
    """
    The QUIC library failed on a connection, which is of no more use; `str()` says why.

    What a library raises while it is asked for something (to send, to reset) is kept, and raised as this by
    the next call that drives the connection; `get_timer` is then due at once.
    """


class QuicStreamLimit(Exception):
    """The other side allows no more streams now."""


class Flight(NamedTuple):
    """What a connection has on the way, in bytes of whole packets, and what still waits in the library."""

    in_flight: int
    """Bytes sent that are neither acknowledged nor lost."""
    window: int
    """Bytes that the congestion controller allows in flight."""
    unsent: int
    """Bytes of all streams that have not been sent for the first time."""
    rtt: float | None
    """The latest round-trip time in seconds, once known."""


class QuicSink(Protocol):
    """Who is told what happened on a connection, in order, by `QuicConnection.deliver`."""

    def on_handshake(self, alpn: str | None, resumed: bool) -> None:
        """TLS is done. `resumed`: from a ticket, or with early data; such a connection proves nothing."""

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """The next bytes of a stream."""

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        """The other side won't send more (RESET_STREAM), or wants no more (STOP_SENDING)."""

    def on_datagram(self, data: bytes) -> None:
        """An unreliable message (RFC 9221)."""

    def on_ping_answered(self) -> None:
        """The other side acknowledged a ping of ours."""

    def on_connection_id(self, connection_id: bytes, added: bool) -> None:
        """A connection ID of ours came into use, or went out of it."""

    def on_terminated(self, code: int, application: bool, reason: str) -> None:
        """The connection is over; `application`: closed with a code of ours, else by QUIC itself."""


class QuicConnection(Protocol):
    """
    One QUIC connection, sans I/O. `now` is in monotonic seconds. What is asked of a connection or stream that
    is over has no effect.
    """

    connection_id: bytes
    """The first of our own connection IDs."""

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        """
        Datagrams of any content; what is not for this connection is ignored.

        :raise QuicError: something in them was too much for the library.
        :raise LimitExceeded: the other side sent more of something than it may (see `receive_limits.py`).
        """

    def deliver(self, sink: QuicSink) -> None:
        """
        Tell what happened since the last time.

        :raise QuicError: the library failed.
        :raise LimitExceeded: it was more than the other side may send.
        """

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """
        What may be sent now, at most 1,200 bytes each.

        :raise QuicError: the library failed.
        """

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""

    def handle_timer(self, now: float) -> None:
        """
        Do what is due.

        :raise QuicError: the library failed.
        """

    def open_stream(self) -> int:
        """
        The ID of a new bidirectional stream.

        :raise QuicStreamLimit: the other side allows no more at once, or the library refuses.
        """

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        """Queue bytes on a stream."""

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that have not been sent for the first time."""

    def flight(self) -> Flight:
        """What is on the way; nothing, and no room, once the connection is over."""

    def reset(self, stream_id: int, code: int) -> None:
        """Give up a stream in both directions. Nothing happens if it is over already."""

    def send_datagram(self, data: bytes) -> None:
        """Queue an unreliable message."""

    def ping(self) -> None:
        """Send something that must be acknowledged."""

    def close(self, code: int, reason: str) -> None:
        """Close at once, with an application's code."""

    def peer_certificate(self) -> bytes | None:
        """The other side's certificate (DER)."""

    def binding(self) -> bytes:
        """`B` of the link proof; once, after the handshake."""

    def discard(self) -> None:
        """Free all that the library keeps: the connection is over, and nothing more is asked of it."""

    def erase_secrets(self) -> None:
        """Forget the secrets of the binding."""

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds, once known."""

    @property
    def losses(self) -> int:
        """Grows when packets are declared lost, or when nothing is acknowledged for a probe timeout."""


class QuicBackend(Protocol):
    """A QUIC library."""

    name: str

    def client(self, now: float) -> QuicConnection:
        """
        A connection that begins its handshake.

        :raise QuicError: the library failed.
        """

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        """
        A connection for a client's first Initial, whose destination connection ID is given.

        :raise QuicError: the library failed.
        """


def as_quic_error(error: BaseException) -> QuicError:
    """
    What a library raised, as an error of the adapter: they raise whatever they stumble over, and a panic of
    qh3 is no `Exception`.

    :raise KeyboardInterrupt, SystemExit: it was one.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return QuicError(f"{type(error).__name__}: {error}")


class _LibraryErrors:
    """A context manager of its own, since a generator's costs as much as a packet."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, (QuicError, LimitExceeded)):
            raise as_quic_error(error) from error


_LIBRARY_ERRORS: Final = _LibraryErrors()


def library_errors() -> _LibraryErrors:
    """Whatever a library raises inside becomes a `QuicError`."""
    return _LIBRARY_ERRORS

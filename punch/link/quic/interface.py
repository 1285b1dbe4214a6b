"""
QUIC connections (RFC 9000): the interface that the rest of a link uses, and the code that both libraries
share, since qh3 follows aioquic's API. `qh3.py` and `aioquic.py` have what differs.

What a link relies on, and neither library's documentation says:

- QUIC is always given one constant peer address, and the path that a datagram takes is decided elsewhere.
  Both libraries would otherwise validate paths on their own, of which qh3 keeps four and aioquic's client
  none.
- Datagrams have 1,200 bytes, and probing for more is off: QUIC does not see a path change to a smaller size.
- The idle timeout is seven days. Whether a link is dead is decided above QUIC, which would be wrong after a
  sleep.
- An Ed25519 certificate is accepted only if the client lists the algorithm. `CERT_NONE` still checks the
  signature of the handshake; the link itself checks whose certificate it is.
"""

from __future__ import annotations

import itertools
import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from punch.link.proof import LinkCertificate, SecretsLog
from punch.link.quic.receive_limits import LimitExceeded, ReceiveLimits
from punch.net.send_window import Flight
from punch.wire.address import FULL_SIZE

T = TypeVar("T")

ALPN: Final = "punch-link/1"
DATAGRAM_SIZE: Final = FULL_SIZE
MAX_RECEIVED: Final = 1472
"""
Bytes of the largest datagram that is taken: what one packet of an Ethernet carries. A peer may send larger
ones in fragments, of which each has tens of thousands of frames.
"""
IDLE_TIMEOUT: Final = 7 * 86400.0
"""Seconds. It is this long because whether a link is dead is decided above QUIC, which cannot see paths."""
CONNECTION_WINDOW: Final = 24 * 1024 * 1024
"""
QUIC's own flow control, in bytes; both libraries renew it on arrival, so it only bounds what is out of order.
It is above the windows of credits, which are the limit that counts, of some 500 streams. With more, a sender
may have to wait for what is out of order, and for nothing else.
"""
STREAM_WINDOW: Final = 6 * 1024 * 1024
MAX_STREAMS: Final = 1024
"""
How many streams the other side may have open with qh3. aioquic, which goes through all of them for each
packet, keeps its own number, 128.
"""
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

# Without a handler, what the libraries log would go to stderr, in the middle of a chat.
logging.getLogger("quic").addHandler(logging.NullHandler())


class QuicError(Exception):
    """
    The QUIC library failed on a connection, which is of no more use; `str()` says why.

    What a library raises while it is asked for something (to send, to reset) is kept, and raised as this by
    the next `deliver` or `handle_timer`; `get_timer` is then due at once.
    """


class QuicStreamLimit(Exception):
    """The other side allows no more streams now."""


class QuicSink(Protocol):
    """
    Is told, in order, what happened on a connection. It is a `Connection`, or, once that is proved, its
    `StreamMultiplexer`.
    """

    def on_handshake(self, alpn: str | None, resumed: bool) -> None:
        """TLS is done. `resumed`: with a ticket or early data; such a connection proves nothing."""

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        """The next bytes of a stream."""

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        """The other side sends no more (RESET_STREAM), or wants no more (STOP_SENDING)."""

    def on_datagram(self, data: bytes) -> None:
        """An unreliable message (RFC 9221)."""

    def on_ping_answered(self) -> None:
        """The other side acknowledged a ping of ours."""

    def on_connection_id(self, connection_id: bytes, added: bool) -> None:
        """A connection ID of ours came into use, or is no longer used."""

    def on_terminated(self, code: int, application: bool, reason: str) -> None:
        """The connection has ended; `application`: with a code of an application, else of QUIC itself."""


def as_quic_error(error: BaseException) -> QuicError:
    """
    Return what a library raised as a `QuicError`. The libraries raise errors of any kind, and a panic of qh3
    is not even an `Exception`.

    :raise KeyboardInterrupt, SystemExit: it was one.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return QuicError(f"{type(error).__name__}: {error}")


@contextmanager
def library_errors() -> Iterator[None]:
    """Raise what a library raises as a `QuicError`. This takes too long to be done for each packet."""
    try:
        yield
    except BaseException as error:
        raise as_quic_error(error) from error


NO_FLIGHT: Final = Flight(0, 0, 0, None)
"""What is in flight on a connection that is over."""


class _Discarded:
    """Takes the place of a library's connection that is no longer used."""

    def __getattr__(self, name: str) -> None:
        return None


class QuicConnection(ABC):
    """
    One QUIC connection, sans I/O. `now` is in monotonic seconds. What is asked of a connection or stream that
    is over has no effect.

    There is a subclass for each library. The library's objects are `Any`, since one class can't be typed
    against both.

    :param library: the library's own connection, whose settings are `common_settings` and its own.
    :param events: the library's module of events.
    :param refusals: what the library raises if a connection, or that direction of a stream, is over.
    :param limits: counts what `receive` processes, and what is sent.
    :ivar connection_id: the first of our own connection IDs.
    :ivar configuration: the library's settings for it.
    :ivar post_quantum: whether the keys were agreed with X25519MLKEM768, so that who records the packets
        can't read them with a quantum computer later; False before the handshake is done.
    :ivar packets_sent: since the last update of the keys.
    :ivar discarded: whether the library keeps nothing of it any more.
    """

    key_update_after = KEY_UPDATE_AFTER

    def __init__(
        self, library: Any, events: Any, refusals: tuple[type[Exception], ...], limits: ReceiveLimits
    ) -> None:
        self.library = library
        self.limits = limits
        self.configuration = library.configuration
        self.connection_id: bytes = library.host_cid
        self._secrets: SecretsLog = self.configuration.secrets_log_file
        self._refusals = refusals
        self._stream_data = events.StreamDataReceived
        self._handlers = {
            events.HandshakeCompleted: self._handshake,
            events.StreamReset: self._reset,
            events.StopSendingReceived: self._stop_sending,
            events.DatagramFrameReceived: self._datagram,
            events.PingAcknowledged: self._ping_answered,
            events.ConnectionIdIssued: lambda event, sink: sink.on_connection_id(event.connection_id, True),
            events.ConnectionIdRetired: lambda event, sink: sink.on_connection_id(event.connection_id, False),
            events.ConnectionTerminated: self._terminated,
        }
        self.packets_sent = 0
        self.post_quantum = False
        self._uids = itertools.count(1)
        self._probes: set[int] = set()
        self._failure: QuicError | None = None
        self._failure_told = False
        self.discarded = False

    def discard(self) -> None:
        """Free everything that the library keeps: the connection is over and no longer used."""
        if self.discarded:
            return
        # Not left to Python's garbage collector: it counts objects, and what the library keeps is few, but up
        # to 24 MiB large. qh3's object refers to itself.
        self.discarded = True
        vars(self.library).clear()
        self.library = _Discarded()

    # What each library does in its way

    @abstractmethod
    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        """
        Process datagrams of any content. Those that are not for this connection, are empty, or are larger
        than `MAX_RECEIVED` are ignored.

        :raise QuicError: something in them was too much for the library.
        :raise LimitExceeded: the other side sent more of something than it may (see `receive_limits.py`).
        """

    @abstractmethod
    def datagrams_to_send(self, now: float) -> list[bytes]:
        """
        Return the datagrams that may be sent now, at most 1,200 bytes each.

        :raise QuicError: the library failed.
        """

    @abstractmethod
    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool) -> None:
        """Queue bytes on a stream."""

    @abstractmethod
    def unsent(self, stream_id: int) -> int:
        """Return how many bytes of a stream have not been sent for the first time."""

    @abstractmethod
    def flight(self) -> Flight:
        """Return what is in flight: nothing, and a window of 0, once the connection is over."""

    @abstractmethod
    def _certificate(self) -> bytes | None:
        """Return the other side's certificate (DER), None before the handshake."""

    @abstractmethod
    def _is_post_quantum(self) -> bool:
        """Return whether the key exchange was X25519MLKEM768."""

    @abstractmethod
    def _smoothed_rtt(self) -> float | None:
        """Return the smoothed round-trip time in seconds, once known."""

    @abstractmethod
    def _loss_count(self) -> int:
        """Return a number that grows with each packet declared lost and each probe timeout."""

    @abstractmethod
    def _count_frames(self, secret: bytes) -> None:
        """Count the frames of packets from now on. `secret` is the traffic secret of the other side."""

    # What is done alike with both

    def deliver(self, sink: QuicSink) -> None:
        """
        Call `sink` with what happened since the last time.

        :raise QuicError: the library failed.
        :raise LimitExceeded: it was more than the other side may send.
        """
        if self.limits.wants_ping():
            # Without an acknowledgement, the libraries forget nothing of what they sent, and they don't ask
            # for one when they send acknowledgements alone.
            self._probes.add(self.ping())
        if self.packets_sent >= self.key_update_after and self._try(self.library.request_key_update):
            self.packets_sent = 0
        # A bulk transfer makes many events. Pieces of a stream are handed on as one, also when streams take
        # turns.
        data: dict[int, list[bytes]] = {}
        events: Sequence[Any] = self._drive((), self._events)
        for event in events:
            kind = type(event)
            if kind is self._stream_data:
                data.setdefault(event.stream_id, []).append(event.data)
                if event.end_stream:
                    self._deliver_data(sink, event.stream_id, data.pop(event.stream_id), True)
                continue
            for stream_id, pieces in data.items():
                self._deliver_data(sink, stream_id, pieces, False)
            data.clear()
            handler = self._handlers.get(kind)
            if handler is not None:
                handler(event, sink)
        for stream_id, pieces in data.items():
            self._deliver_data(sink, stream_id, pieces, False)

    def _events(self) -> Sequence[Any]:
        events = []
        next_event = self.library.next_event
        while (event := next_event()) is not None:
            events.append(event)
        return events

    def _deliver_data(self, sink: QuicSink, stream_id: int, pieces: list[bytes], last: bool) -> None:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.limits.delivered(stream_id, len(data), last, len(pieces))
        sink.on_stream_data(stream_id, data, last)

    def _handshake(self, event: Any, sink: QuicSink) -> None:
        self.post_quantum = self._ask(False, self._is_post_quantum)
        sink.on_handshake(event.alpn_protocol, bool(event.session_resumed or event.early_data_accepted))

    def _reset(self, event: Any, sink: QuicSink) -> None:
        self.limits.forget(event.stream_id)
        sink.on_stream_reset(event.stream_id, event.error_code)

    def _stop_sending(self, event: Any, sink: QuicSink) -> None:
        sink.on_stream_reset(event.stream_id, event.error_code)

    def _datagram(self, event: Any, sink: QuicSink) -> None:
        self.limits.datagram(len(event.data))
        sink.on_datagram(event.data)

    def _ping_answered(self, event: Any, sink: QuicSink) -> None:
        self.limits.answered()
        if event.uid in self._probes:
            self._probes.clear()
        else:
            sink.on_ping_answered()

    def _terminated(self, event: Any, sink: QuicSink) -> None:
        sink.on_terminated(event.error_code, event.frame_type is None, event.reason_phrase)

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        if self.discarded:
            return None
        timer = self._ask(None, self.library.get_timer)
        return 0.0 if self._failure is not None and not self._failure_told else timer

    def handle_timer(self, now: float) -> None:
        """
        Do what is due.

        :raise QuicError: the library failed.
        """
        self._drive(None, self.library.handle_timer, now)

    def open_stream(self) -> int:
        """
        Open a bidirectional stream and return its ID.

        :raise QuicStreamLimit: the other side allows no more at once, or the library refuses.
        """
        stream_id: int | None = self._ask(None, self.library.get_next_available_stream_id)
        if stream_id is None or not self._try(self.library.send_stream_data, stream_id, b"", False):
            raise QuicStreamLimit("no more streams can be opened now")
        return stream_id

    def reset(self, stream_id: int, code: int) -> None:
        """Reset a stream in both directions. Nothing happens if it is over already."""
        self._try(self.library.reset_stream, stream_id, code)
        self._try(self.library.stop_stream, stream_id, code)

    def send_datagram(self, data: bytes) -> None:
        """Queue an unreliable message."""
        self.limits.sent(len(data))
        self._ask(None, self.library.send_datagram_frame, data)

    def ping(self) -> int:
        """Send a PING frame, which the other side has to acknowledge, and return its number."""
        uid = next(self._uids)
        self._try(self.library.send_ping, uid)
        return uid

    def _try(self, operation: Callable[..., object], *arguments: object) -> bool:
        """Call a function of the library; return False if it refuses or fails."""
        refused = object()
        return self._ask(refused, operation, *arguments) is not refused

    def _ask(self, default: T, operation: Callable[..., T], *arguments: object) -> T:
        """
        Return what an operation of the library returns; `default` if it refuses, because the connection or
        stream is over, or fails, which the next `_drive` tells.
        """
        if self.discarded:
            return default
        try:
            return operation(*arguments)
        except BaseException as error:
            self._refused_or_failed(error)
            return default

    def _refused_or_failed(self, error: BaseException) -> None:
        """
        Keep what the library raised in such a call, unless it only refuses because the connection or stream
        is over.
        """
        failure = as_quic_error(error)
        if not self.discarded and not isinstance(error, self._refusals) and self._failure is None:
            self._failure = failure

    def _drive(self, default: T, operation: Callable[..., T], *arguments: object) -> T:
        """
        Return the result of an operation that drives the library; `default` if the connection is discarded.

        :raise QuicError: it failed, or an earlier call did.
        """
        if self.discarded:
            return default
        if self._failure is not None and not self._failure_told:
            self._failure_told = True
            raise self._failure
        try:
            return operation(*arguments)
        except (QuicError, LimitExceeded):
            raise
        except BaseException as error:
            raise as_quic_error(error) from error

    def close(self, code: int, reason: str) -> None:
        """Close the connection at once with an application's code."""
        self._try(self.library.close, code, None, reason)

    def peer_certificate(self) -> bytes | None:
        """Return the other side's certificate (DER), None before the handshake."""
        return self._ask(None, self._certificate)

    def binding(self) -> bytes:
        """
        Return `B` of the link proof, once, after the handshake.

        :raise ProofError: the handshake has not provided the secrets.
        """
        self.configuration.secrets_log_file = None
        secret = self._secrets.receiving(self.configuration.is_client)
        binding = self._secrets.binding()
        if secret is not None:
            self._count_frames(secret)
        return binding

    def erase_secrets(self) -> None:
        """Forget the secrets of the binding."""
        self.configuration.secrets_log_file = None
        self._secrets.erase()

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds, once known."""
        return self._ask(None, self._smoothed_rtt)

    @property
    def losses(self) -> int:
        """Grows when packets are declared lost, or when nothing is acknowledged for a probe timeout."""
        return self._ask(0, self._loss_count)


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


def common_settings(is_client: bool) -> dict[str, Any]:
    """The settings of a connection that both libraries know by the same names."""
    return {
        "alpn_protocols": [ALPN],
        "idle_timeout": IDLE_TIMEOUT,
        "initial_rtt": INITIAL_RTT,
        "is_client": is_client,
        "max_data": CONNECTION_WINDOW,
        "max_stream_data": STREAM_WINDOW,
        "max_datagram_size": DATAGRAM_SIZE,
        "max_datagram_frame_size": MAX_DATAGRAM_FRAME,
        "secrets_log_file": SecretsLog(),
        "supported_versions": [1],
        "verify_mode": ssl.CERT_NONE if is_client else None,
    }

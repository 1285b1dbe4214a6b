"""
The one place that knows a QUIC library (RFC 9000): qh3, behind an interface that `quic_aioquic.py` fills as
well.

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
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from punch.link.certificate import LinkCertificate
from punch.link.proof import SecretsLog

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration

ALPN: Final = "punch-link/1"
DATAGRAM_SIZE: Final = 1200
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
_ED25519: Final = 0x0807
_VERSION_1: Final = 1

# With no handler of its own, what the libraries log would go to stderr, in the middle of somebody's chat.
logging.getLogger("quic").addHandler(logging.NullHandler())


class QuicError(Exception):
    """The QUIC library failed on a connection, which is of no more use; `str()` says why."""


class QuicStreamLimit(Exception):
    """The other side allows no more streams now."""


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
        """

    def deliver(self, sink: QuicSink) -> None:
        """Tell what happened since the last time."""

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """What may be sent now, at most 1,200 bytes each."""

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""

    def handle_timer(self, now: float) -> None: ...

    def open_stream(self) -> int:
        """
        The ID of a new bidirectional stream.

        :raise QuicStreamLimit: the other side allows no more at once.
        """

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        """Queue bytes on a stream."""

    def unsent(self, stream_id: int) -> int:
        """Bytes of a stream that have not been sent for the first time."""

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

    def erase_secrets(self) -> None:
        """Forget the secrets of the binding."""

    @property
    def rtt(self) -> float | None:
        """The smoothed round-trip time in seconds, once known."""


class QuicBackend(Protocol):
    """A QUIC library."""

    name: str

    def client(self, now: float) -> QuicConnection:
        """A connection that begins its handshake."""

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        """A connection for a client's first Initial, whose destination connection ID is given."""


class LibraryConnection(ABC):
    """
    A connection of either library: aioquic's API, which qh3 follows. The library's objects are `Any` here,
    since one class can't be typed against both.
    """

    key_update_after = KEY_UPDATE_AFTER

    def __init__(
        self,
        quic: Any,
        events: Any,
        configuration: Any,
        secrets: SecretsLog,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        self._quic = quic
        self._configuration = configuration
        self._secrets = secrets
        self._stream_data = events.StreamDataReceived
        self._handlers = {
            events.HandshakeCompleted: self._handshake,
            events.StreamReset: self._reset,
            events.StopSendingReceived: self._reset,
            events.DatagramFrameReceived: lambda event, sink: sink.on_datagram(event.data),
            events.PingAcknowledged: lambda event, sink: sink.on_ping_answered(),
            events.ConnectionIdIssued: lambda event, sink: sink.on_connection_id(event.connection_id, True),
            events.ConnectionIdRetired: lambda event, sink: sink.on_connection_id(event.connection_id, False),
            events.ConnectionTerminated: self._terminated,
        }
        self._ping_uid = 0
        self._sent = 0
        self._refusals = refusals
        self.connection_id: bytes = quic.host_cid

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        try:
            self._take_in(datagrams, now)
        except Exception as error:
            # The libraries' parsers raise whatever they stumble over, and not only their own kinds.
            raise QuicError(f"{type(error).__name__}: {error}") from error

    def _take_in(self, datagrams: Sequence[bytes], now: float) -> None:
        for data in datagrams:
            self._quic.receive_datagram(data, LOGICAL_ADDRESS, now)

    def deliver(self, sink: QuicSink) -> None:
        next_event = self._quic.next_event
        stream_data, handlers = self._stream_data, self._handlers
        # A bulk transfer is one event a packet: pieces that follow each other on a stream are handed on as
        # one.
        run: list[bytes] = []
        run_id = -1
        while (event := next_event()) is not None:
            kind = type(event)
            if kind is stream_data:
                if event.stream_id != run_id:
                    if run:
                        sink.on_stream_data(run_id, b"".join(run), False)
                    run, run_id = [], event.stream_id
                run.append(event.data)
                if not event.end_stream:
                    continue
                sink.on_stream_data(run_id, b"".join(run), True)
            else:
                if run:
                    sink.on_stream_data(run_id, b"".join(run), False)
                handler = handlers.get(kind)
                if handler is not None:
                    handler(event, sink)
            run, run_id = [], -1
        if run:
            sink.on_stream_data(run_id, b"".join(run), False)

    def _handshake(self, event: Any, sink: QuicSink) -> None:
        sink.on_handshake(event.alpn_protocol, bool(event.session_resumed or event.early_data_accepted))

    def _reset(self, event: Any, sink: QuicSink) -> None:
        sink.on_stream_reset(event.stream_id, event.error_code)

    def _terminated(self, event: Any, sink: QuicSink) -> None:
        sink.on_terminated(event.error_code, event.frame_type is None, event.reason_phrase)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        datagrams = self._poll(now)
        self._sent += len(datagrams)
        if self._sent >= self.key_update_after and self._try(self._quic.request_key_update):
            self._sent = 0
        return datagrams

    def _poll(self, now: float) -> list[bytes]:
        return [data for data, _ in self._quic.datagrams_to_send(now)]

    def get_timer(self) -> float | None:
        timer: float | None = self._quic.get_timer()
        return timer

    def handle_timer(self, now: float) -> None:
        self._quic.handle_timer(now)

    def open_stream(self) -> int:
        stream_id: int = self._quic.get_next_available_stream_id()
        if not self._try(self._quic.send_stream_data, stream_id, b"", False):
            raise QuicStreamLimit("no more streams can be opened now")
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        self._try(self._quic.send_stream_data, stream_id, data, fin)

    @abstractmethod
    def unsent(self, stream_id: int) -> int: ...

    def reset(self, stream_id: int, code: int) -> None:
        self._try(self._quic.reset_stream, stream_id, code)
        self._try(self._quic.stop_stream, stream_id, code)

    def send_datagram(self, data: bytes) -> None:
        self._try(self._quic.send_datagram_frame, data)

    def ping(self) -> None:
        self._ping_uid += 1
        self._try(self._quic.send_ping, self._ping_uid)

    def _try(self, operation: Callable[..., object], *arguments: object) -> bool:
        """
        Ask something of the library, which refuses it if the connection, or that direction of a stream, is
        over.
        """
        try:
            operation(*arguments)
        except self._refusals:
            return False
        return True

    def close(self, code: int, reason: str) -> None:
        self._try(self._quic.close, code, None, reason)

    @abstractmethod
    def peer_certificate(self) -> bytes | None: ...

    def binding(self) -> bytes:
        self._configuration.secrets_log_file = None
        return self._secrets.binding()

    def erase_secrets(self) -> None:
        self._configuration.secrets_log_file = None
        self._secrets.erase()

    @property
    @abstractmethod
    def rtt(self) -> float | None: ...


class Qh3Connection(LibraryConnection):
    """A connection of qh3."""

    def _take_in(self, datagrams: Sequence[bytes], now: float) -> None:
        # An empty datagram is skipped: it says nothing, and the library has to be told none.
        self._quic.receive_many_datagrams([data for data in datagrams if data], LOGICAL_ADDRESS, now)

    def _poll(self, now: float) -> list[bytes]:
        # The library's own method parses each packet again for a log that nobody reads, which takes a third
        # of a sender's time; this is the rest of that method.
        core = self._quic._core
        if core is None:
            return []
        poll = core.poll_transmit
        datagrams: list[bytes] = []
        while (transmit := poll(now)) is not None:
            datagrams.append(transmit[0])
        return datagrams

    def unsent(self, stream_id: int) -> int:
        size: int = self._quic.get_send_buffer_size(stream_id)
        return size

    def peer_certificate(self) -> bytes | None:
        certificate = self._quic.get_peercert()
        return None if certificate is None else bytes(certificate.public_bytes())

    @property
    def rtt(self) -> float | None:
        # Not public in qh3 2.x, whose version is pinned below 3: the estimate of its recovery, which leaves
        # out the other side's delay before acknowledging, as a measurement from outside could not.
        core = self._quic._core
        rtt: float | None = None if core is None else core.smoothed_rtt
        return rtt


class Qh3Backend:
    """qh3: a QUIC core in Rust."""

    name = "qh3"

    def client(self, now: float) -> QuicConnection:
        from qh3.quic import events
        from qh3.quic.connection import QuicConnection as Library
        from qh3.quic.connection import QuicConnectionError

        secrets = SecretsLog()
        configuration = self._configuration(True, secrets)
        configuration.verify_mode = ssl.CERT_NONE
        configuration.signature_algorithms = [_ED25519]
        quic = Library(configuration=configuration)
        quic.connect(LOGICAL_ADDRESS, now)
        return Qh3Connection(quic, events, configuration, secrets, (QuicConnectionError, ValueError))

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        from qh3.quic import events
        from qh3.quic.connection import QuicConnection as Library
        from qh3.quic.connection import QuicConnectionError

        secrets = SecretsLog()
        configuration = self._configuration(False, secrets)
        configuration.load_cert_chain(certificate.certificate_pem(), certificate.private_key_pem())
        # No ticket handler and no fetcher: the library can then neither issue tickets nor accept one.
        quic = Library(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        return Qh3Connection(quic, events, configuration, secrets, (QuicConnectionError, ValueError))

    def _configuration(self, is_client: bool, secrets: SecretsLog) -> QuicConfiguration:
        from qh3.quic.configuration import QuicConfiguration

        return QuicConfiguration(
            alpn_protocols=[ALPN],
            idle_timeout=IDLE_TIMEOUT,
            initial_rtt=INITIAL_RTT,
            is_client=is_client,
            max_data=CONNECTION_WINDOW,
            max_stream_data=STREAM_WINDOW,
            max_datagram_size=DATAGRAM_SIZE,
            max_datagram_frame_size=MAX_DATAGRAM_FRAME,
            probe_datagram_size=False,
            secrets_log_file=secrets,  # type: ignore[arg-type]  # only write() and flush() are used
            supported_versions=[_VERSION_1],
        )

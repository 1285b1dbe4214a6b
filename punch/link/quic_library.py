"""What the adapters of both QUIC libraries have in common: aioquic's API, which qh3 follows."""

from __future__ import annotations

import itertools
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from punch.link.proof import LinkCertificate, SecretsLog
from punch.link.quic_interface import (
    ALPN,
    CONNECTION_WINDOW,
    DATAGRAM_SIZE,
    IDLE_TIMEOUT,
    INITIAL_RTT,
    KEY_UPDATE_AFTER,
    LOGICAL_ADDRESS,
    MAX_DATAGRAM_FRAME,
    STREAM_WINDOW,
    VERSION_1,
    Flight,
    QuicConnection,
    QuicError,
    QuicSink,
    QuicStreamLimit,
    as_quic_error,
    library_errors,
)
from punch.link.receive_limits import PING_EVERY, ReceiveLimits

_NO_FLIGHT = Flight(0, 0, 0, None)


class _Discarded:
    """Takes the place of a library's connection that nothing is asked of any more."""

    def __getattr__(self, name: str) -> None:
        return None


class LibraryConnection(ABC):
    """
    A connection of either library. The library's objects are `Any` here, since one class can't be typed
    against both.

    :ivar library: the library's own connection.
    :ivar configuration: the library's settings for it.
    """

    key_update_after = KEY_UPDATE_AFTER

    def __init__(
        self,
        quic: Any,
        events: Any,
        configuration: Any,
        secrets: SecretsLog,
        refusals: tuple[type[Exception], ...],
        limits: ReceiveLimits,
    ) -> None:
        self.library = quic
        self.configuration = configuration
        self._secrets = secrets
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
        self._limits = limits
        self._now = 0.0
        self._uids = itertools.count(1)
        self._probes: set[int] = set()
        self._since_probe = 0
        self._sent = 0
        self._refusals = refusals
        self._failure: QuicError | None = None
        self._failure_told = False
        self._discarded = False
        self.connection_id: bytes = quic.host_cid

    def discard(self) -> None:
        if self._discarded:
            return
        # Not left to Python's garbage collector: it counts objects, and what the library keeps is few, but up
        # to 24 MiB large. qh3's object refers to itself.
        self._discarded = True
        vars(self.library).clear()
        self.library = _Discarded()

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        self._now = now
        if self._discarded:
            return
        self._tell_failure()
        with library_errors():
            self._take_in(datagrams, now)

    @abstractmethod
    def _take_in(self, datagrams: Sequence[bytes], now: float) -> None: ...

    def _arrived(self, packets: int, events: int) -> None:
        """
        So many packets came, authentic and new, and made so many events. Now and then one of ours asks for an
        acknowledgement: without one, the libraries forget nothing of what they sent, and they don't ask when
        they send acknowledgements alone.
        """
        self._limits.packets(packets, self._now)
        self._limits.events(events, self._now)
        self._since_probe += packets
        if self._since_probe >= PING_EVERY:
            self._since_probe = 0
            self._probes.add(self._ping())

    def deliver(self, sink: QuicSink) -> None:
        if self._discarded:
            return
        self._tell_failure()
        # A bulk transfer is one event a packet: pieces of a stream are handed on as one, also when streams
        # take turns.
        data: dict[int, list[bytes]] = {}
        events = self._events()
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

    def _events(self) -> list[Any]:
        events = []
        next_event = self.library.next_event
        with library_errors():
            while (event := next_event()) is not None:
                events.append(event)
        return events

    def _deliver_data(self, sink: QuicSink, stream_id: int, pieces: list[bytes], last: bool) -> None:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._limits.delivered(stream_id, len(data), last, len(pieces))
        sink.on_stream_data(stream_id, data, last)

    def _handshake(self, event: Any, sink: QuicSink) -> None:
        sink.on_handshake(event.alpn_protocol, bool(event.session_resumed or event.early_data_accepted))

    def _reset(self, event: Any, sink: QuicSink) -> None:
        self._limits.forget(event.stream_id)
        sink.on_stream_reset(event.stream_id, event.error_code)

    def _stop_sending(self, event: Any, sink: QuicSink) -> None:
        sink.on_stream_reset(event.stream_id, event.error_code)

    def _datagram(self, event: Any, sink: QuicSink) -> None:
        self._limits.datagram(len(event.data))
        sink.on_datagram(event.data)

    def _ping_answered(self, event: Any, sink: QuicSink) -> None:
        self._limits.answered()
        if event.uid in self._probes:
            self._probes.clear()
        else:
            sink.on_ping_answered()

    def _terminated(self, event: Any, sink: QuicSink) -> None:
        sink.on_terminated(event.error_code, event.frame_type is None, event.reason_phrase)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        if self._discarded:
            return []
        self._tell_failure()
        datagrams: list[bytes] = []
        with library_errors():
            self._poll(now, datagrams)
        self._sent += len(datagrams)
        if self._sent >= self.key_update_after and self._try(self.library.request_key_update):
            self._sent = 0
        return datagrams

    def _poll(self, now: float, datagrams: list[bytes]) -> None:
        """Append what the library has to send."""
        datagrams += [data for data, _ in self.library.datagrams_to_send(now)]

    def get_timer(self) -> float | None:
        if self._discarded:
            return None
        timer: float | None = self._ask(None, self.library.get_timer)
        return 0.0 if self._failure is not None and not self._failure_told else timer

    def handle_timer(self, now: float) -> None:
        self._now = now
        if self._discarded:
            return
        self._tell_failure()
        with library_errors():
            self.library.handle_timer(now)

    def open_stream(self) -> int:
        stream_id: int | None = self._ask(None, self.library.get_next_available_stream_id)
        if stream_id is None or not self._try(self.library.send_stream_data, stream_id, b"", False):
            raise QuicStreamLimit("no more streams can be opened now")
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        self._limits.sent(len(data))
        self._try(self.library.send_stream_data, stream_id, data, fin)

    def unsent(self, stream_id: int) -> int:
        size: int = self._ask(0, self._unsent, stream_id)
        return size

    @abstractmethod
    def _unsent(self, stream_id: int) -> int: ...

    def flight(self) -> Flight:
        flight: Flight = self._ask(_NO_FLIGHT, self._flight)
        return flight

    @abstractmethod
    def _flight(self) -> Flight: ...

    def reset(self, stream_id: int, code: int) -> None:
        self._try(self.library.reset_stream, stream_id, code)
        self._try(self.library.stop_stream, stream_id, code)

    def send_datagram(self, data: bytes) -> None:
        self._limits.sent(len(data))
        self._try(self.library.send_datagram_frame, data)

    def ping(self) -> None:
        self._ping()

    def _ping(self) -> int:
        uid = next(self._uids)
        self._try(self.library.send_ping, uid)
        return uid

    def _try(self, operation: Callable[..., object], *arguments: object) -> bool:
        """
        Ask something of the library, which refuses it if the connection, or that direction of a stream, is
        over. False if it did, or failed, which the next call tells.
        """
        if self._discarded:
            return False
        try:
            operation(*arguments)
        except self._refusals:
            return False
        except BaseException as error:
            self._keep(error)
            return False
        return True

    def _ask(self, default: Any, operation: Callable[..., Any], *arguments: object) -> Any:
        """What an operation of the library returns; `default` if it refuses or fails."""
        if self._discarded:
            return default
        try:
            return operation(*arguments)
        except self._refusals:
            return default
        except BaseException as error:
            self._keep(error)
            return default

    def _keep(self, error: BaseException) -> None:
        failure = as_quic_error(error)
        if self._failure is None:
            self._failure = failure

    def _tell_failure(self) -> None:
        if self._failure is not None and not self._failure_told:
            self._failure_told = True
            raise self._failure

    def close(self, code: int, reason: str) -> None:
        self._try(self.library.close, code, None, reason)

    def peer_certificate(self) -> bytes | None:
        certificate: bytes | None = self._ask(None, self._peer_certificate)
        return certificate

    @abstractmethod
    def _peer_certificate(self) -> bytes | None: ...

    def binding(self) -> bytes:
        self.configuration.secrets_log_file = None
        return self._secrets.binding()

    def erase_secrets(self) -> None:
        self.configuration.secrets_log_file = None
        self._secrets.erase()

    @property
    def rtt(self) -> float | None:
        rtt: float | None = self._ask(None, self._smoothed_rtt)
        return rtt

    @abstractmethod
    def _smoothed_rtt(self) -> float | None: ...

    @property
    def losses(self) -> int:
        losses: int = self._ask(0, self._losses)
        return losses

    @abstractmethod
    def _losses(self) -> int: ...


def common_settings(is_client: bool, secrets: SecretsLog) -> dict[str, Any]:
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
        "secrets_log_file": secrets,
        "supported_versions": [VERSION_1],
    }


class LibraryBackend(ABC):
    """Makes connections of either library (`QuicBackend`)."""

    def client(self, now: float) -> QuicConnection:
        secrets = SecretsLog()
        with library_errors():
            configuration = self.configuration(True, secrets)
            configuration.verify_mode = ssl.CERT_NONE
            quic = self._library().QuicConnection(configuration=configuration)
            quic.connect(LOGICAL_ADDRESS, now)
        return self._connection(quic, configuration, secrets)

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        secrets = SecretsLog()
        with library_errors():
            configuration = self.configuration(False, secrets)
            self._load_certificate(configuration, certificate)
            # Without ticket handler and fetcher, the library can neither issue tickets nor accept one
            quic = self._library().QuicConnection(
                configuration=configuration,
                original_destination_connection_id=original_destination_connection_id,
            )
        return self._connection(quic, configuration, secrets)

    @abstractmethod
    def configuration(self, is_client: bool, secrets: SecretsLog) -> Any:
        """The library's configuration of a connection."""

    @abstractmethod
    def _library(self) -> Any:
        """The library's module that has `QuicConnection`, imported when it is needed."""

    @abstractmethod
    def _connection(self, quic: Any, configuration: Any, secrets: SecretsLog) -> QuicConnection: ...

    @abstractmethod
    def _load_certificate(self, configuration: Any, certificate: LinkCertificate) -> None: ...

"""
The QUIC adapter over aioquic (the `punch[aioquic]` extra; needs Python 3.11): pure Python, slower, and a
second opinion.
"""

from __future__ import annotations

from typing import Any, Final

from punch.link.packet import Frame, QuicFrameType
from punch.link.proof import LinkCertificate, SecretsLog
from punch.link.quic import LOGICAL_ADDRESS, Flight, LibraryBackend, QuicConnection, common_settings
from punch.link.receive_limits import ReceiveLimits

MOST_GAPS: Final = 4096
"""Gaps in streams: the library goes through all of them for each piece that arrives."""
_ONE_RTT: Final = "1RTT"
_CONTROL: Final = Frame(QuicFrameType.PING)


class FrameTrace:
    """
    What aioquic calls a logger of one connection, which it tells of every packet and frame: here, of
    received and lost ones, so that they can be counted.

    :ivar lost: the number of packets that were declared lost.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._packets: list[list[Frame]] = []

    def take(self) -> list[list[Frame]]:
        """The frames of each authentic new packet since the last time."""
        packets, self._packets = self._packets, []
        return packets

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """Something happened; the frames of a packet are added to its list afterwards."""
        if event == "packet_received" and data["header"]["packet_type"] == _ONE_RTT:
            self._packets.append(data["frames"])
        elif event == "packet_lost":
            self.lost += 1

    def packet_type(self, packet_type: Any) -> str:
        from aioquic.quic.packet import QuicPacketType

        return _ONE_RTT if packet_type is QuicPacketType.ONE_RTT else ""

    def encode_time(self, seconds: float) -> float:
        return seconds

    def encode_ack_frame(self, ranges: Any, delay: float) -> Frame:
        return Frame(QuicFrameType.ACK, len(ranges))

    def encode_connection_close_frame(self, **fields: Any) -> Frame:
        return _CONTROL

    def encode_connection_limit_frame(self, frame_type: int, maximum: int) -> Frame:
        return _CONTROL

    def encode_crypto_frame(self, frame: Any) -> Frame:
        return Frame(QuicFrameType.CRYPTO, len(frame.data))

    def encode_data_blocked_frame(self, limit: int) -> Frame:
        return _CONTROL

    def encode_datagram_frame(self, length: int) -> Frame:
        return Frame(QuicFrameType.DATAGRAM, length)

    def encode_handshake_done_frame(self) -> Frame:
        return Frame(QuicFrameType.HANDSHAKE_DONE)

    def encode_max_stream_data_frame(self, maximum: int, stream_id: int) -> Frame:
        return _CONTROL

    def encode_new_connection_id_frame(self, sequence_number: int, **fields: Any) -> Frame:
        return Frame(QuicFrameType.NEW_CONNECTION_ID, offset=sequence_number)

    def encode_new_token_frame(self, token: bytes) -> Frame:
        return Frame(QuicFrameType.NEW_TOKEN, len(token))

    def encode_padding_frame(self) -> Frame:
        return Frame(QuicFrameType.PADDING)

    def encode_path_challenge_frame(self, data: bytes) -> Frame:
        return Frame(QuicFrameType.PATH_CHALLENGE)

    def encode_path_response_frame(self, data: bytes) -> Frame:
        return Frame(QuicFrameType.PATH_RESPONSE)

    def encode_ping_frame(self) -> Frame:
        return _CONTROL

    def encode_reset_stream_frame(self, **fields: Any) -> Frame:
        return _CONTROL

    def encode_retire_connection_id_frame(self, sequence_number: int) -> Frame:
        return Frame(QuicFrameType.RETIRE_CONNECTION_ID, offset=sequence_number)

    def encode_stop_sending_frame(self, **fields: Any) -> Frame:
        return _CONTROL

    def encode_stream_frame(self, frame: Any, stream_id: int) -> Frame:
        return Frame(QuicFrameType.STREAM, len(frame.data), stream_id, frame.offset, frame.fin)

    def encode_stream_data_blocked_frame(self, limit: int, stream_id: int) -> Frame:
        return _CONTROL

    def encode_streams_blocked_frame(self, **fields: Any) -> Frame:
        return _CONTROL

    def encode_transport_parameters(self, **fields: Any) -> dict[str, Any]:
        return {}


class FrameLog:
    """What aioquic calls a logger, for one connection."""

    def __init__(self) -> None:
        self.trace = FrameTrace()

    def start_trace(self, is_client: bool, odcid: bytes) -> FrameTrace:
        return self.trace

    def end_trace(self, trace: FrameTrace) -> None:
        return


class AioquicConnection(QuicConnection):
    """
    A connection of aioquic. What this link needs and aioquic doesn't offer is read from its private parts
    here.
    """

    def __init__(
        self,
        quic: Any,
        events: Any,
        configuration: Any,
        secrets: SecretsLog,
        refusals: tuple[type[Exception], ...],
    ) -> None:
        limits = ReceiveLimits(MOST_GAPS, joins=True)
        super().__init__(quic, events, configuration, secrets, refusals, limits)
        log = configuration.quic_logger
        self._trace = log.trace if isinstance(log, FrameLog) else FrameTrace()

    def _take_in(self, datagrams: list[bytes], now: float) -> None:
        for data in datagrams:
            self.library.receive_datagram(data, LOGICAL_ADDRESS, now)
            packets = self._trace.take()
            if packets:
                self._arrived(len(packets), 0)
                for frames in packets:
                    self._limits.events(len(frames), now)
                    self._limits.frames(frames, now)

    def _poll(self, now: float) -> list[bytes]:
        # A server has no path before the first datagram, for which the library is not prepared.
        return super()._poll(now) if self.library._network_paths else []

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        super().send(stream_id, bytes(data), fin)

    def _unsent(self, stream_id: int) -> int:
        stream = self.library._streams.get(stream_id)
        return 0 if stream is None else sum(len(pending) for pending in stream.sender._pending)

    def _flight(self) -> Flight:
        loss = self.library._loss
        unsent = sum(map(self._unsent, self.library._streams))
        rtt = float(loss._rtt_latest) if loss._rtt_initialized else None
        return Flight(loss.bytes_in_flight, loss.congestion_window, unsent, rtt)

    def _peer_certificate(self) -> bytes | None:
        from cryptography.hazmat.primitives.serialization import Encoding

        certificate = self.library.tls._peer_certificate
        return None if certificate is None else bytes(certificate.public_bytes(Encoding.DER))

    def _losses(self) -> int:
        return self._trace.lost + int(self.library._loss._pto_count)

    def _smoothed_rtt(self) -> float | None:
        loss = self.library._loss
        return float(loss._rtt_smoothed) if loss._rtt_initialized else None


class AioquicBackend(LibraryBackend):
    """aioquic."""

    name = "aioquic"

    def _library(self) -> Any:
        from aioquic.quic import connection

        return connection

    def _connection(self, quic: Any, configuration: Any, secrets: SecretsLog) -> QuicConnection:
        from aioquic.quic import events

        return AioquicConnection(quic, events, configuration, secrets, (RuntimeError, ValueError))

    def _load_certificate(self, configuration: Any, certificate: LinkCertificate) -> None:
        configuration.certificate = certificate.certificate
        configuration.private_key = certificate.private_key

    def configuration(self, is_client: bool, secrets: SecretsLog) -> Any:
        from aioquic.quic.configuration import QuicConfiguration

        # The library uses nothing of a logger but what FrameLog has
        logger: Any = FrameLog()
        settings = common_settings(is_client, secrets)
        return QuicConfiguration(**settings, congestion_control_algorithm="cubic", quic_logger=logger)

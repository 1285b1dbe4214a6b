"""
QUIC connections of aioquic (the `punch[aioquic]` extra; needs Python 3.11): pure Python, slower, and a
second opinion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from punch.link.proof import LinkCertificate
from punch.link.quic.interface import (
    LOGICAL_ADDRESS,
    MAX_RECEIVED,
    NO_FLIGHT,
    QuicConnection,
    as_quic_error,
    common_settings,
    library_errors,
)
from punch.link.quic.packet import Frame, QuicFrameType
from punch.link.quic.receive_limits import LimitExceeded, ReceiveLimits
from punch.net.send_window import Flight

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

    :param library: aioquic's connection, of which the logger is a `FrameLog`.
    """

    def __init__(self, library: Any) -> None:
        from aioquic.quic import events

        super().__init__(library, events, (RuntimeError, ValueError), ReceiveLimits(MOST_GAPS, joins=True))
        self._trace: FrameTrace = library.configuration.quic_logger.trace

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        if self.discarded:
            return
        try:
            for data in datagrams:
                if 0 < len(data) <= MAX_RECEIVED:
                    self._take(data, now)
        except LimitExceeded:
            raise
        except BaseException as error:
            raise as_quic_error(error) from error

    def _take(self, data: bytes, now: float) -> None:
        self.library.receive_datagram(data, LOGICAL_ADDRESS, now)
        packets = self._trace.take()
        if packets:
            self.limits.packets(len(packets), now)
            for frames in packets:
                self.limits.events(len(frames), now)
                self.limits.frames(frames, now)

    def datagrams_to_send(self, now: float) -> list[bytes]:
        if self.discarded:
            return []
        try:
            # A server has no path before the first datagram, for which the library is not prepared.
            if not self.library._network_paths:
                return []
            datagrams = [data for data, _ in self.library.datagrams_to_send(now)]
        except BaseException as error:
            raise as_quic_error(error) from error
        self.packets_sent += len(datagrams)
        return datagrams

    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool) -> None:
        self.limits.sent(len(data))
        self._ask(None, self.library.send_stream_data, stream_id, bytes(data), fin)

    def unsent(self, stream_id: int) -> int:
        return self._ask(0, self._unsent, stream_id)

    def _unsent(self, stream_id: int) -> int:
        stream = self.library._streams.get(stream_id)
        return 0 if stream is None else sum(len(pending) for pending in stream.sender._pending)

    def flight(self) -> Flight:
        return self._ask(NO_FLIGHT, self._flight)

    def _flight(self) -> Flight:
        loss = self.library._loss
        unsent = sum(map(self._unsent, self.library._streams))
        rtt = float(loss._rtt_latest) if loss._rtt_initialized else None
        return Flight(loss.bytes_in_flight, loss.congestion_window, unsent, rtt)

    def _is_post_quantum(self) -> bool:
        # It offers and accepts no such group.
        return False

    def _certificate(self) -> bytes | None:
        from cryptography.hazmat.primitives.serialization import Encoding

        certificate = self.library.tls._peer_certificate
        return None if certificate is None else bytes(certificate.public_bytes(Encoding.DER))

    def _loss_count(self) -> int:
        return self._trace.lost + int(self.library._loss._pto_count)

    def _smoothed_rtt(self) -> float | None:
        loss = self.library._loss
        return float(loss._rtt_smoothed) if loss._rtt_initialized else None

    def _count_frames(self, secret: bytes) -> None:
        """Do nothing: the library tells of all frames."""


class AioquicBackend:
    """aioquic (`QuicBackend`)."""

    name = "aioquic"

    def client(self, now: float) -> QuicConnection:
        with library_errors():
            from aioquic.quic.connection import QuicConnection as Library

            library = Library(configuration=self._configuration(True))
            library.connect(LOGICAL_ADDRESS, now)
            return AioquicConnection(library)

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        with library_errors():
            from aioquic.quic.connection import QuicConnection as Library

            configuration = self._configuration(False)
            configuration.certificate = certificate.certificate
            configuration.private_key = certificate.private_key
            # Without ticket handler and fetcher, the library can neither issue tickets nor accept one.
            library = Library(
                configuration=configuration,
                original_destination_connection_id=original_destination_connection_id,
            )
            return AioquicConnection(library)

    def _configuration(self, is_client: bool) -> Any:
        from aioquic.quic.configuration import QuicConfiguration

        # The library uses nothing of a logger but what FrameLog has.
        logger: Any = FrameLog()
        settings = common_settings(is_client)
        return QuicConfiguration(**settings, congestion_control_algorithm="cubic", quic_logger=logger)

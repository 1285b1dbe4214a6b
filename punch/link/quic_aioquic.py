"""
The QUIC adapter over aioquic (the `punch[aioquic]` extra; needs Python 3.11): pure Python, slower, and a
second opinion.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from punch.link.certificate import LinkCertificate
from punch.link.proof import SecretsLog
from punch.link.quic import (
    ALPN,
    CONNECTION_WINDOW,
    DATAGRAM_SIZE,
    IDLE_TIMEOUT,
    INITIAL_RTT,
    LOGICAL_ADDRESS,
    MAX_DATAGRAM_FRAME,
    STREAM_WINDOW,
    LibraryConnection,
    QuicConnection,
)

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration

_VERSION_1 = 1


class AioquicConnection(LibraryConnection):
    """
    A connection of aioquic. What this link needs and aioquic doesn't offer is read from its private parts
    here.
    """

    def _poll(self, now: float) -> list[bytes]:
        # A server has no path before the first datagram, for which the library is not prepared.
        return super()._poll(now) if self._quic._network_paths else []

    def send(self, stream_id: int, data: bytes | memoryview, fin: bool) -> None:
        super().send(stream_id, bytes(data), fin)

    def unsent(self, stream_id: int) -> int:
        stream = self._quic._streams.get(stream_id)
        return 0 if stream is None else sum(len(pending) for pending in stream.sender._pending)

    def peer_certificate(self) -> bytes | None:
        from cryptography.hazmat.primitives.serialization import Encoding

        certificate = self._quic.tls._peer_certificate
        return None if certificate is None else bytes(certificate.public_bytes(Encoding.DER))

    @property
    def rtt(self) -> float | None:
        loss = self._quic._loss
        return float(loss._rtt_smoothed) if loss._rtt_initialized else None


class AioquicBackend:
    """aioquic."""

    name = "aioquic"

    def client(self, now: float) -> QuicConnection:
        from aioquic.quic import events
        from aioquic.quic.connection import QuicConnection as Library

        secrets = SecretsLog()
        configuration = self._configuration(True, secrets)
        configuration.verify_mode = ssl.CERT_NONE
        quic = Library(configuration=configuration)
        quic.connect(LOGICAL_ADDRESS, now)
        return AioquicConnection(quic, events, configuration, secrets, (RuntimeError, ValueError))

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        from aioquic.quic import events
        from aioquic.quic.connection import QuicConnection as Library

        secrets = SecretsLog()
        configuration = self._configuration(False, secrets)
        configuration.certificate = certificate.certificate
        configuration.private_key = certificate.private_key
        quic = Library(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        return AioquicConnection(quic, events, configuration, secrets, (RuntimeError, ValueError))

    def _configuration(self, is_client: bool, secrets: SecretsLog) -> QuicConfiguration:
        from aioquic.quic.configuration import QuicConfiguration

        return QuicConfiguration(
            alpn_protocols=[ALPN],
            congestion_control_algorithm="cubic",
            idle_timeout=IDLE_TIMEOUT,
            initial_rtt=INITIAL_RTT,
            is_client=is_client,
            max_data=CONNECTION_WINDOW,
            max_stream_data=STREAM_WINDOW,
            max_datagram_size=DATAGRAM_SIZE,
            max_datagram_frame_size=MAX_DATAGRAM_FRAME,
            secrets_log_file=secrets,  # type: ignore[arg-type]  # only write() and flush() are used
            supported_versions=[_VERSION_1],
        )

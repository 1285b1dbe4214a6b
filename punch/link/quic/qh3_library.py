"""
qh3's connection, with room for as many open streams as a link may have.

qh3 2.x lets the other side open 100 streams at a time, and no setting changes that: the number stands in its
Python code, once for the transport parameter `initial_max_streams_bidi` (RFC 9000, section 18.2), and once
for the core in Rust, which takes any. So both methods that name it are overridden here.

This module loads the library, and is imported with the first connection.
"""

from __future__ import annotations

from typing import Any, Final

from qh3._hazmat import Buffer, QuicConnectionCore
from qh3.quic.connection import QuicConnection
from qh3.tls import ExtensionType

from punch.link.quic.interface import MAX_STREAMS

_INITIAL_MAX_STREAMS_BIDI: Final = 0x08
_VARINT_BYTES: Final = 8
"""The most that a variable-length integer takes (RFC 9000, section 16)."""


class Library(QuicConnection):
    """
    A connection of qh3 on which the other side may have `MAX_STREAMS` streams open. With a later qh3 2.x
    whose core takes other arguments, it may have as many as that library allows.
    """

    _enlarged = False

    def _create_core(self, remote_addr: Any, initial_dcid: bytes, now: float) -> None:
        # As in the library, for a connection that resumes no other, and does not answer a Retry.
        super()._create_core(remote_addr, initial_dcid, now)
        settings, version = self._configuration, self._version
        assert version is not None, "set before, by `connect` or from the first datagram"
        try:
            self._core = QuicConnectionCore(
                is_client=self._is_client,
                version=version,
                local_addr=("0.0.0.0", 0),
                remote_addr=remote_addr,
                source_cid=self.host_cid,
                destination_cid=initial_dcid,
                peer_address_validated=self._is_client,
                active_connection_id_limit=2 if self._is_client else 8,
                max_datagram_size=settings.max_datagram_size,
                probe_datagram_size=settings.probe_datagram_size,
                idle_timeout=settings.idle_timeout,
                ack_delay_exponent=3,
                max_datagram_frame_size=settings.max_datagram_frame_size,
                peer_max_datagram_frame_size=None,
                connection_receive_window=settings.max_data,
                connection_send_limit=0,
                stream_receive_window=settings.max_stream_data,
                stream_send_limit_bidi_local=0,
                stream_send_limit_bidi_remote=0,
                stream_send_limit_uni=0,
                max_stream_reassembly=settings.max_stream_data,
                local_max_streams_bidi=MAX_STREAMS,
                local_max_streams_uni=103,
                peer_max_streams_bidi=0,
                peer_max_streams_uni=0,
                initial_rtt=settings.initial_rtt,
                max_ack_delay=0.025,
                initial_time=now,
            )
        except TypeError:
            return  # A later 2.x that makes its core in another way: the one that it has made stays
        self._enlarged = True

    def _create_tls(self, remote_source_cid: bytes | None) -> Any:
        bridge = super()._create_tls(remote_source_cid)
        if not self._enlarged:
            return bridge
        bridge.tls.handshake_extensions = [
            (kind, allow_streams(data) if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS else data)
            for kind, data in bridge.tls.handshake_extensions
        ]
        return bridge


def allow_streams(parameters: bytes) -> bytes:
    """Return the transport parameters with `initial_max_streams_bidi` changed to `MAX_STREAMS`."""
    read, written = Buffer(data=parameters), Buffer(capacity=len(parameters) + _VARINT_BYTES)
    while not read.eof():
        parameter, value = read.pull_uint_var(), read.pull_bytes(read.pull_uint_var())
        if parameter == _INITIAL_MAX_STREAMS_BIDI:
            number = Buffer(capacity=_VARINT_BYTES)
            number.push_uint_var(MAX_STREAMS)
            value = number.data
        written.push_uint_var(parameter)
        written.push_uint_var(len(value))
        written.push_bytes(value)
    return bytes(written.data)

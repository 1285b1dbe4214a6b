"""What can be read of a QUIC packet without keys (RFC 8999 and RFC 9000, section 17): enough to route it."""

from __future__ import annotations

from typing import Final

CONNECTION_ID_LENGTH: Final = 8
"""Bytes of every connection ID that we choose."""
MIN_INITIAL: Final = 1200
"""Bytes below which a datagram with a client's Initial is ignored (RFC 9000, section 14.1)."""
QUIC_V1: Final = b"\x00\x00\x00\x01"

_LONG: Final = 0x80
_FIXED: Final = 0x40
_TYPE: Final = 0x30
_RETRY: Final = 0x30


def destination_id(data: bytes) -> bytes | None:
    """The destination connection ID of a datagram's first packet; None if it is no QUIC version 1."""
    if not data or not data[0] & _FIXED:
        return None
    if not data[0] & _LONG:
        return data[1 : 1 + CONNECTION_ID_LENGTH] if len(data) > CONNECTION_ID_LENGTH else None
    if len(data) < 7 or data[1:5] != QUIC_V1:
        return None
    length = data[5]
    return data[6 : 6 + length] if length <= 20 and len(data) > 6 + length else None


def is_long(data: bytes) -> bool:
    """A long header: the handshake, Retry or version negotiation."""
    return bool(data) and bool(data[0] & _LONG)


def is_retry(data: bytes) -> bool:
    """A Retry packet, which no callee of ours ever sends."""
    return bool(data) and data[0] & (_LONG | _TYPE) == _LONG | _RETRY


def is_client_initial(data: bytes) -> bool:
    """
    Whether this datagram may begin a connection: QUIC version 1, Initial, padded as a client must, and with a
    connection ID of at least 8 bytes (RFC 9000, section 7.2).
    """
    if len(data) < MIN_INITIAL or data[0] & (_LONG | _FIXED | _TYPE) != _LONG | _FIXED:
        return False
    return data[1:5] == QUIC_V1 and 8 <= data[5] <= 20 and data[6 + data[5]] <= 20


def packet_after_long_headers(data: bytes) -> int:
    """
    Where the 1-RTT packet of a datagram begins, behind the packets of the handshake that may be coalesced
    with it (RFC 9000, section 12.2); the datagram's length if there is none.
    """
    start = 0
    try:
        while data[start] & _LONG:
            at = start + 5
            at += 1 + data[at]
            at += 1 + data[at]
            if data[start] & _TYPE == 0:
                length, at = _integer(data, at)
                at += length
            elif data[start] & _TYPE == _RETRY:
                return len(data)
            length, at = _integer(data, at)
            start = at + length
    except IndexError:
        return len(data)
    return min(start, len(data))


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000, section 16), and where it ends."""
    end = at + (1 << (data[at] >> 6))
    if end > len(data):
        raise IndexError("an integer is cut short")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end

"""
Datagrams on a byte stream (RFC 4571): each after its length in two bytes. Connectivity checks and
QUIC packets are sent like this on a direct path over TCP (RFC 6544, section 10.1).
"""

from __future__ import annotations

from collections.abc import Iterable

from punch.wire.turn import FramingError

MAX_LENGTH = 1500
"""The longest datagram in bytes. Those of links and checks have 1,200 at most (`FULL_SIZE`)."""


def encode_frames(datagrams: Iterable[bytes]) -> bytes:
    """
    Return what carries these datagrams, in order.

    :raise ValueError: one is empty or longer than `MAX_LENGTH`.
    """
    parts: list[bytes] = []
    for data in datagrams:
        if not 0 < len(data) <= MAX_LENGTH:
            raise ValueError(f"a datagram on a stream has 1 to {MAX_LENGTH} bytes, not {len(data)}")
        parts += (len(data).to_bytes(2, "big"), data)
    return b"".join(parts)


class DatagramSplitter:
    """Splits a byte stream into datagrams. It keeps at most one incomplete datagram."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """
        Process bytes; returns the datagrams that are complete now.

        :raise FramingError: a datagram is empty or longer than `MAX_LENGTH`; the stream is to be closed.
        """
        buffer = self._buffer
        buffer += data
        datagrams: list[bytes] = []
        position, size = 0, len(buffer)
        while size - position >= 2:
            length = buffer[position] << 8 | buffer[position + 1]
            if not 0 < length <= MAX_LENGTH:
                raise FramingError(f"a datagram on a stream has 1 to {MAX_LENGTH} bytes, not {length}")
            end = position + 2 + length
            if end > size:
                break
            datagrams.append(bytes(buffer[position + 2 : end]))
            position = end
        del buffer[:position]
        return datagrams

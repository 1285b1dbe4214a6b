"""
How messages are told apart: in datagrams by their first byte, and on a byte stream by their length.

**In datagrams** of one UDP socket (RFC 7983, updated by RFC 9443 for QUIC), the first byte decides:

==========  =====================================================
0 to 3      STUN
64 to 79    TURN ChannelData, or a QUIC short header: see below
80 to 127   QUIC short header
192 to 255  QUIC long header
==========  =====================================================

Other values are protocols that Punch does not use (ZRTP, DTLS, RTP), or garbage.

0x40 to 0x4F is ambiguous. A channel number is 0x4000 to 0x4FFF. A QUIC short header starts with the bits 01,
the spin bit, and bits that header protection makes random, so it may start with any of these values too. RFC
9443 decides by the sender: ChannelData comes only from the exact address and port of our TURN server. So
`classify` returns `CHANNEL_DATA`, and the caller treats the datagram as a QUIC short header if it came from
another address.

**On a byte stream**, each datagram follows its length in two bytes (RFC 4571). Connectivity checks and QUIC
packets are sent like this on a direct path over TCP (RFC 6544, section 10.1). Messages from and to a TURN
server have lengths of their own: see `punch.wire.turn.StreamSplitter`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class FramingError(ValueError):
    """A byte stream is malformed, so it can't be read any further."""


class DatagramKind(Enum):
    """The kind of a datagram, by its first byte."""

    STUN = "stun"
    CHANNEL_DATA = "channel data"
    """ChannelData if it came from our TURN server, else a QUIC packet with a short header."""
    QUIC_LONG = "quic long header"
    QUIC_SHORT = "quic short header"
    UNKNOWN = "unknown"


def _kind(first: int) -> DatagramKind:
    if first <= 3:
        return DatagramKind.STUN
    if 0x40 <= first <= 0x4F:
        return DatagramKind.CHANNEL_DATA
    if 0x50 <= first <= 0x7F:
        return DatagramKind.QUIC_SHORT
    if first >= 0xC0:
        return DatagramKind.QUIC_LONG
    return DatagramKind.UNKNOWN


# One look-up for each datagram
_KINDS = tuple(map(_kind, range(256)))


def classify(data: bytes) -> DatagramKind:
    """
    Return the kind of a datagram by its first byte. The rest of it is not checked.

    An empty datagram is `UNKNOWN`.
    """
    return _KINDS[data[0]] if data else DatagramKind.UNKNOWN


MAX_LENGTH = 1500
"""The longest datagram in bytes. Those of links and checks have 1,200 at most (`FULL_SIZE`)."""


def encode_frames(datagrams: Iterable[bytes]) -> bytes:
    """
    Return the bytes that carry these datagrams on a byte stream, in order.

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

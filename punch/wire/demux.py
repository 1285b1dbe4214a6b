"""
Demultiplexing the datagrams of one UDP socket (RFC 7983, updated by RFC 9443 for QUIC).

The first byte decides:

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
"""

from __future__ import annotations

from enum import Enum


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
    The kind of a datagram by its first byte. The rest of it is not checked.

    An empty datagram is `UNKNOWN`.
    """
    return _KINDS[data[0]] if data else DatagramKind.UNKNOWN

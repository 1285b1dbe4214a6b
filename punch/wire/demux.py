"""
Telling apart what arrives on one UDP socket (RFC 7983, as RFC 9443 updates it for QUIC).

The first byte decides:

==========  =====================================================
0 to 3      STUN
64 to 79    TURN ChannelData, or a QUIC short header: see below
80 to 127   QUIC short header
192 to 255  QUIC long header
==========  =====================================================

The rest is nothing we speak: ZRTP, DTLS, RTP, or noise.

0x40 to 0x4F is ambiguous. A channel number is 0x4000 to 0x4FFF; a QUIC short header begins with the bits 01,
then the spin bit and bits that header protection makes random, so it can begin with any of them too. RFC 9443
leaves it to who knows the sender: ChannelData comes from one exact address and port, that of our TURN server,
and from nowhere else. So `classify` says `CHANNEL_DATA`, and the caller takes that for a QUIC short header
when the datagram came from anywhere else.
"""

from __future__ import annotations

from enum import Enum


class DatagramKind(Enum):
    """What a datagram may be, by its first byte."""

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


# Every datagram of every transfer passes here: one look-up each.
_KINDS = tuple(map(_kind, range(256)))


def classify(data: bytes) -> DatagramKind:
    """
    What `data` may be. Only the first byte is looked at: nothing else of it is checked.

    An empty datagram is `UNKNOWN`.
    """
    return _KINDS[data[0]] if data else DatagramKind.UNKNOWN

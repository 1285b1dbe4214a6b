"""Tests for punch.wire.demux."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.demux import DatagramKind, classify


class ClassifyTests(SynchronousTestCase):
    """The first byte decides."""

    def test_every_byte(self) -> None:
        """All 256, as RFC 7983, section 7 and RFC 9443, section 3 divide them."""
        for first in range(256):
            if first < 4:
                expected = DatagramKind.STUN
            elif first < 64:
                # 16 to 19 ZRTP, 20 to 63 DTLS: not ours.
                expected = DatagramKind.UNKNOWN
            elif first < 80:
                expected = DatagramKind.CHANNEL_DATA
            elif first < 128:
                expected = DatagramKind.QUIC_SHORT
            elif first < 192:
                # RTP and RTCP.
                expected = DatagramKind.UNKNOWN
            else:
                expected = DatagramKind.QUIC_LONG
            for rest in (b"", b"\x00", bytes(1500)):
                self.assertIs(classify(bytes([first]) + rest), expected)

    def test_empty(self) -> None:
        """A datagram without a byte is nothing."""
        self.assertIs(classify(b""), DatagramKind.UNKNOWN)

    def test_enormous(self) -> None:
        """The largest datagram is classified as any other."""
        self.assertIs(classify(b"\xc0" * 65507), DatagramKind.QUIC_LONG)

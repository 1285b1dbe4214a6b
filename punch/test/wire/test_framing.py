"""Telling messages apart: in datagrams by the first byte, on byte streams by lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS
from punch.wire.framing import (
    MAX_LENGTH,
    DatagramKind,
    DatagramSplitter,
    FramingError,
    classify,
    encode_frames,
)


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
        """An empty datagram is of an unknown kind."""
        self.assertIs(classify(b""), DatagramKind.UNKNOWN)

    def test_enormous(self) -> None:
        """The largest datagram is classified as any other."""
        self.assertIs(classify(b"\xc0" * 65507), DatagramKind.QUIC_LONG)


DATAGRAMS = st.lists(st.binary(min_size=1, max_size=MAX_LENGTH), max_size=4)


class FramingTests(SynchronousTestCase):
    """`encode_frames` and `DatagramSplitter`."""

    @SETTINGS
    @given(DATAGRAMS, st.integers(1, 3000))
    def test_any_cut(self, datagrams: list[bytes], size: int) -> None:
        """Whatever pieces the stream arrives in, the same datagrams come out."""
        stream = encode_frames(datagrams)
        splitter = DatagramSplitter()
        found: list[bytes] = []
        for start in range(0, len(stream), size):
            found += splitter.feed(stream[start : start + size])
        self.assertEqual(found, datagrams)

    def test_form(self) -> None:
        """The length comes first, in two bytes."""
        self.assertEqual(encode_frames([b"ab", b"c"]), b"\0\2ab\0\1c")

    def test_what_is_not_sent(self) -> None:
        """Empty datagrams and too long ones are not encoded."""
        for data in (b"", bytes(MAX_LENGTH + 1)):
            self.assertRaises(ValueError, encode_frames, [data])

    def test_garbage(self) -> None:
        """A length that can't be is refused with its header, before the rest has come."""
        for stream in (b"\0\0", b"GET / HTTP/1.1\r\n", (MAX_LENGTH + 1).to_bytes(2, "big"), b"\0\1x\0\0"):
            self.assertRaises(FramingError, DatagramSplitter().feed, stream)

    def test_slowly(self) -> None:
        """One byte at a time."""
        splitter = DatagramSplitter()
        found = [splitter.feed(bytes([each])) for each in b"\0\3abc"]
        self.assertEqual(found, [[], [], [], [], [b"abc"]])

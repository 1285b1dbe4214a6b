"""Datagrams on a byte stream (RFC 4571)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS
from punch.wire.stream_framing import MAX_LENGTH, DatagramSplitter, encode_frames
from punch.wire.turn import FramingError

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
        """Nothing, and too much."""
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

"""ChannelData, and messages of TURN on a stream."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.stun import (
    MessageClass,
    Method,
    StunMessage,
    encode,
)
from punch.wire.turn import (
    ChannelData,
    FramingError,
    StreamSplitter,
    encode_channel_data,
    parse_channel_data,
)

BINDING = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)))


class ChannelDataTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """ChannelData is written and read with and without padding, for all remainders."""
        for size in (0, 1, 2, 3, 4, 1200):
            data = bytes(range(256)) * 5
            for padded in (False, True):
                message = encode_channel_data(0x4001, data[:size], padded=padded)
                self.assertEqual(parse_channel_data(message), ChannelData(0x4001, data[:size]))
            self.assertEqual(len(message) % 4, 0)

    def test_what_is_none(self) -> None:
        """Cut short, or a number outside of RFC 8656's range."""
        good = encode_channel_data(0x4FFF, b"abc", padded=False)
        for end in range(len(good)):
            self.assertIsNone(parse_channel_data(good[:end]))
        for number in (0x3FFF, 0x5000, 0x7FFF):
            self.assertIsNone(parse_channel_data(encode_channel_data(number, b"abc", padded=False)))


class StreamTests(SynchronousTestCase):
    def test_any_cut(self) -> None:
        """However the stream is cut, the same messages come out."""
        random = Random(1)
        messages = [BINDING] + [
            encode_channel_data(0x4000 + size, random.randbytes(size), padded=False) for size in range(9)
        ]
        messages.append(BINDING)
        padded = b"".join(message + bytes(-len(message) & 3) for message in messages)
        for _ in range(50):
            splitter, found, rest = StreamSplitter(), [], padded
            while rest:
                size = random.randint(1, 40)
                found += splitter.feed(rest[:size])
                rest = rest[size:]
            self.assertEqual(found, messages)

    def test_garbage(self) -> None:
        """Refused as soon as it shows, so that it can't be waited for in vain."""
        for data in (b"SSH-2.0-x\r\n", b"\x16\x03\x01\x02\x00", b"\x50\x00\x00\x00", b"\xff" * 4):
            self.assertRaises(FramingError, StreamSplitter().feed, data)
        self.assertRaises(FramingError, StreamSplitter().feed, b"\0\x01\0\0\x21\x12\xa4\x43")
        self.assertRaises(FramingError, StreamSplitter().feed, b"\0\x01\0\x01")

    def test_too_long(self) -> None:
        """A header that announces too much is refused before anything of the rest is there."""
        for first in (b"\x00\x03", b"\x00\x04", b"\x00\x01", b"\x01\x03", b"\x00\x16", b"\x40\x00"):
            for size in (2028, 2032, 0xFFFC):
                header = first + size.to_bytes(2, "big")
                for bounds in ({"longest": 2048}, {"longest_request": 2048}, {}):
                    carries_data = first in (b"\x00\x16", b"\x40\x00")
                    whole = size + (4 if first == b"\x40\x00" else 20)
                    if whole > 2048 and bounds and not (carries_data and "longest_request" in bounds):
                        self.assertRaises(FramingError, StreamSplitter().feed, header, **bounds)
                    else:
                        self.assertEqual(StreamSplitter().feed(header, **bounds), [])

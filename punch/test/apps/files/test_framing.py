"""Messages of a transfer on a stream."""

from __future__ import annotations

from random import Random

from twisted.protocols.basic import Int32StringReceiver
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.framing import COPIED, DataMessage, Message, MessageReader, frames
from punch.apps.files.messages import (
    DATA_HEAD,
    MAX_MESSAGE,
    PIECE,
    FilesMessageError,
    encode_data,
    encode_done,
    encode_file_end,
)

CONTENT = Random(1).randbytes(PIECE)
MESSAGES: list[Message] = [
    encode_done(),
    b"",
    encode_data(1, 2, b"few bytes"),
    DataMessage(3, PIECE, [CONTENT]),
    DataMessage(4, 0, [CONTENT[:5000], bytearray(CONTENT[5000:5001]), memoryview(CONTENT)[5001:20_000]]),
    bytes([200]) + CONTENT[: COPIED + 1],
    encode_file_end(1, 2, bytes(32)),
]


def plain(message: Message) -> bytes:
    """A message as bytes."""
    if isinstance(message, bytes):
        return message
    return encode_data(message.index, message.offset, b"".join(message.parts))


STREAM = b"".join(len(plain(each)).to_bytes(4, "big") + plain(each) for each in MESSAGES)


class TwistedReader(Int32StringReceiver):
    """How released peers read messages."""

    MAX_LENGTH = MAX_MESSAGE

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def stringReceived(self, string: bytes) -> None:
        self.messages.append(string)


class FramingTests(SynchronousTestCase):
    def test_as_released_peers_read_and_write(self) -> None:
        self.assertEqual(b"".join(frames(MESSAGES)), STREAM)
        reader = TwistedReader()
        for piece in frames(MESSAGES):
            reader.dataReceived(bytes(piece))
        self.assertEqual(reader.messages, list(map(plain, MESSAGES)))

    def test_cut_once_near_the_beginning_of_a_message(self) -> None:
        """Everywhere in a length, and in what follows it, with all the rest in one piece."""
        begin, cuts = 0, set[int]()
        for message in MESSAGES:
            cuts |= set(range(begin, begin + 32))
            begin += 4 + len(plain(message))
        for cut in sorted(cuts):
            reader = MessageReader()
            found = [*reader.receive(STREAM[:cut]), *reader.receive(STREAM[cut:])]
            self.assertEqual(list(map(plain, found)), list(map(plain, MESSAGES)), cut)

    def test_content_is_not_copied(self) -> None:
        pieces = list(frames([DataMessage(0, 0, [CONTENT])]))
        self.assertIs(pieces[-1], CONTENT)
        stream = b"".join(pieces)
        (message,) = MessageReader().receive(stream)
        assert isinstance(message, DataMessage)
        (part,) = message.parts
        assert isinstance(part, memoryview)
        self.assertIs(part.obj, stream)

    def test_small_messages_are_written_together(self) -> None:
        pieces = list(frames([encode_data(index, 0, bytes(1024)) for index in range(64)]))
        self.assertLess(len(pieces), 20)

    def test_messages_that_are_too_long(self) -> None:
        reader = MessageReader()
        done = b"".join(frames([encode_done()]))
        found = []
        with self.assertRaises(FilesMessageError):
            for message in reader.receive(done + (MAX_MESSAGE + 1).to_bytes(4, "big")):
                found.append(message)
        self.assertEqual(found, [encode_done()])
        with self.assertRaises(FilesMessageError):
            list(MessageReader().receive(b"".join(frames([DataMessage(0, 0, [bytes(PIECE + 1)])]))))
        (longest,) = MessageReader().receive(b"".join(frames([DataMessage(0, 0, [bytes(PIECE)])])))
        self.assertEqual(len(longest), DATA_HEAD + PIECE)

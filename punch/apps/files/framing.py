"""
The messages of a transfer on its stream: each after its length in four bytes, as `Int32StringReceiver` of
Twisted reads them.

Nearly all bytes of a stream are in DATA messages. Those are `DataMessage`, whose content is copied neither
when it is sent nor when it comes; all others are `bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

from punch.apps.files.messages import (
    DATA_HEAD,
    MAX_MESSAGE,
    FilesMessageError,
    MessageType,
    decode_data_head,
    encode_data_head,
)

COPIED: Final = 4096
"""
Bytes up to which a message, or a part of one that comes in many parts, is copied: that takes less time and
memory than keeping it apart.
"""
_LENGTH: Final = Struct(">I")


@dataclass(frozen=True, slots=True)
class DataMessage:
    """
    A DATA message.

    :ivar index: the number of the entry.
    :ivar offset: where in the file the content begins, in bytes.
    :ivar parts: the content, 1 to 262,144 bytes.
    """

    index: int
    offset: int
    parts: Sequence[bytes | bytearray | memoryview]

    def __len__(self) -> int:
        """Return how many bytes the message has."""
        return DATA_HEAD + sum(map(len, self.parts))


Message: TypeAlias = bytes | DataMessage


def frames(messages: Iterable[Message]) -> Iterator[bytes | bytearray | memoryview]:
    """
    Return what is to be written for these messages, in few pieces. Only parts of a `DataMessage` may be
    something else than `bytes`.
    """
    out = bytearray()
    for message in messages:
        out += _LENGTH.pack(len(message))
        if isinstance(message, DataMessage):
            out += encode_data_head(message.index, message.offset)
            yield bytes(out)
            yield from message.parts
            out = bytearray()
        elif len(message) > COPIED:
            yield bytes(out)
            yield message
            out = bytearray()
        else:
            out += message
            if len(out) > COPIED:
                yield bytes(out)
                out = bytearray()
    if out:
        yield bytes(out)


class MessageReader:
    """Splits a stream into messages. It keeps at most one that is incomplete."""

    def __init__(self) -> None:
        self._length = bytearray()
        self._left = 0
        self._parts: list[bytearray | memoryview] = []

    def receive(self, data: bytes) -> Iterator[Message]:
        """
        Return the messages that are complete with the next bytes of the stream.

        :raise FilesMessageError: a message is too long, or a DATA message has a wrong length. What follows is
            not to be read.
        """
        view, at = memoryview(data), 0
        while at < len(view):
            missing = _LENGTH.size - len(self._length)
            if missing:
                self._length += view[at : at + missing]
                at += missing
                if len(self._length) < _LENGTH.size:
                    return
                (self._left,) = _LENGTH.unpack(self._length)
                if self._left > MAX_MESSAGE:
                    raise FilesMessageError(f"a message of {self._left:,} bytes")
            part = view[at : at + self._left]
            at += len(part)
            self._left -= len(part)
            if part:
                self._keep(part)
            if not self._left:
                parts, self._parts = self._parts, []
                self._length.clear()
                yield _message(parts)

    def _keep(self, part: memoryview) -> None:
        last = self._parts[-1] if self._parts else None
        if len(part) > COPIED:
            self._parts.append(part)
        # Not each apart: a stream that comes in pieces of few bytes would take a lot of memory
        elif isinstance(last, bytearray):
            last += part
        else:
            self._parts.append(bytearray(part))


def _message(parts: list[bytearray | memoryview]) -> Message:
    size = sum(map(len, parts))
    if size <= COPIED or parts[0][0] != MessageType.DATA:
        return b"".join(parts)
    if len(parts[0]) < DATA_HEAD:
        parts = [memoryview(b"".join(parts))]
    index, offset = decode_data_head(parts[0], size)
    return DataMessage(index, offset, [memoryview(parts[0])[DATA_HEAD:], *parts[1:]])

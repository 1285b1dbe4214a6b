"""
The messages of the service "files/1" on its stream: bytes <-> values.

Each message is its length in four bytes, as `Int32StringReceiver` of Twisted reads it, its type in one byte,
and its content. docs/protocol.md, section 11, describes who sends which, and when.

Nearly all bytes of a stream are in DATA messages. Those are `DataMessage`, whose content is copied neither
when it is sent nor when it comes; all others are `bytes`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, TypeAlias

from punch.apps.files.messages import (
    DIGEST,
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_MESSAGE,
    MAX_NAME,
    MAX_SIZE,
    MAX_TEXT,
    PIECE,
    UNKNOWN_SIZE,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    FilesOffer,
    Item,
    MessageType,
    TransferFailed,
    check_path,
    shown,
)
from punch.wire.strict_json import JSONError, dumps, loads


def encode_offer(offer: FilesOffer) -> bytes:
    """Return an OFFER message."""
    content: dict[str, Any] = {
        "items": [
            {"name": item.name, "kind": item.kind.name.lower(), "size": item.size, "files": item.files}
            for item in offer.items
        ],
        "entries": offer.entries,
        "hashes": list(offer.hashes),
    }
    if offer.text is not None:
        content["text"] = offer.text
    if offer.stored is not None:
        content["stored"] = offer.stored
    return bytes([MessageType.OFFER]) + dumps(content)


def encode_accept(hash_name: str) -> bytes:
    """Return an ACCEPT message: `hash_name` is the digest that both sides use."""
    return bytes([MessageType.ACCEPT]) + hash_name.encode()


_ENTRY = struct.Struct(">BHQqHH")


def encode_entries(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Return ENTRIES messages, as few as the entries fit into."""
    out = bytearray([MessageType.ENTRIES])
    for entry in entries:
        encoded = (
            _ENTRY.pack(
                entry.kind, entry.mode, entry.size, entry.modified, len(entry.path), len(entry.target)
            )
            + entry.path
            + entry.target
        )
        if len(out) + len(encoded) > PIECE:
            yield bytes(out)
            out = bytearray([MessageType.ENTRIES])
        out += encoded
    if len(out) > 1:
        yield bytes(out)


def encode_have(index: int, blocks: bytes) -> Iterator[bytes]:
    """
    Return HAVE messages.

    :param index: the number of the entry.
    :param blocks: the digests of the blocks of it that the receiving side has, in order.
    """
    for start in range(0, len(blocks), PIECE):
        yield struct.pack(">BI", MessageType.HAVE, index) + blocks[start : start + PIECE]


def encode_have_end() -> bytes:
    """Return a HAVE_END message."""
    return bytes([MessageType.HAVE_END])


_DATA = struct.Struct(">BIQ")
DATA_HEAD: Final = _DATA.size
"""Bytes of a DATA message before its content."""
_ZEROS = struct.Struct(">BIQI")
_FILE_END = struct.Struct(">BIQ32s")


def encode_data_head(index: int, offset: int) -> bytes:
    """Return a DATA message without its content: the entry's number, and an offset in bytes."""
    return _DATA.pack(MessageType.DATA, index, offset)


def encode_data(index: int, offset: int, data: bytes | memoryview) -> bytes:
    """Return a DATA message."""
    return encode_data_head(index, offset) + data


def encode_zeros(index: int, offset: int, size: int) -> bytes:
    """Return a ZEROS message, which stands for `size` zero bytes of an entry."""
    return _ZEROS.pack(MessageType.ZEROS, index, offset, size)


def encode_file_end(index: int, size: int, digest: bytes) -> bytes:
    """Return a FILE_END message, with the size of the whole file and its digest (`file_digest`)."""
    return _FILE_END.pack(MessageType.FILE_END, index, size, digest)


def encode_done() -> bytes:
    """Return a DONE message."""
    return bytes([MessageType.DONE])


def encode_failed(failed: TransferFailed) -> bytes:
    """Return a FAILED message."""
    content = {
        "code": failed.code.value,
        # Not where it is: the other side need not know this machine's folders.
        "subject": shown(os.path.basename(failed.subject)[:1000]),
        "detail": failed.detail[:1000],
    }
    return bytes([MessageType.FAILED]) + dumps(content)


def message_type(message: bytes) -> MessageType:
    """
    Return the type of a message.

    :raise FilesMessageError: there is no such type.
    """
    try:
        return MessageType(message[0])
    except (IndexError, ValueError):
        raise FilesMessageError("a message of no known type") from None


def decode_offer(message: bytes) -> FilesOffer:
    """
    Read an OFFER message.

    :raise FilesMessageError: it is malformed, or beyond a bound.
    """
    content = _object(message)
    items = content.get("items")
    entries = _number(content, "entries", MAX_ENTRIES)
    hashes = content.get("hashes")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        raise FilesMessageError(f"an offer without items, or with more than {MAX_ITEMS}")
    if not isinstance(hashes, list) or not all(isinstance(name, str) for name in hashes) or len(hashes) > 16:
        raise FilesMessageError("an offer whose hashes are not a list of names")
    stored = None if content.get("stored") is None else _number(content, "stored", MAX_SIZE)
    offer = FilesOffer(tuple(map(_item, items)), entries, tuple(hashes), _text(content), stored)
    if offer.entries < len(offer.items) or offer.files > offer.entries or (offer.size or 0) > MAX_SIZE:
        raise FilesMessageError("an offer whose numbers contradict each other")
    if offer.text is not None and (len(offer.items), offer.files, offer.entries) != (1, 1, 1):
        raise FilesMessageError("a text in an offer of something else")
    return offer


def _text(content: dict[str, Any]) -> str | None:
    text = content.get("text")
    if text is None:
        return None
    if not isinstance(text, str) or not 1 <= len(text.encode()) <= MAX_TEXT:
        raise FilesMessageError(f"a text that has not 1 to {MAX_TEXT} bytes")
    return text


def _item(value: Any) -> Item:
    if not isinstance(value, dict):
        raise FilesMessageError("an item that is no object")
    name, kind = value.get("name"), value.get("kind")
    if not isinstance(name, str) or not name or len(name) > MAX_NAME:
        raise FilesMessageError(f"an item without a name of 1 to {MAX_NAME} characters")
    kinds = {"file": EntryKind.FILE, "folder": EntryKind.FOLDER}
    if not isinstance(kind, str) or kind not in kinds:
        raise FilesMessageError("an item that is neither a file nor a folder")
    size = None if value.get("size") is None else _number(value, "size", MAX_SIZE)
    return Item(name, kinds[kind], size, _number(value, "files", MAX_ENTRIES))


def decode_accept(message: bytes, known: Sequence[str]) -> str:
    """
    Read an ACCEPT message: return the name of the digest that the receiving side has chosen.

    :raise FilesMessageError: it is none of `known`.
    """
    name = message[1:].decode("ascii", "replace")
    if name not in known:
        raise FilesMessageError("a digest that was not offered")
    return name


def decode_entries(message: bytes) -> Iterator[Entry]:
    """
    Read an ENTRIES message.

    :raise FilesMessageError: it is malformed, or a path is not allowed.
    """
    offset = 1
    if len(message) == offset:
        raise FilesMessageError("no entries")
    while offset < len(message):
        try:
            kind, mode, size, modified, path_size, target_size = _ENTRY.unpack_from(message, offset)
        except struct.error:
            raise FilesMessageError("an entry that is cut off") from None
        offset += _ENTRY.size
        path = message[offset : offset + path_size]
        target = message[offset + path_size : offset + path_size + target_size]
        offset += path_size + target_size
        if offset > len(message):
            raise FilesMessageError("an entry that is cut off")
        if kind not in EntryKind.__members__.values():
            raise FilesMessageError("an entry of no known kind")
        if size > MAX_SIZE and size != UNKNOWN_SIZE:
            raise FilesMessageError("an entry that is too large")
        if target and kind != EntryKind.LINK:
            raise FilesMessageError("a target of what is no link")
        check_path(path)
        yield Entry(EntryKind(kind), path, size, mode & 0o7777, modified, target)


def decode_have(message: bytes, entries: int) -> tuple[int, bytes]:
    """
    Read a HAVE message: return the number of an entry, and digests of its blocks.

    :param entries: how many entries there are.
    :raise FilesMessageError: it is malformed.
    """
    if len(message) <= 5 or (len(message) - 5) % DIGEST:
        raise FilesMessageError("digests of the wrong length")
    (index,) = struct.unpack_from(">I", message, 1)
    if index >= entries:
        raise FilesMessageError("an entry that does not exist")
    return index, message[5:]


def decode_data_head(head: bytes | bytearray | memoryview, size: int) -> tuple[int, int]:
    """
    Read the head of a DATA message: return the number of an entry, and an offset in bytes.

    :param head: the beginning of the message, at least `DATA_HEAD` bytes if it is as long as that.
    :param size: bytes of the whole message.
    :raise FilesMessageError: it is malformed.
    """
    if not DATA_HEAD < size <= DATA_HEAD + PIECE:
        raise FilesMessageError("a piece of a file of the wrong length")
    _, index, offset = _DATA.unpack_from(head)
    return index, offset


def decode_data(message: bytes) -> tuple[int, int, bytes]:
    """
    Read a DATA message: return the number of an entry, an offset in bytes, and the content.

    :raise FilesMessageError: it is malformed.
    """
    return (*decode_data_head(message, len(message)), message[DATA_HEAD:])


def decode_zeros(message: bytes) -> tuple[int, int, int]:
    """
    Read a ZEROS message: return the number of an entry, an offset in bytes, and how many zero bytes.

    :raise FilesMessageError: it is malformed.
    """
    if len(message) != _ZEROS.size:
        raise FilesMessageError("a message of the wrong length")
    _, index, offset, size = _ZEROS.unpack(message)
    if not 0 < size <= PIECE:
        raise FilesMessageError("a piece of a file of the wrong length")
    return index, offset, size


def decode_file_end(message: bytes) -> tuple[int, int, bytes]:
    """
    Read a FILE_END message: return the number of an entry, its size in bytes, and its digest.

    :raise FilesMessageError: it is malformed.
    """
    if len(message) != _FILE_END.size:
        raise FilesMessageError("a message of the wrong length")
    _, index, size, digest = _FILE_END.unpack(message)
    return index, size, digest


def decode_failed(message: bytes) -> TransferFailed:
    """
    Read a FAILED message.

    :raise FilesMessageError: it is malformed.
    """
    content = _object(message)
    texts = [content.get(key) for key in ("subject", "detail")]
    try:
        code = FailureCode(content.get("code"))
    except ValueError:
        code = FailureCode.PROTOCOL
    subject, detail = (text[:1000] if isinstance(text, str) else "" for text in texts)
    return TransferFailed(code, subject, detail, by_peer=True)


def _object(message: bytes) -> dict[str, Any]:
    try:
        content = loads(message[1:])
    except JSONError as error:
        raise FilesMessageError(str(error)) from None
    if not isinstance(content, dict):
        raise FilesMessageError("JSON that is no object")
    return content


def _number(content: dict[str, Any], key: str, largest: int) -> int:
    value = content.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise FilesMessageError(f"{key} is no number from 0 to {largest}")
    return value


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
    :ivar parts: the content, 1 to `PIECE` bytes in all.
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
        # Joined: if a stream comes in pieces of few bytes, keeping each apart takes a lot of memory
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

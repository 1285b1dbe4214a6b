"""
The messages of the service "files/1": bytes <-> values.

Each message is a type in one byte, then the content; `framing.py` puts them on a stream. docs/protocol.md,
section 11, describes who sends which, and when.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final, Protocol

from punch.wire.strict_json import JSONError, dumps, loads

SERVICE: Final = "files/1"
"""The name of the service."""
BLOCK: Final = 1024 * 1024
"""Bytes of a file that one digest covers: what differs is sent again in such blocks."""
PIECE: Final = 256 * 1024
"""The most bytes of a file in one message."""
MAX_MESSAGE: Final = PIECE + 1024
"""The longest message in bytes."""
MAX_ENTRIES: Final = 1_000_000
"""Files and folders of one transfer."""
MAX_ITEMS: Final = 100
"""Paths that one transfer names."""
MAX_PATH: Final = 4096
"""Bytes of a path, and of a symbolic link's target."""
MAX_PATHS: Final = 256 * 1024 * 1024
"""Bytes of all paths and targets of a transfer."""
MAX_NAME: Final = 255
"""Bytes of one name in a path."""
MAX_SIZE: Final = 2**53 - 1
"""Bytes of all files of a transfer."""
MAX_TEXT: Final = 32 * 1024
"""Bytes of a text that is shown, in UTF-8. However it is escaped, it fits into a message."""
UNKNOWN_SIZE: Final = 2**64 - 1
"""The size of a file that is read from a pipe."""
DIGEST: Final = 32
"""Bytes of a digest."""


class MessageType(IntEnum):
    """The first byte of a message."""

    OFFER = 1
    ACCEPT = 2
    ENTRIES = 3
    HAVE = 4
    HAVE_END = 5
    DATA = 6
    ZEROS = 7
    FILE_END = 8
    DONE = 9
    FAILED = 10


class EntryKind(IntEnum):
    """What an entry of a transfer is."""

    FILE = 1
    FOLDER = 2
    LINK = 3


class FailureCode(Enum):
    """Why a transfer ended before it was complete, as it is told to the other side."""

    REFUSED = "refused"
    """The user of the receiving side does not want it."""
    NO_SPACE = "no-space"
    """The receiving side's disk has not enough free space."""
    DISK = "disk"
    """The receiving side can't write."""
    IN_PROGRESS = "in-progress"
    """The same transfer is running already."""
    SOURCE_CHANGED = "source-changed"
    """A file changed, or vanished, while it was sent."""
    SOURCE_UNREADABLE = "source-unreadable"
    """A file can't be read."""
    PROTOCOL = "protocol"
    """The other side violated this protocol."""
    CORRUPTED = "corrupted"
    """A file's digest is not that of what was received."""
    CANCELLED = "cancelled"
    """The user ended it."""
    INTERNAL = "internal"
    """An error of the program on the side that says so."""
    BUSY = "busy"
    """Too many offers wait for the user of the receiving side, or too many transfers run."""


class TransferFailed(Exception):
    """
    A transfer ended before it was complete.

    :ivar code: why.
    :ivar subject: the path that it is about, or "".
    :ivar detail: the reason that the system gave, or "".
    :ivar by_peer: whether the other side said so.
    """

    def __init__(self, code: FailureCode, subject: str = "", detail: str = "", by_peer: bool = False) -> None:
        super().__init__(code.value, subject, detail)
        self.code = code
        self.subject = subject
        self.detail = detail
        self.by_peer = by_peer


class FilesMessageError(TransferFailed):
    """The other side sent what this protocol does not allow."""

    def __init__(self, detail: str) -> None:
        super().__init__(FailureCode.PROTOCOL, detail=detail)


@dataclass(frozen=True, slots=True)
class Item:
    """
    One of the paths that are sent, as the receiving user sees it.

    :ivar size: bytes of all files in it; None: it is read from a pipe.
    :ivar files: how many files are in it.
    """

    name: str
    kind: EntryKind
    size: int | None
    files: int


@dataclass(frozen=True, slots=True)
class FilesOffer:
    """
    What somebody wants to send.

    :ivar entries: how many entries follow when it is accepted.
    :ivar hashes: the digests that the sender can compute, the fastest first.
    :ivar text: what the one file of the offer holds, if it is a text to be shown; None: it is not.
    :ivar stored: bytes that the files take on a disk which stores no holes; None: as many as they have.
    """

    items: tuple[Item, ...]
    entries: int
    hashes: tuple[str, ...]
    text: str | None = None
    stored: int | None = None

    @property
    def size(self) -> int | None:
        """Bytes of all files; None: it is not known."""
        sizes = [item.size for item in self.items]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def files(self) -> int:
        """How many files there are."""
        return sum(item.files for item in self.items)


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One file, folder or symbolic link.

    :ivar path: names joined with b"/", from the name of the item on.
    :ivar size: bytes of a file, or `UNKNOWN_SIZE`.
    :ivar mode: permission bits.
    :ivar modified: the time of the last change in nanoseconds since 1970.
    :ivar target: where a symbolic link leads.
    """

    kind: EntryKind
    path: bytes
    size: int = 0
    mode: int = 0
    modified: int = 0
    target: bytes = b""


class Digest(Protocol):
    """A hash that is being computed."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object:
        """Add bytes."""

    def digest(self) -> bytes:
        """The digest of all bytes, 32 of them."""


def digests() -> dict[str, Callable[[], Digest]]:
    """The digests that this side can compute, the fastest first; blake3 where its package is installed."""
    known: dict[str, Callable[[], Digest]] = {"sha256": hashlib.sha256}
    try:
        from blake3 import blake3  # type: ignore[import-not-found, unused-ignore]  # an extra
    except ImportError:
        return known
    return {"blake3": blake3, **known}


def file_digest(new: Callable[[], Digest], size: int, blocks: bytes | bytearray) -> bytes:
    """The digest of a file: that of its size and of the digests of its blocks, one after the other."""
    digest = new()
    digest.update(struct.pack(">Q", size))
    digest.update(bytes(blocks))
    return digest.digest()


# To bytes


def encode_offer(offer: FilesOffer) -> bytes:
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
    return bytes([MessageType.ACCEPT]) + hash_name.encode()


_ENTRY = struct.Struct(">BHQqHH")


def encode_entries(entries: Iterable[Entry]) -> Iterator[bytes]:
    """As few messages as the entries fit into."""
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
    """The digests of the blocks of an entry that the receiving side has, in order."""
    for start in range(0, len(blocks), PIECE):
        yield struct.pack(">BI", MessageType.HAVE, index) + blocks[start : start + PIECE]


def encode_have_end() -> bytes:
    return bytes([MessageType.HAVE_END])


_DATA = struct.Struct(">BIQ")
DATA_HEAD: Final = _DATA.size
"""Bytes of a DATA message before its content."""
_ZEROS = struct.Struct(">BIQI")
_FILE_END = struct.Struct(">BIQ32s")


def encode_data_head(index: int, offset: int) -> bytes:
    return _DATA.pack(MessageType.DATA, index, offset)


def encode_data(index: int, offset: int, data: bytes | memoryview) -> bytes:
    return encode_data_head(index, offset) + data


def encode_zeros(index: int, offset: int, size: int) -> bytes:
    return _ZEROS.pack(MessageType.ZEROS, index, offset, size)


def encode_file_end(index: int, size: int, digest: bytes) -> bytes:
    return _FILE_END.pack(MessageType.FILE_END, index, size, digest)


def encode_done() -> bytes:
    return bytes([MessageType.DONE])


def encode_failed(failed: TransferFailed) -> bytes:
    content = {
        "code": failed.code.value,
        # Not where it is: the other side need not know this machine's folders.
        "subject": shown(os.path.basename(failed.subject)[:1000]),
        "detail": failed.detail[:1000],
    }
    return bytes([MessageType.FAILED]) + dumps(content)


def shown(name: str | bytes) -> str:
    """A name of a file as a text that JSON can carry: what is not UTF-8 in it becomes question marks."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return name.encode("utf-8", "replace").decode()


# From bytes


def message_type(message: bytes) -> MessageType:
    """
    :raise FilesMessageError: there is no such type.
    """
    try:
        return MessageType(message[0])
    except (IndexError, ValueError):
        raise FilesMessageError("a message of no known type") from None


def decode_offer(message: bytes) -> FilesOffer:
    """
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
    The name of the digest that the receiving side chose.

    :raise FilesMessageError: it is none of `known`.
    """
    name = message[1:].decode("ascii", "replace")
    if name not in known:
        raise FilesMessageError("a digest that was not offered")
    return name


def decode_entries(message: bytes) -> Iterator[Entry]:
    """
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


def check_path(path: bytes) -> None:
    """
    Refuse a path that could lead out of its folder, or that no file system takes.

    :raise FilesMessageError: it is empty, absolute, too long, or has an empty name, "." or "..", or a NUL
        byte.
    """
    if not path or len(path) > MAX_PATH or b"\0" in path:
        raise FilesMessageError("a path that is empty, too long, or has a NUL byte")
    for name in path.split(b"/"):
        if name in (b"", b".", b"..") or len(name) > MAX_NAME:
            raise FilesMessageError("a path with a name that is not allowed")


def link_leads_outside(path: bytes, target: bytes) -> bool:
    """
    Whether a symbolic link at `path` may lead out of the item that it is in, or is absolute.

    A ".." behind a name may: the name may be that of another link, and ".." is then above where that leads.
    """
    if not target or target.startswith(b"/") or len(target) > MAX_PATH or b"\0" in target:
        return True
    depth = path.count(b"/") - 1  # folders below the item
    names = [name for name in target.split(b"/") if name not in (b"", b".")]
    while names and names[0] == b"..":
        depth -= 1
        del names[0]
    return depth < 0 or b".." in names


def decode_have(message: bytes, entries: int) -> tuple[int, bytes]:
    """
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
    Entry, offset in bytes.

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
    Entry, offset in bytes, bytes.

    :raise FilesMessageError: it is malformed.
    """
    return (*decode_data_head(message, len(message)), message[DATA_HEAD:])


def decode_zeros(message: bytes) -> tuple[int, int, int]:
    """
    Entry, offset in bytes, how many zero bytes.

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
    Entry, size in bytes, digest.

    :raise FilesMessageError: it is malformed.
    """
    if len(message) != _FILE_END.size:
        raise FilesMessageError("a message of the wrong length")
    _, index, size, digest = _FILE_END.unpack(message)
    return index, size, digest


def decode_failed(message: bytes) -> TransferFailed:
    """
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

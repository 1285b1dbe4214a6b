"""
The values of the service "files/1": what its messages hold (`codec.py` encodes them), their limits, and the
checks of what a peer sends.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, Protocol

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


def shown(name: str | bytes) -> str:
    """A name of a file as a text that JSON can carry: what is not UTF-8 in it becomes question marks."""
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return name.encode("utf-8", "replace").decode()


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


def check_offered(offer: FilesOffer, entries: Iterable[Entry]) -> None:
    """
    Check that what is sent is what the user said yes to.

    :param entries: all entries of the transfer, each folder before what is in it.
    :raise FilesMessageError: they are other items than those of the offer, or of another kind or size.
    """
    kinds: dict[bytes, EntryKind] = {}
    sizes: dict[bytes, int | None] = {}
    files: Counter[bytes] = Counter()
    for entry in entries:
        top, inside, _ = entry.path.partition(b"/")
        if not inside:
            kinds[top], sizes[top] = entry.kind, 0
        size = sizes[top]
        if entry.kind is EntryKind.FILE:
            files[top] += 1
            unknown = size is None or entry.size == UNKNOWN_SIZE
            sizes[top] = None if unknown or size is None else size + entry.size
    found = [(shown(top), kind, sizes[top], files[top]) for top, kind in kinds.items()]
    if found != [(item.name, item.kind, item.size, item.files) for item in offer.items]:
        raise FilesMessageError("files that were not offered")

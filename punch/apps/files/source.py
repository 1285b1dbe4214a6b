"""
What is sent: files, folders and pipes on this machine, and their content as messages.

All functions wait for the disk, so they belong into a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from punch.apps.files.framing import COPIED, DataMessage, Message
from punch.apps.files.holes import bytes_in_holes
from punch.apps.files.messages import (
    BLOCK,
    DIGEST,
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_PATH,
    MAX_PATHS,
    MAX_SIZE,
    MAX_TEXT,
    PIECE,
    UNKNOWN_SIZE,
    Digest,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    FilesOffer,
    Item,
    TransferFailed,
    digests,
    encode_data,
    encode_file_end,
    encode_zeros,
    file_digest,
    link_leads_outside,
    shown,
)
from punch.apps.files.pipes import wait_for_pipe

PIPE = "-"
"""The path that stands for standard input."""
TEXT_NAME = "text.txt"
"""The file that a text becomes where texts are not shown."""
_ZEROS = bytes(PIECE)
_PERMISSIONS = 0o777


class SourceProblem(str, Enum):
    """Why something can't be sent."""

    NUMBER_OF_PATHS = "number-of-paths"
    TOO_MANY_FILES = "too-many-files"
    LONG_PATH = "long-path"
    LONG_PATHS = "long-paths"
    """The paths together are too long."""
    SAME_NAME = "same-name"
    TOO_LARGE = "too-large"
    NO_STATUS = "no-status"
    """The system does not tell what it is, for `detail`."""
    NO_FILE_NAME = "no-file-name"
    """No file can have such a name."""
    NO_NAME = "no-name"
    """A folder without a name, as /."""
    OTHER_KIND = "other-kind"
    """It is neither a file nor a folder."""
    UNREADABLE = "unreadable"
    """It is there and can't be read, for `detail`; "": this user has no permission."""
    UNREADABLE_FOLDER = "unreadable-folder"
    NOT_UTF8 = "not-utf8"
    """A text has bytes that are no UTF-8."""
    EMPTY_TEXT = "empty-text"
    LONG_TEXT = "long-text"
    """A text has too many bytes, `detail`."""


class SkipReason(str, Enum):
    """Why something in a folder is left out."""

    GONE = "gone"
    OTHER_KIND = "other-kind"
    """It is neither a file, a folder nor a link."""
    LINK_OUTSIDE = "link-outside"
    """A link that leads, or could lead, out of the folder."""


class SourceError(Exception):
    """
    Something can't be sent.

    :ivar problem: why.
    :ivar subject: the path or name that it is about, or "".
    :ivar detail: the reason that the system gave, or a number; "" for neither.
    :ivar unreadable: whether it is there and can't be read.
    """

    def __init__(
        self, problem: SourceProblem, subject: str = "", detail: str = "", *, unreadable: bool = False
    ) -> None:
        super().__init__(problem.value, subject, detail)
        self.problem = problem
        self.subject = subject
        self.detail = detail
        self.unreadable = unreadable


def _unreadable(
    subject: str, error: OSError | None = None, problem: SourceProblem = SourceProblem.UNREADABLE
) -> SourceError:
    detail = "" if error is None else _detail(error)
    return SourceError(problem, subject, detail, unreadable=True)


def _detail(error: OSError) -> str:
    return error.strerror or str(error)


@dataclass(frozen=True)
class Source:
    """
    What is sent.

    :ivar paths: where each entry is on this machine; None: it is read from `pipe`.
    :ivar skipped: what is in the folders and can't be sent, and why.
    :ivar pipe: the descriptor of standard input.
    :ivar text: what is in the only file, if it is a text that the other side is to be shown.
    :ivar holes: bytes of the files that are in holes, which take no space on the disk.
    """

    items: tuple[Item, ...]
    entries: tuple[Entry, ...]
    paths: tuple[Path | None, ...]
    skipped: tuple[tuple[Path, SkipReason], ...] = ()
    pipe: int = 0
    text: str | None = None
    holes: int = 0

    @property
    def offer(self) -> FilesOffer:
        """What the other side is told first."""
        stored = sum(item.size or 0 for item in self.items) - self.holes if self.holes else None
        return FilesOffer(self.items, len(self.entries), tuple(digests()), self.text, stored)

    @property
    def resumable(self) -> bool:
        """Whether it can be read a second time."""
        return None not in self.paths


@dataclass
class _Scan:
    entries: list[Entry] = field(default_factory=list)
    paths: list[Path | None] = field(default_factory=list)
    skipped: list[tuple[Path, SkipReason]] = field(default_factory=list)
    size: int = 0
    """Bytes of all paths."""
    holes: int = 0
    """Bytes of files that are in holes."""

    def add_file(self, name: bytes, path: Path, found: os.stat_result) -> None:
        mode = found.st_mode & _PERMISSIONS
        self.add(Entry(EntryKind.FILE, name, found.st_size, mode, _modified(found)), path)
        self.holes += bytes_in_holes(path, found)

    def add(self, entry: Entry, path: Path | None) -> None:
        if len(self.entries) >= MAX_ENTRIES:
            raise SourceError(SourceProblem.TOO_MANY_FILES)
        if len(entry.path) > MAX_PATH:
            raise SourceError(SourceProblem.LONG_PATH, shown(entry.path))
        self.size += len(entry.path) + len(entry.target)
        if self.size > MAX_PATHS:
            raise SourceError(SourceProblem.LONG_PATHS)
        self.entries.append(entry)
        self.paths.append(path)


def find_source(paths: Sequence[str], pipe: int = 0, pipe_name: str = "stdin") -> Source:
    """
    Look at what is to be sent. A symbolic link that is named itself is followed.

    :param paths: names of files and folders; "-" is standard input, `pipe`, which arrives as the file
        `pipe_name`.
    :raise SourceError: a path is not there, can't be read, or is neither a file nor a folder.
    """
    if not 1 <= len(paths) <= MAX_ITEMS:
        raise SourceError(SourceProblem.NUMBER_OF_PATHS)
    scan, items = _Scan(), []
    for given in paths:
        first = len(scan.entries)
        if given == PIPE:
            name = pipe_name
            scan.add(Entry(EntryKind.FILE, os.fsencode(name), UNKNOWN_SIZE, 0o644), None)
        else:
            name = _scan_path(scan, given)
        if any(entry.path == os.fsencode(name) for entry in scan.entries[:first]):
            raise SourceError(SourceProblem.SAME_NAME, name)
        items.append(_item(name, scan.entries[first:]))
    if sum(item.size or 0 for item in items) > MAX_SIZE:
        raise SourceError(SourceProblem.TOO_LARGE)
    entries, at, skipped = tuple(scan.entries), tuple(scan.paths), tuple(scan.skipped)
    return Source(tuple(items), entries, at, skipped, pipe, holes=scan.holes)


def text_source(text: str) -> Source:
    """
    Return a text as what is sent. For receivers that show none it is a file, read from a pipe.

    :raise SourceError: it is empty, too long, or no text.
    """
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise SourceError(SourceProblem.NOT_UTF8) from None
    if not encoded:
        raise SourceError(SourceProblem.EMPTY_TEXT)
    if len(encoded) > MAX_TEXT:
        raise SourceError(SourceProblem.LONG_TEXT, detail=f"{len(encoded):,}")
    pipe, writing = os.pipe()
    os.write(writing, encoded)  # A pipe holds more than that
    os.close(writing)
    return replace(find_source([PIPE], pipe, TEXT_NAME), text=text)


def _item(name: str, entries: Sequence[Entry]) -> Item:
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    unknown = any(entry.size == UNKNOWN_SIZE for entry in files)
    return Item(
        shown(name), entries[0].kind, None if unknown else sum(entry.size for entry in files), len(files)
    )


def _scan_path(scan: _Scan, given: str) -> str:
    path = Path(given)
    try:
        found = path.stat()
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise SourceError(SourceProblem.NO_STATUS, given, _detail(error), unreadable=denied) from error
    except ValueError as error:
        raise SourceError(SourceProblem.NO_FILE_NAME, given) from error
    name = path.name if path.name not in ("", "..") else path.resolve().name
    if not name:
        raise SourceError(SourceProblem.NO_NAME, given)
    if stat.S_ISDIR(found.st_mode):
        _scan_folder(scan, path, os.fsencode(name), found)
    elif stat.S_ISREG(found.st_mode):
        if not os.access(path, os.R_OK):
            raise _unreadable(given)
        scan.add_file(os.fsencode(name), path.resolve(), found)
    else:
        raise SourceError(SourceProblem.OTHER_KIND, given)
    return name


def _modified(found: os.stat_result) -> int:
    """The time of the last change, as an entry can hold it: until the year 2262."""
    return max(-(2**63), min(found.st_mtime_ns, 2**63 - 1))


def _scan_folder(scan: _Scan, folder: Path, name: bytes, found: os.stat_result) -> None:
    waiting = [(folder, name, found)]
    while waiting:
        folder, name, found = waiting.pop()
        scan.add(Entry(EntryKind.FOLDER, name, 0, found.st_mode & _PERMISSIONS, _modified(found)), folder)
        try:
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            raise _unreadable(str(folder), error, SourceProblem.UNREADABLE_FOLDER) from error
        folders = []
        for child in children:
            inside = name + b"/" + os.fsencode(child.name)
            try:
                details = child.stat(follow_symlinks=False)
                if stat.S_ISDIR(details.st_mode):
                    folders.append((Path(child.path), inside, details))
                else:
                    _scan_child(scan, Path(child.path), inside, details)
            except FileNotFoundError:
                scan.skipped.append((Path(child.path), SkipReason.GONE))
            except OSError as error:
                raise _unreadable(child.path, error) from error
        waiting += reversed(folders)


def _scan_child(scan: _Scan, path: Path, inside: bytes, found: os.stat_result) -> None:
    """Add what is in a folder and is none itself."""
    if stat.S_ISREG(found.st_mode):
        if not os.access(path, os.R_OK):
            raise _unreadable(str(path))
        scan.add_file(inside, path, found)
    elif stat.S_ISLNK(found.st_mode):
        _scan_link(scan, path, inside)
    else:
        scan.skipped.append((path, SkipReason.OTHER_KIND))


def _scan_link(scan: _Scan, path: Path, inside: bytes) -> None:
    target = os.fsencode(os.readlink(path))
    if link_leads_outside(inside, target):
        scan.skipped.append((path, SkipReason.LINK_OUTSIDE))
    else:
        scan.add(Entry(EntryKind.LINK, inside, target=target), path)


class Reader:
    """
    The content of a `Source`, as messages.

    :param have: for each entry that the other side has a part of, the digests of its blocks.
    :ivar position: bytes of content that were read so far.
    :ivar sent: bytes of content that were sent so far; fewer, if the other side has some of them.
    :ivar files: how many files were read to their end.
    """

    def __init__(self, source: Source, hash_name: str, have: Mapping[int, bytes | bytearray]) -> None:
        self.position = 0
        self.sent = 0
        self.files = 0
        self._stopped = False
        self._at_once = False
        self._source = source
        self._new = digests()[hash_name]
        self._have = have
        self._messages = self._read()

    def batch(self, size: int = BLOCK) -> list[Message]:
        """
        The next messages, of about `size` bytes in all; none at the end. What comes from a pipe is returned
        as it comes: what writes to it may take its time.

        :raise TransferFailed: a file can't be read, or is no longer what it was.
        """
        out: list[Message] = []
        for message in self._messages:
            out.append(message)
            size -= len(message)
            if size <= 0 or self._at_once:
                break
        return out

    def stop(self) -> None:
        """Have a call of `batch` in another thread return soon: its result is no longer wanted."""
        self._stopped = True

    def close(self) -> None:
        """Close the file that is open."""
        self._messages.close()

    def _read(self) -> Generator[Message, None, None]:
        for index, entry in enumerate(self._source.entries):
            if self._stopped:
                return
            if entry.kind is EntryKind.FILE:
                path = self._source.paths[index]
                if path is None:
                    yield from self._read_pipe(index)
                else:
                    yield from self._read_file(index, entry, path)

    def _read_file(self, index: int, entry: Entry, path: Path) -> Iterator[Message]:
        descriptor = self._open(path)
        try:
            self._check(path, entry, os.fstat(descriptor))
            blocks = bytearray()
            have = self._have.get(index, b"")
            for offset in range(0, entry.size, BLOCK):
                if self._stopped:
                    return
                size = min(BLOCK, entry.size - offset)
                block = self._block(descriptor, path, size)
                digest = _digest(self._new, block)
                known = have[len(blocks) : len(blocks) + DIGEST]
                blocks += digest
                self.position += size
                if digest != known:
                    yield from self._pieces(index, offset, block)
            self._check(path, entry, os.fstat(descriptor))
        finally:
            os.close(descriptor)
        self.files += 1
        yield encode_file_end(index, entry.size, file_digest(self._new, entry.size, blocks))

    def _read_pipe(self, index: int) -> Iterator[Message]:
        blocks, offset, ended = bytearray(), 0, False
        path = Path("standard input")
        self._at_once = True
        while not ended:
            digest = self._new()
            left = BLOCK
            while left:
                if not wait_for_pipe(self._source.pipe, lambda: not self._stopped):
                    return
                piece = self._read_some(self._source.pipe, path, min(left, PIECE))
                if not piece:
                    ended = True
                    break
                digest.update(piece)
                left -= len(piece)
                self.position += len(piece)
                yield from self._pieces(index, offset, piece)
                offset += len(piece)
            if left < BLOCK:
                blocks += digest.digest()
        self.files += 1
        self._at_once = False
        yield encode_file_end(index, offset, file_digest(self._new, offset, blocks))

    def _pieces(self, index: int, offset: int, content: bytes) -> Iterator[Message]:
        view = memoryview(content)
        for start in range(0, len(view), PIECE):
            piece = view[start : start + PIECE]
            self.sent += len(piece)
            # As bytes, since views are compared byte by byte
            if len(piece) > 64 and not piece[0] and bytes(piece) == _ZEROS[: len(piece)]:
                yield encode_zeros(index, offset + start, len(piece))
            elif len(piece) > COPIED:
                yield DataMessage(index, offset + start, [piece])
            else:
                yield encode_data(index, offset + start, piece)

    def _block(self, descriptor: int, path: Path, size: int) -> bytes:
        # In one call, which nearly always reads all: after each, a thread may wait for the interpreter's lock
        block = self._read_some(descriptor, path, size)
        while len(block) < size:
            more = self._read_some(descriptor, path, size - len(block))
            if not more:
                raise TransferFailed(FailureCode.SOURCE_CHANGED, str(path), "it has become shorter")
            block += more
        return block

    def _read_some(self, descriptor: int, path: Path, size: int) -> bytes:
        try:
            return os.read(descriptor, size)
        except OSError as error:
            raise TransferFailed(
                FailureCode.SOURCE_UNREADABLE, str(path), error.strerror or str(error)
            ) from error

    def _open(self, path: Path) -> int:
        # What was a file may be a pipe or a link by now: neither waits for its other end, nor is followed.
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise TransferFailed(FailureCode.SOURCE_CHANGED, str(path), "it is no longer there") from None
        except OSError as error:
            raise TransferFailed(
                FailureCode.SOURCE_UNREADABLE, str(path), error.strerror or str(error)
            ) from error

    def _check(self, path: Path, entry: Entry, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise TransferFailed(FailureCode.SOURCE_CHANGED, str(path), "it is no longer a file")
        if found.st_size != entry.size or _modified(found) != entry.modified:
            raise TransferFailed(FailureCode.SOURCE_CHANGED, str(path), "it was changed")


def _digest(new: Callable[[], Digest], content: bytes) -> bytes:
    digest = new()
    digest.update(content)
    return digest.digest()


def check_have(source: Source, have: dict[int, bytearray], index: int, blocks: bytes) -> None:
    """
    Add the digests of blocks of an entry that the other side says it has.

    :raise FilesMessageError: it is no file, or there are more digests than blocks.
    """
    entry = source.entries[index]
    if entry.kind is not EntryKind.FILE or source.paths[index] is None:
        raise FilesMessageError("a part of what is no file")
    known = have.setdefault(index, bytearray())
    known += blocks
    if len(known) // DIGEST > -(-entry.size // BLOCK):
        raise FilesMessageError("more blocks than the file has")

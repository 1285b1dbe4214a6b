"""
What is sent: files, folders and pipes on this machine, and how much of the files is in holes.
`source_reader.py` reads their content.

All functions wait for the disk, so they belong into a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from punch.apps.files.messages import (
    MAX_ENTRIES,
    MAX_ITEMS,
    MAX_PATH,
    MAX_PATHS,
    MAX_SIZE,
    MAX_TEXT,
    PIECE,
    UNKNOWN_SIZE,
    Entry,
    EntryKind,
    FilesOffer,
    Item,
    digests,
    link_leads_outside,
    shown,
)

PIPE = "-"
"""The path that stands for standard input."""
TEXT_NAME = "text.txt"
"""The file that a text becomes where texts are not shown."""
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
        self.add(Entry(EntryKind.FILE, name, found.st_size, mode, modified_time(found)), path)
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
    Find out what is to be sent. A symbolic link in `paths` is followed; one in a folder is sent as a link.

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
    Return a text as what is sent. Receivers that show no texts save it as the file `TEXT_NAME`.

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


def modified_time(found: os.stat_result) -> int:
    """The time of the last change, as an entry can hold it: until the year 2262."""
    return max(-(2**63), min(found.st_mtime_ns, 2**63 - 1))


def _scan_folder(scan: _Scan, folder: Path, name: bytes, found: os.stat_result) -> None:
    waiting = [(folder, name, found)]
    while waiting:
        folder, name, found = waiting.pop()
        scan.add(Entry(EntryKind.FOLDER, name, 0, found.st_mode & _PERMISSIONS, modified_time(found)), folder)
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


MIN_HOLES = 1024 * 1024
"""Files whose holes save fewer bytes than this on the disk are taken to have none."""
MAX_EXTENTS = 10_000
"""Files with so many ranges of data, or more, are taken to have no holes."""


def bytes_in_holes(path: Path, found: os.stat_result) -> int:
    """
    Return about how many bytes of a file a receiver need not store: pieces (`PIECE`) that are in a hole as a
    whole are not stored.

    :param found: what `stat` has told of the file.
    :return: 0 if the file system does not tell.
    """
    blocks = getattr(found, "st_blocks", None)
    if blocks is None or found.st_size - blocks * 512 < MIN_HOLES or not hasattr(os, "SEEK_DATA"):
        return 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return max(0, found.st_size - _pieces_with_data(descriptor) * PIECE)
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _pieces_with_data(descriptor: int) -> int:
    """
    Count the pieces of a file (`PIECE`) that are not in a hole as a whole.

    :raise OSError: the file system can't tell, or there are `MAX_EXTENTS` ranges of data, or more.
    """
    pieces = counted = position = 0
    for _ in range(MAX_EXTENTS):
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return pieces  # There is no more data
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        end = -(-position // PIECE)
        pieces += end - max(counted, start // PIECE)
        counted = end
    raise OSError(errno.EFBIG, "there are too many ranges of data")

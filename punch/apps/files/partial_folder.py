"""
Where received files are on the disk: the folder in which they are until everything is verified, the space
that it takes, and the names that they get then. No existing file is overwritten. Characters of names that
would act on a terminal are replaced.

A file beside the partial folder has a line of JSON for each item that was moved to its final name. If the
transfer is interrupted after that, the next attempt does not receive these items again. A moved item is never
written to: if it is not what is sent any more, the item is received once more, under another name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from punch.apps.files.events import ACTING
from punch.apps.files.messages import (
    MAX_SIZE,
    UNKNOWN_SIZE,
    Entry,
    EntryKind,
    FailureCode,
    TransferFailed,
    shown,
)
from punch.sanitize import unseen
from punch.wire.strict_json import JSONError, dumps, loads

FREE = 16 * 1024 * 1024
"""Bytes that stay free on the disk."""


class PartialFolder:
    """
    The folder of one transfer, which no other process uses at the same time.

    What an earlier attempt has left in it can be written again, whatever its permissions, and has no links:
    one must not be written through.

    :param path: where it is, or will be.
    :param size: bytes that the transfer needs there, as far as they are known.
    :ivar resumed: whether an earlier attempt has left it.
    :raise TransferFailed: it can't be made or written, has too little space, or is in use.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.resumed = False
        try:
            try:
                path.mkdir(0o700)
            except FileExistsError:
                self.resumed = True
            self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise disk_failure(error, path.parent) from error
        try:
            self._take()
            self._check_space(size, self._clean() if self.resumed else 0)
        except OSError as error:
            self.close(remove_empty=not self.resumed)
            raise disk_failure(error, path) from error
        except TransferFailed:
            self.close(remove_empty=not self.resumed)
            raise

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TransferFailed(FailureCode.IN_PROGRESS) from None
        except OSError:
            # Some file systems of networks can't lock a folder.
            pass
        # Others who may write to the target folder could have made it, and could change what is in it.
        owners = (os.geteuid(), self.path.parent.stat().st_uid)
        if self.resumed and os.fstat(self._lock).st_uid not in owners:
            raise TransferFailed(FailureCode.DISK, str(self.path), "the folder is another user's")

    def _clean(self) -> int:
        """
        Make everything writable, and remove links.

        :return: the bytes that it takes on the disk.
        """
        size, waiting = 0, [self.path]
        while waiting:
            folder = waiting.pop()
            if folder.stat().st_mode & 0o700 != 0o700:
                folder.chmod(0o700)
            for child in os.scandir(folder):
                found = child.stat(follow_symlinks=False)
                size += found.st_blocks * 512
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(Path(child.path))
                elif stat.S_ISLNK(found.st_mode):
                    os.unlink(child.path)
                elif stat.S_ISREG(found.st_mode) and found.st_mode & 0o600 != 0o600:
                    os.chmod(child.path, 0o600)
        return size

    def _check_space(self, wanted: int, there: int) -> None:
        free = self._free()
        if wanted > there and wanted - there + FREE > free:
            detail = f"{wanted - there:,} bytes are needed, and {max(free - FREE, 0):,} are free"
            raise TransferFailed(FailureCode.NO_SPACE, detail=detail)

    def _free(self) -> int:
        disk = os.statvfs(self.path)
        if not disk.f_blocks:
            # This file system does not say how large it is.
            return MAX_SIZE
        return disk.f_bavail * disk.f_frsize

    def check_rest(self) -> None:
        """
        Check that the disk has more than `FREE` bytes left.

        :raise OSError: it has not (ENOSPC), or does not say.
        """
        if self._free() < FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep_only(self, paths: Container[Path]) -> None:
        """
        Remove what an earlier attempt has left and is not among `paths`.

        :raise OSError: it can't be removed.
        """
        if not self.resumed:
            return
        for parent, folders, files in os.walk(self.path, topdown=False):
            for name in folders + files:
                path = Path(parent, name)
                if path not in paths:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def remove(self) -> None:
        """Remove it, and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self, *, remove_empty: bool) -> None:
        """
        Let others use it.

        :param remove_empty: whether to remove it if there is nothing in it.
        """
        lock, self._lock = self._lock, -1
        if lock >= 0:
            if remove_empty:
                with suppress(OSError):
                    self.path.rmdir()
            os.close(lock)


def disk_failure(error: OSError | OverflowError, path: Path) -> TransferFailed:
    """Return the failure of a transfer for an error of the disk."""
    detail = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT):
        return TransferFailed(FailureCode.NO_SPACE, shown(str(path)), detail)
    return TransferFailed(FailureCode.DISK, shown(str(path)), detail)


MAX_RECORD = 256 * 1024
"""Bytes of a record that are read; 100 items need fewer."""
TIME_STEP = 2 * 10**9
"""Nanoseconds by which file systems round times."""


def safe_name(name: str) -> str:
    """
    Return a name with "_" for each control character, for each that changes the direction of text, and for
    each that can't be seen.
    """
    hidden = unseen(name)
    if hidden:
        name = "".join("_" if index in hidden else character for index, character in enumerate(name))
    return ACTING.sub("_", name)


def move(path: Path, folder: Path, moving: Callable[[Path], object] = lambda final: None) -> Path:
    """
    Move a file or folder into `folder`, under its own name, or with a number if that is taken.

    :param moving: is called with its path there before it is moved.
    :return: its path there.
    :raise OSError: it can't be moved.
    """
    is_folder = path.is_dir()
    for number in count():
        final = folder / numbered(path.name, number, is_folder)
        try:
            if is_folder:
                final.mkdir(0o700)
            else:
                os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            continue
        # It replaces an empty file or folder, which was made here for that.
        try:
            moving(final)
            os.replace(path, final)
        except OSError:
            final.rmdir() if is_folder else final.unlink()
            raise
        return final
    raise AssertionError("unreachable")


def numbered(name: str, number: int, is_folder: bool) -> str:
    """Return `name` for the number 0, "name (1).ext" for 1, and so on, in at most 255 bytes."""
    if not number:
        return name
    stem, dot, end = name.rpartition(".")
    if is_folder or not stem or len(end) > 16:
        stem, dot, end = name, "", ""
    tail = f" ({number}){dot}{end}"
    room = 255 - len(os.fsencode(tail))
    return os.fsdecode(os.fsencode(stem)[:room]) + tail


class MovedItems:
    """
    The items of a transfer that have their final names.

    :param path: where the record is, or will be, in the target folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._finals = dict(self._read())

    def add(self, item: bytes, final: Path, source: Path) -> None:
        """Record that `source`, an item of the name `item`, gets the name `final` next."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        # Without a record, an interruption has the item received once more
        with suppress(OSError, JSONError):
            found = source.lstat()
            fields = {
                "item": item.hex(),
                "final": shown(final.name),
                "device": found.st_dev,
                "inode": found.st_ino,
            }
            with os.fdopen(os.open(self._path, flags, 0o600), "wb") as file:
                file.write(dumps(fields) + b"\n")

    def forget(self) -> None:
        """Remove the record."""
        self._finals.clear()
        with suppress(OSError):
            self._path.unlink()

    def in_place(self, entries: Sequence[Entry], paths: Sequence[Path]) -> dict[int, Path]:
        """
        Return the paths of the entries, by index, whose items were moved earlier. An item is left out if it
        is not what is sent now, as far as sizes and times tell.

        :param paths: where each entry would be received.
        """
        items: dict[bytes, list[int]] = {}
        for index, entry in enumerate(entries) if self._finals else ():
            items.setdefault(entry.path.partition(b"/")[0], []).append(index)
        found: dict[int, Path] = {}
        for item, indexes in items.items():
            final, top = self._finals.get(item.hex()), paths[indexes[0]]
            if final is None:
                continue
            places = {index: final / paths[index].relative_to(top) for index in indexes}
            with suppress(OSError):
                if all(_is_there(entries[index], path) for index, path in places.items()):
                    found.update(places)
        return found

    def _read(self) -> Iterator[tuple[str, Path]]:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            # Others may be able to write to the target folder
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                return
            lines = file.read(MAX_RECORD).split(b"\n")[:-1]  # The last one may be cut off
        for line in lines:
            with suppress(JSONError, OSError, TypeError, KeyError, ValueError):
                fields = loads(line)
                final = self._path.with_name(fields["final"])
                found = final.lstat()
                if (found.st_dev, found.st_ino) == (fields["device"], fields["inode"]):
                    yield str(fields["item"]), final


def _is_there(entry: Entry, path: Path) -> bool:
    found = path.lstat()
    if entry.kind is EntryKind.FOLDER:
        return stat.S_ISDIR(found.st_mode)
    if entry.kind is EntryKind.LINK:
        return stat.S_ISLNK(found.st_mode) and os.readlink(path) == os.fsdecode(entry.target)
    if not stat.S_ISREG(found.st_mode) or entry.size == UNKNOWN_SIZE or found.st_size != entry.size:
        return False
    return abs(found.st_mtime_ns - entry.modified) <= TIME_STEP


def write_at(descriptor: int, parts: Iterable[bytes | bytearray | memoryview], offset: int) -> None:
    """
    Write all parts, one after the other, from an offset on.

    :raise OSError: they can't be written.
    """
    for part in parts:
        written = 0
        while written < len(part):
            written += os.pwrite(descriptor, part[written:] if written else part, offset + written)
        offset += written


def make_folder(path: Path) -> None:
    """
    Make a folder that this user can write to, in place of a file if there is one.

    :raise OSError: it can't be made.
    """
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if not path.is_dir():
            path.unlink()
            path.mkdir(0o700)
        else:
            path.chmod(0o700)


def set_attributes(path: Path, entry: Entry, umask: int) -> None:
    """Give a file or folder its permissions, and a folder its time, if the file system takes them."""
    if entry.kind is EntryKind.FOLDER and entry.modified:
        with suppress(OSError, OverflowError):
            os.utime(path, ns=(entry.modified, entry.modified))
    with suppress(OSError):
        os.chmod(path, entry.mode & 0o777 & ~umask)


def current_umask() -> int:
    """The permission bits that new files of this process don't get; 0o022 where the system does not tell."""
    # It can only be read by setting it, which other threads would see. Only Linux has this file.
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022

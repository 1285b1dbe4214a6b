"""
Files that only their owner may read. They are written in such a way that neither a crash nor a second process
leaves a part of one.

Only regular files are opened, whoever put them there: a named pipe would let the process wait for ever, and a
device might do anything. This module imports nothing of Punch. Its functions raise no error but `OSError`.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path


class NotRegular(OSError):
    """
    What has the name of a file is something else, such as a directory, or too long; `strerror` says what.
    """


_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path) -> None:
    """
    Check that `path` is a regular file, or a link to one, or does not exist.

    :raise NotRegular: it is something else.
    """
    with suppress(FileNotFoundError):
        _check_mode(path, os.stat(path).st_mode)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """
    Open a file, which is created with mode 0600 if `flags` say so.

    :return: the descriptor, which the caller closes.
    :raise NotRegular: it is not a regular file. It was not opened, or only for a moment.
    """
    check_regular(path)
    # It may have been replaced since the check; without O_NONBLOCK a named pipe would wait for its other end.
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, limit: int) -> bytes:
    """
    The content of a file.

    :param limit: the most bytes that it may have.
    :raise FileNotFoundError: there is none.
    :raise NotRegular: it is something else than a regular file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotRegular(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return content


def sqlite_files(path: Path) -> list[Path]:
    """All files that SQLite opens for the database `path`."""
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")]


def unusable_sentence(what: str, error: OSError, advice: str) -> str:
    """
    Return a sentence that says why a file can't be used, and what to do.

    :param what: the subject of the sentence: "The key file /x/identity.key".
    :param advice: what the user can do, without a capital letter: "choose another directory with
        --state-dir".
    """
    if isinstance(error, NotRegular):
        return f"{what} can't be used: {error.strerror}. Move it away, or {advice}."
    return f"{what} can't be used: {error.strerror or error}. {advice[0].upper()}{advice[1:]}."


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NotRegular(errno.EINVAL, f"it is {kind}, not a file", str(path))


def make_private_directory(path: Path) -> None:
    """Create `path` and what is missing above it, each new directory with mode 0700."""
    if path.is_dir():
        return
    make_private_directory(path.parent)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError as error:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def create_private(path: Path, content: bytes) -> bool:
    """
    Create `path` with mode 0600 and all of `content` at once.

    :return: False if something of this name is there already: it is left alone.
    """
    temporary = _write_temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        return _create_in_place(path, content)  # a file system without hard links
    finally:
        os.unlink(temporary)
    return True


def replace_private(path: Path, content: bytes) -> None:
    """
    Write `content` to `path` with mode 0600: afterwards the file has its old or its new content, never a
    part.
    """
    temporary = _write_temporary(path, content)
    try:
        os.replace(temporary, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


class NewFile:
    """
    A file, mode 0600, that is written bit by bit and gets its name when it is complete.

    :param path: its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = _beside(path)
        self._file = os.fdopen(_create(self._temporary), "wb")

    def write(self, content: bytes) -> None:
        """Write bytes at the end."""
        self._file.write(content)

    def finish(self) -> bool:
        """
        Give the file its name.

        :return: False if something of this name is there already: it is left alone, and this file is gone.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                return False
            except OSError:
                return self._rename()  # a file system without hard links
        finally:
            self.discard()
        return True

    def discard(self) -> None:
        """Remove the file, unless it has its name already."""
        with suppress(OSError):
            # Writing what is still buffered may fail.
            self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _rename(self) -> bool:
        # Renaming replaces whatever has the name, so an empty file is created under it first.
        if not _create_in_place(self._path, b""):
            return False
        try:
            os.replace(self._temporary, self._path)
        except OSError:
            os.unlink(self._path)
            raise
        return True


def _beside(path: Path) -> Path:
    # The name only has to be unused, so it needs no seeded source of randomness.
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = _beside(path)
    if not _create_in_place(temporary, content):
        raise FileExistsError(f"{temporary} exists")
    return temporary


def _create_in_place(path: Path, content: bytes) -> bool:
    try:
        descriptor = _create(path)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise
    return True


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Lock an open file until it is closed or this process ends, and return whether that worked."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file until it is closed or this process ends, and return whether that worked."""
        # flock, not lockf: it belongs to the open file, so it outlives the fork of a process that daemonizes.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

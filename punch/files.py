"""
Files that only their owner may read, written so that no crash and no second process leaves half of one.

It stands below everything else and imports nothing of Punch. All functions raise `OSError` and nothing else.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path


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
    """Write `content` to `path` with mode 0600: afterwards it is the old or the new one, never a part."""
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
        """Add something."""
        self._file.write(content)

    def finish(self) -> bool:
        """
        Give it its name.

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
        """Nothing is left of it, unless it has its name already."""
        with suppress(OSError):
            # What is still to be written can't always be.
            self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _rename(self) -> bool:
        # Renaming replaces what is there; so let that be an empty file of ours.
        if not _create_in_place(self._path, b""):
            return False
        try:
            os.replace(self._temporary, self._path)
        except OSError:
            os.unlink(self._path)
            raise
        return True


def _beside(path: Path) -> Path:
    # The name only has to be unused; it decides nothing, so it needs no seeded source.
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
        """Lock an open file until it is closed, by this process or by its end; whether that worked."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file until it is closed, by this process or by its end; whether that worked."""
        # flock, not lockf: it belongs to the open file, so it outlives the fork of a process that daemonizes.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

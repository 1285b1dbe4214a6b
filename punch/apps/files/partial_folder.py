"""The folder in which a transfer's files are until everything is verified, and the space that it takes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from punch.apps.files.messages import MAX_SIZE, FailureCode, TransferFailed, shown

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

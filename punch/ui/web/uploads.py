"""
Receives the files that pages send to this process, which then sends them to a peer.

A page begins an upload (`upload`), sends its files one after the other, and then names the peer to which they
go (`send-files`). Until the transfer is over, the files are in a folder of the state directory that only this
user can read. They are written in threads. While the disk is slow, the connection is paused, so that memory
does not grow.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from punch.apps.files.messages import TransferFailed, check_path
from punch.apps.files.partial_folder import FREE, disk_failure
from punch.apps.files.protocol import Run
from punch.net.driver import Timer

MAX_UPLOADS = 16
"""The most uploads at a time that are not sent yet."""
MAX_FILES = 10_000
"""The most files of one upload."""
IDLE_TIME = 120.0
"""Seconds without a file after which an upload that is not sent yet is removed."""
MAX_QUEUED = 1024 * 1024
"""Bytes of a file that may wait for the disk; with more, its connection is paused."""


class UploadError(Exception):
    """
    Files can't be received; `str()` is a sentence for the user.

    :ivar reason: the same for programs: the `reason` of JSON's `error` event.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass
class _Upload:
    """
    An upload that is not sent yet.

    :ivar folder: where its files are kept.
    :ivar size: the bytes of all files, as announced.
    :ivar missing: how many files have not begun to come.
    :ivar timer: discards it when no file comes for `IDLE_TIME`.
    :ivar received: the bytes of the files that have come or are coming, as announced.
    :ivar writing: how many files are being received.
    :ivar failed: whether a file did not come completely, or could not be written.
    :ivar discarded: whether it is to be removed as soon as no file is being received.
    :ivar items: the first components of the paths of its files, as keys, in order.
    """

    folder: Path
    size: int
    missing: int
    timer: Timer
    received: int = 0
    writing: int = 0
    failed: bool = False
    discarded: bool = False
    items: dict[str, None] = field(default_factory=dict)


class UploadedFile:
    """
    One file of an upload, while it is received.

    :param path: where it is written.
    :param modified: the time of its last change, in seconds since 1970.
    :param run: runs a function in a thread.
    :param pause: called when the disk is slower than the page.
    :param resume: called when the disk has caught up.
    :param problem: why the file can't be kept: it is read, and dropped.
    :ivar finished: fires when the file was written; fails with `UploadError`.
    """

    def __init__(
        self,
        path: Path,
        modified: float,
        run: Run,
        pause: Callable[[], object],
        resume: Callable[[], object],
        problem: UploadError | None = None,
    ) -> None:
        self.finished: Deferred[None] = Deferred()
        self._path = path
        self._modified = modified
        self._run = run
        self._pause = pause
        self._resume = resume
        self._problem = problem
        self._descriptor: int | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._working = False
        self._complete = False
        self._aborted = False

    def write(self, data: bytes) -> None:
        """Write more data of the file. After an error, it is dropped."""
        if self._problem is not None or self._aborted:
            return
        self._queue.append(data)
        self._queued += len(data)
        if self._queued > MAX_QUEUED and not self._paused:
            self._paused = True
            self._pause()
        self._work()

    def end(self) -> None:
        """Note that all data of the file has come."""
        self._complete = True
        self._work()

    def abort(self) -> None:
        """Give the file up, as the rest will not come. Nobody has to handle the error of `finished` then."""
        self.finished.addErrback(lambda _: None)
        self._aborted = True
        self._queue.clear()
        self._work()

    def _work(self) -> None:
        if not self._working:
            self._working = True
            Deferred.fromCoroutine(self._write()).addErrback(self._failed)

    async def _write(self) -> None:
        try:
            while self._queue and self._problem is None:
                data = b"".join(self._queue)
                self._queue.clear()
                await self._run(partial(self._append, data))
                self._queued -= len(data)
                if self._paused and self._queued <= MAX_QUEUED // 2:
                    self._paused = False
                    self._resume()
            if self._complete or self._aborted:
                await self._run(self._close)
        except (FileExistsError, NotADirectoryError):
            self._problem = UploadError(
                "bad-file", "There is another file or folder of this name in it: send one after the other."
            )
        except OSError as error:
            reason = disk_failure(error, self._path).code.value
            self._problem = UploadError(
                reason, f"The disk of this machine can't take the file: {error.strerror}."
            )
            await self._run(self._close)
        finally:
            self._working = False
        if self._paused:
            self._paused = False
            self._resume()
        if self._complete or self._aborted:
            self._finish()

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)

    def _close(self) -> None:
        if self._descriptor is None and self._problem is None and not self._aborted:
            self._open()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError, OverflowError, ValueError):
                os.utime(descriptor, (self._modified, self._modified))
            # The permissions are sent to the peer as well, so they are set to those of ordinary files.
            os.fchmod(descriptor, 0o644)
            os.close(descriptor)

    def _finish(self) -> None:
        if self.finished.called:
            return
        problem = self._problem
        if problem is None and self._aborted:
            problem = UploadError("lost", "The page went away before the file had come.")
        if problem is None:
            self.finished.callback(None)
        else:
            self.finished.errback(problem)

    def _failed(self, failure: Failure) -> None:
        if not self.finished.called:
            self.finished.errback(failure)


class Uploads:
    """
    The uploads of all pages.

    :param folder: the folder that keeps them; everything in it is removed at the start.
    :param run: runs a function that waits for the disk in a thread.
    :param random: returns the given number of random bytes.
    """

    def __init__(self, folder: Path, run: Run, clock: IReactorTime, random: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._run = run
        self._clock = clock
        self._random = random
        self._uploads: dict[str, _Upload] = {}
        # It may contain files of an earlier process that was killed.
        shutil.rmtree(folder, ignore_errors=True)

    def begin(self, size: int, files: int) -> str:
        """
        Begin an upload.

        :param size: the bytes of all files.
        :param files: the number of files.
        :return: the name of the upload.
        :raise UploadError: there are too many (`too-many`), it does not fit on the disk (`no-space`), or the
            disk can't be written (`disk`).
        """
        if len(self._uploads) >= MAX_UPLOADS:
            raise UploadError("too-many", f"{MAX_UPLOADS} uploads are under way: wait until one is over.")
        if not 1 <= files <= MAX_FILES:
            raise UploadError("too-many", f"Send 1 to {MAX_FILES:,} files at once from a browser.")
        name = self._random(16).hex()
        folder = self._folder / name
        try:
            folder.mkdir(mode=0o700, parents=True)
            disk = os.statvfs(folder)
        except OSError as error:
            raise UploadError("disk", f"{folder} can't be made: {error.strerror}.") from error
        free = disk.f_bavail * disk.f_frsize
        if disk.f_blocks and size + FREE > free:
            shutil.rmtree(folder, ignore_errors=True)
            raise UploadError(
                "no-space",
                f"The files have {size:,} bytes, and the disk with {self._folder} has "
                f"{max(free - FREE, 0):,} free: files from a browser are kept there until they are sent. "
                "Free some space, or use punch send, which needs none.",
            )
        self._uploads[name] = _Upload(folder, size, files, Timer(self._clock))
        self._restart_timer(name)
        return name

    def receive(
        self,
        name: str,
        path: str,
        modified: float,
        size: int,
        pause: Callable[[], object],
        resume: Callable[[], object],
    ) -> UploadedFile:
        """
        Begin to receive a file.

        :param name: the name of the upload.
        :param path: the name of the file, after the names of its folders, if any, separated by slashes.
        :param modified: the time of its last change, in seconds since 1970.
        :param size: the bytes of the file.
        :return: takes the data. If the file can't be kept, the data is read all the same, so that the page
            gets the reason as the response.
        """
        upload = self._uploads.get(name)
        if upload is None:
            gone = UploadError("no-upload", "The upload is over, or was not used for too long: try again.")
            return UploadedFile(self._folder, modified, self._run, pause, resume, gone)
        problem = None
        try:
            check_path(path.encode("utf-8", "surrogatepass"))
            path.encode()
        except (TransferFailed, UnicodeError):
            problem = UploadError("bad-file", "The name of a file can't be used.")
        upload.missing -= 1
        if upload.received + size > upload.size or upload.missing < 0:
            problem = UploadError("bad-file", "There is more than was announced: try again.")
        upload.received += size
        upload.writing += 1
        if problem is None:
            upload.items[path.split("/")[0]] = None
        self._restart_timer(name)
        place = upload.folder / path if problem is None else upload.folder
        file = UploadedFile(place, modified, self._run, pause, resume, problem)

        def over(outcome: object) -> object:
            upload.writing -= 1
            upload.failed = upload.failed or isinstance(outcome, Failure)
            self._restart_timer(name)
            if upload.discarded and not upload.writing:
                self.remove(name)
            return outcome

        file.finished.addBoth(over)
        return file

    def take(self, name: str) -> list[Path]:
        """
        Return the files and folders of an upload, to be sent. They exist until `remove` is called.

        :raise UploadError: there is no such upload, or it is not complete (`no-upload`).
        """
        upload = self._uploads.get(name)
        if upload is None or upload.writing or upload.missing or upload.failed:
            raise UploadError("no-upload", "The files have not come completely: send them again.")
        del self._uploads[name]
        upload.timer.cancel()
        return [upload.folder / item for item in upload.items]

    def discard(self, name: str) -> None:
        """Remove an upload that was not taken, as soon as none of its files is being received."""
        upload = self._uploads.pop(name, None)
        if upload is None:
            return
        upload.timer.cancel()
        upload.discarded = True
        if not upload.writing:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Remove the files and folders of an upload that was taken, as its transfer is over."""
        self._run(partial(shutil.rmtree, self._folder / name, ignore_errors=True))

    def stop(self) -> None:
        """Remove all uploads, as the process ends."""
        for upload in self._uploads.values():
            upload.timer.cancel()
        self._uploads.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _restart_timer(self, name: str) -> None:
        upload = self._uploads.get(name)
        if upload is None:
            return
        if upload.writing:
            upload.timer.cancel()
        else:
            upload.timer.start(IDLE_TIME, self.discard, name)

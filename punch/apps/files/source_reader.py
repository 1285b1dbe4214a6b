"""
The content of what is sent, as messages: files, and pipes that are waited for.

All functions wait for the disk or for a pipe, so they belong into a thread.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from punch.apps.files.codec import COPIED, DataMessage, Message, encode_data, encode_file_end, encode_zeros
from punch.apps.files.messages import (
    BLOCK,
    DIGEST,
    PIECE,
    Digest,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    TransferFailed,
    digests,
    file_digest,
)
from punch.apps.files.source import Source, modified_time

_ZEROS = bytes(PIECE)


class SourceReader:
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
        Return the next messages, of about `size` bytes in all; none at the end. What comes from a pipe is
        returned as it comes: what writes to it may take its time.

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
        # What was a file may be a pipe by now, whose other end is not waited for, or a link, which is not
        # followed.
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
        if found.st_size != entry.size or modified_time(found) != entry.modified:
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


INTERVAL = 200
"""Milliseconds after which it is checked whether the wait goes on."""


def wait_for_pipe(descriptor: int, wanted: Callable[[], bool]) -> bool:
    """
    Wait until a pipe has something to read, or its end.

    :param wanted: whether to go on waiting; called every `INTERVAL`.
    :return: False if the wait was ended by `wanted`.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while wanted():
        if poll.poll(INTERVAL):
            return True
    return False

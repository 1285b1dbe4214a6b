"""
Where received files go: a folder of the transfer's own beside the final names, until everything is verified.
A later attempt resumes from what is in this folder (`Target.have`).

All functions wait for the disk, so they belong into a thread. They write nowhere but into the target folder,
and never over what is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from punch.apps.files.codec import (
    DataMessage,
    Message,
    decode_data,
    decode_entries,
    decode_file_end,
    decode_zeros,
    encode_done,
    encode_have,
    encode_have_end,
    message_type,
)
from punch.apps.files.events import OddNames
from punch.apps.files.messages import (
    BLOCK,
    DIGEST,
    MAX_PATHS,
    PIECE,
    UNKNOWN_SIZE,
    Digest,
    Entry,
    EntryKind,
    FailureCode,
    FilesMessageError,
    FilesOffer,
    MessageType,
    TransferFailed,
    check_offered,
    digests,
    file_digest,
    link_leads_outside,
    shown,
)
from punch.apps.files.partial_folder import (
    MovedItems,
    PartialFolder,
    current_umask,
    disk_failure,
    make_folder,
    move,
    numbered,
    safe_name,
    set_attributes,
    write_at,
)

_ZEROS = bytes(PIECE)


@dataclass
class _OpenFile:
    """The file that is being received."""

    index: int
    descriptor: int
    size: int
    """Bytes that it had when it was opened."""
    known: bytes
    """The digests of the blocks that were there before."""
    blocks: bytearray = field(default_factory=bytearray)
    """The digests of the blocks that are complete."""
    offset: int = 0
    """Bytes up to here are there."""
    digest: Digest | None = None
    """Of the block that is being received."""


class Target:
    """
    One transfer, on the receiving side.

    :param folder: the target folder; it exists.
    :param sender: the sender's ID: only it can continue this transfer.
    :ivar hash_name: the digest that both sides use.
    :ivar position: bytes of content that are there.
    :ivar finals: the final paths of the items, when the transfer is complete.
    :ivar odd_names: what is unusual about the names in folders.
    :ivar left_out: the links that the file system does not take, when the transfer is complete.
    :raise TransferFailed: the disk is full, can't be written, or the same transfer runs already.
    """

    def __init__(self, folder: Path, sender: str, offer: FilesOffer) -> None:
        self._offer = offer
        self._folder = folder
        self._hashes = digests()
        self.hash_name = next((name for name in self._hashes if name in offer.hashes), "")
        if not self.hash_name:
            raise FilesMessageError("no digest that both sides know")
        self._new = self._hashes[self.hash_name]
        self.position = 0
        self.finals: list[Path] = []
        self.odd_names = OddNames()
        self.left_out: list[str] = []
        self._stopped = False
        self._entries: list[Entry] = []
        self._paths: list[Path] = []
        self._paths_size = 0
        self._kinds: dict[bytes, EntryKind] = {}
        self._folders: dict[bytes, Path] = {}
        self._names: set[Path] = set()
        self._files_seen: set[tuple[int, int]] = set()
        self._have: dict[int, bytes] = {}
        self._ended: set[int] = set()
        self._file: _OpenFile | None = None
        key = hashlib.sha256("\0".join([sender, *sorted(item.name for item in offer.items)]).encode())
        self._umask = current_umask()
        name = f".punch-{key.hexdigest()[:16]}"
        needed = sum(item.size or 0 for item in offer.items)
        if offer.stored is not None:
            needed = min(needed, offer.stored)
        self._partial = PartialFolder(folder / f"{name}.part", needed)
        self._moved = MovedItems(folder / f"{name}.moved")
        self._in_place: dict[int, Path] = {}

    @property
    def complete(self) -> bool:
        """Whether all entries are known, and all files there and verified."""
        return self.has_all_entries and len(self._ended) == self._offer.files

    @property
    def has_all_entries(self) -> bool:
        """Whether all entries are known."""
        return len(self._entries) == self._offer.entries

    def receive(self, message: Message) -> list[bytes]:
        """
        Handle a message of the sender.

        :return: the messages that answer it. The last one of a transfer is DONE; everything has its final
            name then, and `finals` says which.
        :raise TransferFailed: it is not allowed, or the disk fails.
        """
        if isinstance(message, DataMessage):
            self._check_entries()
            self.write(message.index, message.offset, message.parts)
            return []
        kind = message_type(message)
        if kind is MessageType.ENTRIES:
            if self.has_all_entries:
                raise FilesMessageError("more entries than were offered")
            self.add_entries(decode_entries(message))
            if not self.has_all_entries:
                return []
            return [*self.have(), encode_have_end(), *self._finish_if_complete()]
        self._check_entries()
        if kind is MessageType.DATA:
            index, offset, data = decode_data(message)
            self.write(index, offset, [data])
        elif kind is MessageType.ZEROS:
            index, offset, size = decode_zeros(message)
            self.write(index, offset, [_ZEROS[:size]], zeros=True)
        elif kind is MessageType.FILE_END:
            self.end_file(*decode_file_end(message))
            return self._finish_if_complete()
        else:
            raise FilesMessageError("a message that the sender does not send")
        return []

    def _check_entries(self) -> None:
        if not self.has_all_entries:
            raise FilesMessageError("content of files, before all entries are known")

    def receive_all(self, messages: Iterable[Message]) -> list[bytes]:
        """Handle several messages, as `receive` does each."""
        answers = []
        for message in messages:
            self._check_stopped()
            answers += self.receive(message)
        return answers

    def stop(self) -> None:
        """Have a call that runs in another thread fail soon: its result is no longer wanted."""
        self._stopped = True

    def _check_stopped(self) -> None:
        if self._stopped:
            raise TransferFailed(FailureCode.CANCELLED)

    def _finish_if_complete(self) -> list[bytes]:
        if not self.complete:
            return []
        self.finals = self.finish()
        return [encode_done()]

    # What the messages say

    def add_entries(self, entries: Iterable[Entry]) -> None:
        """
        Take the next entries. Folders are made at once.

        :raise TransferFailed: they are not what was offered, or can't be made.
        """
        for entry in entries:
            if len(self._entries) >= self._offer.entries:
                raise FilesMessageError("more entries than were offered")
            self._check(entry)
            self._paths_size += len(entry.path) + len(entry.target)
            if self._paths_size > MAX_PATHS:
                raise FilesMessageError("paths that are too long in all")
            self._kinds[entry.path] = entry.kind
            self.odd_names.add(entry.path)
            path = self._path(entry)
            self._entries.append(entry)
            self._paths.append(path)
            try:
                if entry.kind is EntryKind.FOLDER:
                    self._partial.check_rest()
                    make_folder(path)
                elif self._partial.resumed and path.is_dir():
                    # It was a folder at the earlier attempt.
                    shutil.rmtree(path)
            except OSError as error:
                raise disk_failure(error, path) from error
        if self.has_all_entries:
            check_offered(self._offer, self._entries)
            self._find_moved()

    def _find_moved(self) -> None:
        """Leave items where they are that an earlier attempt has moved."""
        self._in_place = self._moved.in_place(self._entries, self._paths)
        for index, path in self._in_place.items():
            if b"/" not in self._entries[index].path:
                # Folders that were made a moment ago
                shutil.rmtree(self._paths[index], ignore_errors=True)
            self._paths[index] = path

    def _path(self, entry: Entry) -> Path:
        """Where an entry is written to: under its own name, without what would act on a terminal."""
        parent, _, name = entry.path.rpartition(b"/")
        folder = self._folders[parent] if parent else self._partial.path
        path = folder / safe_name(os.fsdecode(name))
        if path in self._names:
            path = folder / numbered(path.name, len(self._entries) + 1, entry.kind is EntryKind.FOLDER)
        self._names.add(path)
        if entry.kind is EntryKind.FOLDER:
            self._folders[entry.path] = path
        return path

    def _check(self, entry: Entry) -> None:
        if entry.path in self._kinds:
            raise FilesMessageError("two entries of one name")
        parent, _, _ = entry.path.rpartition(b"/")
        if not parent:
            if entry.kind is EntryKind.LINK:
                raise FilesMessageError("a link that is not in a folder")
        elif self._kinds.get(parent) is not EntryKind.FOLDER:
            raise FilesMessageError("an entry whose folder was not sent")
        if entry.kind is EntryKind.LINK and link_leads_outside(entry.path, entry.target):
            raise FilesMessageError("a link that leads out of its folder")

    def have(self) -> Iterator[bytes]:
        """
        Return messages that say which parts of the files are there from an earlier attempt.

        :raise TransferFailed: they can't be read.
        """
        for index, (entry, path) in enumerate(zip(self._entries, self._paths, strict=True)):
            if entry.kind is not EntryKind.FILE or entry.size == UNKNOWN_SIZE:
                continue
            try:
                blocks = self._blocks(path, entry.size)
            except OSError as error:
                raise disk_failure(error, path) from error
            if blocks:
                self._have[index] = blocks
                yield from encode_have(index, blocks)

    def _blocks(self, path: Path, size: int) -> bytes:
        """The digests of all blocks that are there in full."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        blocks = bytearray()
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is not a file", str(path))
            for offset in range(0, size, BLOCK):
                self._check_stopped()
                block = file.read(min(BLOCK, size - offset))
                if len(block) < min(BLOCK, size - offset):
                    break
                digest = self._new()
                digest.update(block)
                blocks += digest.digest()
        return bytes(blocks)

    def write(
        self,
        index: int,
        offset: int,
        parts: Sequence[bytes | bytearray | memoryview],
        *,
        zeros: bool = False,
    ) -> None:
        """
        Write a piece of a file. Pieces come in order; the sender may leave out blocks that are here already.

        :param offset: where in the file the piece begins, in bytes.
        :param parts: its content, one part after the other.
        :param zeros: whether all bytes are zero: then it becomes a hole, unless the file has content there.
        :raise TransferFailed: it is out of order, or can't be written.
        """
        entry, file = self._entry(index), self._open(index)
        if index in self._in_place:
            # It has its final name, and is not what is sent: the next attempt takes another name
            self._moved.forget()
            raise TransferFailed(FailureCode.SOURCE_CHANGED, shown(entry.path))
        if offset != file.offset:
            self._keep(file, entry, offset)
        end = offset + sum(map(len, parts))
        if end > entry.size or offset // BLOCK != (end - 1) // BLOCK:
            raise FilesMessageError("a piece of a file that is too long")
        if file.digest is None:
            file.digest = self._new()
        try:
            if not zeros or offset < file.size:
                if offset % BLOCK == 0:
                    self._partial.check_rest()
                write_at(file.descriptor, parts, offset)
        except OSError as error:
            raise disk_failure(error, self._paths[index]) from error
        for part in parts:
            file.digest.update(part)
        self._advance(file, end, end % BLOCK == 0)

    def _advance(self, file: _OpenFile, offset: int, block_ends: bool) -> None:
        self.position += offset - file.offset
        file.offset = offset
        if block_ends and file.digest is not None:
            file.blocks += file.digest.digest()
            file.digest = None

    def _keep(self, file: _OpenFile, entry: Entry, end: int) -> None:
        """Take the blocks up to `end` as they are here."""
        if file.digest is not None or end < file.offset or end > entry.size:
            raise FilesMessageError("a piece of a file that is out of order")
        if end % BLOCK and end != entry.size:
            raise FilesMessageError("a piece of a file that is not at the beginning of a block")
        needed = -(-end // BLOCK) * DIGEST
        if needed > len(file.known):
            raise FilesMessageError("a piece of a file is missing")
        file.blocks += file.known[len(file.blocks) : needed]
        self._advance(file, end, False)

    def end_file(self, index: int, size: int, digest: bytes) -> None:
        """
        Verify and close a file of which everything has come.

        :raise TransferFailed: it is not what the sender has.
        """
        entry, file = self._entry(index), self._open(index)
        if entry.size not in (size, UNKNOWN_SIZE):
            raise FilesMessageError("a file of another size than was offered")
        if file.digest is not None:
            self._advance(file, file.offset, True)
        if file.offset != size:
            self._keep(file, entry, size)
        if file_digest(self._new, size, file.blocks) != digest:
            self._discard(file)
            raise TransferFailed(FailureCode.CORRUPTED, shown(entry.path))
        self._file = None
        try:
            if index not in self._in_place:
                os.ftruncate(file.descriptor, size)
            if entry.modified and index not in self._in_place:
                with suppress(OSError, OverflowError):
                    os.utime(file.descriptor, ns=(entry.modified, entry.modified))
            found = os.fstat(file.descriptor)
        except OSError as error:
            raise disk_failure(error, self._paths[index]) from error
        finally:
            os.close(file.descriptor)
        if (found.st_dev, found.st_ino) in self._files_seen:
            detail = "this file system takes its name for that of another file of the transfer"
            raise TransferFailed(FailureCode.DISK, shown(entry.path), detail)
        self._files_seen.add((found.st_dev, found.st_ino))
        self._ended.add(index)

    def _entry(self, index: int) -> Entry:
        if index >= len(self._entries) or self._entries[index].kind is not EntryKind.FILE:
            raise FilesMessageError("a piece of what is no file")
        return self._entries[index]

    def _open(self, index: int) -> _OpenFile:
        if self._file is not None:
            if self._file.index != index:
                raise FilesMessageError("a file that begins before another ends")
            return self._file
        if index in self._ended:
            raise FilesMessageError("a file that was complete already")
        path = self._paths[index]
        access = os.O_RDONLY if index in self._in_place else os.O_RDWR | os.O_CREAT
        flags = access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise disk_failure(error, path) from error
        size = os.fstat(descriptor).st_size
        self._file = _OpenFile(index, descriptor, size, self._have.pop(index, b""))
        return self._file

    def _discard(self, file: _OpenFile) -> None:
        self._file = None
        os.close(file.descriptor)
        if file.index in self._in_place:
            self._moved.forget()
        else:
            self._paths[file.index].unlink(missing_ok=True)

    # The end

    def finish(self) -> list[Path]:
        """
        Give everything its final name. A name that is taken gets a number.

        :return: the final paths of the items.
        :raise TransferFailed: not everything is there, or it can't be moved.
        """
        if not self.complete:
            raise FilesMessageError("the end, before all files were there")
        waiting = [
            (entry, path)
            for index, (entry, path) in enumerate(zip(self._entries, self._paths, strict=True))
            if index not in self._in_place
        ]
        try:
            for entry, path in waiting:
                if entry.kind is EntryKind.LINK:
                    self._make_link(entry, path)
            self._partial.keep_only(self._names)
            for entry, path in reversed(waiting):
                if b"/" in entry.path and entry.kind is not EntryKind.LINK:
                    set_attributes(path, entry, self._umask)
            finals = []
            for index, (entry, path) in enumerate(zip(self._entries, self._paths, strict=True)):
                if b"/" in entry.path:
                    continue
                moving = partial(self._moved.add, entry.path, source=path)
                finals.append(path if index in self._in_place else move(path, self._folder, moving))
                # Not earlier: a folder that its owner can't write to can't be moved.
                set_attributes(finals[-1], entry, self._umask)
            self._partial.remove()
            self._moved.forget()
        except OSError as error:
            raise disk_failure(error, self._folder) from error
        finally:
            self.close()
        return finals

    def _make_link(self, entry: Entry, path: Path) -> None:
        try:
            path.symlink_to(os.fsdecode(entry.target))
        except OSError as error:
            if disk_failure(error, path).code is FailureCode.NO_SPACE:
                raise
            self.left_out.append(shown(entry.path))

    def close(self) -> None:
        """Stop here. What is there is kept, and is continued when the same items come again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file.descriptor)
        if not self.complete:
            for entry, path in zip(self._entries, self._paths, strict=True):
                if entry.size == UNKNOWN_SIZE:
                    # A pipe can't be read again.
                    with suppress(OSError):
                        path.unlink()
        # If nothing was received, an empty folder would only be in the way.
        self._partial.close(remove_empty=not self._entries)

"""
The names that received files get, and a record of the items that have them: nothing is written over, and no
name acts on a terminal.

A file beside the partial folder has a line of JSON for each item that was moved. If the transfer is
interrupted then, the next attempt leaves these items. A moved item is never written to: if it is not what is
sent any more, the item is received once more, under another name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from punch.apps.files.messages import UNKNOWN_SIZE, Entry, EntryKind, shown
from punch.sanitize import unseen
from punch.wire.strict_json import JSONError, dumps, loads

MAX_RECORD = 256 * 1024
"""Bytes of a record that are read; 100 items need fewer."""
TIME_STEP = 2 * 10**9
"""Nanoseconds by which file systems round times."""

ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of text."""


def safe_name(name: str) -> str:
    """`name` without characters that would act on a terminal instead of being seen, or are `unseen`."""
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
    """`name`, or from 1 on "name (1).ext", in at most 255 bytes."""
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
        Return where the entries are whose items were moved, and are what is sent now, as far as sizes and
        times tell.

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

"""
The lines that were typed, for the arrow keys. They are kept when the process ends.

They are in a file of the peer's state directory that only its owner can read: one JSON array `[time, line]`
per line. The lines contain messages, so they are erased with the history, and kept no longer than it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from punch.files import open_regular, read_regular, replace_private

#: Lines that are kept.
MAX_LINES = 1000

#: Longest line that is kept, in characters.
MAX_LENGTH = 4096

_MAX_FILE = MAX_LINES * (6 * MAX_LENGTH + 32)


class LineHistory:
    """
    Typed lines, oldest first. Errors of the disk are ignored, since the history has the messages as well.

    :param path: the file that keeps them; None: they are kept in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: list[tuple[float, str]] = []
        if path is not None:
            with contextlib.suppress(OSError):
                self._lines = list(_read(path))[-MAX_LINES:]
        self._written = len(self._lines)

    def __iter__(self) -> Iterator[str]:
        return (line for _, line in self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: str, now: float) -> bool:
        """
        Keep a line, unless it is empty, very long or the same as the last.

        :param now: wall time in seconds.
        :return: whether it was kept.
        """
        if not line.strip() or len(line) > MAX_LENGTH or (self._lines and self._lines[-1][1] == line):
            return False
        self._lines.append((now, line))
        del self._lines[:-MAX_LINES]
        self._written += 1
        if self._written > 2 * MAX_LINES:
            self._rewrite()
        else:
            self._append(now, line)
        return True

    def erase(self) -> None:
        """Forget all lines, and overwrite and remove the file. If it can't be overwritten, it stays."""
        self._lines.clear()
        self._written = 0
        if self._path is not None:
            with contextlib.suppress(OSError):
                _overwrite(self._path)
                self._path.unlink(missing_ok=True)

    def forget_before(self, time: float) -> None:
        """Forget what was typed before `time` (wall time in seconds)."""
        kept = [(when, line) for when, line in self._lines if when >= time]
        if len(kept) < len(self._lines):
            self._lines = kept
            if self._path is not None:
                with contextlib.suppress(OSError):
                    _overwrite(self._path)
            self._rewrite()

    # -- the file --

    def _append(self, now: float, line: str) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            descriptor = open_regular(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_entry(now, line))

    def _rewrite(self) -> None:
        self._written = len(self._lines)
        if self._path is not None:
            with contextlib.suppress(OSError):
                replace_private(self._path, b"".join(_entry(*entry) for entry in self._lines))


def _overwrite(path: Path) -> None:
    """Overwrite a file with zeros, so that its blocks don't keep the text when they are free."""
    with os.fdopen(open_regular(path, os.O_RDWR), "r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())


def _entry(now: float, line: str) -> bytes:
    return json.dumps([round(now, 3), line]).encode("ascii") + b"\n"


def _read(path: Path) -> Iterator[tuple[float, str]]:
    content = read_regular(path, _MAX_FILE)
    for entry in content.splitlines():
        # A line cut short by a crash, or anything else, is skipped.
        with contextlib.suppress(ValueError, TypeError):
            when, line = json.loads(entry)
            if isinstance(when, (int, float)) and isinstance(line, str):
                yield float(when), line

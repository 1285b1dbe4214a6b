"""The names that received files get: nothing is written over, and no name acts on a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that change the direction of text."""


def safe_name(name: str) -> str:
    """`name` without characters that would act on a terminal instead of being seen."""
    return _UNSAFE.sub("_", name)


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

"""What targets share that read files: a place for them, and databases that something has damaged."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.fuzz.target import Reader


@cache
def directory() -> Path:
    """A temporary directory, in memory where the system has that. It is removed at the end."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="punch-fuzz-", dir=place))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def write_damaged(path: Path, whole: bytes, damages: bytes) -> None:
    """
    Write a database in place of an earlier one, of which all files are removed.

    :param whole: its content before the damages.
    :param damages: for `Reader`: places of three bytes, each before a chunk that is written there.
    """
    content = bytearray(whole)
    reader = Reader(damages)
    while reader.more:
        at = (reader.byte() << 16 | reader.byte() << 8 | reader.byte()) % len(content)
        piece = reader.chunk()[: len(content) - at]
        content[at : at + len(piece)] = piece
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    path.write_bytes(content)

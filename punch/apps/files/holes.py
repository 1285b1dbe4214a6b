"""How much of a file is in holes: ranges that read as zeros and take no space on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from punch.apps.files.messages import PIECE

MIN_HOLES = 1024 * 1024
"""Files that save fewer bytes than this on the disk are not looked at."""
MAX_EXTENTS = 10_000
"""Files with more ranges of data are taken to have no holes."""


def bytes_in_holes(path: Path, found: os.stat_result) -> int:
    """
    How many bytes of a file a receiver need not store, as all of a piece of the file (`PIECE`) is in a hole.

    :param found: what `stat` has told of the file.
    :return: 0 if the file system does not tell.
    """
    blocks = getattr(found, "st_blocks", None)
    if blocks is None or found.st_size - blocks * 512 < MIN_HOLES or not hasattr(os, "SEEK_DATA"):
        return 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return max(0, found.st_size - _pieces_with_data(descriptor) * PIECE)
    except OSError:
        return 0
    finally:
        os.close(descriptor)


def _pieces_with_data(descriptor: int) -> int:
    """
    :raise OSError: the file system can't tell.
    """
    pieces = counted = position = 0
    for _ in range(MAX_EXTENTS):
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return pieces  # There is no more data
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        end = -(-position // PIECE)
        pieces += end - max(counted, start // PIECE)
        counted = end
    raise OSError(errno.EFBIG, "there are too many ranges of data")

"""A wall clock that a test sets, for the processes that it starts."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from tests.needs import missing

_SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """
    What processes that are given `environment` take for the wall clock. Their monotonic time is the real one.

    libfaketime would do the same, but also replaces `pthread_cond_timedwait`, with which Python's threads
    wait for each other: a program that loads a library in a thread stood still for ten seconds and more.

    :param directory: where to keep two files.
    """

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            missing("there is no C compiler (Debian package gcc)")
        library = directory / "wall_clock.so"
        subprocess.run(
            [compiler, "-Wall", "-Werror", "-O1", "-fPIC", "-shared", "-o", str(library), str(_SOURCE)],
            check=True,
        )
        self._file = directory / "wall-clock"
        self._ahead = 0
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set it forward by so many seconds, back if they are negative."""
        self._ahead += seconds
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", self._ahead))

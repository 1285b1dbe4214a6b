"""A wall clock that a test sets, for one process: libfaketime (Debian package faketime)."""

from __future__ import annotations

import glob
from pathlib import Path

from .needs import missing


class WallClock:
    """
    What processes that are given `environment` take for the wall clock. Their monotonic time is the real one.

    :param directory: where to keep a file.
    """

    def __init__(self, directory: Path) -> None:
        libraries = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        if not libraries:
            missing("libfaketime is not installed (Debian package faketime)")
        self._file = directory / "wall-clock"
        self._ahead = 0
        self.set(0)
        self.environment = {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set it forward by so many seconds, back if they are negative."""
        self._ahead += seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{self._ahead:+d}\n")
        new.replace(self._file)

"""
How far a transfer is, for a person: a bar in a terminal, lines elsewhere.

The bar is tqdm's, of the extra `files`. Without it, a terminal gets lines, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from punch.ui.text.transfers import progress_text

INTERVAL = 0.2
"""Seconds between two looks at a transfer."""
LINE_INTERVAL = 10.0
"""Seconds between two lines where there is no bar."""


class Progress:
    """
    How far one transfer is.

    :param label: stands before the bar.
    :param size: bytes of all files; None: it is not known.
    :param now: the time in seconds.
    :param write: prints a line.
    :param terminal: where a bar is drawn; None: lines are printed.
    """

    def __init__(
        self,
        label: str,
        size: int | None,
        now: float,
        write: Callable[[str], object],
        terminal: TextIO | None,
    ) -> None:
        self._label = label
        self._size = size
        self._write = write
        self._began: tuple[float, int] | None = None
        self._next_line = now + LINE_INTERVAL
        self._bar = None if terminal is None else _bar(label, size, terminal)

    def look(self, position: int, now: float) -> None:
        """`position` bytes are there at `now`."""
        if self._began is None:
            # What was there before tells nothing of the rate.
            self._began = (now, position)
            if self._bar is not None:
                self._bar.initial = position
        if self._bar is not None:
            self._bar.n = position
            self._bar.refresh()
        elif now >= self._next_line:
            self._next_line = now + LINE_INTERVAL
            self._write(f"{self._label}: {progress_text(position, self._size, self.rate(position, now))}")

    def rate(self, position: int, now: float) -> float:
        """Bytes a second since the transfer began, or goes on."""
        if self._began is None:
            return 0.0
        since, first = self._began
        return max(0, position - first) / (now - since) if now > since else 0.0

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(label: str, size: int | None, terminal: TextIO) -> Any:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, import-not-found, unused-ignore]  # an extra
    except ImportError:
        return None
    return tqdm(
        total=size, desc=label, unit="B", unit_scale=True, leave=False, file=terminal, dynamic_ncols=True
    )

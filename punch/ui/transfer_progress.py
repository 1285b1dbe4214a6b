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


class Display:
    """
    What a command with transfers shows on the user's terminal: lines, and below them a bar for each transfer,
    or a question.

    :param write: writes a text, and what follows it, which is "\\n" by default.
    :param terminal: where bars are drawn; None: progress is printed as lines.
    """

    def __init__(self, write: Callable[..., object], terminal: TextIO | None) -> None:
        self._write = write
        self._terminal = terminal
        self._running: list[Progress] = []
        self._question = ""

    @property
    def asking(self) -> bool:
        """Whether the user is asked: the cursor stays behind the question, so that no bar is drawn."""
        return bool(self._question)

    def line(self, text: str) -> None:
        """Print a line, and an open question once more below it."""
        for progress in self._running:
            progress.clear()
        self._write(f"\n{text}" if self._question else text)
        if self._question:
            self._write(self._question, end="")

    def ask(self, question: str) -> None:
        """Write a question in whose line the user answers."""
        for progress in self._running:
            progress.hide()
        self._question = question
        self._write(question, end="")

    def answered(self, entered: bool = True) -> None:
        """
        No question is open any more.

        :param entered: whether the user ended its line.
        """
        if self._question and not entered:
            self._write("")
        self._question = ""

    def follow(self, label: str, size: int | None, now: float) -> Progress:
        """A transfer begins."""
        progress = Progress(label, size, now, self)
        self._running.append(progress)
        return progress

    def ended(self, progress: Progress) -> None:
        """A transfer is over."""
        if progress in self._running:
            self._running.remove(progress)

    def bar(self, label: str, size: int | None, position: int) -> Any:
        """A new bar; None: progress is printed as lines."""
        if self._terminal is None:
            return None
        try:
            from tqdm import tqdm  # type: ignore[import-untyped, import-not-found, unused-ignore]  # an extra
        except ImportError:
            return None
        return tqdm(
            total=size,
            desc=label,
            unit="B",
            unit_scale=True,
            leave=False,
            file=self._terminal,
            dynamic_ncols=True,
            initial=position,
        )


class Progress:
    """
    How far one transfer is.

    :param label: stands before the bar.
    :param size: bytes of all files; None: it is not known.
    :param now: the time in seconds.
    """

    def __init__(self, label: str, size: int | None, now: float, display: Display) -> None:
        self._label = label
        self._size = size
        self._display = display
        self._began: tuple[float, int] | None = None
        self._next_line = now + LINE_INTERVAL
        self._bar: Any = None

    def look(self, position: int, now: float) -> None:
        """`position` bytes are there at `now`."""
        if self._began is None:
            # What was there before tells nothing of the rate.
            self._began = (now, position)
        if self._display.asking:
            return
        if self._bar is None:
            self._bar = self._display.bar(self._label, self._size, position)
        if self._bar is not None:
            self._bar.n = position
            self._bar.refresh()
        elif now >= self._next_line:
            self._next_line = now + LINE_INTERVAL
            rate = self.rate(position, now)
            self._display.line(f"{self._label}: {progress_text(position, self._size, rate)}")

    def rate(self, position: int, now: float) -> float:
        """Bytes a second since the transfer began, or goes on."""
        if self._began is None:
            return 0.0
        since, first = self._began
        return max(0, position - first) / (now - since) if now > since else 0.0

    def clear(self) -> None:
        """Make room for a line; the bar is drawn again with the next look."""
        if self._bar is not None:
            self._bar.clear()

    def hide(self) -> None:
        """Remove the bar until the next look."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def close(self) -> None:
        """Remove the bar."""
        self.hide()
        self._display.ended(self)

"""
Shows a person how far transfers are: with bars in a terminal, with lines elsewhere.

tqdm, of the extra `files`, draws the bars. Without it, lines are printed in a terminal, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from punch.ui.text.transfers import progress_text

INTERVAL = 0.2
"""Seconds between two calls of `Progress.look`."""
LINE_INTERVAL = 10.0
"""Seconds between two lines about the same transfer, where there is no bar."""


class Display:
    """
    The output of a command with transfers: lines, and below them either a bar for each transfer or a question
    to the user.

    :param write: writes a text and a line end; its keyword `end` is written in place of the line end.
    :param terminal: the terminal to draw bars on; None: progress is printed as lines.
    """

    def __init__(self, write: Callable[..., object], terminal: TextIO | None) -> None:
        self._write = write
        self._terminal = terminal
        self._running: list[Progress] = []
        self._question = ""

    @property
    def asking(self) -> bool:
        """Whether a question is open. No bar is drawn then, as the cursor stays behind the question."""
        return bool(self._question)

    def line(self, text: str) -> None:
        """Print a line. An open question is written again below it."""
        for progress in self._running:
            progress.clear()
        self._write(f"\n{text}" if self._question else text)
        if self._question:
            self._write(self._question, end="")

    def ask(self, question: str) -> None:
        """Write a question. The user types the answer behind it."""
        for progress in self._running:
            progress.hide()
        self._question = question
        self._write(question, end="")

    def answered(self, entered: bool = True) -> None:
        """
        Note that no question is open any more.

        :param entered: whether the user has pressed Enter; otherwise the line of the question is ended here.
        """
        if self._question and not entered:
            self._write("")
        self._question = ""

    def follow(self, label: str, size: int | None, now: float) -> Progress:
        """Return the progress of a transfer that begins; for the parameters see `Progress`."""
        progress = Progress(label, size, now, self)
        self._running.append(progress)
        return progress

    def ended(self, progress: Progress) -> None:
        """Forget a transfer that is over."""
        if progress in self._running:
            self._running.remove(progress)

    def bar(self, label: str, size: int | None, position: int) -> Any:
        """Return a new bar; None: progress is printed as lines."""
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
    Shows how far one transfer is.

    :param label: the text before the bar.
    :param size: the bytes of all files; None: not known.
    :param now: monotonic seconds, as in the other methods.
    """

    def __init__(self, label: str, size: int | None, now: float, display: Display) -> None:
        self._label = label
        self._size = size
        self._display = display
        self._began: tuple[float, int] | None = None
        self._next_line = now + LINE_INTERVAL
        self._bar: Any = None

    def look(self, position: int, now: float) -> None:
        """Show that `position` bytes have been transferred at `now`."""
        if self._began is None:
            # Bytes of an earlier attempt don't count for the rate.
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
        """Return the bytes per second since the transfer began or was resumed."""
        if self._began is None:
            return 0.0
        since, first = self._began
        return max(0, position - first) / (now - since) if now > since else 0.0

    def clear(self) -> None:
        """Make room for a line; `look` draws the bar again."""
        if self._bar is not None:
            self._bar.clear()

    def hide(self) -> None:
        """Remove the bar until the next call of `look`."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def close(self) -> None:
        """Remove the bar, as the transfer is over."""
        self.hide()
        self._display.ended(self)

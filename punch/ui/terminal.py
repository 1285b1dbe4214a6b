"""A terminal's modes and looks: single keys while a chat runs, everything as before afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

try:
    import termios
except ImportError:  # Windows: its console keeps its own line mode
    termios = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Style:
    """Colours, or none."""

    colour: bool

    @classmethod
    def choose(cls, environ: Mapping[str, str], terminal: bool) -> Style:
        """Colours only in a terminal that has them, and not against the user's wish (NO_COLOR)."""
        return cls(terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb")

    def dim(self, text: str) -> str:
        return self._wrap("2", text)

    def bold(self, text: str) -> str:
        return self._wrap("1", text)

    def good(self, text: str) -> str:
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        return self._wrap("31", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


class KeyMode:
    """
    While it is on, the terminal gives each key at once and shows none. Ctrl-C and Ctrl-Z stay signals.

    :param redraw: is called when the process comes back from a stop (Ctrl-Z, then `fg`), or the size changed.
    """

    def __init__(self, descriptor: int, redraw: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._redraw = redraw
        self._before: list[Any] | None = None
        self._on = False

    @staticmethod
    def possible(environ: Mapping[str, str]) -> bool:
        """Whether this system and this terminal can do it."""
        return termios is not None and environ.get("TERM", "dumb") != "dumb"

    def start(self) -> bool:
        """Turn it on; whether that worked."""
        if termios is None:
            return False
        try:
            self._before = termios.tcgetattr(self._descriptor)
        except termios.error:
            return False
        self._on = True
        self._apply()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTSTP, self._stop)
            signal.signal(signal.SIGCONT, self._go_on)
            signal.signal(signal.SIGWINCH, self._resized)
        return True

    def end(self) -> None:
        """Put the terminal back."""
        if self._on:
            self._on = False
            self._put_back()
            for number in (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
                if threading.current_thread() is threading.main_thread():
                    signal.signal(number, signal.SIG_DFL)

    def _apply(self) -> None:
        assert self._before is not None
        modes = [*self._before[:6], list(self._before[6])]
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        modes[6][termios.VMIN] = 1
        modes[6][termios.VTIME] = 0
        # Writing modes from the background would stop the process: then it is the shell's terminal.
        if self._in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, modes)

    def _put_back(self) -> None:
        if self._before is not None and self._in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._put_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)

    def _go_on(self, number: int, frame: FrameType | None) -> None:
        if self._on:
            signal.signal(signal.SIGTSTP, self._stop)
            self._apply()
            self._redraw()

    def _resized(self, number: int, frame: FrameType | None) -> None:
        if self._on:
            self._redraw()


def columns(descriptor: int) -> int:
    """The terminal's width; 80 where it doesn't say."""
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:
        return 80

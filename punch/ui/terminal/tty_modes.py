"""The modes of a terminal: remembered when the program starts, and restored when it ends."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any

try:
    import termios
except ImportError:  # Windows: its console keeps its own modes
    termios = None  # type: ignore[assignment]

#: Resets what a line editor may have set: bracketed paste, reports of the focus, a hidden cursor, colours.
_PLAIN = b"\x1b[?2004l\x1b[?1004l\x1b[?25h\x1b[0m"


class TerminalModes:
    """
    Remembers the modes of the terminal that stdin is.

    :param stdin: its descriptor.
    :param stdout: the descriptor that shows on the same terminal.
    """

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._before: list[Any] | None = None
        if termios is not None:
            with contextlib.suppress(termios.error):
                self._before = termios.tcgetattr(stdin)

    @property
    def known(self) -> bool:
        """Whether this is a terminal whose modes can be changed."""
        return self._before is not None

    def put_back(self, *, drawn: bool = False) -> None:
        """
        Restore the modes. It never waits, and may be called at any time, also by a signal handler.

        :param drawn: whether a line editor ended without putting back what it had switched on.
        """
        if self._before is None or not self.in_foreground():
            return
        # A terminal whose output is held (Ctrl-S) would make TCSADRAIN wait.
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._stdin, termios.TCSANOW, self._before)
        if drawn:
            with contextlib.suppress(OSError, ValueError):
                if select.select([], [self._stdout], [], 0)[1]:
                    os.write(self._stdout, _PLAIN)

    def take_unfinished_line(self) -> bytes:
        """
        Read what is in the terminal's line and was not entered yet, and whole lines that came just before. It
        is no longer in the terminal's line then.
        """
        if self._before is None or not self.in_foreground():
            return b""
        with contextlib.suppress(termios.error, OSError):
            modes = termios.tcgetattr(self._stdin)
            by_keys = [*modes]
            by_keys[3] = modes[3] & ~termios.ICANON
            by_keys[6] = [*modes[6]]
            by_keys[6][termios.VMIN] = by_keys[6][termios.VTIME] = 0
            termios.tcsetattr(self._stdin, termios.TCSANOW, by_keys)
            try:
                return os.read(self._stdin, 65536)
            finally:
                termios.tcsetattr(self._stdin, termios.TCSANOW, modes)
        return b""

    def in_foreground(self) -> bool:
        """Whether the terminal is ours now: writing modes from the background would stop the process."""
        try:
            return os.tcgetpgrp(self._stdin) == os.getpgrp()
        except OSError:
            return True

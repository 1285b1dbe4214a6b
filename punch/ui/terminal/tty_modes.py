"""The modes of a terminal, which are saved when the program starts and restored when it ends."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Any

try:
    import termios
except ImportError:  # The console of Windows has no such modes.
    termios = None  # type: ignore[assignment]

#: Switches off what a line editor may have switched on: bracketed paste, focus reports, a hidden cursor, and
#: colours.
_PLAIN = b"\x1b[?2004l\x1b[?1004l\x1b[?25h\x1b[0m"


class TerminalModes:
    """
    Saves the modes of the terminal on stdin.

    :param stdin: the descriptor of the terminal.
    :param stdout: a descriptor that writes to the same terminal.
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
        """Whether stdin is a terminal whose modes could be saved."""
        return self._before is not None

    def put_back(self, *, drawn: bool = False) -> None:
        """
        Restore the modes. It never blocks, and may be called at any time, also by a signal handler.

        :param drawn: whether a line editor may not have switched off what it had switched on.
        """
        if self._before is None or not self.in_foreground():
            return
        # TCSADRAIN would wait for a terminal whose output is stopped (Ctrl-S).
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._stdin, termios.TCSANOW, self._before)
        if drawn:
            with contextlib.suppress(OSError, ValueError):
                if select.select([], [self._stdout], [], 0)[1]:
                    os.write(self._stdout, _PLAIN)

    def take_unfinished_line(self) -> bytes:
        """
        Read, and remove from the terminal, the beginning of a line that was not entered yet, with whole lines
        before it that were not read.
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
        """
        Whether this process is in the foreground of the terminal. Setting modes from the background would
        stop it (SIGTTOU).
        """
        try:
            return os.tcgetpgrp(self._stdin) == os.getpgrp()
        except OSError:
            return True

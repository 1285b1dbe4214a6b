"""What is shown above a prompt: lines written straight to the terminal, and marks beside the last of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.layout.screen import Char
from prompt_toolkit.output.vt100 import Vt100_Output
from twisted.internet.defer import Deferred

from punch.ui.terminal.reflow import rows_above
from punch.ui.terminal.widths import narrowest, widest

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class _Last:
    """The last line, and how many columns the terminal had when it was shown."""

    key: object
    text: str
    columns: int


class Above:
    """
    Lines above the prompt of an application, in its thread.

    :param reflows: whether the terminal wraps anew what it shows when it becomes narrower.
    :param in_reactor: runs a function in the reactor's thread.
    :ivar seen: the number of the last line that was shown.
    :ivar away: the process is stopped, and the terminal somebody else's.
    """

    def __init__(
        self,
        app: Application[None],
        output: Vt100_Output,
        reflows: bool,
        in_reactor: Callable[[Callable[[], None]], None],
    ) -> None:
        self._app = app
        self._output = output
        self._reflows = reflows
        self._in_reactor = in_reactor
        self._last: _Last | None = None
        self._written: list[Deferred[None]] = []
        self._drawing = False
        self._size: Size | None = None
        self.seen = 0
        self.away = False

    @property
    def columns(self) -> int:
        """How many the terminal has now."""
        return self._output.get_size().columns

    @property
    def resized(self) -> bool:
        """Whether it was drawn for another size than that of now."""
        return self._output.get_size() != self._size

    def show(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """One or more lines. A line with a key can be marked, or replaced, while it is the last."""
        self._write(text)
        self.seen = number
        self._last = None if key is None or "\n" in text else _Last(key, text, self.columns)
        self._written.append(shown)

    def say(self, text: str) -> None:
        """A line of the prompt itself."""
        self._write(text)
        self.end()

    def replace(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """A line instead of the last, if that has the same key; else as `show`."""
        if self._is_last(key) and (last := self._last) is not None and self._one_row(last.text):
            self.begin()
            self._output.write_raw("\x1b[A\r\x1b[2K")
        self.show(number, text, key, shown)

    def mark(self, number: int, key: object, beside: str, alone: str | None) -> None:
        """Beside the line with that key, or alone."""
        last = self._last
        if self._is_last(key) and last is not None and self._one_row(last.text + beside):
            self.begin()
            self._output.write_raw(f"\x1b[A\r\x1b[2K{last.text}{beside}\r\n")
        elif alone is not None:
            self._write(alone)
            self.seen = number

    def forget(self) -> None:
        """What was the last line may be somewhere else now."""
        self._last = None

    def _is_last(self, key: object) -> bool:
        return key is not None and self._last is not None and self._last.key == key

    def _one_row(self, text: str) -> bool:
        """Whether it surely takes one row, in every terminal, now as when the last line was shown."""
        columns = self.columns
        return (
            self._last is not None
            and self._last.columns == columns
            and widest(_ESCAPE.sub("", text)) < columns
        )

    def _write(self, text: str) -> None:
        self.begin()
        self._output.write_raw(text.replace("\n", "\r\n") + "\r\n")
        self._last = None

    # -- the prompt makes room --

    def begin(self) -> None:
        """Take the prompt away, once until `end`."""
        if not self._drawing:
            self._drawing = True
            self.erase()

    def end(self) -> None:
        """Let all that was written out, and draw the prompt again."""
        if not self._drawing:
            return
        self._drawing = False
        self._output.flush()
        if not self.away:
            self._app.invalidate()
        written, self._written = self._written, []

        def fire() -> None:
            for deferred in written:
                deferred.callback(None)

        if written:
            self._in_reactor(fire)

    def erase(self) -> None:
        """Take the prompt away as it stands there now."""
        screen = self._app.renderer.last_rendered_screen
        if screen is None:
            return
        cursor = screen.get_cursor_position(self._app.layout.current_window)
        if self._reflows:
            rows = [_widths(screen.data_buffer[row]) for row in range(cursor.y + 1)]
            self._output.cursor_up(rows_above(rows, cursor.x, self.columns) - cursor.y)
        self._app.renderer.erase()

    def mind_size(self) -> None:
        """Before it is drawn: not over what was drawn for another size."""
        size = self._output.get_size()
        if size != self._size:
            self._size = size
            self.erase()


def _widths(row: Mapping[int, Char]) -> list[int]:
    """
    Of the characters of a row that were drawn, at least: spaces at its end are not. What is wider than that
    leaves a row of the prompt behind; what would be narrower would take a row of the chat away.
    """
    end = max((column for column, cell in row.items() if cell.char != " "), default=-1) + 1
    return [min(row[column].width, narrowest(row[column].char)) for column in range(end)]

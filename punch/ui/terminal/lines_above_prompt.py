"""
The text above a prompt: lines written straight to the terminal, and states beside the last of them.

Two things that differ between terminals are computed here. How many columns a text takes: terminals disagree
about emoji with variation selectors, sequences of several characters, ambiguous East Asian characters and
combining marks, and the cursor may go up only over a line that took one row in all of them. And where the
prompt is after the terminal has become narrower: most terminals then wrap the text that they show anew, and
the cursor moves along, so that more rows lie above it than were drawn.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.vt100 import Vt100_Output
from twisted.internet.defer import Deferred

from punch.ui.terminal.toolkit import drawn_rows

#: From here on letters are of scripts whose width terminals see differently.
_FIRST_DOUBTFUL = 0x0900

_TAB = 8

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class _Last:
    """The last line, and how many columns the terminal had when it was shown."""

    key: object
    text: str
    columns: int


class LinesAbovePrompt:
    """
    Lines above the prompt of an application, in its thread.

    :param reflows: whether the terminal wraps anew what it shows when it becomes narrower.
    :param in_reactor: runs a function in the reactor's thread.
    :ivar seen: the number of the last line that was shown.
    :ivar away: the process is stopped, and another one has the terminal.
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
        """How many columns the terminal has now."""
        return self._output.get_size().columns

    @property
    def resized(self) -> bool:
        """Whether the prompt was drawn for another size than the terminal has now."""
        return self._output.get_size() != self._size

    def show(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """Show one or more lines. The last one, if it has a key, can be replaced or get a state beside it."""
        self._write(text)
        self.seen = number
        self._last = None if key is None or "\n" in text else _Last(key, text, self.columns)
        self._written.append(shown)

    def say(self, text: str) -> None:
        """Show a line of the prompt's own."""
        self._write(text)
        self.end()

    def replace(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """Show a line instead of the last, if that has the same key; else as `show`."""
        if self._is_last(key) and (last := self._last) is not None and self._one_row(last.text):
            self.begin()
            self._output.write_raw("\x1b[A\r\x1b[2K")
        self.show(number, text, key, shown)

    def put_beside(self, number: int, key: object, beside: str, alone: str | None) -> None:
        """Show a state beside the line with that key, or alone."""
        last = self._last
        if self._is_last(key) and last is not None and self._one_row(last.text + beside):
            self.begin()
            self._output.write_raw(f"\x1b[A\r\x1b[2K{last.text}{beside}\r\n")
        elif alone is not None:
            self._write(alone)
            self.seen = number

    def forget(self) -> None:
        """Replace no line that was shown until now: it may be somewhere else."""
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
        """Erase the prompt, once until `end`."""
        if not self._drawing:
            self._drawing = True
            self.erase()

    def end(self) -> None:
        """Flush all that was written, and draw the prompt again."""
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
        """Erase the prompt as it is on the screen now."""
        drawn = drawn_rows(self._app)
        if drawn is None:
            return
        rows, (line, column) = drawn
        if self._reflows:
            least = [[min(width, narrowest(text)) for text, width in row] for row in rows]
            self._output.cursor_up(rows_above(least, column, self.columns) - line)
        self._app.renderer.erase()

    def erase_if_resized(self) -> None:
        """Erase the prompt if it was drawn for another size. Called before it is drawn."""
        size = self._output.get_size()
        if size != self._size:
            self._size = size
            self.erase()


def rows_above(rows: Sequence[Sequence[int]], cursor: int, columns: int) -> int:
    """
    How many rows lie above the cursor now.

    :param rows: of each row that was drawn, down to the cursor's, the widths of its characters.
    :param cursor: how many columns were left of it in its row.
    :param columns: how many the terminal has now.
    """
    *above, last = rows
    return sum(_row_of(sum(row), row, columns) + 1 for row in above) + _row_of(cursor, last, columns)


def _row_of(column: int, row: Sequence[int], columns: int) -> int:
    """Which of the rows that a longer one was wrapped into has what was in that column."""
    number = used = passed = 0
    for width in row:
        if used + width > columns:
            number += 1
            used = 0
        if passed >= column:
            break
        used += width
        passed += width
    return number


def widest(text: str) -> int:
    """The most columns that any terminal takes for one line without control characters but tabs."""
    return sum(map(_widest, text))


def _widest(character: str) -> int:
    if " " <= character <= "~":
        return 1
    if character == "\t":
        return _TAB
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf"):
        # Nothing in most terminals; a column of its own, or one more for what stands before it, in some.
        return 1
    letter = category[0] in "LN" and ord(character) < _FIRST_DOUBTFUL
    return 1 if letter and unicodedata.east_asian_width(character) in "NHNa" else 2


def narrowest(text: str) -> int:
    """The fewest columns that any terminal takes for one character and the marks that follow it."""
    return max(map(_narrowest, text), default=0)


def _narrowest(character: str) -> int:
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf", "Cc") or 0x1F1E6 <= ord(character) <= 0x1F1FF:
        # Flags are made of two of the latter.
        return 0
    if 0x1F3FB <= ord(character) <= 0x1F3FF:
        return 0  # skin tones join what stands before them
    return 2 if category == "Lo" and unicodedata.east_asian_width(character) in "WF" else 1

"""
The text above a prompt: lines that are written straight to the terminal, and states beside the last of them.

Terminals differ in two ways that matter here:

* How many columns a text takes. They disagree about emoji with variation selectors, sequences of several
  characters, ambiguous East Asian characters and combining marks. So a line is replaced only if it took one
  row in all terminals: otherwise the cursor could go up to the wrong row.
* What happens to the prompt when the terminal becomes narrower. Most terminals wrap their lines again, and
  the cursor moves with its line, so that there are more rows of the prompt above it than were drawn.
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

#: From this code point on, letters belong to scripts about whose width terminals disagree.
_FIRST_DOUBTFUL = 0x0900

_TAB = 8

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class _Last:
    """The last line, with the number of columns that the terminal had when it was shown."""

    key: object
    text: str
    columns: int


class LinesAbovePrompt:
    """
    Shows lines above the prompt of an application. All methods are called in the prompt's thread. Those that
    write erase the prompt first; `end` draws it again.

    :param reflows: whether the terminal wraps its lines again when it becomes narrower.
    :param in_reactor: runs a function in the reactor's thread.
    :ivar seen: the number of the last `Prompt.show` that was written.
    :ivar away: whether the process is stopped, so that another one has the terminal.
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
        """The number of columns of the terminal."""
        return self._output.get_size().columns

    @property
    def resized(self) -> bool:
        """Whether the prompt was drawn for another size than the terminal has now."""
        return self._output.get_size() != self._size

    def show(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """
        Show a text of one or more lines.

        :param number: the number of this call, for `seen`.
        :param key: names the text, so that it can be replaced, or get a state beside it, while it is the
            last; None, or a text of several lines: it can't.
        :param shown: fires when the text was written.
        """
        self._write(text)
        self.seen = number
        self._last = None if key is None or "\n" in text else _Last(key, text, self.columns)
        self._written.append(shown)

    def say(self, text: str) -> None:
        """Show a line of the prompt's own."""
        self._write(text)
        self.end()

    def replace(self, number: int, text: str, key: object, shown: Deferred[None]) -> None:
        """As `show`, but replace the last line if it has the same key and surely took one row."""
        if self._is_last(key) and (last := self._last) is not None and self._one_row(last.text):
            self.begin()
            self._output.write_raw("\x1b[A\r\x1b[2K")
        self.show(number, text, key, shown)

    def put_beside(self, number: int, key: object, beside: str, alone: str | None) -> None:
        """
        Show a state beside the last line, if that has this key and there is room; otherwise as a line.

        :param beside: the state, to be written behind the line.
        :param alone: the line that is shown otherwise; None: nothing is.
        """
        last = self._last
        if self._is_last(key) and last is not None and self._one_row(last.text + beside):
            self.begin()
            self._output.write_raw(f"\x1b[A\r\x1b[2K{last.text}{beside}\r\n")
        elif alone is not None:
            self._write(alone)
            self.seen = number

    def forget(self) -> None:
        """Never replace a line that was shown until now: its row is no longer known."""
        self._last = None

    def _is_last(self, key: object) -> bool:
        return key is not None and self._last is not None and self._last.key == key

    def _one_row(self, text: str) -> bool:
        """Whether a text takes one row in every terminal, now as well as when the last line was shown."""
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

    # -- erasing the prompt and drawing it again --

    def begin(self) -> None:
        """Erase the prompt, if that was not done since the last `end`."""
        if not self._drawing:
            self._drawing = True
            self.erase()

    def end(self) -> None:
        """Flush all that was written, draw the prompt again, and fire the Deferreds of what was shown."""
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
        """Erase the prompt, which may have moved since it was drawn, if the terminal was resized."""
        drawn = drawn_rows(self._app)
        if drawn is None:
            return
        rows, (line, column) = drawn
        if self._reflows:
            least = [[min(width, narrowest(text)) for text, width in row] for row in rows]
            self._output.cursor_up(rows_above(least, column, self.columns) - line)
        self._app.renderer.erase()

    def erase_if_resized(self) -> None:
        """Erase the prompt if it was drawn for another size of the terminal. Called before it is drawn."""
        size = self._output.get_size()
        if size != self._size:
            self._size = size
            self.erase()


def rows_above(rows: Sequence[Sequence[int]], cursor: int, columns: int) -> int:
    """
    Return how many rows of a prompt are above the cursor, after the terminal has wrapped its lines again.

    :param rows: the widths of the characters of each row that was drawn, from the first to the cursor's.
    :param cursor: the column of the cursor when they were drawn, from 0.
    :param columns: the number of columns that the terminal has now.
    """
    *above, last = rows
    return sum(_row_of(sum(row), row, columns) + 1 for row in above) + _row_of(cursor, last, columns)


def _row_of(column: int, row: Sequence[int], columns: int) -> int:
    """Return in which of the rows that a longer row was wrapped into its column `column` is now, from 0."""
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
    """Return the most columns that any terminal needs for a line, which has no controls except tabs."""
    return sum(map(_widest, text))


def _widest(character: str) -> int:
    if " " <= character <= "~":
        return 1
    if character == "\t":
        return _TAB
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf"):
        # Most terminals give it no column; some give it one, or one more to the character before it.
        return 1
    letter = category[0] in "LN" and ord(character) < _FIRST_DOUBTFUL
    return 1 if letter and unicodedata.east_asian_width(character) in "NHNa" else 2


def narrowest(text: str) -> int:
    """Return the fewest columns that any terminal needs for one character with the marks that follow it."""
    return max(map(_narrowest, text), default=0)


def _narrowest(character: str) -> int:
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf", "Cc") or 0x1F1E6 <= ord(character) <= 0x1F1FF:
        # The latter are regional indicators: two of them make one flag.
        return 0
    if 0x1F3FB <= ord(character) <= 0x1F3FF:
        return 0  # skin tones are combined with the emoji before them
    return 2 if category == "Lo" and unicodedata.east_asian_width(character) in "WF" else 1

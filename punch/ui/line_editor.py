"""
The line that a person types at the bottom of a terminal, while other lines come in above it.

In the terminal's own line mode the kernel holds what was typed, and an incoming message would run through it.
So the kernel is asked for single keys, and the line is kept here: `LineEditor` is given keys and says what to
draw.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

#: Most characters of one line: more than the longest message, so that a long paste is seen to be too long.
MAX_LINE = 65_536

#: How many earlier lines the arrow keys bring back.
MAX_HISTORY = 100

CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class Entered:
    """A whole line."""

    text: str


@dataclass(frozen=True)
class EndOfInput:
    """Ctrl-D on an empty line."""


Action = Entered | EndOfInput


def display_width(text: str) -> int:
    """Columns that `text` takes in a terminal."""
    width = 0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


class LineEditor:
    """
    One editable line.

    :param columns: the width of the terminal now.
    :param prompt: what stands before the line.
    """

    def __init__(self, columns: Callable[[], int], prompt: str = "> ") -> None:
        self.columns = columns
        self._prompt = prompt
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line: list[str] = []
        self._cursor = 0
        self._escape: str | None = None
        self._history: list[str] = []
        self._place = 0
        self._draft = ""

    def feed(self, data: bytes) -> list[Action]:
        """Keys, as the terminal sends them."""
        actions: list[Action] = []
        for character in self._decoder.decode(data):
            action = self._key(character)
            if action is not None:
                actions.append(action)
        return actions

    def draw(self) -> str:
        """The bottom line as it is now, cursor included. It scrolls sideways where it is too long."""
        room = max(8, self.columns() - display_width(self._prompt) - 1)
        start = self._cursor
        used = 0
        while start > 0:
            width = display_width(self._line[start - 1])
            if used + width > room:
                break
            used += width
            start -= 1
        end = self._cursor
        shown = used
        while end < len(self._line):
            width = display_width(self._line[end])
            if shown + width > room:
                break
            shown += width
            end += 1
        back = shown - used
        visible = "".join(self._line[start:end])
        return f"{CLEAR_LINE}{self._prompt}{visible}" + (f"\x1b[{back}D" if back else "")

    def _key(self, character: str) -> Action | None:
        if self._escape is not None:
            self._escape_key(character)
        elif character in "\r\n":
            return self._enter()
        elif character == "\x04":
            if not self._line:
                return EndOfInput()
            self._delete()
        elif character == "\x1b":
            self._escape = ""
        elif character in _CONTROLS:
            _CONTROLS[character](self)
        elif unicodedata.category(character) != "Cc" and len(self._line) < MAX_LINE:
            self._line.insert(self._cursor, character)
            self._cursor += 1
        elif character == "\t" and len(self._line) < MAX_LINE:
            self._line.insert(self._cursor, " ")
            self._cursor += 1
        return None

    def _enter(self) -> Entered:
        text = "".join(self._line)
        if text.strip() and (not self._history or self._history[-1] != text):
            self._history = [*self._history, text][-MAX_HISTORY:]
        self._line = []
        self._cursor = 0
        self._place = len(self._history)
        self._draft = ""
        return Entered(text)

    def _escape_key(self, character: str) -> None:
        assert self._escape is not None
        self._escape += character
        if self._escape in ("[", "O"):
            return
        if self._escape[0] not in "[O":
            self._escape = None
        elif "@" <= character <= "~" or len(self._escape) > 16:
            action = _SEQUENCES.get(self._escape)
            self._escape = None
            if action is not None:
                action(self)

    def _backspace(self) -> None:
        if self._cursor:
            self._cursor -= 1
            del self._line[self._cursor]

    def _delete(self) -> None:
        del self._line[self._cursor : self._cursor + 1]

    def _left(self) -> None:
        self._cursor = max(0, self._cursor - 1)

    def _right(self) -> None:
        self._cursor = min(len(self._line), self._cursor + 1)

    def _home(self) -> None:
        self._cursor = 0

    def _end(self) -> None:
        self._cursor = len(self._line)

    def _kill_before(self) -> None:
        del self._line[: self._cursor]
        self._cursor = 0

    def _kill_after(self) -> None:
        del self._line[self._cursor :]

    def _kill_word(self) -> None:
        start = self._cursor
        while start and self._line[start - 1].isspace():
            start -= 1
        while start and not self._line[start - 1].isspace():
            start -= 1
        del self._line[start : self._cursor]
        self._cursor = start

    def _earlier(self) -> None:
        self._recall(self._place - 1)

    def _later(self) -> None:
        self._recall(self._place + 1)

    def _recall(self, place: int) -> None:
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._draft = "".join(self._line)
        self._place = place
        self._line = list(self._history[place] if place < len(self._history) else self._draft)
        self._cursor = len(self._line)


_CONTROLS: dict[str, Callable[[LineEditor], None]] = {
    "\x7f": LineEditor._backspace,
    "\x08": LineEditor._backspace,
    "\x01": LineEditor._home,
    "\x02": LineEditor._left,
    "\x05": LineEditor._end,
    "\x06": LineEditor._right,
    "\x0b": LineEditor._kill_after,
    "\x0e": LineEditor._later,
    "\x10": LineEditor._earlier,
    "\x15": LineEditor._kill_before,
    "\x17": LineEditor._kill_word,
}

_SEQUENCES: dict[str, Callable[[LineEditor], None]] = {
    "[A": LineEditor._earlier,
    "[B": LineEditor._later,
    "[C": LineEditor._right,
    "[D": LineEditor._left,
    "[H": LineEditor._home,
    "[F": LineEditor._end,
    "OA": LineEditor._earlier,
    "OB": LineEditor._later,
    "OC": LineEditor._right,
    "OD": LineEditor._left,
    "OH": LineEditor._home,
    "OF": LineEditor._end,
    "[1~": LineEditor._home,
    "[4~": LineEditor._end,
    "[7~": LineEditor._home,
    "[8~": LineEditor._end,
    "[3~": LineEditor._delete,
}

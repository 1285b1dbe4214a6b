"""
Tells pasted text from typed keys and lines in the input of a terminal.

A paste may have any size. Most terminals send it between two escape sequences ("bracketed paste"); it is
collected here up to a limit, so that megabytes take neither memory nor time. Other terminals send a paste as
if it had been typed. So long runs of plain characters, and several lines that came at once, count as a paste,
too: nobody types those.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from punch.net.driver import Timer

PASTE_BEGINS = "\x1b[200~"
PASTE_ENDS = "\x1b[201~"

#: The longest paste that is taken, in characters. A longer one is dropped, and the user is told.
MAX_PASTE = 65_536

#: So many plain characters that came at once count as a paste.
LONG_RUN = 64

#: What a terminal sends when it gets and when it loses the focus.
FOCUS_IN, FOCUS_OUT = "\x1b[I", "\x1b[O"

#: After several lines came at once, text counts as the rest of them for `REST_TIME` seconds; a line end
#: alone, which may be the Enter key, only for `END_TIME` seconds.
REST_TIME, END_TIME = 0.1, 0.02

#: A line that follows another one within so many seconds was not typed but pasted.
PASTE_INTERVAL = 0.02

#: Text without control characters except tabs and line ends; and text that goes on after a line end.
_TEXT = re.compile("[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*")
_LINES = re.compile("[^\r\n]+[\r\n]+[^\r\n]")

_FOCUS = re.compile(r"\x1b\[[IO]")

_RUN = re.compile(f"[^\x00-\x1f\x7f]{{{LONG_RUN},}}")


@dataclass(frozen=True)
class Pressed:
    """Keys that were pressed, as the characters and escape sequences that the terminal sent for them."""

    text: str


@dataclass(frozen=True)
class Pasted:
    """
    A paste.

    :ivar text: the text; empty if it was longer than the limit.
    :ivar length: how many characters it had.
    :ivar marked: False if several lines came at once without the escape sequences of a paste.
    """

    text: str
    length: int
    marked: bool = True


@dataclass(frozen=True)
class Focus:
    """The terminal has gained or lost the focus."""

    gained: bool


class KeySplitter:
    """
    Splits the bytes that a terminal sends into keys, pastes and changes of the focus. The bytes may come in
    pieces of any size.

    :param limit: the longest paste that is kept, in characters.
    """

    #: Until when text counts as the rest of lines that came at once (monotonic seconds), and whether these
    #: have ended with a line end, which is passed on only if more text follows.
    _lines_until = 0.0
    _line_end = False

    def __init__(self, limit: int = MAX_PASTE) -> None:
        self._limit = limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._pasting = False
        self._parts: list[str] = []
        self._length = 0

    @property
    def pasting(self) -> bool:
        """Whether a paste has begun and not ended."""
        return self._pasting

    @property
    def kept_length(self) -> int:
        """How many characters of an unfinished paste are kept."""
        return sum(map(len, self._parts))

    def feed(self, data: bytes, now: float = 0.0, at_once: bool = False) -> list[Pressed | Pasted | Focus]:
        """
        Add bytes, and return what they mean, in order.

        :param now: monotonic seconds.
        :param at_once: whether the bytes have all come together, as there was nothing to read just before.
        """
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        found: list[Pressed | Pasted | Focus] = []
        if not self._pasting and self._came_at_once(text, now, at_once):
            self._lines_until = now + REST_TIME
            whole = "\n" * self._line_end + text.replace("\r\n", "\n").replace("\r", "\n")
            # A line end at the end is left out: as a key, it would have sent the line.
            lines = whole.removesuffix("\n")
            self._line_end = len(lines) < len(whole)
            found.append(Pasted(lines, len(lines), marked=False))
            return found
        self._line_end = False
        while text:
            text = self._paste(text, found) if self._pasting else self._keys(text, found)
        return found

    def _came_at_once(self, text: str, now: float, at_once: bool) -> bool:
        """Whether a text is several lines that came at once, or the rest of such lines."""
        if not _TEXT.fullmatch(text):
            return False
        if now < self._lines_until:
            return text not in ("\r", "\n") or now < self._lines_until - REST_TIME + END_TIME
        return at_once and _LINES.search(text) is not None

    def _keys(self, text: str, found: list[Pressed | Pasted | Focus]) -> str:
        keys, begins, rest = text.partition(PASTE_BEGINS)
        if begins:
            self._pasting = True
        else:
            # An Escape alone is a key. So only a tail of at least four characters of PASTE_BEGINS is held
            # back, until more has come.
            kept = _tail(keys, PASTE_BEGINS, at_least=4)
            self._rest = keys[len(keys) - kept :]
            keys = keys[: len(keys) - kept]
        self._runs(keys, found)
        return rest

    def _runs(self, keys: str, found: list[Pressed | Pasted | Focus]) -> None:
        for focus in _FOCUS.finditer(keys):
            found.append(Focus(focus[0] == FOCUS_IN))
        keys = _FOCUS.sub("", keys)
        start = 0
        for run in _RUN.finditer(keys):
            if "\x1b" in keys[max(start, run.start() - 8) : run.start()]:
                continue  # The run may be the end of an escape sequence.
            if run.start() > start:
                found.append(Pressed(keys[start : run.start()]))
            found.append(Pasted(run[0], len(run[0])))
            start = run.end()
        if start < len(keys):
            found.append(Pressed(keys[start:]))

    def _paste(self, text: str, found: list[Pressed | Pasted | Focus]) -> str:
        pasted, ends, rest = text.partition(PASTE_ENDS)
        if not ends:
            kept = _tail(pasted, PASTE_ENDS, at_least=1)
            self._rest = pasted[len(pasted) - kept :]
            pasted = pasted[: len(pasted) - kept]
        if self._length <= self._limit:
            self._parts.append(pasted[: self._limit + 1 - self._length])
        self._length += len(pasted)
        if ends:
            whole = "".join(self._parts) if self._length <= self._limit else ""
            found.append(Pasted(whole, self._length))
            self._pasting = False
            self._parts = []
            self._length = 0
        return rest


def _tail(text: str, mark: str, at_least: int) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for length in range(min(len(mark) - 1, len(text)), at_least - 1, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def clean_paste(text: str) -> str:
    """Return a paste as it is put into the line: with LF as line end, and no other control but tabs."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        character for character in text if character in "\n\t" or unicodedata.category(character) != "Cc"
    )


class PastedLines:
    """
    Recognizes pastes of several lines in a terminal in line mode, which gives its lines one by one, whether
    they were typed or pasted. So each line is held for a moment, to see whether more lines follow at once.

    :param typed: is called with input that a person typed.
    :param pasted: is called with input of several lines; with b"" if it was too long to be kept.
    :param unfinished: takes out of the terminal the beginning of a line that was not entered yet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        typed: Callable[[bytes], None],
        pasted: Callable[[bytes], None],
        unfinished: Callable[[], bytes] = lambda: b"",
    ) -> None:
        self._typed = typed
        self._pasted = pasted
        self._unfinished = unfinished
        self._held = bytearray()
        self._size = 0
        self._lines = 0
        self._timer = Timer(clock)

    def add(self, data: bytes) -> None:
        """Add input that was just read."""
        self._keep(data)
        self._timer.start(REST_TIME if self._lines > 1 else PASTE_INTERVAL, self._look_again)

    def flush(self) -> None:
        """Decide now whether the held input was typed or pasted, as no more follows."""
        self.stop()
        if self._lines > 1:
            self._keep(self._unfinished())
        several, held = self._lines > 1, bytes(self._held)
        if self._size > MAX_PASTE:
            several, held = True, b""
        self._held.clear()
        self._size = self._lines = 0
        if several:
            self._pasted(held)
        elif held:
            self._typed(held)

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_PASTE:
            self._held += data
        self._lines += sum(1 for line in data.split(b"\n") if line.strip())

    def _look_again(self) -> None:
        # If the reactor was busy, it runs this timer before it reads input that came in time. So let it read
        # once more.
        self._timer.start(0.0, self.flush)

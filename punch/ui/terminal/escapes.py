"""Escape sequences for terminals: colours, and notifications; and which terminals take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from punch.sanitize import printable

#: Longest text of a notice, in characters.
MAX_NOTICE = 100

#: Colours of names: not those of success and failure.
_PEOPLE = (33, 34, 35, 36, 93, 94, 95, 96)


def takes_escapes(environ: Mapping[str, str]) -> bool:
    """Whether a terminal knows escape sequences: for colours, and to move its cursor."""
    return environ.get("TERM", "") not in ("", "dumb", "unknown")


def reflows(environ: Mapping[str, str]) -> bool:
    """
    Whether the terminal wraps the lines that it shows anew when it becomes narrower: xterm, the Linux console
    and GNU screen cut them off instead.
    """
    if "TMUX" in environ:
        return True
    return "XTERM_VERSION" not in environ and "STY" not in environ and environ.get("TERM") != "linux"


@dataclass(frozen=True)
class Style:
    """Colours, or none."""

    colour: bool

    @classmethod
    def choose(cls, environ: Mapping[str, str], terminal: bool) -> Style:
        """Colours only in a terminal that knows them, unless the user wants none (NO_COLOR)."""
        return cls(terminal and not environ.get("NO_COLOR") and takes_escapes(environ))

    def dim(self, text: str) -> str:
        return self._wrap("2", text)

    def bold(self, text: str) -> str:
        return self._wrap("1", text)

    def person(self, text: str, key: bytes) -> str:
        """A name, in the colour that belongs to the peer's key."""
        return self._wrap(f"1;{_PEOPLE[key[0] % len(_PEOPLE)]}", text)

    def good(self, text: str) -> str:
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        return self._wrap("31", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


class Notice(Enum):
    """How the user of a terminal without the focus is notified."""

    BELL = "bell"
    OSC9 = "osc9"
    OSC777 = "osc777"
    OFF = "off"


def sequence(notice: Notice, text: str) -> str:
    """
    The escape sequence of a notice, "" for none.

    :param text: what the notice says, where the terminal shows one; anything may be in there.
    """
    shown = "".join(c for c in printable(text) if c.isprintable())[:MAX_NOTICE]
    if notice is Notice.BELL:
        return "\a"
    if notice is Notice.OSC9:
        return f"\x1b]9;{shown}\x1b\\"
    if notice is Notice.OSC777:
        return f"\x1b]777;notify;Punch;{shown.replace(';', ',')}\x1b\\"
    return ""

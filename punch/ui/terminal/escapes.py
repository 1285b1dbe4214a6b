"""Escape sequences for terminals: colours and notifications, and which terminals understand them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from punch.sanitize import printable

#: Longest text of a notification, in characters.
MAX_NOTICE = 100

#: Colours of names (SGR codes). Red and green are left out, as they mean failure and success.
_PEOPLE = (33, 34, 35, 36, 93, 94, 95, 96)


def takes_escapes(environ: Mapping[str, str]) -> bool:
    """Whether the terminal understands escape sequences for colours and for moving the cursor."""
    return environ.get("TERM", "") not in ("", "dumb", "unknown")


def reflows(environ: Mapping[str, str]) -> bool:
    """
    Whether the terminal wraps its lines again when it becomes narrower. Most do; xterm, the Linux console and
    GNU screen cut the lines off instead.
    """
    if "TMUX" in environ:
        return True
    return "XTERM_VERSION" not in environ and "STY" not in environ and environ.get("TERM") != "linux"


@dataclass(frozen=True)
class Style:
    """Puts escape sequences for colours around text; without colours, returns the text as it is."""

    colour: bool

    @classmethod
    def choose(cls, environ: Mapping[str, str], terminal: bool) -> Style:
        """Return a style with colours in a terminal that has them, unless the user wants none (NO_COLOR)."""
        return cls(terminal and not environ.get("NO_COLOR") and takes_escapes(environ))

    def dim(self, text: str) -> str:
        return self._wrap("2", text)

    def bold(self, text: str) -> str:
        return self._wrap("1", text)

    def person(self, text: str, key: bytes) -> str:
        """Return a name in a colour that depends on the peer's key only."""
        return self._wrap(f"1;{_PEOPLE[key[0] % len(_PEOPLE)]}", text)

    def good(self, text: str) -> str:
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        return self._wrap("31", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


class Notice(Enum):
    """How a terminal without the focus notifies its user."""

    BELL = "bell"
    OSC9 = "osc9"
    OSC777 = "osc777"
    OFF = "off"


def sequence(notice: Notice, text: str) -> str:
    """
    Return the escape sequence of a notification, or "" for `Notice.OFF`.

    :param text: what a notification with text says. It is sanitized here.
    """
    shown = "".join(c for c in printable(text) if c.isprintable())[:MAX_NOTICE]
    if notice is Notice.BELL:
        return "\a"
    if notice is Notice.OSC9:
        return f"\x1b]9;{shown}\x1b\\"
    if notice is Notice.OSC777:
        return f"\x1b]777;notify;Punch;{shown.replace(';', ',')}\x1b\\"
    return ""

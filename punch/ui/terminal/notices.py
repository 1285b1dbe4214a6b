"""What tells somebody who looks elsewhere that something has come: escape sequences of terminals."""

from __future__ import annotations

from enum import Enum

from punch.ui.text.sentences import printable

#: Longest text of a notice, in characters.
MAX_NOTICE = 100


class Notice(Enum):
    """How it is told."""

    BELL = "bell"
    OSC9 = "osc9"
    OSC777 = "osc777"
    OFF = "off"


def sequence(notice: Notice, text: str) -> str:
    """
    The escape sequence, "" for none.

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

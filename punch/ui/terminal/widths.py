"""
How many columns a text takes in a terminal: at most, and at least.

Terminals disagree about emoji with variation selectors, sequences of several characters, ambiguous East Asian
characters and marks. Whoever moves the cursor up must know that a line took one row in all of them.
"""

from __future__ import annotations

import unicodedata

#: From here on letters are of scripts whose width terminals see differently.
_FIRST_DOUBTFUL = 0x0900

_TAB = 8


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

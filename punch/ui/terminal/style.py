"""The looks of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Colours of people: not those of good and bad news.
_PEOPLE = (33, 34, 35, 36, 93, 94, 95, 96)


def takes_escapes(environ: Mapping[str, str]) -> bool:
    """Whether a terminal knows escape sequences: for colours, and to move its cursor."""
    return environ.get("TERM", "") not in ("", "dumb", "unknown")


@dataclass(frozen=True)
class Style:
    """Colours, or none."""

    colour: bool

    @classmethod
    def choose(cls, environ: Mapping[str, str], terminal: bool) -> Style:
        """Colours only in a terminal that knows them, and not against the user's wish (NO_COLOR)."""
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

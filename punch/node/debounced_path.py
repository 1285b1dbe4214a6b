"""
Which paths the user is told of: those that last.

On the way to another path there may be several within a moment: each side takes what works first, and the
controlling side's choice arrives a round trip later. Data takes them all; who reads along would only be
puzzled.
"""

from __future__ import annotations

from collections.abc import Callable

from punch.ice.pairs import Pair
from punch.wire.address import Address

HOLD = 0.5
"""Seconds after the first change until the path of that time is told of."""


class DebouncedPath:
    """
    What the user knows about the path of one link.

    :param tell: tells of the path that is taken now.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._known: tuple[str, Address, Address] | None = None
        self._now: Pair | None = None
        self._due: float | None = None

    def told(self, pair: Pair) -> None:
        """The user knows this path."""
        self._now, self._known, self._due = pair, _shown(pair), None

    def lost(self) -> None:
        """The user knows that there is no path: any that comes is news."""
        self._known = self._due = None

    def changed(self, pair: Pair, now: float) -> None:
        """This path is taken now."""
        self._now = pair
        if self._due is None and self._known != _shown(pair):
            self._due = now + HOLD

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        if self._due is None or now < self._due or self._now is None:
            return
        self._due = None
        if self._known != _shown(self._now):
            self._known = _shown(self._now)
            self._tell()


def _shown(pair: Pair) -> tuple[str, Address, Address]:
    return pair.path, pair.local.address, pair.remote_address

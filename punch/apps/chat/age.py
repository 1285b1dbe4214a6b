"""
Keeps a wrong clock from erasing messages because of their age: a jump forward counts only a day later. Pure.

A wrong clock must not erase messages: if it is a year ahead, all are too old. A wrong clock can't be told
from a machine that was off for a year, but it is corrected some time. So a jump forward is believed when the
clock has gone on for a day after it. Until then no message grows older.
"""

from __future__ import annotations

from typing import NamedTuple

DAY = 86400.0
"""Seconds."""
JUMP = DAY
"""Seconds between two looks, beyond which the clock may have been set forward. Machines are off at night."""
TRIAL = DAY
"""Seconds that the clock must go on after a jump."""


class BelievedTime(NamedTuple):
    """
    Times in seconds since 1970.

    :ivar now: the newest time that was believed.
    :ivar jumped: where the clock jumped to, if that is not believed yet.
    """

    now: float
    jumped: float | None = None

    def look(self, wall: float) -> BelievedTime:
        """
        Return what is believed when the clock shows `wall`.

        A clock that is set back is believed at once: that erases nothing.
        """
        believed = self.now
        if self.jumped is not None and wall >= self.jumped:
            if wall < self.jumped + TRIAL:
                return self
            believed = self.jumped
        return BelievedTime(wall) if wall <= believed + JUMP else BelievedTime(believed, wall)

"""When a session that found no path has failed (RFC 8863)."""

from __future__ import annotations

PATIENCE = 39.5
"""Seconds of checking before failure may be declared (RFC 8863, section 4)."""
GIVE_UP = 60.0
"""
Seconds of checking after which it is declared, whatever is still under way: a check that waits longer because
its RTO grew with the number of pairs isn't worth a user's time.
"""


class FailureTimer:
    """The time that checking may take."""

    def __init__(self) -> None:
        self._limits: tuple[float, float] = (0.0, 0.0)
        self._judged_at = 0.0

    def start(self, now: float) -> None:
        """Checking starts."""
        self._limits = now + PATIENCE, now + GIVE_UP
        self._judged_at = now

    def is_over(self, now: float, hopeless: bool) -> bool:
        """
        Whether to give up.

        :param hopeless: nothing is left to be tried.
        """
        self._judged_at = now
        patient_until, give_up_at = self._limits
        return now >= give_up_at or (now >= patient_until and hopeless)

    def get_timer(self) -> float | None:
        """When to ask `is_over` again."""
        return min((limit for limit in self._limits if self._judged_at < limit), default=None)

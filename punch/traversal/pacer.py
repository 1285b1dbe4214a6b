"""When the next check starts, and on which pair (RFC 8445, sections 6.1.4.2 and 14)."""

from __future__ import annotations

from collections.abc import Callable

from punch.traversal.checker import Checker
from punch.traversal.checklist import CheckList
from punch.traversal.pairs import CandidatePair
from punch.traversal.selection import Selector
from punch.traversal.transactions import RTO

PACING = 0.05
"""Seconds between two new checks, unless both sides signal another (RFC 8445, section 14.2)."""
MIN_PACING = 0.005
"""The least that RFC 8445, section 14.2 allows."""


class Pacer:
    """
    Starts the checks of one session, one every Ta.

    :ivar interval: Ta, in seconds.
    """

    def __init__(
        self,
        checklist: CheckList,
        checker: Checker,
        selector: Selector,
        unlikely: Callable[[CandidatePair], bool],
        interval: float,
    ) -> None:
        """
        :param unlikely: pairs that are tried after all others.
        """
        self.interval = max(interval, MIN_PACING)
        self._checklist = checklist
        self._checker = checker
        self._selector = selector
        self._unlikely = unlikely
        self._next_at = 0.0

    def slow_down(self, interval: float) -> None:
        """The peer signals its Ta: the greater one counts."""
        self.interval = max(self.interval, interval)

    def start_check(self, now: float) -> bool:
        """Check the next pair if its time has come; returns whether one is being checked now."""
        selector, checklist = self._selector, self._checklist
        checklist.unfreeze(selector.needed)
        if now < self._next_at:
            return False
        nominated = selector.take_nomination(now)
        pair = nominated or checklist.next_pair(selector.needed, self._unlikely)
        if pair is None:
            return False
        rto = max(RTO, self.interval * checklist.pending(selector.needed))
        self._checker.start(pair, now, rto, selector.nomination if nominated is not None else None)
        self._next_at = now + self.interval
        return True

    def get_timer(self) -> float | None:
        """When to call `start_check`."""
        times = []
        if self._checklist.has_work(self._selector.needed):
            times.append(self._next_at)
        nominate_at = self._selector.nominate_at
        if nominate_at is not None:
            times.append(max(nominate_at, self._next_at))
        return min(times, default=None)

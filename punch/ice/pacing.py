"""
When the next check starts and on which pair (RFC 8445, sections 6.1.4.2 and 14), and when an ICE session
without a path fails (RFC 8863).
"""

from __future__ import annotations

from collections.abc import Callable

from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.pairs import CandidatePair, PairState
from punch.ice.selector import Selector
from punch.ice.transactions import RTO
from punch.wire.peers.candidate import CandidateType

PACING = 0.05
"""Seconds between two new checks, unless both sides signal another (RFC 8445, section 14.2)."""
MIN_PACING = 0.005
"""The least pacing that RFC 8445, section 14.2 allows."""
HEAD_START = 0.25
"""For how many seconds checks through the peer's NAT are held back at most."""
REPEAT = 15.0, 300.0
"""
Seconds after which pairs that have failed are checked again if they would be better than the selected one:
the first time, and at most. The wait doubles each time.
"""
_SIGNALLED = (CandidateType.HOST, CandidateType.SRFLX)
"""The types of direct candidates that a peer signals. Only pairs with these are checked again."""


class Pacer:
    """
    Starts the checks of one ICE session, one every Ta.

    A direct pair that has failed is checked again from time to time, as long as a worse one is selected. RFC
    8445 has such a pair checked only after an ICE restart, or when the peer checks it (section 7.3.1.4). Both
    sides have to check it, since both may be behind firewalls. Their checks fail at about the same time, so
    they are also repeated at about the same time.

    :ivar interval: Ta, in seconds.
    """

    def __init__(
        self,
        checklist: CheckList,
        checker: CheckClient,
        selector: Selector,
        unlikely: Callable[[CandidatePair], bool],
        interval: float,
    ) -> None:
        """
        :param unlikely: tells which pairs are checked after all others.
        """
        self.interval = max(interval, MIN_PACING)
        self._checklist = checklist
        self._checker = checker
        self._selector = selector
        self._unlikely = unlikely
        self._next_at = 0.0
        self._held_since: float | None = None
        self._held_until: float | None = None
        self._repeat_at: float | None = None
        self._repeat_wait = REPEAT[0]

    def slow_down(self, interval: float) -> None:
        """Use the peer's Ta if it is larger."""
        self.interval = max(self.interval, interval)

    def hold(self, now: float) -> None:
        """
        Hold back the checks through the peer's NAT until the peer probably knows our candidates
        (`reflected`), or `HEAD_START` is over. Triggered checks are not held back. Other checks are held back
        only if one of those through the NAT goes to an address at which the peer answered before: they wait
        until that one has begun. Some routers take unsolicited datagrams as meant for themselves and remember
        the sender. If their own host sends there afterwards, they give it another port, which the peer's NAT
        does not let in. This is avoided if the first checks of both sides cross on the way.
        """
        self._held_since, self._held_until = now, now + HEAD_START

    def reflected(self, now: float, *, news: bool) -> None:
        """
        A reflector has answered. The first answer took a round trip to the rendezvous, which is about the
        time that our candidates take to reach the peer.

        :param news: the answer contained a new candidate, which takes the same time again.
        """
        if self._held_since is None or self._held_until is None:
            return
        self._held_until = min(self._held_until, 2 * now - self._held_since if news else now)
        self._held_since = None

    def unanswered(self, pair: CandidatePair, now: float) -> None:
        """No check of this pair was answered; it is repeated later if it is better than the selected one."""
        if self._repeat_at is None and self._is_repeated(pair):
            self._repeat_at = now + self._repeat_wait
            self._repeat_wait = min(2 * self._repeat_wait, REPEAT[1])

    def _is_repeated(self, pair: CandidatePair) -> bool:
        signalled = pair.local.type is CandidateType.HOST and pair.remote.type in _SIGNALLED
        return signalled and pair.state is PairState.FAILED and self._is_likely(pair)

    def _repeat_failed(self, now: float) -> None:
        if self._repeat_at is None or now < self._repeat_at:
            return
        self._repeat_at = self._selector.held_until
        selected = self._selector.selected
        if self._repeat_at is None and selected is not None:
            for pair in self._checklist:
                if self._is_repeated(pair):
                    pair.state = PairState.WAITING

    def start_check(self, now: float) -> bool:
        """Start the next check if it is due; returns whether one was started."""
        self._repeat_failed(now)
        if self._held_until is not None and now >= self._held_until:
            self._held_since = self._held_until = None
        selector, checklist = self._selector, self._checklist
        checklist.unfreeze(selector.needed)
        if now < self._next_at:
            return False
        nominated = selector.take_nomination(now)
        pair = nominated or checklist.next_pair(self._due, self._unlikely)
        if pair is None:
            return False
        rto = max(RTO, self.interval * checklist.pending(self._counts_towards_rto(pair)))
        self._checker.start(pair, now, rto, selector.nomination if nominated is not None else None)
        self._next_at = now + self.interval
        return True

    def get_timer(self) -> float | None:
        """When to call `start_check`; None: not needed."""
        times = [time for time in (self._held_until, self._repeat_at) if time is not None]
        if self._checklist.has_work(self._due):
            times.append(self._next_at)
        nominate_at = self._selector.nominate_at
        if nominate_at is not None:
            times.append(max(nominate_at, self._next_at))
        return min(times, default=None)

    def _counts_towards_rto(self, pair: CandidatePair) -> Callable[[CandidatePair], bool]:
        """
        Tells which pairs count towards the RTO of this one (RFC 8445, section 14.3, allows other formulas).
        Unlikely pairs do not delay others: with two machines full of containers, a lost check through the
        NATs would be retransmitted only after four seconds.
        """
        needed, unlikely = self._selector.needed, self._unlikely
        if unlikely(pair):
            return needed
        return lambda other: needed(other) and not unlikely(other)

    def _is_likely(self, pair: CandidatePair) -> bool:
        return self._selector.needed(pair) and not self._unlikely(pair)

    def _due(self, pair: CandidatePair) -> bool:
        if not self._selector.needed(pair):
            return False
        if self._held_until is None:
            return True
        checklist = self._checklist
        if not checklist.is_familiar(pair) and checklist.awaits_familiar(self._is_likely):
            # Another check just before would delay the one that is likely to work by Ta
            return False
        if pair.local.type is CandidateType.RELAY:
            return True
        # Unlikely pairs are checked last in any case, and would only delay the others
        return pair.remote.type is not CandidateType.SRFLX and not self._unlikely(pair)


PAC_TIMEOUT = 39.5
"""Seconds of checking before an ICE session may fail (RFC 8863, section 4)."""
MAX_CHECKING = 60.0
"""
Seconds of checking after which it fails in any case. Checks that take longer, because their RTO grew with the
number of pairs, are not worth a user's time.
"""


class FailureTimer:
    """The time limits of checking."""

    def __init__(self) -> None:
        self._limits: tuple[float, float] = (0.0, 0.0)
        self._checked_at = 0.0

    def start(self, now: float) -> None:
        """Start the timer: checking starts."""
        self._limits = now + PAC_TIMEOUT, now + MAX_CHECKING
        self._checked_at = now

    def is_over(self, now: float, exhausted: bool) -> bool:
        """
        Whether the session has failed.

        :param exhausted: all pairs have failed, and no more candidates follow.
        """
        self._checked_at = now
        may_fail_at, must_fail_at = self._limits
        return now >= must_fail_at or (now >= may_fail_at and exhausted)

    def get_timer(self) -> float | None:
        """When to call `is_over` again; None: not needed."""
        return min((limit for limit in self._limits if self._checked_at < limit), default=None)

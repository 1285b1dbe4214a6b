"""
Keeping paths: consent on the selected pair (RFC 7675), the spares, and what is done when a pair falls silent.

Checks are small, and a path may carry no larger ones. So a pair is checked in full size as well before it is
relied on, and again while large datagrams are sent on it (`PairMonitor.check_size`).

A pair whose consent check, or whose data (`PairMonitor.probe`), got no answer is asked again in quick
succession, and so are the spares. If it still doesn't answer it is *suspect*: the best pair that did answer
takes its place, and whatever failed before is tried again. It is asked on, because darkness may be short.
"""

from __future__ import annotations

from enum import Enum

from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.nomination import Selector
from punch.ice.pairs import CandidatePair, Doubt

ASK_AGAIN = 0.3
"""Seconds between two questions to a silent pair."""
MAX_SPARES = 8
"""Other pairs that are checked in full size when the selected one does not answer."""
VERDICT = 1.5
"""
Seconds of them after which it is suspect. With the half second before the first one, and what the next best
pair needs, a dead path is left within three seconds.
"""
SLOW = 1.5, 3.0
"""Round-trip times that the next question and the verdict wait at least, where the path takes so long."""


class PairCondition(Enum):
    """What the keeper found out about the selected pair."""

    SILENT = "silent"
    """It did not answer at once: it may be time to prepare for the worst."""
    UNRESPONSIVE = "suspect"
    """It did not answer at all."""


class PairMonitor:
    """Asks on the valid pairs of one session."""

    def __init__(self, checker: CheckClient, checklist: CheckList, selector: Selector) -> None:
        self._checker = checker
        self._checklist = checklist
        self._selector = selector
        self._probed: CandidatePair | None = None
        self._began = 0.0
        self._ask_at = 0.0
        self._asked = 0

    @property
    def probing(self) -> bool:
        """Whether the selected pair is being asked whether it is still there."""
        return self._probed is not None and self._probed is self._selector.selected

    def probe(self, now: float) -> None:
        """The selected pair may be dead: ask, unless that is under way."""
        selected = self._selector.selected
        if selected is None or self.probing or selected.unresponsive:
            return
        self._probed, self._began, self._ask_at, self._asked = selected, now, now, 0
        for pair in self._selector.spares():
            self._ask(pair, now)

    def check_size(self, now: float) -> None:
        """Large datagrams are sent on the selected pair: ask whether it carries them."""
        selected = self._selector.selected
        if selected is not None and not selected.unresponsive:
            self._checker.check_size(selected, now)

    def too_small(self, pair: CandidatePair, since: float, now: float) -> bool:
        """
        No check of full size was answered on this pair, though they were sent from `since` on.

        :return: whether it is the selected one, which was not in doubt before.
        """
        pair.full_at = None
        if not pair.usable:
            return False
        pair.doubt = Doubt.SMALL if pair.answered_at >= since else Doubt.SILENT
        selected = pair is self._selector.selected
        pair.refresh_at = now if selected else pair.refresh_at
        return selected

    def answered(self, pair: CandidatePair) -> None:
        """A check on this pair was answered."""
        if pair is self._probed:
            self._probed = None

    def work(self, now: float) -> PairCondition | None:
        """Ask what is due; says what there is to know, once."""
        selected = self._selector.selected
        finding = None
        if selected is not None:
            self._check_sizes(selected, now)
            self._ask_for_consent(selected, now)
            finding = self._continue_probe(selected, now)
        for pair in self._asked_on():
            if now >= pair.refresh_at:
                self._ask(pair, now)
        return finding

    def get_timer(self) -> float | None:
        """When to call `work`."""
        times = [pair.refresh_at for pair in self._asked_on()]
        selected, consent = self._selector.selected, self._selector.consent
        if selected is not None and consent is not None:
            times.append(consent.check_at)
            if consent.unanswered_since is not None and not selected.unresponsive and not self.probing:
                times.append(consent.unanswered_since + _failure_timer(selected))
        if selected is not None and self.probing:
            times += (self._ask_at, self._began + _verdict(selected))
        return min(times, default=None)

    def _check_sizes(self, selected: CandidatePair, now: float) -> None:
        """Check the pairs that are in use, or may be soon."""
        check = selected.size_check
        late = check is not None and check.sent > 2
        if check is not None and late:
            spares = self._selector.spares(MAX_SPARES)
            if selected.answered_at < check.started:
                self.probe(now)
            for pair in spares:
                if pair.full_at is not None and pair.full_at < check.started:
                    # What has made the selected pair small may have made others small too
                    pair.full_at = None
        elif self._selector.checks_size:
            spares = self._selector.spares()
        else:
            return
        for pair in (selected, *spares):
            if pair.usable and not pair.full:
                self._checker.check_size(pair, now)

    def _ask_for_consent(self, selected: CandidatePair, now: float) -> None:
        consent = self._selector.consent
        if consent is None:
            return
        if now >= consent.check_at:
            self._checker.ask(selected, now, self._selector.repeated_nomination)
            consent.asked(now)
        since = consent.unanswered_since
        if since is not None and now >= since + _failure_timer(selected):
            self.probe(now)

    def _continue_probe(self, selected: CandidatePair, now: float) -> PairCondition | None:
        if not self.probing:
            return None
        if now >= self._began + _verdict(selected):
            self._probed = None
            for pair in self._checklist:
                if pair.valid and pair.answered_at < self._began:
                    pair.doubt = Doubt.SILENT
                    pair.refresh_at = min(pair.refresh_at, now)
            return PairCondition.UNRESPONSIVE
        if now < self._ask_at:
            return None
        self._checker.ask(selected, now, self._selector.repeated_nomination)
        self._ask_at = now + max(ASK_AGAIN, SLOW[0] * (selected.rtt or 0.0))
        self._asked += 1
        return PairCondition.SILENT if self._asked == 2 else None

    def _asked_on(self) -> list[CandidatePair]:
        """The spares, and the selected pair if all that is left of it is hope."""
        selected = self._selector.selected
        spares = self._selector.spares()
        return [*spares, selected] if selected is not None and selected.unresponsive else spares

    def _ask(self, pair: CandidatePair, now: float) -> None:
        self._checker.ask(pair, now)
        if pair.doubt is Doubt.SMALL and pair is self._selector.selected:
            self._checker.check_size(pair, now, 1)
        self._selector.refreshed(pair, now)


def _failure_timer(pair: CandidatePair) -> float:
    """Seconds until an answer is late."""
    return max(0.5, SLOW[0] * (pair.rtt or 0.0))


def _verdict(pair: CandidatePair) -> float:
    return max(VERDICT, SLOW[1] * (pair.rtt or 0.0))

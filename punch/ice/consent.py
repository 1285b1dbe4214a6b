"""
Whether pairs still work: consent on the selected pair (RFC 7675), and what is done when a pair stops
answering.

Checks are small, and a path may carry no larger datagrams. So a pair is checked in full size as well before
it is relied on, and again when data on it is lost (`PairMonitor.check_size`).

If a consent check or data (`PairMonitor.probe`) got no answer on a pair, the pair and the spare pairs are
checked in quick succession. If it still does not answer it is *unresponsive*: the best pair that did answer
is selected, and pairs that failed before are tried again. Unresponsive pairs are still checked, since the
path may return soon.

    answered ──> unanswered ──> probed ──> unresponsive
        ^            │            │             │         (an answer leads back from each of them)
        └────────────┴────────────┴─────────────┘

============  =======================================  ====================================================
selected pair its data                                 its timer
============  =======================================  ====================================================
answered      `Consent.check_at`                       then: a consent check
unanswered    `Consent.unanswered_since`               one and a half round trips, at least 0.5 s: a probe
probed        `PairProbe`                              `next_at`: a check. `PROBE_TIMEOUT`: unresponsive
unresponsive  `CandidatePair.impairment`               `CandidatePair.refresh_at`: a check
============  =======================================  ====================================================

In each of them, the pair fails at `Consent.expires_at`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.pairs import CandidatePair, Impairment
from punch.ice.transactions import Transaction
from punch.identity import RandomBytes

if TYPE_CHECKING:
    from punch.ice.selector import Selector

INTERVAL = 5.0
"""Mean seconds between two consent checks; each interval is randomly 0.8 to 1.2 times as long."""
EXPIRY = 30.0
"""Seconds after the last answer until consent expires and nothing may be sent any more."""


class Consent:
    """The peer's consent to receive on one pair (RFC 7675, section 5.1)."""

    def __init__(self, answered_at: float, random: RandomBytes) -> None:
        """
        :param answered_at: when the newest success response came on this pair, in monotonic seconds.
        """
        self._random = random
        self.expires_at = answered_at + EXPIRY
        self.check_at = answered_at + self._interval()
        self.unanswered_since: float | None = None
        """When the first check was sent since the last answer; None: all were answered."""

    def answered(self, now: float) -> None:
        """A check on this pair was answered: consent holds for another `EXPIRY` seconds."""
        self.expires_at = now + EXPIRY
        self.unanswered_since = None

    def asked(self, now: float) -> None:
        """A consent check was sent; each is a transaction of its own and is not retransmitted."""
        self.check_at = now + self._interval()
        if self.unanswered_since is None:
            self.unanswered_since = now

    def _interval(self) -> float:
        chance = int.from_bytes(self._random(2), "big") / 65535
        return INTERVAL * (0.8 + 0.4 * chance)


PROBE_INTERVAL = 0.3
"""Seconds between two checks of a pair that is probed."""
MAX_SPARES = 8
"""How many other pairs are checked in full size when the selected one does not answer."""
PROBE_TIMEOUT = 1.5
"""
Seconds of probing without an answer after which a pair is unresponsive. With the half second before the first
check, and the time that the next best pair needs, a broken path is left within three seconds.
"""
PROBE_RTTS = 1.5, 3.0
"""
The least time to wait for each answer, and the least time of probing, in round-trip times.
"""
SIZE_RETRY = 1.0, 300.0
"""
Seconds until a pair that seems small, and would be better than the selected one, is checked in full size
again: the first time, and at most. The time doubles with each check. Loss alone can make a pair seem small.
"""


class PairCondition(Enum):
    """What `PairMonitor` found out about the selected pair."""

    UNANSWERED = "unanswered"
    """It left two checks in a row unanswered."""
    UNRESPONSIVE = "unresponsive"
    """It left all checks unanswered."""


@dataclass(frozen=True)
class PairProbe:
    """
    The checks in quick succession of a pair that may not work any more.

    :ivar pair: the pair.
    :ivar since: when they began.
    :ivar next_at: when the next check is sent.
    :ivar checks: how many were sent.
    """

    pair: CandidatePair
    since: float
    next_at: float
    checks: int = 0

    @property
    def ends_at(self) -> float:
        """When the pair is unresponsive if it has not answered."""
        return self.since + max(PROBE_TIMEOUT, PROBE_RTTS[1] * self.pair.expected_rtt)

    def checked(self, now: float) -> PairProbe:
        """Return the probe after another check."""
        next_at = now + max(PROBE_INTERVAL, PROBE_RTTS[0] * self.pair.expected_rtt)
        return replace(self, next_at=next_at, checks=self.checks + 1)


class PairMonitor:
    """Checks the valid pairs of one ICE session."""

    def __init__(self, checker: CheckClient, checklist: CheckList, selector: Selector) -> None:
        self._checker = checker
        self._checklist = checklist
        self._selector = selector
        self._probe: PairProbe | None = None

    @property
    def probed(self) -> PairProbe | None:
        """The probe of the selected pair; None: it is not probed."""
        probe = self._probe
        return probe if probe is not None and probe.pair is self._selector.selected else None

    def probe(self, now: float) -> None:
        """Check whether the selected pair still works, unless it is being probed already."""
        selected = self._selector.selected
        if selected is None or self.probed is not None or selected.impaired:
            return
        self._probe = PairProbe(selected, now, now)
        for pair in self._selector.spares():
            self._refresh(pair, now)

    def check_size(self, now: float) -> None:
        """Check whether the selected pair carries the largest datagrams."""
        selected = self._selector.selected
        if selected is not None and not selected.impaired:
            self._checker.check_size(selected, now)

    def too_small(self, pair: CandidatePair, since: float, now: float) -> bool:
        """
        No check of full size was answered on this pair since the time `since`.

        :return: whether it is the selected pair and was usable before.
        """
        selected = pair is self._selector.selected
        pair.full_at = None
        pair.size_at = now + min(SIZE_RETRY[0] * 2**pair.size_failures, SIZE_RETRY[1])
        if not selected:
            pair.size_failures = min(pair.size_failures + 1, 16)
        # Unless a smaller check that was sent later is answered, this one may only wait in a queue
        small = pair.asked_at > since
        if not pair.usable or (selected and not small):
            return False
        current = self._selector.selected
        better = current is not None and pair.valid_kind > current.valid_kind
        # A better pair gets more checks of full size soon (`size_at`), whatever the cause
        pair.impairment = Impairment.SMALL if small or better else Impairment.UNRESPONSIVE
        pair.refresh_at = now if selected else pair.refresh_at
        return selected

    def measured(self, rtt: float) -> None:
        """The link measured this round-trip time on the selected pair, in seconds, queues included."""
        selected = self._selector.selected
        if selected is not None:
            selected.latest_rtt = rtt
            if not selected.rtt_exact:
                selected.rtt = rtt if selected.rtt is None else min(rtt, selected.rtt)

    def answered(self, pair: CandidatePair) -> None:
        """A check on this pair was answered."""
        if self._probe is not None and self._probe.pair is pair:
            self._probe = None

    def handle_timer(self, now: float) -> PairCondition | None:
        """Send the checks that are due; returns a condition of the selected pair once, when it is found."""
        selected = self._selector.selected
        condition = None
        if selected is not None:
            self._check_sizes(selected, now)
            self._check_consent(selected, now)
            condition = self._continue_probe(now)
        small = self._small_pair()
        for pair in self._refreshed_pairs(small):
            if now >= pair.refresh_at:
                self._refresh(pair, now)
        if small is not None and now >= small.size_at:
            self._checker.check_size(small, now)
        return condition

    def get_timer(self) -> float | None:
        """When to call `handle_timer`; None: not needed."""
        small = self._small_pair()
        times = [pair.refresh_at for pair in self._refreshed_pairs(small)]
        if small is not None and small.size_check is None:
            times.append(small.size_at)
        selected, consent, probe = self._selector.selected, self._selector.consent, self.probed
        if selected is not None and consent is not None:
            times.append(consent.check_at)
            if consent.unanswered_since is not None and not selected.impaired and probe is None:
                times.append(consent.unanswered_since + _answer_timeout(selected))
        if probe is not None:
            times += (probe.next_at, probe.ends_at)
        return min(times, default=None)

    def _check_sizes(self, selected: CandidatePair, now: float) -> None:
        """Check in full size the pairs that are in use or may be soon."""
        check = selected.size_check
        if check is not None and check.sent > 2:
            self._check_spare_sizes(selected, check, now)
        elif self._selector.checks_size:
            # One pair after the other: all at once would fill the queue of a slow line
            pairs = [selected, *self._selector.spares()]
            if all(pair.size_check is None for pair in pairs):
                for pair in pairs:
                    if pair.usable and not pair.full:
                        self._checker.check_size(pair, now)
                        break

    def _check_spare_sizes(self, selected: CandidatePair, check: Transaction, now: float) -> None:
        """Check the spare pairs in full size, since the selected one did not answer two such requests."""
        if selected.asked_at <= check.started:
            # No check that was sent later is answered: there may be a queue, or the path does not work
            self.probe(now)
            return
        for pair in self._selector.spares(MAX_SPARES):
            if pair.full_at is not None and pair.full_at < check.started:
                # The cause of the selected pair's new limit may affect the others too
                pair.full_at = None
            if pair.usable and not pair.full:
                self._checker.check_size(pair, now)

    def _check_consent(self, selected: CandidatePair, now: float) -> None:
        consent = self._selector.consent
        if consent is None:
            return
        if now >= consent.check_at:
            self._checker.check_consent(selected, now, self._selector.repeated_nomination)
            consent.asked(now)
        since = consent.unanswered_since
        if since is not None and now >= since + _answer_timeout(selected):
            self.probe(now)

    def _continue_probe(self, now: float) -> PairCondition | None:
        probe = self.probed
        if probe is None:
            return None
        if now >= probe.ends_at:
            self._probe = None
            for pair in self._checklist:
                if pair.valid and pair.answered_at < probe.since:
                    pair.impairment = Impairment.UNRESPONSIVE
                    pair.refresh_at = min(pair.refresh_at, now)
            return PairCondition.UNRESPONSIVE
        if now < probe.next_at:
            return None
        self._checker.check_consent(probe.pair, now, self._selector.repeated_nomination)
        self._probe = probe.checked(now)
        return PairCondition.UNANSWERED if self._probe.checks == 2 else None

    def _refreshed_pairs(self, small: CandidatePair | None) -> list[CandidatePair]:
        """The spare pairs, a better pair that is small, and the selected pair if it is impaired."""
        selected = self._selector.selected
        spares = self._selector.spares()
        if small is not None and small not in spares:
            spares.append(small)
        return [*spares, selected] if selected is not None and selected.impaired else spares

    def _small_pair(self) -> CandidatePair | None:
        """The best pair that would be selected if it carried the largest datagrams."""
        selected = self._selector.selected
        if selected is None:
            return None
        small = [
            pair
            for pair in self._checklist
            if pair.impairment is Impairment.SMALL
            and pair.valid
            and not pair.full
            and pair is not selected
            and (selected.impaired or pair.valid_kind > selected.valid_kind)
        ]
        return max(small, key=lambda pair: pair.valid_kind, default=None)

    def _refresh(self, pair: CandidatePair, now: float) -> None:
        self._checker.check_consent(pair, now)
        if pair.impairment is Impairment.SMALL and pair is self._selector.selected:
            self._checker.check_size(pair, now, 1)
        self._selector.refreshed(pair, now)


def _answer_timeout(pair: CandidatePair) -> float:
    """Seconds after which a pair without an answer is probed."""
    return max(0.5, PROBE_RTTS[0] * pair.expected_rtt)

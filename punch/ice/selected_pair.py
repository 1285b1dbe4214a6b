"""
The selected pair of an ICE session: choosing and nominating it (RFC 8445, section 8), reporting it, keeping
it and losing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from punch.ice.candidates import LocalCandidates
from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.checks import keepalive
from punch.ice.consent import EXPIRY, Consent, PairCondition, PairMonitor
from punch.ice.events import ChecksUnanswered, ConsentLost, Event, PairDisconnected, Recovered, Selected
from punch.ice.pairs import CandidatePair, Impairment, Pair, PairState
from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit

SETTLE = 0.5
"""Seconds that regular nomination, which is final, waits for a better pair after the first one."""
SPARES = 2
"""How many valid pairs besides the selected one are kept alive as spares."""
REFRESH = 10.0
"""Seconds between the checks that keep a spare pair alive."""
RETRY = 2.0
"""Seconds between checks of an impaired pair."""
CLEARLY_FASTER = 0.5
"""A pair of the same kind is selected instead if its round-trip time is below this part of the old one's."""
WORTH_MOVING = 0.01
"""It must also be lower by this many seconds."""
RETURN_GAP = 30.0
"""Seconds for which a blocked pair must have worked after a return to be returned to once more."""
KEEPALIVE = 15.0
"""Seconds between keepalives where consent is not asked for (RFC 8445, section 11)."""


class Nomination(str, Enum):
    """
    How the controlling side nominates. RENOMINATION: at once, and again with an increasing number when there
    is a better pair, as libwebrtc does. REGULAR: one final nomination (RFC 8445, section 8.1.1).
    """

    RENOMINATION = "renomination"
    REGULAR = "regular"


class Selector:
    """Chooses the selected pair, and holds its nomination and its consent."""

    def __init__(
        self,
        checklist: CheckList,
        nomination: Nomination,
        random: RandomBytes,
        *,
        consent: bool,
        size_first: bool = False,
    ) -> None:
        """
        :param size_first: nominate no pair before a check of full size was answered on it, because another
            path may work already. If false, the first pair is used and nominated while that check is pending.
        """
        self.selected: CandidatePair | None = None
        self.consent: Consent | None = None
        self._checklist = checklist
        self._renominates = nomination is Nomination.RENOMINATION
        self._wants_consent = consent
        self._random = random
        self._size_first = size_first and self._renominates
        self._value = 0
        self._nominate_at: float | None = None
        # Whether the selected pair was nominated in the regular way, which is final while it works
        self._committed = False

    @property
    def nomination(self) -> int:
        """The value of the selected pair's nomination; 0 in regular nomination."""
        return self._value

    @property
    def repeated_nomination(self) -> int | None:
        """The nomination that consent checks repeat, in case the peer uses another pair; None: none."""
        return self._value if self._renominates and self._checklist.controlling and self._value else None

    @property
    def nominate_at(self) -> float | None:
        """When to nominate the selected pair, in monotonic seconds; None: not now."""
        return self._nominate_at if self._checklist.controlling and self._is_settled() else None

    @property
    def checks_size(self) -> bool:
        """Whether we check pairs in full size before they are relied on: if we choose among them."""
        return self._renominates and self._checklist.controlling

    @property
    def nominated(self) -> bool:
        """Whether the selected pair is the controlling side's choice."""
        pair = self.selected
        if self._checklist.controlling:
            return self._is_settled()
        return pair is not None and pair.nomination is not None

    def needed(self, pair: CandidatePair) -> bool:
        """Whether a check on this pair could lead to a better selected pair."""
        if pair.revoked:
            return False
        selected = self.selected
        if selected is None or selected.impaired or (self.checks_size and not selected.full):
            return True
        return pair.kind > selected.valid_kind

    def take_nomination(self, now: float) -> CandidatePair | None:
        """Return the pair to nominate now, with `nomination`; None if there is none."""
        due = self.nominate_at
        if due is None or now < due:
            return None
        self._nominate_at = None
        self._committed = not self._renominates
        return self.selected

    def choose(self, now: float) -> None:
        """Select again, because something about the pairs has changed."""
        if self._checklist.controlling:
            self._select(self._controlling_choice(), now)
        else:
            checklist, current = self._checklist, self._current()
            usable = current if current is not None and current.usable else None
            self._select(checklist.best_nominated() or usable or checklist.best_valid() or current, now)

    def answered(self, pair: CandidatePair, now: float) -> None:
        """A check on this pair was answered."""
        if pair.impairment is Impairment.UNRESPONSIVE or (pair.full and pair.impairment is Impairment.SMALL):
            pair.impairment = None
        pair.refresh_at = now + (RETRY if pair.impairment is Impairment.SMALL else REFRESH)
        if pair is self.selected and self.consent is not None:
            self.consent.answered(now)

    def refreshed(self, pair: CandidatePair, now: float) -> None:
        """A check was sent that keeps this pair alive."""
        pair.refresh_at = now + (RETRY if pair.impaired else REFRESH)

    def role_changed(self, now: float) -> None:
        """Our role changed: drop all nominations and select again."""
        for pair in self._checklist:
            pair.nomination = None
        self._committed = False
        self._nominate_at = now
        if self._checklist.controlling and self._renominates:
            self._value += 1
        self.choose(now)

    def expire(self, now: float) -> CandidatePair | None:
        """
        Fail the valid pairs that were not answered for 30 s.

        :return: the selected pair, if its consent expired.
        """
        for pair in self._checklist.valid:
            if now >= pair.answered_at + EXPIRY and pair is not self.selected:
                pair.state, pair.revoked = PairState.FAILED, pair.used
        lost = self.selected
        if lost is None or self.consent is None or now < self.consent.expires_at:
            return None
        lost.state = PairState.FAILED
        lost.revoked = True
        return lost

    def spares(self, most: int = SPARES) -> list[CandidatePair]:
        """The valid pairs besides the selected one, best first."""
        valid = [pair for pair in self._checklist.valid if pair is not self.selected]
        if len(valid) < 2:
            return valid
        controlling = self._checklist.controlling
        valid.sort(
            key=lambda pair: (pair.impairment is None, pair.valid_kind, pair.priority(controlling)),
            reverse=True,
        )
        return valid[:most]

    def get_timer(self) -> float | None:
        """When to call `expire`; None: not needed."""
        times = [pair.answered_at + EXPIRY for pair in self._checklist.valid if pair is not self.selected]
        if self.consent is not None:
            times.append(self.consent.expires_at)
        return min(times, default=None)

    def _is_settled(self) -> bool:
        """Whether a pair is selected and may be nominated."""
        pair = self.selected
        return pair is not None and (pair.full or pair.impaired or not self._size_first)

    def _current(self) -> CandidatePair | None:
        return self.selected if self.selected is not None and self.selected.valid else None

    def _controlling_choice(self) -> CandidatePair | None:
        current = self._current()
        if current is None or current.impaired:
            return self._checklist.best_valid() or current
        if self._committed:
            return current
        for pair in self._checklist:
            # A pair that is known to carry the largest datagrams is not left for one that is not
            if pair.usable and pair.full >= current.full and _clearly_better(pair, current):
                current = pair
        return current

    def _select(self, pair: CandidatePair | None, now: float) -> None:
        if pair is self.selected:
            return
        first = self.selected is None
        self.selected = pair
        self.consent = None
        self._committed = False
        if pair is None:
            return
        pair.used = True
        if self._wants_consent:
            self.consent = Consent(pair.answered_at, self._random)
        if not self._checklist.controlling:
            return
        if self._renominates:
            self._value += 1
            self._nominate_at = now
        elif first:
            better = any(self.needed(other) and other.state in _OPEN for other in self._checklist)
            self._nominate_at = now + SETTLE if better else now
        elif self._nominate_at is None:
            self._nominate_at = now


_OPEN = (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS)


def _clearly_better(pair: CandidatePair, current: CandidatePair) -> bool:
    """Whether a pair is of a better kind, or of the same kind and much faster."""
    if pair.valid_kind != current.valid_kind:
        return pair.valid_kind > current.valid_kind
    if pair.rtt is None or current.rtt is None or not (pair.rtt_exact and current.rtt_exact):
        return False
    return pair.rtt < current.rtt * CLEARLY_FASTER and current.rtt - pair.rtt > WORTH_MOVING


class SelectedPair:
    """
    The selected pair of an agent.

    :param events: the queue that events are appended to.
    :param connected: called when a pair is selected.
    :param lost: called when no pair is left to select.
    :param changed: called when `handle_timer` may have something to do before the timer is due.
    """

    def __init__(
        self,
        checker: CheckClient,
        checklist: CheckList,
        selector: Selector,
        candidates: LocalCandidates,
        random: RandomBytes,
        events: deque[Event],
        connected: Callable[[], None],
        lost: Callable[[], None],
        changed: Callable[[], None],
        *,
        consent: bool,
    ) -> None:
        self._checker = checker
        self._checklist = checklist
        self._selector = selector
        self._monitor = PairMonitor(checker, checklist, selector)
        self._candidates = candidates
        self._random = random
        self._events = events
        self._connected = connected
        self._lost = lost
        self._changed = changed
        self._consent = consent
        self._published: Pair | None = None
        self._keepalive_at: float | None = None
        self._output: list[Transmit] = []

    @property
    def selected(self) -> Pair | None:
        """The pair to send on now."""
        pair = self._selector.selected
        return None if pair is None else self._to_pair(pair)

    @property
    def working(self) -> bool:
        """Whether a pair is selected and data on it arrives, as far as is known."""
        pair = self._selector.selected
        return pair is not None and pair.usable

    @property
    def size_limited(self) -> bool:
        """Whether the selected pair carries checks, but not the largest datagrams."""
        pair = self._selector.selected
        return pair is not None and pair.impairment is Impairment.SMALL

    @property
    def ready(self) -> bool:
        """Whether it is known which size the selected pair carries, or the peer is to find that out."""
        return not self._checklist.controlling or self._selector.nominated

    @property
    def nominated(self) -> bool:
        """Whether the selected pair is the controlling side's choice, and not only the first that works."""
        return self._selector.nominated

    def choose(self, now: float) -> None:
        """Select again, because something about the pairs has changed."""
        before = self._selector.selected
        self._selector.choose(now)
        if self._selector.selected is not before:
            self._stop_needless(now)
            if not self._consent:
                self._keepalive_at = now + KEEPALIVE
        self.publish()

    def _stop_needless(self, now: float) -> None:
        for pair in self._checklist:
            if pair.state is PairState.IN_PROGRESS and not self._selector.needed(pair):
                self._checker.stop(pair, now)
                pair.state = PairState.WAITING

    def publish(self) -> None:
        """Report the selected pair if it, or the candidates of its ends, have changed."""
        pair = self.selected
        if pair is None:
            return
        before = self._published
        known = before and (before.local, before.remote, before.local_base)
        if known == (pair.local, pair.remote, pair.local_base):
            return
        self._published = pair
        self._connected()
        self._events.append(Selected(pair))

    def answered(self, pair: CandidatePair, now: float, *, full: bool = False) -> None:
        """
        A check on this pair was answered.

        :param full: the check was of full size.
        """
        recovered = pair.impaired and pair is self._selector.selected
        self._monitor.answered(pair)
        self._selector.answered(pair, now)
        self.choose(now)
        if full:
            self._stop_needless(now)
        if recovered and pair.usable and pair is self._selector.selected:
            self._events.append(Recovered(self._to_pair(pair)))

    def probe(self, now: float) -> None:
        """Check whether the selected pair still works."""
        self._changed()
        self._monitor.probe(now)

    def check_size(self, now: float) -> None:
        """Check whether the selected pair carries the largest datagrams."""
        self._changed()
        self._monitor.check_size(now)

    def measured(self, rtt: float) -> None:
        """The link measured this round-trip time on the selected pair, in seconds, queues included."""
        self._changed()
        self._monitor.measured(rtt)

    def too_small(self, pair: CandidatePair, since: float, now: float) -> None:
        """No check of full size was answered on this pair since the time `since`."""
        if self._monitor.too_small(pair, since, now):
            self._leave(now)

    def leave_blocked_pair(self, since: float, now: float) -> bool:
        """
        Select another pair than this one, on which data of the link stays unanswered while checks are
        answered. If no check that was sent after the time `since` is answered, the pair is probed instead.

        :return: whether the pair is now taken for blocked.
        """
        selected = self._selector.selected
        if selected is None or selected.impaired:
            return False
        self._changed()
        if selected.asked_at < since:
            self._monitor.probe(now)
            return False
        selected.impairment, selected.blocked_at = Impairment.BLOCKED, now
        self._leave(now)
        return True

    def link_received(self, base: Address, remote: Address, now: float) -> bool:
        """
        The link receives datagrams between these addresses. If their pair was taken for blocked, it is taken
        for usable again: if it is selected, or if the controlled side has left it and the other one has not.

        It may be blocked in our direction only. So a pair that was left is not taken again if it was blocked
        within `RETURN_GAP` after the last time. The controlling side has nominated another pair; what it
        receives on the one that it left was sent before that was known.

        :return: whether the pair was taken for blocked until now.
        """
        pair, selected = self._checklist.get(base, remote), self._selector.selected
        if pair is None or pair.impairment is not Impairment.BLOCKED:
            return False
        if pair is not selected:
            if self._checklist.controlling or pair.blocked_at < pair.returned_at + RETURN_GAP:
                return False
            pair.returned_at = now
        self._changed()
        pair.impairment = None
        self.choose(now)
        if pair is selected:
            self._events.append(Recovered(self._to_pair(pair)))
        return True

    def bases_lost(self, bases: Collection[Address], now: float) -> None:
        """The machine no longer has these addresses, so nothing that is sent from them arrives."""
        for pair in self._checklist:
            if pair.base in bases and pair.valid:
                pair.impairment, pair.refresh_at = Impairment.UNRESPONSIVE, now
        selected = self._selector.selected
        if selected is not None and selected.base in bases:
            self._leave(now)

    def drop(self, pairs: Sequence[CandidatePair], now: float) -> None:
        """Remove these pairs; if the selected one is among them, select another."""
        selected = self._selector.selected
        lost = self._to_pair(selected) if selected is not None and selected in pairs else None
        for pair in pairs:
            self._checker.forget(pair)
            self._checklist.remove(pair)
            pair.state, pair.revoked = PairState.FAILED, True
        if lost is not None:
            self.choose(now)
            self._report_loss(lost)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`."""
        lost = self._selector.expire(now)
        if lost is not None:
            pair = self._to_pair(lost)
            self._checker.forget(lost)
            self._checklist.forget_trigger(lost)
            self.choose(now)
            if self._report_loss(pair):
                return
        condition = self._monitor.handle_timer(now)
        selected = self._selector.selected
        if condition is PairCondition.UNANSWERED and selected is not None:
            self._events.append(ChecksUnanswered(self._to_pair(selected)))
        elif condition is PairCondition.UNRESPONSIVE:
            self._leave(now)
            selected = self._selector.selected
        if selected is not None and self._keepalive_at is not None and now >= self._keepalive_at:
            self._output.append(Transmit(keepalive(self._random(12)), selected.remote.address, selected.base))
            self._keepalive_at = now + KEEPALIVE

    def datagrams_to_send(self) -> list[Transmit]:
        """Return the datagrams to send now."""
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`; None: not needed."""
        times = (self._selector.get_timer(), self._monitor.get_timer(), self._keepalive_at)
        return earliest(times)

    def _leave(self, now: float) -> None:
        """Select another pair than the impaired one, or try all pairs again if there is none."""
        selected = self._selector.selected
        if not any(pair.usable for pair in self._checklist):
            # What blocked a pair may be gone: give the others another try
            for pair in self._checklist:
                if pair.impairment is Impairment.BLOCKED and pair is not selected:
                    pair.impairment = None
        self.choose(now)
        selected = self._selector.selected
        if selected is not None and selected.impaired:
            self._checklist.retry_failed()
            self._events.append(PairDisconnected(self._to_pair(selected)))

    def _report_loss(self, pair: Pair) -> bool:
        """Report that the selected pair is gone, unless there is another; returns whether there is none."""
        if self._selector.selected is not None:
            return False
        self._events.append(ConsentLost(pair))
        self._lost()
        return True

    def _to_pair(self, pair: CandidatePair) -> Pair:
        local = self._candidates.at(pair.base, pair.mapped or pair.base)
        return Pair(local, pair.remote, pair.base, pair.rtt)

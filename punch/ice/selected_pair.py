"""The selected pair of a session: choosing it, telling of it, keeping it, and losing it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from punch.ice.candidates import LocalCandidates
from punch.ice.check_client import CheckClient
from punch.ice.check_messages import keepalive
from punch.ice.checklist import CheckList
from punch.ice.events import (
    ConsentLost,
    Doubtful,
    Event,
    Recovered,
    Selected,
    Silent,
)
from punch.ice.nomination import Selector
from punch.ice.pair_monitor import PairCondition, PairMonitor
from punch.ice.pairs import (
    CandidatePair,
    Doubt,
    Pair,
    PairState,
)
from punch.identity import RandomBytes
from punch.wire.address import Address, Transmit

KEEPALIVE = 15.0
"""Seconds between keepalives where consent is not asked for (RFC 8445, section 11)."""


class SelectedPair:
    """
    What an agent does about its selected pair.

    :param events: where to tell of it.
    :param connected: called when a pair is selected.
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
        self._consent = consent
        self._shown: Pair | None = None
        self._keepalive_at: float | None = None
        self._output: list[Transmit] = []

    @property
    def selected(self) -> Pair | None:
        """The path to send on now."""
        pair = self._selector.selected
        return None if pair is None else self._show(pair)

    @property
    def working(self) -> bool:
        """Whether there is a path, and no doubt about it."""
        pair = self._selector.selected
        return pair is not None and pair.usable

    @property
    def small(self) -> bool:
        """Whether the selected pair carries checks, but not the largest datagrams."""
        pair = self._selector.selected
        return pair is not None and pair.doubt is Doubt.SMALL

    @property
    def settled(self) -> bool:
        """Whether nothing has to be known about the selected pair before it is used."""
        return not self._checklist.controlling or self._selector.agreed

    @property
    def agreed(self) -> bool:
        """Whether the controlling side has chosen the selected pair."""
        return self._selector.agreed

    def choose(self, now: float) -> None:
        """Something about the pairs has changed: select again."""
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
        """Tell about the selected pair if what is shown of it has changed."""
        pair = self.selected
        if pair is None:
            return
        shown = self._shown
        known = shown and (shown.local, shown.remote, shown.local_base)
        if known == (pair.local, pair.remote, pair.local_base):
            return
        self._shown = pair
        self._connected()
        self._events.append(Selected(pair))

    def answered(self, pair: CandidatePair, now: float, *, full: bool = False) -> None:
        """
        A check on this pair was answered.

        :param full: it was one of full size.
        """
        recovered = pair.unresponsive and pair is self._selector.selected
        self._monitor.answered(pair)
        self._selector.answered(pair, now, full=full)
        self.choose(now)
        if full:
            self._stop_needless(now)
        if recovered and pair.usable and pair is self._selector.selected:
            self._events.append(Recovered(self._show(pair)))

    def probe(self, now: float) -> None:
        """The selected pair may be dead: ask."""
        self._monitor.probe(now)

    def check_size(self, now: float) -> None:
        """Large datagrams are sent on the selected pair: ask whether it carries them."""
        self._monitor.check_size(now)

    def too_small(self, pair: CandidatePair, since: float, now: float) -> None:
        """No check of full size was answered on this pair from `since` on."""
        if self._monitor.too_small(pair, since, now):
            self._doubt(now)

    def pass_over(self, now: float) -> None:
        """The link hears nothing on the selected pair, though checks are answered: take another."""
        selected = self._selector.selected
        if selected is None or selected.unresponsive:
            return
        if not any(pair.usable for pair in self._checklist if pair is not selected):
            # The others have their turn again
            for pair in self._checklist:
                if pair.doubt is Doubt.BLOCKED:
                    pair.doubt = None
        selected.doubt = Doubt.BLOCKED
        self._doubt(now)

    def heard(self, now: float) -> None:
        """The link hears something on the selected pair."""
        selected = self._selector.selected
        if selected is not None and selected.doubt is Doubt.BLOCKED:
            selected.doubt = None
            self.choose(now)
            self._events.append(Recovered(self._show(selected)))

    def unresponsive(self, bases: Collection[Address], now: float) -> None:
        """What is sent from these addresses arrives nowhere."""
        for pair in self._checklist:
            if pair.base in bases and pair.valid:
                pair.doubt, pair.refresh_at = Doubt.SILENT, now
        selected = self._selector.selected
        if selected is not None and selected.base in bases:
            self._doubt(now)

    def drop(self, pairs: Sequence[CandidatePair], now: float) -> bool:
        """There are no such pairs any more; returns whether the last path is lost with them."""
        selected = self._selector.selected
        shown = self._show(selected) if selected is not None and selected in pairs else None
        for pair in pairs:
            self._checker.forget(pair)
            self._checklist.remove(pair)
            pair.state, pair.revoked = PairState.FAILED, True
        if shown is None:
            return False
        self.choose(now)
        return self._lose(shown)

    def work(self, now: float) -> bool:
        """Do what is due; returns whether the last path is lost."""
        lost = self._selector.expire(now)
        if lost is not None:
            shown = self._show(lost)
            self._checker.forget(lost)
            self._checklist.forget_trigger(lost)
            self.choose(now)
            if self._lose(shown):
                return True
        finding = self._monitor.work(now)
        selected = self._selector.selected
        if finding is PairCondition.SILENT and selected is not None:
            self._events.append(Silent(self._show(selected)))
        elif finding is PairCondition.UNRESPONSIVE:
            self._doubt(now)
            selected = self._selector.selected
        if selected is not None and self._keepalive_at is not None and now >= self._keepalive_at:
            self._output.append(Transmit(keepalive(self._random(12)), selected.remote.address, selected.base))
            self._keepalive_at = now + KEEPALIVE
        return False

    def datagrams_to_send(self) -> list[Transmit]:
        """What to send now."""
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `work`."""
        times = (self._selector.get_timer(), self._monitor.get_timer(), self._keepalive_at)
        return min((time for time in times if time is not None), default=None)

    def _doubt(self, now: float) -> None:
        """The selected pair is suspect: take another, or try everything again."""
        self.choose(now)
        selected = self._selector.selected
        if selected is not None and selected.unresponsive:
            self._checklist.revive()
            self._events.append(Doubtful(self._show(selected)))

    def _lose(self, shown: Pair) -> bool:
        """The selected pair is gone; returns whether there is no other."""
        if self._selector.selected is not None:
            return False
        self._events.append(ConsentLost(shown))
        return True

    def _show(self, pair: CandidatePair) -> Pair:
        local = self._candidates.at(pair.base, pair.mapped or pair.base)
        return Pair(local, pair.remote, pair.base, pair.rtt)

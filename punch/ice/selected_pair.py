"""
The selected pair of an ICE session: reporting it, keeping it and losing it. `punch.ice.selector` chooses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from punch.ice.candidates import LocalCandidates
from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.checks import keepalive
from punch.ice.consent import PairCondition, PairMonitor
from punch.ice.events import ChecksUnanswered, ConsentLost, Event, PairDisconnected, Recovered, Selected
from punch.ice.pairs import CandidatePair, Impairment, Pair, PairState, PathKind
from punch.ice.selector import Selector
from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit

RETURN_GAP = 30.0
"""
Seconds for which a pair that was blocked must have worked after a return. Otherwise the link does not return
to it again.
"""
KEEPALIVE = 15.0
"""Seconds between keepalives where consent is not asked for (RFC 8445, section 11)."""


@dataclass(frozen=True)
class Avoidance:
    """
    Pairs that count as blocked when they are answered.

    :ivar routes: their local and remote addresses, without those of pairs that were answered.
    :ivar until: when they are taken for usable again if no other pair is selected.
    """

    routes: set[tuple[Address, Address]]
    until: float


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
        self._avoidance: Avoidance | None = None
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
    def improvable(self) -> bool:
        """
        Whether an ICE restart may find a better path: the selected one is relayed or over TCP, or a better
        one was lost. A pair whose consent has expired is not checked any more (RFC 7675, section 5.1).
        Pairs that never worked are checked again without a restart (`punch.ice.pacing`).
        """
        selected = self.selected
        if selected is None or selected.improvable:
            return selected is not None
        return any(pair.lost and pair.valid_kind > selected.kind for pair in self._checklist)

    @property
    def size_limited(self) -> bool:
        """Whether the selected pair carries checks, but not the largest datagrams."""
        pair = self._selector.selected
        return pair is not None and pair.impairment is Impairment.SMALL

    @property
    def ready(self) -> bool:
        """
        Whether it is known which size of datagrams the selected pair carries, or finding it out is up to the
        peer.
        """
        return not self._checklist.controlling or self._selector.nominated

    @property
    def nominated(self) -> bool:
        """Whether the selected pair is the controlling side's choice, and not only the first that works."""
        return self._selector.nominated

    @property
    def blocked(self) -> set[tuple[Address, Address]]:
        """The local and remote addresses of the pairs that are taken for blocked."""
        pairs = [pair for pair in self._checklist if pair.impairment is Impairment.BLOCKED]
        return {(pair.base, pair.remote.address) for pair in pairs}

    def avoid(self, routes: Collection[tuple[Address, Address]], until: float) -> None:
        """
        Take the pairs of these local and remote addresses for blocked, as the session before does.

        :param until: they are taken for usable again if no other pair is selected then.
        """
        self._changed()
        self._avoidance = Avoidance(set(routes), until)

    def hold(self, held: tuple[PathKind, float] | None, now: float) -> None:
        """Hold pairs back from now on, as `Selector.hold` says."""
        self._changed()
        self._selector.hold(held)
        self.choose(now)

    def limit_first(self, kind: PathKind, until: float) -> None:
        """Limit the first pair, as `Selector.limit_first` says."""
        self._changed()
        self._selector.limit_first(kind, until)

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
        route = pair.base, pair.remote.address
        if self._avoidance is not None and route in self._avoidance.routes:
            self._avoidance.routes.remove(route)
            pair.impairment, pair.blocked_at = Impairment.BLOCKED, now
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
        within `RETURN_GAP` after the last time. The controlling side has nominated another pair. What it
        receives on the pair that it left was sent before the other side knew of that.

        :return: whether the pair was taken for blocked until now.
        """
        pair, selected = self._checklist.get(base, remote), self._selector.selected
        if pair is None or pair.impairment is not Impairment.BLOCKED:
            return False
        if pair is not selected:
            again = pair.blocked_at < pair.returned_at + RETURN_GAP or self._selector.is_held(pair, now)
            if self._checklist.controlling or again:
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
        if self._avoidance is not None and now >= self._avoidance.until:
            self._end_avoidance(now)
        held_until = self._selector.held_until
        if held_until is not None and now >= held_until:
            self.choose(now)
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
        selector = self._selector
        times = (
            selector.get_timer(),
            selector.held_until,
            self._monitor.get_timer(),
            self._keepalive_at,
            None if self._avoidance is None else self._avoidance.until,
        )
        return earliest(times)

    def _end_avoidance(self, now: float) -> None:
        self._avoidance = None
        if self._selector.selected is None:
            self._unblock()
            self.choose(now)

    def _unblock(self) -> None:
        """What blocked a pair may be gone: give all but the selected one another try."""
        for pair in self._checklist:
            if pair.impairment is Impairment.BLOCKED and pair is not self._selector.selected:
                pair.impairment = None

    def _leave(self, now: float) -> None:
        """Select another pair than the impaired one, or try all pairs again if there is none."""
        if not any(pair.usable for pair in self._checklist):
            self._unblock()
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
        return Pair(local, pair.remote, pair.base, pair.valid_kind, pair.rtt)

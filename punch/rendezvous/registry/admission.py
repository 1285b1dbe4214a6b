"""
Which introductions may begin, and which end to make room for them. Pure.

Two peers are *acquainted* when one of them has answered a call of the other here before. Restarts of links
are introductions of acquainted peers, and so are calls of peers who have talked before. A stranger cannot
make itself acquainted with a peer that does not answer.

Acquainted peers have places of their own, and all places are shared between the sources of the callers
(`SourceTable`). There are places

- for all introductions together;
- at each called peer for calls that ring. If each place belongs to a different source, the new call replaces
  one from a network that has taken more of the called peer's time (`RingingTurns`). If there is none, a few
  more calls are passed on: the called peer accepts those from peers that it knows, and reports busy for the
  others at once. A call that it lets ring nevertheless gets the next free place;
- at each called peer for calls that it has answered and that are not over: a peer that accepts every call has
  room for this many. No call is refused for want of these: the oldest one of the address, of its network or
  of all ends instead.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from punch.identity import PeerID
from punch.net.fairness import SourceCache
from punch.net.rate_limits import Counters, NoRoom, SourceBuckets, SourceScope, SourceTable
from punch.net.sources import NETWORK_GROWTH, SITE_GROWTH, Shares, Source
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.introduction import IntroductionKey
from punch.rendezvous.registry.places import RESERVE, EarlierSources, room_in
from punch.wire.control import ErrorCode

TURN = 20.0
"""Seconds for which the first call of a network rings at least, and for which each call counts at least."""
PASSED_ON = 2.0
"""Seconds for which a call counts that has no place but is passed on to the called peer."""
_FORGOTTEN = 0.1
"""Seconds that are forgotten in each second."""
_DIGEST_SIZE = 16

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True)
class _Ringing:
    source: Source
    since: float

    @property
    def network(self) -> Source:
        return self.source[:1]


class RingingTurns:
    """
    Which stranger's call at a peer ends for one of another network, when every network has one place there:
    the time that networks have taken at called peers, and the calls of strangers that ring there.

    A call may end for a call of a network that has taken less of this peer's time, by `TURN` seconds or more.
    A call counts for as long as it rings, and for `TURN` seconds at least; one that is passed on without a
    place counts for `PASSED_ON` seconds. This time is forgotten a tenth as fast as time passes. So the first
    call of a network rings for `TURN` seconds at least. Callers that call again and again, or give up and
    call again, make room for those that have not called, and not the other way round.

    :param capacity: networks that are remembered, each for each peer that it has called.
    """

    def __init__(self, capacity: int) -> None:
        shares = Shares.growing(-(-capacity // 16))
        self._taken: SourceCache[tuple[PeerID, Source], tuple[float, float]] = SourceCache(capacity, shares)
        self._ringing: dict[PeerID, dict[IntroductionKey, _Ringing]] = {}

    def begin(self, callee: PeerID, source: Source, key: IntroductionKey, now: float) -> None:
        """A call begins to ring."""
        self._ringing.setdefault(callee, {})[key] = _Ringing(source, now)
        self._take(callee, source, TURN, now)

    def passed_on(self, callee: PeerID, source: Source, now: float) -> None:
        """A call has no place, and is passed on to the called peer."""
        self._take(callee, source, PASSED_ON, now)

    def end(self, callee: PeerID, key: IntroductionKey, now: float) -> None:
        """A call rings no more."""
        calls = self._ringing.get(callee, {})
        ringing = calls.pop(key, None)
        if ringing is None:
            return
        if not calls:
            del self._ringing[callee]
        self._take(callee, ringing.source, max(0.0, now - ringing.since - TURN), now)

    def displaced(self, callee: PeerID, source: Source, now: float) -> IntroductionKey | None:
        """Return the call that ends for one of `source`; None: all go on."""
        calls = self._ringing.get(callee, {})
        network = source[:1]
        if not calls or any(each.network == network for each in calls.values()):
            return None
        taken = {
            # Its own turn is counted by how long it rings
            key: self._time_taken(callee, each.network, now) - TURN + now - each.since
            for key, each in calls.items()
        }
        most = max(taken, key=lambda key: taken[key])
        return most if taken[most] >= self._time_taken(callee, network, now) + TURN else None

    def _take(self, callee: PeerID, source: Source, seconds: float, now: float) -> None:
        network = source[:1]
        self._taken.put(source, (callee, network), (self._time_taken(callee, network, now) + seconds, now))

    def _time_taken(self, callee: PeerID, network: Source, now: float) -> float:
        seconds, since = self._taken.get((callee, network)) or (0.0, now)
        return max(0.0, seconds - _FORGOTTEN * (now - since))


def pair_key(one: PeerID, other: PeerID) -> bytes:
    """A key for two peers, in either order."""
    return sha256(min(one, other).key + max(one, other).key).digest()[:_DIGEST_SIZE]


_UNDECIDED = 4
"""The number of calls that are passed on for the called peer to decide, in units of `calls_per_callee`."""
_FIRST_PERIOD = 60.0
"""Seconds after which a call of a source to a peer counts as the first one again."""
_FIRST_GROWTH = (1, SITE_GROWTH, NETWORK_GROWTH)
"""The number of first calls of an address, a /56, and a /24 or /48 in that time."""

_Table = SourceTable[IntroductionKey]


class IntroductionRefusal(Exception):
    """A request is refused: `code` and `text` are sent to the peer."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class _CalleePlaces:
    """The places at one called peer."""

    def __init__(self, limits: RendezvousLimits) -> None:
        places, share = limits.calls_per_callee, limits.calls_per_source
        self.strangers: _Table = SourceTable(places, Shares.growing(share))
        self.acquainted: _Table = SourceTable(places, Shares.growing(share))
        self.undecided: _Table = SourceTable(_UNDECIDED * places, Shares.growing(_UNDECIDED * share))
        self._passed_on: dict[IntroductionKey, Source] = {}
        """The calls in `undecided`, the oldest first."""
        self._answered: _Table = SourceTable(
            limits.answered_per_callee, Shares.growing(limits.answered_per_source)
        )
        self._order: dict[IntroductionKey, Source] = {}
        """The answered calls, the oldest first."""

    @property
    def ringing(self) -> Sequence[_Table]:
        """The tables of calls that ring."""
        return self.strangers, self.acquainted, self.undecided

    @property
    def empty(self) -> bool:
        """Whether all tables are empty."""
        return not (self._answered or any(self.ringing))

    def displaced(self, source: Source) -> IntroductionKey | None:
        """The answered call that has to end so that `source` can have one more; None if there is room."""
        try:
            return self._answered.room(source)
        except NoRoom as problem:
            full = problem.prefix
        return next(key for key, other in self._order.items() if other[: len(full)] == full)

    def answer(self, source: Source, key: IntroductionKey) -> None:
        """Enter a call that was answered. The call that `displaced` named has to have left."""
        self._answered.enter(source, key)
        self._order[key] = source

    def ring(self, table: _Table, source: Source, key: IntroductionKey) -> None:
        """Enter a ringing call into the table that was chosen for it."""
        table.enter(source, key)
        if table is self.undecided:
            self._passed_on[key] = source

    def stop_ringing(self, key: IntroductionKey) -> None:
        """A call is answered or over."""
        for table in self.ringing:
            table.leave(key)
        self._passed_on.pop(key, None)

    def fill(self) -> list[IntroductionKey]:
        """Give free places to calls that were passed on and still ring; returns which have got one."""
        filled = []
        for waiting, source in list(self._passed_on.items()):
            with suppress(NoRoom):
                if self.strangers.room(source) is None:
                    self.undecided.leave(waiting)
                    del self._passed_on[waiting]
                    self.strangers.enter(source, waiting)
                    filled.append(waiting)
        return filled

    def leave(self, key: IntroductionKey) -> None:
        """An answered call is over."""
        self._answered.leave(key)
        self._order.pop(key, None)


@dataclass
class _Admitted:
    caller: PeerID
    callee: PeerID
    source: Source
    account: PeerID
    """Whose calls are counted: the caller, or the member who vouches for it."""
    ringing: bool = True


class IntroductionAdmission:
    """
    The places of introductions, and the rates of calls.

    :param end: ends an introduction to make room for another one, at this time, and calls `leave`.
    :ivar absent_calls: the rate of calls to peers that are not registered.
    """

    def __init__(self, limits: RendezvousLimits, end: Callable[[IntroductionKey, float], None]) -> None:
        self._limits = limits
        self._end = end
        self._entries: dict[IntroductionKey, _Admitted] = {}
        self._callers = Counters(limits.calls_per_caller, limits.introductions)
        shares = Shares.growing(limits.introductions_per_address)
        reserve = limits.introductions // RESERVE
        self._strangers: _Table = SourceTable(limits.introductions - reserve, shares)
        self._acquainted: _Table | None = SourceTable(reserve, shares) if reserve else None
        self._callees: dict[PeerID, _CalleePlaces] = {}
        self._makes_room: PeerID | None = None
        """At this peer, calls are being ended so that a new one has a place."""
        remembered = 2 * limits.registrations
        self._pairs = EarlierSources[bytes](remembered, Shares.growing(-(-remembered // 16)))
        self._turns = RingingTurns(remembered)
        self._source_rate = SourceBuckets(limits.source_rate, limits.source_burst, remembered)
        self.absent_calls = SourceBuckets(limits.absent_rate, limits.absent_burst, remembered)
        self._first = SourceBuckets(1 / _FIRST_PERIOD, 1, remembered, growth=_FIRST_GROWTH)
        self._incoming = {
            (acquainted, first): TokenBuckets(limits.incoming_rate, limits.incoming_burst, remembered)
            for acquainted in (False, True)
            for first in (False, True)
        }

    def admit(
        self,
        key: IntroductionKey,
        caller: PeerID,
        callee: PeerID,
        source: Source,
        now: float,
        *,
        account: PeerID | None = None,
    ) -> None:
        """
        Find places for a new introduction, which rings.

        :param source: the source of the caller.
        :param account: whose calls are counted; None: the caller's.
        :raise IntroductionRefusal: there are none, and nothing has changed.
        """
        account = account or caller
        if self._callers[account] >= self._limits.calls_per_caller:
            raise IntroductionRefusal(
                ErrorCode.TOO_MANY, "You have too many calls going on; end some of them first."
            )
        acquainted = self.acquainted(caller, callee)
        going = [self._strangers]
        if acquainted and self._acquainted is not None:
            going.insert(0, self._acquainted)
        try:
            in_all, first_ended = room_in(going, lambda table: table.room(source))
        except NoRoom as problem:
            text = f"Too many calls are going on {problem.scope.value}; try again later."
            raise IntroductionRefusal(ErrorCode.TOO_MANY, text) from problem
        places = self._callees.get(callee) or _CalleePlaces(self._limits)
        at_callee, second_ended = self._ring(places, callee, source, acquainted, now)
        if not self._allow(callee, source, acquainted, now):
            raise IntroductionRefusal(
                ErrorCode.BUSY, "This peer was called too often just now; try again later."
            )
        self._makes_room = callee
        for ended in (first_ended, second_ended, places.displaced(source)):
            if ended in self._entries:
                self._end(ended, now)
        self._makes_room = None
        self._callees[callee] = places
        self._entries[key] = _Admitted(caller, callee, source, account)
        self._callers.enter(account)
        in_all.enter(source, key)
        places.ring(at_callee, source, key)
        if at_callee is places.strangers and not acquainted:
            self._turns.begin(callee, source, key, now)
        elif at_callee is places.undecided and not acquainted:
            self._turns.passed_on(callee, source, now)
        self._fill(callee, now)

    def check_absent(self, source: Source, now: float) -> None:
        """
        A peer is called that is not registered here.

        :param source: the source of the caller.
        :raise IntroductionRefusal: too many such calls came from there just now.
        """
        if not self.absent_calls.allow(source, now):
            raise IntroductionRefusal(
                ErrorCode.RATE,
                "Too many peers that are not here were called from your network; wait a minute.",
            )

    def found_elsewhere(self, source: Source) -> None:
        """A peer for which `check_absent` was called is registered at another process: that costs nothing."""
        self.absent_calls.give_back(source)

    def acquainted(self, one: PeerID, other: PeerID) -> bool:
        """Whether one of two peers has answered a call of the other."""
        return pair_key(one, other) in self._pairs

    @property
    def places(self) -> list[_Table]:
        """The places of all introductions, and those reserved for acquainted peers."""
        return [self._strangers] if self._acquainted is None else [self._strangers, self._acquainted]

    def remember(self, source: Source, caller: PeerID, callee: PeerID, now: float) -> None:
        """A peer has answered a call, which came from `source`."""
        self._pairs.add(source, pair_key(caller, callee), now)

    def answered(self, key: IntroductionKey, now: float) -> None:
        """The called peer has answered: the peers are acquainted, and the call no longer rings."""
        entry = self._entries[key]
        if not entry.ringing:
            return
        self._stop_ringing(key, entry, now)
        self.remember(entry.source, entry.caller, entry.callee, now)
        places = self._callees[entry.callee]
        ended = places.displaced(entry.source)
        if ended is not None:
            self._end(ended, now)
        self._callees[entry.callee] = places
        places.answer(entry.source, key)
        self._fill(entry.callee, now)

    def leave(self, key: IntroductionKey, now: float) -> None:
        """An introduction is over."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry.ringing:
            self._stop_ringing(key, entry, now)
        self._strangers.leave(key)
        if self._acquainted is not None:
            self._acquainted.leave(key)
        places = self._callees[entry.callee]
        places.leave(key)
        if places.empty:
            del self._callees[entry.callee]
        elif entry.callee != self._makes_room:
            self._fill(entry.callee, now)

    def _stop_ringing(self, key: IntroductionKey, entry: _Admitted, now: float) -> None:
        entry.ringing = False
        self._callers.leave(entry.account)
        self._callees[entry.callee].stop_ringing(key)
        self._turns.end(entry.callee, key, now)

    def _fill(self, callee: PeerID, now: float) -> None:
        """Give places that are free to calls that were passed on without one."""
        for filled in self._callees[callee].fill():
            entry = self._entries[filled]
            if not self.acquainted(entry.caller, callee):
                self._turns.begin(callee, entry.source, filled, now)

    def _ring(
        self, places: _CalleePlaces, callee: PeerID, source: Source, acquainted: bool, now: float
    ) -> tuple[_Table, IntroductionKey | None]:
        """
        A table with a place at the called peer, and the call that has to end for it.

        :raise IntroductionRefusal: there is no place.
        """
        tables = [places.acquainted, places.strangers] if acquainted else [places.strangers]
        try:
            return room_in(tables, lambda table: table.room(source))
        except NoRoom as problem:
            full = problem
        if full.shared and (ended := self._turns.displaced(callee, source, now)) is not None:
            return places.strangers, ended
        if full.scope is not SourceScope.ADDRESS and len(places.strangers) == places.strangers.capacity:
            try:
                return places.undecided, places.undecided.room(source)
            except NoRoom as problem:
                full = problem
        where = "" if full.scope is SourceScope.TABLE else f" {full.scope.value}"
        text = f"Too many calls{where} wait for this peer; try again later."
        raise IntroductionRefusal(ErrorCode.BUSY, text) from full

    def _allow(self, callee: PeerID, source: Source, acquainted: bool, now: float) -> bool:
        """Whether one more call may be delivered to the called peer now."""
        about = (callee, acquainted)
        # The caller's share is checked first: calls beyond it do not use up the callee's.
        if not self._source_rate.allow(source, now, about=about):
            return False
        # First calls have tokens of their own, which repeated calls cannot use up.
        first = self._first.allow(source, now, about=about)
        return self._incoming[acquainted, False].allow(callee, now) or (
            first and self._incoming[acquainted, True].allow(callee, now)
        )

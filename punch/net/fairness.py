"""
Sharing instead of refusing: a rate between the members of a source, a table's places between sources, and
turns between networks.

A plain limit for a source (an address, usually) refuses whichever member asks next, even one that uses hardly
anything. With `SourceShares` nobody is refused: while the source is within its rate nobody waits, and beyond
it only those members wait that use more than an equal share. `SourceCache` always takes a new entry.

`SourceTurns` says whose turn is next, when more comes than can be served. In a flood from hundreds of
networks, with strict turns each network waits for all others; here, a network that had no turn lately comes
before those that had one. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.sources import NETWORK_GROWTH, SITE_GROWTH, Shares, Source, width

_MEMORY = 8.0
"""A member or source is forgotten after this many windows without use, when 0.03 % of its usage is left."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Member:
    usage: float
    at: float


@dataclass(slots=True)
class _Source:
    """
    :ivar full_at: the time at which its token bucket is full again.
    :ivar only: its member as long as it has only one, whose usage is `total` then. Most sources have no more.
    :ivar total: the usage of all members, decayed up to the time `at`.
    :ivar squares: the sum of the squares of their usages, decayed too.
    """

    full_at: float
    at: float
    only: Hashable
    total: float = 0.0
    squares: float = 0.0
    members: dict[Hashable, _Member] | None = None
    """The members if there are several; the one that was charged longest ago first."""


P = TypeVar("P", bound=Hashable)


class FairShares:
    """
    A token bucket for each source, which may go below zero, and the recent usage of each member.

    The usage of a member decays exponentially. An equal share of a source is its rate divided by the
    *effective number* of its members, the square of the sum of their usages over the sum of their squares:
    members that use little hardly count, so one heavy member among a thousand quiet ones has all of the rate,
    and eight heavy ones an eighth each. A member that left still counts until its usage has decayed, so that
    reconnecting gains nothing.

    :param rate: what a source may use each second.
    :param burst: what it may use at once.
    :param capacity: sources at most; beyond, the one that was charged longest ago is forgotten.
    :param window: seconds in which usage decays to 1/e.
    """

    def __init__(self, rate: float, burst: float, capacity: int, window: float = 2.0) -> None:
        if rate <= 0 or burst <= 0 or capacity < 1 or window <= 0:
            raise ValueError("fair shares need a rate, a burst, a capacity and a window above zero")
        self.rate = rate
        self.burst = burst
        self.capacity = capacity
        self.window = window
        self._sources: OrderedDict[Hashable, _Source] = OrderedDict()

    def __len__(self) -> int:
        """How many sources are kept."""
        return len(self._sources)

    def charge(self, source: Hashable, member: Hashable, cost: float, now: float) -> float:
        """
        Charge `member` of `source` with `cost`.

        :param now: monotonic seconds.
        :return: the seconds for which the member should use nothing more; 0.0 in the ordinary case.
        """
        kept = self._sources.get(source)
        if kept is None:
            self._forget(now)
            kept = self._sources[source] = _Source(now, now, member)
        self._sources.move_to_end(source)
        kept.full_at = max(kept.full_at, now) + cost / self.rate
        usage = self._add(kept, member, cost, now)
        debt_time = kept.full_at - now - self.burst / self.rate
        if debt_time <= 0.0:
            return 0.0
        share = self.rate * self.window * kept.squares / (kept.total * kept.total)
        if usage <= share:
            return 0.0
        return min(debt_time, self.window * math.log(usage / share))

    def _add(self, source: _Source, member: Hashable, cost: float, now: float) -> float:
        if source.members is None and source.only != member:
            source.members = {source.only: _Member(source.total, source.at)}
        decay = self._decay(now - source.at)
        source.at = now
        source.total = source.total * decay + cost
        if source.members is None:
            source.squares = source.total * source.total
            return source.total
        source.squares *= decay * decay
        entry = source.members.pop(member, None)
        if entry is None:
            self._forget_members(source.members, now)
            entry = _Member(0.0, now)
        source.members[member] = entry
        before = entry.usage * self._decay(now - entry.at)
        entry.usage, entry.at = before + cost, now
        source.squares += entry.usage * entry.usage - before * before
        return entry.usage

    def _decay(self, seconds: float) -> float:
        return math.exp(-max(0.0, seconds) / self.window)

    def _forget_members(self, members: dict[Hashable, _Member], now: float) -> None:
        # Two are forgotten for each new one, so that the table shrinks again.
        for _ in range(2):
            if not members:
                return
            oldest = next(iter(members))
            if members[oldest].at + _MEMORY * self.window > now:
                return
            del members[oldest]

    def _forget(self, now: float) -> None:
        for _ in range(2):
            if not self._sources:
                return
            key = next(iter(self._sources))
            oldest = self._sources[key]
            used = oldest.full_at > now or oldest.at + _MEMORY * self.window > now
            if used and len(self._sources) < self.capacity:
                return
            del self._sources[key]


class SourceShares:
    """
    Fair shares for sources at each width: the members of an address share what it may use, and the addresses
    of a network share what the network may use.

    :param rate: what an address may use each second; a /56 may use twice, a /24 or a /48 four times as much.
    :param burst: what an address may use at once; wider prefixes more in the same proportion.
    :param capacity: prefixes at most, of each width.
    """

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        self._shares = [
            FairShares(growth * rate, growth * burst, capacity) for growth in (1, SITE_GROWTH, NETWORK_GROWTH)
        ]

    def charge(self, source: Source, member: Hashable, cost: float, now: float) -> float:
        """
        Charge `member` of `source` with `cost`; return the seconds for which it should use nothing more.

        :param now: monotonic seconds.
        """
        members = (*source[1:], member)
        return max(
            self._shares[width(prefix)].charge(prefix, narrower, cost, now)
            for prefix, narrower in zip(source, members, strict=True)
        )


class SourceCache(Generic[K, V]):
    """
    Values by key, each counted for the source that it is there for.

    What is forgotten for a new entry, if there is no room, is

    - the newest entry of the source that has most, if that has at least two more than this source;
    - else the oldest one of this source itself;
    - else, if a wider prefix has used up its share, the newest of the source that has most in it;
    - else, as all places are taken by sources that have one, the oldest of all.

    :param capacity: entries in all.
    :param shares: entries of one source.
    :param forgotten: is called with the key and the value of an entry that has left for another one.
    """

    def __init__(
        self, capacity: int, shares: Shares, forgotten: Callable[[K, V], object] = lambda key, value: None
    ) -> None:
        self._table: SourceTable[K] = SourceTable(capacity, shares)
        self._values: dict[K, V] = {}
        self._forgotten = forgotten

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """The keys and values."""
        return iter(self._values.items())

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not there."""
        return self._values.get(key)

    def put(self, source: Source, key: K, value: V) -> V:
        """Set and return the value of a key, which is the newest entry of `source` now."""
        self._table.leave(key)
        self._values.pop(key, None)
        forgotten = self._leaving(source)
        if forgotten is not None:
            self._table.leave(forgotten)
            self._forgotten(forgotten, self._values.pop(forgotten))
        self._table.enter(source, key)
        self._values[key] = value
        return value

    def _leaving(self, source: Source) -> K | None:
        try:
            return self._table.room(source)
        except NoRoom as full:
            own = self._table.oldest(source)
            if own is not None:
                return own
            return self._table.newest(full.prefix) if full.prefix else next(iter(self._values))


REMEMBERED = 16_384
"""Networks, and addresses, whose last turns are remembered."""


class _LastTurns:
    """
    When prefixes had their last turn, the latest one last.

    :param capacity: how many are remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times: OrderedDict[Hashable, float] = OrderedDict()

    def of(self, prefix: Hashable) -> float:
        """Monotonic seconds; minus infinity if none is remembered."""
        return self._times.get(prefix, -math.inf)

    def had(self, prefix: Hashable, now: float) -> None:
        """Note that a prefix has its turn now."""
        self._times[prefix] = now
        self._times.move_to_end(prefix)
        if len(self._times) > self._capacity:
            self._times.popitem(last=False)


class _Prefixes(Generic[P, V]):
    """What waits, by prefix: in the order of last turns, and in that in which prefixes came or had a turn."""

    def __init__(self, turns: _LastTurns) -> None:
        self._turns = turns
        self._by_turn: list[tuple[float, int, P]] = []
        # The place of each prefix in `_by_turn`, and its value; the prefix that has waited longest is first
        self._by_wait: dict[P, tuple[tuple[float, int, P], V]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._by_turn)

    def get(self, prefix: P) -> V | None:
        """The value of a prefix; None if it is not here."""
        found = self._by_wait.get(prefix)
        return None if found is None else found[1]

    def put(self, prefix: P, value: V) -> V:
        """Add a prefix, and return its value."""
        self._next += 1
        # The numbers differ, so prefixes are never compared.
        place = self._turns.of(prefix), self._next, prefix
        self._by_wait[prefix] = place, value
        insort(self._by_turn, place)
        return value

    def remove(self, prefix: P) -> None:
        """Remove a prefix that is here."""
        place, _ = self._by_wait.pop(prefix)
        del self._by_turn[bisect_left(self._by_turn, place)]

    def turn(self, *, longest_wait: bool, now: float) -> V:
        """
        Give a prefix its turn, and return its value.

        :param longest_wait: whether to take the prefix that has waited longest, and not the one whose last
            turn was longest ago.
        """
        prefix = next(iter(self._by_wait)) if longest_wait else self._by_turn[0][2]
        value = self._by_wait[prefix][1]
        self.remove(prefix)
        self._turns.had(prefix, now)
        return self.put(prefix, value)

    def latest(self) -> V:
        """The value of the prefix whose last turn was latest."""
        return self._by_wait[self._by_turn[-1][2]][1]


class SourceTurns(Generic[K]):
    """
    What waits, by source.

    Two kinds of turn alternate. One belongs to the network whose last turn was longest ago (those that had
    none come first), so a network that comes now and then does not wait for those that come all the time,
    however many these are. The other one belongs to the network that has waited longest, so a flood from ever
    new networks keeps nobody out. Within a network, its addresses take turns in the same way. Within an
    address the newest comes first: when more come than can be served, most of those that wait have given up.

    :param memory: networks, and addresses, whose last turns are remembered.
    """

    def __init__(self, memory: int = REMEMBERED) -> None:
        self._network_turns, self._address_turns = _LastTurns(memory), _LastTurns(memory)
        self._networks: _Prefixes[Hashable, _Prefixes[Source, list[K]]] = _Prefixes(self._network_turns)
        self._source_of: dict[K, Source] = {}
        self._longest_wait = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._source_of)

    def add(self, source: Source, key: K) -> None:
        """One more waits."""
        self._source_of[key] = source
        addresses = self._networks.get(source[0])
        if addresses is None:
            addresses = self._networks.put(source[0], _Prefixes(self._address_turns))
        waiting = addresses.get(source)
        if waiting is None:
            waiting = addresses.put(source, [])
        waiting.append(key)

    def remove(self, key: K) -> None:
        """One waits no more. It need not have waited."""
        source = self._source_of.pop(key, None)
        if source is None:
            return
        addresses = self._networks.get(source[0])
        assert addresses is not None
        waiting = addresses.get(source)
        assert waiting is not None
        waiting.remove(key)
        if not waiting:
            addresses.remove(source)
        if not len(addresses):
            self._networks.remove(source[0])

    def pop(self, now: float) -> K:
        """
        Remove and return the one whose turn it is.

        :param now: monotonic seconds.
        :raise IndexError: none waits.
        """
        if not self._source_of:
            raise IndexError("nothing waits")
        longest_wait, self._longest_wait = self._longest_wait, not self._longest_wait
        addresses = self._networks.turn(longest_wait=longest_wait, now=now)
        key = addresses.turn(longest_wait=longest_wait, now=now)[-1]
        self.remove(key)
        return key

    def last_turn(self, source: Source) -> float:
        """When the network of `source` had its last turn; minus infinity if that is not remembered."""
        return self._network_turns.of(source[0])

    def latest(self) -> K:
        """
        The entry that has waited longest, of the source that had its last turn most recently.

        :raise IndexError: none waits.
        """
        return self._networks.latest().latest()[0]

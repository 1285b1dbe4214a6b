"""
Limits on the memory and the rates that strangers can use: counters, token buckets for sources, and tables
that sources share.

`SourceTable` shares places between sources (`punch.net.sources`), `SourceBuckets` limits their rates. All
tables have a fixed size. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from enum import Enum
from typing import Any, Generic, TypeVar

from punch.net.sources import NETWORK_GROWTH, SITE_GROWTH, Shares, Source, width
from punch.net.token_bucket import TokenBuckets

K = TypeVar("K", bound=Hashable)

FIRST = 8
"""
If a prefix has less than one in `FIRST` of the places of its share in this table, the first entry of a source
is not refused for what the prefix has in other tables (`SourceTable`).
"""


class Counters:
    """
    How many of something each key has at the same time, and how many there are in all.

    Only keys that have some are kept, so the table never grows past `limit_total`.
    """

    def __init__(self, limit_each: int, limit_total: int) -> None:
        if limit_each < 1 or limit_total < 1:
            raise ValueError("a limit is at least one")
        self.limit_each = limit_each
        self.limit_total = limit_total
        self.total = 0
        self._counts: dict[Hashable, int] = {}

    def __getitem__(self, key: Hashable) -> int:
        """How many `key` has."""
        return self._counts.get(key, 0)

    def __len__(self) -> int:
        """How many keys have some."""
        return len(self._counts)

    def enter(self, key: Hashable) -> bool:
        """
        Count one more for `key` if both limits allow it, and return whether they did.
        """
        count = self._counts.get(key, 0)
        if count >= self.limit_each or self.total >= self.limit_total:
            return False
        self._counts[key] = count + 1
        self.total += 1
        return True

    def leave(self, key: Hashable) -> None:
        """
        Count one less for `key`.

        :raise KeyError: it has none; the caller has called `leave` more often than `enter` succeeded.
        """
        count = self._counts[key]
        if count == 1:
            del self._counts[key]
        else:
            self._counts[key] = count - 1
        self.total -= 1


class SourceScope(Enum):
    """What is full."""

    TABLE = "here"
    """The whole table."""
    NETWORK = "from your network"
    """The share of a prefix that is wider than an address."""
    ADDRESS = "from your address"
    """The share of an IPv4 address or an IPv6 /64."""


class NoRoom(Exception):
    """
    A source may not have one more entry in a table, and no entry of another source has to leave for it.

    :ivar scope: what is full. For `ADDRESS` the source itself has used up its share.
    :ivar prefix: the prefix of the source that has used up its share; empty for the whole table.
    """

    def __init__(self, source: Source, depth: int) -> None:
        self.prefix = source[:depth]
        self.scope = (
            (SourceScope.ADDRESS if depth == len(source) else SourceScope.NETWORK)
            if depth
            else SourceScope.TABLE
        )
        super().__init__(f"no place is left {self.scope.value}")

    @property
    def shared(self) -> bool:
        """Whether the whole table is full."""
        return self.scope is SourceScope.TABLE


class _Leaf(Generic[K]):
    """The narrowest prefix of a source: how many entries it has, and the entries, the oldest first."""

    __slots__ = ("count", "entries")

    def __init__(self) -> None:
        self.count = 0
        self.entries: dict[K, None] = {}


class _Branch(Generic[K]):
    """
    A wider prefix: how many entries it has, and in which narrower prefixes.

    Most branches have one child, so what tells children apart is kept only for two and more.

    :ivar largest: the number of entries of the child that has most, 0 if there are none.
    """

    __slots__ = ("_by_count", "children", "count", "largest")

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0
        self.children: dict[Hashable, _Branch[K] | _Leaf[K]] = {}
        self._by_count: dict[int, dict[Hashable, None]] | None = None
        """The prefixes of the children, by their numbers of entries."""

    def add(self, prefix: Hashable, child: _Branch[K] | _Leaf[K]) -> None:
        """Add a child that has no entries yet."""
        if self._by_count is None and self.children:
            self._by_count = {each.count: {key: None} for key, each in self.children.items()}
        self.children[prefix] = child

    def change(self, prefix: Hashable, step: int) -> _Branch[K] | _Leaf[K]:
        """Count one entry more (1) or less (-1) in a child, remove it if it has none left, and return it."""
        child = self.children[prefix]
        before, after = child.count, child.count + step
        child.count = after
        if not after:
            del self.children[prefix]
        by_count = self._by_count
        if by_count is None:
            self.largest = after
            return child
        if before:
            same = by_count[before]
            del same[prefix]
            if not same:
                del by_count[before]
        if after:
            by_count.setdefault(after, {})[prefix] = None
        if after > self.largest:
            self.largest = after
        elif self.largest not in by_count:
            self.largest -= 1
        if len(self.children) < 2:
            self._by_count = None
        return child

    def larger(self, least: float) -> list[tuple[Hashable, _Branch[K] | _Leaf[K]]]:
        """The children with at least so many entries."""
        if self._by_count is None:
            return [each for each in self.children.items() if each[1].count >= least]
        counts = [keys for number, keys in self._by_count.items() if number >= least]
        return [(key, self.children[key]) for keys in counts for key in keys]

    def largest_child(self) -> _Branch[K] | _Leaf[K]:
        """One of the children with the most entries."""
        if self._by_count is None:
            return next(iter(self.children.values()))
        return self.children[next(reversed(self._by_count[self.largest]))]


class SourceTable(Generic[K]):
    """
    Shares the places of a table between sources: a tree of counters, one for each prefix that has entries.

    Each prefix has at most its share of the places. When the table or a prefix is full, the newest entry of
    the largest source in it makes room for a source that has at least two fewer. So no source can fill the
    table, and of k sources each gets at least one place in k. The rule is applied to /24s and /48s first,
    then within them, so that a neighbour of a flood gets places as well.

    The time of an operation does not depend on the number of entries.

    There may be tables of the same kind elsewhere, at other processes of a service. Then a prefix has its
    share of all of them together. Only the first entry here of an address, or of a narrower prefix, is not
    refused for what its neighbours have elsewhere, as long as they have less than one in `FIRST` of their
    share here.

    :param capacity: entries in all.
    :ivar elsewhere: how many entries prefixes have in other tables, as far as that is known.
    """

    def __init__(self, capacity: int, shares: Shares) -> None:
        if capacity < 1:
            raise ValueError("a table has at least one place")
        self.capacity = capacity
        self.shares = shares
        self.elsewhere: Mapping[Hashable, int] = {}
        self._root: _Branch[K] = _Branch()
        self._sources: dict[K, Source] = {}

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._sources)

    def __contains__(self, key: object) -> bool:
        """Whether this entry is there."""
        return key in self._sources

    def count(self, source: Source) -> int:
        """How many entries the last prefix of `source` has, which may be a part of a source."""
        path = self._path(source)
        return path[-1].count if len(path) > len(source) else 0

    def counts(self, source: Source) -> list[int]:
        """How many entries the table and each prefix of `source` have, the widest first."""
        path = self._path(source)
        return [node.count for node in path] + [0] * (len(source) + 1 - len(path))

    def source(self, key: K) -> Source:
        """
        The source of an entry.

        :raise KeyError: it is not there.
        """
        return self._sources[key]

    def room(self, source: Source) -> K | None:
        """
        The entry that has to leave so that `source` can have one more. Nothing is changed.

        :return: that entry, or None if there is room.
        :raise NoRoom: the source has used up its share, or has as many entries as the others.
        """
        counts = self.counts(source)
        check_elsewhere(counts, source, self.shares, self.elsewhere)
        full = narrowest_full(counts, source, self.capacity, self.shares)
        return None if full is None else self.displaced(source, full)

    def displaced(self, source: Source, full: int) -> K:
        """
        The entry that has to leave for one of `source`.

        :param full: the depth of the narrowest prefix of `source` that is full, 0 for the table.
        :raise NoRoom: no source there has at least two more entries than this one.
        """
        path = self._path(source)
        # An entry that leaves the narrowest full prefix makes room in all wider ones.
        for depth in range(full, min(len(source), len(path))):
            node = path[depth]
            own = path[depth + 1].count if depth + 1 < len(path) else 0
            assert isinstance(node, _Branch)
            if node.largest >= own + 2:
                return self._newest(node)
            if not own:
                break
        raise NoRoom(source, full)

    def has_most(self, source: Source) -> bool:
        """
        Whether a source has entries, and neither another source nor another prefix on the level of one of its
        own has at least two more. Then `displaced` would find no entry to displace for it in a full
        table; this is quicker.
        """
        node: _Branch[K] | _Leaf[K] = self._root
        for prefix in source:
            assert isinstance(node, _Branch)
            child = node.children.get(prefix)
            if child is None or node.largest >= child.count + 2:
                return False
            node = child
        return True

    def enter(self, source: Source, key: K, *, again: bool = False) -> None:
        """
        Add an entry.

        :param again: whether it was here a moment ago, so that it does not matter what is elsewhere.
        :raise NoRoom: there is no room; nothing was added. The entry that `room` names has to leave first.
        :raise ValueError: the entry is there already.
        """
        if key in self._sources:
            raise ValueError("this entry is there already")
        counts = self.counts(source)
        if not again:
            check_elsewhere(counts, source, self.shares, self.elsewhere)
        full = narrowest_full(counts, source, self.capacity, self.shares)
        if full is not None:
            raise NoRoom(source, full)
        node: _Branch[K] | _Leaf[K] = self._root
        node.count += 1
        for depth, prefix in enumerate(source, 1):
            assert isinstance(node, _Branch)
            if prefix not in node.children:
                node.add(prefix, _Branch() if depth < len(source) else _Leaf())
            node = node.change(prefix, 1)
        assert isinstance(node, _Leaf)
        node.entries[key] = None
        self._sources[key] = source

    def replace(self, key: K, new: K) -> None:
        """
        Add an entry, the newest one of its source. It takes the place of another one of this source.

        :raise KeyError: the other one is not there.
        """
        source = self._sources.pop(key)
        leaf = self._path(source)[-1]
        assert isinstance(leaf, _Leaf)
        del leaf.entries[key]
        leaf.entries[new] = None
        self._sources[new] = source

    def leave(self, key: K) -> None:
        """Remove an entry, if it is there."""
        source = self._sources.pop(key, None)
        if source is None:
            return
        node: _Branch[K] | _Leaf[K] = self._root
        node.count -= 1
        for prefix in source:
            assert isinstance(node, _Branch)
            node = node.change(prefix, -1)
        assert isinstance(node, _Leaf)
        del node.entries[key]

    def oldest(self, source: Source) -> K | None:
        """The oldest entry of the narrowest prefix of `source`, None if it has none."""
        last = self._path(source)[-1]
        return next(iter(last.entries)) if isinstance(last, _Leaf) else None

    def newest(self, prefixes: Source) -> K:
        """The newest entry of the largest source in the last of these prefixes, which has entries."""
        return self._newest(self._path(prefixes)[-1])

    def _path(self, source: Source) -> list[_Branch[K] | _Leaf[K]]:
        """The nodes from the root to the narrowest prefix of `source` that has entries."""
        node: _Branch[K] | _Leaf[K] | None = self._root
        path: list[_Branch[K] | _Leaf[K]] = [self._root]
        for prefix in source:
            if not isinstance(node, _Branch) or (node := node.children.get(prefix)) is None:
                break
            path.append(node)
        return path

    def large(self, part: float) -> dict[Hashable, int]:
        """The prefixes that have at least this part of their share, and how many entries they have."""
        found: dict[Hashable, int] = {}
        least = part * self.shares.address
        branches: list[_Branch[K]] = [self._root]
        while branches:
            for prefix, child in branches.pop().larger(least):
                if child.count >= part * self.shares.of(prefix):
                    found[prefix] = child.count
                if isinstance(child, _Branch):
                    branches.append(child)
        return found

    def _newest(self, node: _Branch[K] | _Leaf[K]) -> K:
        while isinstance(node, _Branch):
            node = node.largest_child()
        return next(reversed(node.entries))


def check_elsewhere(
    counts: Sequence[int], source: Source, shares: Shares, elsewhere: Mapping[Hashable, int]
) -> None:
    """
    Check the entries of a source here (`SourceTable.counts`) and elsewhere together.

    :raise NoRoom: a prefix has used up its share of all tables together.
    """
    if not elsewhere:
        return
    for depth in range(len(source), 0, -1):
        prefix, here = source[depth - 1], counts[depth]
        there, share = elsewhere.get(prefix, 0), shares.of(prefix)
        first = depth < len(source) and not counts[depth + 1] and FIRST * here < share
        if there and not first and here + there >= share:
            raise NoRoom(source, depth)


def narrowest_full(counts: Sequence[int], source: Source, capacity: int, shares: Shares) -> int | None:
    """The depth of the narrowest prefix of `source` that is full, 0 for the table; None if there is room."""
    full = None
    for depth, count in enumerate(counts):
        if count >= (shares.of(source[depth - 1]) if depth else capacity):
            full = depth
    return full


class SourceBuckets:
    """
    Token buckets for sources: each prefix of a source has one, and a wider one fills faster.

    There may be buckets of the same kind elsewhere, at other processes of a service. Then the buckets of a
    prefix are one bucket together: what is missing from any of them is missing from all.

    :param rate: tokens that an address gains each second; a /56 gains twice as many, a /24 or a /48 four
        times as many.
    :param burst: tokens that an address holds at most; wider prefixes hold more in the same proportion.
    :param capacity: buckets at most, of each width.
    :param growth: other factors than these for an address, a /56, and a /24 or a /48.
    """

    def __init__(
        self,
        rate: float,
        burst: float,
        capacity: int,
        growth: tuple[int, int, int] = (1, SITE_GROWTH, NETWORK_GROWTH),
    ) -> None:
        self._buckets = [TokenBuckets(times * rate, times * burst, capacity) for times in growth]
        self._elsewhere: Mapping[Any, float] = {}

    def allow(self, source: Source, now: float, cost: float = 1.0, *, about: Hashable = None) -> bool:
        """
        Take `cost` tokens from the bucket of each prefix of `source`, if all of them have so many.

        :param now: monotonic seconds.
        :param about: a second part of the key, for buckets of a source and something else together.
        :return: whether they had them. If not, nothing is taken.
        """
        wanted = [
            (self._buckets[width(prefix)], (prefix, about), cost + self._elsewhere.get(prefix, 0.0))
            for prefix in source
        ]
        lacking = [each for each in wanted if not each[0].has(each[1], now, each[2])]
        # Buckets that lack tokens are asked too, because one that refuses is not the next to be forgotten.
        for buckets, key, needed in lacking:
            buckets.allow(key, now, needed)
        if not lacking:
            for buckets, key, _ in wanted:
                buckets.allow(key, now, cost)
        return not lacking

    def give_back(self, source: Source, cost: float = 1.0, *, about: Hashable = None) -> None:
        """Put back what `allow` has taken."""
        for prefix in source:
            self._buckets[width(prefix)].give_back((prefix, about), cost)

    def missing(self, part: float, now: float) -> dict[Hashable, float]:
        """The prefixes from whose buckets at least this part of all tokens is missing, and how many are."""
        return {
            key[0]: tokens
            for buckets in self._buckets
            for key, tokens in buckets.missing(part * buckets.burst, now).items()
            if isinstance(key, tuple) and key[1] is None
        }

    def set_elsewhere(self, missing: Mapping[Any, float], seconds: float, now: float) -> None:
        """
        Learn how many tokens are missing from the buckets of prefixes elsewhere. Since the last call, each
        bucket of a prefix has gained as much as all of them should have gained together. So this one loses
        the part that belongs to the others.

        :param seconds: how long ago the last call was.
        """
        for prefix, there in missing.items():
            buckets, key = self._buckets[width(prefix)], (prefix, None)
            here = buckets.missing_from(key, now)
            if here > 0:
                buckets.take(key, seconds * buckets.rate * there / (here + there), now)
        self._elsewhere = missing

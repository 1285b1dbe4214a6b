"""
A table whose places sources share, and in which entries that have been there for a while do not make room for
newer ones. It has a probationary and a protected segment, as a segmented LRU cache has. Pure; times are
monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from punch.net.deadlines import Deadlines
from punch.net.rate_limits import NoRoom, SourceTable, check_elsewhere, narrowest_full
from punch.net.sources import Shares, Source, source_ending_in

K = TypeVar("K", bound=Hashable)

PROBATION = 30.0
"""Seconds that an entry has to be in the table before it can be protected."""
_REVIEWS = 16
"""Entries that are considered in one call at most, so that no call takes long."""


class SegmentedTable(Generic[K]):
    """
    Shares places as a `SourceTable` does, but only entries on probation make room for new ones, and only
    these are counted for that.

    An entry that has been in the table for `PROBATION` seconds becomes protected. At most half of the places
    are for protected entries, and half of the share of a prefix that is wider than an address. When these
    places are taken, the newest protected entry of the largest source makes room for one of a source that has
    at least two fewer of them, if that has been in the table for at least half as long; it is on probation
    again then. So an entry that was there before a flood stays until the flood has lasted for as long as the
    entry had been there, and nobody has a place for ever. An entry for which there was no protected place is
    considered again whenever its age has doubled.

    :param capacity: entries in all.
    :ivar elsewhere: how many entries prefixes have in other tables, as in `SourceTable`.
    """

    def __init__(self, capacity: int, shares: Shares) -> None:
        self.capacity = capacity
        self.shares = shares
        self.elsewhere: Mapping[Hashable, int] = {}
        self._probation: SourceTable[K] = SourceTable(capacity, shares)
        half = Shares(
            shares.address, max(shares.address, shares.site // 2), max(shares.address, shares.network // 2)
        )
        self._protected: SourceTable[K] = SourceTable(max(1, capacity // 2), half)
        self._since: dict[K, float] = {}
        self._reviews: Deadlines[K] = Deadlines()
        """When an entry on probation is considered."""

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self._since)

    def __contains__(self, key: object) -> bool:
        """Whether this entry is there."""
        return key in self._since

    def count(self, source: Source) -> int:
        """How many entries the last prefix of `source` has, which may be a part of a source."""
        return self._probation.count(source) + self._protected.count(source)

    def room(self, source: Source, now: float) -> K | None:
        """
        The entry that has to leave so that `source` can have one more. No entry is added or removed.

        :return: that entry, or None if there is room.
        :raise NoRoom: the source has used up its share, or has as many entries on probation as the others.
        """
        self._review(now)
        full = self._full(source)
        return None if full is None else self._probation.displaced(source, full)

    def enter(self, source: Source, key: K, now: float) -> None:
        """
        Add an entry.

        :raise NoRoom: there is no room; nothing was added. The entry that `room` names has to leave first.
        :raise ValueError: the entry is there already.
        """
        if key in self._since:
            raise ValueError("this entry is there already")
        full = self._full(source)
        if full is not None:
            raise NoRoom(source, full)
        self._probation.enter(source, key)
        self._since[key] = now
        self._reviews.set(key, now + PROBATION)

    def move(self, key: K, source: Source) -> bool:
        """
        Note that an entry has another source now. It keeps its segment and its age if the new source is in
        the same network (the widest prefix) and has room, and is then the newest of that source.

        :return: whether the new source was taken. If not, the entry keeps the one before, and may now be the
            newest of that.
        """
        segment = self._protected if key in self._protected else self._probation
        before = segment.source(key)
        if before[0] != source[0]:
            return False
        segment.leave(key)
        try:
            if self._full(source) is None and segment.room(source) is None:
                segment.enter(source, key)
                return True
        except NoRoom:
            pass
        segment.enter(before, key)
        return False

    def leave(self, key: K) -> float | None:
        """Remove an entry, if it is there; return since when it was."""
        self._probation.leave(key)
        self._protected.leave(key)
        self._reviews.discard(key)
        return self._since.pop(key, None)

    def oldest(self, source: Source) -> K | None:
        """
        The oldest entry on probation of the narrowest prefix of `source`. If it has none, its oldest
        protected entry; None if it has no entry.
        """
        found = self._probation.oldest(source)
        return self._protected.oldest(source) if found is None else found

    def large(self, part: float) -> dict[Hashable, int]:
        """The prefixes that have at least this part of their share, and how many entries they have."""
        # Who has that much in all has half of it in one of the segments.
        candidates = {**self._probation.large(part / 2), **self._protected.large(part / 2)}
        counts = {prefix: self.count(source_ending_in(prefix)) for prefix in candidates}
        return {prefix: count for prefix, count in counts.items() if count >= part * self.shares.of(prefix)}

    # -- within --

    def _full(self, source: Source) -> int | None:
        """
        The depth of the narrowest prefix of `source` that is full, 0 for the table.

        :raise NoRoom: a prefix has used up its share of all tables together.
        """
        segments = zip(self._probation.counts(source), self._protected.counts(source), strict=True)
        counts = [one + other for one, other in segments]
        check_elsewhere(counts, source, self.shares, self.elsewhere)
        return narrowest_full(counts, source, self.capacity, self.shares)

    def _review(self, now: float) -> None:
        for _ in range(_REVIEWS):
            key = self._reviews.pop(now)
            if key is None:
                return
            if not self._protect(key, now):
                self._reviews.set(key, 2 * now - self._since[key])

    def _protect(self, key: K, now: float) -> bool:
        """Give an entry a protected place, if there is one for it."""
        source = self._probation.source(key)
        try:
            displaced = self._protected.room(source)
        except NoRoom:
            return False
        if displaced is not None:
            if 2 * (now - self._since[key]) < now - self._since[displaced]:
                return False
            leaving = self._protected.source(displaced)
            self._protected.leave(displaced)
            self._probation.enter(leaving, displaced)
            self._reviews.set(displaced, 2 * now - self._since[displaced])
        self._probation.leave(key)
        self._protected.enter(source, key)
        return True

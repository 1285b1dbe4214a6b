"""A table of fixed size that always takes a new entry, whose places are shared between sources. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from punch.net.rate_limits import NoRoom, Shares, Source, SourceTable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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
    """

    def __init__(self, capacity: int, shares: Shares) -> None:
        self._table: SourceTable[K] = SourceTable(capacity, shares)
        self._values: dict[K, V] = {}

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
            del self._values[forgotten]
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

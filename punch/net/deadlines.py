"""
When to do something next: `earliest` returns the first of a few times, and `Deadlines` keeps one time for
each of many keys, in a heap that does not grow with cancelled entries.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SPARE = 64
"""
Entries that nobody waits for any more are cleared away when there are more of them than of others and this.
"""


def earliest(times: Iterable[float | None]) -> float | None:
    """The earliest of several times; None stands for never."""
    first = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first


class Deadlines(Generic[K]):
    """One time, in monotonic seconds, for each key."""

    def __init__(self) -> None:
        self._times: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = count()

    def __len__(self) -> int:
        """How many keys have a deadline."""
        return len(self._times)

    @property
    def heap_size(self) -> int:
        """Entries of the heap, those included that were moved or discarded."""
        return len(self._heap)

    def set(self, key: K, when: float) -> None:
        """`key` is due at `when`, and no longer at another time."""
        if self._times.get(key) == when:
            return
        self._times[key] = when
        heapq.heappush(self._heap, (when, next(self._order), key))
        if len(self._heap) > 2 * len(self._times) + _SPARE:
            self._heap = [(when, next(self._order), key) for key, when in self._times.items()]
            heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        """`key` is due no more."""
        self._times.pop(key, None)

    def next(self) -> float | None:
        """When the first is due."""
        heap = self._heap
        while heap and self._times.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now: float) -> K | None:
        """One key that is due, which then has no deadline; None if there is none."""
        when = self.next()
        if when is None or when > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._times[key]
        return key

    def clear(self) -> None:
        """Nothing is due."""
        self._times.clear()
        self._heap.clear()

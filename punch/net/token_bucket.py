"""
Token buckets: `TokenBucket` is one that tells how much it holds, `TokenBuckets` a table of fixed size.

A bucket gains tokens at a constant rate, up to a burst, and whatever it limits takes tokens from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from heapq import heappop, heappush, heapreplace
from itertools import count

HEADERS = 28
"""Bytes of the IP and UDP headers of a datagram, which are counted so that empty datagrams cost something."""
_FORGET_AT_ONCE = 2
"""More than one, so that a table shrinks again after a flood."""


class TokenBucket:
    """
    A token bucket, full at first.

    :param rate: tokens that it gains each second.
    :param burst: tokens that it holds at most.
    """

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._filled = now

    def available(self, now: float) -> float:
        """The tokens that it holds now; below zero if more were spent."""
        if now > self._filled:
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
        return self._tokens

    def spend(self, cost: float) -> None:
        """Take tokens."""
        self._tokens -= cost

    def set_rate(self, rate: float, now: float) -> None:
        """Gain so many tokens each second from now on. It holds as many as before."""
        if rate != self._rate:
            self.available(now)
            self._rate = rate

    def full_at(self, now: float) -> float:
        """The time at which it is full again if nothing more is spent."""
        return now + (self._burst - self.available(now)) / self._rate


class TokenBuckets:
    """
    One token bucket for each key, for at most `capacity` keys.

    A bucket that is full again equals a new one, so it is forgotten when new keys come. When all of
    `capacity` are in use, the bucket that will be full again first makes room, since the least is forgotten
    with it. A source that wants its bucket to be forgotten would have to empty all others as much. A bucket
    that refuses something counts as just emptied.

    :param rate: tokens that a bucket gains each second.
    :param burst: tokens that a bucket holds at most, and at first.
    :param capacity: buckets at most.
    """

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        if rate <= 0 or burst <= 0 or capacity < 1:
            raise ValueError("a token bucket needs a rate, a burst and a capacity above zero")
        self.rate = rate
        self.burst = burst
        self.capacity = capacity
        # For each key the time at which its bucket is, or was, full again. One number says it all: the tokens
        # missing now are the seconds until then, times the rate.
        self._full_at: dict[Hashable, float] = {}
        # A heap with one entry for each key: when its bucket was to be forgotten, as seen some time ago, and
        # the order of what happens at the same time.
        self._first: list[tuple[float, int, Hashable]] = []
        # The same for buckets that have refused something since.
        self._refused: dict[Hashable, tuple[float, int]] = {}
        self._order = count()

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    def allow(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """
        Take `cost` tokens from the bucket of `key` if it has them.

        :param now: monotonic seconds.
        :return: whether it had them. If not, it keeps those it has.
        """
        table = self._full_at
        full_at = table.get(key)
        if full_at is None:
            self._forget(now)
            full_at = now
        elif full_at < now:
            full_at = now
        after = full_at + cost / self.rate
        if not self._in_time(after, now):
            if key in table:
                self._refused[key] = (now + self.burst / self.rate, next(self._order))
            return False
        if key not in table:
            heappush(self._first, (after, next(self._order), key))
        table[key] = after
        return True

    def give_back(self, key: Hashable, cost: float = 1.0) -> None:
        """Put back tokens that were taken from the bucket of `key`."""
        if key in self._full_at:
            self._full_at[key] -= cost / self.rate

    def has(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """Whether the bucket of `key` has `cost` tokens. Nothing is taken."""
        return self._in_time(max(now, self._full_at.get(key, now)) + cost / self.rate, now)

    def has_at(self, key: Hashable, now: float, cost: float = 1.0) -> float:
        """Return when the bucket of `key` has `cost` tokens if nothing is taken until then."""
        return max(now, self._full_at.get(key, now) + (cost - self.burst) / self.rate)

    def missing(self, least: float, now: float) -> dict[Hashable, float]:
        """The buckets from which at least so many tokens are missing, and how many."""
        after = now + least / self.rate
        return {key: (at - now) * self.rate for key, at in self._full_at.items() if at >= after}

    def missing_from(self, key: Hashable, now: float) -> float:
        """How many tokens are missing from the bucket of `key`."""
        return max(0.0, self._full_at.get(key, now) - now) * self.rate

    def take(self, key: Hashable, cost: float, now: float) -> None:
        """Take tokens from the bucket of `key`, if there is one: more than it has, if need be."""
        if key in self._full_at:
            self._full_at[key] = max(self._full_at[key], now) + cost / self.rate

    def _in_time(self, full_at: float, now: float) -> bool:
        # A bucket of `burst` tokens is empty when it takes burst / rate seconds to be full again. Tiny errors
        # of binary fractions must not cost a token.
        return (full_at - now) * self.rate <= self.burst + 1e-6

    def _forget(self, now: float) -> None:
        """
        Make room for a key: drop buckets that are full again, or, if there are none, the one that will be
        full again first.
        """
        table, first, refused = self._full_at, self._first, self._refused
        for _ in range(_FORGET_AT_ONCE):
            while first:
                at, order, key = first[0]
                if table[key] > at:
                    at, order = table[key], next(self._order)
                at, order = max((at, order), refused.get(key, (at, order)))
                if (at, order) == first[0][:2]:
                    break
                heapreplace(first, (at, order, key))
            if not first or (first[0][0] > now and len(table) < self.capacity):
                return
            key = heappop(first)[2]
            del table[key]
            refused.pop(key, None)


def admit(
    datagrams: Sequence[bytes], buckets: Sequence[TokenBucket], now: float
) -> tuple[Sequence[bytes], int]:
    """
    Take a token for each byte of the datagrams, headers included, from all buckets.

    :return: the datagrams, from the first on, for which all have enough tokens, and their bytes without
        headers. The other datagrams are lost, as on any path that is full.
    """
    room = min([bucket.available(now) for bucket in buckets])
    count = len(datagrams)
    size = sum(map(len, datagrams))
    while size + HEADERS * count > room:
        count -= 1
        size -= len(datagrams[count])
    spent = size + HEADERS * count
    for bucket in buckets:
        bucket.spend(spent)
    return (datagrams if count == len(datagrams) else datagrams[:count]), size

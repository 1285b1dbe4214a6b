"""How many bytes may pass: token buckets for batches of datagrams."""

from __future__ import annotations

from collections.abc import Sequence

HEADERS = 28
"""Bytes that a datagram has beside its own, in IP and UDP: so a flood of empty ones costs something too."""


class Bandwidth:
    """
    A token bucket of bytes, at first full.

    :param rate: bytes a second that it gains.
    :param burst: bytes that it holds at most.
    """

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._filled = now

    def available(self, now: float) -> float:
        """Bytes that may pass now."""
        if now > self._filled:
            self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
            self._filled = now
        return self._tokens

    def spend(self, size: int) -> None:
        """So many bytes pass; no more than were `available`."""
        self._tokens -= size

    def full_at(self, now: float) -> float:
        """When it will be as if it had never been used."""
        return now + (self._burst - self.available(now)) / self._rate


def admit(
    datagrams: Sequence[bytes], buckets: tuple[Bandwidth, Bandwidth], now: float
) -> tuple[Sequence[bytes], int]:
    """
    As many of the datagrams, from the first on, as both buckets have tokens for, and the bytes that these
    have, without headers. The rest is lost, as it would be on any path that is full.
    """
    one, other = buckets
    room = min(one.available(now), other.available(now))
    count = len(datagrams)
    size = sum(map(len, datagrams))
    while size + HEADERS * count > room:
        count -= 1
        size -= len(datagrams[count])
    spent = size + HEADERS * count
    one.spend(spent)
    other.spend(spent)
    return (datagrams if count == len(datagrams) else datagrams[:count]), size

"""
When to call peers for whom messages wait: a pure schedule, without a clock.

A peer that is away is called at once when this peer is registered anew, else after 5 s, then less and less
often up to every 30 s; after an hour every 5 minutes. Where a bell rings and nobody answers it is every 5
minutes from the beginning. One that refuses is not called again until its user, or this one, does something.

A link that ends again and again without a message getting through counts like calls that fail.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from punch.peer.events import Reason
from punch.wire.control import ErrorCode

P = TypeVar("P", bound=Hashable)

FIRST = 5.0
"""Seconds before the second try."""
GROWTH = 1.6
LONGEST = 30.0
"""Seconds between tries in the first hour."""
HOUR = 3600.0
SLOW = 300.0
"""Seconds between tries after the first hour, or while nobody answers."""
JITTER = 0.2
"""A wait is up to this part shorter, by chance: so that two peers, or many, don't call in step."""

#: Somebody said no.
_FINAL = {ErrorCode.REFUSED.value, ErrorCode.CANCELLED.value, Reason.SELF.value, Reason.PROOF.value}


@dataclass
class _Want:
    since: float
    at: float | None
    """When to call; None: not by itself."""
    wait: float = FIRST
    rang: bool = False
    busy: bool = False
    """It is being called, or there is a link."""


class Outbox(Generic[P]):
    """
    Whom to call and when. All times are in seconds of one clock.

    :param chance: gives a number from 0 to 1, each time another.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._wants: dict[P, _Want] = {}
        self._registered = False

    def __contains__(self, peer: P) -> bool:
        return peer in self._wants

    def want(self, peer: P, now: float, linked: bool = False) -> None:
        """A message waits for this peer: it is called at once, if it wasn't of late."""
        wanted = self._wants.get(peer)
        if wanted is None:
            self._wants[peer] = _Want(now, now, busy=linked)
        elif wanted.at is not None and not wanted.rang:
            wanted.at = min(wanted.at, now + wanted.wait)

    def done(self, peer: P) -> None:
        """Nothing waits for it any more."""
        self._wants.pop(peer, None)

    def progress(self, peer: P, now: float) -> None:
        """A message got through: if this ends, it is not because of the peer."""
        wanted = self._wants.get(peer)
        if wanted is not None:
            wanted.since = now
            wanted.wait = FIRST
            wanted.rang = False

    def registered(self, now: float) -> None:
        """The rendezvous is there (again): everybody is called at once who has not refused."""
        self._registered = True
        for wanted in self._wants.values():
            if wanted.at is not None:
                wanted.at = now

    def unregistered(self) -> None:
        """The rendezvous is gone: calls would lead to nothing."""
        self._registered = False

    def called(self, peer: P) -> None:
        """Somebody calls it, or there is a link: nothing to do before `failed`."""
        wanted = self._wants.get(peer)
        if wanted is not None:
            wanted.busy = True

    def failed(self, peer: P, reason: str, now: float) -> float | None:
        """
        The call came to nothing, or the link ended.

        :return: after how many seconds it is called again; None: not by itself.
        """
        wanted = self._wants.get(peer)
        if wanted is None:
            return None
        wanted.busy = False
        wanted.rang = reason == ErrorCode.TIMEOUT.value
        if reason in _FINAL:
            wanted.at = None
            return None
        slow = wanted.rang or now - wanted.since > HOUR
        wait = (SLOW if slow else wanted.wait) * (1 - JITTER * self._chance())
        wanted.wait = min(wanted.wait * GROWTH, LONGEST)
        wanted.at = now + wait
        return wait

    def due(self, now: float) -> list[P]:
        """Whom to call now; `failed` or `done` must follow for each."""
        if not self._registered:
            return []
        found = [
            peer
            for peer, wanted in self._wants.items()
            if not wanted.busy and wanted.at is not None and wanted.at <= now
        ]
        for peer in found:
            self._wants[peer].busy = True
        return found

    def next(self) -> float | None:
        """When `due` will have something; None: not before something happens."""
        if not self._registered:
            return None
        times = [wanted.at for wanted in self._wants.values() if not wanted.busy and wanted.at is not None]
        return min(times, default=None)

"""
When to call peers for whom messages wait: a pure schedule, without a clock.

A peer that is away is called at once when this peer is registered, then after 5 s (after 1 s when the
rendezvous was away), then less and less often up to every 30 s; after an hour every 5 minutes. Where a bell
rings and nobody answers it is every 5 minutes from the beginning. One that refuses is not called again until
its user, or this one, does something.

A link that ends again and again without a message getting through counts like calls that fail.

However many wait, few are called at a time, and not in one moment: a node has room for some calls only, and
a rendezvous sends away who says too much. Those who were called in vain less often go first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from punch.node.events import Reason
from punch.wire.control import ErrorCode

P = TypeVar("P", bound=Hashable)

FIRST = 5.0
"""Seconds before the second try."""
GROWTH = 1.6
RETURN = 1.0
"""The same after the rendezvous was away…"""
RETURN_TIME = 5.0
"""…for some seconds, in which the other side comes back, too."""
LONGEST = 30.0
"""Seconds between tries in the first hour."""
HOUR = 3600.0
SLOW = 300.0
"""Seconds between tries after the first hour, or while nobody answers."""
JITTER = 0.2
"""A wait is up to this part shorter, by chance: so that two peers, or many, don't call in step."""
MAX_CALLS = 8
"""Calls under way at a time."""
PACE = 0.2
"""Seconds between the beginnings of two calls."""

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


class RedialSchedule(Generic[P]):
    """
    Whom to call and when. All times are in seconds of one clock.

    :param chance: gives a number from 0 to 1, each time another.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._wants: dict[P, _Want] = {}
        self._registered = False
        self._was_away = False
        self._return_until = float("-inf")
        self._under_way: set[P] = set()
        self._pause = float("-inf")
        """Until then nobody else is called."""

    def __contains__(self, peer: P) -> bool:
        return peer in self._wants

    @property
    def eager(self) -> bool:
        """Whether somebody is to be called as soon as the rendezvous is there."""
        return any(wanted.at is not None and not wanted.busy for wanted in self._wants.values())

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
        self._under_way.discard(peer)

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
        if self._was_away:
            self._return_until = now + RETURN_TIME
        for wanted in self._wants.values():
            if wanted.at is not None:
                wanted.at = now
                if self._was_away:
                    wanted.wait = RETURN
        self._was_away = False

    def unregistered(self) -> None:
        """The rendezvous is gone: calls would lead to nothing."""
        self._was_away = self._was_away or self._registered
        self._registered = False

    def called(self, peer: P) -> None:
        """Somebody calls it, or there is a link: nothing to do before `failed`."""
        self._under_way.discard(peer)
        wanted = self._wants.get(peer)
        if wanted is not None:
            wanted.busy = True

    def failed(self, peer: P, reason: str, now: float) -> float | None:
        """
        The call came to nothing, or the link ended.

        :return: after how many seconds it is called again; None: not by itself.
        """
        self._under_way.discard(peer)
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
        if now >= self._return_until:
            wanted.wait = min(wanted.wait * GROWTH, LONGEST)
        wanted.at = now + wait
        return wait

    def due(self, now: float) -> P | None:
        """Whom to call now, if anybody; `called`, `failed` or `done` must follow."""
        if not self._may_call or now < self._pause:
            return None
        ready = [(peer, wanted.wait, at) for peer, wanted, at in self._idle() if at <= now]
        if not ready:
            return None
        peer, _, _ = min(ready, key=lambda entry: entry[1:])
        self._wants[peer].busy = True
        self._under_way.add(peer)
        self._pause = now + PACE
        return peer

    def next(self) -> float | None:
        """When `due` will have somebody; None: not before something happens."""
        if not self._may_call:
            return None
        first = min((at for _, _, at in self._idle()), default=None)
        return None if first is None else max(first, self._pause)

    @property
    def _may_call(self) -> bool:
        return self._registered and len(self._under_way) < MAX_CALLS

    def _idle(self) -> Iterator[tuple[P, _Want, float]]:
        """Who is to be called at some time, and when."""
        for peer, wanted in self._wants.items():
            if not wanted.busy and wanted.at is not None:
                yield peer, wanted, wanted.at

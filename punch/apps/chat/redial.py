"""
The schedule of calls to peers for whom messages wait. Pure: it has no clock.

An unreachable peer is called at once when this peer is registered, then after 5 s (after 1 s when the
rendezvous was unreachable), then less and less often, up to every 30 s; after an hour every 5 minutes. When
the rendezvous says that it has registered, it is called at once, but not twice in a second for that reason. A
peer at which the call rings without being answered is called every 5 minutes from the beginning. One that
refuses the call is not called again until its user, or this one, does something.

A link that ends again and again before a message was delivered counts as a failed call.

Only a few peers are called at a time, and not all at once: a node has a limited number of calls, and a
rendezvous limits their rate. Peers with fewer failed calls come first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from punch.node.causes import Reason
from punch.wire.control import ErrorCode

P = TypeVar("P", bound=Hashable)

FIRST = 5.0
"""Seconds before the second try."""
GROWTH = 1.6
RETURN = 1.0
"""Seconds before the second try after the rendezvous was unreachable."""
RETURN_TIME = 5.0
"""Seconds after the return of the rendezvous for which that holds: the peer comes back as well."""
LONGEST = 30.0
"""Seconds between tries in the first hour."""
HOUR = 3600.0
SLOW = 300.0
"""Seconds between tries after the first hour, or while nobody answers."""
JITTER = 0.2
"""The part of a wait that is random, so that peers don't call in step."""
MAX_CALLS = 8
"""Calls under way at a time."""
PACE = 0.2
"""Seconds between the beginnings of two calls."""

_FINAL = {ErrorCode.REFUSED.value, ErrorCode.CANCELLED.value, Reason.SELF.value, Reason.PROOF.value}
"""Reasons after which a peer is not called again by itself."""


@dataclass
class _Scheduled:
    since: float
    at: float | None
    """When to call; None: not by itself."""
    wait: float = FIRST
    rang: bool = False
    busy: bool = False
    """It is being called, or there is a link."""
    notices_from: float = float("-inf")
    """Notices of the rendezvous that the peer has registered cause no call before this time."""


class RedialSchedule(Generic[P]):
    """
    Whom to call and when. All times are in seconds of one clock.

    :param chance: returns a random number from 0 to 1.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._scheduled: dict[P, _Scheduled] = {}
        self._registered = False
        self._was_away = False
        self._return_until = float("-inf")
        self._under_way: set[P] = set()
        self._pause = float("-inf")
        """Until then nobody else is called."""

    def __contains__(self, peer: P) -> bool:
        return peer in self._scheduled

    @property
    def has_calls(self) -> bool:
        """Whether a peer is to be called, now or later, and is not being called already."""
        return any(wanted.at is not None and not wanted.busy for wanted in self._scheduled.values())

    def want(self, peer: P, now: float, linked: bool = False) -> None:
        """A message waits for this peer: call it at once, unless it was called a short time ago."""
        wanted = self._scheduled.get(peer)
        if wanted is None:
            self._scheduled[peer] = _Scheduled(now, now, busy=linked)
        elif wanted.at is not None and not wanted.rang:
            wanted.at = min(wanted.at, now + wanted.wait)

    def done(self, peer: P) -> None:
        """No message waits for this peer any more."""
        self._scheduled.pop(peer, None)
        self._under_way.discard(peer)

    def progress(self, peer: P, now: float) -> None:
        """A message was delivered: the next failure counts as the first."""
        wanted = self._scheduled.get(peer)
        if wanted is not None:
            wanted.since = now
            wanted.wait = FIRST
            wanted.rang = False

    def registered(self, now: float) -> None:
        """This side is registered: call all peers at once that have not refused."""
        self._registered = True
        if self._was_away:
            self._return_until = now + RETURN_TIME
        for wanted in self._scheduled.values():
            if wanted.at is not None:
                wanted.at = now
                if self._was_away:
                    wanted.wait = RETURN
        self._was_away = False

    def unregistered(self) -> None:
        """This side is not registered any more: no call can succeed."""
        self._was_away = self._was_away or self._registered
        self._registered = False

    def called(self, peer: P) -> None:
        """The peer is called, or there is a link: nothing is due before `failed`."""
        self._under_way.discard(peer)
        wanted = self._scheduled.get(peer)
        if wanted is not None:
            wanted.busy = True

    def failed(self, peer: P, reason: str, now: float) -> float | None:
        """
        The call failed, or the link ended.

        :return: after how many seconds it is called again; None: not by itself.
        """
        self._under_way.discard(peer)
        wanted = self._scheduled.get(peer)
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

    def returned(self, peer: P, now: float) -> None:
        """
        The peer has registered: call it soon, unless it has refused.

        A rendezvous that says so again and again causes one call a second.
        """
        wanted = self._scheduled.get(peer)
        if wanted is None or wanted.busy or wanted.at is None:
            return
        at = max(now, wanted.notices_from)
        if at < wanted.at:
            wanted.at = at
            wanted.notices_from = at + RETURN
        wanted.wait = min(wanted.wait, FIRST)

    def due(self, now: float) -> P | None:
        """The peer to call now, if there is one; `called`, `failed` or `done` must follow."""
        if not self._may_call or now < self._pause:
            return None
        ready = [(peer, wanted.wait, at) for peer, wanted, at in self._idle() if at <= now]
        if not ready:
            return None
        peer, _, _ = min(ready, key=lambda entry: entry[1:])
        self._scheduled[peer].busy = True
        self._under_way.add(peer)
        self._pause = now + PACE
        return peer

    def next(self) -> float | None:
        """The time at which `due` will return a peer; None: not before something else happens."""
        if not self._may_call:
            return None
        first = min((at for _, _, at in self._idle()), default=None)
        return None if first is None else max(first, self._pause)

    @property
    def _may_call(self) -> bool:
        return self._registered and len(self._under_way) < MAX_CALLS

    def _idle(self) -> Iterator[tuple[P, _Scheduled, float]]:
        """The peers that are to be called at some time, and when."""
        for peer, wanted in self._scheduled.items():
            if not wanted.busy and wanted.at is not None:
                yield peer, wanted, wanted.at

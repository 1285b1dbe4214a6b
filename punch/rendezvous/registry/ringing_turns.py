"""
Which stranger's call at a peer ends for one of another network, when every network has one place there. Pure.

A call rings for `TURN` seconds at least. After that it may end for a call of a network that has taken less of
this peer's time: a call that rings takes `TURN` seconds of it, or as long as it rings, one that is passed on
without a place `PASSED_ON` seconds, and a tenth as fast as time passes that is forgotten. So those who call
again and again, or give up and call again, make room for those who have not called, and not the other way
round.
"""

from __future__ import annotations

from dataclasses import dataclass

from punch.identity import PeerID
from punch.net.rate_limits import Shares, Source
from punch.net.source_cache import SourceCache
from punch.rendezvous.registry.introduction import IntroductionKey

TURN = 20.0
"""Seconds that a call rings at least, and those that it takes at least."""
PASSED_ON = 2.0
"""Seconds that a call takes which has no place, but is passed on to the called peer."""
_FORGOTTEN = 0.1
"""Seconds that are forgotten in each second."""


@dataclass(frozen=True)
class _Ringing:
    network: Source
    since: float


class RingingTurns:
    """
    The time that networks have taken at called peers, and the calls of strangers that ring there.

    :param capacity: networks that are remembered, each for each peer that it has called.
    """

    def __init__(self, capacity: int) -> None:
        shares = Shares.growing(-(-capacity // 16))
        self._taken: SourceCache[tuple[PeerID, Source], tuple[float, float]] = SourceCache(capacity, shares)
        self._ringing: dict[PeerID, dict[IntroductionKey, _Ringing]] = {}

    def begin(self, callee: PeerID, source: Source, key: IntroductionKey, now: float) -> None:
        """A call begins to ring."""
        self._ringing.setdefault(callee, {})[key] = _Ringing(source[:1], now)
        self._take(callee, source, TURN, now)

    def passed_on(self, callee: PeerID, source: Source, now: float) -> None:
        """A call has no place, and is passed on to the called peer."""
        self._take(callee, source, PASSED_ON, now)

    def end(self, callee: PeerID, key: IntroductionKey) -> None:
        """A call rings no more."""
        calls = self._ringing.get(callee)
        if calls is not None and calls.pop(key, None) is not None and not calls:
            del self._ringing[callee]

    def over(self, callee: PeerID, source: Source, now: float) -> IntroductionKey | None:
        """Return the call that ends for one of `source`; None: all go on."""
        calls = self._ringing.get(callee, {})
        network = source[:1]
        if not calls or any(each.network == network for each in calls.values()):
            return None
        taken = {
            # Its own turn is counted by how long it rings
            key: self._time_taken(callee, each.network, now) - TURN + now - each.since
            for key, each in calls.items()
        }
        most = max(taken, key=lambda key: taken[key])
        return most if taken[most] >= self._time_taken(callee, network, now) + TURN else None

    def _take(self, callee: PeerID, source: Source, seconds: float, now: float) -> None:
        network = source[:1]
        self._taken.put(source, (callee, network), (self._time_taken(callee, network, now) + seconds, now))

    def _time_taken(self, callee: PeerID, network: Source, now: float) -> float:
        seconds, since = self._taken.get((callee, network)) or (0.0, now)
        return max(0.0, seconds - _FORGOTTEN * (now - since))

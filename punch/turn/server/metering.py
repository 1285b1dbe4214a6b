"""
How many requests the relay authenticates for each source: a request takes a tenth of a millisecond. Pure.

A request that shows a nonce which was sent to its address, or comes on a connection, is charged to that
address: nobody else can use it up. An Allocate request with the nonce that came with its credentials may have
a forged address, so it is charged to its user.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from punch.net.fairness import FairShares, SourceShares
from punch.net.rate_limits import source_of
from punch.turn.server.allocations import FiveTuple
from punch.turn.server.events import LimitHit, RelayEvent
from punch.turn.server.settings import RelaySettings

_CAPACITY = 16_384
"""Prefixes of each width that are remembered."""
_GROUPS = 256
"""Clients of UDP at one address are told apart by their port, modulo this: so their number is bounded."""
_FROM_ANYWHERE = 4
"""All users together have the share of so many addresses for requests that may come from anywhere."""
_SAID_AGAIN = 1.0
"""Seconds."""


class Metering:
    """
    What each source may ask for.

    :param events: where it is said that a limit was hit, once a second at most.
    """

    def __init__(self, settings: RelaySettings, events: deque[RelayEvent]) -> None:
        rate, burst = settings.requests_rate, settings.requests_burst
        self._sources = SourceShares(rate, burst, _CAPACITY)
        self._users = FairShares(_FROM_ANYWHERE * rate, _FROM_ANYWHERE * burst, 1)
        self._held: OrderedDict[FiveTuple, float] = OrderedDict()
        """Clients of UDP that asked too much, and until when they get no answer."""
        self._events = events
        self._said = -math.inf

    def by_address(self, client: FiveTuple, now: float) -> float:
        """
        A request of a client that receives at its address; for how many seconds it should ask nothing more.
        """
        remote, _, connection = client
        member = connection or -1 - remote.port % _GROUPS
        wait = self._sources.charge(source_of(remote.host), member, 1.0, now)
        if wait > 0.0:
            self._say(remote.host, now)
        return wait

    def hold(self, client: FiveTuple, now: float) -> None:
        """A request of a client of UDP: if it should ask nothing more, its next ones get no answer."""
        wait = self.by_address(client, now)
        if wait > 0.0:
            self._held[client] = now + wait
            if len(self._held) > _CAPACITY:
                self._held.popitem(last=False)

    def is_held(self, client: FiveTuple, now: float) -> bool:
        """Whether a request gets no answer, so that nobody need look at it."""
        until = self._held.get(client)
        if until is None:
            return False
        if until <= now:
            del self._held[client]
        return now < until

    def by_user(self, user: str, client: FiveTuple, now: float) -> float:
        """
        The same for a user, who has shown a nonce that was handed to it.
        """
        wait = self._users.charge(None, user, 1.0, now)
        if wait > 0.0:
            self._say(client.remote.host, now, user)
        return wait

    def _say(self, host: str, now: float, user: str | None = None) -> None:
        # A flood is thousands of these a second.
        if now >= self._said + _SAID_AGAIN:
            self._said = now
            self._events.append(LimitHit(host, "relay-requests", user))

"""The relays that the rendezvous has named: with which credentials, and which of them may be asked now."""

from __future__ import annotations

from collections.abc import Sequence

from punch.node.causes import RelayFailure
from punch.turn.client.events import AllocationProblem
from punch.wire.turn_uri import RelayServer, TurnURI

RENEW_AT = 0.75
"""The part of the credentials' lifetime after which new ones are requested."""
_UNRESPONSIVE = 60.0
"""Seconds after which credentials that a relay refuses may be expired rather than wrong."""
_FULL_DELAY = 60.0
"""Seconds until a relay that had no capacity is asked again."""

_FAILURES = {
    AllocationProblem.CAPACITY: RelayFailure.FULL,
    AllocationProblem.QUOTA: RelayFailure.QUOTA,
    AllocationProblem.UNAUTHORIZED: RelayFailure.CREDENTIALS,
    AllocationProblem.WRONG_CREDENTIALS: RelayFailure.CREDENTIALS,
    AllocationProblem.TIMEOUT: RelayFailure.SILENT,
    AllocationProblem.DISCONNECTED: RelayFailure.UNREACHABLE,
}
"""What is told of several failures: the first of these that is among them."""


class RelayServers:
    """
    The relays that were named last, and what has failed with them.

    :ivar all: the relays.
    :ivar renew_at: when to request new credentials; None: there are none, or they were requested.
    """

    def __init__(self) -> None:
        self.all: tuple[RelayServer, ...] = ()
        self.renew_at: float | None = None
        self._updated = 0.0
        self._expires: dict[TurnURI, float] = {}
        self._problems: dict[TurnURI, AllocationProblem] = {}
        self._full_until: dict[TurnURI, float] = {}

    def update(self, servers: Sequence[RelayServer], now: float) -> None:
        """These are the relays from now on; nothing is kept about others."""
        self.all = tuple(servers)
        self._updated = now
        self._expires = {server.url: now + server.lifetime for server in servers}
        self._problems = {url: each for url, each in self._problems.items() if url in self._expires}
        self._full_until = {url: until for url, until in self._full_until.items() if url in self._expires}
        soonest = min((server.lifetime for server in servers), default=None)
        self.renew_at = None if soonest is None else now + soonest * RENEW_AT

    def renewal_due(self, now: float) -> bool:
        """Return whether to request new credentials now; True only once for each `update`."""
        due = self.renew_at is not None and now >= self.renew_at
        if due:
            self.renew_at = None
        return due

    def usable(self, now: float) -> list[RelayServer]:
        """Return the relays that may be asked now: the credentials are valid, and it had capacity."""
        return [
            server
            for server in self.all
            if self._expires[server.url] > now and self._full_until.get(server.url, 0.0) <= now
        ]

    def worked(self, url: TurnURI) -> None:
        """This relay has allocated an address."""
        self._problems.pop(url, None)

    def failed(self, url: TurnURI, problem: AllocationProblem, now: float) -> bool:
        """
        This relay has refused an allocation, or has ended it.

        :return: whether its credentials may have expired early, since the wall clock of the relay was set.
        """
        self._problems[url] = problem
        if problem in (AllocationProblem.QUOTA, AllocationProblem.CAPACITY):
            self._full_until[url] = now + _FULL_DELAY
        return problem is AllocationProblem.UNAUTHORIZED and now > self._updated + _UNRESPONSIVE

    @property
    def failure(self) -> RelayFailure | None:
        """What has failed with the relays; None: nothing."""
        if not self._problems:
            return None
        failures = (failure for problem, failure in _FAILURES.items() if problem in self._problems.values())
        return next(failures, RelayFailure.REFUSED)

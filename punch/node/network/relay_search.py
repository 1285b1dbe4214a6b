"""
The relays that the rendezvous has named (`RelayServers`), and the states of the search for one of them
(`RelaySearch`).

    Idle ──begin──> HeadStart ──> Streams ──no relay──> Waiting ──> HeadStart
    Idle ──check──> Verifying ──no answer──> HeadStart

=========  =======================================  ====================================================
state      what happens meanwhile                   its timer
=========  =======================================  ====================================================
Idle       a relay is in use, or none is needed     none
HeadStart  relays are asked over UDP                `HEAD_START`: ask over streams as well
Streams    relays are asked over TCP and TLS, too   none: each request has its own
Waiting    none has answered                        a delay, doubled each time: ask again
Verifying  the relays in use were sent requests of  `CHECK_TIME`: ask others if none answered
           the largest size
=========  =======================================  ====================================================

A relay that allocates an address leads from every state to `Idle`. Requests over UDP may be under way in
every state but `Verifying`, and their late answers count. Each input is possible in every state; it replaces
the state together with its timer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from punch.node.causes import RelayFailure
from punch.wire.turn import RelayServer, TurnURI

if TYPE_CHECKING:
    from punch.turn.client.requests import AllocationProblem

RENEW_AT = 0.75
"""The part of the credentials' lifetime after which new ones are requested."""
_UNRESPONSIVE = 60.0
"""Seconds after which credentials that a relay refuses may be expired rather than wrong."""
_FULL_DELAY = 60.0
"""Seconds until a relay that had no capacity is asked again."""

HEAD_START = 0.2
"""Seconds after which relays are asked over TCP and TLS too."""
CHECK_TIME = 0.6
"""
Seconds in which a relay that is new, or needed again, has to show that it answers and that the largest
datagrams reach it. Then others are asked too.
"""
CHECK_RTTS = 3.0
"""The same in round trips to the relay, if that is longer, because packets in queues come first…"""
LONGEST_CHECK = 3.0
"""…and at most, in seconds: a round trip may have begun before a sleep."""
GIVE_UP_AFTER = 20.0
"""Seconds of failing tries after which users are told that there is no relay."""
FIRST_DELAY, LAST_DELAY = 1.0, 30.0
"""Seconds between two tries: the first time, and at most."""
NEEDED_DELAY = 3.0
"""The longest delay between two tries while a link has no path."""


class RelayServers:
    """
    The relays that the rendezvous has named last: with which credentials, which of them may be asked now, and
    what has failed with them.

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
        """Return the relays that may be asked now: credentials are valid, and they were not full lately."""
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

        :return: whether its credentials may have expired early, because the wall clock of the relay was set.
        """
        from punch.turn.client.requests import AllocationProblem

        self._problems[url] = problem
        if problem in (AllocationProblem.QUOTA, AllocationProblem.CAPACITY):
            self._full_until[url] = now + _FULL_DELAY
        return problem is AllocationProblem.UNAUTHORIZED and now > self._updated + _UNRESPONSIVE

    @property
    def failure(self) -> RelayFailure | None:
        """What has failed with the relays; None: nothing."""
        if not self._problems:
            return None
        from punch.turn.client.requests import AllocationProblem

        # Of several failures, the first of these is told
        failures = {
            AllocationProblem.CAPACITY: RelayFailure.FULL,
            AllocationProblem.QUOTA: RelayFailure.QUOTA,
            AllocationProblem.UNAUTHORIZED: RelayFailure.CREDENTIALS,
            AllocationProblem.WRONG_CREDENTIALS: RelayFailure.CREDENTIALS,
            AllocationProblem.TIMEOUT: RelayFailure.SILENT,
            AllocationProblem.DISCONNECTED: RelayFailure.UNREACHABLE,
        }
        found = (failure for problem, failure in failures.items() if problem in self._problems.values())
        return next(found, RelayFailure.REFUSED)


@dataclass(frozen=True)
class Idle:
    """No answer is waited for."""


@dataclass(frozen=True)
class HeadStart:
    """Relays are asked over UDP, and over nothing else until the time `until`."""

    until: float


@dataclass(frozen=True)
class Streams:
    """Relays are asked over TCP and TLS as well."""


@dataclass(frozen=True)
class Waiting:
    """No relay has answered; they are asked again at the time `until`."""

    until: float


@dataclass(frozen=True)
class Verifying:
    """
    The relays in use were sent requests of full size at `since`; if none is answered by the time `until`,
    others are asked.
    """

    since: float
    until: float


SearchState = Idle | HeadStart | Streams | Waiting | Verifying


class RelaySearch:
    """
    Whether relays are being asked, and when the next thing is to be done. All transitions are made here.

    :ivar state: the present state.
    """

    def __init__(self) -> None:
        self.state: SearchState = Idle()
        self._delay, self._last_delay = FIRST_DELAY, LAST_DELAY
        self._failing_since: float | None = None

    @property
    def pending(self) -> bool:
        """Whether it is not known yet if a relay answers, apart from requests over streams."""
        return isinstance(self.state, (HeadStart, Verifying))

    def begin(self, now: float) -> None:
        """Relays are asked over UDP from now on."""
        self.state = HeadStart(now + HEAD_START)

    def ask_streams(self) -> None:
        """Relays are asked over TCP and TLS, too."""
        self.state = Streams()

    def check(self, rtts: Iterable[float], now: float) -> None:
        """
        The relays in use are sent requests of full size.

        :param rtts: the round-trip times to them, in seconds.
        """
        wait = max((CHECK_TIME, *(CHECK_RTTS * rtt for rtt in rtts)))
        self.state = Verifying(now, now + min(wait, LONGEST_CHECK))

    def found(self) -> None:
        """A relay has allocated an address."""
        self._delay, self._failing_since = FIRST_DELAY, None
        self.state = Idle()

    def all_answered(self) -> None:
        """No answer is waited for any more, and a relay is in use, or none is needed or offered."""
        self.state = Idle()

    def failed(self, now: float) -> None:
        """No answer is waited for any more, and there is no relay."""
        if not isinstance(self.state, Waiting):
            self.state = Waiting(now + self._delay)
            self._delay = min(self._delay * 2, self._last_delay)
        if self._failing_since is None:
            self._failing_since = now

    def gives_up(self, now: float) -> bool:
        """Whether tries have failed for `GIVE_UP_AFTER` seconds."""
        return self._failing_since is not None and now >= self._failing_since + GIVE_UP_AFTER

    def need(self, needed: bool) -> None:
        """Say whether a link without a path waits for a relay, so that relays are tried more often."""
        self._last_delay = NEEDED_DELAY if needed else LAST_DELAY
        self._delay = min(self._delay, self._last_delay)

    def restart(self) -> None:
        """Other relays, or other credentials, may have an answer soon: begin with the shortest delay."""
        self._delay = FIRST_DELAY

    def unused(self) -> None:
        """Nobody needs a relay any more: do not ask again, but take the answers that come."""
        self._delay, self._failing_since = FIRST_DELAY, None
        if isinstance(self.state, Waiting):
            self.state = Idle()

    def stop(self) -> None:
        """Nothing is asked any more."""
        self.state = Idle()

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`; None: not needed."""
        return None if isinstance(self.state, (Idle, Streams)) else self.state.until

    def handle_timer(self, now: float) -> SearchState | None:
        """Return the state whose time is over, which is `Idle` from then on; None: none is."""
        state = self.state
        if isinstance(state, (Idle, Streams)) or now < state.until:
            return None
        self.state = Idle()
        return state

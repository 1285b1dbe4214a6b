"""
The path of a link: what may be sent before a check was answered (`EarlyHandshake`), when the path is checked
because the link receives nothing (`ExpectedAnswer`), and left because the link's data stays unanswered
(`UnansweredData`), whether a relay slows it down (`SlowedPath`), and which changes of it are announced
(`DebouncedPath`).

Consent (`punch.ice.consent`) is one way to notice that a path has failed. What the link sends and receives is
another:

    ExpectedAnswer   nothing is expected ──sent or received──> expected ──nothing came──> a check
    UnansweredData   all is answered ──sent──> a burst ──more of them──> enough bursts ──no answer──> left
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from punch.ice.limits import EarlyBudget
from punch.link.core import MAX_EARLY_DATAGRAMS
from punch.link.events import Path
from punch.wire.address import FULL_SIZE, Address, Transmit
from punch.wire.stun_attributes import RelayLimit

GRACE = 0.02
"""Seconds by which the answer to the early Initial may be later than the answer to the check sent with it."""
AMPLIFICATION = 3
"""The callee sends at most so many times the bytes that came from an address (RFC 9000, section 8.1)."""
_REQUEST = b"\x00\x01"
"""How a STUN Binding request begins (RFC 8489, section 5)."""
PROBE_AFTER = 0.5
"""Seconds without a datagram, after one was sent or received, until the path is checked once."""
SLOW = 1.5
"""The same in round-trip times, if that is longer."""
HANDSHAKE_WAIT = 1.5
"""Seconds that a handshake may stay unanswered: its first packet, and one repetition after a second."""
LINK_WAIT = 2.5
"""Seconds that data of a proved link may stay unanswered."""
ROUND_TRIPS = 4
"""Both times are at least so many round-trip times."""
LINK_BURSTS = 3
"""Bursts of a proved link that must have stayed unanswered by then."""
POSTPONED = 0.5
"""Seconds after which it is decided again about a path that has not answered a check in the meantime."""
BURST = 0.05
"""Seconds within which everything that is sent counts as one burst."""
SLOWED = 30.0
"""Seconds for which a path counts as slowed down after its relay has said so: three times its longest gap."""
TOLD_GAP = 2.0
"""The least seconds between two frames that tell the other side so."""
HOLD = 0.5
"""Seconds from the first change of the path to its announcement."""


class EarlyHandshake:
    """
    The first packets of a link's handshake, between two peers that have had a direct path before.

    Otherwise, only checks are sent to an address that has not answered one. Here, the caller's Initial is
    sent together with its first check, and the callee answers it before its own check has been answered. So
    the first message arrives two one-way delays earlier. This is done only towards an IP address at which the
    peer answered on a direct path from the same network (`punch.node.paths.path_memory`), and is limited for
    each peer (`punch.ice.limits`). The callee sends at most three times what it received (RFC 9000,
    section 8.1). If any of these packets is lost, the handshake begins as on other calls (`LinkCore.start`).

    :param hosts: the IP addresses of the peer to which something may be sent early.
    :param budget: limits it, over all calls with this peer.
    """

    def __init__(self, hosts: Container[str], budget: EarlyBudget) -> None:
        self._hosts = hosts
        self._budget = budget
        self._begun: tuple[Address, float] | None = None
        self._source: Address | None = None
        self._may_reply = 0

    def initial(self, check: Transmit, make: Callable[[], Sequence[bytes]], now: float) -> Sequence[bytes]:
        """
        Return what the caller sends after this check, which leaves from one of its own sockets: once, after
        the first check to an address where that is allowed.

        :param make: returns the datagrams of the Initial.
        """
        if (
            self._begun is not None
            or check.remote.host not in self._hosts
            or not check.data.startswith(_REQUEST)
        ):
            return ()
        if not self._budget.has(check.remote, [FULL_SIZE] * MAX_EARLY_DATAGRAMS, now):
            return ()
        self._begun = check.remote, now
        return self._charged(make(), check.remote, now)

    def wait(self, remote: Address, rtt: float | None, now: float) -> float:
        """
        Return for how many more seconds the caller waits for the answer to its early Initial when a path has
        been found.

        :param remote: the address of the peer on this path.
        :param rtt: the round-trip time of the check that found it, if it was not repeated.
        """
        if self._begun is None or rtt is None or self._begun[0] != remote:
            return 0.0
        return max(0.0, self._begun[1] + rtt + GRACE - now)

    def received(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """
        The callee has received these datagrams of the handshake from an address that has not answered a
        check.
        """
        if self._source is None:
            self._source = remote
        if self._source == remote:
            self._may_reply += AMPLIFICATION * sum(map(len, datagrams))

    def reply(self, datagrams: Sequence[bytes], remote: Address, now: float) -> Sequence[bytes]:
        """Return which of these datagrams the callee sends before the address has answered a check."""
        size = sum(map(len, datagrams))
        if remote != self._source or remote.host not in self._hosts or size > self._may_reply:
            return ()
        if not self._budget.has(remote, [len(data) for data in datagrams], now):
            return ()
        self._may_reply -= size
        return self._charged(datagrams, remote, now)

    def _charged(self, datagrams: Sequence[bytes], remote: Address, now: float) -> Sequence[bytes]:
        for data in datagrams:
            self._budget.charge(remote, len(data), now)
        return datagrams


class ExpectedAnswer:
    """Whether the link should receive something soon, and when its path is checked if it does not."""

    __slots__ = ("_look_at", "_since")

    def __init__(self) -> None:
        # Since when something is expected, and when to look whether it came; None: nothing is
        self._since: float | None = None
        self._look_at = 0.0

    @property
    def expected(self) -> bool:
        """Whether something is expected."""
        return self._since is not None

    def expect(self, now: float) -> bool:
        """
        The link has sent or received something: from now on, more is expected.

        :return: whether nothing was expected before, so that there is a new timer. It is not moved with each
            datagram; `handle_timer` moves it.
        """
        new = self._since is None
        if new:
            self._look_at = now + PROBE_AFTER
        self._since = now
        return new

    def end(self) -> None:
        """Nothing is expected any more: the link uses another path, or is over."""
        self._since = None

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return None if self._since is None else self._look_at

    def handle_timer(self, now: float, rtt: float | None) -> bool:
        """
        Return whether the path is to be checked now, after which nothing is expected until the link sends or
        receives something.

        :param rtt: its round-trip time in seconds, if it is known.
        """
        if self._since is None or now < self._look_at:
            return False
        self._look_at = self._since + max(PROBE_AFTER, SLOW * (rtt or 0.0))
        if now < self._look_at:
            return False
        self._since = None
        return True


@dataclass
class Bursts:
    """
    What the link has sent on its path since it last received something there.

    :ivar since: when the first burst began, or the first that counts.
    :ivar last: when the newest burst began.
    :ivar awaits: whether something was not acknowledged when the newest burst was sent.
    :ivar awaited: whether that held for any of the bursts.
    :ivar count: how many there were.
    :ivar enough_at: when there were enough of them; None: there were fewer.
    :ivar decide_at: the earliest time at which the path may be left.
    """

    since: float
    last: float
    awaits: bool
    awaited: bool
    count: int = 0
    enough_at: float | None = None
    decide_at: float = float("-inf")


class UnansweredData:
    """
    Counts what the link has sent on the current path since it last received something there. `IceTransport`
    leaves the path at `deadline`.

    A firewall may let connectivity checks through and nothing else. QUIC repeats what is not acknowledged,
    so a link with data in flight keeps sending, while one that only acknowledges sends once. So the time
    begins with the first burst that is to be acknowledged. If all bursts are acknowledgements, it begins with
    the first one after a pause of more than `LINK_WAIT` seconds.

    :ivar proved: the handshake of the link is over.
    """

    def __init__(self) -> None:
        self.proved = False
        self._bursts: Bursts | None = None

    @property
    def enough_at(self) -> float | None:
        """
        When enough bursts had been sent (`LINK_BURSTS`; one during the handshake), in monotonic seconds.
        None: fewer were sent. The path is left only if it answers a check that was sent later.
        """
        return None if self._bursts is None else self._bursts.enough_at

    def prove(self) -> None:
        """The handshake of the link is over."""
        self.proved = True
        self.end()

    def is_burst(self, now: float) -> bool:
        """Whether what the link sends now is another burst, for which `sent` is to be called."""
        return self._bursts is None or now >= self._bursts.last + BURST

    def sent(self, now: float, awaits: bool) -> None:
        """
        The link has sent a burst.

        :param awaits: something was sent, now or before, that is to be acknowledged and was not yet.
        """
        bursts = self._bursts
        if bursts is None:
            bursts = self._bursts = Bursts(now, now, awaits, awaits)
        else:
            idle = not bursts.awaits and now > bursts.last + LINK_WAIT
            awaited = awaits or bursts.awaited
            if idle or (awaits and not bursts.awaited):
                bursts = self._bursts = Bursts(now, now, awaits, awaited)
            bursts.last, bursts.awaits = now, awaits
        bursts.count += 1
        if bursts.count == (LINK_BURSTS if self.proved else 1):
            bursts.enough_at = now

    def end(self) -> None:
        """The link has received something, or uses another path."""
        self._bursts = None

    def postpone(self, now: float) -> None:
        """It is not known yet whether the path answers checks: decide `POSTPONED` seconds later."""
        if self._bursts is not None:
            self._bursts.decide_at = now + POSTPONED

    def deadline(self, rtt: float | None) -> float | None:
        """
        Return when to leave the path, or None while nothing suggests that.

        :param rtt: its round-trip time in seconds, if it is known.
        """
        bursts = self._bursts
        if bursts is None or bursts.enough_at is None:
            return None
        wait = LINK_WAIT if self.proved else HANDSHAKE_WAIT
        return max(bursts.decide_at, bursts.since + max(wait, ROUND_TRIPS * (rtt or 0.0)))


class SlowedPath:
    """
    Whether a relay at one end of the path drops its datagrams, because more come than it allows. It says so
    every few seconds while it does.
    """

    def __init__(self) -> None:
        self._limit: RelayLimit | None = None
        self._end: Address | None = None
        self._until = 0.0
        self._told_at = float("-inf")

    def learn(self, limit: RelayLimit, end: Address, now: float) -> bool:
        """
        The relay at this address, an end of the path, drops datagrams.

        :return: whether it is the first time since it was silent for `SLOWED`.
        """
        first = self.limit(end, now) is None
        self._limit, self._end, self._until = limit, end, now + SLOWED
        return first

    def limit(self, end: Address, now: float) -> RelayLimit | None:
        """The limit that was exceeded in the last `SLOWED` seconds on a path with this address at its end."""
        return self._limit if end == self._end and now < self._until else None

    def tells(self, now: float) -> bool:
        """
        Whether the other side is to be told now: it is told once in `TOLD_GAP`, whatever the relay says.
        """
        if now < self._told_at + TOLD_GAP:
            return False
        self._told_at = now
        return True


class DebouncedPath:
    """
    Decides which changes of the path are announced: those that last. When the path changes, several pairs may
    be used one after the other within a moment: each side uses the first one that works, and the controlling
    side's nomination arrives a round trip later. Data takes all of them, but applications need to know only
    the last.

    :param announce: called when another path than the last announced one has lasted for `HOLD`.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._announced: Path | None = None
        self._current: Path | None = None
        self._due: float | None = None

    def announced(self, path: Path) -> None:
        """This path was announced by other means."""
        self._current = self._announced = path
        self._due = None

    def lost(self) -> None:
        """The loss of the path was announced: the next path is a change whichever it is."""
        self._announced = self._due = None

    def changed(self, path: Path, now: float) -> None:
        """This is the current path."""
        self._current = path
        if self._due is None and self._announced != path:
            self._due = now + HOLD

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Announce the current path if it is time and it is not the announced one."""
        if self._due is None or now < self._due or self._current is None:
            return
        self._due = None
        if self._announced != self._current:
            self._announced = self._current
            self._announce()

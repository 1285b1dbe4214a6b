"""
Finds a direct path over TCP for a link that works over a relay, where a network passes no UDP (RFC 6544; Ford
2005, section 4).

Either side may begin an attempt; the one whose network passes no UDP does. Both then listen at a new port of
each local address, ask the rendezvous over TCP how that port is seen, and tell each other in a TCP frame over
the link. So both have proved their keys, and nobody else can start any of this. When a side knows where the
other one listens, it connects there from its own port. NATs let the SYNs of both sides pass when they cross
(simultaneous open), and a side that anybody can reach just accepts. Anybody can reach a port that the router
maps, so each side has its port mapped for the attempt where the router does that, and for as long as a
connection uses it. Each attempt sends a few SYNs. They count as packets to addresses that have not answered
(`punch.ice.budget`).

A connection carries the connectivity checks of the ICE agents, as a socket of an attempt does
(`OpeningChecks.add`), so an agent selects it if it is better than the relay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.error import TimeoutError as UserTimeout
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from punch.ice.budget import SYN_SIZE
from punch.ice.candidates import is_local, may_pair
from punch.ice.pairs import PathKind
from punch.identity import PeerID
from punch.link.frames import OptionalFrameType
from punch.link.link import Link
from punch.net.driver import Timer
from punch.node.calls.call_context import CallContext
from punch.node.network.tcp_connections import TCPConnection, TCPReflection
from punch.node.paths.ice_transport import IceTransport
from punch.node.policies import RelayPolicy
from punch.node.punching.attempt import doubled
from punch.node.punching.tcp_candidates import local_candidates, targets
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.punching import TCPCandidates

SETTLE = 0.5
"""Seconds on a relayed path after which the first attempt begins, so that plain ICE comes first."""
FIRST_AGAIN = 1.0
"""Seconds from the beginning of the first attempt to that of the second…"""
AGAIN = 5.0, 300.0
"""…from that to the third, doubled each time after that, and at most."""
REFLECTION_TIME = 2.0
"""Seconds that the rendezvous has to say how a port is seen, and the router to map it."""
ANSWER_TIME = 5.0
"""Seconds that the other side has to answer."""
ROUNDS = 3
"""How often each candidate of the other side is connected to in one attempt…"""
ROUND = 1.0
"""…and the seconds between two times…"""
REFUSED_WAIT = 0.15
"""…but only so many after a refusal: the SYN of the other side may have opened the way just then…"""
REFUSED_ROUND = 0.4
"""
…and so many until the attempt ends. If a SYN was refused by ICMP and that of the other side arrived then,
Linux lets nothing pass any more between the two ports. The next attempt has others.
"""
LATE_FIRST = 0.3
"""
Seconds for which the side that begins a further attempt lets the other one connect first. A NAT that refused
a SYN before refuses none if its own host has sent one.
"""
CONNECT_TIME = 0.9
"""Seconds until a connection is given up: the system would send its SYN again after one second (RFC 6298)."""
ARRIVAL_TIME = 2.0
"""Seconds for which we still listen after the last round."""
CHECK_TIME = 5.0
"""Seconds within which an authenticated check must come on a connection, or be answered."""
TIDY_GAP = 1.0
"""Seconds between two looks at connections on which no authenticated check has come yet."""
UNUSED_TIME = 15.0
"""Seconds after which a connection is closed that the link does not use, except during an attempt."""


@dataclass(frozen=True)
class TCPPunchingStatus:
    """
    What was tried to get a direct path over TCP.

    :ivar attempts: how many attempts there were on this link.
    :ivar packets: how many SYNs were sent.
    :ivar bytes: how many bytes they had, with headers.
    """

    attempts: int
    packets: int
    bytes: int


class _TCPAttempt:
    """One attempt: what is open for it, and what the other side has said."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.theirs: Deferred[tuple[Candidate, ...]] = Deferred()
        self.listening: dict[Address, IListeningPort] = {}
        self.reflections: dict[Address, TCPReflection] = {}
        self.mapped: dict[Address, Address] = {}
        """How the rendezvous sees each port at which we listen."""
        self.external: dict[Address, Address] = {}
        """The address of each of them that the router has mapped, as the router says it."""
        self.connecting: list[Deferred[Any]] = []
        self.refusals = 0
        """How many connections to public addresses failed at once."""

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What to tell the other side."""
        return local_candidates(self.listening, self.mapped, self.external)

    def targets(self, theirs: Sequence[Candidate]) -> list[tuple[Address, Address]]:
        """Return the addresses to connect from and to, to reach the other side at its candidates."""
        return targets(self.listening, self.mapped, theirs)

    def close(self) -> None:
        """Listen no more, and give up what is not connected yet."""
        for port in self.listening.values():
            port.stopListening()
        for reflection in self.reflections.values():
            reflection.close()
        for connecting in list(self.connecting):
            connecting.cancel()
        self.listening.clear()
        self.reflections.clear()
        self.theirs.addErrback(lambda failure: None)
        self.theirs.cancel()


class TCPPunching:
    """
    The attempts for one link, and its connections.

    :param changed: called when a connection is made or has ended.
    """

    def __init__(
        self,
        peer: PeerID,
        link: Link,
        transport: IceTransport,
        context: CallContext,
        changed: Callable[[], None],
    ) -> None:
        self._link = link
        self._transport = transport
        self._context = context
        self._network = context.network
        self._changed = changed
        self._budget = context.budgets.of(peer, context.monotonic())
        self._attempts = self._tries = self._looks = self._newest = 0
        self._wanted = self._direct = False
        self._packets = self._bytes = 0
        self._begun_at = float("-inf")
        self._attempt: _TCPAttempt | None = None
        self._running: Deferred[None] | None = None
        self._begin = Timer(context.clock)
        self._connections: dict[TCPConnection, float] = {}
        self._ports: set[Address] = set()
        """The TCP ports that we have mapped, or have asked for."""
        self._tidy = Timer(context.clock)
        self._tidy_gap = 0.0
        self._closed = False

    @property
    def status(self) -> TCPPunchingStatus:
        """What was tried so far."""
        return TCPPunchingStatus(self._attempts, self._packets, self._bytes)

    # What happens

    def path_changed(self, now: float) -> None:
        """The link takes another path, or has one again."""
        if self._closed:
            return
        if not self._transport.relayed:
            self._begin.cancel()
            self._direct = True
        else:
            # The other side can have a direct path come and go as fast as it likes
            if self._direct and not self._transport.generations.damping.short_lived:
                self._tries = self._looks = 0
            self._direct = False
            if not self._begin.running and self._attempt is None:
                self._schedule_attempt(SETTLE)
        self._schedule_tidying()

    def network_changed(self) -> None:
        """This machine has other addresses: close the connections from those that are gone."""
        hosts = {base.host for base in self._network.sockets.bases}
        for connection in [each for each in self._connections if each.local.host not in hosts]:
            self._close(connection)
        self._tries = self._looks = 0
        if self._begin.running:
            # What was tried on the last network says nothing about this one
            self._schedule_attempt(SETTLE)

    def receive_frame(self, frame_type: int, payload: bytes, now: float) -> None:
        """
        Take a control frame of the link that is about this.

        :raise PunchingError: it is malformed.
        """
        if frame_type != OptionalFrameType.TCP:
            return
        said = TCPCandidates.decode(payload)
        attempt = self._attempt
        if attempt is not None and said.attempt == attempt.number:
            if not attempt.theirs.called:
                attempt.theirs.callback(said.candidates)
        elif said.attempt > self._newest:
            self._newest, self._wanted = said.attempt, True
            # Half the wait of the other side, whose messages may be late
            early = now < max(self._begun_at + _wait_after(self._tries) / 2, self._damped_until(0.5))
            if not said.candidates:
                return
            if early or not self._may_begin:
                self._say(said.attempt, ())
            else:
                self._start(said.attempt, said.candidates)

    def close(self) -> None:
        """The link is over: end all attempts and connections."""
        self._closed = True
        self._begin.cancel()
        self._tidy.cancel()
        self._end_attempt()
        for connection in list(self._connections):
            self._close(connection)
        self._unmap_unused()

    # Attempts

    @property
    def _may_begin(self) -> bool:
        may = self._context.relay_policy is RelayPolicy.AUTO and self._network.tcp.allowed
        return may and not self._closed and self._transport.relayed

    def _due(self) -> None:
        """Begin an attempt if our network passes no UDP, or the other side has begun one before."""
        if not self._may_begin:
            return
        damped = self._damped_until() - self._context.monotonic()
        if damped > 0.0:
            self._begin.start(damped, self._due)
        elif self._network.passes_no_udp or self._wanted:
            self._start(self._newest + 1, None)
        else:
            # The network may become one that passes no UDP
            self._looks += 1
            self._begin.start(_wait_after(1 + self._looks), self._due)

    def _damped_until(self, part: float = 1.0) -> float:
        """Return until when no attempt is made, because direct paths did not last."""
        return self._transport.generations.damping.allowed_at(PathKind.TCP, part)

    def _schedule_attempt(self, least: float) -> None:
        """Begin the next attempt when `_wait_after` the last one is over, in `least` seconds or later."""
        since = self._context.monotonic() - self._begun_at
        self._begin.start(max(least, _wait_after(self._tries) - since), self._due)

    def _start(self, number: int, theirs: tuple[Candidate, ...] | None) -> None:
        """
        Begin an attempt.

        :param theirs: what the other side listens at, if it has begun.
        """
        self._end_attempt()
        self._begin.cancel()
        self._attempts += 1
        self._tries += 1
        self._begun_at = self._context.monotonic()
        self._newest = number
        self._attempt = attempt = _TCPAttempt(number)
        if theirs is not None:
            attempt.theirs.callback(theirs)
        running = Deferred.fromCoroutine(self._run(attempt, asked=theirs is not None))
        if self._attempt is attempt:
            self._running = running
        running.addErrback(_ignore_cancellation)

    async def _run(self, attempt: _TCPAttempt, *, asked: bool) -> None:
        try:
            ours = await self._gather(attempt)
            self._say(attempt.number, ours)
            if not ours:
                return
            attempt.theirs.addTimeout(ANSWER_TIME, self._context.clock)
            theirs = await attempt.theirs
            if not theirs:
                return
            if attempt.number == 1:
                # The other side connects when it has our candidates; the first SYNs should cross
                pair = self._transport.generations.selected
                wait = 0.0 if pair is None or not asked else (pair.rtt or 0.0) / 2
            else:
                wait = 0.0 if asked else LATE_FIRST
            await self._sleep(wait)
            await self._connect_to(attempt, attempt.targets(theirs))
            if not attempt.refusals:
                await self._sleep(ARRIVAL_TIME)
        except TimeoutError:
            return  # The other side is of an older release, or does not answer
        finally:
            if self._attempt is attempt:
                self._running = None
                self._end_attempt()
                if self._transport.relayed and not self._closed:
                    self._schedule_attempt(0.0)

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        if attempt is not None:
            attempt.close()
            self._unmap_unused()

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._context.clock, seconds)

    async def _gather(self, attempt: _TCPAttempt) -> tuple[Candidate, ...]:
        """Listen, ask how that is seen, and the router to map it, and return the candidates."""
        tcp, mappings = self._network.tcp, self._network.port_mappings
        asked: list[tuple[dict[Address, Address], Address, Deferred[Address | None]]] = []
        # The most preferred address of each family: others hardly ever lead to another network
        hosts = {base.is_ipv6: base.host for base in reversed(self._network.sockets.bases)}
        for host in hosts.values():
            listening = tcp.listen(host, lambda: TCPConnection(tcp, self._made, self._lost, accepted=True))
            if listening is None:
                continue
            local, attempt.listening[local] = listening[0], listening[1]
            reflection = tcp.ask(local, REFLECTION_TIME, self._context.random)
            if reflection is not None:
                attempt.reflections[local] = reflection
                asked.append((attempt.mapped, local, reflection.mapped))
            self._ports.add(local)
            asked.append((attempt.external, local, mappings.map_tcp(local)))
        for _, _, answer in asked:
            answer.addTimeout(
                REFLECTION_TIME, self._context.clock, onTimeoutCancel=lambda result, seconds: None
            )
        for found, local, answer in asked:
            address = await answer
            if address is not None:
                found[local] = address
        return attempt.candidates

    async def _connect_to(self, attempt: _TCPAttempt, targets: Sequence[tuple[Address, Address]]) -> None:
        """Connect again and again, until there is a connection that works."""
        for _ in range(ROUNDS):
            refusals = attempt.refusals
            for local, remote in targets:
                self._connect(attempt, local, remote)
            end = self._context.monotonic() + (REFUSED_ROUND if refusals else ROUND)
            while self._context.monotonic() < end and attempt.refusals == refusals:
                await self._sleep(REFUSED_WAIT)
            works = any(map(self._is_proved, self._connections))
            if refusals or works or not self._transport.relayed:
                return

    def _connect(self, attempt: _TCPAttempt, local: Address, remote: Address) -> None:
        tcp = self._network.tcp
        if not self._budget.allows_connect(remote, self._context.monotonic()):
            return
        if any((each.local, each.remote) == (local, remote) for each in self._connections):
            return  # It counts all the same, for what is left tells the other side who accepts connections
        self._packets += 1
        self._bytes += SYN_SIZE + (40 if remote.is_ipv6 else 20)
        connection = TCPConnection(tcp, self._made, self._lost)
        connecting = tcp.connect(local, remote, connection, CONNECT_TIME)
        attempt.connecting.append(connecting)

        def ended(result: object) -> None:
            attempt.connecting.remove(connecting)
            if isinstance(result, Failure):
                # Twisted has no single error for refusals by ICMP. Those at private addresses have no effect,
                # by which the other side could see who is in our network
                refused = not isinstance(result.value, (UserTimeout, *_CANCELLED))
                if refused and not is_local(remote.host):
                    attempt.refusals += 1
                # Nobody listens there, the SYN was dropped, or the attempt was ended
                _expect(result, ConnectError, *_CANCELLED)

        connecting.addBoth(ended)

    # Connections

    def _made(self, connection: TCPConnection) -> None:
        """A connection is made."""
        attempt = self._attempt
        if self._closed or attempt is None or not may_pair(connection.local, connection.remote):
            connection.close()
            return
        self._connections[connection] = self._context.monotonic()
        self._transport.connection_made(connection, attempt.mapped.get(connection.local))
        self._schedule_tidying()

    def _lost(self, connection: TCPConnection) -> None:
        """A connection has ended."""
        if self._connections.pop(connection, None) is not None:
            self._transport.connection_lost(connection)
            self._unmap_unused()
            self._changed()

    def _close(self, connection: TCPConnection) -> None:
        connection.close()
        self._lost(connection)

    def _unmap_unused(self) -> None:
        """Give back the ports of routers at which nobody listens any more, and that no connection uses."""
        used = {connection.local for connection in self._connections}
        if self._attempt is not None:
            used.update(self._attempt.listening)
        for port in self._ports - used:
            self._ports.remove(port)
            self._network.port_mappings.unmap_tcp(port)

    def _is_proved(self, connection: TCPConnection) -> bool:
        proved = self._transport.generations.validated(connection.local, connection.remote)
        connection.proved = connection.proved or proved
        return proved

    def _schedule_tidying(self) -> None:
        if not self._connections or self._closed:
            return
        proved = all(connection.proved for connection in self._connections)
        gap = CHECK_TIME if proved else TIDY_GAP
        # Each connection of a stranger would postpone the look otherwise
        if not self._tidy.running or gap < self._tidy_gap:
            self._tidy_gap = gap
            self._tidy.start(gap, self._close_unused)

    def _close_unused(self) -> None:
        """Close the connections without an authenticated check, and those that nobody has used for long."""
        now = self._context.monotonic()
        used = self._transport.route
        for connection, since in list(self._connections.items()):
            if used == (connection.local, connection.remote):
                self._connections[connection] = now
                connection.proved = True
            elif not self._is_proved(connection):
                if now >= since + CHECK_TIME:
                    self._close(connection)
            elif now >= since + UNUSED_TIME and self._attempt is None:
                self._close(connection)
        self._schedule_tidying()

    def _say(self, attempt: int, candidates: tuple[Candidate, ...]) -> None:
        self._link.try_send_control(OptionalFrameType.TCP, TCPCandidates(attempt, candidates).encode())


def _wait_after(tries: int) -> float:
    """Return the least seconds from the beginning of an attempt to that of the next, after so many."""
    return FIRST_AGAIN if tries < 2 else doubled(AGAIN, tries - 2)


_CANCELLED = CancelledError, ConnectingCancelledError


def _ignore_cancellation(failure: Failure) -> None:
    _expect(failure, *_CANCELLED)


def _expect(failure: Failure, *kinds: type[Exception]) -> None:
    """Raise the exception of a failure, unless it is of one of these kinds."""
    if not isinstance(failure.value, kinds):
        failure.raiseException()

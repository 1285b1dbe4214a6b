"""
One attempt at a direct path over TCP (RFC 6544; Ford 2005, section 4), and the connections that it leads to.

An attempt (`TCPAttempt`) listens at a new port of one local address of each family, asks the rendezvous how
that port is seen or predicts it (`predicted`), names candidates to the other side (`local_candidates`), and
connects from the same port to those of the other side (`targets`). The connections belong to the link
(`TCPPaths`): they outlive the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.error import TimeoutError as UserTimeout
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from punch.ice.budget import Budget
from punch.ice.candidates import MAPPED_PREFERENCE, STREAM_PREFERENCE, candidate_priority
from punch.ice.limits import IP_HEADERS, SYN_SIZE
from punch.ice.port_mapper import mapped_addresses
from punch.ice.punching.techniques import NatClass, nat_class
from punch.ice.reach import is_local, may_pair
from punch.net.sources import source_of
from punch.node.calls.call_context import CallContext
from punch.node.network.tcp_connections import TCPConnection, TCPReflection
from punch.node.paths.ice_transport import IceTransport
from punch.wire.address import FIRST_PORT, Address, TCPAddress
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.special_addresses import Scope, is_clat, scope_of

CHECK_TIME = 5.0
"""Seconds within which an authenticated check must come on a connection, or be answered."""
TIDY_GAP = 1.0
"""Seconds after which connections are reviewed while no authenticated check has come on one of them."""
UNUSED_TIME = 15.0
"""Seconds after which a connection is closed that the link does not use, except during an attempt."""
MAX_TARGETS = 3
"""To how many candidates of the other side we connect."""
REFLECTION_TIME = 2.0
"""Seconds that the rendezvous has to say how a port is seen, and the router to map it."""
ANSWER_TIME = 5.0
"""Seconds that the other side has to answer."""
ROUNDS = 3
"""How often each candidate of the other side is connected to in one attempt…"""
ROUND = 1.0
"""…and the seconds between two times…"""
REFUSED_WAIT = 0.15
"""…but only so many after a refusal, since the SYN of the other side may have opened the NAT just then…"""
REFUSED_ROUND = 0.4
"""
…and so many until the attempt ends. If a SYN was refused by ICMP and that of the other side arrived then,
Linux lets nothing pass any more between the two ports. The next attempt has others.
"""
CONNECT_TIME = 0.9
"""Seconds until a connection is given up: the system would send its SYN again after one second (RFC 6298)."""
CANCELLED = CancelledError, ConnectingCancelledError
"""The errors with which connections and waits of an attempt fail when it is ended."""


class TCPPaths:
    """
    The connections and ports of one link.

    :param changed: called when a connection is made or has ended.
    """

    def __init__(self, transport: IceTransport, context: CallContext, changed: Callable[[], None]) -> None:
        self._transport = transport
        self._context = context
        self._network = context.network
        self._changed = changed
        # When each was made, or was in use last
        self._connections: dict[TCPConnection, float] = {}
        self._listening: dict[Address, IListeningPort] = {}
        # Those that routers have mapped, or were asked to map
        self._mapped: set[Address] = set()
        self._look_at: float | None = None

    # Ports

    def listen(self, host: str, connection: Callable[[], TCPConnection]) -> Address | None:
        """
        Listen at any port of a local IP address, until `stop_listening`.

        :param connection: makes each connection that is accepted.
        :return: the address; None if that is not possible.
        """
        listening = self._network.tcp.listen(host, connection)
        if listening is None:
            return None
        local, self._listening[local] = listening
        return local

    def map(self, local: Address) -> Deferred[Address | None]:
        """Have routers map a port at which we listen; fires as `PortMappings.map_tcp`."""
        self._mapped.add(local)
        return self._network.port_mappings.map_tcp(local)

    def stop_listening(self) -> None:
        """The attempt is over."""
        for port in self._listening.values():
            port.stopListening()
        self._listening.clear()
        self._unmap_unused()

    def _unmap_unused(self) -> None:
        """Give back the ports of routers at which nobody listens any more, and that no connection uses."""
        used = {*self._listening, *(connection.local for connection in self._connections)}
        for port in self._mapped - used:
            self._mapped.remove(port)
            self._network.port_mappings.unmap_tcp(port)

    # Connections

    def add(self, connection: TCPConnection, mapped: Address | None) -> None:
        """
        A connection is made.

        :param mapped: our end as the rendezvous sees it, if that is known.
        """
        if not may_pair(connection.local, connection.remote):
            connection.close()
            return
        now = self._context.monotonic()
        self._connections[connection] = now
        self._transport.connection_made(connection, mapped)
        if self._look_at is None or now + TIDY_GAP < self._look_at:
            self._look_at = now + TIDY_GAP
        self._changed()

    def lost(self, connection: TCPConnection) -> None:
        """A connection has ended."""
        if self._connections.pop(connection, None) is not None:
            self._transport.connection_lost(connection)
            self._unmap_unused()
            self._changed()

    def has(self, local: Address, remote: Address) -> bool:
        """Whether there is a connection between these addresses."""
        return any((each.local, each.remote) == (local, remote) for each in self._connections)

    @property
    def proved(self) -> bool:
        """Whether an authenticated check has come, or was answered, on any connection."""
        return any(map(self._is_proved, self._connections))

    def hosts_changed(self) -> None:
        """This machine has other addresses: close the connections from those that are gone."""
        hosts = {base.host for base in self._network.sockets.bases}
        for connection in [each for each in self._connections if each.local.host not in hosts]:
            self._close(connection)

    def close(self) -> None:
        """The link is over: close all connections, and stop listening."""
        for connection in list(self._connections):
            self._close(connection)
        self.stop_listening()

    def _close(self, connection: TCPConnection) -> None:
        connection.close()
        self.lost(connection)

    def _is_proved(self, connection: TCPConnection) -> bool:
        proved = self._transport.generations.validated(connection.local, connection.remote)
        connection.proved = connection.proved or proved
        return proved

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._look_at if self._connections else None

    def handle_timer(self, now: float) -> None:
        """Close the connections without an authenticated check, and those that nobody has used for long."""
        if self._look_at is None or now < self._look_at:
            return
        used = self._transport.route
        for connection, since in list(self._connections.items()):
            if used == (connection.local, connection.remote):
                self._connections[connection] = now
                connection.proved = True
            elif not self._is_proved(connection):
                if now >= since + CHECK_TIME:
                    self._close(connection)
            elif now >= since + UNUSED_TIME and not self._listening:
                self._close(connection)
        proved = all(connection.proved for connection in self._connections)
        self._look_at = now + (CHECK_TIME if proved else TIDY_GAP)


def local_candidates(
    listening: Iterable[Address], mapped: Mapping[Address, Address], external: Mapping[Address, Address]
) -> tuple[Candidate, ...]:
    """
    Return our candidates, the likeliest first.

    :param listening: the addresses at which we listen.
    :param mapped: how the rendezvous sees each of them, if it says so.
    :param external: the address of each that a router has mapped, as the router says it.
    """
    candidates: list[Candidate] = []
    for number, local in enumerate(listening):
        preference = STREAM_PREFERENCE - number
        priority = candidate_priority(CandidateType.HOST, preference)
        candidates.append(
            Candidate(CandidateType.HOST, local, priority, f"{number}h", tcp_type=TCPType.PASSIVE)
        )
        seen = mapped.get(local)
        if seen is not None and seen != local and seen.is_ipv6 == local.is_ipv6:
            priority = candidate_priority(CandidateType.SRFLX, preference)
            so = TCPType.SIMULTANEOUS_OPEN
            candidates.append(
                Candidate(CandidateType.SRFLX, seen, priority, f"{number}s", related=local, tcp_type=so)
            )
        if local in external:
            hosts = [] if seen is None else [seen.host]
            candidates += _of_mapped_port(local, external[local], hosts, preference, number)
    return tuple(sorted(candidates, key=lambda each: -each.priority))


def _of_mapped_port(
    local: Address, external: Address, seen_at: Collection[str], preference: int, number: int
) -> list[Candidate]:
    """
    Return the candidates of a port that a router maps. Everybody reaches it, so we need not connect from
    there. At an address that only the router names it often leads nowhere, so this one has no preference.
    """
    candidates = []
    for address in mapped_addresses(local, external, seen_at):
        if address == local:
            continue  # A firewall without NAT: the host candidate is let in now
        certain = address.host in seen_at
        priority = candidate_priority(
            CandidateType.SRFLX, preference, preference=MAPPED_PREFERENCE if certain else None
        )
        foundation = f"{number}{'m' if certain else 'n'}"
        passive = TCPType.PASSIVE
        candidates.append(
            Candidate(CandidateType.SRFLX, address, priority, foundation, related=local, tcp_type=passive)
        )
    return candidates


def predicted(profile: NatProfile | None, asked: Address, seen: Address, local: Address) -> Address | None:
    """
    Return the address that a NAT will give the first connection from `local`; None if it can't be predicted,
    or is the same for all destinations. NATs are taken to allocate TCP ports as they do UDP ports, unless
    they preserve those of TCP alone.

    :param profile: what is known of the NAT.
    :param asked: the local address from which a reflector was asked over TCP. It has another port than
        `local`.
    :param seen: the address from which the reflector saw this connection, the newest one through the NAT.
    """
    known = nat_class(profile)
    if known is NatClass.PRESERVING or (known is NatClass.SEQUENTIAL and seen.port == asked.port):
        return TCPAddress(seen.host, local.port)
    port = 0 if profile is None else seen.port + profile.step
    if known is NatClass.SEQUENTIAL and FIRST_PORT <= port <= 65535:
        return TCPAddress(seen.host, port)
    return None


def public_host(candidates: Iterable[Candidate]) -> str | None:
    """
    Return the public IP address of a side, IPv4 if it has both, by which its network is recognized; None if
    it names none.
    """
    hosts = [each.address for each in candidates if not is_local(each.address.host)]
    return min(hosts, key=lambda address: address.is_ipv6).host if hosts else None


def kinds(candidates: Iterable[Candidate]) -> list[tuple[str, str, bool]]:
    """Return which kinds of candidates a side has, without their addresses: what its network lets it have."""
    return sorted(
        {
            (each.type.value, "" if each.tcp_type is None else each.tcp_type.value, each.address.is_ipv6)
            for each in candidates
        }
    )


class TCPTarget(NamedTuple):
    """
    Where to connect.

    :ivar local: the address to connect from.
    :ivar remote: the address to connect to.
    :ivar near: it is in our own network, as far as its address shows.
    """

    local: Address
    remote: Address
    near: bool


def targets(
    listening: Collection[Address],
    mapped: Mapping[Address, Address],
    theirs: Iterable[Candidate],
    own: Collection[str],
) -> list[TCPTarget]:
    """
    Return where to connect to reach the other side at its candidates, the likeliest first.

    Ports below 1024 belong to services, not to peers. Private addresses are only worth a SYN if the other
    side is in our own network. It says so, which proves nothing, so it must not see what answers there. The
    same is true of our router, and of what has an IPv6 address of our own /56, behind the same firewall.
    This machine is not the other side: whoever names it would have us connect to services of ours.

    :param listening: the addresses at which we listen, from which we also connect.
    :param mapped: how the rendezvous sees each of them, if it says so.
    :param theirs: the candidates of the other side.
    :param own: all IP addresses of this machine, also those that no candidate of ours has.
    """
    theirs, ours = list(theirs), {address.host for address in mapped.values()}
    neighbours = any(each.address.host in ours for each in theirs if each.type is CandidateType.SRFLX)
    networks = {source_of(local.host)[1] for local in listening if local.is_ipv6}
    found: list[tuple[bool, int, TCPTarget]] = []
    for each in theirs:
        remote = each.address
        private = scope_of(remote.host) is not Scope.GLOBAL
        usable = each.tcp_type is not TCPType.ACTIVE and remote.port >= FIRST_PORT
        if not usable or each.type is CandidateType.RELAY or (private and not neighbours):
            continue
        local = next((local for local in listening if may_pair(local, remote)), None)
        if local is not None and remote.host not in own:
            near = private or remote.host in ours or source_of(remote.host)[1] in networks
            found.append((not private, -each.priority, TCPTarget(local, remote, near)))
    found.sort(key=lambda target: target[:2])
    return list(dict.fromkeys(target for _, _, target in found))[:MAX_TARGETS]


class TCPAttempt:
    """
    One attempt: what is open for it, and how much it has sent.

    :param number: its number; both sides give it the same.
    :param paths: takes the connections.
    :param budget: that of the peer, in which SYNs count.
    :param predicts: name the port that our NAT will probably give the connection to the other side, if it
        depends on the destination, in place of the port that it gave the connection to the rendezvous.
    :ivar refusals: how many connections to other networks failed at once.
    :ivar packets: how many SYNs were sent.
    :ivar bytes: how many bytes they had, with headers.
    """

    def __init__(
        self,
        number: int,
        transport: IceTransport,
        context: CallContext,
        paths: TCPPaths,
        budget: Budget,
        *,
        predicts: bool = False,
    ) -> None:
        self.number = number
        self._predicts = predicts
        self.refusals = self.packets = self.bytes = 0
        self._transport = transport
        self._context = context
        self._network = context.network
        self._paths = paths
        self._budget = budget
        self._theirs: Deferred[tuple[Candidate, ...]] = Deferred()
        self._reflections: dict[Address, TCPReflection] = {}
        # How the rendezvous sees each port at which we listen, and where the router says it has mapped it
        self._seen: dict[Address, Address] = {}
        self._external: dict[Address, Address] = {}
        self._listening: list[Address] = []
        self._connecting: list[Deferred[Any]] = []
        self._over = False

    def answered(self, theirs: tuple[Candidate, ...]) -> None:
        """The other side has said where it listens; only the first time counts."""
        if not self._theirs.called:
            self._theirs.callback(theirs)

    async def gather(self) -> tuple[Candidate, ...]:
        """
        Listen, ask the rendezvous how each port is seen, ask the router to map it, and return the candidates.
        """
        asked: list[tuple[dict[Address, Address], Address, Deferred[Address | None]]] = []
        profiles: dict[Address, NatProfile | None] = {}
        # The most preferred address of each family: others hardly ever lead to another network
        bases = [base for base in self._network.sockets.bases if not is_clat(base.host)]
        hosts = {base.is_ipv6: base.host for base in reversed(bases)}
        tcp = self._network.tcp
        for host in hosts.values():
            local = self._paths.listen(host, lambda: self._connection(accepted=True))
            if local is None:
                continue
            self._listening.append(local)
            # To predict a port, ask from another one: the NAT is to map the port at which we listen only when
            # it connects to the other side
            profile = profiles[local] = self._profile(local)
            asking = local if profile is None else TCPAddress(host, 0)
            reflection = tcp.ask(asking, REFLECTION_TIME, self._context.random)
            if reflection is not None:
                self._reflections[local] = reflection
                asked.append((self._seen, local, reflection.mapped))
            asked.append((self._external, local, self._paths.map(local)))
        for _, _, answer in asked:
            answer.addTimeout(
                REFLECTION_TIME, self._context.clock, onTimeoutCancel=lambda result, seconds: None
            )
        for found, local, answer in asked:
            address = await answer
            if address is not None and found is self._seen and profiles[local] is not None:
                address = predicted(profiles[local], self._reflections[local].local, address, local)
            if address is not None:
                found[local] = address
        return local_candidates(self._listening, self._seen, self._external)

    def _profile(self, local: Address) -> NatProfile | None:
        """What is known of the NAT, if its port for this address is to be predicted; None if it is not."""
        if not self._predicts:
            return None
        profile = self._network.nat_observer.profile_of(local.host)
        return profile if nat_class(profile) in (NatClass.PRESERVING, NatClass.SEQUENTIAL) else None

    async def answer(self) -> tuple[Candidate, ...]:
        """
        Return the candidates of the other side; none if it refuses.

        :raise TimeoutError: it does not answer, or is of an older release.
        """
        self._theirs.addTimeout(ANSWER_TIME, self._context.clock)
        return await self._theirs

    async def connect(self, theirs: Sequence[Candidate]) -> None:
        """Connect to the other side again and again, until there is a connection that works."""
        clat = self._network.clat
        named = [each for each in theirs if not clat.translates(each.address.host)]
        found = targets(self._listening, self._seen, named, self._network.own_hosts)
        for _ in range(ROUNDS):
            refusals = self.refusals
            for target in found:
                self._connect(target)
            end = self._context.monotonic() + (REFUSED_ROUND if refusals else ROUND)
            while self._context.monotonic() < end and self.refusals == refusals:
                await self.sleep(REFUSED_WAIT)
            if refusals or self._paths.proved or not self._transport.relayed:
                return

    def sleep(self, seconds: float) -> Deferred[None]:
        """Wait."""
        return deferLater(self._context.clock, seconds)

    def close(self) -> None:
        """Listen no more, and give up what is not connected yet."""
        self._over = True
        for reflection in self._reflections.values():
            reflection.close()
        for connecting in list(self._connecting):
            connecting.cancel()
        self._theirs.addErrback(lambda failure: None)
        self._theirs.cancel()
        self._paths.stop_listening()

    def _connection(self, *, accepted: bool = False) -> TCPConnection:
        return TCPConnection(self._network.tcp, self._made, self._paths.lost, accepted=accepted)

    def _made(self, connection: TCPConnection) -> None:
        if self._over:
            connection.close()
        else:
            self._paths.add(connection, self._seen.get(connection.local))

    def _connect(self, target: TCPTarget) -> None:
        local, remote = target.local, target.remote
        if not self._budget.allows_connect(remote, self._context.monotonic()):
            return
        if self._paths.has(local, remote):
            # The budget counts it as well: what is left would show the other side who accepts connections
            return
        self.packets += 1
        self.bytes += SYN_SIZE + IP_HEADERS[remote.is_ipv6]
        self._budget.sent.add_syn(remote)
        connecting = self._network.tcp.connect(local, remote, self._connection(), CONNECT_TIME)
        self._connecting.append(connecting)

        def ended(result: object) -> None:
            self._connecting.remove(connecting)
            if isinstance(result, Failure):
                # Twisted has no single error for refusals by ICMP. Those in our own network have no effect:
                # the other side could see by it who is there
                refused = not isinstance(result.value, (UserTimeout, *CANCELLED))
                if refused and not target.near:
                    self.refusals += 1
                # Nobody listens there, the SYN was dropped, or the attempt was ended
                result.trap(ConnectError, *CANCELLED)  # type: ignore[no-untyped-call]

        connecting.addBoth(ended)

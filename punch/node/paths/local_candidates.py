"""
The local candidates of a call: those that an ICE agent of it begins with, and their description for the
other side (`new_agent`); and what joins later: relayed addresses (`CallRelays`), the sockets of attempts at a
direct path, and TCP connections to the other side (`Openings`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from punch.ice.agent import Agent
from punch.ice.budget import Budget, Route
from punch.ice.checks import IceCredentials
from punch.ice.generations import Generations
from punch.ice.reach import may_relay
from punch.identity import PeerID
from punch.net.udp.socket_set import SocketSet
from punch.node.calls.call_context import CallContext
from punch.node.calls.description import Description
from punch.node.network.relay import RelayClient
from punch.node.network.tcp_connections import TCPConnection
from punch.node.paths.path import SlowedPath
from punch.node.policies import RelayPolicy
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit

STABLE = 20.0
"""Seconds of a direct path after which the call gives its relays back."""
OPENING_GAP = 0.5
"""Seconds between two checks by which another ICE session learns of a path that an attempt has found."""


def new_agent(
    context: CallContext, peer: PeerID, *, controlling: bool, restart: bool = False
) -> tuple[Agent, Description]:
    """
    Return an agent with all candidates that are known at once, and the description for an offer or answer.

    :param restart: the agent is for an ICE restart; `Agent` says what it does differently.
    """
    agent = Agent(
        controlling=controlling,
        credentials=IceCredentials.generate(context.random),
        random=context.random,
        pacing=context.pacing,
        steady=restart,
        budget=context.budgets.of(peer, context.monotonic()),
        familiar=context.paths.hosts(peer),
        refused=context.network.clat.translates,
    )
    network = context.network
    bases = network.refresh()
    if context.relay_policy is not RelayPolicy.ONLY:
        for base in bases:
            agent.add_local_address(base)
        # Before those that reflectors see: behind some NATs, only these work
        for mapping in network.port_mappings.current:
            agent.reflexive.add_mapped(mapping.base, mapping.external)
        for base, mapped in network.reflexive_addresses.mappings():
            if base in bases:
                agent.reflexive.add(base, mapped)
    if context.relay_policy is not RelayPolicy.NEVER:
        for relay in network.relays.current:
            add_relay(agent, relay, context)
    while agent.next_event() is not None:
        pass  # The description contains these candidates
    return agent, describe(agent, context)


def describe(agent: Agent, context: CallContext) -> Description:
    """Return the description of an agent with the candidates that it has now."""
    credentials = agent.credentials
    return Description(
        context.name(),
        credentials.ufrag,
        credentials.password,
        round(context.pacing * 1000),
        tuple(agent.local_candidates),
        complete=not any(servers(context)) and not context.network.port_mappings.may_follow,
        nats=tuple(context.network.nat_observer.current),
    )


def add_relay(agent: Agent, relay: RelayClient, context: CallContext) -> None:
    """Add a relayed candidate and, unless our addresses are to stay hidden, a server-reflexive one."""
    hidden = context.relay_policy is RelayPolicy.ONLY
    if relay.base is not None and relay.mapped is not None and not hidden:
        agent.reflexive.add(relay.base, relay.mapped, relay.source)
    mapped = None if hidden else relay.mapped
    agent.add_relayed(relay.local, mapped, relay.source, streamed=relay.base is None, host=relay.host)


def servers(context: CallContext) -> tuple[list[Address], bool]:
    """Return the reflectors to ask for candidates, and whether there are relays to ask."""
    policy = context.relay_policy
    reflectors = [] if policy is RelayPolicy.ONLY else context.network.reflectors
    return reflectors, policy is not RelayPolicy.NEVER and context.network.relays.available


class CallRelays:
    """
    The relays of one call, and what it needs them for (`RelayUser`).

    :param route: returns the local and remote address of the path, or None.
    :param lost: called when a relayed address is gone.
    :param changed: called when there is something to send, or an event.
    :param slowed: called about every ten seconds while a relay of ours drops datagrams of the path because of
        a limit: with the limit, and whether it has just begun to.
    """

    def __init__(
        self,
        generations: Generations,
        context: CallContext,
        route: Callable[[], tuple[Address, Address] | None],
        lost: Callable[[], None],
        changed: Callable[[], None],
        slowed: Callable[[RelayLimit, bool], None],
    ) -> None:
        self._generations = generations
        self._context = context
        self._pool = context.network.relays
        self._route = route
        self._lost = lost
        self._changed = changed
        self._slowed = slowed
        self._slowed_here = SlowedPath()
        self._slowed_there = SlowedPath()
        self._remote_addresses: list[Address] = []
        self._relayed: list[Address] = []
        self._joined = False
        self._release_at: float | None = None

    def __contains__(self, local: Address) -> bool:
        """Whether this is a relayed address of the call."""
        return local in self._relayed

    def base_of(self, local: Address) -> Address | None:
        """
        Return the address of the socket that sends for `local`, None if a TCP connection to a relay does.
        """
        return self._pool.base_of(local) if local in self._relayed else local

    def join(self) -> None:
        """Use relays from now on. If they are in use already, check them."""
        self._release_at = None
        if self._joined:
            self._pool.leave(self)
        self._joined = servers(self._context)[1]
        if self._joined:
            self._pool.join(self)

    def close(self) -> None:
        """Use relays no more."""
        self._pool.leave(self)

    # The ICE sessions

    def restart(self, agent: Agent) -> None:
        """An ICE restart begins with this agent, which knows none of the other side's candidates yet."""
        self._remote_addresses.clear()
        self._relayed = [relay.local for relay in self._pool.current if relay.local in agent.bases]

    def add_remote(self, addresses: Sequence[Address]) -> None:
        """
        The other side has these addresses, too. The relays are to accept datagrams from those that they can
        reach.

        :param addresses: those of the candidates that the newest ICE session has accepted; it accepts at
            most 32.
        """
        self._remote_addresses += addresses
        for relay in self._pool.current:
            if relay.local in self._relayed:
                self._permit(relay, addresses)

    def path_selected(self, now: float, *, relayed: bool) -> None:
        """The path is a direct one, or a relayed one."""
        if relayed:
            self._release_at = None
        elif self._release_at is None and self._joined:
            self._release_at = now + STABLE

    # Calls of the relay pool (RelayUser)

    def relay_found(self, relay: RelayClient) -> None:
        """A relayed address was allocated: it becomes a candidate."""
        add_relay(self._generations.newest, relay, self._context)
        if relay.local not in self._relayed:
            self._relayed.append(relay.local)
        self._permit(relay, self._remote_addresses)
        self._changed()

    def relay_lost(self, local: Address) -> None:
        """A relayed address is gone, and with it every pair through it."""
        self._lost()
        if local in self._relayed:
            self._relayed.remove(local)
            for agent in self._generations.agents:
                agent.remove_local(local, self._context.monotonic())
            self._changed()

    def relays_done(self) -> None:
        """No more relayed addresses will come."""
        self._generations.newest.end_of_relayed_candidates(self._context.monotonic())
        self._changed()

    def relay_limited(self, local: Address, limit: RelayLimit) -> None:
        """
        A relay drops datagrams because of a limit. They are datagrams of the path if this relayed address is
        part of it.
        """
        route = self._route()
        if route is not None and route[0] == local:
            now = self._context.monotonic()
            begins = self._slowed_here.learn(limit, local, now)
            if self._slowed_here.tells(now) or begins:
                self._slowed(limit, begins)

    # Limits

    def peer_limited(self, limit: RelayLimit, now: float) -> bool:
        """
        The other side says that its relay drops datagrams because of a limit.

        :return: whether it has begun to, and no relay of ours does.
        """
        route = self._route()
        if route is None:
            return False
        alone = self._slowed_here.limit(route[0], now) is None
        return self._slowed_there.learn(limit, route[1], now) and alone

    def limit(self, now: float) -> RelayLimit | None:
        """The limit of a relay, ours or the other side's, that slows the path down now; None if none does."""
        route = self._route()
        if route is None:
            return None
        ours = self._slowed_here.limit(route[0], now)
        return self._slowed_there.limit(route[1], now) if ours is None else ours

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._release_at

    def handle_timer(self, now: float) -> None:
        """Give the relays back when a direct path has lasted."""
        if self._release_at is None or now < self._release_at:
            return
        if self._generations.trial is None:
            self._release()
        else:
            self._release_at = now + STABLE

    def _permit(self, relay: RelayClient, addresses: Sequence[Address]) -> None:
        relay.permit([remote for remote in addresses if may_relay(relay.local, remote)])

    def _release(self) -> None:
        self._release_at = None
        self._joined = False
        self._pool.leave(self)
        for local in list(self._relayed):
            self.relay_lost(local)


class Openings:
    """
    The sockets of attempts and TCP connections of one call. They belong to all of its ICE sessions, also to
    later ones.

    :param sockets: sends from the sockets of attempts.
    :param monotonic: returns the time in seconds.
    """

    def __init__(
        self,
        generations: Generations,
        budget: Budget,
        sockets: SocketSet,
        monotonic: Callable[[], float],
    ) -> None:
        self._generations = generations
        self._budget = budget
        self._sender = sockets
        self._monotonic = monotonic
        self._connections: dict[TCPConnection, Address | None] = {}
        self._sockets: dict[Address, Address | None] = {}
        self._checked_at = -OPENING_GAP

    def join(self, agent: Agent) -> None:
        """Have the agent of an ICE restart take checks there, too."""
        for connection, mapped in self._connections.items():
            agent.openings.add(connection.local, mapped)
        for base, mapped in self._sockets.items():
            agent.openings.add(base, mapped)

    def check(self, agent: Agent) -> None:
        """Check all connections: the agent now knows the credentials of the other side."""
        for connection in self._connections:
            self._check_connection(agent, connection)

    # Sockets of attempts

    def add(self, base: Address, mapped: Address | None = None) -> None:
        """
        Take checks at a socket of an attempt.

        :param mapped: its address as a reflector sees it, if that is known.
        """
        self._sockets[base] = mapped
        for agent in self._generations.agents:
            agent.openings.add(base, mapped)

    def remove(self, base: Address) -> None:
        """A socket of an attempt is closed, and so are all paths from it."""
        self._sockets.pop(base, None)
        for agent in self._generations.agents:
            agent.remove_local(base, self._monotonic())

    def has_received_check(self, bases: Collection[Address]) -> bool:
        """Whether an authenticated check of any of the ICE sessions has arrived at one of these sockets."""
        return any(agent.openings.has_received_check(bases) for agent in self._generations.agents)

    def has_got_through(self, bases: Collection[Address]) -> bool:
        """
        Whether an authenticated check has arrived at one of these sockets, or the answer to a check sent from
        there.
        """
        return self.was_answered(bases) or self.has_received_check(bases)

    def was_answered(self, bases: Collection[Address]) -> bool:
        """Whether a check that was sent from one of these sockets was answered."""
        return any(agent.openings.was_answered(bases) for agent in self._generations.agents)

    def received_stun(self, local: Address, remote: Address, now: float) -> None:
        """A STUN message has come between these addresses."""
        if local in self._sockets and now >= self._checked_at + OPENING_GAP:
            self.check_path(local, remote, now)

    def check_path(self, local: Address, remote: Address, now: float) -> None:
        """
        If a path from a socket of an attempt is known to work, and the newest ICE session has no check from
        there yet, send one of it. Otherwise an ICE restart would give up that path.
        """
        agent = self._generations.newest
        works = local in self._sockets and self._budget.is_validated(Route(remote, None), now)
        opening = (
            agent.openings.check(local, remote) if works and not agent.validated(local, remote) else None
        )
        if opening is not None:
            self._checked_at = now
            self._sender.send([opening.data], remote, local)

    # TCP connections

    def connection_made(self, connection: TCPConnection, mapped: Address | None) -> None:
        """
        Check a TCP connection to the other side.

        :param mapped: our end as a reflector sees it, if that is known.
        """
        self._connections[connection] = mapped
        for agent in self._generations.agents:
            agent.openings.add(connection.local, mapped)
            self._check_connection(agent, connection)

    def connection_lost(self, connection: TCPConnection) -> None:
        """A TCP connection has ended, and with it the path on it."""
        del self._connections[connection]
        now = self._monotonic()
        shared = any(other.local == connection.local for other in self._connections)
        for agent in self._generations.agents:
            agent.connection_lost(connection.local, connection.remote, now)
            if not shared:
                agent.remove_local(connection.local, now)

    def _check_connection(self, agent: Agent, connection: TCPConnection) -> None:
        if connection.accepted and not connection.proved:
            return  # It may be a stranger's, and a check contains secrets of the call
        opening = agent.openings.check(connection.local, connection.remote)
        if opening is None:
            return
        size, now = len(opening.data), self._monotonic()
        validated = self._budget.is_validated(Route(connection.remote), now)
        if self._budget.allows_first_check(connection.remote, size, now):
            if not validated:
                self._budget.sent.add(connection.local, connection.remote, size)
            connection.send([opening.data], connection.remote)

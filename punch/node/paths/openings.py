"""
Local addresses of ICE agents beside the node's sockets and relays: the sockets of attempts at a direct path
(`punch.node.punching`), and TCP connections to the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from punch.ice.agent import Agent
from punch.ice.budget import Budget, Route
from punch.ice.generations import Generations
from punch.net.udp.socket_set import SocketSet
from punch.node.network.tcp_connections import TCPConnection
from punch.wire.address import Address

OPENING_GAP = 0.5
"""Seconds between two checks by which another ICE session learns of a path that an attempt has found."""


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

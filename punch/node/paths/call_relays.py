"""The relays that one call uses: their addresses are candidates of its ICE sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from punch.ice.agent import Agent
from punch.ice.generations import Generations
from punch.ice.reach import may_relay
from punch.node.calls.call_context import CallContext
from punch.node.network.relay import RelayClient
from punch.node.paths.local_candidates import add_relay, servers
from punch.node.paths.path import SlowedPath
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit

STABLE = 20.0
"""Seconds of a direct path after which the call gives its relays back."""


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

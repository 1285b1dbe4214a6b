"""
The relays of a node: which there are, and when allocations are requested and deleted.

All calls and links share an allocation, as they share sockets. It is requested when the first of them needs
one, at the start of a call, and deleted soon after the last one needs it no longer. To keep it while a direct
path works would save one second when that path is lost, and would cost the relay a port and both sides
packets for as long as it is kept. A link that loses its direct path joins the pool again.

Relays are asked over UDP first. If none has answered after `HEAD_START`, because a firewall drops UDP or a
packet was lost, they are asked over TCP and TLS too, and also if the largest datagrams do not reach the relay
over UDP. The first answer wins. A late answer over UDP is still used, since UDP is the better transport. On a
network where the last relay was reached over TCP or TLS alone, all are asked at once. `RelaySearch` has the
states of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cryptography import x509
from twisted.logger import Logger

from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.net.driver import Driver
from punch.node.causes import RelayFailure
from punch.node.control.hosts import HostPolicy, RelayAddresses
from punch.node.network.relay_search import HeadStart, RelaySearch, RelayServers, Verifying, Waiting
from punch.wire.address import Address, canonical
from punch.wire.fields import clean
from punch.wire.proxy import ProxySettings
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer, TurnTransport

if TYPE_CHECKING:
    from punch.node.network.relay import DatagramRelayClient, Received, RelayClient, RelayContext
    from punch.turn.client.requests import AllocationProblem

LINGER = 5.0
"""Seconds for which an allocation without users is kept: another call may follow."""
MAX_DATAGRAM_TRIES = 4
"""How many pairs of socket and relay are tried over UDP at once."""
_LOGGED = 100
"""Characters of a relay's reason phrase that are logged."""


class RelayUser(Protocol):
    """Needs a relay, and is told which there are (`punch.node.paths.local_candidates.CallRelays`)."""

    def relay_found(self, relay: RelayClient) -> None:
        """There is a relayed address to use."""

    def relay_lost(self, local: Address) -> None:
        """This relayed address works no longer."""

    def relays_done(self) -> None:
        """No more relays are to be expected for now."""

    def relay_limited(self, local: Address, limit: RelayLimit) -> None:
        """The relay of this relayed address drops datagrams, since more come than a limit allows."""


class RelayPool:
    """
    Requests allocations, shares them between calls, and deletes them.

    It has three timers, which `get_timer` joins: that of the search (`RelaySearch`), that after which
    allocations without users are deleted, and that of the credentials (`RelayServers`).
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        monotonic: Callable[[], float],
        random: RandomBytes,
        roots: Sequence[x509.Certificate] | None,
        name: str,
        bases: Callable[[], list[Address]],
        send: Callable[[Sequence[bytes], Address, Address], None],
        received: Received,
        renew: Callable[[], object],
        policy: HostPolicy | None = None,
        proxy: ProxySettings | None = None,
        server_addresses: Callable[[Iterable[str]], list[str]] = lambda hosts: list(dict.fromkeys(hosts)),
    ) -> None:
        """
        :param reactor: the clock; connects TCP and resolves names.
        :param roots: the authorities for relays without a pin; None for the platform's.
        :param name: the host of the rendezvous as the user gave it, for its own relay.
        :param bases: the local addresses of the node's sockets.
        :param send: sends datagrams to an address, from a local address.
        :param received: takes what relays hand over.
        :param renew: requests new credentials from the rendezvous.
        :param policy: which hosts the rendezvous may make this node use; None: a new policy.
        :param proxy: the proxy through which relays are reached over TCP and TLS, if there is one.
        :param server_addresses: returns the addresses by which relays at these IP addresses are reached,
            each once.
        """
        self._received = received
        self._clock = reactor
        self._random = random
        self._monotonic = monotonic
        self._roots = roots
        self._proxy = proxy
        self._name = name
        self._bases = bases
        self._send = send
        self._renew = renew
        self._servers = RelayServers()
        self._search = RelaySearch()
        self._addresses = RelayAddresses(
            reactor, monotonic, name, policy or HostPolicy(), self.moved, server_addresses
        )
        self._users: list[RelayUser] = []
        self._attempts: list[RelayClient] = []
        self._relays: dict[Address, RelayClient] = {}
        self._closing: list[RelayClient] = []
        self._flows: dict[tuple[Address, Address], DatagramRelayClient] = {}
        self._streams_first = False
        # When the allocations are deleted; None: they are in use, or there are none
        self._close_at: float | None = None
        self._driver = Driver(reactor, monotonic, lambda now: False, lambda: (self,))

    # What the rendezvous names

    def update(self, servers: tuple[RelayServer, ...], host: str | None = None) -> None:
        """
        Use these relays from now on.

        :param host: the IP address of the rendezvous, if it may have changed.
        """
        now = self._monotonic()
        if host is not None:
            self._addresses.reached(host)
        self._servers.update(servers, now)
        by_url = {server.url: server for server in servers}
        for relay in (*self._relays.values(), *self._attempts):
            renewed = by_url.get(relay.server.url)
            if renewed is not None:
                relay.renew(renewed)
        self._addresses.keep(server.url for server in servers)
        if self._users and not self._relays:
            # The relay may have restarted, and the requests may have its old credentials: start again.
            for attempt in self._attempts:
                attempt.abandon()
            self._attempts.clear()
            self._search.restart()
            self._gather(now)
        self._driver.run()

    def network_changed(self) -> None:
        """Look all names up again: they may have other addresses in this network."""
        self._addresses.look_up_all()

    def moved(self) -> None:
        """Relays are reached at further addresses: ask those that have not been asked yet."""
        if self._users and not self._relays:
            self._try_datagrams(self._datagram_tries(self._usable(self._monotonic())))

    def other_addresses(self) -> None:
        """This machine has other addresses, so what is known about transports may be wrong now."""
        self._streams_first = False

    def woke(self) -> None:
        """The machine has slept: what relays have granted may have expired."""
        for relay in self.current:
            relay.woke()

    # What calls and links ask

    @property
    def available(self) -> bool:
        """Whether there is a relay, or one that can be asked."""
        return bool(self._relays or self._usable(self._monotonic()))

    def join(self, user: RelayUser) -> None:
        """Add a user that needs a relay. It is told of the relays that there are, and of each new one."""
        if user in self._users:
            return
        self._users.append(user)
        self._close_at = None
        now = self._monotonic()
        relays = self.current
        for relay in relays:
            # It may have ended since it was used last.
            relay.probe()
            user.relay_found(relay)
        if relays:
            self._check(now)
        else:
            self._seek(now)
        self._driver.run()

    def need(self, needed: bool) -> None:
        """Say whether a link without a path waits for a relay, so that relays are tried more often."""
        self._search.need(needed)

    def leave(self, user: RelayUser) -> None:
        """Remove a user, which needs no relay any more."""
        if user not in self._users:
            return
        self._users.remove(user)
        if not self._users:
            self._search.unused()
            self._close_at = self._monotonic() + LINGER
            self._driver.run()

    @property
    def current(self) -> list[RelayClient]:
        """The relays that have a relayed address now."""
        return list(self._relays.values())

    @property
    def attempt_count(self) -> int:
        """How many relays are being asked for an allocation."""
        return len(self._attempts)

    def find(self, local: Address) -> RelayClient | None:
        """Return the relay that has the relayed address `local`, if one does."""
        return self._relays.get(local)

    def base_of(self, local: Address) -> Address | None:
        """The local address of the socket that a relayed address depends on, if any."""
        relay = self._relays.get(local)
        return None if relay is None else relay.base

    @property
    def failure(self) -> RelayFailure | None:
        """Why there is no relayed address; None if there is one, or if no request has failed."""
        return None if self._relays else self._servers.failure

    def stop(self) -> None:
        """Delete all allocations at once, and use no relay any more."""
        self._driver.stop()
        self._servers.update((), self._monotonic())
        self._users.clear()
        self._close_all()
        for relay in self._closing:
            relay.abandon()
        self._closing.clear()
        self._flows.clear()

    # What the sockets receive

    def receive(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> Sequence[bytes]:
        """
        Take datagrams and return those that are not from a relay. ChannelData, which can look like QUIC, is
        only taken from the exact address and port of a relay that is used from this socket (RFC 9443).
        """
        flow = self._flows.get((local, remote)) if self._flows else None
        return datagrams if flow is None else flow.receive(datagrams)

    # Calls of the relay clients (RelayClientOwner)

    def relay_allocated(self, relay: RelayClient) -> None:
        """A relay has allocated an address."""
        self._log.info("relayed by {source}: {local}", source=relay.source, local=str(relay.local))
        if relay not in self._attempts:
            # It was closed while its answer was on the way.
            self._close(relay)
            return
        if relay.local in self._bases():
            from punch.turn.client.requests import AllocationProblem

            # Datagrams that it claims to come from others would seem to have come to our own socket
            self.relay_failed(relay, AllocationProblem.REFUSED, "the relayed address is our own")
            self._close(relay)
            return
        self._attempts.remove(relay)
        self._streams_first = relay.base is None and all(each.base is None for each in self._relays.values())
        self._relays[relay.local] = relay
        self._servers.worked(relay.server.url)
        self._search.found()
        # One relay of a kind is enough, and one over UDP makes those over streams unnecessary.
        for other in list(self._attempts):
            if relay.base is not None or other.base is None:
                self._attempts.remove(other)
                self._close(other)
        now = self._monotonic()
        if relay.base is not None:
            self._check(now)
        for user in list(self._users):
            user.relay_found(relay)
        if not self._users and self._close_at is None:
            self._close_all()
        self._finish(now)
        self._driver.run()

    def relay_failed(self, relay: RelayClient, problem: AllocationProblem, text: str) -> None:
        """A relay has refused an allocation, or has ended it."""
        self._log.info(
            "no relay by {source}: {problem} {text}",
            source=relay.source,
            problem=problem.value,
            text=clean(text, _LOGGED),
        )
        now = self._monotonic()
        expired = self._servers.failed(relay.server.url, problem, now)
        # The relay may have another address now.
        self._addresses.look_up(relay.server.url)
        if expired:
            self._renew()
        self._forget_flow(relay)
        if relay in self._attempts:
            self._attempts.remove(relay)
            if not self._attempts and isinstance(self._search.state, HeadStart):
                self._try_streams(now)
            self._finish(now)
        elif relay in self._relays.values():
            del self._relays[relay.local]
            for user in list(self._users):
                user.relay_lost(relay.local)
            self._seek(now)
        self._driver.run()

    def relay_limited(self, relay: RelayClient, limit: RelayLimit) -> None:
        """A relay drops datagrams, since more come than it allows."""
        if relay in self._relays.values():
            self._log.debug("{source} drops datagrams: {limit}", source=relay.source, limit=limit.name)
            for user in list(self._users):
                user.relay_limited(relay.local, limit)

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return earliest((self._search.get_timer(), self._close_at, self._servers.renew_at))

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._servers.renewal_due(now):
            self._renew()
        over = self._search.handle_timer(now)
        if isinstance(over, HeadStart):
            self._try_streams(now)
        elif isinstance(over, Waiting):
            self._seek(now)
        elif isinstance(over, Verifying):
            self._end_check(over.since, now)
        if self._close_at is not None and now >= self._close_at:
            self._close_all()

    # Inside

    @cached_property
    def _context(self) -> RelayContext:
        # A node without calls asks no relay, and does without what that takes
        from punch.node.network.relay import RelayContext

        return RelayContext(self, self._received, self._clock, self._monotonic, self._random)

    def _usable(self, now: float) -> list[RelayServer]:
        return [server for server in self._servers.usable(now) if self._addresses.may_use(server.url)]

    def _gather(self, now: float) -> None:
        """Request allocations. `relays_done` of each user is called when all requests have ended."""
        datagram_tries = self._datagram_tries(self._usable(now))
        self._search.begin(now)
        self._try_datagrams(datagram_tries)
        if self._streams_first or not datagram_tries:
            self._try_streams(now)
        self._finish(now)

    def _try_datagrams(self, tries: list[tuple[RelayServer, Address, Address]]) -> None:
        from punch.node.network.relay import DatagramRelayClient

        relays = []
        for server, base, address in tries:
            replaced = self._flows.get((base, address))
            if replaced is not None:
                # Its messages would end the new allocation, which has the same five-tuple.
                replaced.abandon()
            relay = DatagramRelayClient(server, self._context, base=base, address=address, send=self._send)
            self._flows[base, address] = relay
            self._attempts.append(relay)
            relays.append(relay)
        for relay in relays:
            if relay in self._attempts:
                relay.start()

    def _datagram_tries(self, servers: list[RelayServer]) -> list[tuple[RelayServer, Address, Address]]:
        """
        Which relay to ask from which socket, without those that are being asked or in use: every relay from
        the first socket of its family, then from the others.
        """
        bases = self._bases()
        ranks = {
            base: [other.is_ipv6 for other in bases[:number]].count(base.is_ipv6)
            for number, base in enumerate(bases)
        }
        asked = [*self._relays.values(), *self._attempts]
        in_use = [flow for flow, relay in self._flows.items() if relay in asked]
        tries = [
            (server, base, address)
            for server in servers
            if server.url.transport is TurnTransport.UDP
            for address in (canonical(host, server.url.port) for host in self._addresses.of(server.url))
            for base in bases
            if base.is_ipv6 == address.is_ipv6 and (base, address) not in in_use
        ]
        return sorted(tries, key=lambda each: ranks[each[1]])[:MAX_DATAGRAM_TRIES]

    def _try_streams(self, now: float) -> None:
        from punch.node.network.relay import StreamRelayClient, relay_endpoint

        self._search.ask_streams()
        for server in self._usable(now):
            if server.url.transport is TurnTransport.UDP:
                continue
            endpoint = relay_endpoint(
                self._addresses.reactor_for(server.url),
                server,
                self._name,
                self._roots,
                self._proxy,
                self._clock,
                vetted=bool(self._addresses.of(server.url)),
            )
            if endpoint is not None:
                self._attempts.append(StreamRelayClient(server, self._context, endpoint))
        for attempt in list(self._attempts):
            if isinstance(attempt, StreamRelayClient) and attempt in self._attempts:
                attempt.start()
        self._finish(now)

    def _finish(self, now: float) -> None:
        """
        If no request is under way any more, call `relays_done` of each user. If there is no relay, try again
        and call it later.
        """
        if self._streaming or self._search.pending:
            return
        if self._users and not self._relays and self._servers.all:
            self._search.failed(now)
            if self._usable(now) and not self._search.gives_up(now):
                return
        else:
            self._search.all_answered()
        if not self._attempts:
            for user in list(self._users):
                user.relays_done()

    def _check(self, now: float) -> None:
        """Check that one of the relays answers and takes the largest datagrams."""
        if not isinstance(self._search.state, Verifying) and not self._attempts:
            for relay in self._relays.values():
                relay.check_size()
            self._search.check((relay.rtt or 0.0 for relay in self._relays.values()), now)

    def _end_check(self, since: float, now: float) -> None:
        """Ask other relays unless one has answered a request of full size since then."""
        alive = any(relay.full_at >= since for relay in self._relays.values())
        if self._users and not alive and not self._attempts:
            self._gather(now)
        else:
            self._finish(now)

    def _seek(self, now: float) -> None:
        """
        Request allocations if they are needed, or those over streams if requests over UDP are under way.
        """
        if not self._users or self._relays:
            return
        if not self._attempts:
            self._gather(now)
        elif not self._streaming and not isinstance(self._search.state, HeadStart):
            self._try_streams(now)

    @property
    def _streaming(self) -> bool:
        """Whether an allocation over a stream is under way."""
        return any(relay.base is None for relay in self._attempts)

    def _close_all(self) -> None:
        self._close_at = None
        self._search.stop()
        relays = [*self._attempts, *self._relays.values()]
        self._attempts.clear()
        self._relays.clear()
        for relay in relays:
            self._close(relay)

    def _close(self, relay: RelayClient) -> None:
        for other in [other for other in self._closing if other.over]:
            self._closing.remove(other)
            self._forget_flow(other)
        self._closing.append(relay)
        relay.close()

    def _forget_flow(self, relay: RelayClient) -> None:
        for flow, other in list(self._flows.items()):
            if other is relay:
                del self._flows[flow]

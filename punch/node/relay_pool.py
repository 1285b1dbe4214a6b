"""
The relays of a node: which there are, when they are asked for an allocation, and when it is given back.

An allocation is shared by all sessions, as sockets are: a relayed address is nothing that belongs to one
peer. It is asked for when the first session wants it, at the start of a call, and given back soon after the
last one needs it no longer: while a direct path works, all that it would save is the second that a new one
takes, and it costs the relay a port, and both sides packets for as long as it is kept. Whoever lost the
direct path asks again.

UDP is asked first. If it has not answered after `HEAD_START`, because a firewall drops it or just one packet
was lost, TCP and TLS are asked as well, and so they are if the largest datagrams don't get to the relay over
UDP. The first of them that answers wins. A late answer over UDP is still taken: it is the better carrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from cryptography import x509
from twisted.logger import Logger

from punch.identity import RandomBytes
from punch.net.driver import Timer
from punch.node.control.hosts import HostAddresses, HostPolicy, VettedReactor, is_name
from punch.node.control.tcp import DISCOVERY_NAME, translated
from punch.node.relay import (
    DatagramRelayClient,
    Received,
    RelayClient,
    StreamRelayClient,
    relay_endpoint,
)
from punch.turn.client_events import Trouble
from punch.wire.address import Address, canonical
from punch.wire.fields import clean
from punch.wire.turn_uri import RelayServer, TurnTransport, TurnURI

HEAD_START = 0.2
"""Seconds after which TCP and TLS are asked too."""
DOUBT = 0.6
"""
Seconds for a relay that is new, or needed anew, to show that it is alive and that the largest datagrams get
there; then others are asked as well.
"""
PATIENCE = 20.0
"""Seconds of failing tries after which sessions are told that no relay is coming."""
LINGER = 5.0
"""Seconds that an allocation is kept when no session needs it: another call may follow."""
MAX_DATAGRAM_TRIES = 4
"""Sockets from which UDP relays are asked at once: machines may have many."""
_RENEW_AT = 0.75
"""The part of the credentials' lifetime after which new ones are asked for."""
_UNRESPONSIVE = 60.0
"""Seconds after which credentials that a relay refuses are not wrong, but may be old."""
_FIRST_DELAY, _LAST_DELAY = 1.0, 30.0
_NEEDED_DELAY = 3.0
"""The longest delay between two tries while a link has no path."""
_LOGGED = 100
"""Characters of what a relay says that are logged."""
_FULL_DELAY = 60.0
"""Seconds until a relay that had no room for us is asked again."""


class RelayUser(Protocol):
    """A session, as far as it needs relays."""

    def relay_found(self, relay: RelayClient) -> None:
        """There is a relayed address."""

    def relay_lost(self, local: Address) -> None:
        """That relayed address is gone."""

    def relays_done(self) -> None:
        """No more are coming for now."""


class RelayPool:
    """Asks for allocations, shares them, and gives them back."""

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
    ) -> None:
        """
        :param reactor: the clock; connects TCP and resolves names.
        :param roots: the authorities for relays without a pin; None for the platform's.
        :param name: the host of the rendezvous as the user gave it, where its own relay is.
        :param bases: the local addresses of the node's sockets.
        :param send: sends datagrams to an address, from a local address.
        :param received: takes what relays hand over.
        :param renew: asks the rendezvous for new credentials.
        :param policy: which hosts the rendezvous may have us use; None: one of its own.
        """
        self._reactor = reactor
        self._monotonic = monotonic
        self._random = random
        self._roots = roots
        self._name = name
        self._policy = policy or HostPolicy()
        self._vetted = VettedReactor(reactor, self._policy)
        self._bases = bases
        self._send = send
        self._received = received
        self._renew = renew
        self._servers: tuple[RelayServer, ...] = ()
        self._host = ""
        self._updated = 0.0
        self._expires: dict[TurnURI, float] = {}
        self._hosts = HostAddresses(reactor, monotonic, self._moved)
        self._users: list[RelayUser] = []
        self._attempts: list[RelayClient] = []
        self._relays: dict[Address, RelayClient] = {}
        self._closing: list[RelayClient] = []
        self._flows: dict[tuple[Address, Address], DatagramRelayClient] = {}
        self._troubles: dict[TurnURI, tuple[Trouble, str]] = {}
        self._full_until: dict[TurnURI, float] = {}
        self._streams_due = Timer(reactor)
        self._doubt = Timer(reactor)
        self._again = Timer(reactor)
        self._linger = Timer(reactor)
        self._renewal = Timer(reactor)
        self._delay, self._last_delay = _FIRST_DELAY, _LAST_DELAY
        self._failing_since: float | None = None

    # What the rendezvous says

    def update(self, servers: tuple[RelayServer, ...], host: str | None = None) -> None:
        """
        These relays may be used.

        :param host: the IP address of the rendezvous, if it may have changed.
        """
        now = self._monotonic()
        if host is not None:
            self._host = host
            self._policy.reached(host)
        self._servers = servers
        self._updated = now
        self._expires = {server.url: now + server.lifetime for server in servers}
        # Of relays that are named no more, nothing is kept
        self._troubles = {url: each for url, each in self._troubles.items() if url in self._expires}
        self._full_until = {url: until for url, until in self._full_until.items() if url in self._expires}
        self._renewal.cancel()
        if servers:
            soonest = min(server.lifetime for server in servers)
            self._renewal.start(soonest * _RENEW_AT, self._renew)
        by_url = {server.url: server for server in servers}
        for relay in (*self._relays.values(), *self._attempts):
            renewed = by_url.get(relay.server.url)
            if renewed is not None:
                relay.renew(renewed)
        names = {self._host_of(server.url) for server in servers}
        self._hosts.keep(names | {DISCOVERY_NAME})
        for name in names:
            self._hosts.look_up(name)
        if self._users and not self._relays:
            # What was asked of a relay that is back, or with credentials of its last life, is asked anew
            for attempt in self._attempts:
                attempt.abandon()
            self._attempts.clear()
            self._delay = _FIRST_DELAY
            self._gather()

    def network_changed(self) -> None:
        """Names may mean other addresses here."""
        self._hosts.look_up_all()

    # What sessions want

    @property
    def available(self) -> bool:
        """Whether there is a relay to ask."""
        return bool(self._relays or self._usable())

    def join(self, user: RelayUser) -> None:
        """`user` needs a relay; it is told of those there are, and of every one to come."""
        if user in self._users:
            return
        self._users.append(user)
        self._linger.cancel()
        relays = self.current
        for relay in relays:
            # It may have died since it was used last
            relay.probe()
            user.relay_found(relay)
        if not relays:
            self._seek()
        else:
            self._begin_doubt()

    def need(self, needed: bool) -> None:
        """A link has no path and waits for a relay, or none does any more."""
        self._last_delay = _NEEDED_DELAY if needed else _LAST_DELAY
        self._delay = min(self._delay, self._last_delay)

    def leave(self, user: RelayUser) -> None:
        """`user` needs no relay any more."""
        if user not in self._users:
            return
        self._users.remove(user)
        if not self._users:
            self._delay, self._failing_since = _FIRST_DELAY, None
            self._again.cancel()
            self._linger.cancel()
            self._linger.start(LINGER, self._close_all)

    @property
    def current(self) -> list[RelayClient]:
        """The relays that have an address now."""
        return list(self._relays.values())

    @property
    def attempt_count(self) -> int:
        """How many relays are being asked for an allocation."""
        return len(self._attempts)

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> bool:
        """Send from a relayed address; False if `local` is none of ours."""
        relay = self._relays.get(local)
        if relay is None:
            return False
        relay.send(datagrams, remote)
        return True

    def base_of(self, local: Address) -> Address | None:
        """The socket that this relayed address depends on."""
        relay = self._relays.get(local)
        return None if relay is None else relay.base

    def why_not(self) -> str:
        """Why there is no relayed address, in a clause; empty if there is one, or was none to be had."""
        if self._relays or not self._troubles:
            return ""
        troubles = {trouble for trouble, _ in self._troubles.values()}
        for trouble, clause in _CLAUSES.items():
            if trouble in troubles:
                return clause
        return _CLAUSES[Trouble.REFUSED]

    def stop(self) -> None:
        """Give everything back, at once."""
        self._renewal.cancel()
        self._again.cancel()
        self._servers = ()
        self._users.clear()
        self._close_all()
        for relay in self._closing:
            relay.abandon()
        self._closing.clear()
        self._flows.clear()

    # What the sockets bring

    def receive(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> Sequence[bytes]:
        """
        Datagrams came: returns those that are not a relay's. ChannelData, which can look like QUIC, is taken
        from exactly the address and port of a relay that we use from this very socket (RFC 9443).
        """
        flow = self._flows.get((local, remote)) if self._flows else None
        return datagrams if flow is None else flow.receive(datagrams)

    # What relays say (RelayOwner)

    def relay_allocated(self, relay: RelayClient) -> None:
        """There is an address."""
        self._log.info("relayed by {source}: {local}", source=relay.source, local=str(relay.local))
        if relay not in self._attempts:
            # It was given up, or ended, while its answer was on the way
            self._close(relay)
            return
        self._attempts.remove(relay)
        self._relays[relay.local] = relay
        self._troubles.pop(relay.server.url, None)
        self._delay, self._failing_since = _FIRST_DELAY, None
        # One carrier of a kind is enough; over UDP it makes those over streams needless
        for other in list(self._attempts):
            if relay.base is not None or other.base is None:
                self._attempts.remove(other)
                self._close(other)
        if relay.base is not None or not self._attempts:
            self._streams_due.cancel()
        if relay.base is not None:
            self._begin_doubt()
        for user in list(self._users):
            user.relay_found(relay)
        if not self._users and not self._linger.running:
            self._close_all()
        self._finish()

    def relay_failed(self, relay: RelayClient, trouble: Trouble, text: str) -> None:
        """There is none (any more)."""
        self._log.info(
            "no relay by {source}: {trouble} {text}",
            source=relay.source,
            trouble=trouble.value,
            text=clean(text, _LOGGED),
        )
        url = relay.server.url
        self._troubles[url] = trouble, text
        # It may have moved, and its name with it
        self._hosts.look_up(self._host_of(url))
        if trouble in (Trouble.QUOTA, Trouble.CAPACITY):
            self._full_until[url] = self._monotonic() + _FULL_DELAY
        elif trouble is Trouble.UNAUTHORIZED and self._monotonic() > self._updated + _UNRESPONSIVE:
            # They may have ended early: for the relay, somebody has set the wall clock
            self._renew()
        self._forget_flow(relay)
        if relay in self._attempts:
            self._attempts.remove(relay)
            if not self._attempts and self._streams_due.running:
                self._try_streams()
            self._finish()
        elif relay in self._relays.values():
            del self._relays[relay.local]
            for user in list(self._users):
                user.relay_lost(relay.local)
            if self._users and not self._relays:
                self._seek()

    # The inside

    def _usable(self) -> list[RelayServer]:
        now = self._monotonic()
        return [
            server
            for server in self._servers
            if self._expires[server.url] > now
            and self._policy.may_use(server.url.host)
            and self._full_until.get(server.url, 0.0) <= now
        ]

    def _moved(self) -> None:
        """A name has addresses that were not asked so far."""
        if self._users and not self._relays:
            self._try_datagrams(self._datagram_tries(self._usable()))

    def _gather(self) -> None:
        """Ask for allocations; every user hears `relays_done` when all have been answered."""
        self._again.cancel()
        self._streams_due.cancel()
        servers = self._usable()
        datagram_tries = self._datagram_tries(servers)
        self._streams_due.start(HEAD_START, self._try_streams)
        self._try_datagrams(datagram_tries)
        if not datagram_tries:
            self._try_streams()
        self._finish()

    def _try_datagrams(self, tries: list[tuple[RelayServer, Address, Address]]) -> None:
        relays = []
        for server, base, address in tries:
            replaced = self._flows.get((base, address))
            if replaced is not None:
                # What it would still say would end the new allocation, which has the same five-tuple
                replaced.abandon()
            relay = DatagramRelayClient(
                server,
                self,
                self._received,
                base=base,
                address=address,
                send=self._send,
                clock=self._reactor,
                monotonic=self._monotonic,
                random=self._random,
            )
            self._flows[base, address] = relay
            self._attempts.append(relay)
            relays.append(relay)
        for relay in relays:
            if relay in self._attempts:
                relay.start()

    def _datagram_tries(self, servers: list[RelayServer]) -> list[tuple[RelayServer, Address, Address]]:
        """
        From which socket to ask which relay, but those that we have asked, and were not refused: every relay
        from the first socket of its family, then from the others.
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
            for address in (canonical(host, server.url.port) for host in self._addresses(server.url))
            for base in bases
            if base.is_ipv6 == address.is_ipv6 and (base, address) not in in_use
        ]
        return sorted(tries, key=lambda each: ranks[each[1]])[:MAX_DATAGRAM_TRIES]

    def _try_streams(self) -> None:
        self._streams_due.cancel()
        for server in self._usable():
            if server.url.transport is TurnTransport.UDP:
                continue
            # An address was judged as it is; that of a NAT64, by which it may be reached, says nothing.
            reactor = self._vetted if is_name(self._host_of(server.url)) else self._reactor
            relay = StreamRelayClient(
                server,
                self,
                self._received,
                endpoint=relay_endpoint(reactor, server, self._name, self._roots),
                clock=self._reactor,
                monotonic=self._monotonic,
                random=self._random,
            )
            self._attempts.append(relay)
        for attempt in list(self._attempts):
            if isinstance(attempt, StreamRelayClient) and attempt in self._attempts:
                attempt.start()
        self._finish()

    def _finish(self) -> None:
        """
        If nothing is under way any more, say so. If there is nothing to show for it, try again, and say it
        later.
        """
        if self._streaming or self._streams_due.running or self._doubt.running:
            return
        now = self._monotonic()
        if self._users and not self._relays and self._servers:
            if not self._again.running:
                self._again.start(self._delay, self._try_again)
                self._delay = min(self._delay * 2, self._last_delay)
            if self._failing_since is None:
                self._failing_since = now
            if self._usable() and now < self._failing_since + PATIENCE:
                return
        if not self._attempts:
            for user in list(self._users):
                user.relays_done()

    def _begin_doubt(self) -> None:
        """See whether one of the relays that we have is of use."""
        if not self._doubt.running and not self._attempts:
            for relay in self._relays.values():
                relay.check_size()
            self._doubt.start(DOUBT, self._end_doubt, self._monotonic())

    def _end_doubt(self, since: float) -> None:
        """Ask other relays, unless one of those we have is known to be alive, and to get all that we send."""
        alive = any(relay.full_at >= since for relay in self._relays.values())
        if self._users and not alive and not self._attempts:
            self._gather()
        else:
            self._finish()

    def _try_again(self) -> None:
        if self._users and not self._relays:
            self._seek()

    def _seek(self) -> None:
        """Ask anew; over UDP, requests that are under way go on being sent by themselves."""
        if not self._attempts:
            self._gather()
        elif not self._streaming and not self._streams_due.running:
            self._try_streams()

    @property
    def _streaming(self) -> bool:
        """Whether an allocation over a stream is under way."""
        return any(relay.base is None for relay in self._attempts)

    def _close_all(self) -> None:
        for timer in (self._linger, self._streams_due, self._doubt):
            timer.cancel()
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

    def _host_of(self, url: TurnURI) -> str:
        return self._name if url.host is None else url.host

    def _addresses(self, url: TurnURI) -> list[str]:
        """The IP addresses of a relay that are known now."""
        # Judged as they are told: translated with a network's own prefix, one can't see what they lead to
        known = self._policy.allowed(self._hosts.of(self._host_of(url)))
        bases = self._bases()
        # What looks like IPv4 may lead nowhere: it doesn't where the rendezvous was reached by IPv6
        no_ipv4 = all(base.is_ipv6 for base in bases) or (self._host is not None and ":" in self._host)
        if no_ipv4 and any(base.is_ipv6 for base in bases) and any(":" not in host for host in known):
            known += translated(known, self._hosts.of(DISCOVERY_NAME))
        # At which the rendezvous was reached, its relay may be asked, whatever that address is
        own = [self._host] if url.host is None and self._host else []
        return list(dict.fromkeys([*own, *known]))


_CLAUSES = {
    Trouble.CAPACITY: "the relay has no room now",
    Trouble.QUOTA: "this peer has used up what the relay grants it",
    Trouble.UNAUTHORIZED: "the relay did not take the credentials that the rendezvous gave",
    Trouble.WRONG_CREDENTIALS: "the relay did not take the credentials that the rendezvous gave",
    Trouble.TIMEOUT: "the relay does not answer",
    Trouble.DISCONNECTED: "the relay can't be reached from here",
    Trouble.REFUSED: "the relay refused to help",
}

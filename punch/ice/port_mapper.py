"""
Asks the router for ports that lead to our sockets, by PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP.

A sans-I/O core. A mapped port is reachable from everywhere, whatever the NAT does to other packets, so it
becomes a server-reflexive candidate of its socket. Nothing waits for the router: most do not answer.

UDP ports are mapped for as long as their sockets are open. TCP ports are mapped while somebody listens there
for a peer, and only by a router that has mapped a UDP port, in the same way, so that routers that map none
are not asked once more. One that refuses a TCP port is not asked for another one for a while.

Only answers of the gateway to requests that are under way count, each once, and those of PCP need the nonce
of the mapping. They are not authenticated otherwise: a host of the same network can forge the gateway's
address. What it gains is a wrong candidate, which no data is sent to, since nothing answers checks there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from punch.ice.limits import HEADERS
from punch.ice.port_lease import CONFIRM, MappingProtocol, PortLease, PortMapping, protocol_of
from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit, parsed, same_protocol
from punch.wire.port_mapping import (
    SERVER_PORT,
    AddressAnswer,
    Answer,
    PcpAnswer,
    UpnpGrant,
    UpnpRequest,
    parse,
)

RELEASE_AGAIN = 0.05
"""
Seconds after which a request to delete a mapping is sent once more. Its answer is not waited for, so a lost
one would not be noticed.
"""
MAX_TCP_PORTS = 8
"""How many TCP ports are mapped at a time, since routers have room for few mappings."""


@dataclass(frozen=True)
class SentRequests:
    """
    What routers were sent by one protocol.

    :ivar packets: datagrams.
    :ivar bytes: the bytes that they had, with IP and UDP headers.
    :ivar requests: requests of UPnP over TCP, whose packets another library sends.
    """

    packets: int = 0
    bytes: int = 0
    requests: int = 0


@dataclass(frozen=True)
class Mapped:
    """Event: a port was mapped, or its external address is another one now."""

    mapping: PortMapping


@dataclass(frozen=True)
class Unmapped:
    """Event: a mapping has expired, and the router did not renew it."""

    mapping: PortMapping


Event = Mapped | Unmapped


def mapped_addresses(base: Address, external: Address, seen_at: Collection[str]) -> list[Address]:
    """
    Return the addresses at which a mapped port may be reached: that which the router names, and the same port
    at those which reflectors see. The router may not know its address, or be behind another NAT that passes
    all ports on to it.

    :param seen_at: the IP addresses that reflectors see `base` at.
    """
    hosts = [host for host in dict.fromkeys([external.host, *seen_at]) if _leads_here(host, base)]
    return [same_protocol(host, external.port, base) for host in hosts]


def _leads_here(host: str, base: Address) -> bool:
    ip = parsed(host)
    special = ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified
    return not special and (":" in host) == base.is_ipv6


class PortMapper:
    """
    Keeps a port mapped for each of our sockets whose network has a router that does it.

    In `datagrams_to_send` and `receive_datagram`, a local address stands for the IP address only: requests
    are sent from another socket than the one whose port is mapped.

    :param upnp: whether requests of UPnP can be performed.
    :ivar sent: what routers were sent, by each protocol that was used.
    """

    def __init__(self, random: RandomBytes, *, upnp: bool = False) -> None:
        self.sent: dict[MappingProtocol, SentRequests] = {}
        self._random = random
        self._upnp = upnp
        self._upnp_requests: list[UpnpRequest] = []
        self._leases: dict[Address, PortLease] = {}
        # The TCP ports to map; those without a lease wait for the mapping of a UDP port
        self._tcp: list[Address] = []
        self._epochs: dict[tuple[str, bool], _Epoch] = {}
        self._output: list[Transmit] = []
        # Releases that are sent once more, and when
        self._releases: deque[tuple[float, Transmit]] = deque()
        self._events: deque[Event] = deque()

    @property
    def mappings(self) -> list[PortMapping]:
        """The mappings of UDP and TCP ports that there are now."""
        return [lease.mapping for lease in self._leases.values() if lease.mapping is not None]

    @property
    def may_follow(self) -> bool:
        """Whether a router was asked for a first mapping so short ago that it may come soon."""
        return any(
            lease.mapping is None and lease.is_new
            for lease in self._leases.values()
            if lease.base not in self._tcp
        )

    @property
    def in_use(self) -> set[str]:
        """
        The local IP addresses whose sockets are needed: answers are awaited there, or a request is repeated
        soon.
        """
        asking = {lease.base.host for lease in self._leases.values() if lease.is_asking}
        return asking | {transmit.local.host for _, transmit in self._releases}

    @property
    def is_releasing(self) -> bool:
        """Whether routers are to be told once more to delete mappings."""
        return bool(self._releases)

    def keep(
        self, bases: Collection[Address], gateways: Mapping[str, str], now: float, *, anew: bool = False
    ) -> None:
        """
        Map the ports of these UDP sockets, and of no others, from now on. The mappings of others are
        forgotten: their addresses are gone. So are those of TCP ports at such an IP address, or at another
        router.

        :param bases: the sockets' addresses.
        :param gateways: the router of each local IP address that has one. A socket whose router is not known
            now keeps the mapping that it has.
        :param anew: ask all routers again, since the network may be another one.
        """
        hosts = {base.host for base in bases}
        for base in [base for base in self._tcp if base.host not in hosts]:
            self._tcp.remove(base)
            self._forget(base)
        for base in [base for base in self._leases if base not in bases and base not in self._tcp]:
            self._forget(base)
        for base in bases:
            lease = self._leases.get(base)
            gateway = gateways.get(base.host)
            if gateway is not None and (lease is None or lease.gateway.host != gateway):
                for other in [base, *(other for other in self._tcp if other.host == base.host)]:
                    self._forget(other)
                lease = self._leases[base] = PortLease(
                    base, Address(gateway, SERVER_PORT), self._random, self._upnp
                )
            if lease is not None and anew:
                lease.like_refused_until = now
            if lease is not None and (anew or lease.is_stale(now)):
                lease.ask(now)
        known = {lease.gateway.host for lease in self._leases.values()}
        self._epochs = {key: epoch for key, epoch in self._epochs.items() if key[0] in known}

    def add_tcp(self, base: Address, now: float) -> None:
        """
        Map a TCP port, too, until `remove_tcp`, if the router has mapped a UDP port of the same IP address,
        or does so later, and has not refused a TCP port just before. `MAX_TCP_PORTS` are mapped at most.

        :param base: the address at which somebody listens.
        """
        if base not in self._tcp and len(self._tcp) < MAX_TCP_PORTS:
            self._tcp.append(base)
            self._follow(now)

    def remove_tcp(self, base: Address, now: float) -> None:
        """Nobody listens at this TCP port any more: delete its mapping."""
        if base in self._tcp:
            self._tcp.remove(base)
            lease = self._leases.pop(base, None)
            if lease is not None:
                self._release(lease, now)

    def mapping_of(self, base: Address) -> PortMapping | None:
        """Return the mapping of a port, if there is one."""
        lease = self._leases.get(base)
        return None if lease is None else lease.mapping

    def awaits_tcp(self, base: Address) -> bool:
        """Whether a TCP port without mapping may get one soon."""
        if base not in self._tcp:
            return False
        lease = self._leases.get(base) or self._lease_beside(base)
        return lease is not None and lease.mapping is None and lease.is_new

    def release(self, now: float) -> None:
        """Delete all mappings: each router is told twice, and the answers are not waited for."""
        for lease in self._leases.values():
            self._release(lease, now)
        self._leases.clear()
        self._tcp.clear()

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a datagram that came from `remote` to the IP address of `local`."""
        leases = [each for each in self._leases.values() if each.awaits(remote, local)]
        if remote.port != SERVER_PORT:
            for lease in leases:
                lease.receive_search_answer(data, now)
            return
        answer = parse(data) if leases else None
        if answer is None:
            return
        for lease in leases:
            # The external address is the same for all; a mapping is that of one port
            if self._receive(lease, answer, now) and not isinstance(answer, AddressAnswer):
                break
        self._follow(now)

    def _receive(self, lease: PortLease, answer: Answer, now: float) -> bool:
        before = lease.mapping
        if not lease.receive(answer, now):
            return False
        self._note_refusal(lease)
        epoch = self._epochs.setdefault((lease.gateway.host, isinstance(answer, PcpAnswer)), _Epoch())
        if epoch.restarted(answer.epoch, now):
            # The router has lost its mappings (RFC 6887, section 8.5), and this one was made anew
            for other in self._leases.values():
                if other is not lease and other.gateway == lease.gateway:
                    other.ask(now)
        if lease.mapping is not None and lease.mapping != before:
            self._events.append(Mapped(lease.mapping))
        return True

    def upnp_requests(self) -> list[UpnpRequest]:
        """Return the requests of UPnP to perform now. Each gets a result, by `receive_upnp`."""
        requests, self._upnp_requests = self._upnp_requests, []
        for lease in self._leases.values():
            requests += lease.upnp_requests()
        if requests:
            sent = self.sent.get(MappingProtocol.UPNP, SentRequests())
            self.sent[MappingProtocol.UPNP] = replace(sent, requests=sent.requests + len(requests))
        return requests

    def receive_upnp(self, request: UpnpRequest, grant: UpnpGrant | None, now: float) -> None:
        """
        Process the result of a request of UPnP.

        :param grant: None: no port is mapped.
        """
        lease = self._leases.get(request.internal)
        before = None if lease is None else lease.mapping
        if lease is not None and lease.receive_upnp(request, grant, now):
            self._note_refusal(lease)
            if lease.mapping is not None and lease.mapping != before:
                self._events.append(Mapped(lease.mapping))
            self._follow(now)
        elif grant is not None and (before is None or before.external.port != grant.external.port):
            # Nobody needs it any more
            self._upnp_requests.append(UpnpRequest(request.url, request.internal, grant.external.port, 0))

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """Return the datagrams to send now."""
        self.handle_timer(now)
        output, self._output = self._output, []
        for data, remote, _ in output:
            method = protocol_of(data, remote)
            sent = self.sent.get(method, SentRequests())
            size = sent.bytes + len(data) + HEADERS[remote.is_ipv6]
            self.sent[method] = replace(sent, packets=sent.packets + 1, bytes=size)
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        again = self._releases[0][0] if self._releases else None
        return earliest([again, *(lease.get_timer() for lease in self._leases.values())])

    def handle_timer(self, now: float) -> None:
        """Send what is due, and end mappings that have expired."""
        for lease in self._leases.values():
            expired = lease.expire(now)
            if expired is not None:
                self._events.append(Unmapped(expired))
            self._output += lease.requests(now)
        while self._releases and now >= self._releases[0][0]:
            _, transmit = self._releases.popleft()
            if transmit.local not in self._leases:
                self._output.append(transmit)

    def next_event(self) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

    def _follow(self, now: float) -> None:
        """Ask for the TCP ports that wait for the mapping of a UDP port which there is now."""
        for base in self._tcp:
            found = self._lease_beside(base)
            if base not in self._leases and found is not None and found.may_be_followed(now):
                lease = self._leases[base] = PortLease(base, found.gateway, self._random, self._upnp, found)
                lease.ask(now)

    def _note_refusal(self, lease: PortLease) -> None:
        """Ask for no other TCP port soon if the router has just refused this one."""
        beside = self._lease_beside(lease.base) if lease.base in self._tcp else None
        if beside is not None and lease.refused_until is not None:
            beside.like_refused_until = lease.refused_until

    def _lease_beside(self, base: Address) -> PortLease | None:
        """Return the lease of the UDP port at the IP address of a TCP port."""
        udp = (lease for lease in self._leases.values() if lease.base not in self._tcp)
        return next((lease for lease in udp if lease.base.host == base.host), None)

    def _release(self, lease: PortLease, now: float) -> None:
        requests = lease.release()
        self._output += requests
        self._releases += [(now + RELEASE_AGAIN, request) for request in requests]
        self._upnp_requests += lease.release_by_upnp()

    def _forget(self, base: Address) -> None:
        lease = self._leases.pop(base, None)
        if lease is not None and lease.mapping is not None:
            self._events.append(Unmapped(lease.mapping))


class _Epoch:
    """The seconds that a router says it has had its mappings for (RFC 6887, section 8.5)."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._quiet_until = float("-inf")

    def restarted(self, epoch: int, now: float) -> bool:
        """
        Whether it has lost them since the last answer: its time and ours have not gone on alike. That is said
        at most every `CONFIRM` seconds: the time of some routers never goes on alike.
        """
        last, self._last = self._last, (epoch, now)
        if last is None:
            return False
        theirs, ours = epoch - last[0], now - last[1]
        alike = theirs >= -1 and ours + 2 >= theirs - theirs / 16 and theirs + 2 >= ours - ours / 16
        if alike or now < self._quiet_until:
            return False
        self._quiet_until = now + CONFIRM
        return True

"""
Asks the router for UDP ports that lead to our sockets, by PCP (RFC 6887) and NAT-PMP (RFC 6886).

A sans-I/O core. A mapped port is reachable from everywhere, whatever the NAT does to other datagrams, so it
becomes a server-reflexive candidate of its socket. Nothing waits for the router: most do not answer.

Both protocols are asked at once, in a way that makes one mapping only: PCP for the mapping, NAT-PMP for no
more than the external address. NAT-PMP is asked for the mapping when the router refuses PCP, or has answered
NAT-PMP and left `PATIENCE` requests of PCP unanswered. IPv6 has PCP only, which opens a firewall (RFC 6887,
section 11.4).

Only answers of the gateway to requests that are under way count, each once, and those of PCP need the nonce
of the mapping. They are not authenticated otherwise: a host of the same network can forge the gateway's
address. What it gains is a wrong candidate, which no data is sent to, since nothing answers checks there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit, parsed
from punch.wire.port_mapping import (
    SERVER_PORT,
    SUCCESS,
    AddressAnswer,
    Answer,
    MappingAnswer,
    PcpAnswer,
    nat_pmp_address_request,
    nat_pmp_map_request,
    parse,
    pcp_map_request,
)

LIFETIME = 7200
"""Seconds for which a mapping is requested (RFC 6886, section 3.3)."""
SHORTEST = 20
"""Seconds of the shortest lifetime that is accepted. To keep a shorter one would take too many requests."""
LONGEST = 86400
"""Seconds of the longest lifetime that is believed (RFC 6887, section 15)."""
FIRST_WAIT = 0.25
"""Seconds until a request is sent again; twice as long each time (RFC 6886, section 3.1)."""
TRIES = 5
"""How often a request is sent: after 0, 0.25, 0.75, 1.75 and 3.75 s."""
PATIENCE = 2
"""Requests of PCP that may stay unanswered before NAT-PMP, which has been answered, is used."""
SOON = 3
"""How many requests are sent while the first answer is still likely to come: for 1.75 s."""
CONFIRM = 30.0
"""
Seconds for which a mapping is believed in. After that, the next call has it renewed, since the router may
have restarted.
"""
RETRY = 600.0
"""Seconds after which the next call has a router asked again that refused, or did not answer."""


class Method(str, Enum):
    """The protocol by which a port was mapped."""

    PCP = "pcp"
    NAT_PMP = "nat-pmp"


class _Question(Enum):
    PCP_MAP = "PCP MAP"
    ADDRESS = "NAT-PMP external address"
    MAPPING = "NAT-PMP map UDP"


@dataclass(frozen=True)
class PortMapping:
    """
    A port of the router that leads to one of our sockets.

    :ivar base: the socket's address.
    :ivar external: what the router says that the port's address is. It may be private, where there is another
        NAT, or wrong. For a firewall without NAT, it is `base`.
    """

    base: Address
    external: Address
    method: Method


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
    return [Address(host, external.port) for host in hosts]


def _leads_here(host: str, base: Address) -> bool:
    ip = parsed(host)
    special = ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified
    return not special and (":" in host) == base.is_ipv6


class PortMapper:
    """
    Keeps a port mapped for each of our sockets whose network has a router that does it.

    In `datagrams_to_send` and `receive_datagram`, a local address stands for the IP address only: requests
    are sent from another socket than the one whose port is mapped.
    """

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._leases: dict[Address, _Lease] = {}
        self._epochs: dict[tuple[str, bool], _Epoch] = {}
        self._output: list[Transmit] = []
        self._events: deque[Event] = deque()

    @property
    def mappings(self) -> list[PortMapping]:
        """The mappings that there are now."""
        return [lease.mapping for lease in self._leases.values() if lease.mapping is not None]

    @property
    def may_follow(self) -> bool:
        """Whether a router was asked for a first mapping so short ago that it may come soon."""
        return any(lease.mapping is None and lease.is_new for lease in self._leases.values())

    @property
    def awaiting(self) -> set[str]:
        """The local IP addresses at which answers are awaited."""
        return {lease.base.host for lease in self._leases.values() if lease.is_asking}

    def keep(
        self, bases: Collection[Address], gateways: Mapping[str, str], now: float, *, anew: bool = False
    ) -> None:
        """
        Map the ports of these sockets, and of no others, from now on. The mappings of others are forgotten:
        their addresses are gone.

        :param bases: the sockets' addresses.
        :param gateways: the router of each local IP address that has one. A socket whose router is not known
            now keeps the mapping that it has.
        :param anew: ask all routers again, since the network may be another one.
        """
        for base in [base for base in self._leases if base not in bases]:
            self._forget(base)
        for base in bases:
            lease = self._leases.get(base)
            gateway = gateways.get(base.host)
            if gateway is not None and (lease is None or lease.gateway.host != gateway):
                self._forget(base)
                lease = self._leases[base] = _Lease(base, Address(gateway, SERVER_PORT), self._random)
            if lease is not None and (anew or lease.is_stale(now)):
                lease.ask(now)
        known = {lease.gateway.host for lease in self._leases.values()}
        self._epochs = {key: epoch for key, epoch in self._epochs.items() if key[0] in known}

    def release(self) -> None:
        """Delete all mappings: each router is told once, and the answers are not waited for."""
        for lease in self._leases.values():
            self._output += lease.release()
        self._leases.clear()

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a datagram that came from `remote` to the IP address of `local`."""
        lease = next((each for each in self._leases.values() if each.awaits(remote, local)), None)
        answer = None if lease is None else parse(data)
        if lease is None or answer is None:
            return
        before = lease.mapping
        if not lease.receive(answer, now):
            return
        epoch = self._epochs.setdefault((lease.gateway.host, isinstance(answer, PcpAnswer)), _Epoch())
        if epoch.restarted(answer.epoch, now):
            # The router has lost its mappings (RFC 6887, section 8.5), and this one was made anew
            for other in self._leases.values():
                if other is not lease and other.gateway == lease.gateway:
                    other.ask(now)
        if lease.mapping is not None and lease.mapping != before:
            self._events.append(Mapped(lease.mapping))

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """Return the datagrams to send now."""
        self.handle_timer(now)
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        return earliest([lease.get_timer() for lease in self._leases.values()])

    def handle_timer(self, now: float) -> None:
        """Send what is due, and end mappings that have expired."""
        for lease in self._leases.values():
            expired = lease.expire(now)
            if expired is not None:
                self._events.append(Unmapped(expired))
            self._output += lease.requests(now)

    def next_event(self) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        return self._events.popleft() if self._events else None

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


class _Lease:
    """The mapping of one socket at one gateway: asked for, held, or refused."""

    def __init__(self, base: Address, gateway: Address, random: RandomBytes) -> None:
        self.base = base
        self.gateway = gateway
        self.mapping: PortMapping | None = None
        self._nonce = random(12)
        self._early = 0.875 + random(1)[0] / 2048
        self._address: str | None = None
        self._asked: set[_Question] = set()
        self._tries = 0
        self._next_at: float | None = None
        self._granted_at = 0.0
        self._expires_at: float | None = None
        self._renew_at: float | None = None
        self._retry_at: float | None = None
        self._retry_wait = RETRY

    def is_stale(self, now: float) -> bool:
        """Whether the router is to be asked because somebody needs the mapping now."""
        if self._next_at is not None:
            return False
        if self.mapping is not None:
            return now >= self._granted_at + CONFIRM
        return self._retry_at is None or now >= self._retry_at

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asked)

    @property
    def is_new(self) -> bool:
        """Whether an answer is awaited, and not for long."""
        return self.is_asking and self._tries <= SOON

    def ask(self, now: float) -> None:
        """Ask for the mapping, or for its renewal."""
        self._next_at = now
        self._tries = 0
        self._address = self._renew_at = None
        self._retry_wait = RETRY
        method = None if self.mapping is None else self.mapping.method
        if method is Method.PCP or self.base.is_ipv6:
            self._asked = {_Question.PCP_MAP}
        elif method is Method.NAT_PMP:
            self._asked = {_Question.ADDRESS}
        else:
            self._asked = {_Question.PCP_MAP, _Question.ADDRESS}

    def awaits(self, remote: Address, local: Address) -> bool:
        """Whether an answer that came from `remote` to `local` may be for this mapping."""
        server = self.gateway.host.partition("%")[0], self.gateway.port
        return remote == server and local.host == self.base.host and self.is_asking

    def receive(self, answer: Answer, now: float) -> bool:
        """Take an answer. Returns False if it answers nothing that is asked now."""
        if isinstance(answer, PcpAnswer):
            if _Question.PCP_MAP not in self._asked or answer.nonce not in (b"", self._nonce):
                return False
            if answer.nonce and answer.internal_port != self.base.port:
                return False
            self._take_pcp(answer, now)
        elif isinstance(answer, AddressAnswer):
            if _Question.ADDRESS not in self._asked:
                return False
            self._take_address(answer, now)
        else:
            if _Question.MAPPING not in self._asked:
                return False
            if answer.result == SUCCESS and answer.internal_port != self.base.port:
                return False
            self._take_mapping(answer, now)
        return True

    def get_timer(self) -> float | None:
        return earliest((self._next_at, self._renew_at, self._expires_at))

    def expire(self, now: float) -> PortMapping | None:
        """Return the mapping if it has just expired."""
        if self._expires_at is None or now < self._expires_at:
            return None
        expired, self.mapping = self.mapping, None
        self._expires_at = self._renew_at = None
        return expired

    def requests(self, now: float) -> list[Transmit]:
        """Return the requests to send now."""
        if self._renew_at is not None and now >= self._renew_at and self._next_at is None:
            self.ask(now)
        if self._next_at is None or now < self._next_at:
            return []
        if self._tries >= PATIENCE and _Question.PCP_MAP in self._asked and self._address is not None:
            self._ask_for_mapping(now)
        if self._tries == TRIES:
            self._end(now)
            return []
        self._next_at = now + FIRST_WAIT * 2**self._tries
        self._tries += 1
        return [self._transmit(self._request(question)) for question in _Question if question in self._asked]

    def release(self) -> list[Transmit]:
        """Return what deletes the mapping (RFC 6887, section 15; RFC 6886, section 3.4)."""
        if self.mapping is None:
            return []
        if self.mapping.method is Method.PCP:
            return [self._transmit(pcp_map_request(self._nonce, self.base.host, self.base.port, None, 0))]
        return [self._transmit(nat_pmp_map_request(self.base.port, 0, 0))]

    def _transmit(self, data: bytes) -> Transmit:
        return Transmit(data, self.gateway, self.base)

    def _request(self, question: _Question) -> bytes:
        external = None if self.mapping is None else self.mapping.external
        port = self.base.port if external is None else external.port
        if question is _Question.ADDRESS:
            return nat_pmp_address_request()
        if question is _Question.MAPPING:
            return nat_pmp_map_request(self.base.port, port, LIFETIME)
        suggested = external or Address("::" if self.base.is_ipv6 else "0.0.0.0", port)
        return pcp_map_request(self._nonce, self.base.host, self.base.port, suggested, LIFETIME)

    def _take_pcp(self, answer: PcpAnswer, now: float) -> None:
        if answer.result == SUCCESS and answer.external is not None:
            self._granted(answer.external, answer.lifetime, Method.PCP, now)
            return
        self._asked.discard(_Question.PCP_MAP)
        if answer.nonce:
            # How long the server will go on to refuse (RFC 6887, section 7.2)
            self._retry_wait = max(RETRY, min(answer.lifetime, LONGEST))
        if self._address is not None:
            self._ask_for_mapping(now)
        elif not self._asked:
            self._end(now)

    def _take_address(self, answer: AddressAnswer, now: float) -> None:
        self._asked.discard(_Question.ADDRESS)
        self._address = answer.host
        if not self._asked:
            if answer.host is None:
                # Without an external address there is nothing to map: the router is not connected, say.
                self._end(now)
            else:
                self._ask_for_mapping(now)

    def _ask_for_mapping(self, now: float) -> None:
        """NAT-PMP is what this router has: ask it for the mapping."""
        self._asked = {_Question.MAPPING}
        self._next_at = now
        self._tries = 0

    def _take_mapping(self, answer: MappingAnswer, now: float) -> None:
        if answer.result != SUCCESS or self._address is None:
            self._end(now)
            return
        external = Address(self._address, answer.external_port)
        self._granted(external, answer.lifetime, Method.NAT_PMP, now)

    def _granted(self, external: Address, lifetime: int, method: Method, now: float) -> None:
        if lifetime < SHORTEST or not external.port or external.is_ipv6 != self.base.is_ipv6:
            self._end(now)
            return
        lifetime = min(lifetime, LONGEST)
        self._asked.clear()
        self._next_at = None
        self._granted_at = now
        self._expires_at = now + lifetime
        self._renew_at = now + self._early * lifetime / 2
        self.mapping = PortMapping(self.base, external, method)

    def _end(self, now: float) -> None:
        """No answer, or no useful one: a mapping that there is stays until it expires."""
        self._asked.clear()
        self._next_at = None
        self._retry_at = now + self._retry_wait
        if self._expires_at is not None:
            self._renew_at = now + max(SHORTEST / 2, (self._expires_at - now) / 2)

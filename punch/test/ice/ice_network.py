"""
A small network in virtual time that connects ICE agents, for the tests of `punch.ice`.

The simulated internet (`punch.test.internet`) runs whole systems; this one has hosts, NATs and loss only, and
carries the datagrams of ICE agents.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from punch.ice.agent import Agent
from punch.ice.budget import Budget
from punch.ice.checks import IceCredentials
from punch.ice.events import Event, Selected
from punch.ice.pairs import Pair
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate
from punch.wire.stun import Attribute, encode, parse, success

REFLECTOR = Address("198.51.100.1", 3478)
"""The address on the public side that answers Binding requests."""


@dataclass
class NAT:
    """
    A NAT of RFC 4787, for IPv4.

    :param mapping: "EIM" or "APDM".
    :param filtering: "EIF", "ADF" or "APDF".
    :param rewrites: whether unsolicited packets come in with the NAT's own address as their source, as from
        the proxies in front of containers.
    :param takes: whether the NAT takes unsolicited packets as its own. It remembers their sender, and what
        its host sends there later leaves from another port.
    """

    public: str
    mapping: str = "EIM"
    filtering: str = "APDF"
    hairpin: bool = False
    rewrites: bool = False
    takes: bool = False
    ports: count[int] = field(default_factory=lambda: count(40001))
    mappings: dict[tuple[Address, Address | None], int] = field(default_factory=dict)
    inside: dict[int, Address] = field(default_factory=dict)
    contacted: dict[int, set[Address]] = field(default_factory=dict)
    rewritten: dict[Address, Address] = field(default_factory=dict)
    taken: set[tuple[int, Address]] = field(default_factory=set)

    def outbound(self, source: Address, target: Address) -> Address:
        """The address as which the world sees `source` when it sends to `target`."""
        key = (source, target if self.mapping == "APDM" else None)
        if (self.mappings.get(key), target) in self.taken:
            key = (source, target)
        if key not in self.mappings:
            port = self.mappings[key] = next(self.ports)
            self.inside[port] = source
            self.contacted[port] = set()
        port = self.mappings[key]
        self.contacted[port].add(target)
        return Address(self.public, port)

    def inbound(self, source: Address, port: int) -> Address | None:
        """The address inside to which a datagram from `source` goes; None if it is dropped."""
        contacted = self.contacted.get(port, set())
        hosts = {address.host for address in contacted}
        allowed = {"EIF": port in self.inside, "ADF": source.host in hosts, "APDF": source in contacted}
        if not allowed[self.filtering]:
            if self.takes:
                self.taken.add((port, source))
            return None
        return self.inside.get(port)

    def source_shown(self, source: Address, port: int) -> Address:
        """The address from which a datagram that was let in at `port` seems to come, inside."""
        shown = Address(self.public, source.port)
        if self.rewrites and source not in self.contacted[port]:
            self.rewritten[shown] = source
        return shown if shown in self.rewritten else source


class Host:
    """An agent with its bases, behind `nat` or on the public side, and the events that it had."""

    def __init__(self, name: str, agent: Agent, bases: list[Address], nat: NAT | None) -> None:
        self.name, self.agent, self.bases, self.nat = name, agent, bases, nat
        self.events: list[tuple[float, Event]] = []
        self.sent: list[tuple[float, Transmit]] = []

    @property
    def path(self) -> Pair:
        """The selected pair. There must be one."""
        selected = self.agent.selected
        if selected is None:
            raise AssertionError(f"{self.name} has no path: {self.events}")
        return selected

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of one type so far."""
        return [event for _, event in self.events if isinstance(event, kind)]

    def when(self, kind: type[Event] = Selected) -> float:
        """When the first event of this type occurred."""
        return next(when for when, event in self.events if isinstance(event, kind))


class IceNetwork:
    """
    Hosts, and the network between them.

    :param delay: one way, in seconds.
    :param loss: the part of datagrams that get lost.
    :param budgets: agents have budgets, as those of nodes do.
    """

    def __init__(
        self, seed: int = 1, delay: float = 0.05, loss: float = 0.0, *, budgets: bool = False
    ) -> None:
        self.random = Random(seed)
        self.delay, self.loss = delay, loss
        self.budgets = budgets
        self.now = 100.0
        self.hosts: list[Host] = []
        self.blocked: Callable[[Address, Address], bool] = lambda source, target: False
        self.loses: Callable[[Transmit], bool] = lambda transmit: False
        """Which datagrams get lost in addition to those that `loss` drops."""
        self.largest: Callable[[Address, Address], int] = lambda source, target: 65535
        """Bytes of the largest datagram that gets from one address to another."""
        self.detour: Callable[[Address, Address], float] = lambda source, target: 0.0
        """How many seconds longer than `delay` it takes between these addresses."""
        self.answered_by: Address | None = None
        """Where all datagrams seem to come from, for the test of asymmetry."""
        self._wire: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def host(
        self,
        name: str,
        *bases: str,
        nat: NAT | None = None,
        controlling: bool = True,
        pacing: float = 0.05,
        regular: bool = False,
        consent: bool = True,
        steady: bool = False,
    ) -> Host:
        """Add a host with these addresses."""
        agent = Agent(
            controlling=controlling,
            credentials=IceCredentials.generate(self.random.randbytes),
            random=self.random.randbytes,
            pacing=pacing,
            nomination="regular" if regular else "renomination",
            consent=consent,
            steady=steady,
            budget=Budget() if self.budgets else None,
        )
        port = 5000 + 1000 * len(self.hosts)
        host = Host(name, agent, [Address(base, port) for base in bases], nat)
        for base in host.bases:
            agent.add_local_address(base)
        self.hosts.append(host)
        return host

    def pair(self, first: Host, second: Host, gather: bool = True) -> None:
        """Gather on both sides, then exchange everything at once."""
        if gather:
            for host in (first, second):
                host.agent.gather([REFLECTOR], self.now)
            self.run(4.0)
        self.introduce(first, second)
        self.introduce(second, first)

    def introduce(self, host: Host, peer: Host, end: bool = True) -> None:
        """
        Tell `host` the credentials and candidates of `peer`; with `end`, that neither has more candidates.
        """
        host.agent.set_remote(peer.agent.credentials, 0.05, self.now)
        for candidate in peer.agent.local_candidates:
            self.tell(host, candidate)
        if end:
            host.agent.end_of_local_candidates()
            host.agent.end_of_remote_candidates()

    def tell(self, host: Host, candidate: Candidate) -> None:
        """Signal a candidate in its text form, as it travels."""
        host.agent.add_remote_candidate(Candidate.parse(str(candidate)), self.now)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        end = self.now + seconds
        self._flush()
        while not until():
            upcoming = [timer for host in self.hosts if (timer := host.agent.get_timer()) is not None]
            upcoming += [self._wire[0][0]] if self._wire else []
            if not upcoming or min(upcoming) > end:
                break
            then = min(upcoming)
            self.now = max(self.now, then)
            while self._wire and self._wire[0][0] <= self.now:
                _, _, work = heapq.heappop(self._wire)
                work()
                self._flush()
            for host in self.hosts:
                host.agent.handle_timer(self.now)
            self._flush()
        else:
            return
        self.now = end

    def connected(self) -> bool:
        """Whether every host has a path."""
        return all(host.agent.selected is not None for host in self.hosts)

    def inject(self, host: Host, data: bytes, source: Address, base: Address | None = None) -> list[Transmit]:
        """Let `host` receive a datagram from any address, and take what it sends at once."""
        host.agent.receive_datagram(data, source, base or host.bases[0], self.now)
        sent = host.agent.datagrams_to_send(self.now)
        for transmit in sent:
            self._send(host, transmit)
        self._take_events(host)
        return sent

    def _flush(self) -> None:
        for host in self.hosts:
            for transmit in host.agent.datagrams_to_send(self.now):
                self._send(host, transmit)
            self._take_events(host)

    def _take_events(self, host: Host) -> None:
        while (event := host.agent.next_event()) is not None:
            host.events.append((self.now, event))

    def _send(self, host: Host, transmit: Transmit) -> None:
        host.sent.append((self.now, transmit))
        if self.random.random() < self.loss or self.blocked(transmit.local, transmit.remote):
            return
        if self.loses(transmit) or len(transmit.data) > self.largest(transmit.local, transmit.remote):
            return
        data, target, source = transmit
        delay = self.delay + self.detour(source, target)
        inside = self._inside(host.nat, target)
        if inside is not None:
            self._later(delay, lambda: self._arrive(inside, data, source, target))
            return
        if host.nat is not None and not source.is_ipv6:
            target = host.nat.rewritten.get(target, target)
            source = host.nat.outbound(source, target)
        if target == REFLECTOR:
            answer = encode(success(parse(data), (Attribute.XOR_MAPPED_ADDRESS, source)))
            self._later(2 * self.delay, lambda: self._arrive(host, answer, REFLECTOR, transmit.local))
        else:
            self._later(delay, lambda: self._cross(host, data, source, target))

    def _cross(self, sender: Host, data: bytes, source: Address, target: Address) -> None:
        """Pass a datagram of the public side to its target, or to the NAT in front of it."""
        for host in self.hosts:
            nat = host.nat
            if nat is None or target.is_ipv6:
                if target in host.bases:
                    self._arrive(host, data, source, target)
                    return
            elif nat.public == target.host and (nat is not sender.nat or nat.hairpin):
                base = nat.inbound(source, target.port)
                receiver = None if base is None else self._inside(nat, base)
                if receiver is not None and base is not None:
                    self._arrive(receiver, data, nat.source_shown(source, target.port), base)
                return

    def _inside(self, nat: NAT | None, address: Address) -> Host | None:
        if nat is None:
            return None
        return next((other for other in self.hosts if other.nat is nat and address in other.bases), None)

    def _arrive(self, host: Host, data: bytes, source: Address, base: Address) -> None:
        host.agent.receive_datagram(data, self.answered_by or source, base, self.now)

    def _later(self, delay: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._wire, (self.now + delay, next(self._order), work))

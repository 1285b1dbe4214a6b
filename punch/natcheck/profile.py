"""
The behaviour of a NAT or firewall in the terms of RFC 4787, as it follows from observations, and the NAT
profiles that calls use: how the NAT in front of a local address chooses ports.

If the observations leave several answers possible, all of them are kept: with a service that has a single
address, for example, nobody can tell whether mappings depend on the remote address.

`observe` asks all reflectors from one new socket, and the first one from two more, all at once. The answers
show whether a mapping depends on the destination, and in which order the NAT allocates ports. `NatProfiles`
remembers the differences between ports for as long as the network stays the same, so that the step becomes
more certain with each observation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import gcd

from punch.ice.punching.spraying import PortRange, port_range
from punch.ice.reach import is_local
from punch.natcheck.transactions import ReflectorAddresses, Transactions
from punch.wire.address import Address
from punch.wire.peers.nat_profile import (
    MAX_AGE,
    MAX_OBSERVED,
    MAX_PROFILES,
    MAX_STEP,
    Mapping,
    NatProfile,
    PortAssignment,
)


class Filtering(str, Enum):
    """From which remote endpoints packets are let in (RFC 4787, section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Hairpinning(str, Enum):
    """Whether hosts behind the NAT reach each other by its external addresses (RFC 4787, section 6)."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


Mappings = frozenset[Mapping]
Filterings = frozenset[Filtering]
"""The behaviours that the observations leave possible, as in `Mappings`: a single one if it is known."""

ANY_MAPPING: Mappings = frozenset(Mapping)
ANY_FILTERING: Filterings = frozenset(Filtering)

SEQUENTIAL_SPAN = 400
"""
The range of ports in which sequential ones lie, since other hosts take some in between. Six random ports of
64,512 lie so close together once in 10 ** 10 times.
"""
_FEWEST_PORTS = 4
_PORTS = 65536


def mapping_of(
    first: Address | None, second: Address | None, third: Address | None, fourth: Address | None
) -> Mappings:
    """
    The mapping behaviour, from the mapped addresses of one socket (RFC 5780, section 4.3).

    :param first: the address that the service sees at its first address and port; None if not known, as for
        the others.
    :param second: the one that it sees at its second port.
    :param third: the one that it sees at its other address.
    :param fourth: the one that it sees at the second port of its other address.
    """
    by_port = [pair for pair in ((first, second), (third, fourth)) if None not in pair]
    by_address = [pair for pair in ((first, third), (second, fourth)) if None not in pair]
    if any(one != other for one, other in by_port):
        return frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
    possible = set(Mapping)
    if by_port:
        possible.discard(Mapping.ADDRESS_AND_PORT_DEPENDENT)
    if any(one != other for one, other in by_address):
        possible.discard(Mapping.ENDPOINT_INDEPENDENT)
    elif by_address:
        possible = {Mapping.ENDPOINT_INDEPENDENT}
    return frozenset(possible)


def filtering_of(port: bool | None, address: bool | None) -> Filterings:
    """
    The filtering behaviour, from unsolicited datagrams (RFC 5780, section 4.4).

    :param port: whether one arrived from another port of an address that we had sent to; None: not known.
    :param address: whether one arrived from another address; None: not known.
    """
    if address:
        return frozenset({Filtering.ENDPOINT_INDEPENDENT})
    if port is False:
        return frozenset({Filtering.ADDRESS_AND_PORT_DEPENDENT})
    possible = set(Filtering)
    if port:
        possible.discard(Filtering.ADDRESS_AND_PORT_DEPENDENT)
    if address is False:
        possible.discard(Filtering.ENDPOINT_INDEPENDENT)
    return frozenset(possible)


def ports_of(seen: Sequence[tuple[Address, Address]]) -> PortAssignment:
    """The port assignment, from the local and mapped addresses of several new sockets."""
    if len(seen) < _FEWEST_PORTS:
        return PortAssignment.UNKNOWN
    kept = sum(local.port == mapped.port for local, mapped in seen)
    # One of the ports may have been in use already
    if kept >= len(seen) - 1:
        return PortAssignment.PRESERVING
    return (
        PortAssignment.SEQUENTIAL
        if _span(mapped.port for _, mapped in seen) <= SEQUENTIAL_SPAN
        else PortAssignment.RANDOM
    )


def hairpinning_of(arrived: bool, mappings: Mappings, filterings: Filterings) -> Hairpinning:
    """
    Whether the NAT hairpins, from whether a datagram to our own mapped address arrived.

    It was sent by another socket of ours, to whose mapped address we had sent. If mappings depend on the
    destination, it left by an unknown mapping, and a NAT that filters by source does not let it in. So its
    loss is a result only for some behaviours.
    """
    if arrived:
        return Hairpinning.YES
    known = mappings == {Mapping.ENDPOINT_INDEPENDENT} or filterings == {Filtering.ENDPOINT_INDEPENDENT}
    return Hairpinning.NO if known else Hairpinning.UNKNOWN


def _span(ports: Iterable[int]) -> int:
    """The length of the shortest range of ports that contains all of these; the range may wrap around."""
    ordered = sorted(ports)
    gaps = [after - before for before, after in pairwise(ordered)]
    gaps.append(ordered[0] + _PORTS - ordered[-1])
    return _PORTS - max(gaps)


SOCKETS = 3
"""How many new sockets one observation takes."""
NEWEST = 18
"""How many ports are remembered, the newest ones: a NAT may give a subscriber another block later."""
MAX_TAKEN = 16
"""
How many steps apart two ports of a sequence are at most: requests leave all at once, so other hosts take few
ports in between. Within a block of a subscriber (RFC 7422), random ports are near each other, too, but their
differences have no large common divisor.
"""
FEW_TAKEN = 4
"""
The same for differences greater than `MAX_STEP`. It is lower, since many random ports have a small common
divisor.
"""


@dataclass(frozen=True)
class Observation:
    """
    What reflectors saw of new sockets.

    :ivar host: the public IP address.
    :ivar translated: whether there is a NAT.
    :ivar mapping: the mapping behaviours that are possible.
    :ivar sockets: how many sockets were seen, `SOCKETS` at most.
    :ivar kept: how many of these had the same port outside.
    :ivar ports: the external ports, in the order in which they were allocated.
    """

    host: str
    translated: bool
    mapping: Mappings
    kept: int
    sockets: int
    ports: tuple[int, ...]


async def observe(
    transactions: Transactions, host: str, reflectors: ReflectorAddresses
) -> Observation | None:
    """
    Observe the NAT in front of one local IP address.

    :return: None if the first reflector does not answer, or is not on the internet.
    """
    bound = [transactions.bind(host) for _ in range(SOCKETS)]
    sockets = [each for each in bound if each is not None]
    if len(sockets) < SOCKETS or is_local(reflectors.first.host):
        return None
    others = (reflectors.second, reflectors.third, reflectors.fourth)
    # All requests are sent at once, so that other hosts have little time to take ports in between
    asked = [transactions.spawn(transactions.ask(sockets[0], reflectors.first))]
    elsewhere = [
        None if other is None else transactions.spawn(transactions.ask(sockets[0], other)) for other in others
    ]
    asked += [transactions.spawn(transactions.ask(each, reflectors.first)) for each in sockets[1:]]
    first, *more = [await each for each in asked]
    seen = [None if each is None else await each for each in elsewhere]
    if first is None or is_local(first.mapped.host):
        return None
    second, third, fourth = (None if each is None else each.mapped for each in seen)
    fresh = [first, *(each for each in more if each is not None)]
    allocated = [first.mapped, second, third, fourth, *(each.mapped for each in fresh[1:])]
    return Observation(
        first.mapped.host,
        first.mapped != first.local,
        mapping_of(first.mapped, second, third, fourth),
        sum(each.local.port == each.mapped.port for each in fresh),
        len(fresh),
        _ports_in_order(allocated, first.mapped.host),
    )


def _ports_in_order(allocated: Sequence[Address | None], host: str) -> tuple[int, ...]:
    """Return each port of `host` once, in the order of allocation."""
    return tuple(dict.fromkeys(each.port for each in allocated if each is not None and each.host == host))


def difference(before: int, after: int) -> int:
    """Return how far apart two ports are, the shorter way round: -32768 to 32767."""
    return (after - before + _PORTS // 2) % _PORTS - _PORTS // 2


def common_step(differences: Sequence[int]) -> int:
    """
    Return the step of an allocation in sequence, 0 if there is none.

    Other hosts take ports in between, so each difference is a multiple of the step, `MAX_TAKEN` times that at
    most, or `FEW_TAKEN` times if it is large. One in three may be anything: the range of ports has an end,
    and packets may be lost or pass each other.
    """
    return _step_within(differences, MAX_STEP, MAX_TAKEN) or _step_within(
        differences, MAX_STEP * FEW_TAKEN, FEW_TAKEN
    )


def _step_within(differences: Sequence[int], most: int, taken: int) -> int:
    """
    Return the common step of those differences that are not greater than `most`, 0 if there is none.

    :param taken: how many steps two ports of the sequence are apart at most.
    """
    near = [each for each in differences if 0 < abs(each) <= most]
    up = sum(each > 0 for each in near)
    sign = 1 if 2 * up >= len(near) else -1
    alike = [each for each in near if each * sign > 0]
    step = gcd(*alike)
    steps = [each for each in alike if abs(each) <= taken * step]
    if step > MAX_STEP or len(steps) < 2 or 3 * len(steps) < 2 * len(differences):
        return 0
    return sign * step


@dataclass
class _Known:
    host: str
    mapping: Mappings
    at: float
    kept: Counter[bool] = field(default_factory=Counter)
    differences: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_OBSERVED))
    ports: deque[int] = field(default_factory=lambda: deque(maxlen=NEWEST))

    def profile(self, now: float) -> NatProfile:
        """Return the profile as it is now."""
        step = agreeing = 0
        if self.kept[True] > 2 * self.kept[False]:
            ports = PortAssignment.PRESERVING
        elif len(self.differences) < 2:
            ports = PortAssignment.UNKNOWN
        else:
            step = common_step(self.differences)
            agreeing = self.differences.count(step)
            ports = PortAssignment.SEQUENTIAL if step else PortAssignment.RANDOM
        age = min(MAX_AGE, max(0, round(now - self.at)))
        observed = len(self.differences)
        return NatProfile(self.host, self.mapping, ports, step, agreeing, observed, age)


def profile_of(seen: Observation) -> NatProfile | None:
    """Return the profile that a single observation shows."""
    profiles = NatProfiles()
    profiles.add("", seen, 0.0)
    return profiles.of("", 0.0)


class NatProfiles:
    """The profiles of all local IP addresses of a node."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def add(self, local: str, seen: Observation, now: float) -> None:
        """Take an observation that was made from a local IP address."""
        mapping: Mappings = seen.mapping if seen.translated else frozenset()
        known = self._known.get(local)
        if known is None or known.host != seen.host or known.mapping != mapping:
            known = _Known(seen.host, mapping, now)
        known.at = now
        known.kept[True] += seen.kept
        known.kept[False] += seen.sockets - seen.kept
        self._known[local] = known
        self.add_ports(local, seen.ports, now)

    def add_ports(self, local: str, ports: Sequence[int], now: float) -> None:
        """Take the external ports of mappings that were made one after the other."""
        known = self._known.get(local)
        if known is not None:
            known.at = now
            known.differences.extend(difference(*pair) for pair in pairwise(ports))
            known.ports.extend(ports)

    def port_range(self, local: str) -> PortRange | None:
        """Return between which external ports a local IP address was seen; None if too few are known."""
        known = self._known.get(local)
        return None if known is None else port_range(known.ports)

    def keep(self, locals_: Sequence[str]) -> None:
        """Forget all local addresses but these."""
        self._known = {local: self._known[local] for local in locals_ if local in self._known}

    def forget(self) -> None:
        """Forget everything: the network may be another one."""
        self._known.clear()

    def age(self, local: str, now: float) -> float | None:
        """Return how old the profile of a local IP address is, in seconds; None if there is none."""
        known = self._known.get(local)
        return None if known is None else now - known.at

    def of(self, local: str, now: float) -> NatProfile | None:
        """Return the profile of a local IP address."""
        known = self._known.get(local)
        return None if known is None else known.profile(now)

    def current(self, now: float) -> list[NatProfile]:
        """Return all profiles, `MAX_PROFILES` at most, each public IP address once."""
        profiles: dict[str, NatProfile] = {}
        for known in self._known.values():
            profiles.setdefault(known.host, known.profile(now))
        return list(profiles.values())[:MAX_PROFILES]

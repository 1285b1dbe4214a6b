"""
NAT profiles: how the NAT in front of a local address chooses ports, as observed from new sockets.

`observe` asks all reflectors from one new socket, and the first one from two more, all at once. The answers
show whether a mapping depends on the destination, and in which order the NAT allocates ports. `NatProfiles`
remembers the differences between ports for as long as the network stays the same, so that the step becomes
surer with each observation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd

from punch.ice.punching.spraying import PortRange, port_range
from punch.ice.reach import is_local
from punch.natcheck.behaviour import Mappings, mapping_of
from punch.natcheck.transactions import ReflectorAddresses, Transactions
from punch.wire.address import Address
from punch.wire.peers.nat_profile import (
    MAX_AGE,
    MAX_OBSERVED,
    MAX_PROFILES,
    MAX_STEP,
    NatProfile,
    PortAssignment,
)

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
"""The same if differences are greater than `MAX_STEP`: many random ports have a small common divisor."""
_PORTS = 65536


@dataclass(frozen=True)
class Observation:
    """
    What reflectors saw of new sockets.

    :ivar host: the public IP address.
    :ivar translated: whether there is a NAT.
    :ivar kept: how many of the sockets had the same port outside, of `SOCKETS` at most…
    :ivar sockets: …of how many.
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
    # In one go: other hosts have little time to take ports in between
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

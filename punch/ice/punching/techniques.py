"""
By which technique two peers get a direct path: one table, by what both know about their NATs.

docs/nat.md shows the table, and a test compares the two. Both sides look it up with the same two profiles, so
they choose the same technique without asking each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import product
from typing import Final

from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment


class NatClass(str, Enum):
    """What matters about a NAT for the choice."""

    INDEPENDENT = "independent"
    """No NAT, or one port for all destinations, whatever the filtering."""
    PRESERVING = "preserving"
    """The port may depend on the destination; the first mapping of a socket has the socket's port."""
    SEQUENTIAL = "sequential"
    """The port may depend on the destination, and new mappings have ports in sequence."""
    RANDOM = "random"
    """The port depends on the destination, and cannot be predicted."""
    UNKNOWN = "unknown"

    @property
    def predictable(self) -> bool:
        """Whether the port of a new mapping can be told before it is made."""
        return self in (NatClass.PRESERVING, NatClass.SEQUENTIAL)


class Technique(str, Enum):
    """How a direct path is looked for while the link works over a relay."""

    ICE = "ice"
    """Connectivity checks alone (RFC 8445). What they do not find, nothing else here finds either."""
    PREDICTION = "prediction"
    """Each side sends to the ports that the other side's NAT allocates next (`prediction`)."""
    SIMULTANEOUS_OPEN = "simultaneous-open"
    """Both sides send first packets that open only their own NAT (`simultaneous_open`)."""
    SPRAYING = "spraying"
    """Many sockets on one side, many guessed ports on the other (`spraying`)."""
    TCP = "tcp"
    """A connection over TCP, where a network passes no UDP (`punch.node.punching.tcp`): not in the table."""
    RELAY = "relay"
    """The relay is right: a direct path would take more packets than it is worth."""


_ICE, _PREDICTION, _RELAY = Technique.ICE, Technique.PREDICTION, Technique.RELAY
_SIMULTANEOUS_OPEN, _SPRAYING = Technique.SIMULTANEOUS_OPEN, Technique.SPRAYING
TECHNIQUES: Final = {
    (NatClass.INDEPENDENT, NatClass.INDEPENDENT): _SIMULTANEOUS_OPEN,
    (NatClass.INDEPENDENT, NatClass.PRESERVING): _SIMULTANEOUS_OPEN,
    (NatClass.INDEPENDENT, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.INDEPENDENT, NatClass.RANDOM): _SPRAYING,
    (NatClass.PRESERVING, NatClass.PRESERVING): _SIMULTANEOUS_OPEN,
    (NatClass.PRESERVING, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.PRESERVING, NatClass.RANDOM): _SPRAYING,
    (NatClass.SEQUENTIAL, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.SEQUENTIAL, NatClass.RANDOM): _RELAY,
    (NatClass.RANDOM, NatClass.RANDOM): _RELAY,
    **{(nat_class, NatClass.UNKNOWN): _ICE for nat_class in NatClass},
}
"""The technique for each two classes, in either order."""


_EASY = (_SIMULTANEOUS_OPEN, _PREDICTION, _SPRAYING, _ICE, _RELAY)
"""The techniques, those first that find a path most often and with the fewest packets."""


def nat_class(profile: NatProfile | None) -> NatClass:
    """
    Return the class of a NAT.

    If several mapping behaviours are possible, a port that can be predicted is predicted: that does no harm
    if it does not depend on the destination after all. A port that can't be predicted is assumed to be
    independent of the destination, as most are, until attempts have failed
    (`punch.ice.punching.assumed_mapping`).
    """
    if profile is None:
        return NatClass.UNKNOWN
    mapping = profile.mapping
    if not mapping or mapping == {Mapping.ENDPOINT_INDEPENDENT}:
        return NatClass.INDEPENDENT
    if profile.ports is PortAssignment.PRESERVING:
        return NatClass.PRESERVING
    if profile.ports is PortAssignment.SEQUENTIAL:
        return NatClass.SEQUENTIAL
    if Mapping.ENDPOINT_INDEPENDENT in mapping:
        return NatClass.INDEPENDENT
    return NatClass.RANDOM if profile.ports is PortAssignment.RANDOM else NatClass.UNKNOWN


def opens(ours: NatProfile | None, theirs: NatProfile | None, *, controlling: bool) -> bool:
    """
    Whether our side opens and the other one aims. The side whose port is known does not open, and a side with
    random ports does not aim. If neither or both are known, the controlling side aims.
    """
    random, theirs_random = (nat_class(each) is NatClass.RANDOM for each in (ours, theirs))
    if random != theirs_random:
        return random
    known, theirs_known = (nat_class(each) is NatClass.INDEPENDENT for each in (ours, theirs))
    return theirs_known if known != theirs_known else not controlling


def technique_for(one: NatProfile | None, other: NatProfile | None) -> Technique:
    """Return the technique for two peers; their order does not matter."""
    technique = _look_up(nat_class(one), nat_class(other))
    if technique is Technique.SPRAYING and not (_sprays(one) or _sprays(other)):
        return Technique.RELAY
    return technique


def best_pair(
    ours: Sequence[NatProfile], theirs: Sequence[NatProfile], *, controlling: bool
) -> tuple[NatProfile | None, NatProfile | None]:
    """
    Return the profiles between which a path is found most easily, ours and the other side's; None for a side
    that has none.

    :param ours: those of our NATs, that of the most preferred address first, as the other side knows them.
    :param theirs: the same of the other side.
    :param controlling: whether our ICE agent is the controlling one. Both sides choose the same pair.
    """
    if not ours or not theirs:
        return next(iter(ours), None), next(iter(theirs), None)

    def order(places: tuple[int, int]) -> tuple[int, int, int]:
        here, there = places
        one, other = ours[here], theirs[there]
        easy = len(_EASY) if one.host == other.host else _EASY.index(technique_for(one, other))
        return easy, here + there, here if controlling else there

    here, there = min(product(range(len(ours)), range(len(theirs))), key=order)
    return ours[here], theirs[there]


def techniques_with_all(profile: NatProfile) -> dict[NatClass, Technique]:
    """Return the technique for each class that the other side's NAT may have."""
    own = nat_class(profile)
    found = {other: _look_up(own, other) for other in NatClass}
    if own is not NatClass.RANDOM and not _sprays(profile):
        found[NatClass.RANDOM] = Technique.RELAY
    return found


def depends_on_port(profile: NatProfile) -> bool:
    """Whether it is certain that each destination port gets another mapping."""
    return profile.mapping == {Mapping.ADDRESS_AND_PORT_DEPENDENT}


def port_of_socket(profile: NatProfile, local_port: int, seen_port: int | None) -> int | None:
    """
    Return from which port the first packet of a socket to the other side will leave; None if a reflector has
    to be asked for it.

    A NAT that preserves ports gives the socket's own port to the first mapping. So its socket asks none:
    that might take the port.

    :param seen_port: the port that a reflector saw, if it was asked.
    """
    preserved = bool(profile.mapping) and profile.ports is PortAssignment.PRESERVING
    return local_port if preserved or not profile.mapping else seen_port


def _sprays(profile: NatProfile | None) -> bool:
    """Whether the other side may have random ports: guessed ports must see packets from one port of ours."""
    known = nat_class(profile) in (NatClass.INDEPENDENT, NatClass.PRESERVING)
    return known and profile is not None and not depends_on_port(profile)


def _look_up(one: NatClass, other: NatClass) -> Technique:
    return TECHNIQUES.get((one, other)) or TECHNIQUES[other, one]

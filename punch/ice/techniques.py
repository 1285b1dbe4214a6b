"""
By which technique two peers get a direct path: one table, by what both know about their NATs.

docs/nat.md shows the table, and a test compares the two. Both sides look it up with the same two profiles, so
they choose the same technique without asking each other.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from punch.wire.nat_profile import Mapping, NatProfile, PortAssignment


class NatClass(str, Enum):
    """What matters about a NAT for the choice."""

    INDEPENDENT = "independent"
    """No NAT, or one port for all destinations, whatever the filtering."""
    PRESERVING = "preserving"
    """The port may depend on the destination; a new mapping has the port of the socket or the next one."""
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
    """Each side sends to the ports that the other side's NAT allocates next (`punch.ice.prediction`)."""
    RELAY = "relay"
    """The relay is right: a direct path would take more packets than it is worth."""


_ICE, _PREDICTION, _RELAY = Technique.ICE, Technique.PREDICTION, Technique.RELAY
TECHNIQUES: Final = {
    (NatClass.INDEPENDENT, NatClass.INDEPENDENT): _ICE,
    (NatClass.INDEPENDENT, NatClass.PRESERVING): _PREDICTION,
    (NatClass.INDEPENDENT, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.INDEPENDENT, NatClass.RANDOM): _RELAY,
    (NatClass.PRESERVING, NatClass.PRESERVING): _PREDICTION,
    (NatClass.PRESERVING, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.PRESERVING, NatClass.RANDOM): _RELAY,
    (NatClass.SEQUENTIAL, NatClass.SEQUENTIAL): _PREDICTION,
    (NatClass.SEQUENTIAL, NatClass.RANDOM): _RELAY,
    (NatClass.RANDOM, NatClass.RANDOM): _RELAY,
    **{(nat_class, NatClass.UNKNOWN): _ICE for nat_class in NatClass},
}
"""The technique for each two classes, in either order."""


def nat_class(profile: NatProfile | None) -> NatClass:
    """
    Return the class of a NAT.

    If several mapping behaviours are possible, a port that can be predicted is predicted: that does no harm
    if it does not depend on the destination after all. One that can't be is taken for independent, as most
    are.
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
    Whether our side opens, and the other one aims: the one whose port is known opens nothing. If neither or
    both are known, the controlling side aims.
    """
    known, theirs_known = (nat_class(each) is NatClass.INDEPENDENT for each in (ours, theirs))
    return theirs_known if known != theirs_known else not controlling


def technique_for(one: NatProfile | None, other: NatProfile | None) -> Technique:
    """Return the technique for two peers; their order does not matter."""
    classes = nat_class(one), nat_class(other)
    return TECHNIQUES.get(classes) or TECHNIQUES[classes[1], classes[0]]


def techniques_with_all(profile: NatProfile) -> dict[NatClass, Technique]:
    """Return the technique for each class that the other side's NAT may have."""
    own = nat_class(profile)
    return {other: TECHNIQUES.get((own, other)) or TECHNIQUES[other, own] for other in NatClass}

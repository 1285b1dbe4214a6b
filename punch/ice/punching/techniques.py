"""
By which technique two peers get a direct path: one table, by what both know about their NATs.

docs/nat.md shows the table, and a test compares the two. Both sides look it up with the same two profiles, so
they choose the same technique without asking each other.

Without a second address and a second port, reflectors can't tell whether random ports depend on the
destination. Such a mapping is assumed to be independent, as most are, and both sides open simultaneously. If
that fails again and again, the mapping may depend on the destination after all. Then the side says so about
its NAT (`AssumedMapping`), and both sides choose spraying. If both sides can't tell, they take turns, the
controlling side first, and each of them has one attempt. The other side may refuse all attempts by spraying,
and need not say so. So an assumption ends if no attempt follows it, and both open simultaneously again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    independent of the destination, as most are, until attempts have failed (`AssumedMapping`).
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
    """
    Whether the other side may have random ports: all of the guessed ports must see packets from the same port
    of ours.
    """
    known = nat_class(profile) in (NatClass.INDEPENDENT, NatClass.PRESERVING)
    return known and profile is not None and not depends_on_port(profile)


def _look_up(one: NatClass, other: NatClass) -> Technique:
    return TECHNIQUES.get((one, other)) or TECHNIQUES[other, one]


SIMULTANEOUS_OPENS: Final = 4
"""How many simultaneous opens must have failed before a mapping is assumed to depend on the destination."""
LAST_OPENS: Final = 2 * SIMULTANEOUS_OPENS
"""After how many simultaneous opens the turn of the other side is over, since it may not be able to spray."""
LIFETIME: Final = 90.0
"""Seconds after which an assumption ends if no packet of an attempt by spraying was sent."""


class AssumedMapping:
    """
    What one side assumes about its NAT, on one link, as long as both sides stay in the same networks.

    :ivar host: the public IP address of the NAT whose mapping is taken for one that depends on the
        destination; None if nothing is assumed.
    :ivar until: when the assumption ends unless an attempt by spraying is made; None if it does not end.
    """

    def __init__(self) -> None:
        self.host: str | None = None
        self.until: float | None = None
        self._opens = self._sprays = 0
        # Whether both sides have had their turn, whether the other side has begun its own, and whether the
        # path of the link before was already a reason for an assumption
        self._over = self._theirs_began = self._remembered = False
        # Whether spraying has found a path of this link, and whether one of the link before is the reason
        self._certain = self._early = False

    @property
    def dependent(self) -> bool:
        """Whether a mapping is taken for one that depends on the destination."""
        return self.host is not None

    def sprayed(self, now: float) -> None:
        """A packet of an attempt by spraying was sent: an assumption lasts until that has ended."""
        if self.until is not None:
            self.until = now + LIFETIME

    def found(self) -> None:
        """Spraying has found a path."""
        if self.dependent:
            self._certain, self._early, self.until = True, False, None

    def failed(self, technique: Technique, ours: NatProfile | None) -> None:
        """
        An attempt by this technique, in which packets were sent, has found no path.

        :param ours: what was said of our NAT when it began. It may be over only after that of the other side,
            so that an assumption begins meanwhile.
        """
        self._opens += technique is Technique.SIMULTANEOUS_OPEN
        if technique is Technique.SPRAYING and nat_class(ours) is NatClass.RANDOM:
            self._sprays += 1
            self.until = None

    def handle_timer(self, now: float) -> bool:
        """End the assumption if it is time; returns whether it has ended."""
        if self.until is None or now < self.until:
            return False
        self._end()
        self._opens = 0
        return True

    def review(
        self,
        ours: NatProfile,
        theirs: NatProfile,
        now: float,
        *,
        controlling: bool,
        possible: bool = True,
        remembered: bool = False,
    ) -> None:
        """
        Decide anew, after an attempt or when the other side has said something new about its NAT.

        :param ours: what is known of our NAT.
        :param theirs: what the other side says of its own.
        :param controlling: whether our ICE agent is the controlling one.
        :param possible: whether we can spray, and want to.
        :param remembered: whether spraying found the path of the link before.
        """
        self._theirs_began |= nat_class(theirs) is NatClass.RANDOM
        if not is_uncertain(ours) or not possible:
            self._end()
        elif self.dependent:
            if self._sprays and self._early:
                # The NAT may be another one than on the link before, so begin anew
                self._end()
                self._opens = 0
            elif self._sprays and is_uncertain(theirs):
                self._end()
                self._over = True
        elif not self._over and technique_for(dependent(ours), theirs) is Technique.SPRAYING:
            early = remembered and not self._remembered and not is_uncertain(theirs)
            if early or (self._opens >= SIMULTANEOUS_OPENS and self._is_our_turn(theirs, controlling)):
                self.host, self._sprays = ours.host, 0
                self.until = None if self._certain else now + LIFETIME
                self._early = early
                self._remembered |= early

    def applied(self, profiles: Sequence[NatProfile]) -> tuple[NatProfile, ...]:
        """Return our profiles with the assumption about one of them."""
        return tuple(dependent(each) if each.host == self.host else each for each in profiles)

    def _is_our_turn(self, theirs: NatProfile, controlling: bool) -> bool:
        first = controlling or not is_uncertain(theirs)
        return first or self._theirs_began or self._opens >= LAST_OPENS

    def _end(self) -> None:
        self.host, self.until, self._early = None, None, False


def is_uncertain(profile: NatProfile) -> bool:
    """Whether ports are random, and it is not known whether they depend on the destination."""
    several = len(profile.mapping) > 1 and Mapping.ENDPOINT_INDEPENDENT in profile.mapping
    return several and profile.ports is PortAssignment.RANDOM


def dependent(profile: NatProfile) -> NatProfile:
    """Return the profile of a NAT that is taken for one whose ports depend on the destination."""
    return replace(profile, mapping=profile.mapping - {Mapping.ENDPOINT_INDEPENDENT})

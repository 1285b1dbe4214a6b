"""
What a side assumes about its NAT if reflectors can't tell whether random ports depend on the destination.

To tell, a reflector needs a second address and a second port. Without them, a mapping with random ports is
assumed to be independent, as most are, and both sides open simultaneously. If that fails again and again, the
mapping may depend on the destination after all. Then the side says so about its NAT, and both sides choose
spraying (`punch.ice.punching.techniques`). If both can't tell, they take turns, the controlling side first,
and each of them has one attempt.

The other side may refuse all attempts by spraying, and need not say so. So an assumption after which none is
made ends, and both open simultaneously again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from punch.ice.punching.techniques import NatClass, Technique, nat_class, technique_for
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

SIMULTANEOUS_OPENS: Final = 4
"""How many simultaneous opens must have failed."""
LAST_OPENS: Final = 2 * SIMULTANEOUS_OPENS
"""After how many simultaneous opens the turn of the other side is over, since it may not be able to spray."""
LIFETIME: Final = 90.0
"""Seconds after which an assumption ends if no packet of an attempt by spraying was sent."""


class AssumedMapping:
    """
    The assumption of one side, on one link between the same two networks.

    :ivar host: the public IP address of the NAT whose mapping is taken for one that depends on the
        destination; None if nothing is assumed.
    :ivar until: when the assumption ends unless an attempt by spraying is made; None if it does not end.
    """

    def __init__(self) -> None:
        self.host: str | None = None
        self.until: float | None = None
        self._opens = self._sprays = 0
        # Both had their turn, the other side has begun its own, or the last path is no reason any more
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
                # Another NAT, perhaps: from the beginning
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
    """Whether random ports may depend on the destination, or not."""
    several = len(profile.mapping) > 1 and Mapping.ENDPOINT_INDEPENDENT in profile.mapping
    return several and profile.ports is PortAssignment.RANDOM


def dependent(profile: NatProfile) -> NatProfile:
    """Return the profile of a NAT that is taken for one whose ports depend on the destination."""
    return replace(profile, mapping=profile.mapping - {Mapping.ENDPOINT_INDEPENDENT})

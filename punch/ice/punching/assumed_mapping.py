"""
What a side takes its NAT for if reflectors can't tell whether random ports depend on the destination.

That takes a second address of the reflector, and a second port. Without them, a mapping with random ports is
taken for independent, as most are, and both sides open simultaneously. If that fails again and again, the
mapping may depend on the destination after all. Then the side says so of its NAT, by which both sides come to
spraying (`punch.ice.punching.techniques`). If both can't tell, they take turns, the controlling side first,
and each of them has one attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from punch.ice.punching.techniques import NatClass, Technique, nat_class
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

SIMULTANEOUS_OPENS: Final = 4
"""How many simultaneous opens must have failed."""


class AssumedMapping:
    """
    The assumption of one side, on one link between the same two networks.

    :ivar dependent: whether the mapping is taken for one that depends on the destination.
    """

    def __init__(self) -> None:
        self.dependent = False
        self._over = False
        self._opens = self._sprays = 0

    def failed(self, technique: Technique) -> None:
        """An attempt by this technique, in which packets were sent, has found no path."""
        self._opens += technique is Technique.SIMULTANEOUS_OPEN
        self._sprays += technique is Technique.SPRAYING

    def review(self, ours: NatProfile, theirs: NatProfile, *, controlling: bool) -> None:
        """
        Decide anew, after an attempt or when the other side has said something else of its NAT.

        :param ours: what is known of our NAT.
        :param theirs: what the other side says of its own.
        :param controlling: whether our ICE agent is the controlling one.
        """
        if not is_uncertain(ours):
            self.dependent = False
        elif self.dependent:
            if self._sprays and is_uncertain(theirs):
                self.dependent, self._over = False, True
        elif self._opens >= SIMULTANEOUS_OPENS and not self._over:
            if is_uncertain(theirs):
                ready = controlling or self._sprays > 0
            else:
                ready = nat_class(theirs) in (NatClass.INDEPENDENT, NatClass.PRESERVING)
            if ready:
                self.dependent, self._sprays = True, 0

    def applied(self, profiles: Sequence[NatProfile]) -> tuple[NatProfile, ...]:
        """Return our profiles with the assumption about the first one."""
        if not self.dependent or not profiles:
            return tuple(profiles)
        first, *others = profiles
        return replace(first, mapping=first.mapping - {Mapping.ENDPOINT_INDEPENDENT}), *others


def is_uncertain(profile: NatProfile) -> bool:
    """Whether random ports may depend on the destination, or not."""
    several = len(profile.mapping) > 1 and Mapping.ENDPOINT_INDEPENDENT in profile.mapping
    return several and profile.ports is PortAssignment.RANDOM

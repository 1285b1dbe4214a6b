"""What a side takes its NAT for if reflectors can't tell."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.assumed_mapping import SIMULTANEOUS_OPENS, AssumedMapping, is_uncertain
from punch.ice.punching.techniques import Technique, technique_for
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

EITHER = frozenset({Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT})
UNCERTAIN = NatProfile("203.0.113.1", EITHER, PortAssignment.RANDOM)
INDEPENDENT = replace(UNCERTAIN, mapping=frozenset({Mapping.ENDPOINT_INDEPENDENT}))
RANDOM = replace(UNCERTAIN, mapping=frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT}))
OPEN = NatProfile("203.0.113.2")


class Side:
    """One of two sides."""

    def __init__(self, observed: NatProfile, *, controlling: bool) -> None:
        self.observed = observed
        self.assumed = AssumedMapping()
        self._controlling = controlling

    @property
    def said(self) -> NatProfile:
        """What it says of its NAT."""
        return self.assumed.applied([self.observed])[0]

    def failed(self, technique: Technique, other: Side) -> None:
        """An attempt has failed."""
        self.assumed.failed(technique)
        self.review(other)

    def review(self, other: Side) -> None:
        """It hears what the other one says."""
        self.assumed.review(self.observed, other.said, controlling=self._controlling)


class AssumedMappingTests(SynchronousTestCase):
    """The assumptions of two sides."""

    def techniques(self, one: NatProfile, other: NatProfile, attempts: int) -> list[tuple[Technique, bool]]:
        """By which technique each attempt is made, and whether the first side's ports are guessed in it."""
        sides = Side(one, controlling=True), Side(other, controlling=False)
        found = []
        for _ in range(attempts):
            technique = technique_for(sides[0].said, sides[1].said)
            self.assertIs(technique, technique_for(sides[1].said, sides[0].said))
            found.append((technique, sides[0].assumed.dependent))
            self.assertFalse(all(side.assumed.dependent for side in sides))
            for side, there in (sides, sides[::-1]):
                side.failed(technique, there)
            for side, there in (sides, sides[::-1]):
                side.review(there)
        return found

    def test_one_side(self) -> None:
        """It goes on spraying, if the other side's port is known."""
        opens = [(Technique.SIMULTANEOUS_OPEN, False)] * SIMULTANEOUS_OPENS
        for known in (INDEPENDENT, OPEN, replace(UNCERTAIN, ports=PortAssignment.PRESERVING)):
            expected = [*opens, *[(Technique.SPRAYING, True)] * 3]
            self.assertEqual(self.techniques(UNCERTAIN, known, len(expected)), expected)

    def test_both_sides(self) -> None:
        """Each of them once, the controlling side first; then both open simultaneously again."""
        opens = [(Technique.SIMULTANEOUS_OPEN, False)]
        sprays = [(Technique.SPRAYING, True), (Technique.SPRAYING, False)]
        expected = [*opens * SIMULTANEOUS_OPENS, *sprays, *opens * 5]
        self.assertEqual(self.techniques(UNCERTAIN, UNCERTAIN, len(expected)), expected)

    def test_nothing_to_gain(self) -> None:
        """If ports of the other side are guessed already, or if it is certain what our NAT does."""
        for one, other in ((UNCERTAIN, RANDOM), (INDEPENDENT, INDEPENDENT), (INDEPENDENT, RANDOM)):
            found = self.techniques(one, other, SIMULTANEOUS_OPENS + 3)
            self.assertEqual({dependent for _, dependent in found}, {False})

    def test_it_is_known_later(self) -> None:
        """Then nothing is assumed any more."""
        side, other = Side(UNCERTAIN, controlling=True), Side(OPEN, controlling=False)
        for _ in range(SIMULTANEOUS_OPENS):
            side.failed(Technique.SIMULTANEOUS_OPEN, other)
        self.assertTrue(side.assumed.dependent)
        self.assertFalse(is_uncertain(side.said))
        side.observed = INDEPENDENT
        side.review(other)
        self.assertEqual(side.said, INDEPENDENT)

"""What a side assumes about its NAT if reflectors can't tell whether ports depend on the destination."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.techniques import (
    LAST_OPENS,
    LIFETIME,
    SIMULTANEOUS_OPENS,
    AssumedMapping,
    Technique,
    dependent,
    is_uncertain,
    technique_for,
)
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
        self.now = 0.0
        self._controlling = controlling

    @property
    def said(self) -> NatProfile:
        """What the side says about its NAT."""
        return self.assumed.applied([self.observed])[0]

    def failed(self, technique: Technique, other: Side, said: NatProfile | None = None) -> None:
        """An attempt has failed. When it began, the side had said this about its NAT."""
        self.assumed.failed(technique, said or self.said)
        self.review(other)

    def review(self, other: Side) -> None:
        """The side hears what the other one says about its NAT."""
        self.assumed.review(self.observed, other.said, self.now, controlling=self._controlling)


class AssumedMappingTests(SynchronousTestCase):
    """The assumptions of two sides."""

    def techniques(self, one: NatProfile, other: NatProfile, attempts: int) -> list[tuple[Technique, bool]]:
        """The technique of each attempt, and whether it guesses ports of the first side."""
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
        """If the port of the other side is known, spraying goes on."""
        opens = [(Technique.SIMULTANEOUS_OPEN, False)] * SIMULTANEOUS_OPENS
        for known in (INDEPENDENT, OPEN, replace(UNCERTAIN, ports=PortAssignment.PRESERVING)):
            expected = [*opens, *[(Technique.SPRAYING, True)] * 3]
            self.assertEqual(self.techniques(UNCERTAIN, known, len(expected)), expected)

    def test_both_sides(self) -> None:
        """Each side has one attempt, the controlling side first. Then both open simultaneously again."""
        opens = [(Technique.SIMULTANEOUS_OPEN, False)]
        sprays = [(Technique.SPRAYING, True), (Technique.SPRAYING, False)]
        expected = [*opens * SIMULTANEOUS_OPENS, *sprays, *opens * 5]
        self.assertEqual(self.techniques(UNCERTAIN, UNCERTAIN, len(expected)), expected)

    def test_nothing_to_gain(self) -> None:
        """
        Nothing is assumed if ports of the other side are guessed already, or if our NAT is known for certain.
        """
        for one, other in ((UNCERTAIN, RANDOM), (INDEPENDENT, INDEPENDENT), (INDEPENDENT, RANDOM)):
            found = self.techniques(one, other, SIMULTANEOUS_OPENS + 3)
            self.assertEqual({dependent for _, dependent in found}, {False})

    def test_it_is_known_later(self) -> None:
        """An assumption ends when the NAT's behaviour becomes known."""
        side, other = Side(UNCERTAIN, controlling=True), Side(OPEN, controlling=False)
        for _ in range(SIMULTANEOUS_OPENS):
            side.failed(Technique.SIMULTANEOUS_OPEN, other)
        self.assertTrue(side.assumed.dependent)
        self.assertFalse(is_uncertain(side.said))
        side.observed = INDEPENDENT
        side.review(other)
        self.assertEqual(side.said, INDEPENDENT)

    def opened(self, observed: NatProfile, other: Side, *, controlling: bool = True) -> Side:
        """A side whose simultaneous opens with the other one have failed."""
        side = Side(observed, controlling=controlling)
        for _ in range(SIMULTANEOUS_OPENS):
            side.failed(Technique.SIMULTANEOUS_OPEN, other)
        return side

    def test_no_attempt_is_made(self) -> None:
        """
        The other side refuses to spray, or cannot: the assumption ends, and comes again after as many
        simultaneous opens. It lasts while an attempt is made, and once one has failed, until that is known.
        """
        other = Side(OPEN, controlling=False)
        side = self.opened(UNCERTAIN, other)
        self.assertFalse(side.assumed.handle_timer(LIFETIME - 1.0))
        side.assumed.sprayed(LIFETIME - 1.0)
        self.assertFalse(side.assumed.handle_timer(LIFETIME))
        self.assertTrue(side.assumed.handle_timer(2 * LIFETIME - 1.0))
        self.assertEqual((side.said, side.assumed.until), (UNCERTAIN, None))
        for _ in range(SIMULTANEOUS_OPENS):
            side.review(other)
            self.assertEqual(side.said, UNCERTAIN)
            side.failed(Technique.SIMULTANEOUS_OPEN, other)
        self.assertEqual(side.said, dependent(UNCERTAIN))
        side.failed(Technique.SPRAYING, other)
        self.assertIsNone(side.assumed.until)
        self.assertEqual(side.said, dependent(UNCERTAIN))

    def test_the_turn_of_a_side_that_cannot_spray(self) -> None:
        """The other side has its own turn all the same, at the latest after some more simultaneous opens."""
        first = Side(UNCERTAIN, controlling=True)
        second = self.opened(UNCERTAIN, first, controlling=False)
        for _ in range(LAST_OPENS - SIMULTANEOUS_OPENS):
            self.assertFalse(second.assumed.dependent)
            second.failed(Technique.SIMULTANEOUS_OPEN, first)
        self.assertTrue(second.assumed.dependent)
        second = self.opened(UNCERTAIN, first, controlling=False)
        second.review(Side(RANDOM, controlling=True))
        self.assertFalse(second.assumed.dependent)
        second.review(first)
        self.assertTrue(second.assumed.dependent)
        second.failed(Technique.SPRAYING, first, UNCERTAIN)
        self.assertTrue(second.assumed.dependent, "the attempt was one at the other side")
        second.failed(Technique.SPRAYING, first)
        self.assertFalse(second.assumed.dependent)

    def test_impossible(self) -> None:
        """Nothing is assumed if we can't open for spraying, or if it would be the end of all attempts."""
        other = Side(OPEN, controlling=False)
        side = self.opened(UNCERTAIN, other)
        side.assumed.review(UNCERTAIN, OPEN, 0.0, controlling=True, possible=False)
        self.assertFalse(side.assumed.dependent)
        by_port = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
        other = Side(replace(OPEN, mapping=by_port, ports=PortAssignment.PRESERVING), controlling=False)
        self.assertIs(technique_for(dependent(UNCERTAIN), other.said), Technique.RELAY)
        self.assertFalse(self.opened(UNCERTAIN, other).assumed.dependent)

    def test_the_path_before(self) -> None:
        """
        If spraying found the path of the link before, it comes first. If it fails then, simultaneous opens
        follow as usual.
        """
        other = Side(OPEN, controlling=False)
        side = Side(UNCERTAIN, controlling=True)
        side.assumed.review(UNCERTAIN, UNCERTAIN, 0.0, controlling=True, remembered=True)
        self.assertFalse(side.assumed.dependent, "it may have been the other side")
        side.assumed.review(UNCERTAIN, OPEN, 0.0, controlling=True, remembered=True)
        self.assertTrue(side.assumed.dependent)
        side.failed(Technique.SPRAYING, other)
        for _ in range(SIMULTANEOUS_OPENS):
            side.assumed.review(UNCERTAIN, OPEN, 0.0, controlling=True, remembered=True)
            self.assertFalse(side.assumed.dependent)
            side.failed(Technique.SIMULTANEOUS_OPEN, other)
        self.assertTrue(side.assumed.dependent)

    def test_a_path_was_found(self) -> None:
        """If spraying finds a path, the assumption is certain, and lasts even if no attempt follows."""
        side = self.opened(UNCERTAIN, Side(OPEN, controlling=False))
        side.assumed.found()
        self.assertFalse(side.assumed.handle_timer(100 * LIFETIME))
        self.assertTrue(side.assumed.dependent)

    def test_several_nats(self) -> None:
        """The assumption is about the NAT between which attempts have failed, and no other."""
        side = self.opened(UNCERTAIN, Side(OPEN, controlling=False))
        first = replace(RANDOM, host="203.0.113.9")
        self.assertEqual(side.assumed.applied([first, UNCERTAIN]), (first, dependent(UNCERTAIN)))
        self.assertEqual(side.assumed.applied([first]), (first,))

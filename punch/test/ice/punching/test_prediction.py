"""Which ports are predicted, and whether the two sides meet."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from random import Random

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from punch.ice.punching.prediction import (
    LOW_TTLS,
    MAX_AIMS,
    ROUNDS,
    ROUTERS,
    TARGETS,
    aims,
    needs_second_observation,
    opened,
    port_after,
    rounds,
    steps_between,
    targets,
)
from punch.ice.punching.techniques import (
    TECHNIQUES,
    NatClass,
    Technique,
    best_pair,
    nat_class,
    opens,
    port_of_socket,
    technique_for,
    techniques_with_all,
)
from punch.wire.peers.link_frames import MAX_ALTERNATIVES, MAX_TARGETS
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

PAGE = Path(__file__).parents[4] / "docs" / "nat.md"
INDEPENDENT = frozenset({Mapping.ENDPOINT_INDEPENDENT})
ADDRESS = frozenset({Mapping.ADDRESS_DEPENDENT})
PORT = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
EITHER = INDEPENDENT | ADDRESS


def profile(
    mapping: frozenset[Mapping] = PORT, ports: PortAssignment = PortAssignment.SEQUENTIAL, step: int = 0
) -> NatProfile:
    """Make a profile."""
    return NatProfile("203.0.113.7", mapping, ports, step or (ports is PortAssignment.SEQUENTIAL))


SEQUENTIAL, DOWN, ADDRESS_SEQUENTIAL = profile(), profile(step=-2), profile(ADDRESS)
PRESERVING, RANDOM = profile(ports=PortAssignment.PRESERVING), profile(ports=PortAssignment.RANDOM)
KNOWN = profile(INDEPENDENT, PortAssignment.RANDOM)
UNSURE = profile(EITHER)


class TechniqueTests(SynchronousTestCase):
    """The table of docs/nat.md, and how a NAT is classified."""

    def test_the_page(self) -> None:
        """The page shows the table that the code follows."""
        if not PAGE.exists():
            raise SkipTest("only in the source tree")
        section = PAGE.read_text(encoding="utf-8").split("<!-- begin techniques -->")[1]
        lines = section.split("<!-- end techniques -->")[0].strip().splitlines()
        rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
        shown = {
            (NatClass(row[0]), NatClass(column)): Technique(cell)
            for row in rows[2:]
            for column, cell in zip(rows[0][1:], row[1:], strict=True)
            if cell
        }
        self.assertEqual(shown, TECHNIQUES)

    def test_every_pair(self) -> None:
        """Any two classes have a technique, and their order does not matter."""
        for one, other in product(NatClass, repeat=2):
            self.assertTrue((one, other) in TECHNIQUES or (other, one) in TECHNIQUES, (one, other))
        profiles = [None, SEQUENTIAL, PRESERVING, RANDOM, KNOWN, UNSURE]
        for ours, theirs in product(profiles, repeat=2):
            self.assertEqual(technique_for(ours, theirs), technique_for(theirs, ours))

    def test_classes(self) -> None:
        """The class of a NAT follows from its mapping and port assignment."""
        for known, expected in (
            (None, NatClass.UNKNOWN),
            (profile(frozenset(), PortAssignment.UNKNOWN), NatClass.INDEPENDENT),
            (KNOWN, NatClass.INDEPENDENT),
            (profile(INDEPENDENT, PortAssignment.SEQUENTIAL), NatClass.INDEPENDENT),
            (UNSURE, NatClass.SEQUENTIAL),
            (profile(EITHER, PortAssignment.RANDOM), NatClass.INDEPENDENT),
            (profile(EITHER, PortAssignment.PRESERVING), NatClass.PRESERVING),
            (SEQUENTIAL, NatClass.SEQUENTIAL),
            (PRESERVING, NatClass.PRESERVING),
            (RANDOM, NatClass.RANDOM),
            (profile(PORT, PortAssignment.UNKNOWN), NatClass.UNKNOWN),
        ):
            self.assertIs(nat_class(known), expected, known)

    def test_sequential_and_anything_but_random(self) -> None:
        """Prediction is used between sequential ports and any but random ones."""
        for other in (KNOWN, UNSURE, PRESERVING, SEQUENTIAL):
            self.assertIs(technique_for(SEQUENTIAL, other), Technique.PREDICTION)
        self.assertIs(technique_for(SEQUENTIAL, RANDOM), Technique.RELAY)
        self.assertIs(technique_for(KNOWN, KNOWN), Technique.SIMULTANEOUS_OPEN)
        self.assertIs(technique_for(SEQUENTIAL, None), Technique.ICE)

    def test_random_and_one_port(self) -> None:
        """Spraying needs one port on the other side: all guessed ports must see packets from it."""
        either = profile(EITHER, PortAssignment.PRESERVING)
        for other in (KNOWN, either, profile(frozenset(), PortAssignment.UNKNOWN)):
            self.assertIs(technique_for(RANDOM, other), Technique.SPRAYING)
        for other in (RANDOM, PRESERVING, SEQUENTIAL, UNSURE):
            self.assertIs(technique_for(RANDOM, other), Technique.RELAY)
        self.assertIs(techniques_with_all(either)[NatClass.RANDOM], Technique.SPRAYING)
        self.assertIs(techniques_with_all(PRESERVING)[NatClass.RANDOM], Technique.RELAY)

    def test_the_best_pair(self) -> None:
        """Both sides choose the same one, by how easily a path is found, and then by their own order."""

        def at(number: int, known: NatProfile) -> NatProfile:
            return replace(known, host=f"203.0.113.{number}")

        ours = at(1, RANDOM), at(2, SEQUENTIAL), at(3, KNOWN)
        theirs = at(4, RANDOM), at(3, KNOWN), at(5, PRESERVING)
        self.assertEqual(best_pair(ours, theirs, controlling=True), (ours[2], theirs[2]))
        self.assertEqual(best_pair(ours[:1], theirs, controlling=True), (ours[0], theirs[1]))
        self.assertEqual(best_pair(ours[:1], theirs[:1], controlling=True), (ours[0], theirs[0]))
        self.assertEqual(best_pair(ours[2:], theirs[1:2], controlling=True), (ours[2], theirs[1]))
        self.assertEqual(best_pair((), theirs, controlling=True), (None, theirs[0]))
        self.assertEqual(best_pair(ours, (), controlling=True), (ours[0], None))
        every = [at(number, known) for number, known in enumerate((*ours, *theirs, UNSURE), 10)]
        for one, other, controlling in product(
            permutations(every[:4], 2), permutations(every[4:], 2), (False, True)
        ):
            here = best_pair(one, other, controlling=controlling)
            self.assertEqual(here[::-1], best_pair(other, one, controlling=not controlling))

    def test_ports_of_sockets(self) -> None:
        """A port that is preserved is known without a question to a reflector."""
        none = profile(frozenset(), PortAssignment.UNKNOWN)
        for known, expected in ((PRESERVING, 5000), (none, 5000), (KNOWN, None), (SEQUENTIAL, None)):
            self.assertEqual(port_of_socket(known, 5000, None), expected, known)
        self.assertEqual(port_of_socket(KNOWN, 5000, 6000), 6000)

    def test_who_opens(self) -> None:
        """Exactly one side opens: never the one whose port is known, always the one with random ports."""
        for known in (SEQUENTIAL, PRESERVING, KNOWN, UNSURE):
            for controlling in (False, True):
                self.assertTrue(opens(RANDOM, known, controlling=controlling))
                self.assertFalse(opens(known, RANDOM, controlling=controlling))
        profiles = [SEQUENTIAL, PRESERVING, KNOWN, UNSURE]
        for ours, theirs, controlling in product(profiles, profiles, (False, True)):
            here = opens(ours, theirs, controlling=controlling)
            self.assertNotEqual(here, opens(theirs, ours, controlling=not controlling))
        self.assertFalse(opens(KNOWN, SEQUENTIAL, controlling=False))
        self.assertTrue(opens(SEQUENTIAL, KNOWN, controlling=True))


class SimulatedNat:
    """A NAT that allocates ports in sequence, or preserves them; other hosts take ports in between."""

    def __init__(self, known: NatProfile, random: Random) -> None:
        self.profile = known
        self._random = random
        self._next = random.randint(1024, 65535)
        self._mappings: dict[tuple[int, object], int] = {}

    def port(self, socket: int, destination: tuple[str, int]) -> int:
        """Return the external port for a packet."""
        mapping = self.profile.mapping
        key: object = destination if mapping == PORT else destination[0] if mapping == ADDRESS else None
        port = self._mappings.get((socket, key))
        if port is None:
            port = self._next
            if self.profile.ports is PortAssignment.PRESERVING:
                port = socket
                while port in self._mappings.values():
                    port += 1
            else:
                self.others(1)
            self._mappings[socket, key] = port
        return port

    def others(self, count: int) -> None:
        """Let other hosts take so many ports."""
        self._next = port_after(self._next, count, self.profile.step or 1)


def attempt(
    opener: NatProfile, aimer: NatProfile, others: tuple[int, int, int], seed: int, taken: int = 1
) -> bool:
    """
    One attempt without a network: whether a packet of the side that aims gets in.

    :param others: how many ports others take at the side that aims before its second observation, between
        that and its packets, and in the middle of the packets of the side that opens.
    """
    random = Random(seed)
    here, there = SimulatedNat(aimer, random), SimulatedNat(opener, random)
    reflector = ("198.51.100.1", 3478)
    seen = here.port(5000, reflector)
    ours = targets(aimer, seen, taken)
    assert 0 < len(ours) <= min(TARGETS, MAX_TARGETS)
    # The other side opens
    first = there.port(6000, reflector)
    mine = []
    for number, port in enumerate(ours):
        mine.append(there.port(6000, ("aimer", port)))
        if number == len(ours) // 2:
            there.others(others[2])
    last = there.port(6001, reflector)
    sequential = opener.ports is PortAssignment.SEQUENTIAL
    rows = opened(opener, first, last if sequential else None, len(ours))
    assert len(rows) == len(ours)
    assert all(0 < len(row) <= MAX_ALTERNATIVES for row in rows)
    # This side aims
    here.others(others[0])
    newest = here.port(5001, reflector) if needs_second_observation(aimer) else None
    here.others(others[1])
    chosen = aims(aimer, ours, rows, newest)
    assert len(chosen) <= MAX_AIMS
    assert len(set(chosen)) == len(chosen)
    sent = {(here.port(5000, ("opener", port)), port) for port in chosen}
    return bool(sent & set(zip(ours, mine, strict=True)))


class PredictionTests(SynchronousTestCase):
    """`targets`, `opened` and `aims`, with NATs that do what the profiles say."""

    NATS = (
        SEQUENTIAL,
        DOWN,
        ADDRESS_SEQUENTIAL,
        UNSURE,
        PRESERVING,
        profile(EITHER, PortAssignment.PRESERVING),
    )

    def test_without_others(self) -> None:
        """Any two NATs whose ports can be predicted meet at the first attempt, wherever they begin."""
        for opener, aimer, seed in product(self.NATS, self.NATS, range(5)):
            self.assertTrue(attempt(opener, aimer, (0, 0, 0), seed), (opener, aimer, seed))

    def test_a_known_port(self) -> None:
        """A NAT with one port for all destinations meets one whose ports can be predicted."""
        for opener in self.NATS:
            self.assertTrue(attempt(opener, KNOWN, (0, 0, 0), 1), opener)
        self.assertEqual(targets(KNOWN, 4000, 1), [4000])

    def test_others(self) -> None:
        """Other hosts may take some ports, at any time."""
        for opener, aimer in product((SEQUENTIAL, DOWN), repeat=2):
            for others in ((1, 0, 0), (3, 0, 0), (0, 1, 0), (2, 2, 0), (0, 0, 1), (1, 1, 1)):
                self.assertTrue(attempt(opener, aimer, others, 1), (opener, aimer, others))

    def test_too_many_others(self) -> None:
        """If the sequence has gone past what was opened, nothing is sent; the next attempt looks further."""
        self.assertFalse(attempt(SEQUENTIAL, SEQUENTIAL, (20, 0, 0), 1))
        self.assertTrue(attempt(SEQUENTIAL, SEQUENTIAL, (20, 0, 0), 1, taken=18))
        self.assertEqual(aims(SEQUENTIAL, targets(SEQUENTIAL, 4000, 1), [[1]] * 4 + [[2]] * 4, 4020), [])
        self.assertEqual(steps_between(SEQUENTIAL, 4000, 4020), 20)
        self.assertEqual(steps_between(DOWN, 4000, 3990), 5)
        self.assertIsNone(steps_between(SEQUENTIAL, 4000, 3990))

    def test_the_ends_of_the_range(self) -> None:
        """Ports go round from the highest to the first that are no system ports, and back."""
        self.assertEqual(targets(SEQUENTIAL, 65533, 1)[:3], [65535, 1024, 1025])
        self.assertEqual(targets(profile(step=-1), 1026, 1)[:3], [1024, 65535, 65534])
        for row in opened(DOWN, 1025, None, 8):
            self.assertTrue(all(1024 <= port <= 65535 for port in row))

    def test_rounds(self) -> None:
        """
        Each port gets one packet. Then the likeliest ones get one or two more, as far as the limit allows.
        """
        self.assertEqual(rounds([]), [])
        self.assertEqual(rounds([1]), [[1]] * ROUNDS)
        self.assertEqual(rounds([1, 2, 3, 4]), [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2]])
        self.assertEqual(rounds(list(range(8))), [list(range(8)), [0, 1]])
        self.assertEqual(rounds(list(range(MAX_AIMS))), [list(range(MAX_AIMS))])
        self.assertEqual({len(LOW_TTLS), len(ROUTERS)}, {5})

    def test_what_the_other_side_says(self) -> None:
        """Whatever the other side says, the packets are limited, and each port gets one."""
        said: list[list[list[int]]] = [
            [[7]] * 8,
            [[1, 2, 3, 4]] * 10,
            [[], [5], []],
            [[]],
            [],
            [[9, 9], [9], [8, 7]] * 3,
        ]
        for rows in said:
            for aimer in (*self.NATS, KNOWN):
                ours = targets(aimer, 4000, 1)
                chosen = aims(aimer, ours, rows, 4001)
                self.assertLessEqual(len(chosen), MAX_AIMS)
                self.assertEqual(len(set(chosen)), len(chosen))
                self.assertLessEqual(set(chosen), {port for row in rows for port in row})

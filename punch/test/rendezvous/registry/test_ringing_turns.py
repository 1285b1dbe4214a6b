"""Which stranger's call ends for one of another network."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.sources import source_of
from punch.rendezvous.registry.admission import PASSED_ON, TURN, RingingTurns
from punch.rendezvous.registry.introduction import IntroductionKey, introduction_key
from punch.test.rendezvous.registry.test_fairness import peer

BOB = peer("bob")
HERE, THERE = source_of("10.1.0.1"), source_of("10.2.0.1")
RINGS = 60.0
"""Seconds that a call rings at most."""


def call(number: int) -> IntroductionKey:
    """A call of a stranger at Bob."""
    return introduction_key(f"{number:032x}", peer("caller", number), BOB)


class TurnsTests(SynchronousTestCase):
    """One call of a network rings at Bob, and others want its place."""

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Forget all calls."""
        self.turns = RingingTurns(1024)

    def pass_on(self, seconds: float, now: float) -> None:
        """Pass calls of the other network on, which take so much of Bob's time."""
        for _ in range(round(seconds / PASSED_ON)):
            self.turns.passed_on(BOB, THERE, now)

    def is_over(self, now: float) -> bool:
        """Whether the call that rings ends for one of the other network."""
        return self.turns.displaced(BOB, THERE, now) is not None

    def test_a_turn(self) -> None:
        """The first call of a network rings for a turn at least, whoever wants its place."""
        self.turns.begin(BOB, HERE, call(1), 0.0)
        self.assertFalse(self.is_over(TURN - 0.1))
        self.assertTrue(self.is_over(TURN + 2.5))
        self.assertIsNone(self.turns.displaced(BOB, HERE, RINGS), "a call of the same network")
        self.assertIsNone(self.turns.displaced(peer("carol"), THERE, RINGS), "at another peer")

    def test_a_call_that_rings_for_long(self) -> None:
        """It has taken as much time as it rang, when the next one begins."""
        for others, over in ((RINGS - TURN - 6.0, True), (RINGS - TURN - 4.0, False)):
            self.make_world()
            self.turns.begin(BOB, HERE, call(1), 0.0)
            self.turns.end(BOB, call(1), RINGS)
            self.turns.begin(BOB, HERE, call(2), RINGS)
            self.pass_on(others, RINGS)
            self.assertIs(self.is_over(RINGS), over, others)

    def test_a_call_that_is_given_up(self) -> None:
        """It has taken a turn."""
        for others, over in ((0.0, True), (2 * PASSED_ON, False)):
            self.make_world()
            for number in (1, 2):
                self.turns.begin(BOB, HERE, call(number), 0.0)
                self.turns.end(BOB, call(number), 1.0)
                self.turns.end(BOB, call(number), 1.0)
            self.turns.begin(BOB, HERE, call(3), 1.0)
            self.pass_on(TURN - PASSED_ON + others, 1.0)
            self.assertIs(self.is_over(1.0), over, others)

    def test_somebody_who_calls_again_and_again(self) -> None:
        """
        A stranger whose calls are passed on without a place, and who calls every three seconds, soon gets the
        place of a network that has a call ring all the time.
        """
        waited = 0.0
        for number in range(10):
            self.turns.begin(BOB, HERE, call(number), waited)
            for _ in range(round(RINGS / 3)):
                if self.is_over(waited):
                    self.assertLessEqual(waited, 2 * RINGS)
                    return
                self.turns.passed_on(BOB, THERE, waited)
                waited += 3.0
            self.turns.end(BOB, call(number), waited)
        self.fail("never")

    def test_time_that_is_forgotten(self) -> None:
        """After ten times as long, a network counts as one that has not called."""
        self.turns.begin(BOB, HERE, call(1), 0.0)
        self.turns.end(BOB, call(1), RINGS)
        self.turns.begin(BOB, HERE, call(2), 10 * RINGS)
        self.assertFalse(self.is_over(10 * RINGS + TURN - 0.1))
        self.assertTrue(self.is_over(10 * RINGS + TURN + 2.5))

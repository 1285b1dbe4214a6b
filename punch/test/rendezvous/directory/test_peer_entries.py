"""How far the clock of Redis is from the own one."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.directory.peer_entries import ClockOffset


class ClockOffsetTests(SynchronousTestCase):
    """The other clock shows 1,000 s more, unless a test says something else."""

    def setUp(self) -> None:
        self.offset = ClockOffset()
        self.now = 50.0
        self.real = 1000.0

    def answer(self, there: float, back: float) -> float:
        """One answer, for which the question and the answer took so long; returns the offset."""
        asked = self.now
        self.now += there + back
        self.offset.answered(asked + there + self.real, asked, self.now)
        self.now += 1.0
        return self.offset.seconds

    def test_quick_answers(self) -> None:
        self.assertAlmostEqual(self.answer(0.01, 0.01), 1000.0)
        self.assertAlmostEqual(self.answer(0.01, 0.02), 1000.0)

    def test_slow_ones(self) -> None:
        """One that took long in one direction is wrong by half of that, and does not count."""
        self.assertAlmostEqual(self.answer(2.0, 0.0), 1001.0)
        self.assertAlmostEqual(self.answer(0.01, 0.01), 1000.0)
        for _ in range(20):
            self.assertAlmostEqual(self.answer(2.5, 0.0), 1000.0)
            self.assertAlmostEqual(self.answer(0.0, 2.5), 1000.0)
            self.answer(0.01, 0.01)

    def test_the_clock_is_set(self) -> None:
        """Also by less than a slow answer could be wrong by."""
        for change in (3600.0, -3600.0, 0.5):
            for _ in range(5):
                self.answer(0.01, 0.01)
            self.real += change
            self.assertAlmostEqual(self.answer(0.02, 0.02), self.real)

    def test_clocks_that_part(self) -> None:
        """The quickest answer counts only for a while."""
        self.answer(0.001, 0.001)
        for _ in range(100):
            self.real += 0.0001
            self.answer(0.05, 0.05)
        self.assertLess(abs(self.offset.seconds - self.real), 0.005)

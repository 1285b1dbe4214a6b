"""The driver of cores: when it calls them, and how often."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.net.driver import Driver


class _Alarm:
    """A core that is due at a time, and notes when it was called."""

    def __init__(self, *due: float) -> None:
        self.due = list(due)
        self.called: list[float] = []
        self.output: list[str] = []

    def get_timer(self) -> float | None:
        return self.due[0] if self.due else None

    def handle_timer(self, now: float) -> None:
        while self.due and self.due[0] <= now:
            self.called.append(self.due.pop(0))
            self.output.append("due")


class DriverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.core = _Alarm()
        self.other = _Alarm()
        self.carried: list[str] = []
        self.driver = Driver(self.clock, self.clock.seconds, self.step, lambda: (self.core, self.other))

    def step(self, now: float) -> bool:
        if not self.core.output:
            return False
        self.carried.append(self.core.output.pop())
        self.driver.run()
        return True

    def test_calls_each_core_when_it_is_due(self) -> None:
        self.core.due, self.other.due = [3.0, 5.0], [4.0]
        self.driver.run()
        self.clock.pump([1.0] * 6)
        self.assertEqual((self.core.called, self.other.called), ([3.0, 5.0], [4.0]))
        self.assertEqual(self.carried, ["due", "due"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_carries_all_output_in_one_run(self) -> None:
        self.core.output = ["second", "first"]
        self.driver.run()
        self.assertEqual(self.carried, ["first", "second"])

    def test_an_earlier_time_counts_at_once(self) -> None:
        self.core.due = [10.0]
        self.driver.run()
        self.core.due = [2.0]
        self.driver.run()
        self.clock.advance(2.0)
        self.assertEqual(self.core.called, [2.0])

    def test_a_later_time_moves_no_delayed_call(self) -> None:
        self.core.due = [2.0]
        self.driver.run()
        (scheduled,) = self.clock.getDelayedCalls()
        self.core.due = [5.0]
        self.driver.run()
        self.assertEqual(self.clock.getDelayedCalls(), [scheduled])
        self.clock.advance(2.0)
        self.assertEqual(self.core.called, [])
        self.clock.advance(3.0)
        self.assertEqual(self.core.called, [5.0])

    def test_no_time_leaves_no_delayed_call(self) -> None:
        self.core.due = [2.0]
        self.driver.run()
        self.core.due = []
        self.driver.run()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rounding_calls_nobody_too_early(self) -> None:
        self.core.due = [1.0 + 1e-9]
        self.driver.run()
        (scheduled,) = self.clock.getDelayedCalls()
        scheduled.reset(1.0)
        self.clock.advance(1.0)
        self.assertEqual(self.core.called, [1.0 + 1e-9])
        self.assertEqual(self.driver.now(), 1.0 + 1e-9)

    def test_time_never_goes_back(self) -> None:
        times = [5.0, 7.0, 6.0, 8.0]
        driver = Driver(self.clock, lambda: times.pop(0), self.step, tuple)
        self.assertEqual([driver.now() for _ in range(3)], [7.0, 7.0, 8.0])

    def test_does_nothing_after_its_end(self) -> None:
        self.core.due, self.core.output = [2.0], ["never"]
        self.driver.stop()
        self.driver.run()
        self.clock.advance(3.0)
        self.assertEqual((self.core.called, self.carried), ([], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

"""Noticing other addresses, and sleep."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.net.monitor import (
    INTERVAL,
    SOON,
    UNSTABLE,
    NetworkMonitor,
)


class WatchTests(SynchronousTestCase):
    """A machine whose clocks and addresses are in our hands."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ahead = 0.0
        self.addresses = ["192.0.2.1"]
        self.looks = 0
        self.happened: list[object] = []
        self.watch = NetworkMonitor(
            self.clock,
            self.clock.seconds,
            lambda: self.clock.seconds() + self.ahead,
            self.look,
            lambda gone: self.happened.append(sorted(gone)),
            self.happened.append,
        )
        self.watch.start()
        self.addCleanup(self.watch.stop)

    def look(self) -> list[str]:
        self.looks += 1
        return list(self.addresses)

    def test_nothing(self) -> None:
        """Time passes."""
        self.clock.pump([INTERVAL] * 20)
        self.assertEqual(self.happened, [])
        self.assertEqual(self.looks, 21)

    def test_addresses(self) -> None:
        """Their order doesn't matter, and after a change it looks more often for a while."""
        self.addresses += ["192.0.2.2"]
        self.clock.pump([INTERVAL])
        self.addresses.reverse()
        self.assertEqual(self.happened, [[]])
        looks = self.looks
        self.clock.pump([SOON] * 10)
        self.assertEqual(self.looks - looks, 10)
        self.clock.pump([SOON] * round(UNSTABLE / SOON))
        looks = self.looks
        self.clock.pump([SOON] * 10)
        self.assertLessEqual(self.looks - looks, 2)
        self.addresses.clear()
        self.clock.pump([INTERVAL])
        self.assertEqual(self.happened, [[], ["192.0.2.1", "192.0.2.2"]])

    def test_sleep_that_monotonic_time_does_not_count(self) -> None:
        """Sleep is noticed if the monotonic clock does not count it, as on Linux."""
        self.ahead = 3600.0
        self.clock.advance(INTERVAL)
        self.assertEqual(self.happened, [3600.0])
        self.clock.pump([INTERVAL] * 5)
        self.assertEqual(len(self.happened), 1)

    def test_a_stopped_process(self) -> None:
        """Monotonic time goes on, but nothing else did."""
        self.clock.advance(10.0 + INTERVAL)
        self.assertEqual(self.happened, [10.0])

    def test_a_clock_that_is_set(self) -> None:
        """Forward it can't be told from sleep; back it is nothing. Neither stops the looking."""
        for ahead, happened in ((-3600.0, []), (-3601.0, []), (0.0, [3601.0]), (1.0, []), (-31536000.0, [])):
            self.happened.clear()
            self.ahead = ahead
            self.clock.pump([INTERVAL] * 3)
            self.assertEqual(self.happened, happened)
        self.addresses += ["192.0.2.2"]
        self.clock.advance(INTERVAL)
        self.assertEqual(self.happened, [[]])

    def test_a_busy_moment(self) -> None:
        """A machine that is late by seconds has not slept."""
        self.clock.advance(4.0)
        self.assertEqual(self.happened, [])

    def test_stop(self) -> None:
        """After `stop`, there is no delayed call."""
        self.watch.stop()
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

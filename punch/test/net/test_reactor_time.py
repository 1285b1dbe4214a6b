"""Monotonic time in Twisted's reactors."""

from __future__ import annotations

import time

from twisted.internet.base import ReactorBase
from twisted.trial.unittest import SynchronousTestCase

from punch.net.reactor import use_monotonic_time

DAY = 86_400.0


class TimeOnly(ReactorBase):
    """What all reactors of Twisted have in common, which is time, and no sockets."""

    wall = 0.0

    def seconds(self) -> float:
        return self.wall

    def installWaker(self) -> None:
        """Nobody wakes it."""


class MonotonicTests(SynchronousTestCase):
    def reactor(self, wall: float) -> TimeOnly:
        reactor = TimeOnly()
        reactor.wall = wall
        return reactor

    def close(self, one: float, other: float) -> None:
        """Two times are the same, as far as a slow machine can tell."""
        self.assertLess(abs(one - other), 60.0)

    def test_what_waited_before(self) -> None:
        """Calls that were scheduled before keep their delays, whatever the two clocks show."""
        for wall in (0.0, time.time()):
            called: list[str] = []
            reactor = self.reactor(wall)
            reactor.callLater(0, called.append, "at once")
            reactor.callLater(0, called.append, "cancelled").cancel()
            # Some of them are in the heap by now, some are not.
            reactor.timeout()
            times = [5.0 * DAY, DAY, 3.0 * DAY, 2.0 * DAY, 4.0 * DAY]
            calls = [reactor.callLater(when, called.append, str(when)) for when in times]
            calls[0].delay(DAY)
            use_monotonic_time(reactor)
            times[0] += DAY
            for call, when in zip(calls, times, strict=True):
                self.close(call.getTime() - time.monotonic(), when)
            self.assertEqual(reactor.timeout(), 0)
            reactor.runUntilCurrent()
            self.assertEqual(called, ["at once"])
            timeout = reactor.timeout()
            assert timeout is not None
            self.close(timeout, DAY)

    def test_from_then_on(self) -> None:
        """No wall clock is read, also by what was asked for before."""
        reactor = self.reactor(1e9)
        earlier = reactor.callLater(10.0, list)
        use_monotonic_time(reactor)
        use_monotonic_time(reactor)
        self.close(reactor.seconds(), time.monotonic())
        later = reactor.callLater(10.0, list)
        for wall in (1e9 - 3600.0, 1e9 + 365 * DAY, 0.0):
            reactor.wall = wall
            for call in (earlier, later):
                call.reset(DAY)
                self.close(call.getTime() - time.monotonic(), DAY)
                call.delay(-2 * DAY)
            self.assertEqual(reactor.timeout(), 0)

"""
The driver of the protocol cores: it calls a core when its timer is due, and carries what the core has to
where it belongs.

Cores have no clock and no sockets. Whoever owns one gives it its input, then calls `Driver.run`, which takes
the core's output and events and schedules the next call of `handle_timer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

EARLY = 1e-6
"""
Seconds that the reactor may call before the time that was asked for, through rounding. The core is then given
the time that it asked for.
"""


class Timed(Protocol):
    """A core, as far as its timer is concerned."""

    def get_timer(self) -> float | None:
        """Return the time, in monotonic seconds, at which to call `handle_timer`, or None for never."""

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`. Calling it early does no harm."""


class Driver:
    """
    Drives one core, or several that depend on each other.

    `run` is to be called after each input. It calls `step` until that returns something false, then schedules
    the call of `handle_timer`. A call of `run` within `step` returns at once: the run that is under way does
    its work too.

    The delayed call is only moved when it would come too late. One that comes too early is scheduled again,
    which costs less than moving it with each input.

    :param clock: schedules the delayed call.
    :param monotonic: returns the time, in seconds, as the cores count it.
    :param step: takes output and events from the cores; returns whether there may be more.
    :param cores: returns the cores whose timers count now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        step: Callable[[float], object],
        cores: Callable[[], Sequence[Timed]],
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._step = step
        self._cores = cores
        self._call: IDelayedCall | None = None
        self._call_at = 0.0
        self._running = False
        self._stopped = False

    def run(self) -> None:
        """Take what the cores have, and schedule the call of their timers."""
        if self._running or self._stopped:
            return
        self._running = True
        try:
            now = self._monotonic()
            while not self._stopped and self._step(now):
                pass
        finally:
            self._running = False
        if not self._stopped:
            self._schedule()

    def stop(self) -> None:
        """Do nothing more, now or later."""
        self._stopped = True
        self._cancel()

    def _due(self) -> float | None:
        times = [time for core in self._cores() if (time := core.get_timer()) is not None]
        return min(times) if times else None

    def _schedule(self) -> None:
        due = self._due()
        if self._call is not None and due is not None and self._call_at <= due:
            return
        self._cancel()
        if due is not None:
            self._call_at = due
            self._call = self._clock.callLater(max(0.0, due - self._monotonic()), self._timed_out)

    def _cancel(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _timed_out(self) -> None:
        self._call = None
        now = self._monotonic()
        due = self._due()
        if due is None or due > now + EARLY:
            self._schedule()
            return
        for core in self._cores():
            core.handle_timer(max(now, due))
        self.run()

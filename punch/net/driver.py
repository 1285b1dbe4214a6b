"""
The driver of the protocol cores: it calls a core when its timer is due, and carries what the core has to
where it belongs. There are also `Timer`, a delayed call that can be replaced, and `Timers`, delayed calls
that are cancelled together.

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


class Timer:
    """At most one delayed call at a time: starting another one cancels it."""

    __slots__ = ("_call", "_clock")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._call: IDelayedCall | None = None

    @property
    def running(self) -> bool:
        """Whether a call is to come."""
        return self._call is not None and self._call.active()

    def start(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Call a function after so many seconds, and no other one."""
        self.cancel()
        self._call = self._clock.callLater(seconds, function, *arguments)

    def cancel(self) -> None:
        """Cancel the call, if one is to come."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None


class Timers:
    """Delayed calls that are cancelled together."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._calls: list[IDelayedCall] = []
        self._stopped = False

    def later(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Call a function after so many seconds, unless `stop` comes first."""
        self._calls = [call for call in self._calls if call.active()]
        if not self._stopped:
            self._calls.append(self._clock.callLater(seconds, function, *arguments))

    def stop(self) -> None:
        """Cancel all calls, and schedule no more."""
        self._stopped = True
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()


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
    :param monotonic: returns the time in seconds, as the cores count it; `now` never goes back.
    :param step: takes output and events from the cores; returns whether there may be more.
    :param cores: returns the cores whose timers count now.
    """

    __slots__ = (
        "_cores",
        "_due_at",
        "_latest",
        "_monotonic",
        "_running",
        "_step",
        "_stopped",
        "_timer",
        "_timer_at",
    )

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        step: Callable[[float], object],
        cores: Callable[[], Sequence[Timed]],
    ) -> None:
        self._monotonic = monotonic
        self._latest = monotonic()
        self._step = step
        self._cores = cores
        self._timer = Timer(clock)
        self._timer_at = 0.0
        self._due_at: float | None = None
        self._running = False
        self._stopped = False

    def now(self) -> float:
        """
        Return the time for the cores. It is never before a time that they were given, which may have been
        that of a timer (`EARLY`).
        """
        now = self._monotonic()
        if now > self._latest:
            self._latest = now
        return self._latest

    def run(self) -> None:
        """Take what the cores have, and schedule the call of their timers."""
        if self._running or self._stopped:
            return
        self._running = True
        try:
            now = self.now()
            while not self._stopped and self._step(now):
                pass
        finally:
            self._running = False
        if not self._stopped:
            self._schedule()

    def stop(self) -> None:
        """Do nothing more, now or later."""
        self._stopped = True
        self._timer.cancel()

    def _schedule(self) -> None:
        # This runs after each input, so it does itself what `earliest` would
        due = None
        for core in self._cores():
            time = core.get_timer()
            if time is not None and (due is None or time < due):
                due = time
        self._due_at = due
        if due is None:
            self._timer.cancel()
        elif due < self._timer_at or not self._timer.running:
            self._timer_at = due
            self._timer.start(max(0.0, due - self.now()), self._timed_out)

    def _timed_out(self) -> None:
        now = self.now()
        due = self._due_at
        if due is None or due > now + EARLY:
            self._schedule()
            return
        now = self._latest = max(now, due)
        for core in self._cores():
            core.handle_timer(now)
        self.run()

"""Simulated time: one heap of events, and `IReactorTime` on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import inf, nextafter
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

_COMPACT_AT = 1024
_LIVELOCK_AT = 200_000

Event = tuple[float, int, Callable[..., Any], tuple[Any, ...]]


class Livelock(AssertionError):
    """A million events happened at the same time: a call schedules itself again and again, with no delay."""


class Scheduler:
    """
    Events ordered by (time, the order in which they were scheduled), so that one program gives one run.

    Times are seconds since the simulation began. Exceptions leave through whoever runs the events.
    """

    __slots__ = ("_heap", "_instant", "_sequence", "_stale", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[Event] = []
        self._sequence = 0
        self._stale = 0
        self._instant = 0

    def at(self, time: float, function: Callable[..., Any], *args: Any) -> int:
        """Call `function(*args)` at `time`; returns the number of the event. It can't be cancelled."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._heap, (time, sequence, function, args))
        return sequence

    def after(self, delay: float, function: Callable[..., Any], *args: Any) -> None:
        """Call `function(*args)` `delay` seconds from now."""
        self.at(self.now + delay, function, *args)

    @property
    def pending(self) -> int:
        """How many events are in the heap, including those that no longer do anything."""
        return len(self._heap)

    def next_time(self) -> float | None:
        """When the next event happens; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def step(self) -> None:
        """
        Let the next event happen, moving time forward to it.

        :raise Livelock: a million events happened at the same time.
        """
        time, _, function, args = heappop(self._heap)
        if time > self.now:
            self.now = time
            self._instant = 0
        else:
            self._instant += 1
            if self._instant > _LIVELOCK_AT:
                raise Livelock(f"time does not move on from {self.now} s: {function!r}")
        function(*args)

    def run_until(self, time: float) -> None:
        """Run all events up to and including `time`, then set the time to `time`."""
        heap, step = self._heap, self.step
        while heap and heap[0][0] <= time:
            step()
        self.now = max(self.now, time)

    def forget_one(self) -> None:
        """Note that one event in the heap no longer does anything; when there are many, they are removed."""
        self._stale += 1
        if self._stale > _COMPACT_AT and self._stale * 2 > len(self._heap):
            self._heap[:] = [event for event in self._heap if not _is_stale(event)]
            heapify(self._heap)
            self._stale = 0

    def forgot_one(self) -> None:
        """Note that an event which did nothing was removed from the heap."""
        if self._stale:
            self._stale -= 1


def _is_stale(event: Event) -> bool:
    owner = getattr(event[2], "__self__", None)
    return isinstance(owner, Timer) and not owner.expects(event[1])


@implementer(IDelayedCall)
class Timer:
    """A call in the future, as `callLater` returns it."""

    __slots__ = (
        "_called",
        "_cancelled",
        "_clock",
        "_function",
        "_queued",
        "_token",
        "time",
    )

    def __init__(self, clock: Clock, time: float, function: Callable[[], Any]) -> None:
        self._clock = clock
        self._function: Callable[[], Any] | None = function
        self._cancelled = False
        self._called = False
        self.time = time
        self._queue(time)

    def _queue(self, time: float) -> None:
        self._queued = time
        # The event carries its own number, so that an event that was overtaken by a reset can be told.
        self._token = self._clock.scheduler.at(time, self._fire)

    def expects(self, token: int) -> bool:
        """Whether the event numbered `token` is the one that will make the call."""
        return token == self._token and self._function is not None

    def _fire(self) -> None:
        function = self._function
        scheduler = self._clock.scheduler
        now = scheduler.now
        if function is None or self._queued > now:
            scheduler.forgot_one()
            return
        if self.time > now:
            self._queue(self.time)
            return
        self._called = True
        self._function = None
        self._clock.timers.pop(self, None)
        function()

    def _check(self) -> None:
        if self._cancelled:
            raise AlreadyCancelled
        if self._called:
            raise AlreadyCalled

    def cancel(self) -> None:
        self._check()
        self._cancelled = True
        self._function = None
        self._clock.timers.pop(self, None)
        self._clock.scheduler.forget_one()

    def getTime(self) -> float:
        return self._clock.own_time(self.time)

    def _move(self, time: float) -> None:
        self.time = time
        if time < self._queued:
            self._clock.scheduler.forget_one()
            self._queue(time)

    def reset(self, secondsFromNow: float) -> None:
        self._check()
        self._move(self._clock.awake_at + secondsFromNow)

    def delay(self, secondsLater: float) -> None:
        self._check()
        self._move(self.time + secondsLater)

    def sleep(self, seconds: float) -> None:
        """Postpone the call by the time for which the clock was paused."""
        self._move(self.time + seconds)

    def active(self) -> bool:
        return not (self._cancelled or self._called)


@implementer(IReactorTime)
class Clock:
    """
    `IReactorTime` in simulated time; each host has its own, all run by one scheduler.

    It is monotonic, and like `time.monotonic` on Linux it stands still while it is paused (the host sleeps):
    what was to be called in three seconds is called three seconds after the pause. Beside it there is a wall
    clock, which goes on in pauses, and can be set.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        # A dict and not a set: sets have no order that is the same from run to run.
        self.timers: dict[Timer, None] = {}
        self.paused_until = 0.0
        self._slept = 0.0
        self._wall_is_ahead = 0.0

    def seconds(self) -> float:
        """Like `time.monotonic`: seconds, without those in which the host slept."""
        now, paused_until = self.scheduler.now, self.paused_until
        return (paused_until if paused_until > now else now) - self._slept

    def wall(self) -> float:
        """Like `time.time`: seconds since the simulation began, unless the clock was set."""
        return self.scheduler.now + self._wall_is_ahead

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward by so many seconds, back if they are negative."""
        self._wall_is_ahead += seconds

    def own_time(self, time: float) -> float:
        """What `seconds` returns at a time of the scheduler at which the clock is not paused."""
        return time - self._slept

    @property
    def awake_at(self) -> float:
        """The current time; while the clock is paused, the end of the pause."""
        now = self.scheduler.now
        return self.paused_until if self.paused_until > now else now

    def pause(self, seconds: float) -> None:
        """Pause the clock for so many seconds."""
        until = self.scheduler.now + seconds
        more = until - self.awake_at
        if more > 0:
            self._slept += more
            self.paused_until = until
            for timer in list(self.timers):
                timer.sleep(more)

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> Timer:
        if not delay >= 0:
            raise ValueError(f"cannot call {callable!r} {delay} seconds from now")
        function = (lambda: callable(*args, **kwargs)) if args or kwargs else callable
        now = self.scheduler.now
        start = self.paused_until if self.paused_until > now else now
        time = start + delay
        if delay and time == start:
            # However little that is: who waits for it must not find that time stands still
            time = nextafter(time, inf)
        timer = Timer(self, time, function)
        self.timers[timer] = None
        return timer

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return list(self.timers)

    def cancel_all(self) -> None:
        """Cancel every timer, as the end of a process does."""
        for timer in list(self.timers):
            timer.cancel()

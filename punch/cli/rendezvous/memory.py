"""
The memory of a process with many connections: when the garbage collector runs, and when memory goes back to
the system.

**The collector.** By default it looks at every object of the process each time that their number has grown by
a quarter: with 15,000 peers that takes most of a second, in which nobody is served. But connections that end
leave cycles, and what hangs on these is freed only by the collector. So it looks at all objects when as many
connections have ended as there are, or after a long time: then at most half of the memory is theirs, and the
work for each connection stays the same.

**The system.** The C library keeps what was freed for later, except at the end of its heap. After a flood it
would keep all of it. `malloc_trim` (glibc) gives it back.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime

from punch.net.driver import Timer

YOUNG = 5_000
"""New objects after which the collector looks at them…"""
MIDDLE = 20
"""…and how many times it does so before it looks at all that are not old."""
NEVER = 1_000_000
PERIOD = 3.0
"""Seconds between two looks at the number of connections."""
FEWEST = 200
"""Fewer connections that ended are not worth the work."""
LONG = 1800.0
"""Seconds after which the collector looks at all objects in any case."""


def tune_collector() -> None:
    """
    Set the collector up for a server. What exists now, modules and classes, exists until the end, so it is
    not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


def give_back() -> None:
    """Free what nothing refers to, and give it back to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class MemoryReturn(Service):
    """
    Sets the collector up. Gives memory back when as many connections have ended as are open, and after a long
    time.

    :param connections: returns how many connections are open.
    :param ended: returns how many have ended since the start, also if others took their place.
    :param begin: called at the start.
    :param give_back: called when memory may be free.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connections: Callable[[], int],
        ended: Callable[[], int],
        *,
        begin: Callable[[], None] = tune_collector,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._ended = ended
        self._begin = begin
        self._give_back = give_back
        self._ended_before = 0
        self._last = 0.0
        self._timer = Timer(clock)

    def startService(self) -> None:
        """Begin to watch."""
        super().startService()  # type: ignore[no-untyped-call]
        self._begin()
        self._last = self._clock.seconds()
        self._timer.start(PERIOD, self._look)

    def stopService(self) -> None:
        """Watch no longer."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._timer.cancel()

    def _look(self) -> None:
        self._timer.start(PERIOD, self._look)
        now, total = self._clock.seconds(), self._ended()
        ended = total - self._ended_before
        if ended >= max(FEWEST, self._connections()) or now >= self._last + LONG:
            self._ended_before, self._last = total, now
            self._give_back()

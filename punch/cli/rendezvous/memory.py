"""
The memory of a process with many connections: when the garbage collector runs, and when memory goes back to
the system.

**The collector.** By default it looks at every object of the process each time that their number has grown
by a quarter: with 15,000 peers that takes most of a second, in which nobody is served. But connections and
allocations that end leave no cycles, so there is next to nothing to find
(`punch/test/rendezvous/test_garbage.py`). It looks at new objects, some thousand at a time, and at all of
them only when many times as many connections and allocations have ended as there are connections, or after
hours: if something does leave cycles, they cannot fill the memory.

**The system.** The C library keeps what was freed for later, except at the end of its heap. After a flood it
would keep all of it. `malloc_trim` (glibc) gives it back, in some milliseconds.
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
MIDDLE = 2
"""…and how many times it does so before it looks once more at those that were left."""
NEVER = 1_000_000
PERIOD = 3.0
"""Seconds between two looks at the number of connections."""
FEWEST = 200
"""Fewer connections and allocations that ended are not worth the work."""
MANY = 8
"""
The collector looks at all objects when so many times as many connections and allocations have ended as
connections are open…
"""
LONG = 4 * 3600.0
"""…and after so many seconds in any case."""


def tune_collector() -> None:
    """
    Set the collector up for a server. What exists now, modules and classes, exists until the end, so it is
    not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


def give_back() -> None:
    """Give what is free back to the system."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class MemoryReturn(Service):
    """
    Sets the collector up, has it look at all objects now and then, and gives memory back when as many
    connections and allocations have ended as connections are open.

    :param connections: returns how many connections are open.
    :param ended: returns how many connections and allocations have ended since the start, also if others took
        their place.
    :param begin: called at the start.
    :param collect: called to free what refers to itself and is not used.
    :param give_back: called when memory may be free.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connections: Callable[[], int],
        ended: Callable[[], int],
        *,
        begin: Callable[[], None] = tune_collector,
        collect: Callable[[], object] = gc.collect,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._ended = ended
        self._begin = begin
        self._collect = collect
        self._give_back = give_back
        self._given_back_at = self._collected_at = 0
        """How many connections and allocations had ended then."""
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
        now, ended = self._clock.seconds(), self._ended()
        enough = max(FEWEST, self._connections())
        collects = ended - self._collected_at >= MANY * enough or now >= self._last + LONG
        if collects:
            self._collected_at, self._last = ended, now
            self._collect()
        if collects or ended - self._given_back_at >= enough:
            self._given_back_at = ended
            self._give_back()

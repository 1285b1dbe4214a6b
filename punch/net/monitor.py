"""
Notices that the network of this machine has changed, or that the machine has slept.

The addresses are compared every second, which costs a system call or two and works on every system. When the
wall clock runs ahead of the time that was waited for, the machine has slept or the process was stopped, and
what was known about the network may be wrong. The wall clock is used because it shows every kind of pause on
every system: monotonic time stands still while Linux sleeps, and while a virtual machine is saved even the
clock that counts suspension does. A wall clock that is set forward looks like a sleep, and costs one check of
the network. One that is set back shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.interfaces import IReactorTime

from punch.net.driver import Timer

INTERVAL = 1.0
"""Seconds between two comparisons."""
SOON = 0.2
"""Seconds between two comparisons for `UNSTABLE` seconds after a change, since more changes often follow."""
UNSTABLE = 5.0
"""Seconds after a change in which the addresses are compared more often."""
SLEPT = 5.0
"""How many seconds a comparison may be late before that counts as sleep."""


class NetworkMonitor:
    """
    Compares addresses and clocks every second.

    :param wall: returns the wall clock in seconds; only how far it runs ahead matters.
    :param addresses: returns the usable addresses of this machine.
    :param changed: called when the addresses have changed, with those that are gone.
    :param slept: called after a sleep, with its length in seconds.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        addresses: Callable[[], list[str]],
        changed: Callable[[Collection[str]], None],
        slept: Callable[[float], None],
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._addresses = addresses
        self._changed = changed
        self._slept = slept
        self._known: set[str] = set()
        self._wall_at = self._inner_at = self._interval = 0.0
        self._unstable_until = 0.0
        self._timer = Timer(clock)

    def start(self) -> None:
        """Start comparing."""
        self._known = set(self._addresses())
        self._rearm()

    def stop(self) -> None:
        """Stop comparing."""
        self._timer.cancel()

    def _rearm(self) -> None:
        self._wall_at, self._inner_at = self._wall(), self._monotonic()
        self._interval = SOON if self._inner_at < self._unstable_until else INTERVAL
        self._timer.start(self._interval, self._compare)

    def _compare(self) -> None:
        # Some systems count sleep in time.monotonic; all count the time for which a process is stopped.
        wall, inner = self._wall() - self._wall_at, self._monotonic() - self._inner_at
        away = max(wall, inner) - self._interval
        known, self._known = self._known, set(self._addresses())
        if known != self._known:
            self._unstable_until = self._monotonic() + UNSTABLE
        self._rearm()
        if known != self._known:
            self._changed(known - self._known)
        if away > SLEPT:
            self._slept(away)

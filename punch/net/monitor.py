"""
Noticing that the world around a peer has changed: other addresses, or time that passed without it.

The addresses are compared every second, which costs a system call or two and works everywhere. Wall time that
runs ahead of what was waited for says that the machine has slept, or that the process was stopped: nothing
that was known about the network counts then. Wall time, because it shows every kind of pause on every system:
monotonic time stands still while Linux sleeps, and so does the clock of a virtual machine that was saved, the
one that counts suspension included. A wall clock that is set forward looks the same, and costs one look at
the network; one that is set back says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.interfaces import IDelayedCall, IReactorTime

INTERVAL = 1.0
"""Seconds between two looks."""
SOON = 0.2
"""The same after a change, because more is about to happen then…"""
RESTLESS = 5.0
"""…for so many seconds."""
SLEPT = 5.0
"""Seconds that a look may come late before that counts as sleep."""


class NetworkMonitor:
    """
    Looks at addresses and clocks.

    :param wall: seconds of the wall clock; only how far it runs ahead is looked at.
    :param addresses: the usable addresses of this machine.
    :param changed: called when they are others than before, with those that are gone.
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
        self._clock = clock
        self._monotonic = monotonic
        self._wall = wall
        self._addresses = addresses
        self._changed = changed
        self._slept = slept
        self._known: set[str] = set()
        self._wall_at = self._inner_at = self._interval = 0.0
        self._restless_until = 0.0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Look from now on."""
        self._known = set(self._addresses())
        self._rearm()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _rearm(self) -> None:
        self._wall_at, self._inner_at = self._wall(), self._monotonic()
        self._interval = SOON if self._inner_at < self._restless_until else INTERVAL
        self._timer = self._clock.callLater(self._interval, self._look)

    def _look(self) -> None:
        # time.monotonic counts sleep on some systems, and everywhere the time for which a process is stopped.
        wall, inner = self._wall() - self._wall_at, self._monotonic() - self._inner_at
        away = max(wall, inner) - self._interval
        known, self._known = self._known, set(self._addresses())
        if known != self._known:
            self._restless_until = self._monotonic() + RESTLESS
        self._rearm()
        if known != self._known:
            self._changed(known - self._known)
        if away > SLEPT:
            self._slept(away)

"""What carries all that waits inside cores to where it belongs, and comes back when their time has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from punch.net.timer import Timer


class Timed(Protocol):
    """A part that has something to do at a certain time."""

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""

    def handle_timer(self, now: float) -> None:
        """Time has passed."""


class Driver:
    """
    Runs `step` until it finds nothing more to carry; a run within a run is part of that one.

    :param step: carries what there is now; returns whether there may be more.
    :param parts: those whose timers count, as they are now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        step: Callable[[float], bool],
        parts: Callable[[], Sequence[Timed]],
    ) -> None:
        self._monotonic = monotonic
        self._step = step
        self._parts = parts
        self._wakeup = Timer(clock, monotonic, self._wake)
        self._running = False
        self._stopped = False

    def run(self) -> None:
        """Something has happened."""
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
            times = [part.get_timer() for part in self._parts()]
            self._wakeup.at(min((time for time in times if time is not None), default=None))

    def stop(self) -> None:
        """Nothing matters any more."""
        self._stopped = True
        self._wakeup.at(None)

    def _wake(self) -> None:
        now = self._monotonic()
        for part in self._parts():
            part.handle_timer(now)
        self.run()

"""A timer that is set anew all the time."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Timer:
    """
    Calls `wake` at a time that may change at any moment.

    :param monotonic: the time, in seconds, that `at` is given in.
    """

    def __init__(self, clock: IReactorTime, monotonic: Callable[[], float], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._wake = wake
        self._call: IDelayedCall | None = None
        self._due: float | None = None

    def at(self, due: float | None) -> None:
        """Wake then, and not when it was said before; None: not at all."""
        if self._call is not None and self._call.active():
            if due == self._due:
                return
            self._call.cancel()
        self._call, self._due = None, due
        if due is not None:
            self._call = self._clock.callLater(max(0.0, due - self._monotonic()), self._wake)

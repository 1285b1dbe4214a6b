"""
Coroutines without an event loop: experiments take turns, and time is whatever the caller says.

An experiment reads best from top to bottom: send this, wait for that or for half a second, conclude. So it is
a coroutine, and this is all that runs it. Nothing here looks at a clock or a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Later(Generic[T]):
    """Something that will be known later. Await it, once it is `done` or before."""

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._waiting: list[Callable[[], None]] = []

    @property
    def value(self) -> T:
        """
        What became of it.

        :raise RuntimeError: that isn't known yet.
        """
        if not self.done:
            raise RuntimeError("not known yet")
        return cast(T, self._value)

    def set(self, value: T) -> None:
        """It is known now. Only the first time counts."""
        if self.done:
            return
        self.done, self._value = True, value
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def then(self, call: Callable[[], None]) -> None:
        """Call this when it is known; at once if it is."""
        if self.done:
            call()
        else:
            self._waiting.append(call)

    def __await__(self) -> Generator[Later[Any], None, T]:
        if not self.done:
            yield self
        return self.value


class Scheduler:
    """
    Runs coroutines that await nothing but `Later`.

    :ivar now: monotonic seconds, as last told.
    """

    def __init__(self, now: float) -> None:
        self.now = now
        self._timers: list[tuple[float, int, Later[None]]] = []
        self._count = 0

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Later[T]:
        """Run it as far as it goes now, and go on by itself later; gives what it will return."""
        finished: Later[T] = Later()
        self._step(coroutine, finished)
        return finished

    def sleep(self, seconds: float) -> Later[None]:
        """Is done after so many seconds."""
        over: Later[None] = Later()
        self._count += 1
        heappush(self._timers, (self.now + seconds, self._count, over))
        return over

    async def within(self, awaited: Later[Any], seconds: float) -> bool:
        """Wait for it, but only so many seconds; whether it is done."""
        either: Later[None] = Later()
        for each in (awaited, self.sleep(seconds)):
            each.then(lambda: either.set(None))
        await either
        return awaited.done

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        return self._timers[0][0] if self._timers else None

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        self.now = now
        while self._timers and self._timers[0][0] <= now:
            heappop(self._timers)[2].set(None)

    def _step(self, coroutine: Coroutine[Any, Any, T], finished: Later[T]) -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration as end:
            finished.set(end.value)
        else:
            cast("Later[Any]", awaited).then(lambda: self._step(coroutine, finished))

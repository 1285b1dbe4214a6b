"""Who is told the events of a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted.logger import Logger

from punch.node.events import Event


class _Listener(NamedTuple):
    handle: Callable[[Event], object]
    can_answer: Callable[[], bool]


class Listeners:
    """
    Those who have subscribed.

    :param left: called when one has left, but not before the others know the event at which it did.
    """

    _log = Logger()

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left
        self._listeners: list[_Listener] = []
        # How many events are being told, and whether a listener has left meanwhile
        self._telling = 0
        self._one_left = False

    @property
    def can_answer(self) -> bool:
        """Whether one of them can answer a call now."""
        return any(listener.can_answer() for listener in self._listeners)

    def add(self, handle: Callable[[Event], object], can_answer: Callable[[], bool]) -> Callable[[], None]:
        """Tell events to `handle` from now on; returns how to end that."""
        listener = _Listener(handle, can_answer)
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
                self._one_left = True
                self.check_left()

        return end

    def tell(self, event: Event) -> None:
        """Tell all of them an event. `check_left` is to be called afterwards."""
        self._telling += 1
        for listener in list(self._listeners):
            try:
                listener.handle(event)
            except Exception:
                self._log.failure("A listener failed at {event}.", event=type(event).__name__)
        self._telling -= 1

    def check_left(self) -> None:
        """Call `left` if a listener has left, unless an event is being told."""
        if self._one_left and not self._telling:
            self._one_left = False
            self._left()

"""
What every part of the chat stands on: the views that are told, the store that is asked, and timers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat.database import StoreError
from punch.apps.chat.events import Event, StoreFailed, View
from punch.apps.chat.store import Store
from punch.apps.chat.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")

#: After how many seconds the disk is tried again that did not take something.
RETRY = 5.0


class ChatContext:
    """
    The base of `Chat`.

    :param wall: seconds since 1970.
    """

    _log = Logger()

    def __init__(self, worker: Worker, clock: IReactorTime, wall: Callable[[], float]) -> None:
        self._worker = worker
        self._clock = clock
        self._wall = wall
        self._views: list[View] = []
        self._timers: list[IDelayedCall] = []
        self._store_trouble = False
        self._retrying = False
        self._stopped = False

    def attach(self, view: View) -> None:
        """Tell this view all that happens from now on."""
        self._views.append(view)

    def detach(self, view: View) -> None:
        """Tell it nothing more."""
        if view in self._views:
            self._views.remove(view)

    def ask(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """As `Worker.run`; once the chat has stopped it never fires."""
        if self._stopped:
            return Deferred()
        result: Deferred[T] = Deferred()

        def finished(value: Any) -> None:
            if not self._stopped:
                result.callback(value)
            elif isinstance(value, Failure):
                # Nobody waits for it any more.
                self._log.failure("the history failed while the chat ended", value)

        self._worker.run(call, *arguments, **named).addBoth(finished)
        return result

    def tell(self, event: Event) -> list[Deferred[None]]:
        """Tell all views; what returns are those that need time for it."""
        slow = []
        for view in list(self._views):
            try:
                had = view.handle(event)
            except Exception:
                # A view's own fault: the others, and the chat, go on.
                self._log.failure("a view failed at {event}", event=type(event).__name__)
            else:
                if had is not None:
                    slow.append(had)
        return slow

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._wall()

    def store_failed(self, error: StoreError) -> None:
        """The disk did not take something: tried again after a while."""
        if not self._store_trouble:
            self._store_trouble = True
            self._log.error("{error}", error=error)
            self.tell(StoreFailed(str(error)))
        if not self._retrying:
            self._retrying = True
            self._later(RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._store_works()

    def _store_works(self) -> None:
        if self._store_trouble:
            self._store_trouble = False
            self.tell(StoreFailed(None))

    def _later(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        self._timers = [timer for timer in self._timers if timer.active()]
        if not self._stopped:
            self._timers.append(self._clock.callLater(delay, call, *arguments))

    def _quietly(self, done: Deferred[Any]) -> None:
        def failed(failure: Any) -> None:
            failure.trap(StoreError)
            self.store_failed(failure.value)

        done.addErrback(failed)

    def _end(self) -> None:
        """Nothing may be left on the clock, and nobody is told anything more."""
        self._stopped = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()

"""The chat's access to its store and to the clock: both end with the chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat.database import StoreError
from punch.apps.chat.events import StoreFailed, Views
from punch.apps.chat.store import Store
from punch.apps.chat.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds after which the conversations try again to store what the store refused.
RETRY = 5.0


class Timers:
    """Delayed calls that are cancelled together."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._timers: list[IDelayedCall] = []
        self._stopped = False

    def later(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        """Call `call` after `delay` seconds, unless `stop` comes first."""
        self._timers = [timer for timer in self._timers if timer.active()]
        if not self._stopped:
            self._timers.append(self._clock.callLater(delay, call, *arguments))

    def stop(self) -> None:
        """Cancel all calls, and schedule no more."""
        self._stopped = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()


class Storage:
    """
    Calls of the store, and what follows when one fails.

    :param views: are told when the store fails, and when it works again.
    :param retry: is called a while after a failure.
    :ivar failing: whether the last write failed.
    """

    _log = Logger()

    def __init__(self, worker: Worker, views: Views, timers: Timers, retry: Callable[[], None]) -> None:
        self.failing = False
        self._worker = worker
        self._views = views
        self._timers = timers
        self._retry = retry
        self._retrying = False
        self._stopped = False

    def ask(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """
        Call a method of the store, as `Worker.run` does.

        :return: its result. After `stop` it never fires.
        """
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

    def failed(self, error: StoreError) -> None:
        """A write failed: tell the views, and call `retry` after `RETRY` seconds."""
        if not self.failing:
            self.failing = True
            self._log.error("{error}", error=error)
            self._views.tell(StoreFailed(str(error)))
        if not self._retrying:
            self._retrying = True
            self._timers.later(RETRY, self._try_again)

    def works(self) -> None:
        """A write succeeded."""
        if self.failing:
            self.failing = False
            self._views.tell(StoreFailed(None))

    def watch(self, done: Deferred[Any]) -> None:
        """Treat a `StoreError` of `done` as `failed` does."""

        def failed(failure: Failure) -> None:
            failure.trap(StoreError)  # type: ignore[no-untyped-call]
            assert isinstance(failure.value, StoreError)
            self.failed(failure.value)

        done.addErrback(failed)

    def stop(self) -> Deferred[None]:
        """Close the store. Fires when it is closed."""
        self._stopped = True
        return self._worker.stop()

    def _try_again(self) -> None:
        self._retrying = False
        self.works()
        self._retry()

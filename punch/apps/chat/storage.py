"""
The chat's access to its store: calls that run in a thread, one after the other, and what follows when one
fails.

The results come in the order of the calls. Calls that gather while the disk is busy share one transaction:
they cost one write together, and each still succeeds or fails by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat.events import StoreFailed, Views
from punch.apps.chat.model import ChatProblem, StoreError
from punch.apps.chat.store import Store
from punch.net.driver import Timers

P = ParamSpec("P")
T = TypeVar("T")

MAX_GROUP = 256
"""Most calls that share a transaction."""

RETRY = 5.0
"""Seconds after which the conversations try again to store what the store refused."""


class Worker(Protocol):
    """Where the store's calls are made."""

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """Make a call of the store, `run(Store.history, peer)`; fires with what it returns or raises."""

    def stop(self) -> Deferred[None]:
        """Finish what was asked for, then close the store."""


class ImmediateWorker:
    """Makes each call at once: for a store in memory, which never waits for a disk."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """Make the call; the Deferred has fired already."""
        return execute(call, self._store, *arguments, **named)

    def stop(self) -> Deferred[None]:
        """Close the store."""
        return execute(self._store.close)


class ThreadWorker:
    """
    Makes the calls in a thread of its own.

    :param reactor: fires the Deferreds in its thread.
    """

    def __init__(self, reactor: IReactorFromThreads, store: Store) -> None:
        self._reactor = reactor
        self._store = store
        self._queue: SimpleQueue[tuple[Deferred[Any], Callable[[], Any]] | None] = SimpleQueue()
        # A process that has to end at once does not wait for it: SQLite survives that.
        self._thread = Thread(target=self._work, name="punch chat store", daemon=True)
        self._stopping = False
        self._stopped: Deferred[None] = Deferred()
        self._thread.start()

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """Make the call when those before it are done."""
        if self._stopping:
            return fail(StoreError(ChatProblem.HISTORY_CLOSED))
        done: Deferred[T] = Deferred()
        self._queue.put((done, partial(call, self._store, *arguments, **named)))
        return done

    def stop(self) -> Deferred[None]:
        """Finish the calls that were made, then end the thread. Later ones fail."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        done: Deferred[None] = Deferred()
        self._stopped.addCallback(done.callback)
        return done

    def _work(self) -> None:
        going = True
        while going:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP and not self._queue.empty():
                group.append(self._queue.get())
            going = None not in group
            results = self._make([work for work in group if work is not None])
            if results:
                self._reactor.callFromThread(_deliver, results)
        self._store.close()
        self._reactor.callFromThread(self._stopped.callback, None)

    def _make(self, group: list[tuple[Deferred[Any], Callable[[], Any]]]) -> list[tuple[Deferred[Any], Any]]:
        results: list[tuple[Deferred[Any], Any]] = []
        try:
            with self._store.group():
                for done, call in group:
                    try:
                        results.append((done, call()))
                    except Exception:  # Whoever made this call gets what it raised
                        results.append((done, Failure()))  # type: ignore[no-untyped-call]
        except StoreError:
            # Nothing of it has reached the disk.
            failure = Failure()  # type: ignore[no-untyped-call]
            results = [(done, failure) for done, _ in group]
        return results


class Storage:
    """
    Calls of the store, and what follows when one fails.

    :param views: are told when the store fails, and when it works again.
    :param retry: is called a while after a failure.
    :ivar trouble: why the last write failed; None: it did not.
    """

    _log = Logger()

    def __init__(self, worker: Worker, views: Views, timers: Timers, retry: Callable[[], None]) -> None:
        self.trouble: StoreError | None = None
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

    def failed(self, failure: Failure) -> None:
        """
        A call of the store failed: tell the views, and call `retry` after `RETRY` seconds.

        Another error than `StoreError` is an error of the program, and is raised.
        """
        failure.trap(StoreError)  # type: ignore[no-untyped-call]
        error = failure.value
        assert isinstance(error, StoreError)
        if self.trouble is None:
            self.trouble = error
            self._views.tell(StoreFailed(self.trouble))
        if not self._retrying:
            self._retrying = True
            self._timers.later(RETRY, self._try_again)

    def works(self) -> None:
        """A write succeeded."""
        if self.trouble is not None:
            self.trouble = None
            self._views.tell(StoreFailed(None))

    def stop(self) -> Deferred[None]:
        """Close the store. Fires when it is closed."""
        self._stopped = True
        return self._worker.stop()

    def _try_again(self) -> None:
        self._retrying = False
        self.works()
        self._retry()


def _deliver(results: list[tuple[Deferred[Any], Any]]) -> None:
    for done, result in results:
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)

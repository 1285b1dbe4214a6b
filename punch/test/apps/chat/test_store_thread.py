"""The thread in which the store works."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Event, current_thread
from threading import enumerate as enumerate_threads
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.model import StoreError
from punch.apps.chat.storage import ThreadWorker
from punch.apps.chat.store import Store
from punch.test.apps.chat.chat_network import peer_id

BOB = peer_id(2)
OURS = b"ours" * 2

#: How long a thread may take before the test fails, in seconds.
LONG = 20.0


class Loop:
    """What a reactor does with calls from threads, when it is let."""

    def __init__(self) -> None:
        self._calls: Queue[tuple[Callable[..., Any], tuple[Any, ...]]] = Queue()
        self.turns = 0

    def callFromThread(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._calls.put((call, arguments))

    def run(self, *awaited: Deferred[Any]) -> list[Any]:
        """Until these have fired; with what."""
        results: list[list[Any]] = [[] for _ in awaited]
        for done, result in zip(awaited, results, strict=True):
            done.addBoth(result.append)
        while not all(results):
            call, arguments = self._calls.get(timeout=LONG)
            call(*arguments)
            self.turns += 1
        return [result[0] for result in results]


class ThreadWorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.loop = Loop()
        self.path = Path(self.mktemp()) / "history.sqlite"
        self.store = Store(self.path)
        before = set(enumerate_threads())
        self.worker = ThreadWorker(cast(IReactorFromThreads, self.loop), self.store)
        (self.thread,) = set(enumerate_threads()) - before
        self.addCleanup(self.end)

    def end(self) -> None:
        """No thread outlives its test."""
        self.loop.run(self.worker.stop())
        self.thread.join(LONG)
        self.assertFalse(self.thread.is_alive())

    def add(self, text: str) -> Deferred[Any]:
        return self.worker.run(Store.add, BOB, OURS, text, 1.0)

    def test_results_in_order_and_not_here(self) -> None:
        threads = []

        def noted(store: Store, number: int) -> int:
            threads.append(current_thread())
            return number

        results = self.loop.run(*(self.worker.run(noted, number) for number in range(10)))
        self.assertEqual(results, list(range(10)))
        self.assertNotIn(current_thread(), threads)

    def test_what_piles_up_goes_together(self) -> None:
        """A hundred messages that wait for the disk need one turn of it."""
        free = Event()
        self.addCleanup(free.set)
        first = self.worker.run(lambda store: free.wait(LONG))
        rest = [self.add(str(number)) for number in range(100)]
        free.set()
        messages = self.loop.run(first, *rest)[1:]
        self.assertEqual([message.id for message in messages], list(range(1, 101)))
        self.assertLessEqual(self.loop.turns, 2)

    def test_not_even_undoing_works(self) -> None:
        """If not even a rollback works, the call fails, and the thread goes on with the next one."""
        refused = ["COMMIT", "ROLLBACK"]

        def authorize(action: int, what: str | None, *_: object) -> int:
            no = action == sqlite3.SQLITE_TRANSACTION and what in refused
            return sqlite3.SQLITE_DENY if no else sqlite3.SQLITE_OK

        self.store.database.connection.set_authorizer(authorize)
        for _ in range(2):
            (failure,) = self.loop.run(self.add("lost"))
            self.assertIs(failure.type, StoreError)
        refused.clear()
        self.loop.run(self.add("still in the old transaction"))
        self.assertEqual(self.loop.run(self.add("kept"))[0].text, "kept")
        self.assertEqual([message.text for message in self.store.history(BOB)], ["kept"])

    def test_one_that_fails_is_alone(self) -> None:
        free = Event()
        self.addCleanup(free.set)
        held = self.worker.run(lambda store: free.wait(LONG))
        calls = [self.add("one"), self.add("\ud800"), self.add("two")]
        free.set()
        _, one, bad, two = self.loop.run(held, *calls)
        self.assertEqual((one.id, two.id), (1, 2))
        self.assertIs(bad.type, UnicodeEncodeError)

    def test_a_full_disk(self) -> None:
        """A call that failed is not reported as stored; when there is room again, calls succeed."""
        self.loop.run(self.add("before"))
        self.loop.run(self.worker.run(lambda store: store.database.rows("PRAGMA query_only = ON")))
        (failure,) = self.loop.run(self.add("no"))
        self.assertIs(failure.type, StoreError)
        self.loop.run(self.worker.run(lambda store: store.database.rows("PRAGMA query_only = OFF")))
        self.assertEqual(self.loop.run(self.add("yes"))[0].id, 2)

    def test_stop_finishes_what_was_begun(self) -> None:
        calls = [self.add(str(number)) for number in range(50)]
        self.loop.run(self.worker.stop(), *calls)
        store = Store(self.path)
        self.addCleanup(store.close)
        self.assertEqual(len(store.history(BOB, limit=100)), 50)
        (failure,) = self.loop.run(self.add("late"))
        self.assertIs(failure.type, StoreError)

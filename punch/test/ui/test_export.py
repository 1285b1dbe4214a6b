"""The history as a file: whole, as docs/json.md says, and written without anybody waiting for it."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import MAX_LIMIT
from punch.apps.chat.model import StoreError
from punch.apps.chat.protocol import MessageReceived
from punch.apps.chat.storage import ImmediateWorker
from punch.apps.chat.store import Store
from punch.test.apps.chat.chat_network import ChatNetwork, ChatPeer, peer_id, result
from punch.ui.command import CommandContext, CommandRefused
from punch.ui.commands import perform

P = ParamSpec("P")
T = TypeVar("T")

BOB = peer_id(2)


class ThreadStandIn(ImmediateWorker):
    """
    Stands for the store's thread.

    :ivar busy: this is that thread.
    :ivar look: called after each call.
    """

    busy = False
    look: Callable[[], object] | None = None

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        self.busy = True
        try:
            return super().run(call, *arguments, **named)
        finally:
            self.busy = False
            if self.look is not None:
                self.look()


class ExportTests(SynchronousTestCase):
    def setUp(self) -> None:
        store = Store(None)
        self.worker = ThreadStandIn(store)
        side = ChatPeer(ChatNetwork(), 1, store=store, worker=self.worker)
        self.store = store
        self.desk = CommandContext(side.chat, lambda: None)
        self.chat = side.chat
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.path = self.directory / "history"

    def do(self, name: str, **fields: Any) -> Any:
        return result(perform(self.desk, name, fields))

    def fill(self, count: int) -> None:
        """So many messages of bob."""
        self.store.record(BOB, b"x" * 8)
        self.store.receive(
            BOB, b"y" * 8, [MessageReceived(number + 1, "x" * 50) for number in range(count)], 1.0
        )

    def test_messages_are_those_of_the_history(self) -> None:
        """A message is the same object whatever was asked: a script's name for it is no other kind of id."""
        self.store.record(BOB, b"x" * 8)
        self.store.receive(
            BOB, b"y" * 8, [MessageReceived(7, "first", 12.5), MessageReceived(8, "second")], 1.0
        )
        result(self.chat.send(BOB, "third", "order-7"))
        wanted = self.do("history", peer=str(BOB))["messages"]
        self.assertEqual(self.do("export", peer=str(BOB))["messages"], wanted)
        self.do("export", file=str(self.path))
        self.assertEqual([json.loads(line) for line in self.path.read_bytes().splitlines()], wanted)
        self.assertEqual(
            [(m["id"], m.get("client_id")) for m in wanted], [(7, None), (8, None), (1, "order-7")]
        )
        self.assertEqual(["time_sent" in m for m in wanted], [True, False, False])

    def test_nobody_waits_for_the_disk(self) -> None:
        """It is written beside the reactor, a page at a time, and has its name when it is complete."""
        self.fill(3 * MAX_LIMIT + 5)
        beside: list[bool] = []
        sizes: list[int] = []
        sync = os.fsync

        def note(descriptor: int) -> None:
            beside.append(self.worker.busy)
            sync(descriptor)

        def look() -> None:
            if not self.path.exists():
                (partial,) = self.directory.iterdir()
                sizes.append(partial.stat().st_size)

        self.patch(os, "fsync", note)
        self.worker.look = look
        answer = self.do("export", file=str(self.path))
        self.assertEqual(answer, {"file": str(self.path), "messages": 3 * MAX_LIMIT + 5})
        self.assertEqual(beside, [True])
        self.assertGreaterEqual(len(set(sizes)), 4)
        self.assertEqual(len(self.path.read_bytes().splitlines()), 3 * MAX_LIMIT + 5)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_nothing(self) -> None:
        self.assertEqual(self.do("export", file=str(self.path))["messages"], 0)
        self.assertEqual(self.path.read_bytes(), b"")

    def test_without_hard_links(self) -> None:
        """On a file system without hard links, the export is written, and still replaces no file."""

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        self.patch(os, "link", no_links)
        self.fill(3)
        self.assertEqual(self.do("export", file=str(self.path))["messages"], 3)
        before = self.path.read_bytes()
        self.refused("There is a file")
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(list(self.directory.iterdir()), [self.path])

    def test_a_disk_that_is_full(self) -> None:
        """No half of it is left."""

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(os, "fsync", full)
        self.fill(3)
        self.refused("No space left")
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_a_history_that_cannot_be_read(self) -> None:
        self.store.close()
        error = self.assertRaises(StoreError, self.do, "export", file=str(self.path))
        self.assertEqual(error.code, "state")
        self.assertEqual(list(self.directory.iterdir()), [])

    def refused(self, words: str) -> None:
        """The sentence says why."""
        error = self.assertRaises(CommandRefused, self.do, "export", file=str(self.path))
        self.assertEqual(error.code, "bad-file")
        self.assertIn(words, str(error))

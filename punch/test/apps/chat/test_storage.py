"""The chat when its disk forgets, takes nothing, or takes its time."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import Deferred

from punch.apps.chat.events import (
    MessageAdded,
    StoreFailed,
)
from punch.apps.chat.model import StoreError
from punch.apps.chat.storage import RETRY
from punch.apps.chat.store import Store
from punch.node.events import CallFailed, CallState, Disconnected
from punch.test.apps.chat.chat_faults import SlowDisk
from punch.test.apps.chat.chat_network import ChatPeer, ChatTestCase, result


class LostStateTests(ChatTestCase):
    """A disk that forgot, or remembers an older time."""

    def backup(self, side: ChatPeer) -> Store:
        """What its disk holds now."""
        copy = Store(None)
        with copy.database.transaction():
            for table in ("conversation", "epoch", "message"):
                for row in side.store.database.rows(f"SELECT * FROM {table}"):
                    marks = ", ".join("?" for _ in row)
                    copy.database.run(f"INSERT INTO {table} VALUES ({marks})", *row)
        return copy

    def say_something_old(self) -> Store:
        """Both are connected, and Bob has a message; returns what Alice's disk holds then."""
        self.connect()
        self.say("old")
        self.run_for()
        return self.backup(self.alice)

    def test_a_backup_restored_by_the_sender(self) -> None:
        """Its next messages would be taken for repetitions: they arrive all the same."""
        self.connect()
        for number in range(3):
            self.say(f"old {number}")
        self.run_for()
        copy = self.backup(self.alice)
        for number in range(5):
            self.say(f"newer {number}")
        self.run_for()
        self.alice.store = copy
        self.alice = self.alice.restart(11).start()
        said = self.say("after the backup")
        self.say("and another")
        self.run_for(6.0)
        self.assertEqual(self.bob.heard()[-2:], ["after the backup", "and another"])
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)

    def test_more_is_said_after_a_backup_than_was_before(self) -> None:
        """The ids alone don't show what was lost: the times do."""
        copy = self.say_something_old()
        self.say("newer")
        self.say("newest")
        self.run_for(1.0)
        self.alice.store = copy
        self.alice = self.alice.restart(11).start()
        said = [self.say(f"after {number}") for number in range(4)]
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["old", "newer", "newest", *(message.text for message in said)])
        self.assertEqual(self.alice.states(said[0].number)[-1], "delivered")
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)

    def test_a_disk_that_is_full_after_the_backup(self) -> None:
        """The new epoch is chosen as soon as there is room for it."""
        copy = self.say_something_old()
        self.say("newer")
        self.run_for(1.0)
        self.alice.store = copy
        self.alice = self.alice.restart(11)
        said = self.say("after the backup")
        copy.database.run(
            "CREATE TEMP TRIGGER full BEFORE UPDATE OF epoch ON conversation "
            "BEGIN SELECT raise(ABORT, 'database or disk is full'); END"
        )
        self.alice.start()
        self.run_for(2.0)
        self.assertIn("disk is full", str(self.alice.of(StoreFailed)[0].error))
        copy.database.run("DROP TRIGGER full")
        self.run_for(20.0)
        self.assertEqual(self.bob.heard(), ["old", "newer", "after the backup"])
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")

    def test_a_backup_restored_while_the_other_disk_is_full(self) -> None:
        """What that one did not take is not taken for what is said under the same id after the backup."""
        copy = self.say_something_old()
        self.bob.store.database.rows("PRAGMA query_only = ON")
        self.say("newer")
        self.run_for(1.0)
        self.alice.store = copy
        self.alice = self.alice.restart(11)
        said = self.say("after the backup")
        self.bob.store.database.rows("PRAGMA query_only = OFF")
        self.alice.start()
        self.run_for(20.0)
        self.assertEqual(self.bob.heard(), ["old", "after the backup"])
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")

    def test_a_disk_that_forgot(self) -> None:
        self.connect()
        self.say("one")
        self.say("theirs", self.bob)
        self.run_for()
        self.alice.store = Store(None)
        self.alice = self.alice.restart(11).start()
        self.say("two")
        self.say("theirs too", self.bob)
        self.run_for(8.0)
        self.assertEqual(self.bob.heard(), ["one", "two"])
        self.assertEqual(self.alice.heard(), ["theirs too"])


class DiskTests(ChatTestCase):
    """A disk that takes nothing for a while."""

    def test_what_comes_meanwhile(self) -> None:
        """No mark is given for what is not safe; it is kept as soon as there is room, in order."""
        self.connect()
        self.bob.store.database.rows("PRAGMA query_only = ON")
        said = [self.say(f"m{number}") for number in range(3)]
        self.run_for(RETRY * 2)
        self.assertEqual(self.bob.heard(), [])
        self.assertEqual(self.alice.states(said[0].number), ["sent"])
        failures = [event.error for event in self.bob.of(StoreFailed)]
        self.assertIn("readonly", str(failures[0]))
        self.bob.store.database.rows("PRAGMA query_only = OFF")
        self.run_for(RETRY + 1.0)
        self.assertEqual(self.bob.heard(), ["m0", "m1", "m2"])
        self.assertEqual(self.alice.states(said[2].number), ["sent", "delivered"])
        self.assertIsNone(self.bob.of(StoreFailed)[-1].error)

    def test_marks_that_come_meanwhile(self) -> None:
        self.connect()
        said = self.say("m")
        self.alice.store.database.rows("PRAGMA query_only = ON")
        self.run_for()
        self.assertEqual(self.alice.states(said.number), ["sent"])
        self.alice.store.database.rows("PRAGMA query_only = OFF")
        self.run_for(RETRY + 1.0)
        self.assertEqual(self.alice.states(said.number), ["sent", "delivered"])

    def test_a_link_that_comes_up_meanwhile(self) -> None:
        self.say("waits")
        self.alice.store.database.rows("PRAGMA query_only = ON")
        self.connect()
        self.run_for(2.0)
        self.assertNotIn(("hangup", self.bob.id), self.alice.asked)
        self.alice.store.database.rows("PRAGMA query_only = OFF")
        self.run_for(20.0)
        self.assertEqual(self.bob.heard(), ["waits"])


class SlowDiskTests(ChatTestCase):
    """What is counted while the disk takes its time."""

    def slow(self) -> ChatPeer:
        """Alice's next process."""
        self.network.step = 0.01
        self.alice.kill()
        worker = SlowDisk(self.network.clock, self.alice.store, Random(1))
        return ChatPeer(self.network, 1, "alice", store=self.alice.store, worker=worker)

    def test_said_before_all_is_loaded(self) -> None:
        self.say("one")
        side = self.slow().start()
        side.chat.send(self.bob.id, "two")
        self.assertEqual(side.chat.conversations.undelivered(), 1)
        self.run_for(1.0)
        self.assertEqual(side.chat.conversations.undelivered(), 2)
        self.bob.start()
        self.run_for(10.0)
        self.assertEqual((self.bob.heard(), side.chat.conversations.undelivered()), (["one", "two"], 0))

    def test_said_while_all_is_erased(self) -> None:
        self.say("one")
        side = self.slow().start()
        self.run_for(1.0)
        side.chat.history.erase()
        side.chat.send(self.bob.id, "two")
        self.run_for(1.0)
        self.assertEqual(
            (side.chat.conversations.undelivered(), len(side.store.waiting_for(self.bob.id))), (1, 1)
        )

    def test_what_came_is_told_before_the_end_of_the_link(self) -> None:
        side = self.slow().start()
        self.bob.start()
        self.network.connect(self.bob, side)
        self.run_for(1.0)
        self.bob.chat.send(side.id, "last words")
        self.network.run()
        self.network.cut(side, self.bob)
        self.run_for(1.0)
        kinds = [type(event) for event in side.events]
        self.assertLess(kinds.index(MessageAdded), kinds.index(Disconnected))

    def test_what_is_being_stored_when_the_other_side_leaves(self) -> None:
        """It is under way, too: the other side is not let go before it has it."""
        side = self.slow().start()
        self.bob.start()
        self.network.connect(self.bob, side)
        self.run_for(1.0)
        side.chat.send(self.bob.id, "last words")
        left: list[list[str]] = []
        self.bob.chat.leave().addCallback(lambda _: left.append(self.bob.heard()))
        self.network.run()
        self.assertEqual(left, [])
        self.run_for(1.0)
        self.assertEqual(left, [["last words"]])

    def lose_two_links(self, side: ChatPeer) -> None:
        """The disk is still busy with what one link brought when another one has come and gone."""
        self.bob.start()
        self.network.connect(self.bob, side)
        self.run_for(1.0)
        self.bob.chat.send(side.id, "last words")
        self.network.run()
        self.network.cut(side, self.bob)
        self.network.connect(side, self.bob)
        self.network.cut(side, self.bob)

    def test_a_link_that_ends_while_the_disk_works(self) -> None:
        """No chat can begin on it, and the next one has its chat."""
        side = self.slow().start()
        self.lose_two_links(side)
        self.run_for(1.0)
        self.assertEqual(len(side.of(Disconnected)), 2)
        self.network.connect(side, self.bob)
        said = result(self.bob.chat.send(side.id, "first words"))
        self.run_for(1.0)
        self.assertEqual(side.heard(), ["last words", "first words"])
        self.assertEqual(self.bob.states(said.number)[-1], "delivered")

    def test_called_while_the_end_of_a_link_is_not_told_yet(self) -> None:
        """The end is that of the link, and not of the new call."""
        side = self.slow().start()
        self.lose_two_links(side)
        self.network.up.pop(self.bob.id)
        self.assertEqual((side.of(Disconnected), side.chat.links), ([], {}))
        side.chat.call(self.bob.id)
        self.assertEqual(side.chat.stage(self.bob.id), CallState.CALLING)
        while not side.of(Disconnected):
            self.network.clock.advance(0.01)
        self.assertEqual(side.chat.calling, {self.bob.id})
        self.run_for(1.0)
        self.assertEqual((len(side.of(CallFailed)), side.chat.calling), (1, set()))

    def test_stopped_while_such_a_link_is_not_told_yet(self) -> None:
        side = self.slow().start()
        self.lose_two_links(side)
        stopped = side.chat.stop()
        self.assertEqual(len(side.of(Disconnected)), 2)
        self.run_for(1.0)
        self.successResultOf(stopped)

    def test_had_while_a_new_stream_begins(self) -> None:
        """What a view has at the moment of a new stream gets its mark on that one."""
        side = self.slow().start()
        self.bob.start()
        self.network.connect(self.bob, side)
        self.run_for(1.0)
        side.slow = True
        said = result(self.bob.chat.send(side.id, "hi"))
        self.run_for(1.0)
        self.network.connect(self.bob, side)
        side.answers[0].callback(None)
        self.run_for(2.0)
        self.assertEqual(self.bob.states(said.number)[-1], "delivered")
        self.assertEqual(side.heard(), ["hi"])

    def test_a_disk_that_fails_while_the_chat_ends(self) -> None:
        """Nobody waits for its answer any more: the log tells it."""
        side = self.slow().start()
        self.run_for(1.0)
        side.chat.send(self.bob.id, "last words")
        side.store.database.rows("PRAGMA query_only = ON")
        side.chat.stop()
        self.run_for(1.0)
        self.assertIn("readonly", str(self.flushLoggedErrors(StoreError)[0].value))

    def test_a_disk_that_cannot_be_read(self) -> None:
        self.say("x")
        side = ChatPeer(self.network, 1, store=self.alice.store)
        side.store.close()
        started = side.chat.start()
        self.assertIsInstance(started, Deferred)
        self.failureResultOf(started, StoreError)

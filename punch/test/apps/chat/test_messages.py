"""Messages from one chat to the other: what waits, is sent, delivered and read, whatever ends meanwhile."""

from __future__ import annotations

from punch.apps.chat import MessageState
from punch.apps.chat.conversation import MAX_UNHANDLED
from punch.apps.chat.conversations import LEAVE_TIMEOUT, MAX_CONVERSATIONS, MAX_UNDELIVERED
from punch.apps.chat.events import (
    ChatBroken,
    MessageAdded,
    MessageChanged,
    MessagesDelivered,
)
from punch.apps.chat.model import StoreError
from punch.apps.chat.store import Store
from punch.identity import PeerID
from punch.test.apps.chat.chat_network import ChatPeer, ChatTestCase, result
from punch.test.apps.chat.chat_states import StatesInTurn


class MessageTests(ChatTestCase):
    """From one disk to the other."""

    def test_states(self) -> None:
        """Typed to a peer who is away, it waits; then it is sent, delivered, and read."""
        said = self.say("hello")
        self.assertEqual((said.state, said.id), (MessageState.WAITING, 1))
        self.run_for(1.0)
        self.assertEqual(self.alice.call_count(self.bob), 1)
        self.bob.start()
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["hello"])
        self.assertEqual(self.alice.states(said.number), ["waiting", "sent", "delivered"])
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)
        result(self.bob.chat.history.read(self.alice.id))
        self.run_for()
        self.assertEqual(self.alice.states(said.number)[-1], "read")
        (kept,) = result(self.alice.chat.history.messages(self.bob.id))
        self.assertEqual(kept.state, MessageState.READ)
        (theirs,) = result(self.bob.chat.history.messages(self.alice.id))
        self.assertEqual(
            (theirs.state, theirs.text, theirs.time_sent), (MessageState.READ, "hello", said.time)
        )

    def test_with_a_link(self) -> None:
        self.connect()
        said = self.say("now")
        self.assertEqual(said.state, MessageState.SENT)
        self.run_for()
        self.assertEqual(self.alice.states(said.number), ["sent", "delivered"])
        self.assertEqual(self.alice.call_count(self.bob), 0)

    def test_nothing_goes_out_before_it_is_safe(self) -> None:
        self.connect()
        self.alice.store.database.rows("PRAGMA query_only = ON")
        failed = self.alice.chat.send(self.bob.id, "lost?")
        self.failureResultOf(failed, StoreError)
        self.run_for(1.0)
        self.assertEqual(self.bob.heard(), [])
        self.assertEqual(
            (self.alice.chat.conversations.undelivered(), self.alice.chat.conversations.undelivered_size()),
            (0, 0),
        )
        self.alice.store.database.rows("PRAGMA query_only = OFF")
        self.say("kept")
        self.run_for()
        self.assertEqual(self.bob.heard(), ["kept"])

    def test_both_ways_over_many_links(self) -> None:
        self.connect()
        for number in range(20):
            self.say(f"a{number}")
            self.say(f"b{number}", self.bob)
            if number % 3 == 0:
                self.cut()
                self.network.connect(self.bob, self.alice)
            if number % 2:
                self.run_for()
        self.run_for()
        self.assertEqual(self.bob.heard(), [f"a{number}" for number in range(20)])
        self.assertEqual(self.alice.heard(), [f"b{number}" for number in range(20)])
        self.assertEqual(
            (self.alice.chat.conversations.undelivered(), self.bob.chat.conversations.undelivered()), (0, 0)
        )

    def test_a_link_that_ends_under_way(self) -> None:
        """When the link ends, sent messages wait again, and the views are told."""
        self.connect()
        said = self.say("under way")
        self.cut()
        self.assertEqual(self.alice.states(said.number), ["sent", "waiting"])
        self.assertEqual(result(self.alice.chat.history.messages(self.bob.id))[0].state, MessageState.WAITING)
        self.run_for(6.0)
        self.assertEqual(self.alice.states(said.number), ["sent", "waiting", "sent", "delivered"])
        self.assertEqual(self.bob.heard(), ["under way"])

    def test_after_either_side_restarts(self) -> None:
        self.say("one")
        self.alice = self.alice.restart(11).start()
        self.assertEqual(self.alice.chat.conversations.undelivered(self.bob.id), 1)
        self.say("two")
        self.connect()
        self.assertEqual(self.bob.heard(), ["one", "two"])
        self.bob = self.bob.restart(12).start()
        self.say("three")
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["three"])
        self.assertEqual([m.id for m in result(self.bob.chat.history.messages(self.alice.id))], [1, 2, 3])
        self.assertEqual(
            {m.state for m in result(self.alice.chat.history.messages(self.bob.id))}, {MessageState.DELIVERED}
        )

    def test_a_scripts_own_id_outlives_its_process(self) -> None:
        result(self.alice.chat.send(self.bob.id, "one", "order-7"))
        self.alice = self.alice.restart(11).start()
        self.connect()
        marks = [e for e in self.alice.of(MessageChanged) if e.message.state is MessageState.DELIVERED]
        self.assertEqual([e.client_id for e in marks], ["order-7"])

    def test_the_mark_waits_for_the_views(self) -> None:
        self.connect()
        self.bob.slow = True
        first, second = self.say("one"), self.say("two")
        self.run_for()
        self.assertEqual(self.bob.chat.conversations.unhandled(self.alice.id), 2)
        self.bob.answers[1].callback(None)
        self.run_for()
        self.assertEqual(self.alice.states(first.number), ["sent"])
        self.bob.answers[0].callback(None)
        self.run_for()
        self.assertEqual(self.alice.states(first.number), ["sent", "delivered"])
        self.assertEqual(self.alice.states(second.number), ["sent", "delivered"])
        self.assertTrue(self.bob.of(MessagesDelivered))

    def test_a_view_that_never_had_it(self) -> None:
        """The next process shows it once more, and says so; the history has it once."""
        self.connect()
        self.bob.slow = True
        said = self.say("seen?")
        self.run_for()
        self.bob = self.bob.restart(12).start()
        self.assertEqual([(e.message.text, e.again) for e in self.bob.of(MessageAdded)], [("seen?", True)])
        self.run_for(6.0)
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")
        self.assertEqual(self.bob.heard(), ["seen?"])
        self.assertEqual(len(result(self.bob.chat.history.messages(self.alice.id))), 1)
        self.bob = self.bob.restart(13).start()
        self.assertEqual(self.bob.of(MessageAdded), [])

    def test_a_mark_that_no_view_had(self) -> None:
        """The process is killed after the mark was stored and before it was told: the next one tells it."""
        self.connect()
        self.say("told")
        self.run_for()
        self.alice.deaf = True
        untold = [self.say(text) for text in ("delivered", "read")]
        self.run_for()
        result(self.bob.chat.history.read(self.alice.id))
        self.run_for()
        waiting = self.alice.restart(11)
        waiting.deaf = True
        again = waiting.start().restart(12).start()
        for side in (waiting, again):
            told = [(e.message.text, str(e.message.state)) for e in side.of(MessageChanged) if e.again]
            marks = [(text, "delivered") for text in ("delivered", "read")]
            self.assertEqual(told, [*marks, *((text, "read") for text in ("told", "delivered", "read"))])
        last = again.restart(13).start()
        self.assertEqual(last.of(MessageChanged), [])
        self.assertEqual(len(untold), 2)

    def test_back_to_an_earlier_state(self) -> None:
        """What came before the sender was on another disk for a while comes once, and gets its mark."""
        self.connect()
        self.bob.slow = True
        disk, said = self.alice.store, self.say("seven")
        self.run_for()
        self.alice.kill()
        self.bob.answers.pop().callback(None)
        self.bob.slow = False
        for seed in (11, 12):
            self.alice = self.alice.restart(seed, Store(None)).start()
            self.say(f"without history {seed}")
            self.run_for(6.0)
        self.alice = self.alice.restart(13, disk).start()
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["seven", "without history 11", "without history 12"])
        self.assertEqual(self.alice.states(said.number), ["sent", "delivered"])

    def test_back_to_an_earlier_state_before_it_was_shown(self) -> None:
        """The mark of what came in one epoch comes even if views have it together with that of another."""
        self.connect()
        self.bob.slow = True
        disk, said = self.alice.store, self.say("seven")
        self.run_for()
        self.alice = self.alice.restart(11, Store(None)).start()
        self.say("without history")
        self.run_for(6.0)
        self.alice = self.alice.restart(12, disk).start()
        self.run_for(6.0)
        self.assertEqual(self.alice.states(said.number), ["sent"])
        for answer in self.bob.answers[::-1]:
            answer.callback(None)
        self.run_for()
        self.assertEqual(self.alice.states(said.number), ["sent", "delivered"])
        self.assertEqual(self.bob.heard(), ["seven", "without history"])
        self.assertEqual(self.bob.store.undelivered_here(), [])

    def test_back_to_a_backup_of_an_earlier_state(self) -> None:
        """A message with the id of another one is not taken for a repetition."""
        self.connect()
        self.say("before")
        self.run_for()
        backup = Store(None)
        backup.record(self.bob.id, self.alice.store.record(self.bob.id, b"").epoch)
        self.alice = self.alice.restart(11, Store(None)).start()
        self.say("without history")
        self.run_for(6.0)
        self.alice = self.alice.restart(12, backup).start()
        self.assertEqual([self.say("after").id, self.say("later").id], [1, 2])
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["before", "without history", "after", "later"])
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)

    def test_many_states_in_turn(self) -> None:
        """
        Killed and back with another state again and again: everything once, in each state's order.
        `tests/simulation/test_chat_faults.py` has more seeds.
        """
        for seed in range(3):
            self.assertEqual(StatesInTurn(seed).run(), [], f"seed {seed}")

    def test_reading_while_the_sender_uses_another_state(self) -> None:
        """The mark means nothing to the sender of today, and gets to that of tomorrow."""
        self.connect()
        disk, said = self.alice.store, self.say("seven")
        self.run_for()
        self.alice = self.alice.restart(11, Store(None)).start()
        self.alice.chat.call(self.bob.id)
        self.run_for()
        result(self.bob.chat.history.read(self.alice.id))
        self.run_for()
        self.assertEqual(self.alice.of(ChatBroken), [])
        self.assertTrue(self.alice.chat.conversations.streaming(self.bob.id))
        self.alice = self.alice.restart(12, disk).start()
        self.alice.chat.call(self.bob.id)
        self.run_for()
        self.assertEqual(self.alice.states(said.number), ["read"])

    def test_marks_between_the_greetings(self) -> None:
        """They wait until it is clear in which state the sender is."""
        for back in (True, False):
            with self.subTest(back=back):
                self.make_world()
                self.connect()
                self.bob.slow = True
                disk, said = self.alice.store, self.say("seven")
                self.run_for()
                store = disk if back else Store(None)
                self.alice = self.alice.restart(11, store).start()
                self.network.connect(self.alice, self.bob)
                self.bob.answers.pop().callback(None)
                result(self.bob.chat.history.read(self.alice.id))
                self.run_for()
                self.assertEqual(self.alice.of(ChatBroken), [])
                self.assertTrue(self.alice.chat.conversations.streaming(self.bob.id))
                states = ["sent", "delivered", "read"] if back else []
                self.assertEqual(self.alice.states(said.number), states)

    def test_a_view_that_fails(self) -> None:
        class Broken:
            can_answer = False

            def handle(self, event: object) -> None:
                raise RuntimeError("the view's own")

        self.bob.chat.views.attach(Broken())
        self.connect()
        said = self.say("hi")
        self.run_for()
        self.assertEqual(self.bob.heard(), ["hi"])
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")
        self.assertTrue(self.flushLoggedErrors(RuntimeError))

    def test_reading_stops_while_views_are_behind(self) -> None:
        self.connect()
        self.bob.slow = True
        for number in range(MAX_UNHANDLED + 10):
            self.say(str(number))
        self.run_for()
        before = len(self.bob.answers)
        self.say("later")
        self.run_for()
        self.assertEqual(len(self.bob.answers), before)
        self.bob.slow = False
        for answer in self.bob.answers:
            answer.callback(None)
        self.run_for()
        self.assertEqual(len(self.bob.heard()), MAX_UNHANDLED + 11)

    def test_a_second_view(self) -> None:
        other = ChatPeer(self.network, 5)
        self.alice.chat.views.attach(other)
        said = self.say("mine")
        self.assertEqual([e.message for e in other.of(MessageAdded)], [said])
        self.alice.chat.views.detach(other)
        self.say("not told")
        self.assertEqual(len(other.of(MessageAdded)), 1)

    def test_what_cannot_be_said(self) -> None:
        send = self.alice.chat.send
        self.assert_error("too-long", send, self.bob.id, "x" * 65_536)
        self.assert_error("too-long", send, self.bob.id, "é" * 5_000_000)
        self.assert_error("bad-text", send, self.bob.id, "\ud800")
        self.assert_error("self", send, self.alice.id, "me")
        self.assert_error("bad-peer-id", send, "nobody", "x")
        self.assert_error("bad-peer-id", send, str(self.bob.id)[:-1] + "a", "x")
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)
        self.assertEqual(list(self.alice.chat.conversations), [], "nothing was said in any")
        self.assertEqual(self.say("").text, "")
        self.assertEqual(self.say("é" * 8192).id, 2)

    def test_an_outbox_that_is_full(self) -> None:
        self.alice.chat.conversations.open(self.bob.id).counted(MAX_UNDELIVERED, 0)
        self.assert_error("outbox-full", self.alice.chat.send, self.bob.id, "x")

    def test_chats_in_memory_are_few(self) -> None:
        self.say("waits")
        for number in range(MAX_CONVERSATIONS + 20):
            self.alice.chat.conversations.open(PeerID((number + 1).to_bytes(32, "big")))
        self.assertLessEqual(len(list(self.alice.chat.conversations)), MAX_CONVERSATIONS)
        self.assertEqual(self.alice.chat.conversations.undelivered(self.bob.id), 1)

    def test_farewell(self) -> None:
        self.connect()
        self.say("last words")
        left: list[object] = []
        self.alice.chat.leave().addCallback(left.append)
        self.assertEqual(left, [])
        self.run_for()
        self.assertEqual((left, self.bob.heard()), ([None], ["last words"]))

    def test_farewell_of_somebody_who_does_not_answer(self) -> None:
        self.connect()
        self.bob.slow = True
        self.say("wait", self.alice)
        left: list[object] = []
        self.bob.chat.send(self.alice.id, "me too")
        self.network.streams[0].open = False
        self.alice.chat.leave().addCallback(left.append)
        self.run_for(LEAVE_TIMEOUT - 0.3)
        self.assertEqual(left, [])
        self.run_for(0.6)
        self.assertEqual(left, [None])

    def test_stop(self) -> None:
        self.connect()
        self.say("x")
        result(self.alice.chat.stop())
        result(self.alice.chat.stop())
        result(self.bob.chat.stop())
        self.network.streams.clear()
        self.assertEqual(self.network.clock.getDelayedCalls(), [])

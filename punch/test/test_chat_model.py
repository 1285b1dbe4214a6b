"""The chat as one object: what waits, what is sent, delivered and read, and what others may do to it."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import ChatError, Message, Stage, State
from punch.apps.chat.chat import CHATLESS, FAREWELL, MAX_OUTBOX_MESSAGES, MAX_TALKS, NAME_PAUSE
from punch.apps.chat.database import StoreError
from punch.apps.chat.desk import RETRY
from punch.apps.chat.events import (
    ChatBroken,
    ContactChanged,
    ContactForgotten,
    Handled,
    HistoryErased,
    MessageAdded,
    MessageChanged,
    NameChanged,
    NetcheckDone,
    NobodyToAsk,
    StillAway,
    StoreFailed,
)
from punch.apps.chat.protocol import NO_EPOCH, STREAM_NAME
from punch.apps.chat.store import DAY, Incoming, Store
from punch.apps.chat.talk import MAX_UNHANDLED
from punch.identity import PeerID
from punch.link.events import Role
from punch.link.link import Link
from punch.peer.events import Calling, Connected, Disconnected, Failed, IncomingCall, PathLost
from punch.test.chat_lab import Connection, Exchange, Side, peer_id, result
from punch.test.chat_torture import SlowDisk
from punch.test.test_chat_protocol import THEIRS, ack, frame, hello, message


class ChatTestCase(SynchronousTestCase):
    """Two sides; bob isn't there yet."""

    def setUp(self) -> None:
        self.exchange = Exchange()
        self.alice = Side(self.exchange, 1, "alice").start()
        self.bob = Side(self.exchange, 2, "bob")

    def run_for(self, seconds: float = 0.0) -> None:
        """Let things happen."""
        self.exchange.run(seconds)

    def connect(self) -> None:
        """A link with a chat on it."""
        self.bob.start()
        self.exchange.connect(self.alice, self.bob)
        self.run_for()

    def cut(self) -> None:
        """The link is lost."""
        self.exchange.cut(self.alice, self.bob)

    def say(self, text: str, side: Side | None = None) -> Message:
        """Alice, or bob, says something; returned is what is on the disk then."""
        side = side or self.alice
        return result(side.chat.send((self.bob if side is self.alice else self.alice).id, text))

    def restart(self, side: Side, seed: int) -> Side:
        """Its process is killed, and another one begins on the same disk."""
        side.kill()
        again = Side(self.exchange, seed, side.chat.name, store=side.store, book=side.book)
        again.id, again.chat.me = side.id, side.id
        return again

    def assert_error(self, code: str, call: object, *arguments: object) -> str:
        error = self.assertRaises(ChatError, call, *arguments)
        self.assertEqual(error.code, code)
        return str(error)


class MessageTests(ChatTestCase):
    """From one disk to the other."""

    def test_states(self) -> None:
        """Typed to a peer who is away, it waits; then it is sent, delivered, and read."""
        said = self.say("hello")
        self.assertEqual((said.state, said.id), (State.WAITING, 1))
        self.run_for(1.0)
        self.assertEqual(self.alice.calls(self.bob), 1)
        self.bob.start()
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["hello"])
        self.assertEqual(self.alice.states(said.number), ["waiting", "sent", "delivered"])
        self.assertEqual(self.alice.chat.undelivered(), 0)
        result(self.bob.chat.read(self.alice.id))
        self.run_for()
        self.assertEqual(self.alice.states(said.number)[-1], "read")
        (kept,) = result(self.alice.chat.history(self.bob.id))
        self.assertEqual(kept.state, State.READ)
        (theirs,) = result(self.bob.chat.history(self.alice.id))
        self.assertEqual((theirs.state, theirs.text, theirs.time_sent), (State.READ, "hello", said.time))

    def test_with_a_link(self) -> None:
        self.connect()
        said = self.say("now")
        self.assertEqual(said.state, State.SENT)
        self.run_for()
        self.assertEqual(self.alice.states(said.number), ["sent", "delivered"])
        self.assertEqual(self.alice.calls(self.bob), 0)

    def test_nothing_goes_out_before_it_is_safe(self) -> None:
        self.connect()
        self.alice.store.database.rows("PRAGMA query_only = ON")
        failed = self.alice.chat.send(self.bob.id, "lost?")
        self.failureResultOf(failed, StoreError)
        self.run_for(1.0)
        self.assertEqual(self.bob.heard(), [])
        self.assertEqual((self.alice.chat.undelivered(), self.alice.chat.undelivered_bytes()), (0, 0))
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
                self.exchange.connect(self.bob, self.alice)
            if number % 2:
                self.run_for()
        self.run_for()
        self.assertEqual(self.bob.heard(), [f"a{number}" for number in range(20)])
        self.assertEqual(self.alice.heard(), [f"b{number}" for number in range(20)])
        self.assertEqual((self.alice.chat.undelivered(), self.bob.chat.undelivered()), (0, 0))

    def test_a_link_that_ends_under_way(self) -> None:
        """What was sent waits again, and says so."""
        self.connect()
        said = self.say("under way")
        self.cut()
        self.assertEqual(self.alice.states(said.number), ["sent", "waiting"])
        self.assertEqual(result(self.alice.chat.history(self.bob.id))[0].state, State.WAITING)
        self.run_for(6.0)
        self.assertEqual(self.alice.states(said.number), ["sent", "waiting", "sent", "delivered"])
        self.assertEqual(self.bob.heard(), ["under way"])

    def test_after_either_side_restarts(self) -> None:
        self.say("one")
        self.alice = self.restart(self.alice, 11).start()
        self.assertEqual(self.alice.chat.undelivered(self.bob.id), 1)
        self.say("two")
        self.connect()
        self.assertEqual(self.bob.heard(), ["one", "two"])
        self.bob = self.restart(self.bob, 12).start()
        self.say("three")
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["three"])
        self.assertEqual([m.id for m in result(self.bob.chat.history(self.alice.id))], [1, 2, 3])
        self.assertEqual({m.state for m in result(self.alice.chat.history(self.bob.id))}, {State.DELIVERED})

    def test_a_scripts_own_id_outlives_its_process(self) -> None:
        result(self.alice.chat.send(self.bob.id, "one", "order-7"))
        self.alice = self.restart(self.alice, 11).start()
        self.connect()
        marks = [e for e in self.alice.of(MessageChanged) if e.message.state is State.DELIVERED]
        self.assertEqual([e.client_id for e in marks], ["order-7"])

    def test_the_mark_waits_for_the_views(self) -> None:
        self.connect()
        self.bob.slow = True
        first, second = self.say("one"), self.say("two")
        self.run_for()
        self.assertEqual(self.bob.chat.unhandled(self.alice.id), 2)
        self.bob.answers[1].callback(None)
        self.run_for()
        self.assertEqual(self.alice.states(first.number), ["sent"])
        self.bob.answers[0].callback(None)
        self.run_for()
        self.assertEqual(self.alice.states(first.number), ["sent", "delivered"])
        self.assertEqual(self.alice.states(second.number), ["sent", "delivered"])
        self.assertTrue(self.bob.of(Handled))

    def test_a_view_that_never_had_it(self) -> None:
        """The next process shows it once more, and says so; the history has it once."""
        self.connect()
        self.bob.slow = True
        said = self.say("seen?")
        self.run_for()
        self.bob = self.restart(self.bob, 12).start()
        self.assertEqual([(e.message.text, e.again) for e in self.bob.of(MessageAdded)], [("seen?", True)])
        self.run_for(6.0)
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")
        self.assertEqual(self.bob.heard(), ["seen?"])
        self.assertEqual(len(result(self.bob.chat.history(self.alice.id))), 1)
        self.bob = self.restart(self.bob, 13).start()
        self.assertEqual(self.bob.of(MessageAdded), [])

    def test_a_view_that_fails(self) -> None:
        class Broken:
            can_answer = False

            def handle(self, event: object) -> None:
                raise RuntimeError("the view's own")

        self.bob.chat.attach(Broken())
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
        other = Side(self.exchange, 5)
        self.alice.chat.attach(other)
        said = self.say("mine")
        self.assertEqual([e.message for e in other.of(MessageAdded)], [said])
        self.alice.chat.detach(other)
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
        self.assertEqual(self.alice.chat.undelivered(), 0)
        self.assertEqual(self.say("").text, "")
        self.assertEqual(self.say("é" * 8192).id, 2)

    def test_an_outbox_that_is_full(self) -> None:
        self.alice.chat._talk(self.bob.id).counted(MAX_OUTBOX_MESSAGES, 0)
        self.assert_error("outbox-full", self.alice.chat.send, self.bob.id, "x")

    def test_chats_in_memory_are_few(self) -> None:
        self.say("waits")
        for number in range(MAX_TALKS + 20):
            self.alice.chat._talk(PeerID((number + 1).to_bytes(32, "big")))
        self.assertLessEqual(len(self.alice.chat._talks), MAX_TALKS)
        self.assertEqual(self.alice.chat.undelivered(self.bob.id), 1)

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
        self.exchange.lines[0].open = False
        self.alice.chat.leave().addCallback(left.append)
        self.run_for(FAREWELL - 0.3)
        self.assertEqual(left, [])
        self.run_for(0.6)
        self.assertEqual(left, [None])

    def test_stop(self) -> None:
        self.connect()
        self.say("x")
        result(self.alice.chat.stop())
        result(self.alice.chat.stop())
        result(self.bob.chat.stop())
        self.exchange.lines.clear()
        self.assertEqual(self.exchange.clock.getDelayedCalls(), [])


class LostStateTests(ChatTestCase):
    """A disk that forgot, or remembers an older time."""

    def backup(self, side: Side) -> Store:
        """What its disk holds now."""
        copy = Store(None)
        with copy.database.transaction():
            for table in ("conversation", "message"):
                columns = "*"
                for row in side.store.database.rows(f"SELECT {columns} FROM {table}"):
                    marks = ", ".join("?" for _ in row)
                    copy.database.run(f"INSERT INTO {table} VALUES ({marks})", *row)
        return copy

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
        self.alice = self.restart(self.alice, 11).start()
        said = self.say("after the backup")
        self.say("and another")
        self.run_for(6.0)
        self.assertEqual(self.bob.heard()[-2:], ["after the backup", "and another"])
        self.assertEqual(self.alice.states(said.number)[-1], "delivered")
        self.assertEqual(self.alice.chat.undelivered(), 0)

    def test_a_disk_that_forgot(self) -> None:
        self.connect()
        self.say("one")
        self.say("theirs", self.bob)
        self.run_for()
        self.alice.store = Store(None)
        self.alice = self.restart(self.alice, 11).start()
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
        failures = [event.text for event in self.bob.of(StoreFailed)]
        self.assertIn("readonly", failures[0] or "")
        self.bob.store.database.rows("PRAGMA query_only = OFF")
        self.run_for(RETRY + 1.0)
        self.assertEqual(self.bob.heard(), ["m0", "m1", "m2"])
        self.assertEqual(self.alice.states(said[2].number), ["sent", "delivered"])
        self.assertIsNone(self.bob.of(StoreFailed)[-1].text)

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
        self.run_for(CHATLESS + 1.0)
        self.assertIn(("hangup", self.bob.id), self.alice.asked)
        self.alice.store.database.rows("PRAGMA query_only = OFF")
        self.run_for(20.0)
        self.assertEqual(self.bob.heard(), ["waits"])


class HostileTests(ChatTestCase):
    """A peer that does not keep to the protocol."""

    def setUp(self) -> None:
        super().setUp()
        self.bob.start()
        # Only alice's end is a chat: what the other side says is played here.
        for side, other, role in ((self.alice, self.bob, Role.CALLEE), (self.bob, self.alice, Role.CALLER)):
            side.links[other.id] = Connection(self.exchange, side, other, role)
        self.link = cast(Link, self.alice.links[self.bob.id])
        self.transport = StringTransport()
        self.stream = self.alice.handlers[STREAM_NAME](self.link)
        self.alice.chat.links[self.bob.id] = self.link
        self.stream.makeConnection(self.transport)

    def hear(self, data: bytes) -> None:
        """The other side says it."""
        self.stream.dataReceived(data)
        self.exchange.clock.advance(0)

    def broken(self, *words: str) -> None:
        """The link is hung up, and the views know why."""
        self.assertIn(("hangup", self.bob.id), self.alice.asked)
        (event,) = self.alice.of(ChatBroken)
        for word in words:
            self.assertIn(word, event.text)

    def test_never_acknowledges(self) -> None:
        self.hear(hello())
        for number in range(50):
            self.say(str(number))
        self.hear(message(1, b"but it talks"))
        self.assertEqual(self.alice.heard(), ["but it talks"])
        self.assertEqual(self.alice.chat.undelivered(), 50)
        self.assertEqual(result(self.alice.chat.conversation(self.bob.id)).waiting, 50)

    def test_acknowledges_what_was_never_sent(self) -> None:
        said = self.say("one")
        self.hear(hello() + ack(2))
        self.broken("never sent")
        self.assertEqual(self.alice.states(said.number)[0], "sent")
        self.assertEqual(self.alice.chat.undelivered(), 1)

    def test_duplicates(self) -> None:
        self.hear(hello() + message(1, b"a") + message(1, b"a"))
        self.broken("out of order")
        self.assertEqual(self.alice.heard(), ["a"])

    def test_reordered(self) -> None:
        self.hear(hello() + message(5, b"e") + message(4, b"d"))
        self.broken()
        self.assertEqual(self.alice.heard(), ["e"])

    def test_duplicates_on_another_stream(self) -> None:
        self.hear(hello() + message(1, b"a") + message(2, b"b"))
        again = self.alice.handlers[STREAM_NAME](self.link)
        transport = StringTransport()
        again.makeConnection(transport)
        transport.clear()
        again.dataReceived(hello() + message(1, b"a") + message(2, b"b") + message(3, b"c"))
        self.assertEqual(self.alice.heard(), ["a", "b", "c"])
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(transport.value()[-len(ack(3)) :], ack(3))

    def test_nonsense(self) -> None:
        self.hear(b"GET / HTTP/1.1\r\n\r\n" * 100)
        self.broken("frame of")
        self.hear(hello() + message(1, b"late"))
        self.assertEqual(self.alice.heard(), [])

    def test_what_came_before_nonsense_counts(self) -> None:
        self.hear(hello() + message(1, b"fine") + message(2, b"\xff"))
        self.broken("UTF-8")
        self.assertEqual(self.alice.heard(), ["fine"])

    def test_a_hello_that_knows_our_future_again_and_again(self) -> None:
        """It costs a new epoch and a new stream, and nothing is believed."""
        self.say("kept")
        ours = self.transport.value()[3:11]
        self.hear(hello(THEIRS, ours, 99, 99) + ack(1))
        self.assertEqual(self.alice.chat.undelivered(), 1)
        renewed = self.alice.store.record(self.bob.id, b"x" * 8).epoch
        self.assertNotEqual(renewed, ours)
        self.stream = self.alice.handlers[STREAM_NAME](self.link)
        self.stream.makeConnection(StringTransport())
        self.hear(hello(THEIRS, renewed, 99, 99))
        self.broken("never sent")
        self.assertEqual(self.alice.store.record(self.bob.id, b"x" * 8).epoch, renewed)

    def test_names(self) -> None:
        """What a stranger calls himself is cut, and changes no petname."""
        self.alice.chat.name_peer(self.bob.id, "bob")
        self.hear(hello() + frame(6, b"n" * 10_000) + frame(6, "\u202eevil".encode()))
        contact = self.alice.chat.contact("bob")
        self.assertEqual((contact.name, contact.claimed), ("bob", "\u202eevil"))
        self.run_for(NAME_PAUSE)
        self.assertEqual([len(e.contact.claimed) for e in self.alice.of(ContactChanged)][-2:], [64, 5])

    def test_many_names(self) -> None:
        """Who changes his name all the time is no work for the views: they hear the last one, in a moment."""
        self.hear(hello(THEIRS))
        for number in range(2000):
            self.hear(frame(6, f"name {number}".encode()))
        self.assertEqual([e.contact.claimed for e in self.alice.of(ContactChanged)], ["name 0"])
        self.run_for(NAME_PAUSE * 3)
        self.assertEqual([e.contact.claimed for e in self.alice.of(ContactChanged)], ["name 0", "name 1999"])
        self.hear(frame(6, b"Bob"))
        self.assertEqual(self.alice.of(ContactChanged)[-1].contact.claimed, "Bob")

    def test_markup_is_only_text(self) -> None:
        text = "<script>alert(1)</script>\x1b[2J\u202e\0\r\n"
        self.hear(hello() + message(1, text.encode()))
        self.assertEqual(self.alice.heard(), [text])
        self.assertEqual(result(self.alice.chat.search("SCRIPT"))[0].text, text)

    def test_greetings_of_nobody(self) -> None:
        self.hear(hello(NO_EPOCH))
        self.broken("epoch")


class CallTests(ChatTestCase):
    """Calls of ours and of others, and those that the chat places by itself."""

    def test_called_again_until_it_is_there(self) -> None:
        self.say("waits")
        self.run_for(60.0)
        calls = self.alice.calls(self.bob)
        self.assertGreaterEqual(calls, 4)
        self.assertLessEqual(calls, 12)
        self.assertEqual((self.alice.of(Calling), self.alice.of(Failed)), ([], []))
        away = self.alice.of(StillAway)
        self.assertEqual((away[0].reason, away[0].peer), ("not-registered", self.bob.id))
        self.assertGreater(away[0].retry_in or 0.0, 3.9)
        self.bob.start()
        self.run_for(31.0)
        self.assertEqual(self.bob.heard(), ["waits"])
        self.run_for(600.0)
        self.assertEqual(self.alice.calls(self.bob), calls + 1)

    def test_nobody_is_called_when_nothing_waits(self) -> None:
        self.connect()
        self.say("x")
        self.run_for()
        self.cut()
        self.run_for(600.0)
        self.assertEqual(self.alice.calls(self.bob), 0)

    def test_the_users_own_call(self) -> None:
        self.alice.chat.call(self.bob.id)
        self.assertEqual(self.alice.chat.calling, {self.bob.id})
        self.run_for()
        self.assertEqual(len(self.alice.of(Failed)), 1)
        self.assertEqual(self.alice.chat.calling, set())
        self.run_for(600.0)
        self.assertEqual(self.alice.calls(self.bob), 1)

    def test_a_call_of_the_chat_becomes_the_users(self) -> None:
        self.say("waits")
        self.assertEqual(self.alice.of(Calling), [])
        self.alice.chat.call(self.bob.id)
        self.assertEqual(len(self.alice.of(Calling)), 1)
        self.run_for()
        self.assertEqual(len(self.alice.of(Failed)), 1)

    def test_hung_up_is_hung_up(self) -> None:
        """Even if something waits, until the user wants something again."""
        self.connect()
        self.bob.slow = True
        self.say("not had")
        self.run_for()
        self.alice.chat.hangup(self.bob.id)
        self.run_for(600.0)
        self.assertEqual(self.alice.calls(self.bob), 0)
        self.bob.slow = False
        self.say("please")
        self.run_for(1.0)
        self.assertEqual(self.alice.calls(self.bob), 1)

    def test_questions(self) -> None:
        eve = peer_id(9)
        self.alice.happen(IncomingCall(eve, "eve", known=False))
        self.assertEqual((self.alice.chat.questions, self.alice.chat.stage(eve)), ([eve], Stage.RINGING))
        self.assertEqual(self.alice.chat.contact(eve).claimed, "eve")
        self.alice.chat.accept(str(eve).upper())
        self.assertEqual(self.alice.asked, [("accept", eve)])
        self.assert_error("no-call", self.alice.chat.accept, eve)
        self.alice.happen(IncomingCall(eve, "eve", known=False))
        self.alice.chat.reject(eve)
        self.assertEqual((self.alice.asked[-1], self.alice.chat.questions), (("reject", eve), []))
        self.alice.happen(IncomingCall(eve, "eve", known=False))
        self.alice.happen(Failed(eve, "cancelled", "They gave up."))
        self.assertEqual(self.alice.chat.questions, [])

    def test_nobody_to_ask(self) -> None:
        self.alice.can_answer = False
        self.alice.happen(IncomingCall(peer_id(9), "eve", known=False))
        self.assertEqual(self.alice.of(NobodyToAsk), [NobodyToAsk(peer_id(9))])
        self.assertEqual(self.alice.asked, [("reject", peer_id(9))])
        self.alice.happen(IncomingCall(peer_id(8), "known", known=True, decided=True))
        self.assertEqual(len(self.alice.asked), 1)

    def test_a_link_without_its_chat(self) -> None:
        self.connect()
        self.exchange.lines[0].close()
        self.run_for(CHATLESS + 0.3)
        self.assertIn(("hangup", self.bob.id), self.alice.asked)

    def test_a_link_whose_chat_is_yet_to_come(self) -> None:
        """The chat of the link before has ended; that of this one may take its time to arrive."""
        self.connect()
        line, before = self.exchange.lines[0], self.bob.links[self.alice.id]
        after = Connection(self.exchange, self.bob, self.alice, Role.CALLEE)
        self.bob.links[self.alice.id] = after
        self.bob.happen(replace(self.bob.of(Connected)[-1], link=cast(Link, after)))
        self.assertIsNot(before, after)
        line.close()
        self.run_for(3 * CHATLESS)
        self.assertNotIn(("hangup", self.alice.id), self.bob.asked)

    def test_links(self) -> None:
        self.connect()
        link = self.alice.chat.link_status(self.bob.id)
        assert link is not None
        self.assertEqual((link.path, link.dark), ("host", False))
        self.alice.happen(PathLost(self.bob.id, "lost"))
        status = self.alice.chat.status()
        self.assertEqual([entry["dark"] for entry in status["links"]], [True])
        self.assertEqual(
            (status["registered"], status["name"], status["id"]), (True, "alice", str(self.alice.id))
        )
        self.cut()
        self.assertIsNone(self.alice.chat.link_status(self.bob.id))
        self.assert_error("not-connected", self.alice.chat.hangup, self.bob.id)

    def test_netcheck(self) -> None:
        self.assertEqual(result(self.alice.chat.netcheck()), {"event": "netcheck"})
        self.assertEqual(len(self.alice.of(NetcheckDone)), 1)


class PeopleTests(ChatTestCase):
    """The address book, from here."""

    def test_names_are_usable_wherever_ids_are(self) -> None:
        self.alice.chat.name_peer(self.bob.id, "Bob")
        self.assertEqual(self.alice.of(ContactChanged)[-1].contact.name, "Bob")
        for who in ("Bob", "bob", self.bob.id, str(self.bob.id), str(self.bob.id).upper()):
            self.assertEqual(self.alice.chat.peer(who), self.bob.id)
        result(self.alice.chat.send("bob", "hi"))
        result(self.alice.chat.history("BOB"))
        self.assertEqual(self.alice.chat.call("bob"), self.bob.id)
        self.assert_error("name-taken", self.alice.chat.name_peer, peer_id(9), "BOB")
        self.assert_error("bad-name", self.alice.chat.name_peer, "bob", "a b")
        self.assert_error("self", self.alice.chat.name_peer, self.alice.id, "me")
        self.alice.chat.name_peer("bob", None)
        self.assert_error("bad-peer-id", self.alice.chat.peer, "bob")

    def test_blocked(self) -> None:
        self.connect()
        self.bob.book.add(self.alice.id, "alice")
        self.bob.chat.block("alice")
        self.run_for()
        self.assertEqual(self.bob.chat.links, {})
        self.assert_error("blocked", self.bob.chat.send, "alice", "x")
        self.assert_error("blocked", self.bob.chat.call, "alice")
        self.say("let me in")
        self.run_for(3600.0)
        self.assertEqual(self.alice.calls(self.bob), 1)
        self.assertEqual(self.bob.of(IncomingCall), [])
        self.assertEqual(self.alice.of(StillAway)[-1].retry_in, None)
        self.bob.chat.unblock("alice")
        self.bob.chat.call("alice")
        self.run_for()
        self.assertEqual(self.bob.heard(), ["let me in"])

    def test_blocked_while_it_rings(self) -> None:
        self.alice.happen(IncomingCall(peer_id(9), "eve", known=False))
        self.alice.chat.block(peer_id(9))
        self.assertEqual((self.alice.asked, self.alice.chat.questions), ([("reject", peer_id(9))], []))

    def test_what_waits_for_somebody_blocked(self) -> None:
        self.say("later")
        self.run_for()
        self.alice.chat.block(self.bob.id)
        calls = self.alice.calls(self.bob)
        self.bob.start()
        self.run_for(3600.0)
        self.assertEqual(self.alice.calls(self.bob), calls)
        self.alice.chat.unblock(self.bob.id)
        self.run_for(31.0)
        self.assertEqual(self.bob.heard(), ["later"])

    def test_forgotten(self) -> None:
        self.alice.chat.name_peer(self.bob.id, "bob")
        self.alice.chat.forget("bob")
        self.assertEqual(self.alice.of(ContactForgotten), [ContactForgotten(self.bob.id)])
        self.assertEqual(self.alice.chat.contacts(), [])
        self.assert_error("unknown-peer", self.alice.chat.forget, self.bob.id)

    def test_forgotten_while_messages_wait(self) -> None:
        """It would be called because of them, and be known again."""
        self.alice.chat.name_peer(self.bob.id, "bob")
        self.say("waits")
        self.assertIn("1 message", self.assert_error("waiting", self.alice.chat.forget, "bob"))
        self.assertEqual(self.alice.chat.contact(self.bob.id).name, "bob")
        result(self.alice.chat.erase("bob"))
        self.alice.chat.forget("bob")
        self.assertEqual(self.alice.chat.contacts(), [])

    def test_contacts(self) -> None:
        for seed, name in ((7, "zoe"), (8, None), (9, "Adam")):
            self.alice.book.add(peer_id(seed), name or "")
        self.alice.chat.block(peer_id(8))
        found = self.alice.chat.contacts()
        self.assertEqual([contact.name for contact in found], ["Adam", "zoe", None])
        self.assertEqual([contact.blocked for contact in found], [False, False, True])

    def test_ones_own_name(self) -> None:
        self.connect()
        self.alice.chat.rename(" Alicia ")
        self.run_for()
        self.assertEqual(
            (self.alice.saved, self.alice.of(NameChanged)), (["Alicia"], [NameChanged("Alicia")])
        )
        self.assertEqual(self.bob.chat.contact(self.alice.id).claimed, "Alicia")
        self.assertIn(("rename", self.alice.id), self.alice.asked)
        for name in ("", "x" * 65, "a\nb"):
            self.assert_error("bad-name", self.alice.chat.rename, name)


class HistoryTests(ChatTestCase):
    """What was said."""

    def test_conversations(self) -> None:
        self.connect()
        self.say("one", self.bob)
        self.say("two", self.bob)
        self.run_for()
        result(self.alice.chat.send(peer_id(9), "to eve"))
        self.alice.book.add(peer_id(8), "quiet")
        chats = result(self.alice.chat.conversations())
        self.assertEqual(
            [(chat.contact.peer, chat.unread, chat.waiting) for chat in chats],
            [(peer_id(9), 0, 1), (self.bob.id, 2, 0), (peer_id(8), 0, 0)],
        )
        self.assertIsNotNone(chats[1].link)
        self.assertEqual((chats[0].stage, chats[2].last), (Stage.CALLING, None))
        result(self.alice.chat.read(self.bob.id, chats[1].last.number if chats[1].last else None))
        self.assertEqual(result(self.alice.chat.conversation(self.bob.id)).unread, 0)

    def test_reading_many(self) -> None:
        self.alice.store.record(self.bob.id, b"x" * 8)
        many = [Incoming(number, "x") for number in range(1, 1202)]
        self.alice.store.receive(self.bob.id, THEIRS, many, 1.0)
        result(self.alice.chat.read(self.bob.id))
        self.assertEqual(len(self.alice.of(MessageChanged)), 1201)

    def test_read_marks_outlive_links(self) -> None:
        self.connect()
        said = self.say("one")
        self.run_for()
        self.cut()
        result(self.bob.chat.read(self.alice.id))
        self.exchange.connect(self.bob, self.alice)
        self.run_for()
        self.assertEqual(self.alice.states(said.number)[-1], "read")

    def test_search_and_export(self) -> None:
        self.say("Hello")
        result(self.alice.chat.send(peer_id(9), "hello again", 7))
        self.assertEqual([m.text for m in result(self.alice.chat.search("HELLO"))], ["hello again", "Hello"])
        self.assertEqual([m.text for m in result(self.alice.chat.search("HELLO", self.bob.id))], ["Hello"])
        first = result(self.alice.chat.export(limit=1))
        self.assertEqual((first[0].text, first[0].state, first[0].outgoing), ("Hello", State.WAITING, True))
        second = result(self.alice.chat.export(after=first[-1].number))
        self.assertEqual([(m.text, m.client_id) for m in second], [("hello again", 7)])
        self.assertEqual(result(self.alice.chat.export(after=second[-1].number)), [])

    def test_erase(self) -> None:
        """What waits is never sent, and the numbers go on."""
        self.say("secret")
        self.assertEqual(result(self.alice.chat.erase(self.bob.id)), 1)
        self.assertEqual(self.alice.of(HistoryErased), [HistoryErased(self.bob.id)])
        self.assertEqual(self.alice.chat.undelivered(), 0)
        self.connect()
        self.assertEqual(self.bob.heard(), [])
        self.assertEqual(self.say("open").id, 2)
        self.run_for()
        self.assertEqual(self.bob.heard(), ["open"])
        self.assertEqual(result(self.bob.chat.erase()), 1)
        self.assertEqual(result(self.bob.chat.conversations())[0].last, None)

    def test_retention(self) -> None:
        self.connect()
        self.say("old")
        self.run_for()
        self.cut()
        del self.exchange.up[self.bob.id]
        self.say("waits")
        result(self.alice.chat.set_retention(1.0))
        self.assertEqual(self.alice.of(HistoryErased), [])
        self.exchange.clock.pump([3600.0] * 26)
        self.assertEqual([m.text for m in result(self.alice.chat.history(self.bob.id))], ["waits"])
        erased = self.alice.of(HistoryErased)[0]
        self.assertIsNone(erased.peer)
        self.assertGreater(erased.before or 0.0, 1_000_000.0 - DAY)
        self.assertEqual(result(self.alice.chat.retention()), 1.0)
        self.assert_error("malformed", self.alice.chat.set_retention, 0)
        self.assert_error("malformed", self.alice.chat.set_retention, float("nan"))


class SlowDiskTests(ChatTestCase):
    """What is counted while the disk takes its time."""

    def slow(self) -> Side:
        """Alice's next process."""
        self.exchange.step = 0.01
        self.alice.kill()
        worker = SlowDisk(self.exchange.clock, self.alice.store, Random(1))
        return Side(self.exchange, 1, "alice", store=self.alice.store, worker=worker)

    def test_said_before_all_is_loaded(self) -> None:
        self.say("one")
        side = self.slow().start()
        side.chat.send(self.bob.id, "two")
        self.assertEqual(side.chat.undelivered(), 1)
        self.run_for(1.0)
        self.assertEqual(side.chat.undelivered(), 2)
        self.bob.start()
        self.run_for(10.0)
        self.assertEqual((self.bob.heard(), side.chat.undelivered()), (["one", "two"], 0))

    def test_said_while_all_is_erased(self) -> None:
        self.say("one")
        side = self.slow().start()
        self.run_for(1.0)
        side.chat.erase()
        side.chat.send(self.bob.id, "two")
        self.run_for(1.0)
        self.assertEqual((side.chat.undelivered(), len(side.store.waiting_for(self.bob.id))), (1, 1))

    def test_what_came_is_told_before_the_end_of_the_link(self) -> None:
        side = self.slow().start()
        self.bob.start()
        self.exchange.connect(self.bob, side)
        self.run_for(1.0)
        self.bob.chat.send(side.id, "last words")
        self.exchange.run()
        self.exchange.cut(side, self.bob)
        self.run_for(1.0)
        kinds = [type(event) for event in side.events]
        self.assertLess(kinds.index(MessageAdded), kinds.index(Disconnected))

    def test_had_while_a_new_stream_begins(self) -> None:
        """What a view has at the moment of a new stream gets its mark on that one."""
        side = self.slow().start()
        self.bob.start()
        self.exchange.connect(self.bob, side)
        self.run_for(1.0)
        side.slow = True
        said = result(self.bob.chat.send(side.id, "hi"))
        self.run_for(1.0)
        self.exchange.connect(self.bob, side)
        side.answers[0].callback(None)
        self.run_for(2.0)
        self.assertEqual(self.bob.states(said.number)[-1], "delivered")
        self.assertEqual(side.heard(), ["hi"])

    def test_a_disk_that_cannot_be_read(self) -> None:
        self.say("x")
        side = Side(self.exchange, 1, store=self.alice.store)
        side.store.close()
        started = side.chat.start()
        self.assertIsInstance(started, Deferred)
        self.failureResultOf(started, StoreError)

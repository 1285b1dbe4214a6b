"""The chat protocol: once, in order, marked when the application has it, and deaf to nonsense."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat_v1 import MAX_CONVERSATIONS, MAX_UNHANDLED, ChatProtocol, Chats
from punch.apps.chat_core import (
    ACK,
    BYE,
    HELLO,
    MAX_TEXT,
    MESSAGE,
    ChatCore,
    ChatError,
    ChatProtocolError,
    Farewell,
    MessageDelivered,
    MessageReceived,
)
from punch.identity import PeerID
from punch.link.link import Link

SESSION = b"\x01" * 8


def frame(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(2, "big") + body


def message(number: int, text: bytes) -> bytes:
    return frame(MESSAGE, number.to_bytes(8, "big") + text)


def ack(number: int) -> bytes:
    return frame(ACK, number.to_bytes(8, "big"))


GREETING = frame(HELLO, SESSION)


def opened(name: bytes = b"a") -> ChatCore:
    core = ChatCore(lambda count: name * count)
    core.open()
    return core


def received(core: ChatCore) -> list[MessageReceived]:
    events = []
    while (event := core.next_event()) is not None:
        assert isinstance(event, MessageReceived)
        events.append(event)
    return events


class CoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.core = opened()
        self.core.data_to_send()

    def hear(self, data: bytes) -> list[tuple[int, str]]:
        self.core.receive_data(data)
        return [(event.id, event.text) for event in received(self.core)]

    def test_greets_first(self) -> None:
        self.assertEqual(opened(b"z").data_to_send(), frame(HELLO, b"z" * 8))

    def test_message_and_mark(self) -> None:
        self.assertEqual(self.core.send("hi"), 1)
        self.assertEqual(self.core.data_to_send(), message(1, b"hi"))
        self.core.receive_data(GREETING + ack(1))
        self.assertEqual(self.core.next_event(), MessageDelivered(1))
        self.assertEqual((self.core.undelivered, self.core.undelivered_bytes), (0, 0))

    def test_one_ack_for_several(self) -> None:
        for text in ("a", "b", "c"):
            self.core.send(text)
        self.core.receive_data(GREETING + ack(2))
        self.assertEqual(self.core.next_event(), MessageDelivered(1))
        self.assertEqual(self.core.next_event(), MessageDelivered(2))
        self.assertIsNone(self.core.next_event())
        self.assertEqual(self.core.undelivered, 1)

    def test_no_ack_before_the_application_has_it(self) -> None:
        self.core.receive_data(GREETING + message(1, b"a") + message(2, b"b"))
        first, second = received(self.core)
        self.core.acknowledge(second)
        self.assertEqual(self.core.data_to_send(), b"")
        self.core.acknowledge(first)
        self.assertEqual(self.core.data_to_send(), ack(2))
        self.core.acknowledge(first)
        self.assertEqual(self.core.data_to_send(), b"")

    def test_duplicates_are_acknowledged_again_and_nothing_else(self) -> None:
        self.core.receive_data(GREETING + message(1, b"a"))
        (first,) = received(self.core)
        self.core.acknowledge(first)
        self.core.data_to_send()
        self.assertEqual(self.hear(message(1, b"a")), [])
        self.assertEqual(self.core.data_to_send(), ack(1))

    def test_a_duplicate_is_not_acknowledged_for_an_application_that_does_not_have_it(self) -> None:
        self.core.receive_data(GREETING + message(1, b"a") + message(1, b"a"))
        self.assertEqual(len(received(self.core)), 1)
        self.assertEqual(self.core.data_to_send(), b"")

    def test_messages_wait_for_a_stream(self) -> None:
        core = ChatCore(lambda count: b"q" * count)
        core.send("early")
        self.assertEqual(core.data_to_send(), b"")
        core.open()
        self.assertEqual(core.data_to_send(), frame(HELLO, b"q" * 8) + message(1, b"early"))

    def test_a_new_stream_repeats_what_has_no_mark(self) -> None:
        self.core.send("one")
        self.core.send("two")
        self.core.receive_data(GREETING + ack(1))
        self.core.close()
        self.core.open()
        self.assertEqual(self.core.data_to_send(), frame(HELLO, b"a" * 8) + message(2, b"two"))

    def test_a_message_had_on_an_earlier_stream_is_dropped(self) -> None:
        self.core.receive_data(GREETING + message(1, b"a"))
        (first,) = received(self.core)
        self.core.close()
        self.core.acknowledge(first)
        self.core.open()
        self.core.data_to_send()
        self.assertEqual(self.hear(GREETING + message(1, b"a") + message(2, b"b")), [(2, "b")])
        self.assertEqual(self.core.data_to_send(), ack(1))

    def test_another_session_counts_anew(self) -> None:
        self.core.receive_data(GREETING + message(1, b"a"))
        (old,) = received(self.core)
        self.core.open()
        self.core.data_to_send()
        self.assertEqual(self.hear(frame(HELLO, b"\x02" * 8) + message(1, b"new")), [(1, "new")])
        self.core.acknowledge(old)
        self.assertEqual(self.core.data_to_send(), b"")

    def test_bounds(self) -> None:
        self.assertRaises(ChatError, self.core.send, "x" * (MAX_TEXT + 1))
        self.assertRaises(ChatError, self.core.send, "\ud800")
        self.core.send("é" * (MAX_TEXT // 2))
        with self.assertRaises(ChatError) as full:
            for _ in range(1000):
                self.core.send("x" * MAX_TEXT)
        self.assertEqual(full.exception.code, "outbox-full")

    def test_room_to_grow(self) -> None:
        self.assertEqual(self.hear(frame(HELLO, SESSION + b"later") + frame(99, b"new")), [])
        self.assertEqual(self.hear(message(1, b"")), [(1, "")])

    def test_bye(self) -> None:
        self.core.receive_data(GREETING)
        self.core.say_bye()
        self.core.say_bye()
        self.assertEqual(self.core.data_to_send(), frame(BYE, b""))
        self.assertIsNone(self.core.next_event())
        self.core.receive_data(frame(BYE, b"") + frame(BYE, b"later"))
        self.assertEqual(self.core.next_event(), Farewell())
        self.assertIsNone(self.core.next_event())
        self.assertEqual(self.core.data_to_send(), b"")

    def test_bye_is_answered_when_all_is_delivered(self) -> None:
        self.core.send("wait")
        self.core.data_to_send()
        self.core.receive_data(GREETING + frame(BYE, b""))
        self.assertEqual(self.core.data_to_send(), b"")
        self.core.receive_data(ack(1))
        self.assertEqual(self.core.data_to_send(), frame(BYE, b""))
        self.assertEqual(self.core.next_event(), MessageDelivered(1))
        self.assertEqual(self.core.next_event(), Farewell())

    def test_hostile_input(self) -> None:
        cases = {
            "no hello": message(1, b"a"),
            "ack first": ack(0),
            "bye first": frame(BYE, b""),
            "two hellos": GREETING + GREETING,
            "short hello": frame(HELLO, b"short"),
            "not UTF-8": GREETING + message(1, b"\xff"),
            "id 0": GREETING + message(0, b"a"),
            "no id": GREETING + frame(MESSAGE, b"1234567"),
            "ack of nothing": GREETING + ack(1),
            "short ack": GREETING + frame(ACK, b""),
            "too long": GREETING + bytes([MESSAGE]) + (MAX_TEXT + 9).to_bytes(2, "big"),
        }
        for what, data in cases.items():
            with self.subTest(what):
                self.assertRaises(ChatProtocolError, opened().receive_data, data)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.binary(max_size=200), st.booleans())
    def test_anything_is_refused_or_understood(self, data: bytes, greeted: bool) -> None:
        core = opened()
        try:
            core.receive_data((GREETING if greeted else b"") + data)
        except ChatProtocolError:
            return
        received(core)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(
        st.lists(st.text(st.characters(codec="utf-8"), max_size=30), max_size=30),
        st.lists(st.integers(1, 40), max_size=60),
        st.sets(st.integers(0, 60), max_size=5),
    )
    def test_once_and_in_order_however_it_is_cut(
        self, texts: list[str], cuts: list[int], breaks: set[int]
    ) -> None:
        """Bytes arrive in any pieces; now and then the stream breaks and loses what was under way."""
        left, right = opened(b"l"), opened(b"r")
        heard: list[str] = []
        delivered: list[int] = []
        pipes = {left: b"", right: b""}

        def step(size: int) -> None:
            for sender, receiver in ((left, right), (right, left)):
                pipes[receiver] += sender.data_to_send()
                receiver.receive_data(pipes[receiver][:size])
                pipes[receiver] = pipes[receiver][size:]
                while (event := receiver.next_event()) is not None:
                    if isinstance(event, MessageReceived):
                        heard.append(event.text)
                        receiver.acknowledge(event)
                    elif isinstance(event, MessageDelivered):
                        delivered.append(event.id)

        for text in texts:
            left.send(text)
        for turn, size in enumerate(cuts):
            step(size)
            if turn in breaks:
                pipes = {left: b"", right: b""}
                for core in (left, right):
                    core.close()
                    core.open()
        for _ in range(4):
            step(1_000_000)
        self.assertEqual(heard, texts)
        self.assertEqual(delivered, list(range(1, len(texts) + 1)))
        self.assertEqual(left.undelivered, 0)


class Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class ChatsTests(SynchronousTestCase):
    def test_old_chats_are_forgotten_unless_something_is_undelivered(self) -> None:
        def nothing(*arguments: object) -> None:
            pass

        chats = Chats(nothing, nothing)
        peers = [PeerID(number.to_bytes(32, "big")) for number in range(MAX_CONVERSATIONS + 10)]
        chats.send(peers[0], "kept")
        for peer in peers[1:]:
            chats.accept(cast(Link, SimpleNamespace(remote=peer)))
        self.assertEqual(chats.undelivered(peers[0]), 1)
        self.assertLessEqual(len(chats), MAX_CONVERSATIONS)


class ProtocolTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.messages: list[tuple[int, str]] = []
        self.marks: list[int] = []
        self.closed: list[str | None] = []
        self.answers: list[Deferred[None]] = []
        self.slow = False
        self.transport = Transport()
        self.chat = ChatProtocol(self.on_message, self.marks.append, self.closed.append)
        self.chat.makeConnection(self.transport)
        self.chat.dataReceived(GREETING)
        self.transport.clear()

    def on_message(self, number: int, text: str) -> Deferred[None] | None:
        self.messages.append((number, text))
        if not self.slow:
            return None
        self.answers.append(Deferred())
        return self.answers[-1]

    def test_conversation(self) -> None:
        self.assertEqual(self.chat.send("hello"), 1)
        self.assertEqual(self.transport.value(), message(1, b"hello"))
        self.transport.clear()
        self.chat.dataReceived(message(1, b"you") + ack(1))
        self.assertEqual(self.messages, [(1, "you")])
        self.assertEqual(self.marks, [1])
        self.assertEqual(self.transport.value(), ack(1))

    def test_the_ack_waits_for_the_application(self) -> None:
        self.slow = True
        self.chat.dataReceived(message(1, b"a"))
        self.assertEqual(self.transport.value(), b"")
        self.answers[0].callback(None)
        self.assertEqual(self.transport.value(), ack(1))

    def test_an_application_that_fails_gives_no_ack(self) -> None:
        def fail(number: int, text: str) -> None:
            raise RuntimeError("the application's own")

        chat = ChatProtocol(fail, self.marks.append, self.closed.append)
        transport = Transport()
        chat.makeConnection(transport)
        transport.clear()
        chat.dataReceived(GREETING + message(1, b"a"))
        self.assertEqual(transport.value(), b"")
        self.assertFalse(transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_reading_stops_while_the_application_is_behind(self) -> None:
        self.slow = True
        for number in range(1, MAX_UNHANDLED + 1):
            self.assertEqual(self.transport.producerState, "producing")
            self.chat.dataReceived(message(number, b"x"))
        self.assertEqual(self.transport.producerState, "paused")
        self.answers[0].callback(None)
        self.assertEqual(self.transport.producerState, "producing")

    def test_nonsense_closes_the_stream_and_only_that(self) -> None:
        self.chat.dataReceived(message(1, b"fine") + message(2, b"\xff"))
        self.assertEqual(self.messages, [(1, "fine")])
        self.assertTrue(self.transport.aborted)
        self.chat.dataReceived(message(2, b"late"))
        self.chat.connectionLost()
        self.assertEqual(self.messages, [(1, "fine")])
        self.assertEqual(self.closed, ["a message that is not UTF-8"])

    def test_a_chat_goes_on_over_another_stream(self) -> None:
        self.chat.send("lost?")
        again = ChatProtocol(self.on_message, self.marks.append, self.closed.append, self.chat.conversation)
        transport = Transport()
        again.makeConnection(transport)
        self.assertIn(message(1, b"lost?"), transport.value())
        self.chat.connectionLost()
        again.dataReceived(GREETING + ack(1))
        self.assertEqual(self.marks, [1])
        self.assertEqual(self.chat.core.undelivered, 0)
        self.assertTrue(self.transport.disconnecting)

    def test_what_came_on_the_old_stream_is_acknowledged_on_the_new_one(self) -> None:
        self.slow = True
        for number in range(1, MAX_UNHANDLED + 1):
            self.chat.dataReceived(message(number, b"x"))
        again = ChatProtocol(self.on_message, self.marks.append, self.closed.append, self.chat.conversation)
        transport = Transport()
        again.makeConnection(transport)
        self.chat.connectionLost()
        again.dataReceived(GREETING)
        self.assertEqual(transport.producerState, "paused")
        transport.clear()
        for answer in self.answers:
            answer.callback(None)
        self.assertEqual(transport.producerState, "producing")
        self.assertIn(ack(MAX_UNHANDLED), transport.value())

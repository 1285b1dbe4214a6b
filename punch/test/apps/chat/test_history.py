"""The chat's history: reading, searching, exporting and erasing it."""

from __future__ import annotations

from punch.apps.chat import MessageState
from punch.apps.chat.conversations import DAY
from punch.apps.chat.events import (
    HistoryErased,
    MessageChanged,
)
from punch.apps.chat.protocol import MessageReceived
from punch.node.events import CallState
from punch.test.apps.chat.chat_network import ChatTestCase, peer_id, result
from punch.test.apps.chat.test_protocol import THEIRS


class HistoryTests(ChatTestCase):
    """What was said."""

    def test_conversations(self) -> None:
        self.connect()
        self.say("one", self.bob)
        self.say("two", self.bob)
        self.run_for()
        result(self.alice.chat.send(peer_id(9), "to eve"))
        self.alice.book.add(peer_id(8), "quiet")
        chats = result(self.alice.chat.history.conversations())
        self.assertEqual(
            [(chat.contact.peer, chat.unread, chat.waiting) for chat in chats],
            [(peer_id(9), 0, 1), (self.bob.id, 2, 0), (peer_id(8), 0, 0)],
        )
        self.assertIsNotNone(chats[1].link)
        self.assertEqual((chats[0].stage, chats[2].last), (CallState.CALLING, None))
        result(self.alice.chat.history.read(self.bob.id, chats[1].last.number if chats[1].last else None))
        self.assertEqual(result(self.alice.chat.history.conversation(self.bob.id)).unread, 0)

    def test_reading_many(self) -> None:
        self.alice.store.record(self.bob.id, b"x" * 8)
        many = [MessageReceived(number, "x") for number in range(1, 1202)]
        self.alice.store.receive(self.bob.id, THEIRS, many, 1.0)
        result(self.alice.chat.history.read(self.bob.id))
        self.assertEqual(len(self.alice.of(MessageChanged)), 1201)

    def test_read_marks_outlive_links(self) -> None:
        self.connect()
        said = self.say("one")
        self.run_for()
        self.cut()
        result(self.bob.chat.history.read(self.alice.id))
        self.network.connect(self.bob, self.alice)
        self.run_for()
        self.assertEqual(self.alice.states(said.number)[-1], "read")

    def test_search_and_export(self) -> None:
        self.say("Hello")
        result(self.alice.chat.send(peer_id(9), "hello again", 7))
        self.assertEqual(
            [m.text for m in result(self.alice.chat.history.search("HELLO"))], ["hello again", "Hello"]
        )
        self.assertEqual(
            [m.text for m in result(self.alice.chat.history.search("HELLO", self.bob.id))], ["Hello"]
        )
        first = result(self.alice.chat.history.export(limit=1))
        self.assertEqual(
            (first[0].text, first[0].state, first[0].outgoing), ("Hello", MessageState.WAITING, True)
        )
        second = result(self.alice.chat.history.export(after=first[-1].number))
        self.assertEqual([(m.text, m.client_id) for m in second], [("hello again", 7)])
        self.assertEqual(result(self.alice.chat.history.export(after=second[-1].number)), [])

    def test_erase(self) -> None:
        """Erased messages that waited are never sent, and ids continue."""
        self.say("secret")
        self.assertEqual(result(self.alice.chat.history.erase(self.bob.id)), 1)
        self.assertEqual(self.alice.of(HistoryErased), [HistoryErased(self.bob.id)])
        self.assertEqual(self.alice.chat.conversations.undelivered(), 0)
        self.connect()
        self.assertEqual(self.bob.heard(), [])
        self.assertEqual(self.say("open").id, 2)
        self.run_for()
        self.assertEqual(self.bob.heard(), ["open"])
        self.assertEqual(result(self.bob.chat.history.erase()), 1)
        self.assertEqual(result(self.bob.chat.history.conversations())[0].last, None)

    def test_retention(self) -> None:
        self.connect()
        self.say("old")
        self.run_for()
        self.cut()
        del self.network.up[self.bob.id]
        self.say("waits")
        result(self.alice.chat.history.set_retention(1.0))
        self.assertEqual(self.alice.of(HistoryErased), [])
        self.network.clock.pump([3600.0] * 26)
        self.assertEqual([m.text for m in result(self.alice.chat.history.messages(self.bob.id))], ["waits"])
        erased = self.alice.of(HistoryErased)[0]
        self.assertIsNone(erased.peer)
        self.assertGreater(erased.before or 0.0, 1_000_000.0 - DAY)
        self.assertEqual(result(self.alice.chat.history.retention()), 1.0)
        self.assert_error("malformed", self.alice.chat.history.set_retention, 0)
        self.assert_error("malformed", self.alice.chat.history.set_retention, float("nan"))

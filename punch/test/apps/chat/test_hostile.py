"""The chat with a peer that does not keep to the protocol."""

from __future__ import annotations

from typing import cast

from twisted.internet.testing import StringTransport

from punch.apps.chat.contacts import NAME_PAUSE
from punch.apps.chat.events import (
    ChatBroken,
    ContactChanged,
)
from punch.apps.chat.protocol import NO_EPOCH, STREAM_NAME
from punch.link.events import LinkRole
from punch.link.link import Link
from punch.test.apps.chat.chat_network import ChatTestCase, LinkEnd, result
from punch.test.apps.chat.test_protocol import (
    THEIRS,
    ack,
    frame,
    hello,
    knows,
    message,
)


class HostileTests(ChatTestCase):
    """A peer that does not keep to the protocol."""

    def setUp(self) -> None:
        super().setUp()
        self.bob.start()
        # Only alice's end is a chat: what the other side says is played here.
        for side, other, role in (
            (self.alice, self.bob, LinkRole.CALLEE),
            (self.bob, self.alice, LinkRole.CALLER),
        ):
            side.ends[other.id] = LinkEnd(self.network, side, other, role)
        self.link = cast(Link, self.alice.ends[self.bob.id])
        self.transport = StringTransport()
        self.stream = self.alice.stream(STREAM_NAME, self.bob.id)
        self.alice.linked[self.bob.id] = self.link
        self.stream.makeConnection(self.transport)

    def hear(self, data: bytes) -> None:
        """The other side says it."""
        self.stream.dataReceived(data)
        self.network.clock.advance(0)

    def broken(self, *words: str) -> None:
        """The stream is given up, not the link; and the views know why."""
        self.assertNotIn(("hangup", self.bob.id), self.alice.asked)
        (event,) = self.alice.of(ChatBroken)
        for word in words:
            self.assertIn(word, event.detail)

    def test_never_acknowledges(self) -> None:
        self.hear(hello())
        for number in range(50):
            self.say(str(number))
        self.hear(message(1, b"but it talks"))
        self.assertEqual(self.alice.heard(), ["but it talks"])
        self.assertEqual(self.alice.chat.conversations.undelivered(), 50)
        self.assertEqual(result(self.alice.chat.history.conversation(self.bob.id)).waiting, 50)

    def test_acknowledges_what_was_never_sent(self) -> None:
        said = self.say("one")
        self.hear(hello() + ack(2))
        self.broken("never sent")
        self.assertEqual(self.alice.states(said.number)[0], "sent")
        self.assertEqual(self.alice.chat.conversations.undelivered(), 1)

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
        again = self.alice.stream(STREAM_NAME, self.bob.id)
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
        self.hear(hello(THEIRS, knows(ours, 99, 99)) + ack(1))
        self.assertEqual(self.alice.chat.conversations.undelivered(), 1)
        renewed = self.alice.store.record(self.bob.id, b"x" * 8).epoch
        self.assertNotEqual(renewed, ours)
        self.stream = self.alice.stream(STREAM_NAME, self.bob.id)
        self.stream.makeConnection(StringTransport())
        self.hear(hello(THEIRS, knows(renewed, 99, 99)))
        self.broken("never sent")
        self.assertEqual(self.alice.store.record(self.bob.id, b"x" * 8).epoch, renewed)

    def test_names(self) -> None:
        """A long name of a stranger is cut, and changes no petname."""
        self.alice.chat.contacts.name(self.bob.id, "bob")
        self.hear(hello() + frame(6, b"n" * 10_000) + frame(6, "\u202eevil".encode()))
        contact = self.alice.chat.contacts.get("bob")
        self.assertEqual((contact.name, contact.claimed), ("bob", "\u202eevil"))
        self.run_for(NAME_PAUSE)
        self.assertEqual([len(e.contact.claimed) for e in self.alice.of(ContactChanged)][-2:], [64, 5])

    def test_many_names(self) -> None:
        """If a peer changes its name all the time, views are told only the last, after a moment."""
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
        self.assertEqual(result(self.alice.chat.history.search("SCRIPT"))[0].text, text)

    def test_greetings_of_nobody(self) -> None:
        self.hear(hello(NO_EPOCH))
        self.broken("epoch")

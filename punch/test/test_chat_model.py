"""The chat as one object: what waits, what is sent, delivered and read, and what others may do to it."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.events import MessageAdded
from punch.test.chat_lab import Exchange, Side, result


class ChatTestCase(SynchronousTestCase):
    """Two sides that know each other."""

    def setUp(self) -> None:
        self.exchange = Exchange()
        self.alice = Side(self.exchange, 1, "alice").start()
        self.bob = Side(self.exchange, 2, "bob")

    def run_for(self, seconds: float = 0.0) -> None:
        """Let things happen."""
        self.exchange.run(seconds)


class MessageTests(ChatTestCase):
    """From one disk to the other."""

    def test_states(self) -> None:
        """Typed to a peer who is away, it waits; then it is sent, delivered, and read."""
        message = result(self.alice.chat.send(self.bob.id, "hello"))
        self.assertEqual((str(message.state), message.id), ("waiting", 1))
        self.run_for(1.0)
        self.assertEqual(self.alice.calls(self.bob), 1)
        self.bob.start()
        self.run_for(6.0)
        self.assertEqual(self.bob.heard(), ["hello"])
        self.assertEqual(self.alice.states(message.number), ["waiting", "sent", "delivered"])
        self.assertEqual(self.alice.chat.undelivered(), 0)
        result(self.bob.chat.read(self.alice.id))
        self.run_for()
        self.assertEqual(self.alice.states(message.number)[-1], "read")
        (kept,) = result(self.alice.chat.history(self.bob.id))
        self.assertEqual(str(kept.state), "read")
        (theirs,) = result(self.bob.chat.history(self.alice.id))
        self.assertEqual((str(theirs.state), theirs.text), ("read", "hello"))
        self.assertEqual(self.bob.of(MessageAdded)[0].again, False)

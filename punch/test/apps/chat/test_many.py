"""Messages that wait for hundreds of peers."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.redial import MAX_CALLS, PACE
from punch.apps.chat.store import Store
from punch.identity import PeerID
from punch.link.link import Link
from punch.node.causes import OtherCause
from punch.node.events import Registered, Unregistered
from punch.test.apps.chat.chat_network import ChatNetwork, ChatPeer

MANY = 300
ANSWER = 4.0
"""Seconds until a call comes to something."""


class Slow(ChatPeer):
    """Its calls take their time; it counts them."""

    under_way = 0
    most = 0
    times: list[float]

    def connect(self, peer: PeerID) -> Deferred[Link]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.times.append(self.network.clock.seconds())
        return super().connect(peer)

    def _called(self, peer: PeerID) -> None:
        self.network.clock.callLater(ANSWER, self._ends, peer)

    def _ends(self, peer: PeerID) -> None:
        self.under_way -= 1
        super()._called(peer)


class ManyTests(SynchronousTestCase):
    """A process that starts with much to say."""

    def setUp(self) -> None:
        self.network = ChatNetwork()
        store = Store(None)
        for number in range(MANY):
            store.add(PeerID((number + 1).to_bytes(32, "big")), b"x" * 8, "waits", 1.0)
        self.alice = Slow(self.network, 1, store=store)
        self.alice.times = []

    def test_few_calls_at_a_time(self) -> None:
        """Else the node has no room, and the rendezvous sends away who says so much."""
        self.alice.start()
        self.network.run(30.0)
        self.assertEqual(self.alice.most, MAX_CALLS)
        for _ in range(5):
            self.alice.emit(Unregistered(OtherCause("lost", "It is gone."), 1.0))
            self.alice.emit(Registered("punch://rendezvous"))
        self.network.run(30.0)
        self.assertEqual(self.alice.most, MAX_CALLS)
        self.assertGreater(len(self.alice.times), MAX_CALLS * 10)
        for first, later in zip(self.alice.times, self.alice.times[10:], strict=False):
            self.assertGreaterEqual(later - first, PACE * 9)

    def test_everybody_is_called(self) -> None:
        self.alice.start()
        self.network.run(MANY * ANSWER / MAX_CALLS + 20.0)
        self.assertEqual(len({peer for what, peer in self.alice.asked if what == "call"}), MANY)

    def test_the_users_own_call_waits_for_nobody(self) -> None:
        self.alice.start()
        self.network.run(3.0)
        last = PeerID(MANY.to_bytes(32, "big"))
        self.assertNotIn(("call", last), self.alice.asked)
        self.alice.chat.call(last)
        self.assertIn(("call", last), self.alice.asked)

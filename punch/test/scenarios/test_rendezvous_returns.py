"""When a peer is called again after it, or the rendezvous, has returned."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.redial import (
    FIRST,
    RETURN,
    RETURN_TIME,
    RedialSchedule,
)
from punch.node.events import PeerReturned
from punch.test.system import Peer, SystemTestCase, introduce
from punch.wire.control import Accept


class RedialTests(SynchronousTestCase):
    """The schedule of calls after the return."""

    def test_sooner_again_after_the_return(self) -> None:
        """After the return, calls are tried more often, since the other side returns at the same time."""
        schedule: RedialSchedule[str] = RedialSchedule(lambda: 0.0)
        schedule.want("bob", 0.0)
        self.assertTrue(schedule.has_calls)
        schedule.registered(0.0)
        self.assertEqual(schedule.due(0.0), "bob")
        self.assertEqual(schedule.failed("bob", "not-registered", 1.0), FIRST)
        schedule.unregistered()
        schedule.registered(40.0)
        self.assertEqual(schedule.due(40.0), "bob")
        self.assertFalse(schedule.has_calls)
        self.assertEqual(schedule.failed("bob", "not-registered", 40.0), RETURN)
        self.assertEqual(schedule.due(40.0 + RETURN), "bob")
        self.assertEqual(schedule.failed("bob", "not-registered", 41.0), RETURN)
        self.assertEqual(schedule.due(42.0), "bob")
        self.assertEqual(schedule.failed("bob", "not-registered", 40.0 + RETURN_TIME), RETURN)
        self.assertEqual(schedule.due(47.0), "bob")
        self.assertGreater(schedule.failed("bob", "not-registered", 47.0) or 0.0, RETURN)
        self.assertEqual(schedule.failed("bob", "refused", 42.0), None)
        self.assertFalse(schedule.has_calls)


class PeerReturnTests(SystemTestCase):
    """The rendezvous stays, and the other peer returns."""

    def waiting(self) -> tuple[Peer, Peer]:
        """A message waits for a peer that has been away for some minutes."""
        alice, bob = self.peer("alice"), self.peer("bob")
        introduce(alice, bob)
        introduce(bob, alice)
        alice.register()
        alice.chat.send(bob.id, "hello")
        self.net.advance(301.0)
        return alice, bob

    def test_a_message_that_waits(self) -> None:
        """It arrives within a second after the return, and the caller is told once."""
        alice, bob = self.waiting()
        bob.register()
        back = self.net.now
        self.net.run_until(lambda: bob.messages, 30.0, "the message")
        self.assertLess(self.net.now - back, 1.0)
        self.net.advance(60.0)
        self.assertEqual(alice.of(PeerReturned), [PeerReturned(bob.id)])
        self.assertEqual(bob.of(PeerReturned), [])

    def test_a_stranger_learns_what_a_call_tells(self) -> None:
        """A peer that takes nobody's calls is told of like any other, and refuses the call as before."""
        alice = self.peer("alice").register()
        bob = Peer(self.net, self.host("bob"), self.rendezvous.address, accept=Accept.KNOWN, pacing=0.02)
        self.peers.append(bob)
        alice.chat.send(bob.id, "hello")
        self.net.advance(301.0)
        bob.register()
        self.net.advance(60.0)
        self.assertEqual(alice.of(PeerReturned), [PeerReturned(bob.id)])
        self.assertEqual(bob.messages, [])

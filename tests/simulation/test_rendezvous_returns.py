"""After the rendezvous returns, pending work is tried soon, and many peers register spread over time."""

from __future__ import annotations

from dataclasses import replace

from punch.node.calls.calls import CALLEE_TIME, QUEUE_TIME
from punch.node.causes import IntroductionEnded
from punch.node.events import CallFailed, Calling, Connected, IncomingCall, Registered
from punch.rendezvous.config import RendezvousLimits
from punch.test.system import Peer, SystemTestCase, introduce
from punch.wire.control import Accept, ErrorCode

SOON = 3.0
"""Seconds after the return within which everybody is registered, and the call that succeeds is placed."""
CALL = 0.8
"""Seconds that such a call takes here, where a round trip takes 0.1 s, with the message."""


class ReturnTests(SystemTestCase):
    """The rendezvous is unreachable for half a minute. It ends without finishing introductions."""

    limits = replace(RendezvousLimits(), stop_time=0.001)

    def pair(self) -> tuple[Peer, Peer]:
        """Two peers that know each other."""
        alice, bob = self.peer(f"alice {self.homes}"), self.peer(f"bob {self.homes}")
        introduce(alice, bob)
        introduce(bob, alice)
        for peer in (alice, bob):
            peer.register()
        return alice, bob

    def away(self, seconds: float) -> float:
        """Stop the rendezvous and start it again; returns the time of its return."""
        self.rendezvous.stop()
        self.net.advance(seconds)
        self.rendezvous.start()
        return self.net.now

    def registered_at(self, peer: Peer, since: float) -> float:
        """When a peer registered first after `since`."""
        return min(when for when, event in peer.events if isinstance(event, Registered) and when >= since)

    def assert_back(self, peer: Peer, since: float) -> None:
        """Check that a peer is registered again within `SOON`."""
        self.assertLessEqual(self.registered_at(peer, since) - since, SOON, peer.name)

    def test_in_the_middle_of_an_introduction(self) -> None:
        """If it restarts at any moment of a call, both sides register soon, and the message arrives."""
        late = 0
        for moment in (0.05, 0.08, 0.11, 0.14):
            alice, bob = self.pair()
            alice.chat.send(bob.id, "hello")
            self.net.advance(moment)
            self.assertEqual(bob.messages, [])
            back = self.away(30.0)
            if bob.messages:
                continue  # they had what they needed of it
            late += 1
            self.net.run_until(lambda: bob.messages, 30.0, "the message")  # noqa: B023
            self.assert_back(alice, back)
            self.assert_back(bob, back)
            self.assertLess(self.net.now - back, SOON + CALL)
        self.assertGreater(late, 1)

    def test_for_somebody_idle(self) -> None:
        """A callee that was idle for long registers as soon as the caller does."""
        alice, bob = self.pair()
        self.net.advance(300.0)
        self.rendezvous.stop()
        alice.chat.send(bob.id, "hello")
        self.net.advance(30.0)
        self.rendezvous.start()
        back = self.net.now
        self.net.run_until(lambda: bob.messages, SOON + CALL, "the message")
        self.assert_back(bob, back)
        self.assertLess(max(when for when, event in alice.events if isinstance(event, Calling)) - back, SOON)

    def test_a_message_written_meanwhile(self) -> None:
        """A message that is written meanwhile makes the node try the rendezvous more often."""
        alice, bob = self.pair()
        self.rendezvous.stop()
        self.net.advance(200.0)
        alice.chat.send(bob.id, "hello")
        bob.chat.send(alice.id, "hello")
        self.net.advance(SOON)
        self.rendezvous.start()
        back = self.net.now
        self.net.run_until(lambda: bob.messages and alice.messages, SOON + CALL, "the messages")
        for peer in (alice, bob):
            self.assert_back(peer, back)

    def test_calls_without_a_message(self) -> None:
        """One that rang, and one that was placed meanwhile, wait for callees that return after the caller."""
        absent = 0
        for away in (1.0, 3.0, 5.0, 8.0):
            alice, bob = self.pair()
            carol, dave = self.peer(f"carol {self.homes}"), self.peer(f"dave {self.homes}", Accept.ANYONE)
            for callee in (carol, dave):
                callee.register()
            for callee in (bob, carol):
                alice.call(callee.id)
            carol.wait_for(IncomingCall, 3.0)
            # Carol answers in the moment in which the rendezvous ends.
            carol.node.accept(alice.id)
            self.rendezvous.stop()
            self.net.advance(away)
            alice.call(dave.id)
            self.rendezvous.start()
            back = self.net.now
            for callee in (bob, carol, dave):
                callee.wait_for(Connected, 2 * SOON)
                absent += self.registered_at(alice, back) < self.registered_at(callee, back)
            self.assertEqual(alice.of(CallFailed), [])
        self.assertGreater(absent, 2)

    def test_a_callee_that_stays_away(self) -> None:
        """It does not return: the caller is told so after a while."""
        alice, bob = self.pair()
        alice.call(bob.id)
        self.rendezvous.stop()
        bob.stop()
        self.net.advance(1.0)
        self.rendezvous.start()
        back = self.net.now
        alice.wait_for(CallFailed, SOON + CALLEE_TIME + 1.0)
        self.assertEqual(alice.last(CallFailed).cause, IntroductionEnded(ErrorCode.NOT_REGISTERED))
        self.assertGreaterEqual(self.net.now - self.registered_at(alice, back), CALLEE_TIME)
        # The next call is one of its own
        alice.call(bob.id)
        alice.wait_for(CallFailed, 1.0, 2)

    def test_lost_again_while_a_callee_is_awaited(self) -> None:
        """The call waits for the rendezvous again, for as long as others do."""
        alice, bob = self.pair()
        alice.call(bob.id)
        self.rendezvous.stop()
        bob.host.kill()
        self.net.advance(1.0)
        self.rendezvous.start()
        back = self.net.now
        self.net.run_until(lambda: alice.of(Registered)[1:], SOON, "Alice is back")
        self.net.advance(CALLEE_TIME - 2.0)
        self.away(QUEUE_TIME - 2.0)
        self.assertEqual(alice.of(CallFailed), [])
        self.reborn(bob, Accept.ANYONE).wait_for(Connected, SOON)
        self.assertGreater(self.net.now - back, CALLEE_TIME + SOON)

    def test_a_crowd(self) -> None:
        """Many peers do not register in the same moment."""
        peers = [self.pair() for _ in range(6)]
        for alice, bob in peers:
            bob.stop()
            alice.chat.send(bob.id, "hello")
        self.net.advance(1.0)
        back = self.away(30.0)
        self.net.advance(SOON)
        times = []
        for alice, _ in peers:
            self.assert_back(alice, back)
            times += [when for when, event in alice.events if isinstance(event, Registered) and when >= back]
        self.assertGreater(max(times) - min(times), 0.5)

"""
What can be read on the links between complete nodes, and an unreachable rendezvous.

`tests/simulation/test_impaired_networks.py` has loss, long delays, full queues and a long chat.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    IncomingCall,
    Registered,
    Unregistered,
)
from punch.test.internet import Seen
from punch.test.system import Peer, SystemTestCase, connect, introduce
from punch.ui.text.causes import event_sentence
from punch.wire.rendezvous_address import RendezvousAddress


class ChatTests(SystemTestCase):
    """A long chat."""

    def test_nothing_readable_on_any_link(self) -> None:
        """Neither a random message nor a peer ID can be found on any link, in any common encoding."""
        secret = self.net.random_bytes("secret")(32)
        text = secret.hex()
        trace: list[Seen] = []
        self.net.trace = trace
        alice, bob = self.linked()
        alice.chat.send(bob.id, text)
        self.net.run_until(lambda: bob.messages, 5.0)
        self.assertEqual(bob.texts(), [text])
        everything = b"".join(seen.payload for seen in trace)
        self.assertGreater(len(everything), 10_000)
        needles = [secret, text.encode(), text.upper().encode()]
        for key in (secret, text.encode(), alice.id.key, bob.id.key):
            needles += [b64encode(key).rstrip(b"="), urlsafe_b64encode(key).rstrip(b"=")]
        for peer in (alice, bob):
            needles += [peer.id.key, peer.id.key.hex().encode(), str(peer.id).encode()]
        for needle in needles:
            self.assertNotIn(needle, everything)


class RendezvousTests(SystemTestCase):
    """The rendezvous stops and starts again."""

    def test_restart(self) -> None:
        """Links are not affected, peers register again by themselves, and new calls connect."""
        alice, bob = self.linked()
        carol = self.peer("carol").register()
        self.rendezvous.stop()
        for peer in (alice, bob, carol):
            lost = peer.wait_for(Unregistered, 5.0)
            self.assertIsNotNone(lost.retry_in)
        alice.chat.send(bob.id, "still here")
        self.net.run_until(lambda: alice.delivered, 5.0)
        self.net.advance(20.0)
        self.rendezvous.start()
        for peer in (alice, bob, carol):
            peer.wait_for(Registered, 60.0, 2)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])
        bob.chat.send(alice.id, "me too")
        self.net.run_until(lambda: alice.messages, 5.0)
        connect(carol, alice)

    def test_power_loss(self) -> None:
        """The keepalive detects a rendezvous that loses power, and peers register again when it returns."""
        alice, bob = self.linked()
        self.rendezvous.host.down()
        start = self.net.now
        lost = alice.wait_for(Unregistered, 90.0)
        self.assertEqual(lost.reason, "rendezvous-unreachable")
        self.assertLess(self.net.now - start, 60.0)
        self.rendezvous.host.up()
        alice.wait_for(Registered, 90.0, 2)
        bob.wait_for(Registered, 90.0, 2)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])

    def test_peers_come_back_spread_out(self) -> None:
        """Back-off has jitter, so that a restarted rendezvous is not overloaded."""
        peers = [self.peer(f"peer-{number}").register() for number in range(8)]
        self.rendezvous.stop()
        self.net.advance(2.0)
        delays = {peer.of(Unregistered)[0].retry_in for peer in peers}
        self.assertEqual(len(delays), len(peers))
        self.rendezvous.start()
        for peer in peers:
            peer.wait_for(Registered, 60.0, 2)

    def test_introduced_calls_go_on(self) -> None:
        """Once both sides have each other's candidates, the rendezvous may stop."""
        alice, bob = self.pair()
        self.net.advance(1.0)
        introduce(alice, bob)
        alice.call(bob.id)
        self.net.advance(0.201)
        self.rendezvous.host.down()
        alice.wait_for(Connected, 5.0)
        bob.wait_for(Connected, 5.0)
        self.rendezvous.host.up()

    def test_waiting_call_is_placed_anew(self) -> None:
        """A call that was not answered yet survives a restart of the rendezvous."""
        alice, bob = self.pair()
        alice.call(bob.id)
        bob.wait_for(IncomingCall, 5.0)
        self.rendezvous.stop()
        self.rendezvous.start()
        for peer in (alice, bob):
            peer.wait_for(Registered, 60.0, 2)
        self.net.advance(5.0)
        bob.node.accept(alice.id)
        outcome = alice.wait_for_end(10.0)
        if isinstance(outcome, CallFailed):
            # The callee came back after the new call was placed.
            self.assertEqual(outcome.reason, "not-registered")
            alice.call(bob.id)
            self.net.advance(1.0)
            bob.node.accept(alice.id)
        alice.wait_for(Connected, 10.0)

    def test_call_while_the_rendezvous_is_away(self) -> None:
        """The call waits a while for the rendezvous, and then fails with the reason."""
        alice, bob = self.pair()
        self.rendezvous.stop()
        self.net.advance(1.0)
        start = self.net.now
        alice.call(bob.id)
        failed = alice.wait_for(CallFailed, 30.0)
        self.assertEqual((failed.peer, failed.reason), (bob.id, "rendezvous-unreachable"))
        self.assertLess(self.net.now - start, 13.0)
        self.rendezvous.start()
        for peer in (alice, bob):
            peer.wait_for(Registered, 60.0, 2)
        connect(alice, bob)

    def test_no_rendezvous_at_all(self) -> None:
        """If nothing listens, there is an event for each try with the time of the next, and a call fails."""
        self.rendezvous.stop()
        alice = self.peer_at("alice", self.rendezvous_address)
        alice.start()
        lost = alice.wait_for(Unregistered, 15.0)
        self.assertEqual(lost.reason, "rendezvous-unreachable")
        self.assertIn("Nothing listens", event_sentence(lost))
        self.rendezvous.start()
        alice.wait_for(Registered, 60.0)

    def test_wrong_pin(self) -> None:
        """If the service has another key than its address says, nothing is sent, and the node gives up."""
        address = self.rendezvous_address
        wrong = RendezvousAddress(address.host, address.port, bytes(32))
        alice = self.peer_at("alice", wrong)
        alice.start()
        failed = alice.wait_for(CallFailed, 15.0)
        self.assertEqual((failed.peer, failed.reason), (None, "bad-pin"))
        self.assertIn("wrong pin", event_sentence(failed))
        self.net.advance(120.0)
        self.assertEqual(len(alice.of(Unregistered)), 1)
        self.assertNotIn("registered", [event for event, _ in self.rendezvous.reports])

    def setUp(self) -> None:
        super().setUp()
        self.rendezvous_address = self.rendezvous.address

    def peer_at(self, name: str, address: RendezvousAddress) -> Peer:
        """A peer whose rendezvous has the given address."""
        peer = Peer(self.net, self.host(name), address)
        self.peers.append(peer)
        return peer

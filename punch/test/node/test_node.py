"""A node: its bounds, its user's decisions at every stage, and its addresses."""

from __future__ import annotations

from punch.contacts import AddressBook, AddressBookError, AddressBookProblem
from punch.identity import Identity, PeerID
from punch.node.calls.calls import (
    MAX_CALLS,
    MAX_QUEUED,
    MAX_RINGING,
    MAX_STRANGERS,
)
from punch.node.causes import NoPathFound
from punch.node.events import (
    CallFailed,
    Connected,
    Event,
    IncomingCall,
    Introduced,
)
from punch.test.internet import NAT, InternetTestCase
from punch.test.node.control.scripted_service import ScriptedService
from punch.test.node.middleman import Middleman, MiddlemanTestCase
from punch.test.system import SERVICE, Peer, introduce
from punch.wire.control import Accept, ErrorCode, Establish, Incoming, Reject
from punch.wire.peers.sealed import Offer, seal_offer
from punch.wire.rendezvous_address import RendezvousAddress, pin_of


class BoundTests(MiddlemanTestCase):
    """Nothing that others send grows without bound."""

    def ring(self, number: int, to: Peer) -> PeerID:
        """An honest offer of some stranger."""
        stranger = Identity.generate(self.net.random_bytes(f"stranger {number}"))
        offer = Offer("stranger", "ufrag", "p" * 24, (), stranger.x25519().public_key().public_bytes_raw())
        call = self.net.random_bytes(f"call {number}")(16).hex()
        self.middle.deliver(to.id, Incoming(call, stranger.peer_id, "x", seal_offer(stranger, to.id, offer)))
        return stranger.peer_id

    def test_ringing(self) -> None:
        """Of 50 strangers, eight ring and 42 are told that it is busy."""
        for number in range(50):
            self.ring(number, self.bob)
        self.net.advance(2.0)
        self.assertEqual(len(self.bob.of(IncomingCall)), MAX_RINGING)
        busy = [request for request in self.middle.requests(Reject) if isinstance(request, Reject)]
        self.assertEqual([request.code for request in busy], [ErrorCode.BUSY] * (50 - MAX_RINGING))

    def test_strangers(self) -> None:
        """A node that lets anyone in still has room for those it knows."""
        carol = self.peer("carol", Accept.ANYONE).register()
        introduce(self.alice, carol)
        for number in range(80):
            self.ring(number, carol)
        self.net.advance(2.0)
        self.assertEqual(len(carol.of(Introduced)), MAX_STRANGERS)
        self.assertEqual(len(self.middle.requests(Reject)), 80 - MAX_STRANGERS)
        self.alice.call(carol.id)
        self.alice.wait_for(Connected, 5.0)

    def test_calls_and_links(self) -> None:
        """All calls together have a bound, too."""
        dave = self.peer("dave").register()
        for number in range(MAX_CALLS + 3):
            dave.call(Identity.generate(self.net.random_bytes(f"someone {number}")).peer_id)
        self.assertEqual([event.reason for event in dave.of(CallFailed)], ["too-many"] * 3)

    def test_queue(self) -> None:
        """Calls that wait for the rendezvous."""
        dave = self.peer("dave").start()
        for number in range(MAX_QUEUED + 1):
            dave.call(Identity.generate(self.net.random_bytes(f"someone {number}")).peer_id)
        self.assertEqual([event.reason for event in dave.of(CallFailed)], ["too-many"])

    def test_the_same_stranger_calls_again_and_again(self) -> None:
        """The newest call counts; the user is asked once."""
        stranger = Identity.generate(self.net.random_bytes("stranger"))
        key = stranger.x25519().public_key().public_bytes_raw()
        for number in range(20):
            offer = Offer(f"stranger {number}", "ufrag", "p" * 24, (), key)
            call = self.net.random_bytes(f"call {number}")(16).hex()
            self.middle.deliver(
                self.bob.id,
                Incoming(call, stranger.peer_id, "x", seal_offer(stranger, self.bob.id, offer)),
            )
        self.net.advance(2.0)
        self.assertEqual(len(self.bob.of(IncomingCall)), 1)
        self.bob.node.accept(stranger.peer_id)
        self.net.advance(1.0)
        self.assertEqual(self.bob.last(Introduced).name, "stranger 19")


class UserTests(MiddlemanTestCase):
    """What a user may do at any time."""

    def test_decisions_about_nothing(self) -> None:
        """Accepting, refusing and hanging up where there is nothing."""
        for decide in (self.bob.node.accept, self.bob.node.reject, self.bob.node.hangup):
            decide(self.alice.id)
        self.assertIsNone(self.bob.node.link(self.alice.id))
        self.assertEqual(self.bob.of(CallFailed), [])

    def test_hang_up_at_every_stage(self) -> None:
        """The call ends once, and the next one works."""
        for step in range(9):
            self.alice.events.clear()
            self.alice.call(self.bob.id)
            self.net.advance(step * 0.1)
            self.alice.node.hangup(self.bob.id)
            self.net.advance(3.0)
            self.assertIsNone(self.alice.node.link(self.bob.id))
            self.assertIsNone(self.bob.node.link(self.alice.id))
        self.alice.events.clear()
        self.assertIsInstance(self.call(5.0), Connected)

    def test_stop_at_every_stage(self) -> None:
        """A node stops within about a second whatever it is doing, and frees all it had."""
        for step in range(9):
            carol = self.peer(f"carol-{step}").register()
            introduce(carol, self.bob)
            carol.call(self.bob.id)
            self.net.advance(step * 0.1)
            start = self.net.now
            carol.stop()
            self.assertLess(self.net.now - start, 1.5)

    def test_decisions_from_within_events(self) -> None:
        """An application may act while it is being told."""

        def accept(event: Event) -> None:
            if isinstance(event, IncomingCall):
                carol.node.accept(event.peer)
            elif isinstance(event, Connected):
                carol.node.hangup(event.peer)

        carol = self.peer("carol").register()
        carol.on_event = accept
        self.alice.call(carol.id)
        self.alice.wait_for(Connected, 5.0)
        self.net.run_until(lambda: carol.node.link(self.alice.id) is None, 5.0)
        self.net.advance(2.0)
        self.assertIsNone(self.alice.node.link(carol.id))

    def test_hang_up_from_within_events(self) -> None:
        """A call can be hung up within the handler of each of its events."""
        for kind in (IncomingCall, Introduced, Connected):
            carol = self.peer(f"carol-{kind.__name__}", Accept.ANYONE).register()

            def end(event: Event, kind: type[Event] = kind, carol: Peer = carol) -> None:
                if isinstance(event, kind):
                    carol.node.hangup(self.alice.id)

            carol.on_event = end
            self.alice.call(carol.id)
            self.net.advance(5.0)
            self.assertIsNone(carol.node.link(self.alice.id), kind)
            self.assertIsNone(self.alice.node.link(carol.id), kind)

    def test_known_peers_that_cannot_be_kept(self) -> None:
        """A full disk does not end a call."""

        class FullDisk(AddressBook):
            def add(self, peer: PeerID, claimed: str) -> bool:
                raise AddressBookError(AddressBookProblem.FILE, cause=OSError(28, "No space left on device"))

        carol = self.peer("carol", known=FullDisk(None)).register()
        carol.call(self.bob.id)
        self.bob.wait_for(IncomingCall, 5.0)
        self.bob.node.accept(carol.id)
        carol.wait_for(Connected, 5.0)

    def test_call_twice(self) -> None:
        """A second call to a peer that is being called, or linked, is the first."""
        self.alice.call(self.bob.id)
        self.alice.call(self.bob.id)
        self.alice.wait_for(Connected, 5.0)
        self.alice.call(self.bob.id)
        self.net.advance(3.0)
        self.assertEqual(len(self.middle.requests(Establish)), 1)


class AddressTests(InternetTestCase):
    """Which local addresses are used."""

    def test_addresses_come_and_go(self) -> None:
        """Each call uses those that are there, each with a socket of its own."""
        net = self.internet()
        key = Identity.generate(net.random_bytes("service key"))
        Middleman(ScriptedService.with_key(net.host("service", SERVICE), key))
        address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
        lan = net.lan("home", "198.18.1.0/24", nat=NAT(public="203.0.113.1"))
        alice = Peer(net, lan.host("alice", "198.18.1.7", "198.18.1.8"), address)
        bob = Peer(net, lan.host("bob"), address)
        introduce(alice, bob)
        for peer in (alice, bob):
            peer.register()
        alice.call(bob.id)
        alice.wait_for(Connected, 5.0)
        sockets = alice.node.status.sockets
        self.assertEqual({socket.host for socket in sockets}, {"198.18.1.7", "198.18.1.8"})
        self.assertEqual(len({socket.port for socket in sockets}), 2)
        for peer in (alice, bob):
            peer.stop()
        self.assertEqual(alice.node.status.sockets, ())

    def test_no_address_at_all(self) -> None:
        """A call from a machine without an address fails, and its cause is known."""
        net = self.internet()
        key = Identity.generate(net.random_bytes("service key"))
        Middleman(ScriptedService.with_key(net.host("service", SERVICE), key))
        address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
        alice = Peer(net, net.host("alice"), address, addresses=list)
        bob = Peer(net, net.host("bob"), address)
        introduce(alice, bob)
        for peer in (alice, bob):
            peer.register()
        alice.call(bob.id)
        failed = alice.wait_for(CallFailed, 130.0)
        self.assertEqual(failed.reason, "unreachable")
        assert isinstance(failed.cause, NoPathFound)
        assert failed.cause.checks is not None
        self.assertEqual(failed.cause.checks.local, frozenset())
        for peer in (alice, bob):
            peer.stop()

"""
A node and a rendezvous that is dishonest, or merely wrong: every call ends cleanly, and never with somebody
else.
"""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from punch.identity import Identity, PeerID
from punch.peer.bounds import MAX_QUEUED, MAX_RINGING, MAX_SESSIONS, MAX_STRANGERS
from punch.peer.events import Connected, Event, Failed, IncomingCall, Introduced
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.udp import PlainPort
from punch.rendezvous.udp_server import UDPServer
from punch.state import KnownPeers, StateError
from punch.test.internet import NAT, Internet, InternetTestCase, LinkSpec
from punch.test.scripted_service import ScriptedConnection, ScriptedService
from punch.test.system import SERVICE, Peer, introduce
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    ErrorCode,
    Establish,
    Incoming,
    Reject,
    Reply,
    Request,
    Trickle,
)
from punch.wire.control_codec import encode
from punch.wire.rendezvous_address import RendezvousAddress, pin_of
from punch.wire.sealed import Envelope, Offer, seal_offer

Forward = list[tuple[PeerID, Reply]]
R = TypeVar("R", bound=Incoming | Answered | Candidates)


class Middleman:
    """
    A rendezvous that passes on what a test wants it to.

    :ivar meddle: is given the recipient and each message that an honest service would deliver; returns what
        is delivered instead.
    :ivar passed: all that an honest service would have delivered.
    """

    def __init__(self, service: ScriptedService) -> None:
        self.service = service
        self.by_peer: dict[PeerID, ScriptedConnection] = {}
        self.passed: Forward = []
        self.meddle: Callable[[PeerID, Reply], Forward] = lambda to, reply: [(to, reply)]
        service.answer = self.answer

    def answer(self, connection: ScriptedConnection, request: Request) -> None:
        """One request of one peer."""
        sender = connection.peer
        assert sender is not None
        self.by_peer[sender] = connection
        self.service.obliging(connection, request)
        reply = self._honest(sender, request)
        if reply is not None:
            self.passed.append(reply)
            for to, meddled in self.meddle(*reply):
                self.deliver(to, meddled)

    def deliver(self, to: PeerID, reply: Reply) -> None:
        """Say anything to a peer that is there."""
        if to in self.by_peer:
            self.by_peer[to].reply(reply)

    def requests(self, kind: type[Request]) -> list[Request]:
        """What was asked for."""
        return [request for request in self.service.requests if isinstance(request, kind)]

    def _honest(self, sender: PeerID, request: Request) -> tuple[PeerID, Reply] | None:
        if isinstance(request, Establish):
            return request.to, Incoming(request.call, sender, "somebody", request.offer)
        if isinstance(request, Answer):
            return request.to, Answered(request.call, sender, request.answer)
        if isinstance(request, Trickle):
            return request.to, Candidates(request.call, sender, request.envelope)
        if isinstance(request, Reject):
            return request.to, Ended(request.call, request.code, "No.", sender)
        if isinstance(request, Cancel):
            return request.to, Ended(request.call, ErrorCode.CANCELLED, "Over.", sender)
        return None


def changed(envelope: Envelope) -> Envelope:
    """One bit of the body is another."""
    return replace(envelope, body=envelope.body[:-1] + bytes([envelope.body[-1] ^ 1]))


class MiddlemanTestCase(InternetTestCase):
    """Alice and Bob, who knows her, at their homes; Mallory runs the rendezvous."""

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        key = Identity.generate(self.net.random_bytes("service key"))
        host = self.net.host("service", SERVICE)
        service = ScriptedService.with_key(host, key)
        service.reflector = 3478
        PlainPort(host.reactor, SERVICE, 3478, UDPServer(Reflector(), monotonic=self.net.monotonic))
        self.middle = Middleman(service)
        self.address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
        self.homes = 0
        self.peers: list[Peer] = []
        self.alice, self.bob = self.peer("alice"), self.peer("bob")
        introduce(self.alice, self.bob)
        for peer in (self.alice, self.bob):
            peer.register()

    def tearDown(self) -> None:
        for peer in self.peers:
            if peer.node.running:
                peer.stop()
        self.net.advance(60.0)
        for peer in self.peers:
            self.assertEqual(peer.host.reactor.getDelayedCalls(), [], peer.name)

    def peer(self, name: str, accept: Accept = Accept.ASK, known: KnownPeers | None = None) -> Peer:
        """A peer that is not started. All homes are public enough to need no reflector."""
        self.homes += 1
        lan = self.net.lan(f"home-{name}", f"198.18.{self.homes}.0/24", link=LinkSpec(delay=0.05))
        peer = Peer(self.net, lan.host(name), self.address, accept=accept, known=known, pacing=0.02)
        self.peers.append(peer)
        return peer

    def on(self, kind: type[R], change: Callable[[PeerID, R], Forward]) -> None:
        """Meddle with one kind of message."""

        def meddle(to: PeerID, reply: Reply) -> Forward:
            return change(to, reply) if isinstance(reply, kind) else [(to, reply)]

        self.middle.meddle = meddle

    def call(self, timeout: float = 130.0) -> Connected | Failed:
        """Alice calls Bob; what becomes of it."""
        self.alice.node.call(self.bob.id)
        return self.alice.wait_for_end(timeout)

    def assert_failed(self, reason: str) -> None:
        """The call ends for this reason, and nobody is connected to anybody."""
        outcome = self.call()
        assert isinstance(outcome, Failed), outcome
        self.assertEqual((outcome.peer, outcome.reason), (self.bob.id, reason), outcome.text)
        self.net.advance(130.0)
        for peer in self.peers:
            self.assertEqual(peer.of(Connected), [], peer.name)


class DishonestRendezvousTests(MiddlemanTestCase):
    """Tampered, replayed, reordered, misdirected, withheld."""

    def test_honest(self) -> None:
        """The same service, when it meddles with nothing."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.net.advance(5.0)
        self.assertEqual(len(self.middle.requests(Cancel)), 1)

    def test_what_the_rendezvous_can_read(self) -> None:
        """Not one address of either peer stands in the lines it handles, in any common encoding."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.net.advance(5.0)
        kinds = {type(request) for request in self.middle.service.requests}
        self.assertLessEqual({Establish, Answer, Trickle}, kinds)
        lines = b"\n".join(encode(request) for request in self.middle.service.requests)
        for peer in (self.alice, self.bob):
            for host in peer.host.addresses:
                packed = ip_address(host).packed
                for form in (host.encode(), packed, packed.hex().encode()):
                    self.assertNotIn(form, lines)
                for encoding in (b64encode, urlsafe_b64encode):
                    # The middle of the text, so that its place in what was encoded makes no difference
                    for start in range(3):
                        self.assertNotIn(encoding(host.encode()[start:][: len(host) // 3 * 3 - 3]), lines)

    def test_changed_offer(self) -> None:
        """The callee refuses, silently for its user."""
        self.on(Incoming, lambda to, reply: [(to, replace(reply, offer=changed(reply.offer)))])
        self.assert_failed("refused")
        self.assertEqual(self.bob.of(IncomingCall) + self.bob.of(Failed), [])

    def test_offer_in_anothers_name(self) -> None:
        """Who sealed and signed it is who calls, whatever the service says."""
        carol = self.peer("carol")
        introduce(carol, self.bob)
        self.on(Incoming, lambda to, reply: [(to, replace(reply, sender=carol.id))])
        self.alice.node.call(self.bob.id)
        self.net.advance(2.0)
        self.assertEqual(self.bob.of(IncomingCall), [])

    def test_offer_to_somebody_else(self) -> None:
        """It opens nowhere but at the one it is for."""
        carol = self.peer("carol", Accept.ANYONE).register()
        self.on(Incoming, lambda to, reply: [(carol.id, reply)])
        self.alice.node.call(self.bob.id)
        self.net.advance(2.0)
        self.assertEqual(carol.of(IncomingCall) + carol.of(Introduced), [])

    def test_own_offer_comes_back(self) -> None:
        """A call from oneself is none."""
        self.on(Incoming, lambda to, reply: [(self.alice.id, reply), (to, reply)])
        self.assertIsInstance(self.call(5.0), Connected)

    def test_offer_replayed(self) -> None:
        """
        A recorded offer does not ring again, and gets no second answer: not at once, not after the link.
        """
        offers: list[Incoming] = []

        def keep(to: PeerID, reply: Incoming) -> Forward:
            offers.append(reply)
            return [(to, reply), (to, reply), (to, replace(reply, call="f" * 32))]

        self.on(Incoming, keep)
        self.assertIsInstance(self.call(5.0), Connected)
        self.bob.wait_for(Connected, 5.0)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(5.0)
        self.middle.deliver(self.bob.id, replace(offers[0], call="e" * 32))
        self.net.advance(5.0)
        self.assertEqual(len(self.bob.of(IncomingCall)), 1)
        answers = {request.answer for request in self.middle.requests(Answer) if isinstance(request, Answer)}
        self.assertEqual(len(answers), 1)

    def test_changed_answer(self) -> None:
        """The caller ends the call, and looks for no path."""
        self.on(Answered, lambda to, reply: [(to, replace(reply, answer=changed(reply.answer)))])
        self.assert_failed("protocol")
        self.assertEqual(self.alice.of(Introduced), [])

    def test_answer_of_somebody_else(self) -> None:
        """Another peer's answer, in its own name or in the callee's, is not the callee's."""
        mallory = self.peer("mallory", Accept.ANYONE).register()
        answers: list[Answered] = []

        def keep(to: PeerID, reply: Answered) -> Forward:
            answers.append(reply)
            return []

        self.on(Answered, keep)
        self.alice.node.call(mallory.id)
        self.net.advance(1.0)
        self.alice.node.hangup(mallory.id)
        self.net.advance(1.0)
        self.alice.events.clear()
        (stolen,) = answers
        self.on(
            Answered,
            lambda to, reply: [
                (to, replace(reply, sender=mallory.id)),
                (to, replace(reply, answer=stolen.answer)),
            ],
        )
        self.assert_failed("protocol")

    def test_answer_withheld(self) -> None:
        """Ringing ends."""
        self.on(Answered, lambda to, reply: [])
        self.assert_failed("timeout")

    def test_answer_twice(self) -> None:
        """The second changes nothing."""
        self.on(Answered, lambda to, reply: [(to, reply)] * 3)
        self.assertIsInstance(self.call(5.0), Connected)

    def test_changed_candidates(self) -> None:
        """What was trickled and changed ends the call, on the side that sees it."""
        self.on(Candidates, lambda to, reply: [(to, replace(reply, envelope=changed(reply.envelope)))])
        self.alice.node.call(self.bob.id)
        outcome = self.alice.wait_for_end(130.0)
        self.assertGreater(len(self.middle.requests(Trickle)), 0)
        if isinstance(outcome, Failed):
            self.assertIn(outcome.reason, ("protocol", "cancelled"))

    def test_candidates_of_nobody(self) -> None:
        """Messages about calls that don't exist, or from somebody else, change nothing."""
        self.assertIsInstance(self.call(5.0), Connected)
        self.bob.wait_for(Connected, 5.0)
        (establish,) = self.middle.requests(Establish)
        assert isinstance(establish, Establish)
        for call in ("0" * 32, establish.call):
            for reply in (
                Answered(call, self.bob.id, establish.offer),
                Candidates(call, self.bob.id, establish.offer),
                Candidates(call, self.alice.id, establish.offer),
                Ended(call, ErrorCode.CANCELLED, "Over."),
                Ended(call, ErrorCode.GONE, "Gone.", self.bob.id),
            ):
                for peer in (self.alice, self.bob):
                    self.middle.deliver(peer.id, reply)
        self.net.advance(5.0)
        for peer in (self.alice, self.bob):
            self.assertEqual(peer.of(Failed), [])
        self.alice.chats.send(self.bob.id, "still private")
        self.net.run_until(lambda: self.alice.delivered, 5.0)

    def test_everything_late(self) -> None:
        """What is delivered in another order than sent: a link, or a clean end."""
        kept: Forward = []

        def hold(to: PeerID, reply: Reply) -> Forward:
            kept.append((to, reply))
            if len(kept) < 3:
                return []
            out = kept[::-1]
            kept.clear()
            return out

        self.middle.meddle = hold
        outcome = self.call()
        if isinstance(outcome, Failed):
            self.assertIn(outcome.reason, ("protocol", "timeout", "unreachable", "cancelled"))

    def test_end_of_a_call_that_was_introduced(self) -> None:
        """The service's word that it is over does not end it, once both know each other's candidates."""
        self.on(
            Answered,
            lambda to, reply: [(to, reply), (to, Ended(reply.call, ErrorCode.GONE, "Gone.", self.bob.id))],
        )
        self.assertIsInstance(self.call(5.0), Connected)


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
        self.alice.node.call(carol.id)
        self.alice.wait_for(Connected, 5.0)

    def test_sessions(self) -> None:
        """All calls together have a bound, too."""
        dave = self.peer("dave").register()
        for number in range(MAX_SESSIONS + 3):
            dave.node.call(Identity.generate(self.net.random_bytes(f"someone {number}")).peer_id)
        self.assertEqual([event.reason for event in dave.of(Failed)], ["too-many"] * 3)

    def test_queue(self) -> None:
        """Calls that wait for the rendezvous."""
        dave = self.peer("dave").start()
        for number in range(MAX_QUEUED + 1):
            dave.node.call(Identity.generate(self.net.random_bytes(f"someone {number}")).peer_id)
        self.assertEqual([event.reason for event in dave.of(Failed)], ["too-many"])

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
        self.assertEqual(self.bob.of(Failed), [])

    def test_hang_up_at_every_stage(self) -> None:
        """The call ends once, and the next one works."""
        for step in range(9):
            self.alice.events.clear()
            self.alice.node.call(self.bob.id)
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
            carol.node.call(self.bob.id)
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
        self.alice.node.call(carol.id)
        self.alice.wait_for(Connected, 5.0)
        self.net.run_until(lambda: carol.node.link(self.alice.id) is None, 5.0)
        self.net.advance(2.0)
        self.assertIsNone(self.alice.node.link(carol.id))

    def test_hang_up_from_within_events(self) -> None:
        """At each event of a call."""
        for kind in (IncomingCall, Introduced, Connected):
            carol = self.peer(f"carol-{kind.__name__}", Accept.ANYONE).register()

            def end(event: Event, kind: type[Event] = kind, carol: Peer = carol) -> None:
                if isinstance(event, kind):
                    carol.node.hangup(self.alice.id)

            carol.on_event = end
            self.alice.node.call(carol.id)
            self.net.advance(5.0)
            self.assertIsNone(carol.node.link(self.alice.id), kind)
            self.assertIsNone(self.alice.node.link(carol.id), kind)

    def test_known_peers_that_cannot_be_kept(self) -> None:
        """A full disk does not end a call."""

        class FullDisk(KnownPeers):
            def add(self, peer: PeerID, name: str) -> None:
                raise StateError("The disk is full.")

        carol = self.peer("carol", known=FullDisk(None)).register()
        carol.node.call(self.bob.id)
        self.bob.wait_for(IncomingCall, 5.0)
        self.bob.node.accept(carol.id)
        carol.wait_for(Connected, 5.0)

    def test_call_twice(self) -> None:
        """A second call to a peer that is being called, or linked, is the first."""
        self.alice.node.call(self.bob.id)
        self.alice.node.call(self.bob.id)
        self.alice.wait_for(Connected, 5.0)
        self.alice.node.call(self.bob.id)
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
        alice.node.call(bob.id)
        alice.wait_for(Connected, 5.0)
        self.assertEqual(
            {base.host for base in alice.node._network.sockets.bases}, {"198.18.1.7", "198.18.1.8"}
        )
        self.assertEqual(len({base.port for base in alice.node._network.sockets.bases}), 2)
        for peer in (alice, bob):
            peer.stop()
        self.assertEqual(alice.node._network.sockets.bases, [])

    def test_no_address_at_all(self) -> None:
        """A call from nowhere ends with a sentence."""
        net = self.internet()
        key = Identity.generate(net.random_bytes("service key"))
        Middleman(ScriptedService.with_key(net.host("service", SERVICE), key))
        address = RendezvousAddress(SERVICE, 7001, pin_of(key.private_key.public_key()))
        alice = Peer(net, net.host("alice"), address, addresses=list)
        bob = Peer(net, net.host("bob"), address)
        introduce(alice, bob)
        for peer in (alice, bob):
            peer.register()
        alice.node.call(bob.id)
        failed = alice.wait_for(Failed, 130.0)
        self.assertEqual(failed.reason, "unreachable")
        self.assertIn("no network address", failed.text)
        for peer in (alice, bob):
            peer.stop()

"""A rendezvous with a test in its middle, and the nodes that trust it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.net.udp.server import PlainPort
from punch.node.events import CallFailed, Connected
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.udp_server import UDPServer
from punch.test.internet import Internet, InternetTestCase, LinkSpec
from punch.test.node.control.scripted_service import ScriptedConnection, ScriptedService
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
from punch.wire.rendezvous_address import RendezvousAddress, pin_of

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
            return request.to, Ended(request.call, request.code, "No.", sender=sender)
        if isinstance(request, Cancel):
            return request.to, Ended(request.call, ErrorCode.CANCELLED, "Over.", sender=sender)
        return None


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

    def peer(self, name: str, accept: Accept = Accept.ASK, known: AddressBook | None = None) -> Peer:
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

    def call(self, timeout: float = 130.0) -> Connected | CallFailed:
        """Alice calls Bob; what becomes of it."""
        self.alice.call(self.bob.id)
        return self.alice.wait_for_end(timeout)

    def assert_failed(self, reason: str) -> None:
        """The call ends for this reason, and nobody is connected to anybody."""
        outcome = self.call()
        assert isinstance(outcome, CallFailed), outcome
        self.assertEqual((outcome.peer, outcome.reason), (self.bob.id, reason), outcome)
        self.net.advance(130.0)
        for peer in self.peers:
            self.assertEqual(peer.of(Connected), [], peer.name)

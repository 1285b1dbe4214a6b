"""Ports of UDP of bob's machine, reached from alice's, on the simulated internet."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import parse_address
from punch.apps.forward.datagrams import (
    MAX_FLOWS_OF_ALL,
    MAX_WAITING,
    RETRY,
    DatagramForwarder,
    ExposedDatagrams,
)
from punch.apps.forward.messages import MAX_FLOWS, DatagramReader, ForwardFailure, encode_datagram, failure_of
from punch.identity import Identity, PeerID
from punch.link.transport import StreamAborted
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.test.local.test_local import LocalTestCase, Recorders

SERVED, LOCAL = 53, 5353
SERVICE = "udp/localhost:53"


class Upper(DatagramProtocol):
    """Answers with what it was sent, in capitals."""

    transport: Any

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self.transport.write(data.upper(), addr)


class Client(DatagramProtocol):
    transport: Any

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def ask(self, data: bytes, port: int = LOCAL) -> None:
        self.transport.write(data, ("127.0.0.1", port))

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        self.received.append(data)


class DatagramCase(LocalTestCase):
    """A client and a server whose datagrams are forwarded."""

    def setUp(self) -> None:
        super().setUp()
        self.books["alice"].add(self.bob_id, "bob")
        self.errors: list[Exception] = []
        self.exposed_errors: list[tuple[PeerID, ForwardFailure]] = []
        self.server = Upper()
        self.hosts["bob"].reactor.listenUDP(SERVED, self.server, interface="127.0.0.1", maxPacketSize=65535)

    def expose(self, node: NodeAccess | None = None, allow: Allow | None = None, text: str = "53") -> None:
        exposed = ExposedDatagrams(
            self.hosts["bob"].reactor,
            parse_address(text, udp=True),
            lambda peer, code, error: self.exposed_errors.append((peer, code)),
        )
        node = self.owned["bob"] if node is None else node
        allow = Allow(frozenset([self.alice_id])) if allow is None else allow
        self.net.wait(node.serve(SERVICE, exposed, allow), 2.0, "exposing")

    def forward(self, node: NodeAccess | None = None) -> DatagramForwarder:
        reactor = self.hosts["alice"].reactor
        node = self.owned["alice"] if node is None else node
        forwarder = DatagramForwarder(node, self.bob_id, SERVICE, reactor, self.errors.append)
        reactor.listenUDP(LOCAL, forwarder, interface="127.0.0.1", maxPacketSize=65535)
        return forwarder

    def client(self) -> Client:
        client = Client()
        self.hosts["alice"].reactor.listenUDP(0, client, interface="127.0.0.1", maxPacketSize=65535)
        return client

    def question_and_answer(self) -> None:
        """Of two programs, each gets its own answers, as long as they are; a port of bob's for each."""
        first, second = self.client(), self.client()
        first.ask(b"a")
        first.ask(b"")
        second.ask(b"b" * 9000)
        self.run_until(lambda: len(first.received) == 2 and len(second.received) == 1, 20.0)
        self.assertEqual((first.received, second.received), ([b"A", b""], [b"B" * 9000]))
        self.assertEqual(len({addr for _, addr in self.server.received}), 2)
        self.assertEqual(self.errors, [])


class DatagramTests(DatagramCase):
    def test_between_nodes(self) -> None:
        self.expose()
        self.forward()
        self.question_and_answer()

    def test_between_attached_programs(self) -> None:
        self.expose(self.attach("bob"))
        self.forward(self.attach("alice"))
        self.question_and_answer()

    def test_it_goes_on_after_the_link(self) -> None:
        self.expose()
        self.forward()
        client = self.client()
        client.ask(b"a")
        self.run_until(lambda: len(client.received) == 1, 20.0)
        self.bob.hangup(self.alice_id)
        self.net.advance(2.0)
        client.ask(b"b")
        self.run_until(lambda: len(client.received) == 2, 20.0)
        self.assertEqual(self.errors, [])

    def test_nothing_is_reachable_without_a_grant(self) -> None:
        self.forward()
        client = self.client()
        for reason in ("no-service", "not-allowed"):
            client.ask(b"a")
            self.run_until(lambda: len(self.errors) == 1, 20.0)
            error = self.errors.pop()
            assert isinstance(error, CommandError)
            self.assertEqual(error.reason, reason)
            self.net.advance(RETRY)
            if reason == "no-service":
                self.expose(allow=Allow(frozenset([self.bob_id])))
        self.assertEqual((self.server.received, client.received), ([], []))

    def test_a_host_that_is_not_there(self) -> None:
        """Both sides say so, and it is tried again."""
        self.expose(text="printer.example:53")
        self.forward()
        client = self.client()
        client.ask(b"a")
        self.run_until(lambda: bool(self.errors), 20.0)
        self.assertEqual([failure_of(error) for error in self.errors], [ForwardFailure.NO_HOST])
        self.assertEqual(self.exposed_errors, [(self.alice_id, ForwardFailure.NO_HOST)])
        self.net.dns["printer.example"] = ["127.0.0.1"]
        self.net.advance(RETRY)
        client.ask(b"b")
        self.run_until(lambda: client.received == [b"B"], 20.0)

    def test_any_bytes_of_a_peer(self) -> None:
        """They are datagrams for the exposed port, of at most so many flows, and nothing else."""
        self.expose()
        garbage = b"".join(encode_datagram(flow, b"x") for flow in range(MAX_FLOWS + 10)) + b"\1\2\3"
        opened = self.owned["alice"].open(self.bob_id, SERVICE, Recorders())
        stream: Any = self.net.wait(opened, 20.0, "a stream")
        stream.transport.write(garbage)
        self.run_until(lambda: len(self.server.received) == MAX_FLOWS + 10, 20.0)
        self.net.advance(0.5)
        stream.transport.loseWriteConnection()
        self.run_until(lambda: stream.reason is not None, 5.0)
        self.assertEqual(self.exposed_errors, [])


class Opening:
    """A node that answers when the test says so."""

    def __init__(self) -> None:
        self.opening: list[tuple[Deferred[Any], Any]] = []

    def open(self, peer: PeerID, service: str, factory: Factory) -> Deferred[Any]:
        self.opening.append((Deferred(), factory.buildProtocol(None)))
        return self.opening[-1][0]


class BoundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make a port to which nothing was sent."""
        self.clock = Clock()
        self.node = Opening()
        node: Any = self.node
        self.errors: list[Exception] = []
        peer = Identity.generate().peer_id
        self.forwarder = DatagramForwarder(node, peer, SERVICE, self.clock, self.errors.append)

    def send(self, count: int = 1) -> None:
        for number in range(count):
            self.forwarder.datagramReceived(b"%d" % number, ("127.0.0.1", 1000 + number))

    def opened(self, number: int = 0) -> Any:
        deferred, stream = self.node.opening[number]
        transport: Any = StringTransport()
        stream.makeConnection(transport)
        deferred.callback(stream)
        return transport

    def test_many_while_a_stream_is_opened(self) -> None:
        """One stream is opened, and so many datagrams wait."""
        self.send(MAX_FLOWS + MAX_WAITING)
        self.assertEqual(len(self.node.opening), 1)
        self.assertEqual(self.forwarder.flow_count, MAX_FLOWS)
        sent = list(DatagramReader().receive(self.opened().value()))
        self.assertEqual([data for _, data in sent], [b"%d" % number for number in range(MAX_WAITING)])

    def test_a_stream_that_is_full(self) -> None:
        """What it has no room for is lost, at once and without a trace."""
        self.send()
        transport = self.opened()
        stream = self.node.opening[0][1]
        transport.clear()
        transport.producer.pauseProducing()
        self.send(5)
        self.assertEqual(transport.value(), b"")
        transport.producer.resumeProducing()
        self.send()
        self.assertEqual(transport.value(), encode_datagram(1, b"0"))
        self.assertFalse(stream.over)

    def test_a_failure_is_told_once_a_second(self) -> None:
        """Datagrams are lost until then, and the next one opens a stream."""
        self.send(3)
        self.node.opening[0][0].errback(CommandError("not-registered", "He is not registered."))
        self.send(3)
        self.assertEqual((len(self.errors), len(self.node.opening)), (1, 1))
        self.clock.advance(RETRY)
        self.send()
        self.assertEqual(len(self.node.opening), 2)
        self.assertEqual(list(DatagramReader().receive(self.opened(1).value())), [(1, b"0")])

    def test_a_stream_that_is_over_before_it_is_opened(self) -> None:
        self.send()
        deferred, stream = self.node.opening[0]
        stream.makeConnection(StringTransport())
        stream.connectionLost(Failure(StreamAborted(ForwardFailure.CONNECTION_REFUSED)))
        deferred.callback(stream)
        self.assertEqual([failure_of(error) for error in self.errors], [ForwardFailure.CONNECTION_REFUSED])
        self.clock.advance(RETRY)
        self.send()
        self.assertEqual(len(self.node.opening), 2)

    def test_a_port_that_is_closed(self) -> None:
        """Nothing goes on: no flow, no stream, no timer; an answer that is under way is lost."""
        nothing: Any = None
        self.forwarder.makeConnection(nothing)
        self.send(3)
        transport = self.opened()
        stream = self.node.opening[0][1]
        self.forwarder.doStop()
        self.assertTrue(transport.disconnecting)
        self.assertEqual((self.forwarder.flow_count, self.clock.getDelayedCalls()), (0, []))
        stream.dataReceived(encode_datagram(1, b"late"))
        stream.connectionLost(Failure(StreamAborted(ForwardFailure.CONNECTION_REFUSED)))
        self.assertEqual((self.errors, self.clock.getDelayedCalls()), ([], []))

    def test_a_port_that_is_closed_while_a_stream_is_opened(self) -> None:
        """The stream is ended as soon as it is there; an error is nobody's any more."""
        for fails in (False, True):
            self.make_world()
            nothing: Any = None
            self.forwarder.makeConnection(nothing)
            self.send(3)
            self.forwarder.doStop()
            if fails:
                self.node.opening[0][0].errback(CommandError("not-registered", "He is not registered."))
            else:
                transport = self.opened()
                self.assertEqual((transport.value(), transport.disconnecting), (b"", True))
            self.assertEqual((self.errors, self.clock.getDelayedCalls()), ([], []))

    def test_flows_of_peers(self) -> None:
        """One peer can't take all places."""
        nothing: Any = None
        exposed = ExposedDatagrams(nothing, parse_address("53", udp=True), lambda peer, code, error: None)
        peers = [Identity.generate().peer_id for _ in range(5)]
        for peer in peers[:4]:
            self.assertTrue(exposed.has_place(peer))
            exposed.count(peer, MAX_FLOWS)
            self.assertFalse(exposed.has_place(peer))
        self.assertEqual(4 * MAX_FLOWS, MAX_FLOWS_OF_ALL)
        self.assertFalse(exposed.has_place(peers[4]))
        exposed.count(peers[0], -1)
        self.assertTrue(exposed.has_place(peers[4]))

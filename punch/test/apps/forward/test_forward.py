"""Ports of bob's machine, reached from alice's, on the simulated internet."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

from punch.apps.forward.connections import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_PEER,
    MAX_FORWARDED,
    READ_SIZE,
    Exposed,
    Forwarder,
    Joined,
)
from punch.apps.forward.messages import ForwardFailure, failure_of
from punch.identity import Identity, PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.test.link.twisted_links import HalfCloser
from punch.test.local.test_local import LocalTestCase, Recorders

SERVED, LOCAL = 80, 8080
SERVICE = "tcp/localhost:80"


class TCPTransport(StringTransport):
    """A connection of TCP, as far as Twisted's options of it go."""

    bufferSize = FileDescriptor.bufferSize

    def __init__(self) -> None:
        super().__init__()
        self.no_delay = False
        directlyProvides(self, ITCPTransport)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled


class JoinedTests(SynchronousTestCase):
    def test_small_writes_are_not_held_back(self) -> None:
        transport = TCPTransport()
        Joined(stream=False).makeConnection(transport)
        self.assertTrue(transport.no_delay)

    def test_more_is_read_of_who_sends_much(self) -> None:
        near, far = Joined(stream=False), Joined(stream=True)
        for each in (near, far):
            each.makeConnection(TCPTransport())
        near.join(far)
        size = FileDescriptor.bufferSize
        self.assertLess(size, READ_SIZE)
        near.dataReceived(bytes(size - 1))
        self.assertEqual(near.transport.bufferSize, size)
        near.dataReceived(bytes(size))
        self.assertEqual(near.transport.bufferSize, READ_SIZE)
        near.dataReceived(bytes(READ_SIZE))
        self.assertEqual(near.transport.bufferSize, READ_SIZE)
        near.dataReceived(bytes(READ_SIZE - 1))
        self.assertEqual(near.transport.bufferSize, size)
        far.dataReceived(bytes(size))
        self.assertEqual(far.transport.bufferSize, size)


class ForwardTestCase(LocalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.books["alice"].add(self.bob_id, "bob")
        self.web = Recorders()
        self.errors: list[Exception] = []
        self.exposed_errors: list[tuple[PeerID, ForwardFailure]] = []

    def serve(self) -> None:
        """A server of bob's machine."""
        self.hosts["bob"].reactor.listenTCP(SERVED, self.web, interface="127.0.0.1")

    def expose(self, node: NodeAccess | None = None, allow: Allow | None = None) -> None:
        endpoint = HostnameEndpoint(self.hosts["bob"].reactor, "127.0.0.1", SERVED)
        exposed = Exposed(endpoint, lambda peer, code, error: self.exposed_errors.append((peer, code)))
        node = self.owned["bob"] if node is None else node
        allow = Allow(frozenset([self.alice_id])) if allow is None else allow
        self.net.wait(node.serve(SERVICE, exposed, allow), 2.0, "exposing")

    def forward(self, node: NodeAccess | None = None, port: int = LOCAL) -> None:
        reactor = self.hosts["alice"].reactor
        node = self.owned["alice"] if node is None else node
        forwarder = Forwarder(node, self.bob_id, SERVICE, reactor, self.errors.append)
        reactor.listenTCP(port, forwarder, interface="127.0.0.1")

    def client(self, port: int = LOCAL) -> HalfCloser:
        endpoint = HostnameEndpoint(self.hosts["alice"].reactor, "127.0.0.1", port)
        client = HalfCloser()
        self.net.wait(endpoint.connect(Factory.forProtocol(lambda: client)), 2.0, "a client")
        return client

    def both(self, port: int = LOCAL) -> tuple[HalfCloser, HalfCloser]:
        """A client, and the connection of the server that it reaches."""
        before = len(self.web.built)
        client = self.client(port)
        self.run_until(lambda: len(self.web.built) > before, 20.0)
        return client, self.web.built[before]

    def ends(self, protocol: HalfCloser, kind: type[Exception]) -> None:
        self.run_until(lambda: protocol.reason is not None, 5.0)
        assert protocol.reason is not None
        self.assertIsInstance(protocol.reason.value, kind)


class TwoSidesCase(ForwardTestCase):
    """A client and a server whose connection is forwarded."""

    def question_and_answer(self) -> None:
        client, server = self.both()
        client.transport.write(bytes(300_000))
        client.transport.loseWriteConnection()
        self.run_until(lambda: "read lost" in server.calls, 10.0)
        self.assertEqual(len(server.data), 300_000)
        server.transport.write(b"answer" * 50_000)
        server.transport.loseConnection()
        self.ends(server, ConnectionDone)
        self.run_until(lambda: "read lost" in client.calls, 10.0)
        self.assertEqual(bytes(client.data), b"answer" * 50_000)
        client.transport.loseConnection()
        self.ends(client, ConnectionDone)
        self.assertEqual(self.errors, [])

    def cut_off(self, port: int = LOCAL) -> None:
        client, server = self.both(port)
        server.transport.write(b"half of it")
        self.run_until(lambda: bytes(client.data) == b"half of it", 2.0)
        self.bob.hangup(self.alice_id)
        self.ends(client, ConnectionLost)
        self.ends(server, ConnectionLost)
        self.assertNotIn("read lost", client.calls + server.calls)
        client, server = self.both(port)
        server.transport.loseWriteConnection()
        self.run_until(lambda: "read lost" in client.calls, 2.0)
        self.bob.hangup(self.alice_id)
        self.ends(server, ConnectionLost)
        self.assertNotIn("read lost", server.calls)

    def refused_there(self) -> None:
        self.ends(self.client(), ConnectionLost)
        self.assertEqual([failure_of(error) for error in self.errors], [ForwardFailure.CONNECTION_REFUSED])
        self.assertEqual(self.exposed_errors, [(self.alice_id, ForwardFailure.CONNECTION_REFUSED)])

    def reason(self) -> str:
        """Why a connection can't be forwarded."""
        self.ends(self.client(), ConnectionLost)
        (error,) = self.errors
        assert isinstance(error, CommandError)
        self.errors.clear()
        return error.reason


class ForwardTests(TwoSidesCase):
    def test_a_reset_crosses(self) -> None:
        self.serve()
        self.expose()
        self.forward()
        client, server = self.both()
        server.transport.abortConnection()
        self.ends(client, ConnectionLost)
        client, server = self.both()
        client.transport.abortConnection()
        self.ends(server, ConnectionLost)
        self.assertEqual(self.errors, [])

    def test_a_link_that_is_closed_in_order(self) -> None:
        """It is no end of what the server sends or was sent, at nodes as at attached programs."""
        self.serve()
        self.expose()
        self.forward()
        self.cut_off()
        self.forward(self.attach("alice"), LOCAL + 1)
        self.cut_off(LOCAL + 1)

    def test_nobody_listens(self) -> None:
        """It is said on both sides, and the client is refused."""
        self.forward()
        self.expose()
        self.refused_there()

    def test_nobody_listens_at_an_attached_program(self) -> None:
        self.forward(self.attach("alice"))
        self.expose(self.attach("bob"))
        self.refused_there()

    def test_nothing_is_reachable_without_a_grant(self) -> None:
        """What is not exposed, and what is exposed to somebody else, is not there."""
        self.serve()
        self.forward()
        self.assertEqual(self.reason(), "no-service")
        self.expose(allow=Allow(frozenset([self.bob_id])))
        self.assertEqual(self.reason(), "not-allowed")
        self.assertEqual(self.web.built, [])


class Refusing:
    """A node that answers later, or at once."""

    def __init__(self) -> None:
        self.opening: list[Deferred[Any]] = []
        self.error: Exception | None = None

    def open(self, peer: PeerID, service: str, factory: Factory) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        self.opening.append(Deferred())
        return self.opening[-1]


class BoundTests(SynchronousTestCase):
    def test_many_that_fail_at_once(self) -> None:
        """As when the node was replaced, while all wait for a place on the link."""
        node: Any = Refusing()
        errors: list[Exception] = []
        peer = Identity.generate().peer_id
        forwarder = Forwarder(node, peer, SERVICE, Clock(), errors.append)
        transports = [StringTransport() for _ in range(MAX_FORWARDED)]
        for transport in transports:
            protocol: Any = forwarder.buildProtocol(None)
            protocol.makeConnection(transport)
        self.assertIsNone(forwarder.buildProtocol(None))
        self.assertLess(len(node.opening), MAX_FORWARDED)
        node.error = CommandError("replaced", "Another process has registered.")
        for opening in node.opening:
            opening.errback(node.error)
        self.assertEqual(len(errors), MAX_FORWARDED)
        self.assertTrue(all(transport.disconnected for transport in transports))

    def test_connections_of_peers(self) -> None:
        """One peer can't take all places."""
        nowhere: Any = None
        exposed = Exposed(nowhere, lambda peer, code, error: None)
        peers = [Identity.generate().peer_id for _ in range(5)]
        for peer in peers[:4]:
            self.assertTrue(all(exposed.take(peer) for _ in range(MAX_CONNECTIONS_OF_PEER)))
            self.assertFalse(exposed.take(peer))
        self.assertEqual(4 * MAX_CONNECTIONS_OF_PEER, MAX_CONNECTIONS)
        self.assertFalse(exposed.take(peers[4]))
        exposed.give_back(peers[0])
        self.assertTrue(exposed.take(peers[4]))

"""A port of bob's machine that leads to alice's, on the simulated internet."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import CannotListenError, ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import ForwardAddressError
from punch.apps.forward.connections import Exposed, Forwarder
from punch.apps.forward.messages import ForwardFailure, failure_of
from punch.apps.forward.reverse import (
    TOKEN_SIZE,
    ListenFailed,
    PortRequest,
    ReversePort,
    listen_service,
    reverse_service,
)
from punch.identity import Identity, PeerID
from punch.local.access import Allow, NodeAccess
from punch.test.link.twisted_links import HalfCloser
from punch.test.local.test_local import LocalTestCase, Recorders

PORT, SERVED = 8080, 3000
SERVICE = listen_service("tcp/localhost:8080")
TOKEN = "0123456789abcdef"


class ReverseTests(LocalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.books["alice"].add(self.bob_id, "bob")
        self.web = Recorders()
        self.hosts["alice"].reactor.listenTCP(SERVED, self.web, interface="127.0.0.1")
        self.changes: list[PeerID | None] = []
        self.errors: list[Exception] = []

    def grant(self, node: NodeAccess, allow: Allow | None = None) -> None:
        """Bob lets alice have the port."""
        reactor = self.hosts["bob"].reactor

        def listen(factory: Any) -> Any:
            try:
                return reactor.listenTCP(PORT, factory, interface="127.0.0.1")
            except CannotListenError as error:
                raise ListenFailed(str(error)) from None

        def forwarder(peer: PeerID, service: str) -> Forwarder:
            return Forwarder(node, peer, service, reactor, self.errors.append)

        port = ReversePort(
            listen, forwarder, self.changes.append, lambda peer, error: self.errors.append(error)
        )
        allow = Allow(frozenset([self.alice_id])) if allow is None else allow
        self.net.wait(node.serve(SERVICE, port, allow), 2.0, "granting")

    def ask(self, node: NodeAccess) -> PortRequest:
        """Alice asks for the port."""
        endpoint = HostnameEndpoint(self.hosts["alice"].reactor, "127.0.0.1", SERVED)
        exposed = Exposed(endpoint, lambda peer, code, error: self.errors.append(error))
        serving = node.serve(reverse_service(TOKEN), exposed, Allow(frozenset([self.bob_id])))
        self.net.wait(serving, 2.0, "serving")
        return self.ask_again(node)

    def ask_again(self, node: NodeAccess) -> PortRequest:
        request = PortRequest(TOKEN)
        self.net.wait(self.asking(request, node), 20.0, "the port")
        return request

    def asking(self, request: PortRequest, node: NodeAccess) -> Deferred[None]:
        return Deferred.fromCoroutine(request.ask(node, self.bob_id, SERVICE))

    def client(self) -> Deferred[Any]:
        endpoint = HostnameEndpoint(self.hosts["bob"].reactor, "127.0.0.1", PORT)
        return endpoint.connect(Factory.forProtocol(HalfCloser))

    def question_and_answer(self) -> None:
        before = len(self.web.built)
        client = self.net.wait(self.client(), 2.0, "a client")
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        self.run_until(lambda: len(self.web.built) > before, 20.0)
        server = self.web.built[before]
        self.run_until(lambda: "read lost" in server.calls, 5.0)
        self.assertEqual(bytes(server.data), b"question")
        server.transport.write(b"answer")
        server.transport.loseConnection()
        self.run_until(lambda: "read lost" in client.calls, 5.0)
        self.assertEqual(bytes(client.data), b"answer")

    def is_closed(self) -> None:
        with self.assertRaises(ConnectError):
            self.net.wait(self.client(), 5.0, "a client")

    def both_ways(self, alice: NodeAccess, bob: NodeAccess) -> None:
        self.grant(bob)
        self.is_closed()
        request = self.ask(alice)
        self.question_and_answer()
        request.transport.loseConnection()
        self.run_until(lambda: self.changes == [self.alice_id, None] and request.lost.called, 5.0)
        self.assertIsInstance(self.successResultOf(request.lost), ConnectionDone)
        self.is_closed()
        self.assertEqual(self.errors, [])

    def test_between_nodes(self) -> None:
        """The port is there for as long as alice has the stream."""
        self.both_ways(self.owned["alice"], self.owned["bob"])

    def test_between_attached_programs(self) -> None:
        self.both_ways(self.attach("alice"), self.attach("bob"))

    def test_nothing_without_a_grant(self) -> None:
        """The port is not alice's before bob gives it to her."""
        node = self.owned["alice"]
        self.assertEqual(self.refused(self.asking(PortRequest(TOKEN), node), 20.0).reason, "no-service")
        self.grant(self.owned["bob"], Allow(frozenset([self.bob_id])))
        self.assertEqual(self.refused(self.asking(PortRequest(TOKEN), node), 20.0).reason, "not-allowed")
        self.is_closed()

    def test_a_link_that_is_lost(self) -> None:
        """The port is closed, and alice may ask again."""
        self.grant(self.owned["bob"])
        request = self.ask(self.owned["alice"])
        self.bob.hangup(self.alice_id)
        self.run_until(lambda: request.lost.called and self.changes[-1] is None, 5.0)
        self.is_closed()
        request = self.ask_again(self.owned["alice"])
        self.question_and_answer()
        # As after a loss that bob has not noticed
        self.ask_again(self.owned["alice"])
        self.run_until(lambda: request.lost.called, 5.0)
        self.question_and_answer()
        self.assertEqual(self.errors, [])

    def test_a_port_that_is_taken(self) -> None:
        """Between nodes, and between programs that are attached to them."""
        taken = self.hosts["bob"].reactor.listenTCP(PORT, Recorders(), interface="127.0.0.1")
        self.grant(self.attach("bob"))
        for node in (self.owned["alice"], self.attach("alice")):
            with self.assertRaises(ConnectionLost) as caught:
                self.net.wait(self.asking(PortRequest(TOKEN), node), 20.0, "a refusal")
            self.assertIs(failure_of(caught.exception), ForwardFailure.NOT_LISTENING)
            self.assertIsInstance(self.errors.pop(), ListenFailed)
        taken.stopListening()
        self.net.advance(1.0)
        self.ask(self.owned["alice"])
        self.question_and_answer()


class Port:
    def __init__(self, log: list[str]) -> None:
        self.log = log
        log.append("listen")

    def stopListening(self) -> None:
        self.log.append("stop")


class Transport(StringTransport):
    def __init__(self, lost: Any) -> None:
        super().__init__()
        self.code: int | None = None
        self.lost = lost

    def abort_with(self, code: int) -> None:
        self.code = code
        self.lost()

    def abortConnection(self) -> None:
        self.abort_with(0)


class PortTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log: list[str] = []
        self.services: list[str] = []
        nothing: Any = None
        self.port = ReversePort(
            lambda factory: Port(self.log),
            lambda peer, service: self.services.append(service) or nothing,  # type: ignore[func-returns-value]
            lambda peer: None,
            lambda peer, error: None,
        )
        self.peers = [Identity.generate().peer_id for _ in range(2)]

    def stream(self, data: bytes, peer: int = 0) -> Transport:
        address: Any = type("Address", (), {"peer": self.peers[peer]})
        protocol = self.port.buildProtocol(address)
        reason: Any = None
        transport = Transport(partial(protocol.connectionLost, reason))
        protocol.makeConnection(transport)
        for byte in data:
            protocol.dataReceived(bytes([byte]))
        return transport

    def test_what_is_no_token(self) -> None:
        for data in (b"x" * TOKEN_SIZE, b"0123456789ABCDEF", b"\0" * 300, TOKEN.encode() + b"0"):
            self.assertEqual(self.stream(data).code, 0)
        self.assertIsNone(self.stream(TOKEN.encode()[1:]).code)
        self.assertEqual(self.log.count("listen"), self.log.count("stop"))
        self.assertEqual(set(self.services) - {reverse_service(TOKEN)}, set())

    def test_one_peer_at_a_time(self) -> None:
        first = self.stream(TOKEN.encode())
        second = self.stream(TOKEN.encode(), 1)
        self.assertEqual((first.value(), second.code), (b"\1", ForwardFailure.BUSY))
        again = self.stream(TOKEN.encode())
        self.assertEqual((first.code, again.value()), (ForwardFailure.RESET, b"\1"))
        self.assertEqual(self.log, ["listen", "stop", "listen"])
        again.lost()
        self.assertEqual(self.stream(TOKEN.encode(), 1).value(), b"\1")

    def test_names(self) -> None:
        with self.assertRaises(ForwardAddressError):
            listen_service("x" * 250)

    def test_an_answer_that_is_none(self) -> None:
        for answer in (b"\2", b"\1\1"):
            request = PortRequest(TOKEN)
            transport = StringTransport()
            request.makeConnection(transport)
            self.assertEqual(transport.value(), TOKEN.encode())
            request.dataReceived(answer)
            self.assertTrue(transport.disconnected or transport.disconnecting)

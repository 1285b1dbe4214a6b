"""Connections through a proxy, and peers that only a proxy leads out."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol

from punch.node.causes import ControlProblem, ProblemCode
from punch.node.control.tcp import DIRECT_AFTER, DUMMY_ADDRESS, HANDSHAKE_TIME, tcp_endpoint
from punch.node.events import Unregistered
from punch.test.internet import InternetTestCase, LinkSpec, Seen
from punch.test.node.control.simulated_proxy import SimulatedProxy
from punch.test.scenarios.relayed import HARD, RelayTestCase
from punch.test.system import SERVICE, Peer, connect
from punch.ui.text.causes import event_sentence
from punch.wire.proxy import ProxyAddress, ProxyError, ProxyRefusal, ProxySettings

PROXY = "203.0.113.200"
LINK = LinkSpec(delay=0.02)


def settings(kind: str = "http", *, required: bool = True, excluded: str = "") -> ProxySettings:
    address = ProxyAddress.parse(f"{kind}://{PROXY}:3128")
    return ProxySettings(address, "--proxy", required, tuple(excluded.split(",")))


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class Lines(Protocol):
    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


class EndpointTests(InternetTestCase):
    """TCP to a server, through a proxy."""

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make a network in which nothing has happened yet."""
        self.net = self.internet(3)
        self.server = self.net.host("server", SERVICE)
        self.server.reactor.listenTCP(7001, Factory.forProtocol(Echo))
        self.net.dns["server.example"] = [SERVICE]
        self.proxy_host = self.net.host("proxy", PROXY)
        self.client = self.net.host("client", "203.0.113.9", link=LINK)
        self.asked: list[Seen] = []
        self.net.trace = self.asked

    def connect(
        self, used: ProxySettings | None, host: str = SERVICE, port: int = 7001
    ) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = tcp_endpoint(self.client.reactor, host, port, used).connect(
            Factory.forProtocol(Lines)
        )
        return connecting

    def refusal(self, answer: bytes, kind: str = "http") -> ProxyRefusal:
        self.proxy.answer = answer
        connecting = self.connect(settings(kind))
        self.net.advance(2.0)
        refusal: ProxyRefusal = self.failureResultOf(connecting, ProxyError).value.refusal
        return refusal

    def ports(self) -> set[str]:
        """The hosts that the client sent something to."""
        return {seen.destination[0] for seen in self.asked if seen.source[0] == "203.0.113.9"}

    def test_through(self) -> None:
        """What is said crosses, the other side is the server, and nobody else is asked."""
        for kind, host in (("http", SERVICE), ("http", "server.example"), ("socks5", "server.example")):
            self.make_world()
            proxy = SimulatedProxy(self.proxy_host, kind)
            protocol: Any = self.net.wait(self.connect(settings(kind), host), 2.0)
            self.assertEqual(proxy.targets, [(host, 7001)])
            self.assertEqual(protocol.transport.getPeer().host, SERVICE)
            self.assertEqual(self.ports(), {PROXY})
            protocol.transport.write(b"hello")
            self.net.advance(1.0)
            self.assertEqual(protocol.received, b"hello")
            protocol.transport.loseConnection()
            self.net.advance(1.0)

    def test_names_that_only_the_proxy_knows(self) -> None:
        SimulatedProxy(self.proxy_host, "http")
        connecting = self.connect(settings(), "inside.example")
        # Now the client's own look-up is over
        self.net.advance(0.02)
        self.net.dns["inside.example"] = [SERVICE]
        protocol: Any = self.net.wait(connecting, 2.0)
        self.assertEqual(protocol.transport.getPeer().host, DUMMY_ADDRESS)

    def test_names_that_lead_inside(self) -> None:
        """
        What name servers say of a host that the proxy connects to proves nothing: by an address of this
        machine or its network, a rendezvous could name relays there.
        """
        SimulatedProxy(self.proxy_host, "http")
        for addresses, expected in ((["127.0.0.1"], DUMMY_ADDRESS), (["192.168.7.7", SERVICE], SERVICE)):
            self.net.dns["inside.example"] = addresses
            connecting = self.connect(settings(), "inside.example")
            self.net.advance(0.02)
            self.net.dns["inside.example"] = [SERVICE]
            protocol: Any = self.net.wait(connecting, 2.0)
            self.assertEqual(protocol.transport.getPeer().host, expected)

    def test_refusals(self) -> None:
        self.proxy = SimulatedProxy(self.proxy_host, "http")
        for answer, refusal in (
            (b"HTTP/1.1 407 Who?\r\n\r\n", ProxyRefusal.AUTHENTICATION),
            (b"HTTP/1.1 403 No\r\n\r\n", ProxyRefusal.FORBIDDEN),
            (b"SSH-2.0-x\r\n", ProxyRefusal.NOT_A_PROXY),
            (b"", ProxyRefusal.CLOSED),
        ):
            self.assertEqual(self.refusal(answer), refusal)
        self.assertEqual(self.refusal(b"HTTP/1.1 400 No\r\n\r\n", "https"), ProxyRefusal.NOT_A_PROXY)
        self.assertEqual(self.ports(), {PROXY})

    def test_unreachable(self) -> None:
        """The host, and the proxy."""
        SimulatedProxy(self.proxy_host, "http")
        connecting = self.connect(settings(), port=7002)
        self.net.advance(2.0)
        self.assertEqual(self.failureResultOf(connecting, ProxyError).value.refusal, ProxyRefusal.UNREACHABLE)
        missing = ProxySettings(ProxyAddress.parse(f"http://{PROXY}:1"), "--proxy", required=True)
        connecting = self.connect(missing)
        self.net.advance(2.0)
        self.assertEqual(
            self.failureResultOf(connecting, ProxyError).value.refusal, ProxyRefusal.NO_CONNECTION
        )
        # A name that no certificate can be for
        unnamed = ProxySettings(ProxyAddress.parse("https://my_proxy:1"), "--proxy", required=True)
        refusal = self.failureResultOf(self.connect(unnamed), ProxyError).value.refusal
        self.assertEqual(refusal, ProxyRefusal.NO_CONNECTION)

    def test_silent(self) -> None:
        """It ends after a while, or when it is cancelled, and closes the connection."""
        proxy = SimulatedProxy(self.proxy_host, "http")
        proxy.silent = True
        connecting = self.connect(settings())
        self.net.advance(HANDSHAKE_TIME + 1.0)
        self.assertEqual(self.failureResultOf(connecting, ProxyError).value.refusal, ProxyRefusal.SILENT)
        connecting = self.connect(settings())
        self.net.advance(1.0)
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.net.advance(HANDSHAKE_TIME)
        self.assertEqual(self.client.reactor.getDelayedCalls(), [])

    def test_directly_where_it_fails(self) -> None:
        """A proxy of the environment need not be the only way."""
        proxy = SimulatedProxy(self.proxy_host, "http")
        proxy.answer = b"HTTP/1.1 403 No\r\n\r\n"
        self.net.wait(self.connect(settings(required=False)), 1.0)
        self.assertEqual(self.ports(), {PROXY, SERVICE})
        proxy.answer, proxy.silent = None, True
        began = self.net.monotonic()
        self.net.wait(self.connect(settings(required=False)), 5.0)
        self.assertApproximates(self.net.monotonic() - began, DIRECT_AFTER, 0.2)
        self.net.advance(HANDSHAKE_TIME)
        self.assertEqual(self.client.reactor.getDelayedCalls(), [])

    def test_both_fail(self) -> None:
        """The failure is that of the proxy."""
        proxy = SimulatedProxy(self.proxy_host, "http")
        proxy.answer = b"HTTP/1.1 403 No\r\n\r\n"
        connecting = self.connect(settings(required=False), port=7002)
        self.net.advance(5.0)
        self.failureResultOf(connecting, ProxyError)
        connecting = self.connect(settings(required=False, excluded=SERVICE), port=7002)
        self.net.advance(5.0)
        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_given_up(self) -> None:
        SimulatedProxy(self.proxy_host, "http").silent = True
        connecting = self.connect(settings(required=False))
        self.net.advance(0.2)
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.net.advance(HANDSHAKE_TIME)
        self.assertEqual(self.client.reactor.getDelayedCalls(), [])
        self.assertEqual(self.ports(), {PROXY})


class PeerTests(RelayTestCase):
    """Peers in networks that only a proxy leads out of."""

    def inside(self, name: str, kind: str) -> Peer:
        """A peer whose packets reach the proxy and nothing else."""
        host = self.home(name, HARD)
        self.shut.add(host.addresses[0])
        return Peer(self.net, host, self.rendezvous.address, proxy=settings(kind))

    def start_proxy(self, kind: str) -> None:
        self.start()
        self.proxy = SimulatedProxy(self.net.host("proxy", PROXY), kind)
        self.shut: set[str] = set()
        self.net.drop = lambda packet: packet.source[0] in self.shut and packet.destination[0] != PROXY

    def test_chat(self) -> None:
        """They register, and the relay carries their link over TCP or TLS."""
        for kind in ("http", "socks5"):
            self.make_world()
            self.start_proxy(kind)
            alice, bob = self.inside("alice", kind).register(), self.inside("bob", kind).register()
            connect(alice, bob)
            self.chat(alice, bob, 5)
            for peer in (alice, bob):
                peer.stop()

    def test_refused(self) -> None:
        """The user is told what the proxy said, and it is tried again."""
        self.start_proxy("http")
        self.proxy.answer = b"HTTP/1.1 403 Forbidden\r\n\r\n"
        peer = self.inside("alice", "http")
        peer.start()
        told = peer.wait_for(Unregistered, 10.0)
        assert isinstance(told.cause, ControlProblem)
        self.assertEqual(told.cause.code, ProblemCode.PROXY)
        self.assertIn(
            f"can't be reached through the proxy {PROXY}:3128 (--proxy): it does not connect to that port",
            event_sentence(told),
        )
        self.proxy.answer = None
        self.net.run_until(lambda: peer.node.status.rendezvous is not None, 60.0, "registered")
        peer.stop()

"""TCP connections that are begun before the last one has failed."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from punch.node.control.tcp import (
    AFTER,
    CONNECT_TIME,
    TRIES,
    StaggeredEndpoint,
    tcp_endpoint,
)
from punch.node.events import Registered
from punch.test.internet import InternetTestCase, Packet
from punch.test.system import SERVICE, SystemTestCase


@implementer(IStreamClientEndpoint)
class ManualEndpoint:
    """An endpoint whose connections are decided by hand."""

    def __init__(self) -> None:
        self.tries: list[Deferred[IProtocol]] = []
        self.cancelled: list[Deferred[IProtocol]] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.tries.append(Deferred(self.cancelled.append))
        return self.tries[-1]


class StaggeredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = ManualEndpoint()
        endpoint = StaggeredEndpoint(self.network, self.clock)
        self.result = endpoint.connect(Factory.forProtocol(Protocol))

    def connected(self, number: int) -> None:
        """One of them is the first; all others are given up."""
        protocol = Protocol()
        self.network.tries[number].callback(protocol)
        self.assertIs(self.successResultOf(self.result), protocol)
        others = [trying for trying in self.network.tries if trying is not self.network.tries[number]]
        self.assertEqual(self.network.cancelled, others)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_once(self) -> None:
        """If the first connection is made at once, no other is begun."""
        self.connected(0)
        self.assertEqual(len(self.network.tries), 1)

    def test_the_second_is_first(self) -> None:
        """The first one's SYN was lost."""
        self.clock.advance(AFTER)
        self.connected(1)

    def test_the_first_after_all(self) -> None:
        """The way is long."""
        self.clock.pump([AFTER] * 10)
        self.assertEqual(len(self.network.tries), TRIES)
        self.connected(0)

    def test_refused(self) -> None:
        """If one connection is refused, all are given up: it is the same host."""
        self.clock.advance(AFTER)
        self.network.tries[1].errback(ConnectionRefusedError())
        self.failureResultOf(self.result, ConnectionRefusedError)
        self.assertEqual(self.network.cancelled, self.network.tries[:1])
        self.clock.advance(10.0)
        self.assertEqual(len(self.network.tries), 2)

    def test_cancelled(self) -> None:
        """If the result is cancelled, all connections are."""
        self.clock.advance(AFTER)
        self.result.cancel()
        self.failureResultOf(self.result, CancelledError)
        self.assertEqual(self.network.cancelled, self.network.tries)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndpointTests(InternetTestCase):
    """Names and addresses on a network."""

    def test_names_and_addresses(self) -> None:
        """Each leads to where it should."""
        net = self.internet()
        server, client = (
            net.host("server", "198.51.100.1", "2001:db8::1"),
            net.host("c", "198.51.100.2", "2001:db8::2"),
        )
        net.dns["server.example"] = ["198.51.100.1"]
        server.reactor.listenTCP(7001, Factory.forProtocol(Protocol))
        server.reactor.listenTCP(7001, Factory.forProtocol(Protocol), interface="2001:db8::1")
        for host in ("198.51.100.1", "2001:db8::1", "server.example"):
            connecting = tcp_endpoint(client.reactor, host, 7001).connect(Factory.forProtocol(Protocol))
            protocol = net.wait(connecting, 1.0)
            assert isinstance(protocol, Protocol)
            assert protocol.transport is not None
            reached: Any = protocol.transport.getPeer()
            self.assertEqual(reached.port, 7001)
            protocol.transport.loseConnection()

    def test_waiting_wakes_nobody(self) -> None:
        """While an address does not answer, the process wakes up only for the next connection."""
        net = self.internet()
        client = net.host("client", "198.51.100.2")
        net.drop = lambda packet: True
        connecting = tcp_endpoint(client.reactor, "198.51.100.1", 7001).connect(Factory.forProtocol(Protocol))
        net.advance(TRIES * AFTER)
        timers = [call.getTime() for call in client.reactor.getDelayedCalls()]
        self.assertEqual([time for time in timers if time < CONNECT_TIME], [])
        net.advance(CONNECT_TIME)
        self.failureResultOf(connecting, TimeoutError)


class LossTests(SystemTestCase):
    """The first packets to the rendezvous are lost."""

    def test_two_lost_packets(self) -> None:
        """It costs no more than one would."""
        lost = 2

        def drop(packet: Packet) -> bool:
            nonlocal lost
            hit = lost > 0 and packet.protocol == "tcp" and packet.destination[0] == SERVICE
            lost -= hit
            return hit

        alice = self.peer("alice")
        self.net.drop = drop
        start = self.net.now
        alice.start()
        alice.wait_for(Registered, 30.0)
        self.assertEqual(lost, 0)
        self.assertLess(self.net.now - start, 2.0)
        self.assertEqual(self.rendezvous.reports[-1][0], "registered")

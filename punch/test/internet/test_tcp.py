"""The simulated internet: TCP as Twisted's own transports and endpoints see it, TLS on top, equal runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.internet import ClientService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.tcp import makeBinding
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from punch.test.internet import NAT, Host, Internet, InternetTestCase, LinkSpec, Unsolicited
from punch.test.internet.connection import State

SERVER = "198.51.100.1"


class Collector(Protocol):
    """Keeps what it gets, and why it ended."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None
        self.made = 0

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason

    @property
    def tcp(self) -> Any:
        """The transport, whose interfaces are several."""
        return self.transport


class Echo(Collector):
    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.tcp.write(data)


@implementer(IHalfCloseableProtocol)
class HalfCloser(Collector):
    """Answers once the other side has said that it is done."""

    ended = ""

    def readConnectionLost(self) -> None:
        self.ended += "r"
        self.tcp.write(bytes(reversed(self.received)))
        self.tcp.loseConnection()

    def writeConnectionLost(self) -> None:
        self.ended += "w"


@implementer(IHalfCloseableProtocol)
class Listener(Collector):
    """Stays when the other side says that it is done."""

    def readConnectionLost(self) -> None:
        """Nothing more comes."""

    def writeConnectionLost(self) -> None:
        """Nothing more goes."""


@implementer(IHalfCloseableProtocol)
class HalfClosingClient(Collector):
    """Says what it has to say, closes its side, and listens."""

    ended = ""

    def readConnectionLost(self) -> None:
        self.ended += "r"
        self.tcp.loseConnection()

    def writeConnectionLost(self) -> None:
        self.ended += "w"


class Serving(Factory):
    """Makes protocols of one class, and keeps them."""

    def __init__(self, make: Callable[[], Collector]) -> None:
        self.make = make
        self.made: list[Collector] = []

    def buildProtocol(self, addr: object) -> Collector:
        self.made.append(self.make())
        return self.made[-1]


class TCPTestCase(InternetTestCase):
    link = LinkSpec(delay=0.05)

    def setUp(self) -> None:
        self.build(self.internet())

    def build(self, net: Internet) -> None:
        self.net = net
        self.server = net.host("server", SERVER, "2001:db8::1")
        self.nat = NAT(public="203.0.113.1")
        self.lan = net.lan("home", "192.168.1.0/24", ipv6="2001:db8:1::/64", nat=self.nat, link=self.link)
        self.client = self.lan.host("client")

    def listen(
        self, make: Callable[[], Collector] = Collector, port: int = 7001
    ) -> tuple[Serving, IListeningPort]:
        serving = Serving(make)
        return serving, self.net.wait(TCP4ServerEndpoint(self.server.reactor, port).listen(serving), 1)

    def connect(
        self, make: Callable[[], Collector] = Collector, host: str = SERVER, port: int = 7001
    ) -> Collector:
        protocol = make()
        endpoint = HostnameEndpoint(self.client.reactor, host, port)
        self.net.wait(endpoint.connect(Factory.forProtocol(lambda: protocol)), 60)
        return protocol

    def both(
        self, server: Callable[[], Collector] = Collector, client: Callable[[], Collector] = Collector
    ) -> tuple[Collector, Collector]:
        """A connection; gives its server and client end."""
        serving, _ = self.listen(server)
        connected = self.connect(client)
        self.net.run_until(lambda: serving.made, 600)
        return serving.made[0], connected

    def assert_lost(self, protocol: Collector, error: type[Exception]) -> None:
        assert protocol.lost is not None, "still connected"
        self.assertIsInstance(protocol.lost.value, error)

    def assert_no_sockets(self, *hosts: Host) -> None:
        for host in hosts or (self.client, self.server):
            left = [each for each in host.tcp.sockets if each.state is not State.LISTENING]
            self.assertEqual((list(host.tcp.flows), left), ([], []))


class ConnectTests(TCPTestCase):
    def test_echo(self) -> None:
        _, client = self.both(Echo)
        start = self.net.now
        client.tcp.write(b"hello")
        self.net.run_until(lambda: client.received, 5)
        self.assertEqual((client.received, round(self.net.now - start, 6)), (b"hello", 0.1))

    def test_connecting_takes_a_round_trip(self) -> None:
        self.both()
        self.assertAlmostEqual(self.net.now, 0.15)

    def test_addresses(self) -> None:
        server, client = self.both()
        verifyObject(ITCPTransport, client.tcp)
        self.assertEqual(client.tcp.getPeer(), IPv4Address("TCP", SERVER, 7001))
        self.assertEqual(server.tcp.getHost(), IPv4Address("TCP", SERVER, 7001))
        self.assertEqual(client.tcp.getHost().host, "192.168.1.2")
        self.assertEqual(server.tcp.getPeer().host, "203.0.113.1")
        client.tcp.setTcpNoDelay(True)
        client.tcp.setTcpKeepAlive(True)
        self.assertTrue(client.tcp.getTcpNoDelay() and client.tcp.getTcpKeepAlive())

    def test_string_and_names(self) -> None:
        """`tcp:7001`, by a name that takes time to look up."""
        self.net.dns["rv.example"], self.net.dns_delay = [SERVER], 0.5
        serving = Serving(Echo)
        self.net.wait(serverFromString(self.server.reactor, "tcp:7001").listen(serving), 1)
        self.connect(host="rv.example")
        self.assertAlmostEqual(self.net.now, 0.6)

    def test_ipv6(self) -> None:
        serving = Serving(Echo)
        self.net.wait(TCP6ServerEndpoint(self.server.reactor, 7001).listen(serving), 1)
        client = self.connect(host="2001:db8::1")
        self.assertIsInstance(client.tcp.getHost(), IPv6Address)
        self.assertEqual(client.tcp.getHost().host, "2001:db8:1::2")

    def test_dual_stack_listener(self) -> None:
        """`::` takes IPv4, too, and shows it in mapped form; a name with both families is tried in turn."""
        serving = Serving(Echo)
        self.net.wait(TCP6ServerEndpoint(self.server.reactor, 7001).listen(serving), 1)
        self.net.dns["rv.example"] = ["2001:db8:dead::1", SERVER]
        client = self.connect(host="rv.example")
        self.net.advance(1)
        self.assertEqual(client.tcp.getPeer().host, SERVER)
        self.assertEqual(serving.made[0].tcp.getPeer().host, "::ffff:203.0.113.1")

    def test_port_in_use(self) -> None:
        _, port = self.listen()
        self.assertRaises(CannotListenError, self.listen)
        self.net.wait(port.stopListening() or Deferred(), 1)
        self.listen()

    def test_refused(self) -> None:
        connecting = TCP4ClientEndpoint(self.client.reactor, SERVER, 7001).connect(Serving(Collector))
        self.assertRaises(ConnectionRefusedError, self.net.wait, connecting, 10)
        self.assertAlmostEqual(self.net.now, 0.1)
        self.assert_no_sockets()

    def test_no_such_name(self) -> None:
        self.assertRaises(DNSLookupError, self.connect, host="nowhere.example")

    def test_silence(self) -> None:
        """A filtered server: the endpoint gives up after its 30 s."""
        self.listen()
        self.server.down()
        self.assertRaises(TimeoutError, self.connect)
        self.assertAlmostEqual(self.net.now, 30)
        self.assert_no_sockets(self.client)

    def test_silence_without_a_limit(self) -> None:
        """The kernel gives up by itself after 1 + 2 + 4 + … + 64 s."""
        self.server.down()
        endpoint = TCP4ClientEndpoint(self.client.reactor, SERVER, 7001, timeout=1000)
        self.assertRaises(TCPTimedOutError, self.net.wait, endpoint.connect(Serving(Collector)), 1000)
        self.assertAlmostEqual(self.net.now, 127)

    def test_no_route(self) -> None:
        self.client.detach(self.lan)
        self.assertRaises(ConnectError, self.connect)

    def test_cancel(self) -> None:
        self.server.down()
        connecting = TCP4ClientEndpoint(self.client.reactor, SERVER, 7001).connect(Serving(Collector))
        self.net.advance(1)
        connecting.cancel()
        self.assertTrue(connecting.called)
        connecting.addErrback(lambda _: None)
        self.assert_no_sockets(self.client)

    def test_into_a_nat(self) -> None:
        """Nobody gets in unasked: dropped or, by a NAT that rejects, refused; a forwarded port leads in."""
        self.net.wait(TCP4ServerEndpoint(self.client.reactor, 7001).listen(Serving(Echo)), 1)

        def attempt() -> Deferred[IProtocol]:
            return TCP4ClientEndpoint(self.server.reactor, "203.0.113.1", 7001).connect(Serving(Collector))

        self.assertRaises(TimeoutError, self.net.wait, attempt(), 60)
        self.nat.unsolicited = Unsolicited.REJECT
        self.assertRaises(ConnectionRefusedError, self.net.wait, attempt(), 60)
        self.nat.forward("tcp", 7001, ("192.168.1.2", 7001))
        self.net.wait(attempt(), 60)

    def test_many_half_open(self) -> None:
        """A thousand connections that say nothing."""
        serving, _ = self.listen()
        crowd = self.net.host("crowd", "198.51.100.66")
        made = [
            TCP4ClientEndpoint(crowd.reactor, SERVER, 7001).connect(Serving(Collector)) for _ in range(1_000)
        ]
        self.net.advance(1)
        self.assertEqual((len(serving.made), sum(each.called for each in made)), (1_000, 1_000))
        crowd.kill()
        self.net.advance(1)
        self.assert_no_sockets()


class CloseTests(TCPTestCase):
    def test_lose_connection(self) -> None:
        server, client = self.both()
        client.tcp.write(b"last words")
        client.tcp.loseConnection()
        self.net.advance(1)
        self.assertEqual(server.received, b"last words")
        self.assert_lost(server, ConnectionDone)
        self.assert_lost(client, ConnectionDone)
        self.net.advance(100)
        self.assertEqual(len(self.client.tcp.sockets), 0)

    def test_abort(self) -> None:
        server, client = self.both()
        client.tcp.abortConnection()
        self.net.advance(1)
        self.assert_lost(client, ConnectionAborted)
        self.assert_lost(server, ConnectionLost)
        self.assert_no_sockets(self.client)

    def test_half_close(self) -> None:
        server, client = self.both(HalfCloser, HalfClosingClient)
        client.tcp.write(b"abc")
        client.tcp.loseWriteConnection()
        self.net.advance(1)
        self.assertEqual((server.received, client.received), (b"abc", b"cba"))
        assert isinstance(server, HalfCloser)
        assert isinstance(client, HalfClosingClient)
        self.assertEqual((server.ended, client.ended), ("r", "wr"))
        self.assert_lost(server, ConnectionDone)
        self.assert_lost(client, ConnectionDone)

    def test_what_came_with_the_end_is_read_late(self) -> None:
        """The other side, which has ended and is gone, need not know that there is room again."""
        server, client = self.both(HalfCloser, HalfClosingClient)
        client.tcp.write(b"a" * 100_000)
        client.tcp.loseWriteConnection()
        client.tcp.pauseProducing()
        self.net.advance(1)
        self.assert_lost(server, ConnectionDone)
        self.assertEqual(client.received, b"")
        client.tcp.doRead()
        self.net.advance(1)
        client.tcp.resumeProducing()
        self.net.advance(1)
        self.assertEqual(len(client.received), 100_000)
        self.assert_lost(client, ConnectionDone)

    def test_killed(self) -> None:
        """The kernel of a killed process ends its connections; a crashed machine says nothing."""
        server, client = self.both()
        self.server.kill()
        self.net.advance(1)
        self.assert_lost(client, ConnectionDone)
        self.assertIsNone(server.lost)

    def test_crashed(self) -> None:
        _, client = self.both()
        self.server.crash()
        client.tcp.write(b"anybody there?")
        self.net.advance(60)
        self.assertIsNone(client.lost)
        self.server.up()
        self.net.advance(60)
        self.assert_lost(client, ConnectionLost)

    def test_gone_for_good(self) -> None:
        """The simulated TCP retransmits for about a quarter of an hour, as Linux does."""
        _, client = self.both()
        self.server.crash()
        client.tcp.write(b"anybody there?")
        self.net.advance(800)
        self.assertIsNone(client.lost)
        self.net.advance(600)
        self.assert_lost(client, ConnectionLost)
        self.assert_no_sockets()

    def test_nat_forgets(self) -> None:
        """The same flow from another port is unknown to the server: it resets it."""
        server, client = self.both()
        self.nat.forget()
        self.nat.port_range = (1024, 2048)
        client.tcp.write(b"hello?")
        self.net.advance(1)
        self.assert_lost(client, ConnectionLost)
        self.assertIsNone(server.lost)

    def test_data_for_one_who_has_closed(self) -> None:
        server, client = self.both(Listener)
        client.tcp.loseConnection()
        server.tcp.write(b"too late")
        self.net.advance(1)
        self.assert_lost(client, ConnectionDone)
        server.tcp.write(b"still there?")
        self.net.advance(1)
        self.assert_lost(server, ConnectionLost)
        self.assert_no_sockets()

    def test_exceptions_come_out_and_end_the_connection(self) -> None:
        class Broken(Collector):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError

        server, client = self.both(Broken)
        client.tcp.write(b"boom")
        self.assertRaises(ZeroDivisionError, self.net.advance, 1)
        self.assert_lost(server, ZeroDivisionError)
        self.net.advance(1)
        self.assert_lost(client, ConnectionDone)

    def test_client_service_returns(self) -> None:
        serving, _ = self.listen()
        service = ClientService(
            TCP4ClientEndpoint(self.client.reactor, SERVER, 7001),
            Serving(Collector),
            retryPolicy=lambda attempt: 2.0,
            clock=self.client.reactor,
        )
        service.startService()
        self.net.advance(1)
        self.server.kill()
        self.net.advance(10)
        self.listen()
        self.net.wait(service.whenConnected(), 10)
        self.net.wait(service.stopService(), 10)
        self.assertEqual(len(serving.made), 1)


@implementer(IPushProducer)
class Source:
    """Writes as long as it may."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.log: list[str] = []
        self.running = False
        self.written = 0

    def resumeProducing(self) -> None:
        self.log.append("resume")
        self.running = True
        while self.running:
            self.written += 16384
            self.consumer.write(bytes(16384))

    def pauseProducing(self) -> None:
        self.log.append("pause")
        self.running = False

    def stopProducing(self) -> None:
        self.log.append("stop")
        self.running = False


class FlowTests(TCPTestCase):
    def test_back_pressure(self) -> None:
        """A reader that stops stops the writer, after what the buffers between them hold."""
        server, client = self.both()
        source = Source(client.tcp)
        client.tcp.registerProducer(source, True)
        server.tcp.pauseProducing()
        source.resumeProducing()
        self.net.advance(600)
        held = source.written
        self.assertFalse(source.running)
        self.assertTrue(128 * 1024 < held < 512 * 1024, held)
        self.assertIsNone(server.lost)
        server.tcp.resumeProducing()
        self.net.run_until(lambda: len(server.received) > 4 * held, 60)
        source.pauseProducing()
        client.tcp.unregisterProducer()
        client.tcp.loseConnection()
        self.net.advance(10)
        self.assertEqual(len(server.received), source.written)

    def test_lost_connection_stops_the_producer(self) -> None:
        server, client = self.both()
        source = Source(client.tcp)
        client.tcp.registerProducer(source, True)
        server.tcp.abortConnection()
        self.net.advance(1)
        self.assertEqual(source.log, ["stop"])

    def test_window_probe_survives_loss(self) -> None:
        """The announcement that a closed window is open again is lost: a probe finds out."""
        server, client = self.both()
        server.tcp.pauseProducing()
        client.tcp.write(bytes(1_000_000))
        self.net.advance(30)
        self.lan.uplink.set_up(False)
        server.tcp.resumeProducing()
        self.net.advance(1)
        self.lan.uplink.set_up(True)
        self.net.run_until(lambda: len(server.received) == 1_000_000, 200)

    def test_several_time_outs_before_an_answer(self) -> None:
        """
        Segments are lost, and datagrams fill the line's queue for seconds. What is retransmitted first is
        answered after more than one time-out: its timestamp tells that all segments were lost (RFC 3522).
        """
        self.link = LinkSpec(delay=0.03, rate=64_000.0)
        self.build(self.internet())
        server, client = self.both()
        self.net.drop = lambda packet: packet.protocol == "tcp" and len(packet.data) > 1000
        client.tcp.write(bytes(20_000))
        self.net.advance(0.1)
        self.net.drop = None
        socket = DatagramProtocol()
        self.client.reactor.listenUDP(0, socket)
        assert socket.transport is not None
        for _ in range(30):
            socket.transport.write(bytes(1200), (SERVER, 7001))
        self.net.run_until(lambda: len(server.received) == 20_000, 10.0)

    @settings(derandomize=True, deadline=None, max_examples=25)
    @given(
        seed=st.integers(0, 2**32),
        loss=st.floats(0, 0.3),
        jitter=st.floats(0, 0.2),
        reorder=st.floats(0, 0.3),
        duplicate=st.floats(0, 0.3),
        sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=5),
    )
    def test_all_in_order_whatever_the_link(
        self, seed: int, loss: float, jitter: float, reorder: float, duplicate: float, sizes: Sequence[int]
    ) -> None:
        self.link = LinkSpec(0.02, jitter, loss, reorder, duplicate, rate=20e6)
        self.build(self.internet(seed))
        server, client = self.both(Echo)
        sent = b"".join(bytes([number + 1]) * size for number, size in enumerate(sizes))
        for number, size in enumerate(sizes):
            client.tcp.write(bytes([number + 1]) * size)
            self.net.advance(0.01)
        self.net.run_until(lambda: len(client.received) == len(sent), 3600)
        self.assertEqual((bytes(server.received), bytes(client.received)), (sent, sent))
        client.tcp.loseConnection()
        self.net.run_until(lambda: server.lost and client.lost, 3600)
        self.net.advance(3600)
        self.assert_no_sockets()


class SimultaneousOpenTests(InternetTestCase):
    """Both sides connect at once (RFC 9293, section 3.5), through NATs that let in nothing else."""

    def place(self, delay: float, **options: Any) -> None:
        """Two homes, and the ports at which their hosts bind: the NATs keep them."""
        self.net = self.internet()
        self.hosts = []
        for number in (1, 2):
            nat = NAT(public=f"203.0.113.{number}", **options)
            link = LinkSpec(delay=delay)
            lan = self.net.lan(f"home {number}", f"192.168.{number}.0/24", nat=nat, link=link)
            self.hosts.append(lan.host(f"host {number}"))

    def connect(self, index: int) -> tuple[Collector, list[Failure]]:
        """Connect to the other side from the port that it connects to."""
        made, failures = Collector(), list[Failure]()
        host = self.hosts[index]
        binding = makeBinding(host.address, 9000 + index, reuseAddress=True, reusePort=True)
        endpoint: Any = TCP4ClientEndpoint(host.reactor, f"203.0.113.{2 - index}", 9001 - index, 0.9, binding)
        endpoint.connect(Factory.forProtocol(lambda: made)).addErrback(failures.append)
        return made, failures

    def test_crossing(self) -> None:
        """SYNs that cross make one connection, which carries data both ways, whoever is first."""
        for wait in (0.0, 0.03, 0.2, 0.5):
            self.place(0.05)
            one, _ = self.connect(0)
            self.net.advance(wait)
            other, _ = self.connect(1)
            self.net.advance(1.0)
            self.assertEqual((one.made, other.made), (1, 1), wait)
            one.tcp.write(b"one")
            other.tcp.write(b"other")
            self.net.advance(1.0)
            self.assertEqual((one.received, other.received), (b"other", b"one"))
            one.tcp.loseConnection()
            self.net.advance(70.0)
            self.assertIsNotNone(other.lost)
            self.assertEqual([dict(host.tcp.flows) for host in self.hosts], [{}, {}])

    def test_alone(self) -> None:
        """One side alone is not let in: its SYN is dropped, or answered with a reset."""
        for unsolicited, kind in (
            (Unsolicited.DROP, TimeoutError),
            (Unsolicited.REJECT, ConnectionRefusedError),
        ):
            self.place(0.05, unsolicited=unsolicited)
            made, failures = self.connect(0)
            self.net.advance(2.0)
            self.assertEqual((made.made, [failure.type for failure in failures]), (0, [kind]))

    def test_shared_port(self) -> None:
        """A port that is listened at and connected from; one without SO_REUSEPORT is not shared."""
        self.place(0.05)
        here, there = self.hosts
        serving = Serving(Collector)
        binding = makeBinding(here.address, 9000, reuseAddress=True, reusePort=True)
        reactor: Any = here.reactor
        port = reactor.listenTCP(binding, serving)
        self.net.lans["home 1"].nat.forward("tcp", 9000, (here.address, 9000))  # type: ignore[union-attr]
        made, _ = self.connect(0)
        self.net.advance(0.3)
        other, _ = self.connect(1)
        self.net.advance(0.5)
        # The SYN belongs to the socket that connects to where it came from
        self.assertEqual((made.made, other.made, serving.made), (1, 1, []))
        third = Collector()
        client: Any = TCP4ClientEndpoint(there.reactor, "203.0.113.1", 9000)
        client.connect(Factory.forProtocol(lambda: third))
        self.net.advance(0.5)
        self.assertEqual((len(serving.made), third.made), (1, 1))
        self.assertRaises(CannotListenError, reactor.listenTCP, 9000, serving, 5, here.address)
        port.stopListening()

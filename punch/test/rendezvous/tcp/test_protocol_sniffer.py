"""The TCP port: what the first byte chooses, and how many connections may wait for their handshake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.net.rate_limits import NoRoom
from punch.net.sources import source_of
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.tcp.connection_limiter import ConnectionLimiter
from punch.rendezvous.tcp.protocol_sniffer import (
    TLS,
    Established,
    ProtocolSniffer,
    ProtocolSnifferFactory,
)


class Inside(Protocol):
    """A protocol that a route makes: it counts, and uses `cost` seconds of the processor for what it gets."""

    def __init__(
        self, address: IAddress, established: Established, work: Callable[[float], None], cost: float
    ) -> None:
        self.address = address
        self.established = established
        self.work = work
        self.cost = cost
        self.cost_per_byte = 0.0
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.work(self.cost + self.cost_per_byte * len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class ClosingTransport(StringTransportWithDisconnection):
    """A transport that tells at once that it was closed."""

    aborted = False

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.loseConnection()


class ConnectionLimiterTests(SynchronousTestCase):
    """Which connections may stay."""

    limits = replace(
        RendezvousLimits(), handshakes=8, handshakes_per_address=3, connections_per_address=5, connections=20
    )

    def setUp(self) -> None:
        self.limiter = ConnectionLimiter(self.limits)

    def admit(self, host: str | None, now: float = 0.0) -> int:
        number, evicted = self.limiter.admit(host, now)
        self.assertIsNone(evicted)
        assert number is not None
        return number

    def evicted_for(self, host: str | None) -> int | None:
        """The connection that is closed for one that is admitted."""
        number, evicted = self.limiter.admit(host, 0.0)
        self.assertIsNotNone(number)
        return evicted

    def test_oldest_of_one_address_makes_room_for_its_newest(self) -> None:
        numbers = [self.admit("192.0.2.1") for _ in range(3)]
        self.assertEqual(self.evicted_for("192.0.2.1"), numbers[0])
        self.admit("192.0.2.2")
        self.limiter.established(numbers[1], 0.0)
        self.admit("192.0.2.1")

    def test_one_ipv6_network_is_one_address(self) -> None:
        first, *_ = [self.admit(f"2001:db8:1:2::{index}") for index in range(3)]
        self.assertEqual(self.evicted_for("2001:db8:1:2:ffff::1"), first)
        self.admit("2001:db8:1:3::1")

    def test_connections_of_one_address(self) -> None:
        for _ in range(5):
            self.assertEqual(self.limiter.established(self.admit("192.0.2.1"), 0.0), (True, None))
        self.assertEqual(self.limiter.waiting, 0)
        # One more finishes its handshake, so that it can be told, and keeps its place for handshakes.
        late = self.admit("192.0.2.1")
        self.assertRaises(NoRoom, self.limiter.established, late, 0.0)
        self.assertEqual(self.limiter.waiting, 1)
        self.limiter.closed(late)
        self.assertEqual(self.limiter.established(self.admit("192.0.2.2"), 0.0), (True, None))

    def test_connections_in_all(self) -> None:
        for index in range(18):
            number = self.admit(f"192.{index}.2.1")
            self.assertEqual(self.limiter.established(number, 0.0), (True, None))
        # Two of the twenty are reserved for handshakes: these can be told why they are closed.
        late = [self.admit(f"192.{index}.2.1") for index in (18, 19)]
        for number in late:
            self.assertRaises(NoRoom, self.limiter.established, number, 0.0)
        self.assertEqual(self.evicted_for("192.99.2.1"), late[0])
        self.assertEqual(len(self.limiter), 20)

    def test_connections_in_all_and_few_places_for_handshakes(self) -> None:
        """Where handshakes have less room than they may take, who has most of them makes room."""
        for index in range(14):
            self.limiter.established(self.admit(f"192.{index}.2.1"), 0.0)
        honest = self.admit("198.51.100.1")
        self.limiter.spoke(honest)
        flood = [self.admit("203.0.113.1") for _ in range(3)] + [self.admit("203.0.113.2") for _ in range(2)]
        self.assertEqual(len(self.limiter), 20)
        self.assertEqual([self.evicted_for(f"203.0.113.{index}") for index in (3, 4)], flood[:2])
        # Also if it has one connection at each address
        for index in range(5, 12):
            self.evicted_for(f"203.0.113.{index}")
        self.assertTrue(self.limiter.is_waiting(honest))

    def test_places_of_peers_that_were_registered_before(self) -> None:
        """They have some at a full address, and when all others are taken; strangers get none of them."""
        limiter = ConnectionLimiter(
            replace(RendezvousLimits(), handshakes=8, connections=96, connections_per_address=16)
        )

        def come(host: str, *, earlier: bool = False) -> bool:
            number, _ = limiter.admit(host, 0.0)
            assert number is not None
            try:
                self.assertEqual(limiter.established(number, 0.0, earlier=earlier), (True, None))
            except NoRoom:
                limiter.closed(number)
                return False
            numbers.append(number)
            return True

        numbers: list[int] = []
        self.assertEqual(sum(come("203.0.113.1") for _ in range(20)), 16)
        # An eighth of the share of the address
        self.assertEqual(sum(come("203.0.113.1", earlier=True) for _ in range(20)), 2)
        limiter.closed(numbers.pop())
        self.assertFalse(come("203.0.113.1"))
        self.assertTrue(come("203.0.113.1", earlier=True))
        while numbers:
            limiter.closed(numbers.pop())
        self.assertEqual(len(limiter), 0)
        # An eighth is for handshakes, a 24th for these peers.
        self.assertEqual(sum(come(f"10.{network}.0.1") for network in range(96)), 80)
        self.assertEqual(sum(come(f"10.{network}.0.1", earlier=True) for network in range(100, 110)), 4)
        self.assertEqual(len(limiter), 84)

    def test_established_connections_leave_room_for_handshakes(self) -> None:
        """A flood has all that can be established; a peer finishes its handshake while the flood comes on."""
        limiter = ConnectionLimiter(
            replace(RendezvousLimits(), handshakes=8, connections=128, connections_per_address=32)
        )
        flood = [f"192.0.{network}.1" for network in range(4)]

        def come(host: str) -> int:
            number, _ = limiter.admit(host, 0.0)
            assert number is not None
            return number

        for host in flood * 32:
            number = come(host)
            try:
                limiter.established(number, 0.0)
            except NoRoom:
                limiter.closed(number)
        peer = come("198.51.100.1")
        for host in flood:
            come(host)
        self.assertEqual(limiter.answered(peer)[0], True)
        for host in flood:
            limiter.answered(come(host))
        stays, evicted = limiter.established(peer, 0.0)
        self.assertTrue(stays)
        self.assertIsNotNone(evicted)

    def test_longest_silent_one_makes_room(self) -> None:
        numbers = [self.admit(f"192.{index}.2.1") for index in range(8)]
        self.limiter.spoke(numbers[0])
        self.assertEqual(self.evicted_for("192.99.2.1"), numbers[1])
        self.assertEqual(self.limiter.waiting, 8)

    def test_longest_speaking_one_makes_room_if_all_speak(self) -> None:
        numbers = [self.admit(f"192.{index}.2.1") for index in range(8)]
        for number in numbers:
            self.limiter.spoke(number)
        self.assertEqual(self.evicted_for("192.99.2.1"), numbers[0])

    def test_address_that_has_most_makes_room(self) -> None:
        for index in range(3):
            self.limiter.spoke(self.admit(f"192.{index}.2.1"))
        crowd = [self.admit("192.99.2.1") for _ in range(3)]
        for number in crowd:
            self.limiter.spoke(number)
        for index in range(2):
            self.admit(f"198.{index}.100.1")
        self.assertEqual(self.evicted_for("203.0.113.1"), crowd[0])

    def test_address_that_comes_with_a_header(self) -> None:
        unknown = [self.admit(None, 0.0) for _ in range(3)]
        known = [self.admit("192.0.2.1") for _ in range(2)]
        self.assertEqual(self.limiter.seen_from(unknown[1], "192.0.2.1"), (True, None))
        self.assertEqual(self.limiter.source(unknown[1]), source_of("192.0.2.1"))
        # That address has three now.
        self.assertEqual(self.limiter.seen_from(unknown[2], "192.0.2.1"), (True, known[0]))
        self.assertEqual(self.limiter.established(unknown[2], 0.0), (True, None))
        # Those that never say where they come from have few places as well.
        last = [unknown[0], *(self.admit(None, 0.0) for _ in range(2))]
        self.assertEqual(self.evicted_for(None), last[0])

    def test_places_before_and_after_the_answer(self) -> None:
        """Hellos that nobody follows up take no place of connections that have yet to send theirs."""
        answered = [self.admit("192.0.2.1") for _ in range(3)]
        for number in answered:
            self.assertEqual(self.limiter.answered(number), (True, None))
        waiting = [self.admit("192.0.2.1") for _ in range(3)]
        self.assertEqual(self.limiter.waiting, 6)
        self.assertEqual(self.limiter.answered(waiting[0]), (True, answered[0]))
        self.assertEqual(self.limiter.established(waiting[0], 0.0), (True, None))
        self.admit("192.0.2.1")

    def overdue(self, now: float) -> list[int]:
        """Let this time come; returns the connections that it ends."""
        self.limiter.handle_timer(now)
        ended = []
        while (connection := self.limiter.next_event()) is not None:
            ended.append(connection)
        return ended

    def test_time(self) -> None:
        silent = self.admit("192.0.2.1", 0.0)
        speaking = self.admit("192.0.2.2", 1.0)
        self.limiter.spoke(speaking)
        done = self.admit("192.0.2.3", 2.0)
        self.limiter.established(done, 0.0)
        self.assertEqual(self.limiter.get_timer(), 10.0)
        self.assertEqual(self.overdue(9.9), [])
        self.assertEqual(self.overdue(10.0), [silent])
        self.assertEqual(self.limiter.get_timer(), 11.0)
        self.assertEqual(self.overdue(50.0), [speaking])
        self.assertIsNone(self.limiter.get_timer())
        self.assertEqual(len(self.limiter), 1)

    def test_everything_is_forgotten(self) -> None:
        for _ in range(3):
            numbers = [self.admit(f"192.{index}.2.1") for index in range(8)]
            for number in numbers:
                self.limiter.spoke(number)
                self.limiter.closed(number)
                self.limiter.closed(number)
        self.assertEqual((len(self.limiter), self.limiter.waiting), (0, 0))


def hello(number: int = 0) -> bytes:
    """The beginning of a TLS connection, as long as the shortest; each number has random bytes of its own."""
    body = b"\x03\x03" + number.to_bytes(32, "big") + bytes(12)
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


class ProtocolSnifferTests(SynchronousTestCase):
    """What first bytes lead to, on real sniffers."""

    limits = replace(RendezvousLimits(), handshake_bytes=100)

    def setUp(self) -> None:
        self.clock = Clock()
        self.inside: list[Inside] = []
        self.cpu = 0.0
        self.cost = 0.0
        self.stopped = 0.0
        self.hellos = 0
        self.limits_hit: list[tuple[str, str]] = []
        self.factory = self.make(self.limits)

    def make(self, limits: RendezvousLimits) -> ProtocolSnifferFactory:
        return ProtocolSnifferFactory(
            {TLS: self.route},
            limits,
            clock=self.clock,
            monotonic=self.clock.seconds,
            cpu=lambda: self.cpu,
            limit_hit=lambda host, limit: self.limits_hit.append((host, limit)),
        )

    def route(self, address: IAddress, established: Established) -> IProtocol:
        self.inside.append(Inside(address, established, self.work, self.cost))
        return self.inside[-1]

    def work(self, seconds: float) -> None:
        """Use the processor, and be stopped for a while."""
        self.cpu += seconds
        self.clock.rightNow += self.stopped

    def connect(self, host: str = "192.0.2.1") -> tuple[ProtocolSniffer, ClosingTransport]:
        address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 40000)
        sniffer = self.factory.buildProtocol(address)
        assert sniffer is not None
        transport = ClosingTransport(peerAddress=address)
        transport.protocol = sniffer
        sniffer.makeConnection(transport)
        return sniffer, transport

    def greet(self, host: str = "192.0.2.1") -> tuple[ProtocolSniffer, ClosingTransport]:
        """Connect, and send a new ClientHello."""
        sniffer, transport = self.connect(host)
        self.hellos += 1
        sniffer.dataReceived(hello(self.hellos))
        return sniffer, transport

    def test_tls_goes_through_from_the_first_byte(self) -> None:
        sniffer, transport = self.connect()
        first, rest = hello()[:1], hello()[1:]
        sniffer.dataReceived(first)
        self.assertEqual(self.inside, [])
        sniffer.dataReceived(rest[:20])
        # There is no state before the ClientHello is complete.
        self.assertEqual(self.inside, [])
        sniffer.dataReceived(rest[20:])
        sniffer.dataReceived(b"more")
        self.assertEqual(self.inside[0].received, hello() + b"more")
        transport.loseConnection()
        self.assertTrue(self.inside[0].lost)

    def test_anything_else_is_closed(self) -> None:
        for first in (
            *(b"GET / HTTP/1.1\r\n", b"\x00\x01", b"\x01\x01", b"{", b"\x15", b"\x80", b"\xff"),
            *(b"\x16\x02", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x40\x01", b"\x16\x03\x03\x00\x20\x02"),
        ):
            sniffer, transport = self.connect()
            sniffer.dataReceived(first)
            self.assertTrue(transport.aborted, first)
            sniffer.dataReceived(b"\x16")
        self.assertEqual(self.inside, [])
        self.assertEqual(self.factory.open_count, 0)

    def test_seam_for_stun(self) -> None:
        self.factory.routes = {TLS: self.route, 0: self.route, 1: self.route}
        sniffer, _ = self.connect()
        sniffer.dataReceived(b"\x00\x03")
        self.assertEqual(self.inside[0].received, b"\x00\x03")

    def test_handshake_time(self) -> None:
        _, silent = self.connect()
        self.clock.advance(3)
        speaking_gate, speaking = self.connect()
        speaking_gate.dataReceived(b"\x16")
        _, done = self.greet()
        self.inside[-1].established()
        self.clock.advance(6.9)
        self.assertFalse(silent.aborted)
        self.clock.advance(0.1)
        self.assertTrue(silent.aborted)
        self.assertFalse(speaking.aborted)
        # One byte now and then buys no time.
        speaking_gate.dataReceived(b"\x03")
        self.clock.advance(3)
        self.assertTrue(speaking.aborted)
        self.clock.advance(1000)
        self.assertFalse(done.aborted)
        done.loseConnection()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handshake_bytes(self) -> None:
        sniffer, transport = self.greet()
        sniffer.dataReceived(bytes(100 - len(hello())))
        self.assertFalse(transport.aborted)
        sniffer.dataReceived(b"\x16")
        self.assertTrue(transport.aborted)
        sniffer, transport = self.greet()
        self.inside[-1].established()
        sniffer.dataReceived(b"\x16" * 1000)
        self.assertFalse(transport.aborted)

    def test_replayed_hello(self) -> None:
        """It costs next to nothing to send, so it costs us next to nothing."""
        sniffer, transport = self.connect()
        sniffer.dataReceived(hello(7))
        self.assertFalse(transport.aborted)
        for host in ("192.0.2.1", "198.51.100.7"):
            sniffer, transport = self.connect(host)
            sniffer.dataReceived(hello(7))
            self.assertTrue(transport.aborted)
        self.assertEqual(len(self.inside), 1)

    def test_handshakes_take_a_share_of_the_processor_and_sources_take_turns(self) -> None:
        self.factory = self.make(replace(RendezvousLimits(), handshake_share=0.5))
        self.cost = 0.001
        for _ in range(200):
            self.greet("192.0.2.1")
        begun = len(self.inside)
        self.assertLess(begun, 10)
        self.greet("192.0.2.2")
        self.greet("192.0.2.1")
        self.clock.advance(0.004)
        # The other address, and the newest of the crowded one.
        hosts = {each.address.host for each in self.inside[begun:]}  # type: ignore[attr-defined]
        self.assertEqual(hosts, {"192.0.2.1", "192.0.2.2"})
        self.assertIn(hello(self.hellos), [each.received for each in self.inside])
        for _ in range(100):
            self.clock.advance(0.01)
        self.assertAlmostEqual(self.cpu, 0.202)
        self.assertEqual(len(self.inside), 202)

    def test_newcomers_do_not_wait_for_a_handshake_of_each_network(self) -> None:
        """In a flood from 200 networks, of which each has a ClientHello waiting all the time."""
        self.factory = self.make(replace(RendezvousLimits(), handshake_share=0.5))
        self.cost = 0.001
        flood = [f"10.0.{number}.1" for number in range(200)]
        for host in flood:
            self.greet(host)
        for second in range(10):
            for turn in range(50):
                self.clock.advance(0.02)
                for number in range(10):
                    self.greet(flood[(turn * 10 + number) % 200])
            begun = len(self.inside)
            self.greet(f"198.51.100.{second}")
            self.clock.advance(0.004)
            hosts = [each.address.host for each in self.inside[begun:]]  # type: ignore[attr-defined]
            self.assertIn(f"198.51.100.{second}", hosts)

    def test_a_stop_within_a_handshake(self) -> None:
        """The time for which the process was stopped is not paid for with a pause."""
        self.stopped = 30.0
        self.greet("192.0.2.1")
        self.stopped = 0.0
        self.greet("192.0.2.2")
        self.assertEqual(len(self.inside), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.inside), 2)

    def test_who_uses_the_processor_too_much_is_not_read_from(self) -> None:
        self.factory = self.make(RendezvousLimits())
        heavy, heavy_transport = self.greet()
        light, light_transport = self.greet()
        for each in self.inside:
            each.established()
        self.cpu = 0.0
        self.inside[0].cost_per_byte = 0.00001
        for _ in range(100):
            if heavy_transport.producerState == "producing":
                heavy.dataReceived(bytes(10_000))
            light.dataReceived(b"line")
            self.assertEqual(light_transport.producerState, "producing")
            self.clock.advance(0.1)
        self.assertFalse(heavy_transport.aborted)
        self.assertLess(self.cpu / 10.0, 0.25 + 0.05)
        self.assertGreater(self.cpu / 10.0, 0.15)
        self.clock.advance(10.0)
        self.assertEqual(heavy_transport.producerState, "producing")
        # Nothing that came was lost.
        received = len(self.inside[0].received) - len(hello())
        self.assertEqual(received % 10_000, 0)
        heavy_transport.loseConnection()
        light_transport.loseConnection()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_both_may_stop_reading(self) -> None:
        self.factory = self.make(RendezvousLimits())
        sniffer, transport = self.greet()
        inside = self.inside[0]
        inside.established()
        inside.cost_per_byte = 1.0
        sniffer.dataReceived(b"x")
        self.assertEqual(transport.producerState, "paused")
        assert inside.transport is not None
        inside.transport.pauseProducing()  # type: ignore[attr-defined]
        inside.transport.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(transport.producerState, "paused")
        inside.transport.pauseProducing()  # type: ignore[attr-defined]
        self.clock.advance(60.0)
        self.assertEqual(transport.producerState, "paused")
        inside.transport.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(transport.producerState, "producing")

    def test_what_is_relayed_is_not_measured(self) -> None:
        self.factory = self.make(RendezvousLimits())
        sniffer, transport = self.greet()
        self.inside[0].established(metered=False)
        self.inside[0].cost_per_byte = 1.0
        sniffer.dataReceived(bytes(1000))
        self.assertEqual(transport.producerState, "producing")

    def test_crowd_at_one_address_is_told_the_limit_and_its_option(self) -> None:
        self.factory = self.make(replace(RendezvousLimits(), connections_per_address=2))
        for _ in range(2):
            self.greet()
            self.assertIsNone(self.inside[-1].established())
        self.greet()
        sentence = self.inside[-1].established()
        assert sentence is not None
        for word in ("2 connections", "192.0.2.1", "--connections-per-address", "haproxy:"):
            self.assertIn(word, sentence)

    def test_full_service_says_so(self) -> None:
        """A client without a neighbour is not told of its address."""
        self.factory = self.make(replace(RendezvousLimits(), connections=8))
        for number in range(7):
            self.greet(f"10.0.{number}.1")
            self.assertIsNone(self.inside[-1].established())
        self.greet()
        sentence = self.inside[-1].established()
        assert sentence is not None
        self.assertIn("--connections,", sentence)
        self.assertNotIn("192.0.2.1", sentence)

    def test_full_share_in_a_full_service(self) -> None:
        """Who has used up the share of its address is told that, also when nobody finds a place any more."""
        self.factory = self.make(replace(RendezvousLimits(), connections=8, connections_per_address=2))
        for host in ("192.0.2.1", "192.0.2.1", *(f"10.0.{number}.1" for number in range(5))):
            self.greet(host)
            self.assertIsNone(self.inside[-1].established())
        self.greet("192.0.2.1")
        sentence = self.inside[-1].established()
        assert sentence is not None
        self.assertIn("--connections-per-address,", sentence)
        self.assertEqual(self.limits_hit, [("192.0.2.1", "connections-per-address")])

    def test_address_from_a_header(self) -> None:
        """The wrapper of the PROXY protocol knows the address only when data comes."""
        self.factory = self.make(replace(RendezvousLimits(), connections_per_address=2))
        factory = self.factory.behind_balancer()
        seen = []
        for index in range(6):
            sniffer = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
            assert isinstance(sniffer, ProtocolSniffer)
            transport = ClosingTransport(peerAddress=IPv4Address("TCP", "10.0.0.1", 1))
            transport.protocol = sniffer
            sniffer.makeConnection(transport)
            transport.peerAddr = IPv4Address("TCP", f"192.0.2.{index % 3}", 2)
            sniffer.dataReceived(hello(1000 + index))
            self.assertIsNone(self.inside[-1].established())
            seen.append(self.inside[-1].address.host)  # type: ignore[attr-defined]
        self.assertEqual(seen, ["192.0.2.0", "192.0.2.1", "192.0.2.2"] * 2)

    def test_two_thousand_half_open_connections(self) -> None:
        self.factory = self.make(RendezvousLimits())
        transports = [self.connect(f"10.0.{i >> 8}.{i & 255}")[1] for i in range(2_000)]
        self.assertEqual(self.factory.open_count, 512)
        sniffer, transport = self.connect("2001:db8::7")
        sniffer.dataReceived(b"\x16")
        for i in range(600):
            self.connect(f"10.1.{i >> 8}.{i & 255}")
        self.assertFalse(transport.aborted)
        self.assertEqual(self.factory.open_count, 512)
        # Those who come now have their part of the places, too.
        self.assertLess(sum(not each.aborted for each in transports), 512 - 30)
        self.clock.advance(10)
        self.assertEqual(self.factory.open_count, 0)

    def test_one_address_cannot_take_all_places(self) -> None:
        self.factory = self.make(RendezvousLimits())
        transports = [self.connect()[1] for _ in range(1000)]
        self.assertEqual(sum(not each.aborted for each in transports), 256)
        self.connect("192.0.2.2")
        self.assertEqual(self.factory.open_count, 257)

    def test_end(self) -> None:
        _, silent = self.connect()
        _, done = self.greet()
        self.inside[-1].established()
        closed = self.factory.close_connections(1.0)
        self.assertTrue(silent.aborted)
        self.assertNoResult(closed)
        self.clock.advance(1.0)
        self.assertTrue(done.aborted)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.factory.close_connections(1.0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

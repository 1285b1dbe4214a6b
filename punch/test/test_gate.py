"""The door of the TCP port: first bytes, and how many may stand in it."""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.config import Limits
from punch.rendezvous.gate import TLS, Established, Gate, GateFactory, Gatekeeper


class Inside(Protocol):
    """What stands behind the door: it counts."""

    def __init__(self, established: Established) -> None:
        self.established = established
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True


class Transport(StringTransportWithDisconnection):
    """A transport that tells at once that it was closed."""

    aborted = False

    def abortConnection(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.loseConnection()


class GatekeeperTests(SynchronousTestCase):
    """Who may stay."""

    limits = replace(
        Limits(), handshakes=8, handshakes_per_address=3, connections_per_address=5, connections=20
    )

    def setUp(self) -> None:
        self.keeper = Gatekeeper(self.limits)

    def admit(self, host: str, now: float = 0.0) -> int:
        number, evicted = self.keeper.admit(host, now)
        self.assertIsNone(evicted)
        assert number is not None
        return number

    def test_handshakes_of_one_address(self) -> None:
        numbers = [self.admit("192.0.2.1") for _ in range(3)]
        self.assertEqual(self.keeper.admit("192.0.2.1", 0.0), (None, None))
        self.admit("192.0.2.2")
        self.keeper.established(numbers[0])
        self.admit("192.0.2.1")

    def test_one_ipv6_network_is_one_address(self) -> None:
        for index in range(3):
            self.admit(f"2001:db8:1:2::{index}")
        self.assertEqual(self.keeper.admit("2001:db8:1:2:ffff::1", 0.0), (None, None))
        self.admit("2001:db8:1:3::1")

    def test_connections_of_one_address(self) -> None:
        for _ in range(5):
            self.keeper.established(self.admit("192.0.2.1"))
        self.assertEqual(self.keeper.admit("192.0.2.1", 0.0), (None, None))
        self.assertEqual(self.keeper.waiting, 0)

    def test_connections_in_all(self) -> None:
        for index in range(20):
            self.keeper.established(self.admit(f"192.0.2.{index}"))
        self.assertEqual(self.keeper.admit("192.0.2.99", 0.0), (None, None))

    def test_longest_silent_one_makes_room(self) -> None:
        numbers = [self.admit(f"192.0.2.{index}") for index in range(8)]
        self.keeper.spoke(numbers[0])
        new, evicted = self.keeper.admit("192.0.2.99", 0.0)
        self.assertEqual(evicted, numbers[1])
        self.assertIsNotNone(new)
        self.assertEqual(self.keeper.waiting, 8)

    def test_longest_speaking_one_makes_room_if_all_speak(self) -> None:
        numbers = [self.admit(f"192.0.2.{index}") for index in range(8)]
        for number in numbers:
            self.keeper.spoke(number)
        self.assertEqual(self.keeper.admit("192.0.2.99", 0.0)[1], numbers[0])

    def test_time(self) -> None:
        silent = self.admit("192.0.2.1", 0.0)
        speaking = self.admit("192.0.2.2", 1.0)
        self.keeper.spoke(speaking)
        done = self.admit("192.0.2.3", 2.0)
        self.keeper.established(done)
        self.assertEqual(self.keeper.get_timer(), 10.0)
        self.assertEqual(self.keeper.overdue(9.9), [])
        self.assertEqual(self.keeper.overdue(10.0), [silent])
        self.assertEqual(self.keeper.get_timer(), 11.0)
        self.assertEqual(self.keeper.overdue(50.0), [speaking])
        self.assertIsNone(self.keeper.get_timer())
        self.assertEqual(len(self.keeper), 1)

    def test_everything_is_forgotten(self) -> None:
        for _ in range(3):
            numbers = [self.admit(f"192.0.2.{index}") for index in range(8)]
            for number in numbers:
                self.keeper.spoke(number)
                self.keeper.closed(number)
                self.keeper.closed(number)
        self.assertEqual((len(self.keeper), self.keeper.waiting), (0, 0))


class GateTests(SynchronousTestCase):
    """First bytes, on real gates."""

    limits = replace(Limits(), handshake_bytes=100)

    def setUp(self) -> None:
        self.clock = Clock()
        self.inside: list[Inside] = []
        self.factory = GateFactory(
            {TLS: self.route}, self.limits, clock=self.clock, monotonic=self.clock.seconds
        )

    def route(self, address: IAddress, established: Established) -> IProtocol:
        self.inside.append(Inside(established))
        return self.inside[-1]

    def connect(self, host: str = "192.0.2.1") -> tuple[Gate, Transport]:
        address = (IPv6Address if ":" in host else IPv4Address)("TCP", host, 40000)
        gate = self.factory.buildProtocol(address)
        assert gate is not None
        transport = Transport(peerAddress=address)
        transport.protocol = gate
        gate.makeConnection(transport)
        return gate, transport

    def test_tls_goes_through_from_the_first_byte(self) -> None:
        gate, transport = self.connect()
        self.assertEqual(self.inside, [])
        gate.dataReceived(b"\x16")
        gate.dataReceived(b"\x03\x01")
        self.assertEqual(self.inside[0].received, b"\x16\x03\x01")
        self.assertIs(self.inside[0].transport, transport)
        transport.loseConnection()
        self.assertTrue(self.inside[0].lost)

    def test_anything_else_is_closed(self) -> None:
        for first in (b"GET / HTTP/1.1\r\n", b"\x00\x01", b"\x01\x01", b"{", b"\x15", b"\x80", b"\xff"):
            gate, transport = self.connect()
            gate.dataReceived(first)
            self.assertTrue(transport.aborted, first)
            gate.dataReceived(b"\x16")
        self.assertEqual(self.inside, [])
        self.assertEqual(self.factory.open_count, 0)

    def test_seam_for_stun(self) -> None:
        self.factory.routes = {TLS: self.route, 0: self.route, 1: self.route}
        gate, _ = self.connect()
        gate.dataReceived(b"\x00\x03")
        self.assertEqual(self.inside[0].received, b"\x00\x03")

    def test_handshake_time(self) -> None:
        _, silent = self.connect()
        self.clock.advance(3)
        speaking_gate, speaking = self.connect()
        speaking_gate.dataReceived(b"\x16")
        done_gate, done = self.connect()
        done_gate.dataReceived(b"\x16")
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
        gate, transport = self.connect()
        gate.dataReceived(b"\x16" * 100)
        self.assertFalse(transport.aborted)
        gate.dataReceived(b"\x16")
        self.assertTrue(transport.aborted)
        gate, transport = self.connect()
        gate.dataReceived(b"\x16")
        self.inside[-1].established()
        gate.dataReceived(b"\x16" * 1000)
        self.assertFalse(transport.aborted)

    def test_ten_thousand_half_open_connections(self) -> None:
        self.factory = GateFactory(
            {TLS: self.route}, Limits(), clock=self.clock, monotonic=self.clock.seconds
        )
        transports = [self.connect(f"10.0.{i >> 8}.{i & 255}")[1] for i in range(10_000)]
        self.assertEqual(self.factory.open_count, 512)
        gate, transport = self.connect("2001:db8::7")
        gate.dataReceived(b"\x16")
        for i in range(600):
            self.connect(f"10.1.{i >> 8}.{i & 255}")
        self.assertFalse(transport.aborted)
        self.assertEqual(sum(not each.aborted for each in transports), 0)
        self.clock.advance(10)
        self.assertEqual(self.factory.open_count, 0)

    def test_one_address_cannot_take_all_places(self) -> None:
        self.factory = GateFactory(
            {TLS: self.route}, Limits(), clock=self.clock, monotonic=self.clock.seconds
        )
        for _ in range(32):
            self.connect()
        for _ in range(1000):
            self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)))
        self.connect("192.0.2.2")
        self.assertEqual(self.factory.open_count, 33)

    def test_end(self) -> None:
        _, silent = self.connect()
        gate, done = self.connect()
        gate.dataReceived(b"\x16")
        self.inside[-1].established()
        emptied = self.factory.emptied(1.0)
        self.assertTrue(silent.aborted)
        self.assertNoResult(emptied)
        self.clock.advance(1.0)
        self.assertTrue(done.aborted)
        self.successResultOf(emptied)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.factory.emptied(1.0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

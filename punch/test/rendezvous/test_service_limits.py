"""The rendezvous service and too many clients, one by one and behind a load balancer."""

from __future__ import annotations

from dataclasses import replace

from punch.rendezvous.config import RendezvousLimits
from punch.test.rendezvous.control_client import (
    RecordingControlClient,
    connect_control,
    connect_raw,
    key_of,
)
from punch.test.rendezvous.registry.test_registry import CALL, envelope
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.wire.control import (
    Accept,
    Establish,
    Ping,
    Register,
    Trickle,
)


class LimitTests(RendezvousCase):
    """The limits hold against strangers."""

    def test_one_address(self) -> None:
        connections = [connect_raw(self.office.reactor, SERVICE, 7001) for _ in range(300)]
        self.net.advance(1)
        self.assertEqual(sum(client.ended is None for client in connections), 256)
        self.register(self.alice)
        # Nor does it lock out its own neighbours: its oldest makes room.
        self.register(self.bob, self.office)

    def test_who_was_registered_before_connects_to_a_full_address(self) -> None:
        """The address has all connections that it may have: a stranger is refused, an earlier peer is not."""
        self.restart(limits=replace(self.limits, connections_per_address=2, registrations_per_address=2))
        self.register(self.alice).abort()
        self.net.advance(0.5)
        for number in range(2):
            self.register(self.key(f"stranger {number}"), self.home)
        late = self.connect(self.key("late"), self.home)
        self.assertIn("--connections-per-address", late.last["text"])
        self.register(self.alice)

    def test_neighbours_behind_one_address(self) -> None:
        """
        Peers that together exceed the rate of their address stay connected, and quiet ones are not slowed
        down.
        """
        self.restart(limits=replace(self.limits, address_rate=20.0, address_burst=40.0))
        crowd = [self.register(self.key(f"crowd {number}"), self.office) for number in range(4)]
        quiet = self.register(self.bob, self.office)
        for second in range(10):
            for client in crowd:
                client.send(*[Ping()] * 15)
            quiet.send(Ping())
            self.net.advance(0.1)
            self.assertEqual(len(quiet.of("pong")), second + 1)
            self.net.advance(0.9)
        self.assertEqual([client.ended for client in (*crowd, quiet)], [None] * 5)
        answered = [len(client.of("pong")) for client in crowd]
        self.assertLess(sum(answered), 40 + 11 * 20)
        self.assertLess(max(answered) - min(answered), 20)
        # All of it is read in the end.
        self.net.advance(30.0)
        self.assertEqual([len(client.of("pong")) for client in crowd], [150] * 4)

    def test_crowd_at_one_address_is_told_so(self) -> None:
        self.restart(limits=replace(self.limits, connections_per_address=2))
        for number in range(2):
            self.register(self.key(f"crowd {number}"), self.office)
        client = self.connect(self.bob, self.office)
        self.assertEqual(client.last["code"], "too-many")
        for word in ("203.0.113.2", "--connections-per-address", "haproxy"):
            self.assertIn(word, client.last["text"])
        self.assertIsNotNone(client.ended)
        self.register(self.alice)

    def test_peer_that_does_not_read(self) -> None:
        alice = self.register(self.alice)
        bob = self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.5)
        bob.stop_reading()
        for number in range(400):
            alice.send(Trickle(CALL, self.bob.peer_id, envelope(self.bob.peer_id, number % 250)))
            bob.send(Ping())
            self.net.advance(0.1)
        self.assertLess(len(bob.of("candidate")), 400)
        self.net.advance(60)
        self.assertIn(("gone", str(self.bob.peer_id)), self.events("gone"))


class BalancerTests(RendezvousCase):
    """Behind a load balancer that sends the addresses of clients in a header (PROXY protocol)."""

    limits = replace(
        RendezvousLimits(), connections_per_address=2, handshakes_per_address=3, registrations_per_address=2
    )

    def setUp(self) -> None:
        super().setUp()
        self.restart(control="haproxy:tcp:7001")

    def come(self, name: str, header: bytes) -> RecordingControlClient:
        """Through the balancer, at `home`."""
        key = key_of(self.key(name))
        client = connect_control(self.home.reactor, SERVICE, 7001, key, header=header)
        self.net.advance(0.5)
        if client.ended is None:
            client.send(Register("x", Accept.ASK))
            self.net.advance(0.5)
        return client

    def test_peers_are_counted_where_they_come_from(self) -> None:
        for number in range(8):
            header = b"PROXY TCP4 192.0.2.%d 198.51.100.1 4000 7001\r\n" % (number // 2)
            client = self.come(f"peer {number}", header)
            self.assertEqual(client.last["address"], f"192.0.2.{number // 2}")
        client = self.come("one more", b"PROXY TCP4 192.0.2.3 198.51.100.1 4000 7001\r\n")
        self.assertEqual(client.last["code"], "too-many")
        self.assertIn("192.0.2.3", client.last["text"])
        client = self.come("IPv6", b"PROXY TCP6 2001:db8:7::1 2001:db8::1 4000 7001\r\n")
        self.assertEqual(client.last["address"], "2001:db8:7::1")
        version_2 = (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((203, 0, 113, 99, 198, 51, 100, 1)) + bytes(4)
        )
        self.assertEqual(self.come("version 2", version_2).last["address"], "203.0.113.99")

    def test_without_an_address_in_the_header_it_is_the_balancer(self) -> None:
        self.assertEqual(self.come("checker", b"PROXY UNKNOWN x\r\n").last["address"], "203.0.113.1")

    def test_headers_that_never_come(self) -> None:
        """Connections without a header have few places for a few seconds, and keep nobody out."""
        silent = [connect_raw(self.office.reactor, SERVICE, 7001) for _ in range(20)]
        self.net.advance(0.5)
        self.assertEqual(sum(each.ended is None for each in silent), 3)
        client = self.come("peer", b"PROXY TCP4 192.0.2.1 198.51.100.1 4000 7001\r\n")
        self.assertEqual(client.last["type"], "welcome")
        self.net.advance(10)
        self.assertEqual(sum(each.ended is None for each in silent), 0)

    def test_headers_that_are_none(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"PROXY NONSENSE\r\n",
            b"PROXY " + b"x" * 200,
            b"\x16\x03\x01" * 9,
        ):
            client = connect_raw(self.office.reactor, SERVICE, 7001)
            self.net.advance(0.2)
            assert client.transport is not None
            client.transport.write(data)
            self.net.advance(1)
            self.assertIsNotNone(client.ended, data)
        self.assertEqual(
            self.come("peer", b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n").last["type"], "welcome"
        )

    def test_no_place_at_all(self) -> None:
        self.restart(control="haproxy:tcp:7001", limits=replace(self.limits, connections=1))
        self.come("first", b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n")
        client = connect_raw(self.office.reactor, SERVICE, 7001)
        self.net.advance(0.5)
        self.assertIsNotNone(client.ended)

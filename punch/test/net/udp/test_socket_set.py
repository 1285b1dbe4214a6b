"""Sockets that seem to have an IPv4 address."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from ipaddress import IPv6Network

from punch.net.udp.socket_set import ClatSocket, Translation
from punch.net.udp.sockets import DatagramSocket, Reach, open_portable
from punch.test.internet import NAT, InternetTestCase
from punch.test.internet.recorder import bind
from punch.wire.address import Address
from punch.wire.special_addresses import Prefix

NETWORK = IPv6Network("64:ff9b:1:2:3::/96")
TRANSLATION = Translation("192.0.0.1", "2001:db8:1::2", Prefix(int(NETWORK.network_address), 96))


class ClatSocketTests(InternetTestCase):
    """A host of IPv6 alone behind a NAT64, another host of that network, and hosts of the IPv4 internet."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.nat = NAT("203.0.113.1", nat64=NETWORK)
        self.lan = self.net.lan("home", ipv6="2001:db8:1::/64", nat=self.nat)
        self.host = self.lan.host("alice", TRANSLATION.source)
        self.received: list[tuple[bytes, Address, Address]] = []
        open_socket = partial(open_portable, self.host.reactor, TRANSLATION.source, 4000)
        self.socket = ClatSocket(TRANSLATION, open_socket, self.receive)
        self.addCleanup(self.socket.close)

    def receive(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        """Note what has come."""
        self.assertIs(socket, self.socket)
        self.received += [(data, remote, socket.local) for data in datagrams]

    def test_both_ways(self) -> None:
        """IPv4 addresses here, the NAT64's at the other end."""
        self.assertEqual(self.socket.local, Address("192.0.0.1", 4000))
        other = bind(self.net.host("bob", "198.51.100.7"), 5000)
        self.socket.send([b"one", b"two"], Address("198.51.100.7", 5000))
        self.assertTrue(self.socket.send_limited(b"three", Address("198.51.100.7", 5000), Reach(64)))
        self.net.advance(1.0)
        self.assertEqual([data for data, _ in other.received], [b"one", b"two", b"three"])
        (source,) = {source for _, source in other.received}
        self.assertEqual(source[0], "203.0.113.1")
        other.send(b"answer", *source)
        self.net.advance(1.0)
        self.assertEqual(self.received, [(b"answer", Address("198.51.100.7", 5000), self.socket.local)])

    def test_not_on_the_internet(self) -> None:
        """Nothing goes there, even if the NAT64 would pass it on, and nothing comes from there."""
        hosts = {
            host: bind(self.net.host(host, host), 5000) for host in ("10.9.9.9", "192.168.1.1", "100.64.0.9")
        }
        for host in (*hosts, "127.0.0.1", "169.254.169.254", "224.0.0.1", "255.255.255.255", "192.0.0.9"):
            remote = Address(host, 5000)
            self.socket.send([b"data"], remote)
            self.assertTrue(self.socket.send_limited(b"data", remote, Reach(64)))
        self.net.advance(1.0)
        self.assertEqual([each for socket in hosts.values() for each in socket.received], [])
        self.nat.forward("udp", 4000, (TRANSLATION.source, 4000))
        for socket in hosts.values():
            socket.send(b"data", "203.0.113.1", 4000)
        self.net.advance(1.0)
        self.assertEqual(self.received, [])

    def test_ipv6(self) -> None:
        """What comes from other addresses of IPv6 is not for it, and it sends nothing there."""
        neighbour = bind(self.lan.host("bob", "2001:db8:1::3"), 5000, "2001:db8:1::3")
        self.socket.send([b"data"], Address("2001:db8:1::3", 5000))
        neighbour.send(b"data", TRANSLATION.source, 4000)
        self.net.advance(1.0)
        self.assertEqual((neighbour.received, self.received), ([], []))

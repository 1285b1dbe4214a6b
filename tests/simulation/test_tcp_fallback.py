"""Direct paths over TCP where a network passes UDP, but none between the two peers."""

from __future__ import annotations

from collections.abc import Callable

from punch.ice.budget import MAX_CONNECTS
from punch.node.punching.coordinator import TIME_FOR_CHECKS, TIME_FOR_TECHNIQUE
from punch.node.punching.schedule import PROOF_GAP, PROOFS
from punch.test.internet import NAT, Filtering, Firewall, LinkSpec, Mapping, Packet, Ports
from punch.test.scenarios.tcp_punching import ALICE, BOB, TCPTestCase
from punch.test.system import Peer, Rendezvous
from punch.wire.control import Accept

REFLECTOR = 3478
IN_TIME = PROOFS * PROOF_GAP + TIME_FOR_CHECKS + 3.0
"""Seconds after the call within which TCP finds a path if neither side can prove where it receives."""


def only_to_the_rendezvous(host: str) -> Callable[[Packet], bool]:
    """What a firewall at this host drops if it lets out UDP to the port of the reflector and relay only."""

    def drop(packet: Packet) -> bool:
        return packet.protocol == "udp" and packet.source[0] == host and packet.destination[1] != REFLECTOR

    return drop


class RendezvousOnlyTests(TCPTestCase):
    """UDP reaches the reflector and the relay, and nobody else."""

    def check(self, left: NAT, right: NAT | Firewall | None, host: str, within: float = IN_TIME) -> None:
        """The path is direct in time, after few SYNs, and stays."""
        self.place(right, left=left)
        self.net.drop = only_to_the_rendezvous(host)
        for caller in (0, 1):
            began = self.call(caller)
            self.wait(lambda: self.over_tcp, began + within - self.net.now)
            self.net.advance(20.0)
            self.assertTrue(self.over_tcp)
            for peer in self.peers:
                self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
                self.assertEqual(self.listening(peer), [])
            self.alice.node.hangup(self.bob.id)
            self.net.advance(1.0)
            for peer in self.peers:
                peer.events.clear()
        self.stop()

    def test_either_side(self) -> None:
        """Whichever network has the firewall."""
        for host in (ALICE, BOB):
            self.check(NAT(ports=Ports.RANDOM), NAT(ports=Ports.RANDOM), host)

    def test_preserved_ports(self) -> None:
        """As Linux masquerades."""
        self.check(NAT(), NAT(), ALICE)

    def test_filters_nothing(self) -> None:
        """What the other side sends comes in, and no answer gets out."""
        self.check(NAT(ports=Ports.RANDOM, filtering=Filtering.EIF), NAT(ports=Ports.RANDOM), ALICE)

    def test_public(self) -> None:
        """Everybody reaches bob."""
        self.check(NAT(ports=Ports.RANDOM), None, ALICE)

    def test_another_port_for_each_destination(self) -> None:
        """Bob's ports are random for each destination, and alice, whom everybody reaches, aims in vain."""
        left = NAT(ports=Ports.RANDOM, filtering=Filtering.EIF)
        self.check(left, NAT(ports=Ports.RANDOM, mapping=Mapping.APDM), ALICE, TIME_FOR_TECHNIQUE + 3.0)


class UnknownTests(TCPTestCase):
    """Nothing is known of a NAT."""

    def test_no_reflector(self) -> None:
        """No reflector answers, and the relay is reached over UDP."""
        self.place(NAT(ports=Ports.RANDOM), left=NAT(ports=Ports.RANDOM))

        def drop(packet: Packet) -> bool:
            if packet.protocol != "udp":
                return False
            asks = packet.destination[1] in (REFLECTOR, REFLECTOR + 1) and len(packet.payload) == 20
            return asks or {packet.source[0], packet.destination[0]} == {ALICE, BOB}

        for peer in self.peers:
            peer.stop()
        self.net.drop = drop
        address = self.rendezvous.address
        self.alice, self.bob = self.peers = [
            Peer(self.net, peer.host, address, accept=Accept.ANYONE).register() for peer in self.peers
        ]
        self.net.advance(5.0)
        began = self.call()
        self.assertEqual([nat for peer in self.peers for nat in peer.node.status.nats], [])
        self.wait(lambda: self.over_tcp, began + TIME_FOR_CHECKS + 3.0 - self.net.now)
        self.stop()


class FamiliesTests(TCPTestCase):
    """One side has UDP over IPv6 alone, the other one no IPv6."""

    def place_families(self, *addresses: str) -> None:
        """Register both at these addresses of the rendezvous; alice's IPv4 passes no UDP."""
        self.net = self.internet(1)
        self.net.dns["meet.example"] = list(addresses)
        host = self.net.host("rendezvous", "198.51.100.2", "2001:db8:ffff::1")
        self.rendezvous = Rendezvous(self.net, host, control=None, name="meet.example")
        link = LinkSpec(delay=0.025)
        nats = [NAT(ALICE, ports=Ports.RANDOM, block_udp=True), NAT(BOB, ports=Ports.RANDOM)]
        homes = [
            self.net.lan("alice", "192.168.1.0/24", ipv6="2001:db8:1::/64", nat=nats[0], link=link),
            self.net.lan("bob", "192.168.2.0/24", nat=nats[1], link=link),
        ]
        address = self.rendezvous.address
        self.alice, self.bob = self.peers = [
            Peer(self.net, home.host(home.name), address, accept=Accept.ANYONE).register() for home in homes
        ]
        self.net.advance(5.0)

    def test_no_common_family(self) -> None:
        """The relay translates between the families until TCP over IPv4 is direct."""
        addresses = "198.51.100.2", "2001:db8:ffff::1"
        for caller, order in ((0, addresses), (1, addresses[::-1])):
            self.place_families(*order)
            began = self.call(caller)
            self.wait(lambda: self.over_tcp, began + TIME_FOR_CHECKS + 3.0 - self.net.now)
            self.stop()

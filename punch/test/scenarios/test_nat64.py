"""
Peers on networks that have IPv6 and a NAT64 alone (RFC 6146): they reach peers that have IPv4 alone, directly
where the two NATs allow it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network
from typing import Final

from punch.node.events import Connected
from punch.test.internet import Host, LinkSpec, Ports, Seen
from punch.test.scenarios.nat_pairs import nat
from punch.test.scenarios.relayed import EASY, HARD, RelayTestCase
from punch.test.system import SERVICE, Peer, Rendezvous, connect, introduce
from punch.wire.special_addresses import DISCOVERY_NAME, Prefix, is_clat, synthesized

WELL_KNOWN: Final = "64:ff9b::/96"
OWN: Final = "64:ff9b:1::/96"
"""One of the networks that mean nothing elsewhere (RFC 8215)."""


def form(network: str, host: str) -> str:
    """What stands for an IPv4 address behind a NAT64 with this prefix."""
    prefix = IPv6Network(network)
    return str(synthesized(Prefix(int(prefix.network_address), prefix.prefixlen), IPv4Address(host)))


class NAT64TestCase(RelayTestCase):
    """A rendezvous that has IPv4 alone."""

    def start_service(self, *, name: str = SERVICE) -> None:
        """Start the rendezvous; its address is written down, unless it has a name."""
        host = self.net.host("rendezvous", SERVICE)
        self.rendezvous = Rendezvous(self.net, host, control=None, name=name)

    def ipv6_home(
        self, name: str, kind: str = EASY, *, network: str = WELL_KNOWN, ports: Ports = Ports.RANDOM
    ) -> Host:
        """A host alone on a network of IPv6, with a NAT64 of some kind."""
        self.homes += 1
        router = nat(kind, f"203.0.113.{self.homes}")
        router.nat64, router.ports = IPv6Network(network), ports
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", form(network, "192.0.0.170")]
        lan = self.net.lan(name, ipv6=f"2001:db8:{self.homes}::/64", nat=router, link=self.link)
        return lan.host(name)

    def destinations(self, trace: list[Seen], host: str) -> set[str]:
        """Where a host has sent UDP."""
        return {seen.destination[0] for seen in trace if (seen.link, seen.protocol) == (f"{host} up", "udp")}

    def direct(self, alice: Peer, bob: Peer) -> tuple[str, str]:
        """Connect; the remote addresses of the direct path, at alice's side and at bob's."""
        introduce(alice, bob)
        self.net.advance(3.0)
        began = self.net.now
        connect(alice, bob, 5.0)

        def paths() -> list[str]:
            return [
                status.path.remote.host
                for one, other in ((alice, bob), (bob, alice))
                if (status := one.link_to(other).status) is not None and "relay" not in status.path.kind
            ]

        self.net.run_until(lambda: len(paths()) == 2, began + 5.0 - self.net.now, "a direct path")
        first, second = paths()
        return first, second


class DirectTests(NAT64TestCase):
    """Checks go to the peer's IPv4 addresses, in the form that the NAT64 translates."""

    def check(self, network: str, name: str = SERVICE, *left: str) -> None:
        """A call each way, to a peer that has IPv4 alone, behind an ordinary NAT."""
        self.start_service(name=name)
        if name != SERVICE:
            self.net.dns[name] = [SERVICE, form(network, SERVICE)]
        host = self.ipv6_home("alice", network=network)
        if left:
            # What is left of IPv4 leads nowhere
            self.net.drop = lambda packet: packet.source[0] in left
        alice = self.peer_at(host, *left)
        bob = self.peer(self.home("bob", EASY))
        trace: list[Seen] = []
        self.net.trace = trace
        self.assertEqual(self.direct(alice, bob), ("203.0.113.2", "203.0.113.1"))
        self.net.trace = None
        sent = self.destinations(trace, "alice")
        self.assertIn(form(network, "203.0.113.2"), sent)
        self.assertEqual({each for each in sent if not each.startswith("2001:db8:1:")}, self.allowed(network))
        self.chat(alice, bob, 3)
        bob.node.hangup(alice.id)
        self.net.advance(1.0)
        self.assertEqual(self.direct(bob, alice), ("203.0.113.1", "203.0.113.2"))
        self.chat(alice, bob, 3)

    def allowed(self, network: str) -> set[str]:
        """The rendezvous, and the one address of the peer that is on the internet."""
        return {form(network, SERVICE), form(network, "203.0.113.2")}

    def peer_at(self, host: Host, *left: str) -> Peer:
        """A registered peer, on a machine that has these addresses besides."""
        if left:
            subnet = left[0].rpartition(".")[0]
            lan = self.net.lan("left", f"{subnet}.0/29", isolated=True)
            host.attach(lan, left)
        return Peer(self.net, host, self.rendezvous.address).register()

    def test_an_address_that_was_written_down(self) -> None:
        self.check(WELL_KNOWN)

    def test_a_prefix_of_the_network(self) -> None:
        self.check(OWN)

    def test_a_name(self) -> None:
        """The network's name server has made an IPv6 address of it (DNS64)."""
        self.check(WELL_KNOWN, "meet.example")

    def test_a_dead_translator_of_the_machine(self) -> None:
        """It has an IPv4 address of 464XLAT, which leads nowhere."""
        self.check(WELL_KNOWN, SERVICE, "192.0.0.1")

    def test_a_network_that_leads_nowhere(self) -> None:
        """It has a private IPv4 address, from which the rendezvous was not reached."""
        self.check(WELL_KNOWN, SERVICE, "10.7.7.1")

    def test_two_of_them(self) -> None:
        """Both peers have IPv6 alone, where their networks do not reach each other by it."""
        self.start_service()
        alice, bob = (
            Peer(self.net, self.ipv6_home(name), self.rendezvous.address) for name in ("alice", "bob")
        )
        self.net.drop = lambda packet: (
            packet.protocol == "udp"
            and all(end[0].startswith("2001:db8:") for end in (packet.source, packet.destination))
        )
        for peer in (alice, bob):
            peer.register()
        self.assertEqual(self.direct(alice, bob), ("203.0.113.2", "203.0.113.1"))
        self.chat(alice, bob, 3)

    def test_prediction(self) -> None:
        """The NAT64 is observed as any NAT is: its ports are predicted."""
        self.start_service()
        host = self.ipv6_home("alice", HARD, ports=Ports.SEQUENTIAL)
        alice, bob = self.peer(host), self.peer(self.home("bob", EASY))
        self.assertEqual(self.direct(alice, bob), ("203.0.113.2", "203.0.113.1"))

    def test_what_is_signalled(self) -> None:
        """The address by translation stays with the machine, which nobody else could send to."""
        self.start_service()
        alice, bob = self.peer(self.ipv6_home("alice")), self.peer(self.home("bob", EASY))
        trace: list[Seen] = []
        self.net.trace = trace
        self.direct(alice, bob)
        ends = {end[0] for seen in trace for end in (seen.source, seen.destination)}
        self.assertEqual([host for host in ends if is_clat(host)], [])


class RelayTests(NAT64TestCase):
    """Where the NATs allow nothing else, the relay is reached through the NAT64."""

    def check(self, network: str, *, udp: bool = True) -> None:
        self.start_service()
        alice, bob = self.peer(self.ipv6_home("alice", HARD, network=network)), self.peer(self.home("bob"))
        trace: list[Seen] = []
        self.net.trace = trace
        connected, _ = connect(alice, bob)
        self.net.trace = None
        self.assertIn("relay", connected.path.kind)
        if udp:
            self.assertIn(form(network, SERVICE), self.destinations(trace, "alice"))
        self.chat(alice, bob, 3)

    def test_over_udp(self) -> None:
        self.check(WELL_KNOWN)

    def test_a_prefix_of_the_network(self) -> None:
        self.check(OWN)

    def test_without_udp(self) -> None:
        """It is reached over TCP or TLS, also at an address that was written down."""
        self.net.drop = lambda packet: packet.protocol == "udp" and ":" in packet.source[0]
        self.check(WELL_KNOWN, udp=False)


class MovingTests(NAT64TestCase):
    """A link moves on with a machine."""

    link = LinkSpec(delay=0.01)

    def test_into_another_network_and_home(self) -> None:
        """Another NAT64 has another prefix; at home there is IPv4."""
        self.start_service()
        host = self.ipv6_home("alice")
        alice, bob = self.peer(host), self.peer(self.home("bob", EASY))
        self.direct(alice, bob)
        link = alice.link_to(bob)
        # Which name server answers depends on the network
        self.ipv6_home("elsewhere", network=OWN)
        host.move(self.net.lans["elsewhere"])
        self.still_direct(alice, bob, "203.0.113.3")
        self.home("alice-home", EASY)
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", "192.0.0.171"]
        host.move(self.net.lans["alice-home"])
        self.still_direct(alice, bob, "203.0.113.4")
        self.assertIs(alice.link_to(bob), link)
        self.assertEqual(len(alice.of(Connected)), 1)

    def still_direct(self, alice: Peer, bob: Peer, public: str) -> None:
        """Messages get through, and the path becomes direct again."""
        self.chat(alice, bob, 2)

        def moved() -> bool:
            status = bob.link_to(alice).status
            return status is not None and status.path.remote.host == public

        self.net.run_until(moved, 60.0, f"a direct path to {public}")
        self.chat(alice, bob, 2)

"""Which NATs two peers can connect through: complete nodes on the simulated internet."""

from __future__ import annotations

import sys

from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    PathChanged,
)
from punch.test.internet import (
    NAT,
    Filtering,
    Firewall,
    Hairpin,
    Host,
    Internet,
    InternetTestCase,
    LinkSpec,
    Mapping,
)
from punch.test.scenarios.nat_pairs import KINDS, PLACES, nat
from punch.test.system import SERVICE, Peer, Rendezvous, connect

LINK = LinkSpec(delay=0.02)


def path_now(peer: Peer, other: Peer) -> str:
    """The kind of the path to `other`; empty if there is no link."""
    path = ""
    for _, event in peer.events:
        if isinstance(event, (Connected, PathChanged)) and event.peer == other.id:
            path = event.path.kind
        elif isinstance(event, (Disconnected, CallFailed)) and event.peer == other.id:
            path = ""
    return path


class TopologyTests(InternetTestCase):
    """Topologies other than one NAT in front of each peer."""

    def setUp(self) -> None:
        self.net: Internet = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))

    def home(
        self,
        name: str,
        number: int,
        mapping: Mapping = Mapping.EIM,
        filtering: Filtering = Filtering.APDF,
    ) -> Peer:
        """A registered peer alone behind a NAT."""
        nat = NAT(public=f"203.0.113.{number}", mapping=mapping, filtering=filtering)
        lan = self.net.lan(f"home-{name}", f"192.168.{number}.0/24", nat=nat, link=LINK)
        return Peer(self.net, lan.host(name), self.rendezvous.address, pacing=0.02).register()

    def peer(self, host: Host) -> Peer:
        """A registered peer on a host."""
        return Peer(self.net, host, self.rendezvous.address, pacing=0.02).register()

    def check(self, place: str, caller: Peer, callee: Peer) -> Connected | PathChanged:
        """Call, let five seconds pass, print the result, and compare it with the table."""
        expected = PLACES[place]
        connect(caller, callee)
        self.net.advance(5.0)
        sys.stdout.write(f"\n{place}: {path_now(caller, callee)}\n")
        for path in (path_now(caller, callee), path_now(callee, caller)):
            found = path if path in ("", "host", "relay") else "direct"
            self.assertEqual(found, expected, place)
        changes = caller.of(PathChanged)
        return changes[-1] if changes else caller.last(Connected)

    def test_same_nat_uses_the_lan(self) -> None:
        """
        Two peers behind one NAT connect by their host candidates, and nothing of the link leaves the LAN.
        """
        lan = self.net.lan("home", "192.168.1.0/24", nat=NAT(public="203.0.113.1"), link=LINK)
        alice, bob = self.peer(lan.host("alice")), self.peer(lan.host("bob"))
        here = self.check("same NAT", alice, bob)
        there = bob.last(Connected)
        self.assertEqual(here.path.local.host, alice.host.addresses[0])
        self.assertEqual(here.path.remote.host, bob.host.addresses[0])
        self.assertEqual((there.path.local, there.path.remote), (here.path.remote, here.path.local))

    def test_same_nat_without_hairpinning(self) -> None:
        """Two peers of one LAN connect by it, even if the NAT does not hairpin."""
        home = NAT(public="203.0.113.1", hairpin=Hairpin.NONE, mapping=Mapping.APDM)
        lan = self.net.lan("home", "192.168.1.0/24", nat=home, link=LINK)
        self.check("same NAT that does not hairpin", self.peer(lan.host("alice")), self.peer(lan.host("bob")))

    def carrier(self, hairpin: Hairpin) -> tuple[Peer, Peer]:
        """Two homes behind one carrier-grade NAT."""
        cgn = self.net.lan(
            "carrier", "100.64.0.0/16", nat=NAT(public="203.0.113.9", hairpin=hairpin), link=LINK
        )
        peers = []
        for number, name in enumerate(("alice", "bob"), 1):
            lan = self.net.lan(
                f"home-{name}",
                f"192.168.{number}.0/24",
                nat=NAT(public=f"100.64.1.{number}"),
                link=LINK,
                parent=cgn,
            )
            peers.append(self.peer(lan.host(name)))
        return peers[0], peers[1]

    def test_two_homes_behind_a_carrier_that_hairpins(self) -> None:
        """RFC 4787 §6, REQ-9: external source address and port."""
        alice, bob = self.carrier(Hairpin.EXTERNAL)
        here = self.check("two homes behind a carrier that hairpins", alice, bob)
        self.assertEqual(here.path.remote.host, "203.0.113.9")

    def test_two_homes_behind_a_carrier_that_does_not_hairpin(self) -> None:
        """If the carrier's NAT does not hairpin, two homes behind it connect through the relay."""
        self.check("two homes behind a carrier that does not hairpin", *self.carrier(Hairpin.NONE))

    def test_double_nat_and_single_nat(self) -> None:
        """Two endpoint-independent NATs in a row behave like one."""
        cgn = self.net.lan("carrier", "100.64.0.0/16", nat=NAT(public="203.0.113.9"), link=LINK)
        lan = self.net.lan("inner", "192.168.7.0/24", nat=NAT(public="100.64.1.1"), link=LINK, parent=cgn)
        self.check("double NAT to single NAT", self.peer(lan.host("alice")), self.home("bob", 2))

    def test_open_internet_with_every_nat(self) -> None:
        """A peer with a public address and no filter connects directly to peers behind NATs, both ways;
        `tests/simulation/test_simulated_grid.py` has all kinds of them."""
        server = self.peer(self.net.host("server", "198.51.100.77", link=LINK))
        for number, kind in enumerate(KINDS[::4], 1):
            lan = self.net.lan(
                kind, f"192.168.{number}.0/24", nat=nat(kind, f"203.0.113.{number}"), link=LINK
            )
            client = self.peer(lan.host(f"client-{number}"))
            caller, callee = (client, server) if number % 2 else (server, client)
            self.check("open internet to every NAT", caller, callee)

    def test_both_on_the_open_internet(self) -> None:
        """No NAT at all: host candidates."""
        hosts = [self.net.host(name, link=LINK) for name in ("alice", "bob")]
        self.check("open internet to open internet", self.peer(hosts[0]), self.peer(hosts[1]))

    def test_public_addresses_behind_firewalls(self) -> None:
        """Stateful firewalls filter as APDF does, and checks from both sides open them."""
        peers = []
        for number, name in enumerate(("alice", "bob"), 1):
            lan = self.net.lan(
                name, f"198.18.{number}.0/24", firewall=Firewall(filtering=Filtering.APDF), link=LINK
            )
            peers.append(self.peer(lan.host(name)))
        self.check("public addresses behind firewalls", peers[0], peers[1])

    def office(self, number: int) -> Peer:
        """A registered peer in a network that lets only TCP out."""
        nat = NAT(public=f"203.0.113.{number}", block_udp=True)
        lan = self.net.lan(f"office {number}", f"10.{number}.0.0/24", nat=nat, link=LINK)
        return self.peer(lan.host(f"worker-{number}"))

    def test_udp_blocked(self) -> None:
        """A peer whose network blocks UDP is reached over TCP."""
        self.check("UDP blocked to EIM/EIF", self.office(5), self.home("bob", 2, filtering=Filtering.EIF))

    def test_udp_blocked_on_both_sides(self) -> None:
        """If both networks block UDP, the path is over TCP, from one NAT to the other."""
        here = self.check("UDP blocked to UDP blocked", self.office(5), self.office(6))
        self.assertEqual(here.path.protocol, "tcp")
        self.assertEqual((here.path.local.host, here.path.remote.host), ("203.0.113.5", "203.0.113.6"))

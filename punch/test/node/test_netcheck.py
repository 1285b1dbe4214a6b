"""`punch netcheck` on the simulated internet: every kind of NAT is named, by the real service's probes."""

from __future__ import annotations

import re
from functools import partial
from ipaddress import IPv6Network
from itertools import product
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.internet.defer import succeed
from twisted.internet.protocol import Factory, Protocol

from punch.identity import Identity
from punch.natcheck.profile import ANY_FILTERING, ANY_MAPPING, Filtering
from punch.natcheck.report import (
    Direct,
    FamilyReport,
    NetcheckReport,
    Transport,
)
from punch.node.causes import ControlProblem
from punch.node.policies import RelayPolicy, SprayPolicy
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import AdmitPolicy, Membership
from punch.test.internet import (
    NAT,
    Firewall,
    Hairpin,
    InternetTestCase,
    LinkSpec,
)
from punch.test.internet import Filtering as F
from punch.test.internet import Mapping as M
from punch.test.internet import Ports as P
from punch.test.node.netcheck_network import SECOND, SERVICE, SERVICE6, NetcheckNetwork
from punch.test.scenarios.mapping_router import MappingRouter
from punch.test.system import Peer
from punch.ui.text.netcheck import text
from punch.wire.invitation import AdmissionRefusal
from punch.wire.peers.nat_profile import Mapping, PortAssignment
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.special_addresses import DISCOVERY_NAME

MAPPING = {
    M.EIM: Mapping.ENDPOINT_INDEPENDENT,
    M.ADM: Mapping.ADDRESS_DEPENDENT,
    M.APDM: Mapping.ADDRESS_AND_PORT_DEPENDENT,
}
FILTERING = {
    F.EIF: Filtering.ENDPOINT_INDEPENDENT,
    F.ADF: Filtering.ADDRESS_DEPENDENT,
    F.APDF: Filtering.ADDRESS_AND_PORT_DEPENDENT,
}
PORTS = {
    P.PRESERVING: PortAssignment.PRESERVING,
    P.SEQUENTIAL: PortAssignment.SEQUENTIAL,
    P.RANDOM: PortAssignment.RANDOM,
}
PAGE = Path(__file__).parents[3] / "docs" / "nat.md"


def ipv4(report: NetcheckReport) -> FamilyReport:
    """What is known of IPv4."""
    assert report.ipv4 is not None
    return report.ipv4


PORTAL = b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/login\r\n\r\n"


class Answering(Protocol):
    """A web server with one answer, or none."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if data.endswith(b"\r\n\r\n") and self._answer:
            self.transport.write(self._answer)


class ExampleTests(InternetTestCase):
    """The examples of docs/nat.md, but for times and the address of the rendezvous."""

    def shown(self, number: int) -> list[str]:
        """The lines of one of them."""
        if not PAGE.exists():
            raise SkipTest("only in the source tree")
        section = PAGE.read_text(encoding="utf-8").split("## What your network does")[1]
        return [self.usual(line) for line in section.split("```\n")[number * 2 + 1].splitlines() if line]

    def said(self, report: NetcheckReport) -> list[str]:
        """The lines of a report."""
        return [self.usual(line) for line in text(report).splitlines() if line]

    def usual(self, line: str) -> str:
        """A line without what differs from run to run."""
        return re.sub(r"punch://\S+", "punch://…", re.sub(r"[0-9]+\.[0-9] ms", "… ms", line))

    def report(self, mapping: M, ports: P, *, maps: bool) -> NetcheckReport:
        """The report of a host at home."""
        net = self.internet()
        network = NetcheckNetwork(net, alternates=(SECOND, SERVICE6), relay=True)
        nat = NAT("203.0.113.7", mapping, F.APDF, Hairpin.NONE, ports)
        lan = net.lan("home", "192.168.1.0/24", nat=nat, link=LinkSpec(delay=0.006))
        router = MappingRouter(lan, pcp=maps, nat_pmp=maps)
        host = lan.host("host")
        return network.run(host, gateways=lambda: router.gateways(host), upnp=lambda _: succeed(None))

    def test_home(self) -> None:
        """The usual network."""
        report = self.report(M.EIM, P.PRESERVING, maps=False)
        self.assertEqual(self.said(report), self.shown(0)[1:])

    def test_a_router_that_maps_ports(self) -> None:
        """In front of the strictest NAT."""
        report = self.report(M.APDM, P.RANDOM, maps=True)
        said = self.said(report)
        for line in self.shown(1):
            self.assertIn(line, said)

    def test_what_follows(self) -> None:
        """From ports in sequence, and from random ones."""
        sequential = text(self.report(M.APDM, P.SEQUENTIAL, maps=False))
        self.assertIn("To those whose ports are random, links stay on a relay.", sequential)
        random = text(self.report(M.APDM, P.RANDOM, maps=False))
        self.assertIn("few links are direct at once", random)

    def test_whom_everybody_reaches(self) -> None:
        """ICE is enough where nothing is filtered."""
        net = self.internet()
        network = NetcheckNetwork(net)
        said = text(network.run(net.host("host", "203.0.113.9")))
        self.assertIn("  techniques  ICE, whatever the other NAT does", said)


class RouterTests(InternetTestCase):
    """Routers that map ports, and others, in front of the strictest NAT."""

    def examine(
        self,
        external: str | None = None,
        result: int = 0,
        nat_pmp: bool = True,
        *,
        tcp: bool = True,
        block_udp: bool = False,
        filtering: F = F.APDF,
        firewall: Firewall | None = None,
        **services: Any,
    ) -> tuple[NetcheckReport, MappingRouter]:
        """
        Run netcheck behind a router that maps ports.

        :param firewall: what the router lets through, whatever is mapped.
        :param services: what the rendezvous has, as `NetcheckNetwork` takes it.
        """
        net = self.internet()
        network = NetcheckNetwork(net, **services)
        nat = NAT("203.0.113.7", M.APDM, filtering, Hairpin.NONE, P.RANDOM, block_udp=block_udp)
        lan = net.lan("home", "192.168.1.0/24", nat=nat, firewall=firewall)
        router = MappingRouter(lan, external=external, result=result, pcp=nat_pmp, nat_pmp=nat_pmp, tcp=tcp)
        host = lan.host("host")
        return network.run(host, gateways=lambda: router.gateways(host)), router

    def test_maps_ports(self) -> None:
        """Everybody can be reached directly, and the port is given back."""
        report, router = self.examine()
        self.assertTrue(ipv4(report).maps_ports)
        self.assertEqual((report.direct, report.certain), (Direct.ALL, True))
        expected = {
            "method": "pcp",
            "external_address": "203.0.113.7",
            "tcp": True,
            "upnp": False,
            "reached": True,
        }
        self.assertEqual(report.to_json()["ipv4"]["port_mapping"], expected)
        said = text(report)
        self.assertIn(
            "router      maps UDP and TCP ports (PCP): everybody reaches the UDP port, and should reach", said
        )
        self.assertIn("and probably over TCP to those whose network lets only that through", said)
        self.assertEqual((router.mapped, router.mapped_tcp), ({}, {}))
        self.assertGreater(len(router.asked), 1)

    def test_maps_udp_alone(self) -> None:
        """Nothing is promised for TCP."""
        report, _ = self.examine(tcp=False)
        self.assertIs(report.to_json()["ipv4"]["port_mapping"]["tcp"], False)
        said = text(report)
        self.assertIn("router      maps UDP ports alone (PCP): everybody reaches the UDP port\n", said)
        self.assertNotIn("over TCP to those", said)

    def test_nothing_arrives(self) -> None:
        """The router says that it has mapped the port, and a firewall lets in answers alone."""
        for alternates in ((SECOND,), ()):
            report, router = self.examine(firewall=Firewall(F.APDF), alternates=alternates)
            self.assertIs(report.to_json()["ipv4"]["port_mapping"]["reached"], False)
            self.assertEqual(report.direct, Direct.SOME)
            said = text(report)
            self.assertIn("maps UDP and TCP ports (PCP), but nothing arrives there: a firewall or", said)
            self.assertNotIn("over TCP to those", said)
            self.assertEqual((router.mapped, router.mapped_tcp), ({}, {}))

    def test_it_can_not_be_tried(self) -> None:
        """
        The rendezvous has no second port or address, or only a port that reaches all sockets, or the router
        sends from another port than the mapped one.
        """
        for options in (
            {"second": False, "alternates": ()},
            {"alternates": (), "filtering": F.ADF},
            {"external": "203.0.113.8"},
        ):
            report, _ = self.examine(**options)
            self.assertIsNone(report.to_json()["ipv4"]["port_mapping"]["reached"], options)
            self.assertNotIn("everybody reaches the UDP port", text(report))

    def test_a_second_port_is_enough(self) -> None:
        """If nothing from there reaches other sockets, what reaches the mapped port shows that it is open."""
        report, _ = self.examine(alternates=())
        self.assertIs(report.to_json()["ipv4"]["port_mapping"]["reached"], True)

    def test_no_udp(self) -> None:
        """The router maps TCP ports where no UDP gets out: others can connect there."""
        for external, promised in (("203.0.113.7", True), ("192.168.0.2", False)):
            report, _ = self.examine(external=external, block_udp=True)
            said = text(report)
            self.assertEqual("where the other network lets that through" in said, promised)
            self.assertEqual("maps UDP and TCP ports (PCP): everybody should reach them" in said, promised)
            self.assertNotIn("does not see", said)

    def test_elsewhere(self) -> None:
        """What the rendezvous does not see promises nothing."""
        report, _ = self.examine(external="192.168.0.2")
        self.assertEqual(report.direct, Direct.SOME)
        said = text(report)
        self.assertIn("maps UDP and TCP ports (PCP) at 192.168.0.2, which the rendezvous does not see", said)
        self.assertIn("so there is another NAT beyond", said)

    def test_maps_none(self) -> None:
        """It refuses, or does not answer."""
        for options in ({"result": 2}, {"nat_pmp": False}):
            report, router = self.examine(**options)
            self.assertEqual(report.direct, Direct.SOME)
            expected = {
                "method": None,
                "external_address": None,
                "tcp": False,
                "upnp": False,
                "reached": None,
            }
            self.assertEqual(report.to_json()["ipv4"]["port_mapping"], expected)
            self.assertIn("router      maps no ports by PCP or NAT-PMP; to ask by UPnP: ", text(report))
            self.assertGreater(len(router.asked), 1)

    def test_policies(self) -> None:
        """With `--relay only`, the router is asked nothing; nothing is said that is switched off."""
        for options, asked, named in (
            ({"spray": SprayPolicy.NEVER}, True, {"relay"}),
            ({"relay": RelayPolicy.NEVER}, True, {None}),
            ({"relay": RelayPolicy.ONLY}, False, {"relay"}),
        ):
            net = self.internet()
            network = NetcheckNetwork(net)
            lan = net.lan("home", "192.168.1.0/24", nat=NAT("203.0.113.7", M.APDM, F.APDF, ports=P.RANDOM))
            router = MappingRouter(lan, result=2)
            host = lan.host("host")
            gateways = partial(router.gateways, host)
            report = network.run(host, gateways=gateways, upnp=lambda _: succeed(None), **options)
            self.assertEqual(bool(router.asked or router.searches), asked, options)
            found = report.to_json()["ipv4"]
            self.assertEqual(found["port_mapping"] is not None, asked)
            techniques = {other: each for other, each in found["techniques"].items() if other != "unknown"}
            self.assertEqual(set(techniques.values()), named)


class LittleHelpTests(InternetTestCase):
    """Services that have less than all: what they can't tell is unknown, never wrong."""

    def nats(self, second: bool, alternates: tuple[str, ...]) -> list[tuple[NAT, FamilyReport]]:
        net = self.internet()
        network = NetcheckNetwork(net, second=second, alternates=alternates)
        found = []
        for number, (mapping, filtering) in enumerate(product(M, F)):
            nat = NAT(f"203.0.{number}.1", mapping, filtering)
            lan = net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat)
            found.append((nat, ipv4(network.run(lan.host(f"host {number}")))))
        return found

    def test_one_address(self) -> None:
        """A second port shows what depends on ports; what depends on addresses stays unknown."""
        for nat, family in self.nats(True, ()):
            by_port = nat.mapping is M.APDM
            known = {MAPPING[nat.mapping]} if by_port else ANY_MAPPING - {Mapping.ADDRESS_AND_PORT_DEPENDENT}
            self.assertEqual(family.mapping, known, nat)
            by_port = nat.filtering is F.APDF
            known_filtering = (
                {FILTERING[nat.filtering]}
                if by_port
                else ANY_FILTERING - {Filtering.ADDRESS_AND_PORT_DEPENDENT}
            )
            self.assertEqual(family.filtering, known_filtering, nat)
            self.assertEqual(family.to_json()["mapping"] == "unknown", nat.mapping is not M.APDM)

    def test_one_address_and_port(self) -> None:
        """A plain STUN server tells the public address and how ports are chosen."""
        for nat, family in self.nats(False, ()):
            self.assertEqual((family.mapping, family.filtering), (ANY_MAPPING, ANY_FILTERING), nat)
            self.assertEqual(
                (family.public_addresses, family.ports), ((nat.public,), PortAssignment.PRESERVING)
            )
            self.assertFalse(family.certain)

    def test_two_addresses_with_one_port(self) -> None:
        """The other address shows whether mappings are endpoint-independent."""
        for nat, family in self.nats(False, (SECOND,)):
            independent = Mapping.ENDPOINT_INDEPENDENT
            known = {independent} if nat.mapping is M.EIM else ANY_MAPPING - {independent}
            self.assertEqual((family.mapping, family.filtering), (known, ANY_FILTERING), nat)

    def test_a_firewall_before_the_second_port(self) -> None:
        """Silence from a port that never answers means nothing: neither mapping nor filtering is guessed."""
        net = self.internet()
        network = NetcheckNetwork(net, alternates=())
        net.drop = lambda packet: (
            packet.protocol == "udp"
            and 3479
            in (
                packet.source[1],
                packet.destination[1],
            )
        )
        family = ipv4(network.run(net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1")).host("alice")))
        self.assertEqual((family.mapping, family.filtering), (ANY_MAPPING, ANY_FILTERING))

    def test_a_service_that_is_off(self) -> None:
        """If nothing answers at all, there still is a report."""
        net = self.internet()
        network = NetcheckNetwork(net)
        network.host.detach(net.public)
        report = network.run(net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1")).host("alice"))
        self.assertEqual((report.udp, report.direct), (None, Direct.UNKNOWN))
        self.assertEqual(set(report.transports.values()), {None, False})
        self.assertIsNotNone(report.problem)


class PlaceTests(InternetTestCase):
    """Other networks than a home behind a NAT."""

    def setUp(self) -> None:
        self.net = self.internet()

    def test_no_nat(self) -> None:
        """A public address that anybody reaches."""
        network = NetcheckNetwork(self.net)
        report = network.run(self.net.host("alice", "203.0.113.1"))
        family = ipv4(report)
        self.assertEqual((family.udp, family.translated), (True, False))
        self.assertEqual(family.public_addresses, ("203.0.113.1",))
        self.assertEqual(family.filtering, {Filtering.ENDPOINT_INDEPENDENT})
        self.assertEqual((family.mapping, family.hairpinning, family.ports), (frozenset(), None, None))
        self.assertEqual(report.direct, Direct.ALL)

    def test_firewalls(self) -> None:
        """Public addresses behind a stateful filter, of each kind."""
        network = NetcheckNetwork(self.net)
        for number, filtering in enumerate(F):
            lan = self.net.lan(f"lan {number}", f"203.0.{number}.0/24", firewall=Firewall(filtering))
            family = ipv4(network.run(lan.host(f"host {number}")))
            self.assertFalse(family.translated)
            self.assertEqual(family.filtering, {FILTERING[filtering]})

    def test_ipv6(self) -> None:
        """Both families are told apart, each with its own behaviour."""
        network = NetcheckNetwork(self.net, alternates=())
        self.net.dns["rendezvous.example"] = [SERVICE, SERVICE6]
        address = RendezvousAddress("rendezvous.example", 7001, network.address.pin)
        lan = self.net.lan(
            "home",
            "10.0.0.0/24",
            ipv6="2001:db8:7::/64",
            nat=NAT("203.0.113.1", M.APDM, F.APDF, ports=P.RANDOM),
            firewall=Firewall(F.APDF),
        )
        report = network.run(lan.host("alice"), rendezvous=address)
        self.assertEqual(ipv4(report).mapping, {Mapping.ADDRESS_AND_PORT_DEPENDENT})
        assert report.ipv6 is not None
        self.assertEqual((report.ipv6.udp, report.ipv6.translated), (True, False))
        self.assertEqual(report.ipv6.filtering, {Filtering.ADDRESS_AND_PORT_DEPENDENT})
        self.assertTrue(report.ipv6.public_addresses[0].startswith("2001:db8:7:"))
        self.assertEqual(report.direct, Direct.SOME)

    def test_no_ipv6_here(self) -> None:
        """A machine without it has none, and says so."""
        network = NetcheckNetwork(self.net, alternates=())
        self.net.dns["rendezvous.example"] = [SERVICE, SERVICE6]
        address = RendezvousAddress("rendezvous.example", 7001, network.address.pin)
        lan = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1"))
        report = network.run(lan.host("alice"), rendezvous=address)
        self.assertEqual(report.ipv6, FamilyReport())

    def test_double_nat(self) -> None:
        """Two NATs look like one that has the stricter of both's behaviours."""
        network = NetcheckNetwork(self.net)
        for number, (inner, outer, ports) in enumerate(
            (
                ((M.EIM, F.APDF), (M.EIM, F.EIF), P.PRESERVING),
                ((M.EIM, F.EIF), (M.APDM, F.ADF), P.RANDOM),
                ((M.ADM, F.ADF), (M.EIM, F.APDF), P.SEQUENTIAL),
            )
        ):
            carrier = self.net.lan(
                f"carrier {number}",
                f"100.64.{number}.0/24",
                nat=NAT(f"203.0.{number}.1", *outer, ports=ports),
            )
            home = self.net.lan(
                f"home {number}",
                f"192.168.{number}.0/24",
                nat=NAT(None, *inner, ports=P.PRESERVING),
                parent=carrier,
            )
            family = ipv4(network.run(home.host(f"host {number}")))
            mapping = max(inner[0], outer[0], key=list(M).index)
            filtering = max(inner[1], outer[1], key=list(F).index)
            self.assertEqual(family.mapping, {MAPPING[mapping]})
            self.assertEqual(family.filtering, {FILTERING[filtering]})
            self.assertEqual(family.ports, PORTS[ports])
            self.assertEqual(family.public_addresses, (f"203.0.{number}.1",))

    def test_udp_blocked(self) -> None:
        """If UDP is blocked, the control channel and the relay over TCP work."""
        network = NetcheckNetwork(self.net, alternates=(), relay=True)
        lan = self.net.lan("office", "10.0.0.0/24", nat=NAT("203.0.113.1", block_udp=True))
        report = network.run(lan.host("alice"))
        self.assertEqual((report.udp, report.direct), (False, Direct.NONE))
        self.assertEqual(
            report.transports,
            {
                Transport.UDP: False,
                Transport.CONTROL: True,
                Transport.TURN_UDP: False,
                Transport.TURN_TCP: True,
                Transport.TURN_TLS: True,
            },
        )

    def test_relay(self) -> None:
        """All its transports are tried, and nothing is left at the relay."""
        network = NetcheckNetwork(self.net, alternates=(), relay=True)
        lan = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1"))
        report = network.run(lan.host("alice"))
        self.assertEqual(set(report.transports.values()), {True})
        before = len(network.host.reactor.open_ports)
        self.net.advance(5.0)
        self.assertEqual(len(network.host.reactor.open_ports), before)

    def test_relay_through_nat64(self) -> None:
        """TCP and TLS over IPv6 alone, at a rendezvous that is given as an IPv4 address."""
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", "64:ff9b::c000:aa"]
        network = NetcheckNetwork(self.net, alternates=(), relay=True, through=("64:ff9b::c633:6401",))
        transports = network.run(self.net.host("alice", "2001:db8:6::2")).transports
        self.assertEqual((transports[Transport.TURN_TCP], transports[Transport.TURN_TLS]), (True, True))

    def test_nat64(self) -> None:
        """The NAT64 is measured as a NAT is, at all addresses and ports of the rendezvous."""
        self.net.dns[DISCOVERY_NAME] = ["192.0.0.170", "64:ff9b::c000:aa"]
        network = NetcheckNetwork(self.net, relay=True)
        for number, (mapping, expected) in enumerate(MAPPING.items(), 1):
            nat = NAT(f"203.0.113.{number}", mapping=mapping, nat64=IPv6Network("64:ff9b::/96"))
            lan = self.net.lan(f"home {number}", ipv6=f"2001:db8:{60 + number}::/64", nat=nat)
            report = network.run(lan.host(f"alice {number}"))
            family = ipv4(report)
            self.assertEqual((family.mapping, family.public_addresses), ({expected}, (nat.public,)))
            self.assertTrue(family.nat64)
            self.assertIsNotNone(family.profile)
            self.assertIsNone(report.ipv6)
            self.assertEqual(set(report.transports.values()), {True})
            self.assertNotIn("192.0.0.", text(report))

    def test_a_slow_name_server(self) -> None:
        """The prefix of a NAT64 is not waited for, nor are experiments begun a second time by its answer."""
        network = NetcheckNetwork(self.net, alternates=(SERVICE6,))
        address = RendezvousAddress(SERVICE6, 7001, network.address.pin)
        host = self.net.host("alice", "2001:db8:6::2")
        self.net.dns_delay = 15.0
        began = self.net.now
        report = self.net.wait(network.begin(host, rendezvous=address), 10.0, "a report in time")
        self.assertLess(self.net.now - began, 10.0)
        self.net.advance(20.0)
        self.assertEqual(host.reactor.open_ports, [])
        self.assertEqual(report.direct, Direct.SOME)
        assert report.ipv6 is not None
        self.assertTrue(report.ipv6.udp)

    def test_a_rendezvous_next_door(self) -> None:
        """What holds for a rendezvous on this machine or in a private network may not hold elsewhere."""
        network = NetcheckNetwork(self.net)
        report = self.net.wait(network.begin(network.host), 30.0, "a report")
        self.assertTrue(ipv4(report).near)
        self.assertEqual(report.direct, Direct.UNKNOWN)
        report = network.run(self.net.host("printer", "10.0.0.7"))
        self.assertTrue(ipv4(report).near)
        report = network.run(self.net.host("alice", "203.0.113.1"))
        self.assertFalse(ipv4(report).near)

    def test_many_interfaces(self) -> None:
        """Interfaces that lead nowhere are passed over, also if they come first."""
        network = NetcheckNetwork(self.net)
        nowhere = self.net.lan("docker", "172.17.0.0/16", isolated=True)
        host = nowhere.host("alice")
        home = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1"))
        host.attach(home)
        family = ipv4(network.run(host))
        self.assertEqual(family.local_addresses[0], host.addresses[1])
        self.assertEqual(family.mapping, {Mapping.ENDPOINT_INDEPENDENT})

    def test_latency(self) -> None:
        """The round-trip times to the reflector and over the control channel are in seconds."""
        network = NetcheckNetwork(self.net)
        link = LinkSpec(delay=0.03)
        lan = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1"), link=link)
        report = network.run(lan.host("alice"))
        self.assertAlmostEqual(ipv4(report).latency or 0.0, 0.06, delta=0.005)
        self.assertAlmostEqual(report.control_latency or 0.0, 0.06, delta=0.01)

    def test_a_running_peer_keeps_its_registration(self) -> None:
        """Netcheck registers as somebody else each time, and leaves."""
        network = NetcheckNetwork(self.net)
        host = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1")).host("alice")
        network.run(host)
        network.run(host)
        self.assertEqual(network.reports, ["listening", "registered", "gone", "registered", "gone"])

    def test_where_only_members_may_register(self) -> None:
        """A member finds out all; somebody else is told whom to ask."""
        member = Identity.generate(lambda size: bytes([1]) * size)
        store = MemberDatabase(None)
        self.addCleanup(store.close)
        membership = Membership(
            AdmitPolicy.LISTED, store, service=bytes(4), listed=frozenset([member.peer_id]), contact="Ann"
        )
        net = self.internet()
        service = NetcheckNetwork(net, membership=membership)
        host = net.host("host", "192.0.2.1")
        report = service.run(host, member=member)
        self.assertIsNone(report.problem)
        self.assertTrue(report.udp)
        peer = Peer(net, net.host("peer", "192.0.2.2"), service.address, identity=member).register()
        self.assertIsNone(net.wait(peer.node.netcheck(), 30.0, "a report of a node").problem)
        for other in (Identity.generate(lambda size: bytes([2]) * size), None):
            problem = service.run(host, member=other).problem
            assert isinstance(problem, ControlProblem)
            self.assertEqual((problem.refusal, problem.contact), (AdmissionRefusal.NOT_LISTED, "Ann"))

    def test_captive_portal(self) -> None:
        """Something answers web requests in place of the rendezvous. A silent one is not waited for."""
        for answer, expected in ((PORTAL, True), (b"", None), (b"HTTP/1.1 200 OK\r\n\r\n", None)):
            net = self.internet()
            hotel = net.host("hotel", "198.51.100.77")
            factory: Any = Factory.forProtocol(partial(Answering, answer))
            hotel.reactor.listenTCP(80, factory, interface="198.51.100.77")
            network = NetcheckNetwork(net, alternates=())
            elsewhere = RendezvousAddress("198.51.100.77", 7999, network.address.pin)
            report = network.run(net.host("alice", "203.0.113.9"), rendezvous=elsewhere)
            self.assertIs(report.captive_portal, expected)
            self.assertEqual("captive portal" in text(report), bool(expected))
        self.assertIs(network.run(net.host("bob", "203.0.113.10")).captive_portal, False)

    def test_captive_portal_at_an_address(self) -> None:
        """The rendezvous is given as an address, and the answer leads to a name: whose that is, tells."""
        for addresses, expected in (
            (["10.0.0.1"], True),
            (["198.51.100.77"], None),
            (["10.0.0.1", "198.51.100.77"], None),
            ([], None),
        ):
            net = self.internet()
            net.dns["login.hotel.example"] = addresses
            hotel = net.host("hotel", "198.51.100.77")
            answer = PORTAL.replace(b"10.0.0.1", b"login.hotel.example")
            factory: Any = Factory.forProtocol(partial(Answering, answer))
            hotel.reactor.listenTCP(80, factory, interface="198.51.100.77")
            network = NetcheckNetwork(net, alternates=())
            elsewhere = RendezvousAddress("198.51.100.77", 7999, network.address.pin)
            report = network.run(net.host("alice", "203.0.113.9"), rendezvous=elsewhere)
            self.assertIs(report.captive_portal, expected, addresses)

    def test_service_gone(self) -> None:
        """Without the control channel there are no probes, but UDP is examined."""
        network = NetcheckNetwork(self.net, alternates=())
        address = network.address
        elsewhere = RendezvousAddress(address.host, 7999, address.pin)
        lan = self.net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1"))
        report = network.run(lan.host("alice"), rendezvous=elsewhere)
        assert isinstance(report.problem, ControlProblem)
        self.assertEqual(report.problem.address.port, 7999)
        self.assertEqual(report.transports[Transport.CONTROL], False)
        self.assertEqual(report.transports[Transport.UDP], True)
        self.assertEqual(ipv4(report).filtering, ANY_FILTERING)


class LifetimeTests(InternetTestCase):
    """How long mappings live."""

    def test_nats(self) -> None:
        """Found to the second where there is time for two rounds; less exactly where there is for one."""
        net = self.internet()
        network = NetcheckNetwork(net)
        for number, (timeout, budget, width) in enumerate(
            ((15.0, 90.0, 4.0), (30.0, 180.0, 4.0), (65.0, 100.0, 40.0), (120.0, 300.0, 10.0))
        ):
            nat = NAT(f"203.0.{number}.1", timeout=timeout)
            host = net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat).host(f"host {number}")
            began = net.now
            lifetime = ipv4(network.run(host, lifetime=budget)).lifetime
            assert lifetime is not None
            assert lifetime.below is not None
            self.assertLess(lifetime.at_least, timeout)
            self.assertLess(timeout, lifetime.below)
            self.assertLess(lifetime.below - lifetime.at_least, width)
            self.assertLess(net.now - began, budget + 10.0)

    def test_longer_than_there_is_time(self) -> None:
        """If a mapping lives longer than there is time, only a lower bound is reported."""
        net = self.internet()
        network = NetcheckNetwork(net, alternates=())
        host = net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1", timeout=300.0)).host("alice")
        lifetime = ipv4(network.run(host, lifetime=60.0)).lifetime
        assert lifetime is not None
        self.assertIsNone(lifetime.below)
        self.assertGreater(lifetime.at_least, 50.0)

    def test_very_short(self) -> None:
        """Shorter than the first sample."""
        net = self.internet()
        network = NetcheckNetwork(net, alternates=())
        host = net.lan("home", "10.0.0.0/24", nat=NAT("203.0.113.1", timeout=4.0)).host("alice")
        lifetime = ipv4(network.run(host, lifetime=60.0)).lifetime
        assert lifetime is not None
        assert lifetime.below is not None
        self.assertLess(lifetime.at_least, 4.0)
        self.assertLess(4.0, lifetime.below)

    def test_firewall(self) -> None:
        """A filter forgets, too; where there is none, there is nothing to measure."""
        net = self.internet()
        network = NetcheckNetwork(net)
        walled = net.lan("walled", "203.0.113.0/24", firewall=Firewall(F.APDF, timeout=20.0)).host("alice")
        lifetime = ipv4(network.run(walled, lifetime=60.0)).lifetime
        assert lifetime is not None
        assert lifetime.below is not None
        self.assertTrue(lifetime.at_least < 20.0 < lifetime.below)
        self.assertIsNone(ipv4(network.run(net.host("bob", "203.0.114.1"), lifetime=60.0)).lifetime)

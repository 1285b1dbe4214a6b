"""Links through ports that routers map, on the simulated internet."""

from __future__ import annotations

from punch.ice.port_lease import MappingProtocol
from punch.net.upnp import Upnp
from punch.node.events import Connected
from punch.node.policies import RelayPolicy
from punch.test.internet import InternetTestCase, Lan, LinkSpec, Seen
from punch.test.internet.packet import Packet
from punch.test.scenarios.mapping_router import MappingRouter
from punch.test.scenarios.nat_pairs import nat
from punch.test.system import SERVICE, Peer, Rendezvous, introduce
from punch.wire.address import Address

HARD = "APDM/APDF"
"""The strictest NAT: two of them have no direct path by themselves."""


def _method(packet: Seen) -> MappingProtocol:
    """The protocol of a request to a router: that of the port, or of the version in the first byte."""
    if packet.destination[1] == 1900:
        return MappingProtocol.UPNP
    return {2: MappingProtocol.PCP, 0: MappingProtocol.NAT_PMP}[packet.payload[0]]


class PortMappingCase(InternetTestCase):
    """Two peers, each behind the strictest NAT."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.homes = 0

    def lan(self, name: str, parent: Lan | None = None) -> Lan:
        self.homes += 1
        router = nat(HARD, f"203.0.113.{self.homes}" if parent is None else f"10.9.0.{self.homes}")
        make = self.net.lan if parent is None else parent.lan
        return make(name, f"192.168.{self.homes}.0/24", nat=router, link=LinkSpec(delay=0.02))

    def peer(
        self,
        lan: Lan,
        router: MappingRouter | None = None,
        relay: RelayPolicy = RelayPolicy.AUTO,
        upnp: Upnp | None = None,
    ) -> Peer:
        host = lan.host(f"peer of {lan.name}")
        gateways = None if router is None else lambda: router.gateways(host)
        peer = Peer(self.net, host, self.rendezvous.address, relay=relay, gateways=gateways, upnp=upnp)
        return peer.register()

    def kind(self, peer: Peer) -> str:
        """The kind of the path that its only link has."""
        (link,) = peer.node.status.links
        return link.status.path.kind

    def call(self, caller: Peer, callee: Peer) -> tuple[str, str]:
        """The kinds of the path that a call finds, two seconds later."""
        introduce(caller, callee)
        caller.call(callee.id)
        caller.wait_for(Connected, 10.0)
        self.net.advance(2.0)
        return self.kind(caller), self.kind(callee)


class PortMappingTests(PortMappingCase):
    """With and without a router that maps ports."""

    def test_a_mapped_port_makes_the_link_direct(self) -> None:
        """One side has a router with PCP. Its port is mapped at registration, and given back at the end."""
        lan = self.lan("alice")
        router = MappingRouter(lan)
        alice, bob = self.peer(lan, router), self.peer(self.lan("bob"))
        self.net.advance(1.0)
        (internal,) = router.mapped
        (mapping,) = alice.node.status.port_mappings
        self.assertEqual((mapping.base, mapping.base.port), (alice.node.status.sockets[0], internal))
        before = len(router.asked)
        self.assertNotIn("relay", self.call(bob, alice))
        self.net.advance(60.0)
        self.assertEqual(len(router.asked), before)
        alice.stop()
        self.net.advance(1.0)
        self.assertEqual(router.mapped, {})
        self.assertEqual(alice.host.reactor.open_ports, [])

    def test_given_back_in_spite_of_a_loss(self) -> None:
        """The first request to delete a mapping is lost, of PCP and of NAT-PMP."""
        for number, pcp in enumerate((True, False)):
            lan = self.lan(f"alice {number}")
            router = MappingRouter(lan, pcp=pcp)
            alice = self.peer(lan, router)
            self.net.advance(5.0)
            self.assertEqual(len(router.mapped), 1)
            lost: list[Packet] = []

            def lose(packet: Packet, lost: list[Packet] = lost) -> bool:
                if packet.destination[1] == 5351 and not lost:
                    lost.append(packet)
                    return True
                return False

            self.net.drop = lose
            alice.stop()
            self.net.advance(1.0)
            self.net.drop = None
            self.assertEqual((len(lost), router.mapped), (1, {}))
            self.assertEqual(alice.host.reactor.open_ports, [])

    def test_a_port_that_upnp_maps(self) -> None:
        """A router with UPnP alone, and mappings without lifetime. The port is given back at the end."""
        lan = self.lan("alice")
        router = MappingRouter(lan, pcp=False, nat_pmp=False)
        alice, bob = self.peer(lan, router, upnp=router.upnp), self.peer(self.lan("bob"))
        self.net.advance(1.0)
        self.assertEqual([each.method.value for each in alice.node.status.port_mappings], ["upnp"])
        self.assertNotIn("relay", self.call(bob, alice))
        self.assertEqual(len(router.mapped), 1)
        alice.stop()
        self.assertEqual(router.mapped, {})

    def test_requests_are_counted(self) -> None:
        """What a router is sent, by protocol; what UPnP sends over TCP is known as requests only."""
        for number, others in enumerate((True, False)):
            lan = self.lan(f"alice {number}")
            router = MappingRouter(lan, pcp=others, nat_pmp=others)
            seen: list[Seen] = []
            self.net.trace = seen
            alice = self.peer(lan, router, upnp=router.upnp)
            self.net.advance(5.0)
            said = alice.node.status.port_mapping_requests
            self.assertEqual(set(said), {*MappingProtocol})
            for method, each in said.items():
                sizes = [
                    packet.size
                    for packet in seen
                    if packet.link == f"{alice.host.name} up" and packet.destination[1] in (5351, 1900)
                    if _method(packet) is method
                ]
                self.assertEqual((each.packets, each.bytes), (len(sizes), sum(sizes)), method)
            asked = len(router.asked_by_upnp)
            self.assertEqual([each.requests for each in said.values()], [0, 0, asked])
            self.assertEqual(asked > 0, not others)
            alice.stop()

    def test_routers_that_do_not_know_their_address(self) -> None:
        """The port is right, and the reflector knows the rest. With NAT-PMP only."""
        for wrong in ("127.0.0.1", "203.0.113.99"):
            lan = self.lan(f"alice {wrong}")
            router = MappingRouter(lan, pcp=False, external=wrong)
            alice, bob = self.peer(lan, router), self.peer(self.lan(f"bob {wrong}"))
            self.assertNotIn("relay", self.call(alice, bob), wrong)

    def test_a_port_that_another_program_has(self) -> None:
        """The router gives another one, at which the link is direct."""
        lan = self.lan("alice")
        router = MappingRouter(lan)
        router.taken = set(range(64_000))
        alice, bob = self.peer(lan, router), self.peer(self.lan("bob"))
        self.net.advance(1.0)
        self.assertEqual([each.external.port for each in alice.node.status.port_mappings], [64_000])
        self.assertNotIn("relay", self.call(bob, alice))
        (link,) = bob.node.status.links
        self.assertEqual(link.status.path.remote, Address("203.0.113.1", 64_000))

    def test_two_homes_behind_a_carrier(self) -> None:
        """The carrier's NAT maps no ports: strangers need the relay, and its other customers do not."""
        carrier = self.net.lan("carrier", "10.9.0.0/24", nat=nat(HARD, "203.0.113.200"))
        lans = [self.lan(name, carrier) for name in ("alice", "bob")]
        alice, bob = (self.peer(lan, MappingRouter(lan)) for lan in lans)
        carol = self.peer(self.lan("carol"))
        self.assertEqual(self.call(alice, carol), ("relay", "relay"))
        carol.stop()
        self.net.advance(1.0)
        self.assertNotIn("relay", self.call(alice, bob))

    def test_a_slow_router_and_its_restart(self) -> None:
        """The mapping follows while the link is up already, and again when the router has restarted."""
        lan = self.lan("alice")
        router = MappingRouter(lan, delay=1.2)
        bob = self.peer(self.lan("bob"))
        alice = self.peer(lan, router)
        self.assertNotIn("relay", self.call(alice, bob))
        self.assertEqual(alice.of(Connected)[0].path.kind, "relay")
        self.net.advance(60.0)
        router.restart()
        router.taken = set(range(1024, 60000))
        router.delay = 0.0
        alice.chat.send(bob.id, "still here?")
        self.net.run_until(lambda: bob.texts() == ["still here?"], 10.0, "the message")
        self.net.advance(10.0)
        self.assertNotIn("relay", (self.kind(alice), self.kind(bob)))
        self.assertEqual(list(router.mapped.values()), [60000])

    def test_not_asked(self) -> None:
        """With `--port-mapping never`, and where no address may be shown, the router gets no datagram."""
        lans = [self.lan(name) for name in ("alice", "bob")]
        routers = [MappingRouter(lan) for lan in lans]
        alice, bob = self.peer(lans[0]), self.peer(lans[1], routers[1], RelayPolicy.ONLY)
        self.assertEqual(self.call(alice, bob), ("relay", "relay"))
        self.assertEqual([router.asked for router in routers], [[], []])

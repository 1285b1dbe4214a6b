"""Direct paths over TCP to a port that a router maps, where one side passes no UDP."""

from __future__ import annotations

from typing import Any

from punch.ice.budget import MAX_CONNECTS
from punch.ice.port_lease import MappingProtocol
from punch.ice.port_mapper import MAX_TCP_PORTS
from punch.test.internet import NAT, Filtering, LinkSpec, Mapping, Ports, Unsolicited
from punch.test.scenarios.mapping_router import MappingRouter
from punch.test.scenarios.tcp_punching import ALICE, BOB, WITHIN, TCPTestCase, no_udp


def hard(**options: Any) -> NAT:
    """The strictest NAT: another random port for each destination, also of TCP."""
    return NAT(ports=Ports.RANDOM, mapping=Mapping.APDM, **options)


class DirectTests(TCPTestCase):
    """The path is direct, and nothing stays mapped when the link is over."""

    def check(self, right: NAT, caller: int = 0, **options: Any) -> None:
        """
        The path is direct 5 s after the call and carries data. Its port is mapped for as long as it is used,
        and no other one of TCP is.
        """
        self.place(right, **options)
        self.assertEqual([router.mapped_tcp for router in self.routers.values()], [{}] * len(self.routers))
        began = self.call(caller)
        self.wait(lambda: self.over_tcp, began + WITHIN - self.net.now)
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
        self.net.advance(began + 25.0 - self.net.now)
        self.assertTrue(self.over_tcp)
        self.alice.chat.send(self.bob.id, "over TCP")
        self.wait(lambda: self.bob.messages, 1.0)
        for peer in self.peers:
            self.assertEqual(self.listening(peer), [])
            router, mappings = self.routers.get(peer.name), peer.node.status.port_mappings
            tcp = [each for each in mappings if each.base.protocol == "tcp"]
            if router is not None:
                self.assertEqual({each.base.port for each in tcp}, set(router.mapped_tcp))
                self.assertLessEqual(len(tcp), 1)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(3.0)
        self.assertEqual([router.mapped_tcp for router in self.routers.values()], [{}] * len(self.routers))
        self.stop()

    def test_any_nat_with_a_router_that_maps(self) -> None:
        """Bob's NAT is of any kind, even one that has another random port for each destination."""
        for mapping, filtering in (
            (Mapping.EIM, Filtering.EIF),
            (Mapping.ADM, Filtering.ADF),
            (Mapping.APDM, Filtering.APDF),
        ):
            self.check(NAT(ports=Ports.RANDOM, mapping=mapping, filtering=filtering), routers={"bob": {}})

    def test_the_side_without_udp(self) -> None:
        """Her router has the daemon; his NAT is the strictest."""
        for caller in (0, 1):
            self.check(hard(), caller, routers={"alice": {}})

    def test_no_udp_on_both_sides(self) -> None:
        """Both have the strictest NAT, and one a daemon."""
        self.check(hard(block_udp=True), left=hard(block_udp=True), routers={"bob": {}})

    def test_by_each_protocol(self) -> None:
        """NAT-PMP alone, and UPnP alone."""
        for options, method in (
            ({"pcp": False}, MappingProtocol.NAT_PMP),
            ({"pcp": False, "nat_pmp": False}, MappingProtocol.UPNP),
        ):
            self.check(hard(), routers={"bob": options})
            self.place(hard(), routers={"bob": options})
            self.call()
            self.wait(lambda: self.over_tcp, WITHIN)
            methods = {each.method for each in self.bob.node.status.port_mappings}
            self.assertEqual((methods, len(self.routers["bob"].mapped_tcp)), ({method}, 1))

    def test_a_wrong_address(self) -> None:
        """The router names an address that is not its own: the rendezvous sees the right one."""
        for wrong in ("127.0.0.1", "192.0.2.99", "203.0.113.99"):
            self.check(hard(), routers={"bob": {"external": wrong}})

    def test_a_port_that_another_program_has(self) -> None:
        """The router gives another one."""
        self.place(hard(), routers={"bob": {}})
        self.routers["bob"].taken = set(range(1024, 60000))
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)
        self.assertEqual(list(self.routers["bob"].mapped_tcp.values()), [60000])

    def test_nats_that_refuse(self) -> None:
        """A NAT that answers a SYN to the port of simultaneous open by a reset ends no attempt too early."""
        self.check(hard(unsolicited=Unsolicited.REJECT), routers={"bob": {}})
        self.check(
            hard(unsolicited=Unsolicited.REJECT),
            left=no_udp(unsolicited=Unsolicited.REJECT),
            routers={"bob": {"pcp": False, "nat_pmp": False}},
            link=LinkSpec(delay=0.001),
        )

    def test_a_lossy_network(self) -> None:
        """The path is direct 25 s after the call."""
        for seed in (1, 2):
            self.place(hard(), routers={"bob": {}}, link=LinkSpec(delay=0.025, loss=0.1), seed=seed)
            began = self.call()
            self.wait(lambda: self.over_tcp, began + 25.0 - self.net.now)


class RefusalTests(TCPTestCase):
    """Routers that map no TCP port, and what is asked of them."""

    def test_udp_alone(self) -> None:
        """
        A router that maps UDP ports and no TCP ports is asked for one of TCP once, and by the protocol that
        has mapped the UDP port, for as many attempts as there are in ten minutes. The link is relayed.
        """
        for options, most in (({}, 1), ({"pcp": False}, 2), ({"pcp": False, "nat_pmp": False}, 1)):
            self.place(hard(), routers={"bob": {"tcp": False, **options}})
            router = self.routers["bob"]
            self.net.advance(5.0)
            before, searches = self.requests(router), router.searches
            self.call()
            self.net.advance(60.0)
            self.assertTrue(self.relayed)
            (link,) = self.bob.node.status.links
            self.assertIn(link.tcp_punching.attempts, range(3, 8))
            self.assertEqual(self.tcp_requests(router), 1)
            # With those that confirm the UDP port
            self.assertLessEqual(self.requests(router) - before, 2 * most)
            self.assertEqual(router.searches, searches)
            self.assertEqual(len(router.mapped), 1)
            self.stop()

    def requests(self, router: MappingRouter) -> int:
        """How many requests of all protocols have come."""
        return len(router.asked) + len(router.asked_by_upnp)

    def tcp_requests(self, router: MappingRouter) -> int:
        """How many of them were for a TCP port."""
        numbers = [data[36] == 6 if data[0] == 2 else data[1] == 2 for _, data in router.asked]
        return sum(numbers) + sum(request.internal.protocol == "tcp" for request in router.asked_by_upnp)

    def test_a_silent_router(self) -> None:
        """It has mapped no UDP port, so it is not asked for one of TCP."""
        self.place(NAT(ports=Ports.RANDOM), routers={"bob": {"result": 2, "nat_pmp": False}})
        self.net.advance(5.0)
        before = len(self.routers["bob"].asked)
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)
        self.assertEqual(len(self.routers["bob"].asked), before)

    def test_a_router_that_is_gone(self) -> None:
        """It answers no longer: an attempt begins all the same, two seconds later."""
        self.place(NAT(ports=Ports.RANDOM), routers={"bob": {}})
        self.routers["bob"].delay = 1000.0
        began = self.call()
        self.wait(lambda: self.over_tcp, began + WITHIN - self.net.now)

    def test_udp_works(self) -> None:
        """No TCP port is asked for where UDP gets out on both sides."""
        self.place(hard(), left=hard(), routers={"bob": {}})
        self.call()
        self.net.advance(25.0)
        self.assertFalse(self.relayed)
        self.assertEqual(self.routers["bob"].mapped_tcp, {})
        # Byte 36 of a request of PCP is the protocol, 17 for UDP
        numbers = {data[36] for _, data in self.routers["bob"].asked if data[0] == 2}
        self.assertEqual(numbers, {17})


class EndTests(TCPTestCase):
    """How a mapping ends."""

    def setUp(self) -> None:
        self.place(hard(), routers={"bob": {"lifetime": 120}})
        self.router = self.routers["bob"]
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)

    def test_the_peer_stops(self) -> None:
        """Both ports are given back."""
        self.bob.stop()
        self.net.advance(1.0)
        self.assertEqual((self.router.mapped, self.router.mapped_tcp), ({}, {}))

    def test_the_connection_ends(self) -> None:
        """The port is given back, and the next attempt maps another one."""
        (before,) = self.router.mapped_tcp
        self.net.advance(25.0)
        for peer in self.peers:
            for socket in list(peer.host.tcp.flows.values()):
                if socket.remote[0] in (ALICE, BOB):
                    socket.reset()
        self.wait(lambda: before not in self.router.mapped_tcp, 3.0)
        self.wait(lambda: self.over_tcp and len(self.router.mapped_tcp) == 1, 10.0)

    def test_renewed(self) -> None:
        """A link keeps its port for longer than the router maps one at a time."""
        self.net.advance(200.0)
        self.assertTrue(self.over_tcp)
        self.assertEqual(len(self.router.mapped_tcp), 1)

    def test_many_attempts_of_the_other_side(self) -> None:
        """It can't have us ask the router for many ports."""
        asked = len(self.router.asked)
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == {ALICE, BOB}
        self.wait(lambda: self.relayed, 30.0)
        begin = self.net.now
        for number in range(100, 400):
            self.say(self.named(ALICE, 5000), number)
            self.net.advance(0.2)
            self.assertLessEqual(len(self.router.mapped_tcp), MAX_TCP_PORTS)
        self.assertLess(len(self.router.asked) - asked, self.net.now - begin)

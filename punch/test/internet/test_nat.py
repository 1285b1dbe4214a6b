"""The simulated NATs do what RFC 4787 defines; every expectation here is read off its text by hand."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.test.internet import NAT, Filtering, Firewall, Hairpin, Mapping, Packet, Ports
from punch.test.internet.packet import Endpoint

# RFC 4787 §4.1 names: the internal endpoint X:x, the external endpoints Y1:y1 and so on.
X: Endpoint = ("192.168.1.10", 5000)
X2: Endpoint = ("192.168.1.11", 5000)
Y1: Endpoint = ("198.51.100.1", 1111)
Y1_OTHER_PORT: Endpoint = ("198.51.100.1", 2222)
Y2: Endpoint = ("198.51.100.2", 1111)
PUBLIC = "203.0.113.1"


def udp(source: Endpoint, destination: Endpoint) -> Packet:
    return Packet("udp", source, destination, b"payload", 35)


class NATTestCase(SynchronousTestCase):
    def nat(
        self,
        mapping: Mapping = Mapping.EIM,
        filtering: Filtering = Filtering.EIF,
        hairpin: Hairpin = Hairpin.EXTERNAL,
        ports: Ports = Ports.PRESERVING,
        **options: object,
    ) -> NAT:
        nat = NAT(PUBLIC, mapping, filtering, hairpin, ports)
        for name, value in options.items():
            self.assertTrue(hasattr(nat, name))
            setattr(nat, name, value)
        nat.install(lambda old, new: None, Random(7))
        return nat

    def external(self, nat: NAT, internal: Endpoint, remote: Endpoint, now: float = 0.0) -> Endpoint:
        """Send a packet out; gives X':x'."""
        out = nat.outbound(udp(internal, remote), now)
        assert out is not None
        self.assertEqual(out.destination, remote)
        return out.source

    def admitted(self, nat: NAT, remote: Endpoint, external: Endpoint, now: float = 0.0) -> Endpoint | None:
        """Send a packet in; gives whom it reaches."""
        back = nat.inbound(udp(remote, external), now)
        if back is None:
            return None
        self.assertEqual(back.source, remote)
        return back.destination


class MappingTests(NATTestCase):
    """RFC 4787 §4.1: is X1':x1', used towards Y1:y1, the same as X2':x2', used towards Y2:y2?"""

    def same(self, mapping: Mapping, second: Endpoint) -> bool:
        nat = self.nat(mapping, ports=Ports.SEQUENTIAL)
        return self.external(nat, X, Y1) == self.external(nat, X, second)

    def test_endpoint_independent(self) -> None:
        """X1':x1' equals X2':x2' for all values of Y2:y2."""
        self.assertTrue(self.same(Mapping.EIM, Y1))
        self.assertTrue(self.same(Mapping.EIM, Y1_OTHER_PORT))
        self.assertTrue(self.same(Mapping.EIM, Y2))

    def test_address_dependent(self) -> None:
        """X1':x1' equals X2':x2' if and only if Y2 equals Y1."""
        self.assertTrue(self.same(Mapping.ADM, Y1))
        self.assertTrue(self.same(Mapping.ADM, Y1_OTHER_PORT))
        self.assertFalse(self.same(Mapping.ADM, Y2))

    def test_address_and_port_dependent(self) -> None:
        """X1':x1' equals X2':x2' if and only if Y2:y2 equals Y1:y1."""
        self.assertTrue(self.same(Mapping.APDM, Y1))
        self.assertFalse(self.same(Mapping.APDM, Y1_OTHER_PORT))
        self.assertFalse(self.same(Mapping.APDM, Y2))

    def test_another_internal_endpoint_has_another_mapping(self) -> None:
        for mapping in Mapping:
            nat = self.nat(mapping)
            self.assertNotEqual(self.external(nat, X, Y1), self.external(nat, X2, Y1))
            self.assertNotEqual(self.external(nat, X, Y1), self.external(nat, (X[0], 5001), Y1))

    def test_source_is_the_public_address(self) -> None:
        self.assertEqual(self.external(self.nat(), X, Y1)[0], PUBLIC)


class FilteringTests(NATTestCase):
    """RFC 4787 §5: X:x has sent to Y1:y1; who may send to X':x'?"""

    def lets_in(self, filtering: Filtering, remote: Endpoint, mapping: Mapping = Mapping.EIM) -> bool:
        nat = self.nat(mapping, filtering)
        reached = self.admitted(nat, remote, self.external(nat, X, Y1))
        self.assertIn(reached, (X, None))
        return reached is not None

    def test_endpoint_independent(self) -> None:
        """Only packets not destined to X:x are filtered out, regardless of the external source."""
        for mapping in Mapping:
            for remote in (Y1, Y1_OTHER_PORT, Y2):
                self.assertTrue(self.lets_in(Filtering.EIF, remote, mapping))

    def test_address_dependent(self) -> None:
        """Packets from Y:y are filtered out if X:x has not sent to Y before, whatever the port."""
        for mapping in Mapping:
            self.assertTrue(self.lets_in(Filtering.ADF, Y1, mapping))
            self.assertTrue(self.lets_in(Filtering.ADF, Y1_OTHER_PORT, mapping))
            self.assertFalse(self.lets_in(Filtering.ADF, Y2, mapping))

    def test_address_and_port_dependent(self) -> None:
        """Packets from Y:y are filtered out if X:x has not sent to Y:y before."""
        for mapping in Mapping:
            self.assertTrue(self.lets_in(Filtering.APDF, Y1, mapping))
            self.assertFalse(self.lets_in(Filtering.APDF, Y1_OTHER_PORT, mapping))
            self.assertFalse(self.lets_in(Filtering.APDF, Y2, mapping))

    def test_sending_opens(self) -> None:
        nat = self.nat(filtering=Filtering.APDF)
        external = self.external(nat, X, Y1)
        self.assertIsNone(self.admitted(nat, Y2, external))
        self.external(nat, X, Y2)
        self.assertEqual(self.admitted(nat, Y2, external), X)

    def test_what_another_mapping_sent_opens_nothing(self) -> None:
        nat = self.nat(Mapping.APDM, Filtering.APDF)
        first = self.external(nat, X, Y1)
        second = self.external(nat, X, Y2)
        self.assertIsNone(self.admitted(nat, Y2, first))
        self.assertEqual(self.admitted(nat, Y2, second), X)

    def test_nothing_comes_in_unasked(self) -> None:
        self.assertIsNone(self.admitted(self.nat(), Y1, (PUBLIC, 5000)))

    def test_protocols_are_apart(self) -> None:
        nat = self.nat()
        external = self.external(nat, X, Y1)
        self.assertIsNone(nat.inbound(Packet("tcp", Y1, external, b"", 40), 0.0))


class PortTests(NATTestCase):
    """RFC 4787 §4.2."""

    def test_preserving(self) -> None:
        self.assertEqual(self.external(self.nat(), X, Y1), (PUBLIC, 5000))

    def test_preserving_falls_back_on_collision(self) -> None:
        """Without overloading, a port belongs to one internal endpoint at a time."""
        nat = self.nat()
        self.external(nat, X, Y1)
        self.assertEqual(self.external(nat, X2, Y1), (PUBLIC, 5001))

    def test_preserving_leaves_the_well_known_ports(self) -> None:
        self.assertGreaterEqual(self.external(self.nat(), (X[0], 53), Y1)[1], 1024)

    def test_sequential(self) -> None:
        nat = self.nat(Mapping.APDM, ports=Ports.SEQUENTIAL)
        ports = [self.external(nat, X, (Y1[0], port))[1] for port in range(1, 6)]
        self.assertEqual(ports, list(range(ports[0], ports[0] + 5)))

    def test_random(self) -> None:
        nat = self.nat(Mapping.APDM, ports=Ports.RANDOM)
        ports = [self.external(nat, X, (Y1[0], port))[1] for port in range(1, 101)]
        self.assertEqual(len(set(ports)), 100)
        self.assertTrue(all(1024 <= port <= 65535 for port in ports))
        self.assertGreater(max(ports) - min(ports), 10_000)

    def test_parity(self) -> None:
        """§4.2.2: an even port is mapped to an even one, an odd port to an odd one."""
        for ports in Ports:
            nat = self.nat(ports=ports, port_parity=True)
            for port in (5000, 5001):
                for host in ("192.168.1.10", "192.168.1.11", "192.168.1.12"):
                    self.assertEqual(self.external(nat, (host, port), Y1)[1] % 2, port % 2)

    def test_overloading(self) -> None:
        """§4.2.1: two internal endpoints share an external port; the remote endpoint tells them apart."""
        nat = self.nat(Mapping.APDM, Filtering.APDF, overload=True)
        self.assertEqual(self.external(nat, X, Y1), (PUBLIC, 5000))
        self.assertEqual(self.external(nat, X2, Y2), (PUBLIC, 5000))
        self.assertEqual(self.admitted(nat, Y1, (PUBLIC, 5000)), X)
        self.assertEqual(self.admitted(nat, Y2, (PUBLIC, 5000)), X2)
        self.assertEqual(self.external(nat, X2, Y1), (PUBLIC, 5001))

    def test_all_ports_in_use(self) -> None:
        nat = self.nat(port_range=(4000, 4001))
        self.external(nat, (X[0], 1), Y1)
        self.external(nat, (X[0], 2), Y1)
        self.assertIsNone(nat.outbound(udp((X[0], 3), Y1), 0.0))
        self.assertEqual(self.external(nat, (X[0], 3), Y1, now=200.0)[0], PUBLIC)

    def test_forwarded_port(self) -> None:
        nat = self.nat()
        nat.forward("udp", 5000, X2)
        self.assertEqual(self.admitted(nat, Y1, (PUBLIC, 5000)), X2)
        self.assertNotEqual(self.external(nat, X, Y1), (PUBLIC, 5000))
        nat.unforward("udp", 5000)
        self.assertIsNone(self.admitted(nat, Y1, (PUBLIC, 5000)))

    def test_forwarded_port_of_tcp(self) -> None:
        """Connections that have begun before it was forwarded go on from the port that they have."""
        nat = self.nat(Mapping.APDM, ports=Ports.RANDOM)

        def port(remote: Endpoint) -> int:
            out = nat.outbound(Packet("tcp", X, remote, b"payload", 35), 0.0)
            assert out is not None
            return out.source[1]

        before = port(Y1)
        nat.forward("tcp", 5000, X)
        self.assertEqual((port(Y1), port(Y2)), (before, 5000))
        self.assertNotEqual(before, 5000)
        nat.forget()
        self.assertEqual(port(Y1), 5000)


class TimeoutTests(NATTestCase):
    """RFC 4787 §4.3."""

    def test_forgotten_after_the_timeout(self) -> None:
        nat = self.nat(timeout=30.0)
        external = self.external(nat, X, Y1, now=0.0)
        self.assertEqual(self.admitted(nat, Y1, external, now=29.9), X)
        self.assertIsNone(self.admitted(nat, Y1, external, now=30.0))

    def test_refreshed_by_outbound_packets(self) -> None:
        nat = self.nat(timeout=30.0)
        external = self.external(nat, X, Y1, now=0.0)
        self.assertEqual(self.external(nat, X, Y1, now=29.0), external)
        self.assertEqual(self.admitted(nat, Y1, external, now=58.0), X)

    def test_not_refreshed_by_inbound_packets_unless_told(self) -> None:
        for refresh in (False, True):
            nat = self.nat(timeout=30.0, refresh_inbound=refresh)
            external = self.external(nat, X, Y1, now=0.0)
            self.admitted(nat, Y1, external, now=29.0)
            self.assertEqual(self.admitted(nat, Y1, external, now=31.0) is not None, refresh)

    def test_filters_have_timers_of_their_own(self) -> None:
        """The mapping lives on by packets to Y1; the permission of Y2, which gets none, does not."""
        nat = self.nat(filtering=Filtering.ADF, timeout=30.0)
        external = self.external(nat, X, Y1, now=0.0)
        self.external(nat, X, Y2, now=0.0)
        self.external(nat, X, Y1, now=20.0)
        self.assertEqual(self.admitted(nat, Y1, external, now=40.0), X)
        self.assertIsNone(self.admitted(nat, Y2, external, now=40.0))

    def test_an_expired_port_is_free_again(self) -> None:
        nat = self.nat(timeout=30.0)
        self.external(nat, X, Y1, now=0.0)
        self.assertEqual(self.external(nat, X2, Y1, now=31.0), (PUBLIC, 5000))

    def test_forget(self) -> None:
        nat = self.nat(ports=Ports.SEQUENTIAL)
        external = self.external(nat, X, Y1)
        self.assertEqual(nat.mappings(0.0), [("udp", X, external)])
        nat.forget()
        self.assertIsNone(self.admitted(nat, Y1, external))
        self.assertNotEqual(self.external(nat, X, Y1), external)

    def test_tcp_lives_longer(self) -> None:
        """RFC 5382 REQ-5: at least 2 hours and 4 minutes."""
        nat = self.nat()
        out = nat.outbound(Packet("tcp", X, Y1, b"", 40), 0.0)
        assert out is not None
        self.assertIsNotNone(nat.inbound(Packet("tcp", Y1, out.source, b"", 40), 7439.0))


class HairpinTests(NATTestCase):
    """RFC 4787 §6: X2:x2 sends to X1':x1', both behind the NAT."""

    def through(
        self, hairpin: Hairpin, filtering: Filtering = Filtering.EIF
    ) -> tuple[Packet | None, Endpoint]:
        nat = self.nat(filtering=filtering, hairpin=hairpin)
        target = self.external(nat, X, Y1)
        back = nat.hairpinned(udp(X2, target), 0.0)
        return back, self.external(nat, X2, Y1)

    def test_none(self) -> None:
        self.assertIsNone(self.through(Hairpin.NONE)[0])

    def test_external_source(self) -> None:
        """REQ-9 a: the packet comes from the external address and port of its sender."""
        back, external = self.through(Hairpin.EXTERNAL)
        assert back is not None
        self.assertEqual((back.source, back.destination), (external, X))

    def test_internal_source(self) -> None:
        back, _ = self.through(Hairpin.INTERNAL)
        assert back is not None
        self.assertEqual((back.source, back.destination), (X2, X))

    def test_filters_apply(self) -> None:
        self.assertIsNone(self.through(Hairpin.EXTERNAL, Filtering.APDF)[0])

    def test_both_sending_opens_both(self) -> None:
        nat = self.nat(filtering=Filtering.APDF)
        first, second = self.external(nat, X, Y1), self.external(nat, X2, Y1)
        self.assertIsNone(nat.hairpinned(udp(X, second), 0.0))
        back = nat.hairpinned(udp(X2, first), 0.0)
        assert back is not None
        self.assertEqual((back.source, back.destination), (second, X))


class OtherTests(NATTestCase):
    def test_udp_blocked(self) -> None:
        nat = self.nat()
        external = self.external(nat, X, Y1)
        nat.block_udp = True
        self.assertIsNone(nat.outbound(udp(X, Y1), 0.0))
        self.assertIsNone(self.admitted(nat, Y1, external))
        self.assertIsNotNone(nat.outbound(Packet("tcp", X, Y1, b"", 40), 0.0))

    def test_serves_one_lan(self) -> None:
        nat = self.nat()
        with self.assertRaises(ValueError):
            nat.install(lambda old, new: None, Random(0))
        with self.assertRaises(ValueError):
            NAT(PUBLIC).renumber("203.0.113.2")

    def test_firewall(self) -> None:
        """A firewall filters like a NAT and does not translate."""
        inside, outside, stranger = ("2001:db8:1::2", 5000), ("2001:db8::1", 1), ("2001:db8::2", 1)
        firewall = Firewall(Filtering.APDF, timeout=30.0)
        self.assertIsNone(firewall.inbound(udp(outside, inside), 0.0))
        packet = udp(inside, outside)
        self.assertIs(firewall.outbound(packet, 0.0), packet)
        self.assertIsNotNone(firewall.inbound(udp(outside, inside), 1.0))
        self.assertIsNone(firewall.inbound(udp(stranger, inside), 1.0))
        self.assertIsNone(firewall.inbound(udp(outside, inside), 30.0))
        firewall.outbound(packet, 31.0)
        firewall.forget()
        self.assertIsNone(firewall.inbound(udp(outside, inside), 31.0))
        firewall.block_udp = True
        self.assertIsNone(firewall.outbound(packet, 0.0))

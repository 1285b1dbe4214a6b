"""What netcheck finds out behind each kind of NAT."""

from __future__ import annotations

from itertools import product

from twisted.internet.defer import Deferred

from punch.natcheck.profile import Hairpinning
from punch.natcheck.report import (
    Direct,
    NetcheckReport,
)
from punch.test.internet import (
    NAT,
    Hairpin,
    InternetTestCase,
    LinkSpec,
)
from punch.test.internet import Filtering as F
from punch.test.internet import Mapping as M
from punch.test.internet import Ports as P
from punch.test.node.netcheck_network import NetcheckNetwork
from punch.test.node.test_netcheck import FILTERING, MAPPING, PORTS, ipv4
from punch.wire.peers.nat_profile import PortAssignment

KINDS = list(product(M, F, Hairpin, P))


def expected_hairpinning(nat: NAT) -> Hairpinning:
    """What can be told of it: where mapping and filtering hide it, nothing."""
    if nat.mapping is not M.EIM and nat.filtering is not F.EIF:
        return Hairpinning.UNKNOWN
    return Hairpinning.NO if nat.hairpin is Hairpin.NONE else Hairpinning.YES


def expected_direct(nat: NAT) -> Direct:
    """What follows, by the table in `nat_pairs`."""
    if nat.mapping is not M.EIM:
        # Ports that can be predicted lead to most peers
        return Direct.SOME if nat.ports is P.RANDOM else Direct.MOST
    return Direct.MOST if nat.filtering is F.APDF else Direct.ALL


class EveryNATTests(InternetTestCase):
    """Mapping × filtering × hairpinning × ports: 81 NATs, a netcheck behind each."""

    def test_all(self) -> None:
        net = self.internet()
        network = NetcheckNetwork(net)
        running: list[tuple[NAT, Deferred[NetcheckReport]]] = []
        for number, (mapping, filtering, hairpin, ports) in enumerate(KINDS):
            nat = NAT(f"203.0.{number}.1", mapping, filtering, hairpin, ports)
            lan = net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat)
            running.append((nat, network.begin(lan.host(f"host {number}"))))
        wrong = []
        for nat, awaited in running:
            report = net.wait(awaited, 30.0, repr(nat))
            family = ipv4(report)
            found = (family.mapping, family.filtering, family.hairpinning, family.ports, report.direct)
            right = (
                frozenset({MAPPING[nat.mapping]}),
                frozenset({FILTERING[nat.filtering]}),
                expected_hairpinning(nat),
                PORTS[nat.ports],
                expected_direct(nat),
            )
            if found != right or family.public_addresses != (nat.public,) or not family.certain:
                wrong.append(f"{nat}: {family}")
        self.assertEqual(wrong, [])
        self.assertLess(net.now, 10.0)

    def test_blocks_of_a_carrier(self) -> None:
        """Random ports in a block of a subscriber are near each other, and not in sequence."""
        net = self.internet()
        network = NetcheckNetwork(net)
        running = []
        for number in range(10):
            nat = NAT(f"203.0.{number}.1", M.APDM, ports=P.RANDOM, port_range=(20_480, 20_991))
            lan = net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat)
            running.append(network.begin(lan.host(f"host {number}")))
        found = [ipv4(net.wait(awaited, 30.0, "netcheck")).ports for awaited in running]
        self.assertGreaterEqual(found.count(PortAssignment.RANDOM), 9, found)

    def test_with_delay_and_loss(self) -> None:
        """Delay, jitter and 5 % loss each way change nothing, whatever the seed."""
        for seed in range(2):
            net = self.internet(seed)
            network = NetcheckNetwork(net)
            link = LinkSpec(delay=0.025, jitter=0.01, loss=0.05)
            for number, (mapping, filtering) in enumerate(product(M, F)):
                nat = NAT(f"203.0.{number}.1", mapping, filtering, Hairpin.EXTERNAL, P.SEQUENTIAL)
                lan = net.lan(f"lan {number}", f"10.0.{number}.0/24", nat=nat, link=link)
                family = ipv4(network.run(lan.host(f"host {number}")))
                self.assertEqual(family.mapping, {MAPPING[mapping]}, nat)
                self.assertEqual(family.filtering, {FILTERING[filtering]}, nat)
                self.assertEqual(family.ports, PortAssignment.SEQUENTIAL)

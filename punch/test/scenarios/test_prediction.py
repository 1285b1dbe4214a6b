"""
When ports of NATs are not predicted, and at what pace packets are sent to predicted ones.

`tests/simulation/test_prediction.py` has the direct paths that prediction finds.
"""

from __future__ import annotations

from itertools import pairwise

from punch.ice.punching.prediction import TARGETS
from punch.ice.punching.techniques import Technique
from punch.node.policies import RelayPolicy
from punch.node.punching.attempt_makers import GAP
from punch.node.punching.coordinator import PunchingStatus
from punch.test.internet import NAT, Filtering, Mapping, Ports
from punch.test.scenarios.punching import HOMES, PunchingTestCase
from punch.test.system import Peer
from punch.wire.control import Accept


def nat(
    mapping: Mapping, ports: Ports, step: int = 1, others: float = 0.0, filtering: Filtering = Filtering.APDF
) -> NAT:
    """A NAT that filters by port."""
    return NAT(mapping=mapping, filtering=filtering, ports=ports, step=step, others=others)


def sequential(step: int = 1, others: float = 0.0, mapping: Mapping = Mapping.APDM) -> NAT:
    """A NAT that gives each destination the next port."""
    return nat(mapping, Ports.SEQUENTIAL, step, others)


class RelayTests(PunchingTestCase):
    """Peers without a direct path."""

    def test_random_ports(self) -> None:
        """The link stays on the relay, as the table says."""
        self.place(sequential(), nat(Mapping.APDM, Ports.RANDOM))
        self.assertIsNone(self.seconds_to_direct(4.0))
        for peer in self.peers:
            self.assertEqual(self.status(peer), PunchingStatus(Technique.RELAY, 0, 0, 0))
        self.stop()

    def test_relay_only(self) -> None:
        """A peer that hides its addresses neither observes its NAT nor says anything about it."""
        self.place(sequential(), sequential())
        hidden = Peer(
            self.net,
            self.net.lan("carol", "192.168.3.0/24", nat=NAT("203.0.113.3")).host("carol"),
            self.rendezvous.address,
            accept=Accept.ANYONE,
            relay=RelayPolicy.ONLY,
        ).register()
        self.peers = [self.alice, hidden]
        self.bob = hidden
        self.assertIsNone(self.seconds_to_direct(4.0))
        self.assertEqual(hidden.node.status.nats, ())
        self.assertEqual(self.status(self.alice), PunchingStatus(Technique.ICE, 0, 0, 0))

    def test_gaps(self) -> None:
        """The packets of an attempt leave one after the other, also the first after OPENED."""
        self.place(sequential(mapping=Mapping.ADM), sequential(others=3.0))
        self.lose_direct()
        self.call()
        self.net.advance(1.5)
        self.net.trace = []
        self.net.advance(4.0)
        ours = [each for each in self.net.trace if each.source[0] == HOMES[0]]
        times = [each.time for each in ours if each.destination[0] == HOMES[1]]
        self.assertGreater(len(times), TARGETS)
        for first, later in pairwise(times):
            self.assertGreater(later - first, GAP / 2)

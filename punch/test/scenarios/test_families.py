"""
Peers that have both address families, IPv6 behind firewalls and IPv4 behind NATs: IPv6 is preferred, and is
never waited for.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.ice.ice_network import IceNetwork
from punch.test.scenarios.dual_stack import DualStackPeersTestCase
from punch.test.system import Connected, Peer, introduce

SLOW = 0.6
"""Seconds that the slow family takes longer, each way."""


class DualStackTests(DualStackPeersTestCase):
    """Whole nodes."""

    def connect(self, alice: Peer, bob: Peer) -> float:
        """How many seconds a call takes until both are connected."""
        introduce(alice, bob)
        self.net.advance(3.0)
        began = self.net.now
        alice.call(bob.id)
        self.net.run_until(lambda: alice.of(Connected) and bob.of(Connected), 20.0, "a link")
        return self.net.now - began

    def test_preferred(self) -> None:
        """Over both families there is a direct path: the one without a NAT is taken, on both sides."""
        alice, bob = self.dual_stack("alice"), self.dual_stack("bob")
        self.connect(alice, bob)
        self.net.advance(3.0)
        for here, there in ((alice, bob), (bob, alice)):
            self.assertEqual(self.path_over(here, there), ("host", True))

    def test_the_only_direct_path(self) -> None:
        """The NATs allow none. Firewalls on both sides are no obstacle."""
        alice, bob = self.dual_stack("alice", strict=True), self.dual_stack("bob", strict=True)
        self.connect(alice, bob)
        self.net.advance(3.0)
        self.assertEqual(self.path_over(alice, bob), ("host", True))

    def test_it_does_not_work(self) -> None:
        """Nothing passes between the two over IPv6: the link is there as soon as without."""
        alice, bob = self.dual_stack("alice"), self.dual_stack("bob")
        self.net.drop = lambda packet: (
            packet.source[0].startswith("2001:db8:")
            and packet.destination[0].startswith(("2001:db8:1:", "2001:db8:2:"))
        )
        with_it = self.connect(alice, bob)
        self.assertFalse(self.path_over(alice, bob)[1])
        self.net.drop = None
        carol, dave = self.dual_stack("carol", ipv6=False), self.dual_stack("dave", ipv6=False)
        without = self.connect(carol, dave)
        # One check of the other family may be first, and delays the next by Ta on each side
        self.assertLessEqual(with_it, without + 2 * 0.02 + 1e-6)


class SlowFamilyTests(SynchronousTestCase):
    """ICE agents, one family of which takes longer."""

    def seconds(self, slow: bool | None, *bases: tuple[str, str]) -> float:
        """
        How many seconds it takes until both have a path.

        :param slow: whether IPv6 is the slow family, else IPv4; None: neither.
        """
        network = IceNetwork()
        network.detour = lambda source, target: SLOW if source.is_ipv6 is slow else 0.0
        alice = network.host("alice", *(here for here, _ in bases))
        bob = network.host("bob", *(there for _, there in bases), controlling=False)
        began = network.now
        network.pair(alice, bob, gather=False)
        network.run(20.0, network.connected)
        self.assertTrue(network.connected())
        return network.now - began

    def test_never_waited_for(self) -> None:
        """Whichever of the two is slow, the other one is used as soon as if it were alone, but for one Ta."""
        ipv4, ipv6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
        self.assertLessEqual(self.seconds(True, ipv4, ipv6), self.seconds(None, ipv4) + 2 * 0.05 + 1e-6)
        self.assertLessEqual(self.seconds(False, ipv4, ipv6), self.seconds(None, ipv6) + 2 * 0.05 + 1e-6)

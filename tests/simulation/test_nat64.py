"""Spraying through a NAT64."""

from __future__ import annotations

from punch.ice.punching.techniques import Technique
from punch.test.internet import Ports
from punch.test.scenarios.relayed import EASY, HARD
from punch.test.scenarios.test_nat64 import NAT64TestCase
from punch.test.system import connect, introduce


class SprayingTests(NAT64TestCase):
    """A NAT64 with random ports for each destination, and a peer that has IPv4 alone."""

    def test_a_direct_path(self) -> None:
        """All sockets of the attempt translate, too."""
        self.start_service()
        alice = self.peer(self.ipv6_home("alice", HARD, ports=Ports.RANDOM))
        bob = self.peer(self.home("bob", EASY))
        introduce(alice, bob)
        self.net.advance(3.0)
        connect(alice, bob)

        def direct() -> bool:
            status = alice.link_to(bob).status
            return status is not None and status.path.kind != "relay"

        self.net.run_until(direct, 25.0, "a direct path")
        (link,) = alice.node.status.links
        self.assertIs(link.punching.technique, Technique.SPRAYING)
        self.assertGreater(link.punching.packets, 50)
        self.chat(alice, bob, 3)

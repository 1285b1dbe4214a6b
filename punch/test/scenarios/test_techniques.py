"""
Each technique for a direct path once, between two peers behind NATs for which it is made.

`tests/simulation/` has other NATs, loss, changes of the network and hostile peers: `test_spraying.py`,
`test_prediction.py`, `test_simultaneous_open.py`, `test_tcp_punching.py`, `test_tcp_port_mapping.py`.
"""

from __future__ import annotations

from punch.ice import target_limits
from punch.ice.budget import CONNECTS
from punch.ice.punching.techniques import Technique
from punch.test.internet import NAT, Mapping, Ports, Unsolicited
from punch.test.scenarios.punching import PunchingTestCase
from punch.test.scenarios.tcp_punching import WITHIN, TCPTestCase, no_udp


def linux(unsolicited: Unsolicited) -> NAT:
    """Masquerading as Linux does it."""
    return NAT(mapping=Mapping.APDM, ports=Ports.PRESERVING, overload=True, unsolicited=unsolicited)


class UDPTechniqueTests(PunchingTestCase):
    """The path is direct in time, by the technique that both sides tell, and nothing is left open."""

    def check(self, left: NAT, right: NAT, technique: Technique, within: float) -> None:
        self.place(left, right)
        self.assertIsNotNone(self.seconds_to_direct(within))
        self.assertEqual({self.status(peer).technique for peer in self.peers}, {technique})
        self.net.advance(2.0)
        self.assertNotIn("relay", self.paths)
        self.stop()

    def test_spraying(self) -> None:
        """Random ports on one side."""
        self.check(
            NAT(mapping=Mapping.APDM, ports=Ports.RANDOM), NAT(ports=Ports.RANDOM), Technique.SPRAYING, 20.0
        )

    def test_prediction(self) -> None:
        """The next port for each destination on one side."""
        self.check(
            NAT(ports=Ports.RANDOM),
            NAT(mapping=Mapping.APDM, ports=Ports.SEQUENTIAL),
            Technique.PREDICTION,
            5.0,
        )

    def test_simultaneous_open(self) -> None:
        """A router that takes unsolicited packets for its own, and one that drops them."""
        self.check(linux(Unsolicited.ACCEPT), linux(Unsolicited.DROP), Technique.SIMULTANEOUS_OPEN, 5.0)

    def test_other_links_have_used_up_the_limit(self) -> None:
        """An attempt waits until there are enough packets again for the other side's address, no longer."""
        # As if those that are missing had just been sent there for others
        self.patch(target_limits, "OPENINGS", (target_limits.OPENINGS[0], 9))
        self.place(linux(Unsolicited.ACCEPT), linux(Unsolicited.ACCEPT))
        homes = {"203.0.113.1", "203.0.113.2"}
        self.net.drop = lambda packet: {packet.source[0], packet.destination[0]} == homes
        self.assertIsNone(self.seconds_to_direct(80.0))
        self.assertGreaterEqual(max(self.status(peer).attempts for peer in self.peers), 3)
        self.stop()


class TCPTechniqueTests(TCPTestCase):
    """The path is direct in time after few SYNs, carries data, and nothing is left open."""

    def check(self) -> None:
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), CONNECTS)
        self.alice.chat.send(self.bob.id, "over TCP")
        self.wait(lambda: self.bob.messages, 1.0)
        self.stop()

    def test_tcp_punching(self) -> None:
        """The other side's NAT has one port for all destinations."""
        self.place(NAT(ports=Ports.RANDOM))
        self.check()

    def test_tcp_port_mapping(self) -> None:
        """The strictest NAT, with a router that maps ports."""
        self.place(NAT(ports=Ports.RANDOM, mapping=Mapping.APDM), routers={"bob": {}})
        self.check()
        self.assertEqual(self.routers["bob"].mapped_tcp, {})

    def test_no_udp_on_both_sides(self) -> None:
        """Both begin."""
        self.place(no_udp())
        self.check()

"""
Each technique for a direct path once, between two peers behind NATs for which it is made.

`tests/simulation/` has other NATs, loss, changes of the network and hostile peers: `test_spraying.py`,
`test_prediction.py`, `test_simultaneous_open.py`, `test_tcp_punching.py`, `test_tcp_port_mapping.py`.
"""

from __future__ import annotations

from punch.ice import limits
from punch.ice.budget import MAX_CONNECTS
from punch.ice.punching.techniques import Technique
from punch.test.internet import NAT, Mapping, Ports, Seen, Unsolicited
from punch.test.scenarios.punching import HOMES, PunchingTestCase
from punch.test.scenarios.tcp_punching import WITHIN, TCPTestCase, no_udp
from punch.test.system import SERVICE


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
        self.patch(limits, "OPENINGS", (limits.OPENINGS[0], 9))
        self.place(linux(Unsolicited.ACCEPT), linux(Unsolicited.ACCEPT))
        self.lose_direct()
        self.assertIsNone(self.seconds_to_direct(80.0))
        self.assertGreaterEqual(max(self.status(peer).attempts for peer in self.peers), 3)
        self.stop()

    def test_strangers_have_used_up_the_limit(self) -> None:
        """It is none for two contacts."""
        self.patch(limits, "OPENINGS", (0.001, 1))
        for contacts in (False, True):
            self.place(NAT(ports=Ports.RANDOM), NAT(mapping=Mapping.APDM, ports=Ports.SEQUENTIAL))
            if contacts:
                self.bob.known.add(self.alice.id, "alice")
            self.assertEqual(self.seconds_to_direct(8.0) is not None, contacts)
            self.stop()


class SentPacketsTests(PunchingTestCase):
    """What a link says that it has sent for a direct path is what leaves the machine, for each technique."""

    def capture(self) -> None:
        """Let nothing through between the two homes, and record what leaves the two machines from now on."""
        self.lose_direct()
        self.seen: list[Seen] = []
        self.net.trace = self.seen

    def check(self, technique: Technique) -> None:
        """Compare the packets from sockets of attempts, of which none is answered, with what is said."""
        for peer in self.peers:
            (link,) = peer.node.status.links
            host, own = peer.node.status.sockets[0].host, [each.port for each in peer.node.status.sockets]
            left = [
                each.size
                for each in self.seen
                if (each.protocol, each.source[0]) == ("udp", host)
                and each.source[1] not in own
                and each.destination[0] != SERVICE
            ]
            said = link.techniques[technique]
            self.assertEqual((said.packets, said.bytes), (len(left), sum(left)))
            self.assertEqual(said.attempts, link.punching.attempts)
            self.assertGreater(said.attempts, 0)
            self.assertEqual((link.punching.packets, link.punching.bytes), (said.packets, said.bytes))
            # TCP may have begun as well
            self.assertEqual(set(link.techniques) - {Technique.TCP}, {Technique.ICE, technique})
            self.assertEqual(link.techniques[Technique.ICE].attempts, 0)
            checks = sum(each.source[1] in own and each.destination[0] in HOMES for each in self.seen)
            self.assertGreaterEqual(link.techniques[Technique.ICE].packets, checks / 2)

    def test_each_link(self) -> None:
        """It begins with nothing in each call, and goes on while attempts are made."""
        self.place(linux(Unsolicited.DROP), linux(Unsolicited.DROP))
        self.capture()
        for _ in range(2):
            self.assertIsNone(self.seconds_to_direct(6.0))
            self.check(Technique.SIMULTANEOUS_OPEN)
            self.alice.node.hangup(self.bob.id)
            self.net.advance(1.0)
            for recorded in (self.seen, self.alice.events, self.bob.events):
                recorded.clear()
        self.stop()

    def test_prediction(self) -> None:
        """Predicted ports."""
        self.place(NAT(ports=Ports.RANDOM), NAT(mapping=Mapping.APDM, ports=Ports.SEQUENTIAL))
        self.capture()
        self.assertIsNone(self.seconds_to_direct(6.0))
        self.check(Technique.PREDICTION)
        self.stop()


class TCPTechniqueTests(TCPTestCase):
    """The path is direct in time after few SYNs, carries data, and nothing is left open."""

    def check(self) -> None:
        self.call()
        self.wait(lambda: self.over_tcp, WITHIN)
        for peer in self.peers:
            self.assertLessEqual(self.syns(peer), MAX_CONNECTS)
            (link,) = peer.node.status.links
            done = link.techniques[Technique.TCP]
            self.assertEqual(done.attempts, link.tcp_punching.attempts)
            self.assertIn(done.packets - self.syns(peer), range(2 * MAX_CONNECTS))
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

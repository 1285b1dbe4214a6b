"""Two peers behind one router, whose local network passes checks, but loses what the link sends."""

from __future__ import annotations

from punch.node.events import PathChanged
from punch.test.internet import Hairpin, LinkSpec, Packet
from punch.test.scenarios.nat_pairs import nat
from punch.test.scenarios.relayed import EASY, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import Peer, connect
from tests.simulation.test_small_paths import is_quic

GAP = 1.0
"""Seconds between two messages of each side."""
LONGEST = 8.0
"""Seconds within which a message arrives: 2.5 s on the path, an ICE restart, and what QUIC waits."""


class BlockedNetworkTests(RelayTestCase):
    link = LinkSpec(delay=0.02)

    def at_home(self) -> tuple[Peer, Peer]:
        """Two peers in one local network, whose router does not hairpin."""
        self.start()
        router = nat(EASY, "203.0.113.1")
        router.hairpin = Hairpin.NONE
        lan = self.net.lan("home", "192.168.1.0/24", nat=router, link=self.link)
        return self.peer(lan.host("alice")), self.peer(lan.host("bob"))

    def block(self, *ways: tuple[Peer, Peer], tcp: bool = True) -> None:
        """
        From now on, drop what the link sends from one peer to the other in the local network.

        :param tcp: drop TCP there, too.
        """
        lost = {(one.host.addresses[0], other.host.addresses[0]) for one, other in ways}
        self.net.drop = lambda packet: (
            self.ends(packet) in lost and (is_quic(packet) or (tcp and packet.protocol == "tcp"))
        )

    @staticmethod
    def ends(packet: Packet) -> tuple[str, str]:
        """Between which hosts a packet goes."""
        return packet.source[0], packet.destination[0]

    def write(self, alice: Peer, bob: Peer, seconds: float) -> None:
        """Both sides write for so long; each message arrives within `LONGEST`."""
        began, count = self.net.now, 0
        while self.net.now < began + seconds:
            alice.chat.send(bob.id, f"{count}")
            bob.chat.send(alice.id, f"{count}")
            count += 1
            self.net.advance(GAP)
            for peer in (alice, bob):
                self.assertGreaterEqual(
                    len(peer.messages), count - LONGEST / GAP, f"{peer.name} hears nothing"
                )
        self.net.run_until(lambda: len(alice.messages) == len(bob.messages) == count, LONGEST, "the messages")

    def check(self, *ways: str) -> None:
        """
        A link between the two takes the relay.

        :param ways: in which directions the network loses what they send.
        """
        alice, bob = self.at_home()
        connect(alice, bob)
        self.net.advance(10.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("host", "host"))
        directions = {"to bob": (alice, bob), "to alice": (bob, alice)}
        self.block(*(directions[way] for way in ways))
        self.write(alice, bob, 60.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
        self.assertLess(max(len(peer.of(PathChanged)) for peer in (alice, bob)), 12)

    def test_to_the_controlled_side(self) -> None:
        self.check("to bob")

    def test_to_the_controlling_side(self) -> None:
        self.check("to alice")

    def test_both(self) -> None:
        self.check("to bob", "to alice")

    def test_over_tcp(self) -> None:
        """TCP passes there, so the relay is only needed until that is found."""
        alice, bob = self.at_home()
        self.block((alice, bob), (bob, alice), tcp=False)
        connect(alice, bob)
        self.write(alice, bob, 60.0)
        for here, there in ((alice, bob), (bob, alice)):
            status = here.link_to(there).status
            assert status is not None
            self.assertEqual((status.path.kind, status.path.protocol), ("prflx", "tcp"))

    def test_from_the_beginning(self) -> None:
        """The call begins on the relay; a restart finds the local network, which is left again."""
        alice, bob = self.at_home()
        self.block((alice, bob), (bob, alice))
        connect(alice, bob)
        self.write(alice, bob, 60.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))

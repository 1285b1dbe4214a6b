"""Direct paths that don't last: how often a link returns to them (`punch.ice.generations`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from punch.node.events import Disconnected, PathChanged
from punch.test.internet import LinkSpec, Packet
from punch.test.scenarios.relayed import EASY, HARD, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import SERVICE, Peer, connect
from tests.simulation.test_small_paths import is_quic

ALICE, BOB = "203.0.113.1", "203.0.113.2"
"""The public addresses of their NATs."""
TEN_MINUTES = 600.0
GAP = 3.0
"""Seconds between two messages of each side."""
MOVES = {200.0: 9, TEN_MINUTES: 13}
"""
How often a link may move between a relayed path and a direct one in so many seconds: it leaves the path,
returns twice at once, and then after 30, 60, 120 and 240 s.
"""
OTHERS = 7
"""How many further changes may be announced: from one relayed address or one kind of candidate to another."""


def direct(packet: Packet) -> bool:
    """Whether a packet goes from one NAT to the other."""
    return {packet.source[0], packet.destination[0]} == {ALICE, BOB}


def is_lost(packet: Packet, source: str, destination: str) -> bool:
    """Whether a packet is one that the link sends from one NAT to the other."""
    return is_quic(packet) and (packet.source[0], packet.destination[0]) == (source, destination)


def moves(peer: Peer) -> int:
    """How often a peer has announced that a direct path took the place of a relayed one, or the reverse."""
    relayed = [False, *(event.path.kind == "relay" for event in peer.of(PathChanged))]
    return sum(before is not after for before, after in pairwise(relayed))


class FlappingPathTests(RelayTestCase):
    link = LinkSpec(delay=0.02)

    def check(
        self, seconds: float, drop: Callable[[Packet, float], bool], kind: str = EASY, *, no_udp: bool = False
    ) -> tuple[Peer, Peer]:
        """
        Both sides of a link write for so many seconds. All arrives, and the path changes a few times only.

        :param drop: whether a packet is lost, so many seconds after the beginning.
        :param no_udp: alice's network passes no UDP.
        """
        self.start()
        alice = self.peer(self.home("alice", kind, block_udp=no_udp))
        bob = self.peer(self.home("bob", kind))
        connect(alice, bob)
        self.net.advance(20.0)
        self.first = path_now(alice, bob)
        began = self.net.now
        self.net.drop = lambda packet: drop(packet, self.net.now - began)
        count = 0
        while self.net.now < began + seconds:
            alice.chat.send(bob.id, f"{count}")
            bob.chat.send(alice.id, f"{count}")
            count += 1
            self.net.advance(GAP)
        self.net.run_until(
            lambda: len(alice.messages) == len(bob.messages) == count, 10.0, "the last messages"
        )
        for peer in (alice, bob):
            self.assertEqual(peer.of(Disconnected), [])
            self.assertLessEqual(moves(peer), MOVES[seconds], peer.name)
            self.assertLessEqual(len(peer.of(PathChanged)), MOVES[seconds] + OTHERS, peer.name)
        return alice, bob

    def test_one_direction_loses_what_the_link_sends(self) -> None:
        """Checks pass, so that each attempt and each ICE restart finds the path again."""
        alice, bob = self.check(
            TEN_MINUTES,
            lambda packet, time: is_lost(packet, ALICE, BOB) or (packet.protocol == "tcp" and direct(packet)),
        )
        self.assertNotEqual(self.first, "relay")
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
        for peer in (alice, bob):
            self.assertGreater(moves(peer), 4)

    def test_the_other_direction(self) -> None:
        """To the controlling side."""
        self.check(200.0, lambda packet, time: is_lost(packet, BOB, ALICE))

    def test_it_works_for_ten_seconds_at_a_time(self) -> None:
        """Then it answers no check either, and is left for that; it would answer again soon."""
        alice, _ = self.check(200.0, lambda packet, time: direct(packet) and time % 20.0 < 10.0)
        self.assertGreater(moves(alice), 2)

    def test_a_connection_carries_nothing_after_some_seconds(self) -> None:
        """TCP connections between the two are made, and lose all segments five seconds later."""
        made: dict[frozenset[tuple[str, int]], float] = {}

        def drop(packet: Packet, time: float) -> bool:
            if packet.protocol != "tcp" or not direct(packet):
                return False
            return time > made.setdefault(frozenset((packet.source, packet.destination)), time) + 5.0

        alice, _ = self.check(200.0, drop, no_udp=True)
        self.assertGreater(moves(alice), 2)

    def test_a_relay_comes_and_goes(self) -> None:
        """Over UDP; over TCP, it is there all the time."""
        self.check(
            200.0,
            lambda packet, time: (
                packet.protocol == "udp"
                and SERVICE in (packet.source[0], packet.destination[0])
                and time % 20.0 < 10.0
            ),
            HARD,
        )

    def test_a_path_that_lasts_is_returned_to(self) -> None:
        """What was lost for ten seconds every two minutes is taken again as soon as it works."""
        alice, bob = self.check(
            TEN_MINUTES, lambda packet, time: direct(packet) and 10.0 < time % 120.0 < 20.0
        )
        self.assertEqual([moves(peer) for peer in (alice, bob)], [10, 10])

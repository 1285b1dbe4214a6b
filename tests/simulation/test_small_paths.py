"""Paths that carry connectivity checks but no datagrams of 1,200 bytes, and lose ICMP errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from punch.node.events import Disconnected, PathChanged
from punch.node.paths.path import HOLD
from punch.test.internet import LinkSpec, Packet
from punch.test.scenarios.relayed import EASY, RelayTestCase
from punch.test.scenarios.test_nats import path_now
from punch.test.system import SERVICE, Peer, connect
from punch.wire.address import FULL_SIZE

SMALL = 1220
"""Bytes of the largest packet: too few for a handshake of QUIC, and enough for the data after it."""
SMALLER = 1100
TEXT = "x" * 5000
ALICE, BOB = "203.0.113.1", "203.0.113.2"


def everything(packet: Packet) -> bool:
    return True


def between_peers(source: str, packet: Packet) -> bool:
    """Whether a packet goes to a peer, and not to the relay."""
    return packet.source[0].startswith(source) and packet.destination[0] != SERVICE


def is_quic(packet: Packet) -> bool:
    """Whether a packet is one of a link, and not a connectivity check."""
    data = packet.payload if isinstance(packet.payload, bytes) else b""
    return packet.protocol == "udp" and bool(data) and data[0] >= 0x40


def is_relayed(packet: Packet) -> bool:
    """Whether a packet to the relay is one of a link, and not a connectivity check through a channel."""
    channel = packet.destination[1] == 3478
    return is_quic(packet) and packet.payload[4 if channel else 0] >= 0x40


class SmallPathTests(RelayTestCase):
    link = LinkSpec(delay=0.02)

    def drop_large(self, on: Callable[[Packet], bool], size: int = SMALL) -> None:
        """From now on, drop larger UDP packets for which `on` returns True."""

        def large(packet: Packet) -> bool:
            return packet.protocol == "udp" and packet.size > size and on(packet)

        self.net.drop = large

    def bulk(self, alice: Peer, bob: Peer) -> float:
        """Send a long message each way; returns the seconds until both had arrived."""
        began, before = self.net.now, (len(alice.messages), len(bob.messages))
        alice.chat.send(bob.id, TEXT)
        bob.chat.send(alice.id, TEXT)
        self.net.run_until(
            lambda: (len(alice.messages), len(bob.messages)) == (before[0] + 1, before[1] + 1), 30.0, "bulk"
        )
        return self.net.now - began

    def test_a_line(self) -> None:
        """One side's line: direct paths and the relay over UDP are small, the relay over TCP is not."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        line = ("203.0.113.2", "192.168.2.2")
        self.drop_large(lambda packet: packet.source[0] in line or packet.destination[0] in line)
        for caller, callee in ((alice, bob), (bob, alice)):
            began = self.net.now
            connect(caller, callee)
            self.assertLess(self.net.now - began, 4.0)
            self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
            self.bulk(alice, bob)
            caller.node.hangup(callee.id)
            callee.wait_for(Disconnected, 5.0, len(callee.of(Disconnected)) + 1)

    def test_the_way_between_the_two(self) -> None:
        """If only the direct path is small, in one direction or both, a relay over UDP is used."""
        self.connect_where_it_is_small("203.0.113.")

    def test_one_direction_between_the_two(self) -> None:
        self.connect_where_it_is_small("203.0.113.2")

    def connect_where_it_is_small(self, source: str) -> None:
        """
        A relay is used.

        :param source: the beginning of the addresses whose large packets are lost on the direct path.
        """
        self.start()
        alice, bob = self.pair(EASY, EASY)
        self.drop_large(partial(between_peers, source))
        began = self.net.now
        connect(alice, bob)
        self.assertLess(self.net.now - began, 4.0)
        self.assertLess(self.bulk(alice, bob), 4.0)
        self.net.advance(30.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))

    def test_a_link_whose_path_shrinks(self) -> None:
        """If the path's MTU shrinks, a direct link moves to a relay, and nothing is lost."""
        self.shrink(partial(between_peers, "203.0.113."))

    def test_a_link_whose_paths_over_udp_all_shrink(self) -> None:
        """Then the relay is reached over TCP."""
        self.shrink(everything)

    def shrink(self, where: Callable[[Packet], bool]) -> None:
        """Lose the large packets of a direct link there."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.net.advance(30.0)
        self.assertNotEqual(path_now(alice, bob), "relay")
        self.drop_large(where, SMALLER)
        self.assertLess(self.bulk(alice, bob), 12.0)
        self.net.advance(1.0)
        self.assertEqual(path_now(alice, bob), "relay")
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])

    def test_a_healthy_path(self) -> None:
        """A link that loses nothing is asked nothing while it is in use."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.net.advance(5.0)
        full = []

        def note(packet: Packet) -> bool:
            data = packet.payload if isinstance(packet.payload, bytes) else b""
            if data and data[0] < 4 and len(data) >= FULL_SIZE:
                full.append(packet)
            return False

        self.net.drop = note
        for _ in range(3):
            self.bulk(alice, bob)
            self.net.advance(2.5)
        self.assertEqual(full, [])

    def test_checks_pass_and_quic_does_not(self) -> None:
        """If a path drops QUIC, the handshake gets no answer, and the next path is tried."""
        self.start()
        alice, bob = self.pair(EASY, EASY)

        direct = ("203.0.113.1", "203.0.113.2")
        self.net.drop = lambda packet: (
            packet.source[0] in direct and packet.destination[0] in direct and is_quic(packet)
        )
        began = self.net.now
        connect(alice, bob)
        self.assertLess(self.net.now - began, 4.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("relay", "relay"))
        self.chat(alice, bob, 3)


class LostForSomeSecondsTests(RelayTestCase):
    """A direct path that loses what the link sends for some seconds, while checks get through."""

    link = LinkSpec(delay=0.02)

    def test_one_side_returns(self) -> None:
        """
        The controlled side leaves the path, and the other one stays. So the first takes it again, as soon as
        it receives something there.
        """
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        self.net.advance(5.0)
        self.net.drop = lambda packet: (
            is_quic(packet) and (packet.source[0], packet.destination[0]) == ("203.0.113.1", "203.0.113.2")
        )
        bob.chat.send(alice.id, "lost at first")
        self.net.run_until(lambda: path_now(bob, alice) == "relay", 6.0, "the relay")
        self.assertEqual(path_now(alice, bob), "srflx")
        self.net.drop = lambda packet: False
        self.net.advance(2.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("srflx", "srflx"))
        self.assertEqual(alice.texts(), ["lost at first"])
        self.net.advance(60.0)
        self.assertEqual([len(peer.of(PathChanged)) for peer in (alice, bob)], [0, 2])

    def test_after_a_pause(self) -> None:
        """What is lost for a second after a pause is sent again, and the path is not left."""
        self.start()
        alice, bob = self.pair(EASY, EASY)
        connect(alice, bob)
        # Alice's last packet is an acknowledgement, which is not answered
        self.net.advance(15.0)
        began, relayed = self.net.now, []

        def drop(packet: Packet) -> bool:
            if packet.destination[0] == SERVICE:
                relayed.extend([packet] * is_relayed(packet))
                return False
            return is_quic(packet) and self.net.now < began + 1.0

        self.net.drop = drop
        alice.chat.send(bob.id, "lost at first")
        self.net.advance(30.0)
        self.assertEqual(relayed, [])
        self.assertEqual(bob.texts(), ["lost at first"])


class OneDirectionTests(RelayTestCase):
    """A direct path that passes all checks, and what the link sends in one direction only, for good."""

    link = LinkSpec(delay=0.02)

    def block(self, source: str, destination: str) -> tuple[Peer, Peer]:
        """Connect alice and bob directly, and drop from then on what their link sends in this direction."""
        self.start()
        alice = self.peer(self.net.host("alice", ALICE, link=self.link))
        bob = self.peer(self.net.host("bob", BOB, link=self.link))
        connect(alice, bob)
        self.net.advance(10.0)
        self.assertEqual((path_now(alice, bob), path_now(bob, alice)), ("host", "host"))
        self.relayed = 0

        def drop(packet: Packet) -> bool:
            ends = packet.source[0], packet.destination[0]
            self.relayed += ends == (source, SERVICE) and is_relayed(packet)
            return is_quic(packet) and ends == (source, destination)

        self.net.drop = drop
        return alice, bob

    def send(self, sender: Peer, receiver: Peer, count: int) -> None:
        """Send so many messages of 16 kB."""
        for number in range(count):
            sender.chat.send(receiver.id, f"{number} ".ljust(16_000, "x"))

    def check(self, alice: Peer, bob: Peer, receiver: Peer, count: int, within: float) -> None:
        """
        So many messages arrive within so many seconds. Both sides announce that the path is relayed, and
        nothing else, the second one at most three seconds later.
        """
        self.net.run_until(lambda: len(receiver.messages) == count, within, "the messages")
        self.net.run_until(lambda: alice.of(PathChanged) and bob.of(PathChanged), 3.0, "the announcements")
        self.net.advance(HOLD)
        for peer, other in ((alice, bob), (bob, alice)):
            self.assertEqual(path_now(peer, other), "relay")
            self.assertEqual({event.path.kind for event in peer.of(PathChanged)}, {"relay"})

    def test_to_the_controlling_side(self) -> None:
        """
        The controlled side leaves the path. The acknowledgements that it gets there do not say that its own
        data would arrive, so it returns once only.
        """
        alice, bob = self.block(BOB, ALICE)
        self.send(bob, alice, 60)
        # Twice 2.5 s on the path, and 1.1 s on the relay
        self.check(alice, bob, alice, 60, 7.5)

    def test_to_the_controlled_side(self) -> None:
        """
        The controlling side leaves the path, and does not return because of what the other one has sent
        before it followed.
        """
        alice, bob = self.block(ALICE, BOB)
        self.send(alice, bob, 5)
        self.net.run_until(lambda: self.relayed > 0, 5.0, "the relay")
        bob.chat.send(alice.id, "on its way")
        self.check(alice, bob, bob, 5, 1.5)
        self.assertEqual(alice.texts(), ["on its way"])

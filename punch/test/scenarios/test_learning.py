"""Which network a path that is remembered belongs to, and over which transport the relay is used there."""

from __future__ import annotations

from punch.node.network.relay_search import HEAD_START
from punch.node.punching.choice import ATTEMPTS
from punch.test.internet import NAT, LinkSpec, Mapping, Ports
from punch.test.scenarios.early import HOMES, EarlyTestCase
from punch.test.system import Connected, Peer, SystemTestCase, introduce


class MoveTests(EarlyTestCase):
    """Alice moves to another network while she has a link with Bob."""

    @property
    def networks(self) -> list[str]:
        """In which networks Alice had a path to Bob, as far as she remembers."""
        return [path.network for path in self.books[0].entry(self.bob.id).paths]

    def move(self, *, block_udp: bool = False) -> None:
        """Alice is in a guest network now, and has registered from there."""
        nat = NAT(public="203.0.113.9", block_udp=block_udp)
        guests = self.net.lan("guests", "192.168.9.0/24", nat=nat, link=LinkSpec(delay=0.05))
        self.alice.host.move(guests, "192.168.9.2")
        self.net.advance(10.0)

    def link(self, seconds: float) -> None:
        """Have both connected for a while; they know each other."""
        self.start()
        introduce(self.alice, self.bob)
        introduce(self.bob, self.alice)
        self.connect()
        self.net.advance(seconds)

    def check_without_a_path(self, seconds: float) -> None:
        """Bob is gone, and Alice hangs up in the other network: the path was one of the first network."""
        self.link(seconds)
        self.net.drop = lambda packet: HOMES[1] in (packet.source[0], packet.destination[0])
        before = self.networks
        self.move()
        self.assertIsNotNone(self.alice.node.status.rendezvous)
        self.assertEqual(self.networks, before)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        self.assertEqual(self.networks, before)
        self.stop()

    def test_a_link_that_has_no_path_there(self) -> None:
        """However long it had one before."""
        self.check_without_a_path(12.0)
        self.assertEqual(len(self.networks), 1)

    def test_a_short_link(self) -> None:
        """The time after which its path is remembered ends in the other network."""
        self.check_without_a_path(1.0)

    def test_attempts_that_failed_before(self) -> None:
        """They say nothing about the other network, in which UDP is blocked, so that its NAT is not known."""
        for nat in self.nats:
            nat.mapping, nat.ports = Mapping.APDM, Ports.SEQUENTIAL
        self.net.drop = lambda packet: packet.source[0] in HOMES and packet.destination[0] in HOMES
        self.link(10.0)
        self.assertGreaterEqual(self.alice.node.status.links[0].punching.attempts, ATTEMPTS)
        (first,) = self.networks
        self.net.drop = lambda packet: HOMES[1] in (packet.source[0], packet.destination[0])
        self.move(block_udp=True)
        self.alice.node.hangup(self.bob.id)
        self.net.advance(1.0)
        self.assertEqual(self.networks, [first])
        self.stop()

    def test_a_path_in_each(self) -> None:
        """Both are remembered."""
        self.link(12.0)
        (first,) = self.networks
        self.move()
        self.assertEqual(len(set(self.networks)), 2)
        self.assertEqual(self.networks[0], first)
        self.stop()


class RelayTransportTests(SystemTestCase):
    """By which transport the relay was reached last."""

    def seconds(self, alice: Peer, bob: Peer) -> float:
        """How long a call takes; then it ends, and its relays are given back."""
        count = len(alice.of(Connected))
        began = self.net.now
        alice.call(bob.id)
        alice.wait_for(Connected, 20.0, count + 1)
        seconds = self.net.now - began
        self.assertEqual(alice.last(Connected).path.kind, "relay")
        alice.node.hangup(bob.id)
        self.net.advance(400.0)
        return seconds

    def home(self, number: int) -> Peer:
        """A registered peer in a network without UDP."""
        nat = NAT(public=f"203.0.113.{number}", block_udp=True)
        lan = self.net.lan(f"home {number}", f"192.168.{number}.0/24", nat=nat, link=LinkSpec(delay=0.02))
        peer = Peer(self.net, lan.host(f"peer {number}"), self.rendezvous.address, pacing=0.02)
        self.peers.append(peer)
        return peer.register()

    def test_a_network_without_udp(self) -> None:
        """The first call waits for answers over UDP for a while, the next one does not."""
        alice, bob = self.home(1), self.home(2)
        introduce(alice, bob)
        first, second = self.seconds(alice, bob), self.seconds(alice, bob)
        self.assertAlmostEqual(first - second, HEAD_START, 1)

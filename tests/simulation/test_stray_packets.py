"""Packets of strangers, short mappings and relays that are slow, on whole systems."""

from __future__ import annotations

from punch.node.events import Connected, Disconnected, PathSlowed
from punch.rendezvous.config import RendezvousLimits
from punch.test.internet import NAT, Filtering
from punch.test.scenarios.test_regressions import StrayPacketCase
from punch.test.scenarios.test_relay_trouble import SlowedCase
from punch.test.system import Peer, SystemTestCase, connect, introduce
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


class StrayPacketTests(StrayPacketCase):
    """Packets of strangers, at each stage of a call."""

    def test_handshakes_of_strangers_before_the_link(self) -> None:
        """
        Initials from an address without a check are dropped; those from the caller's are, unproved, too.
        """
        introduce(self.alice, self.bob)
        self.alice.call(self.bob.id)
        for _ in range(80):
            self.net.advance(0.01)
            self.send(self.initial())
            self.inject(self.initial(), self.alice.node.status.sockets[0])
        self.alice.wait_for(Connected, 20.0)
        self.bob.wait_for(Connected, 20.0)
        self.assertEqual(self.stray.received, [])
        self.assert_unharmed()

    def test_tables_stay_small(self) -> None:
        """Packets from a thousand addresses leave no state behind."""
        connect(self.alice, self.bob)
        before = self.sizes()
        for number in range(1000):
            source = Address(f"192.0.2.{number % 250 + 1}", 1024 + number)
            self.inject(self.initial() if number % 10 == 0 else bytes([number % 256]) * 50, source)
        self.net.advance(2.0)
        connection_ids, pairs = self.sizes()
        self.assertLessEqual(connection_ids, before[0])
        self.assertEqual(pairs, before[1])
        self.assert_unharmed()


class ShortMappingTests(SystemTestCase):
    """NATs that soon forget."""

    def test_idle_link_outlives_short_mappings(self) -> None:
        """With NATs that drop mappings after 30 s, keepalives hold an idle link for ten minutes."""
        peers = []
        for number, name in enumerate(("alice", "bob"), 1):
            nat = NAT(public=f"203.0.113.{number}", filtering=Filtering.APDF, timeout=30.0)
            lan = self.net.lan(name, f"192.168.{number}.0/24", nat=nat, link=self.link)
            peer = Peer(self.net, lan.host(name), self.rendezvous.address).register()
            peers.append(peer)
        self.peers += peers
        alice, bob = peers
        connect(alice, bob)
        self.net.advance(600.0)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])
        alice.chat.send(bob.id, "ten minutes later")
        self.net.run_until(lambda: alice.delivered, 5.0)


class SlowRelayTests(SlowedCase):
    """A relay that is slower than what is sent."""

    def test_the_link_says_so(self) -> None:
        """
        The peer whose relay drops what the link sends is told once, and tells the other side, whose user is
        told once, too. Their status says so while it lasts.
        """
        self.start(RendezvousLimits(relay_rate_per_peer=40_000.0))
        alice, bob = self.pair()
        connect(alice, bob)
        self.net.advance(5.0)
        self.assertEqual(alice.of(PathSlowed) + bob.of(PathSlowed), [])
        for number in range(100):
            alice.chat.send(bob.id, f"{number}" * 1000)
        self.net.run_until(lambda: alice.of(PathSlowed) and bob.of(PathSlowed), 60.0, "the limit")
        self.assertEqual({self.slowed(alice, bob), self.slowed(bob, alice)}, {RelayLimit.PEER})
        self.net.run_until(lambda: len(bob.messages) == 100, 60.0, "the messages")
        told = [(peer, event) for peer in (alice, bob) for event in peer.of(PathSlowed)]
        self.assertEqual([event.limit for _, event in told], [RelayLimit.PEER] * 2)
        self.assertEqual([event.peer for _, event in told], [bob.id, alice.id])
        self.assertEqual(sorted(event.there for _, event in told), [False, True])
        self.net.advance(41.0)
        self.assertEqual({self.slowed(alice, bob), self.slowed(bob, alice)}, {None})
        self.chat(alice, bob)

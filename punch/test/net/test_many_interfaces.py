"""Machines with many interfaces of which most lead nowhere; cables with link-local addresses alone."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.reach import is_local, may_pair, may_relay, usable
from punch.net.interfaces import (
    LIMIT,
    Interface,
    select,
    usable_addresses,
)
from punch.node.events import Connected
from punch.node.policies import RelayPolicy
from punch.test.internet import NAT, Host, InternetTestCase, LinkSpec
from punch.test.node.netcheck_network import NetcheckNetwork
from punch.test.system import Peer, Rendezvous, SystemTestCase, connect
from punch.wire.address import Address, preference_class
from punch.wire.turn import TurnTransport

NAMES = "service", "alice", "bob"
CUT_OFF = 12
"""Networks that lead nowhere."""


class SelectTests(SynchronousTestCase):
    """Which addresses are used, and in which order."""

    def test_the_way_out_comes_first(self) -> None:
        """However many look better, and however it looks itself."""
        others = [f"10.{number}.0.2" for number in range(30)] + [
            f"2001:db8:{number + 10}::2" for number in range(30)
        ]
        for source in ("192.168.1.2", "172.17.0.1", "fd00::7", "169.254.1.1", "2001:db8:7::2"):
            chosen = select([*others, source], preferred=[source])
            self.assertEqual((chosen[0], len(chosen)), (source, LIMIT))
        both = select(
            [*others, "192.168.1.2", "fd00::7"], preferred=["192.168.1.2", "fd00::7", "192.168.1.2"]
        )
        self.assertEqual((both[:2], len(both)), (["192.168.1.2", "fd00::7"], LIMIT))
        self.assertEqual(select(others, 1, preferred=others[:3]), others[:3])
        self.assertEqual(select(["10.0.0.1"], preferred=["127.0.0.1", "192.0.2.9"]), ["10.0.0.1"])

    def test_nothing_is_dropped_before_the_way_out_is_known(self) -> None:
        """The machine tells all of its addresses."""
        interfaces = [Interface(f"eth{number}", f"10.{number}.0.2") for number in range(40)]
        self.assertEqual(len(usable_addresses(interfaces)), 40)

    def test_link_local(self) -> None:
        """IPv4's are the last choice; IPv6's need a zone."""
        found = select(["169.254.3.4", "fe80::1", "192.168.1.1", "10.0.0.2", "fd00::2"])
        self.assertEqual(found, ["10.0.0.2", "fd00::2", "192.168.1.1", "169.254.3.4"])
        self.assertEqual(select(["169.254.3.4", "127.0.0.1"]), ["169.254.3.4"])


class LinkLocalTests(SynchronousTestCase):
    """What may be sent where."""

    def test_rules(self) -> None:
        """With each other alone, and never through a relay elsewhere."""
        here, there = Address("169.254.1.1", 1), Address("169.254.2.2", 2)
        lan, world, six = Address("192.168.1.2", 3), Address("203.0.113.1", 4), Address("fe80::1", 5)
        self.assertTrue(usable(here))
        self.assertFalse(usable(six))
        self.assertTrue(may_pair(here, there))
        for other in (lan, world):
            self.assertFalse(may_pair(here, other))
            self.assertFalse(may_pair(other, here))
            self.assertEqual(may_relay(other, here), is_local(other.host))
        self.assertGreater(preference_class("169.254.1.1"), preference_class("fd00::1"))


class WayOutTests(SystemTestCase):
    """A peer whose way out is the last of its interfaces."""

    def crowded(self, name: str) -> Host:
        """A host on many networks without a router, and at home at last."""
        host = self.net.lan(f"{name} cut 0", "10.0.0.0/24", isolated=True).host(name)
        for number in range(1, CUT_OFF):
            host.attach(self.net.lan(f"{name} cut {number}", f"10.{number}.0.0/24", isolated=True))
        home = self.host(f"{name} at home")
        host.attach(home.interfaces[0].network)
        return host

    def test_a_direct_path(self) -> None:
        """Between two of them: as soon as between any two homes, and the way out is told first."""
        hosts = [self.crowded(name) for name in ("alice", "bob")]
        alice, bob = (Peer(self.net, host, self.rendezvous.address) for host in hosts)
        self.peers += [alice, bob]
        for peer in (alice, bob):
            peer.register()
        self.net.advance(3.0)
        here_at = self.net.now
        connect(alice, bob, 5.0)
        self.assertLess(self.net.now - here_at, 1.0)
        self.net.advance(5.0)
        pairs = [pair for pair in alice.node.pairs(bob.id) if pair.selected]
        self.assertEqual([pair.local.host for pair in pairs], [hosts[0].addresses[-1]])

    def test_a_relay(self) -> None:
        """Over UDP, from the way out: the other interfaces take none of the few tries from it."""
        host = self.crowded("alice")
        alice = Peer(self.net, host, self.rendezvous.address, relay=RelayPolicy.ONLY)
        bob = self.peer("bob")
        self.peers.append(alice)
        for peer in (alice, bob):
            peer.register()
        self.net.advance(3.0)
        here_at = self.net.now
        here, _ = connect(alice, bob, 5.0)
        self.assertLess(self.net.now - here_at, 1.0)
        self.assertEqual(here.path.kind, "relay")
        (relay,) = alice.node.status.relays
        assert relay.socket is not None
        self.assertEqual((relay.transport, relay.socket.host), (TurnTransport.UDP, host.addresses[-1]))


class CableTests(SystemTestCase):
    """One cable, and no addresses but those that machines give themselves."""

    def setUp(self) -> None:
        self.net = self.internet()
        cable = self.net.lan("cable", "169.254.0.0/16", isolated=True, host_link=LinkSpec(delay=0.001))
        self.hosts = [cable.host(name, f"169.254.7.{n}") for n, name in enumerate(NAMES, 1)]
        self.rendezvous = Rendezvous(self.net, self.hosts[0], name="169.254.7.1")
        self.homes, self.peers = 0, []

    def test_a_call(self) -> None:
        """Directly, in both directions."""
        alice, bob = (Peer(self.net, host, self.rendezvous.address) for host in self.hosts[1:])
        self.peers += [alice, bob]
        for peer in (alice, bob):
            peer.register()
        here, there = connect(alice, bob, 5.0)
        self.assertEqual((here.path.kind, there.path.kind), ("host", "host"))
        self.assertEqual(here.path.local.host, "169.254.7.2")
        self.assertEqual(len(alice.of(Connected)), 1)


class NetcheckTests(InternetTestCase):
    """The same for what is found out about a network."""

    def test_the_way_out(self) -> None:
        """UDP gets through, and the first address is the one from which it does."""
        net = self.internet()
        network = NetcheckNetwork(net)
        host = net.lan("cut 0", "10.0.0.0/24", isolated=True).host("alice")
        for number in range(1, CUT_OFF):
            host.attach(net.lan(f"cut {number}", f"10.{number}.0.0/24", isolated=True))
        host.attach(net.lan("home", "192.168.1.0/24", nat=NAT(public="203.0.113.1")))
        report = network.run(host)
        self.assertTrue(report.udp)
        assert report.ipv4 is not None
        self.assertEqual(report.ipv4.local_addresses[0], "192.168.1.2")

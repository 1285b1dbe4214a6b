"""Direct pairs that have failed are checked again while a worse one is selected."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.pacing import REPEAT
from punch.ice.pairs import PathKind
from punch.ice.transactions import REQUESTS
from punch.test.ice.ice_network import NAT, Host, IceNetwork
from punch.wire.address import Address

CHECK = 39.5
"""Seconds after which the check of a pair fails if it is not answered."""
OPEN = 10.0
"""Seconds for which a firewall lets answers in."""


class RepeatedCheckTests(SynchronousTestCase):
    """IPv4 is behind NATs, and IPv6 behind firewalls, between which nothing passes at first."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.until = float("inf")
        self.sent: list[float] = []
        self.opened: dict[tuple[str, str], float] = {}
        self.network.blocked = self.blocked
        alice_nat, bob_nat = NAT("203.0.113.1"), NAT("203.0.113.2")
        self.alice = self.network.host("alice", "192.168.1.2", "2001:db8:1::2", nat=alice_nat)
        self.bob = self.network.host("bob", "192.168.2.2", "2001:db8:2::2", nat=bob_nat, controlling=False)

    def blocked(self, source: Address, target: Address) -> bool:
        """Whether a firewall or the network between them drops a datagram."""
        if not (source.is_ipv6 and target.is_ipv6):
            return False
        if source.host.startswith("2001:db8:1:"):
            self.sent.append(self.network.now)
        now = self.network.now
        self.opened[source.host, target.host] = now
        closed = now > self.opened.get((target.host, source.host), 0.0) + OPEN
        return now < self.until or closed

    def connect(self) -> None:
        """Have the two connected over IPv4."""
        self.network.pair(self.alice, self.bob)
        self.network.run(5.0)
        for host in (self.alice, self.bob):
            self.assertEqual(self.kind(host), PathKind.REFLEXIVE)

    def kind(self, host: Host) -> PathKind:
        """The kind of path that this side has."""
        return host.path.kind

    def test_found_later(self) -> None:
        """When IPv6 works again, the next check finds it, on both sides."""
        self.connect()
        self.until = self.network.now + CHECK
        self.network.run(CHECK + REPEAT[0] + 5.0)
        for host in (self.alice, self.bob):
            self.assertEqual((self.kind(host), host.path.local_base.is_ipv6), (PathKind.HOST, True))

    def test_a_small_path(self) -> None:
        """The path over IPv4 carries no large datagrams, so that it counts as impaired."""
        self.network.largest = lambda source, target: 65535 if source.is_ipv6 else 1000
        self.test_found_later()

    def test_seldom(self) -> None:
        """If it never works, the waits become longer, up to five minutes."""
        self.connect()
        hour = 3600.0
        self.network.run(hour)
        self.assertLess(len(self.sent), 14 * (REQUESTS + 1))
        late = [time for time in self.sent if time > self.network.now - hour / 2]
        self.assertLessEqual(len(late), REQUESTS * (hour / 2 / (REPEAT[1] + CHECK) + 1))
        self.assertGreater(len(late), REQUESTS * 4)

    def test_nothing_better(self) -> None:
        """Private addresses behind different NATs, and pairs that are no better, are not checked again."""
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1"))
        bob = network.host("bob", "192.168.2.2", nat=NAT("203.0.113.2"), controlling=False)
        network.pair(alice, bob)
        network.run(120.0)
        sent: list[Address] = []

        def note(source: Address, target: Address) -> bool:
            sent.append(target)
            return False

        network.blocked = note
        network.run(600.0)
        self.assertEqual({target.host for target in sent}, {"203.0.113.1", "203.0.113.2"})

"""Small parts of the relay: destinations, bandwidth, deadlines and addresses."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.net.deadlines import Deadlines
from punch.net.token_bucket import HEADERS, TokenBucket, admit
from punch.rendezvous.config import RendezvousConfig
from punch.rendezvous.relay_service import shown_addresses
from punch.turn.server.settings import Destinations, Hosts, RelaySettings


class DestinationTests(SynchronousTestCase):
    """Destinations to which nothing is relayed."""

    def setUp(self) -> None:
        self.destinations = Destinations(is_own={"198.51.100.1", "2001:db8::1"}.__contains__)

    def refused(self, *hosts: str) -> None:
        for host in hosts:
            self.assertTrue(self.destinations.refuses(host), host)

    def allowed(self, *hosts: str) -> None:
        for host in hosts:
            self.assertFalse(self.destinations.refuses(host), host)

    def test_documentation(self) -> None:
        """Nobody's network, so nobody is harmed; test networks and our own simulation use them."""
        self.allowed("192.0.2.1", "198.51.100.2", "203.0.113.1", "2001:db8::2")

    def test_wrapped(self) -> None:
        """IPv6 addresses that lead to an IPv4 address are treated like it."""
        for inner, hexadecimal in (
            ("127.0.0.1", "7f00:1"),
            ("10.0.0.1", "a00:1"),
            ("198.51.100.1", "c633:6401"),
        ):
            self.refused(f"::ffff:{inner}", f"64:ff9b::{inner}", f"2002:{hexadecimal}::1", f"::{inner}")
        self.allowed("::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::1", "2a00::1")

    def test_own(self) -> None:
        self.refused("198.51.100.1", "2001:db8::1", "2001:0db8:0:0::1")

    def test_networks_for_tests(self) -> None:
        """An address of an allowed network is allowed in every form."""
        self.destinations = Destinations(
            [ip_network("127.0.0.0/8"), ip_network("fd00::/8")], is_own=lambda host: True
        )
        self.allowed("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "fd12::1")
        self.refused("10.0.0.1", "fc12::1", "203.0.113.1")

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.ip_addresses())
    def test_any_address(self, address: object) -> None:
        self.assertIsInstance(self.destinations.refuses(str(address)), bool)


class TokenBucketTests(SynchronousTestCase):
    """Token buckets for batches of datagrams."""

    def test_what_fits(self) -> None:
        """The first datagrams are admitted, as many as the emptiest bucket has tokens for."""
        data = [bytes(100 - HEADERS)] * 10
        wide, narrow = TokenBucket(1000, 1000, 0.0), TokenBucket(100, 500, 0.0)
        other = TokenBucket(1000, 1000, 0.0)
        self.assertEqual(admit(data, (wide, narrow, other), 0.0), (data[:5], 5 * (100 - HEADERS)))
        available = [bucket.available(0.0) for bucket in (wide, narrow, other)]
        self.assertEqual(available, [500, 0, 500])
        self.assertEqual(admit(data, (other, wide, narrow), 1.0), (data[:1], 100 - HEADERS))
        self.assertEqual(admit(data, (narrow, wide, other), 1000.0), (data[:5], 5 * (100 - HEADERS)))
        self.assertEqual(narrow.full_at(1000.0), 1005.0)

    def test_time_that_stands_still(self) -> None:
        bucket = TokenBucket(100, 100, 5.0)
        bucket.spend(50)
        self.assertEqual((bucket.available(5.0), bucket.available(4.0)), (50, 50))


class DeadlineTests(SynchronousTestCase):
    """A heap with many deadlines."""

    def test_order(self) -> None:
        deadlines: Deadlines[object] = Deadlines()
        for key, when in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
            deadlines.set(key, when)
        deadlines.set("a", 2.5)
        deadlines.discard("b")
        self.assertEqual(deadlines.next(), 2.5)
        self.assertIsNone(deadlines.pop(2.4))
        self.assertEqual([deadlines.pop(9.0) for _ in range(3)], ["a", "c", None])
        self.assertIsNone(deadlines.next())

    def test_does_not_grow(self) -> None:
        """The heap does not grow, however often a deadline moves, or is set and discarded."""
        deadlines: Deadlines[object] = Deadlines()
        for number in range(10_000):
            deadlines.set(number % 10, 1e6 - number)
            deadlines.set("short", 1e5 + number)
            deadlines.discard("short")
        self.assertEqual(len(deadlines), 10)
        self.assertLess(deadlines.heap_size, 100)
        self.assertEqual(deadlines.next(), 1e6 - 9999)
        deadlines.clear()
        self.assertIsNone(deadlines.next())


class HostTests(SynchronousTestCase):
    """The addresses of relayed ports."""

    def test_where(self) -> None:
        machine = ("192.0.2.1", "2001:db8::1")
        none = RelaySettings((b"s",))
        plain = RelaySettings((b"s",), machine=machine)
        nat = RelaySettings((b"s",), machine=machine, shown=("203.0.113.5",))
        for settings_, local, ipv6, expected in (
            (plain, "198.51.100.1", False, Hosts("198.51.100.1", "198.51.100.1")),
            (plain, "198.51.100.1", True, Hosts("2001:db8::1", "2001:db8::1")),
            (plain, "127.0.0.1", False, Hosts("192.0.2.1", "192.0.2.1")),
            (plain, "0.0.0.0", False, Hosts("192.0.2.1", "192.0.2.1")),
            (nat, "10.0.0.5", False, Hosts("10.0.0.5", "203.0.113.5")),
            (nat, "10.0.0.5", True, Hosts("2001:db8::1", "2001:db8::1")),
            (none, "127.0.0.1", False, Hosts("127.0.0.1", "127.0.0.1")),
            (none, "127.0.0.1", True, None),
            (none, "0.0.0.0", False, None),
            (
                RelaySettings((b"s",), shown=("203.0.113.5",)),
                "0.0.0.0",
                False,
                Hosts("0.0.0.0", "203.0.113.5"),
            ),
        ):
            self.assertEqual(settings_.hosts(local, ipv6), expected, (local, ipv6))

    def test_shown(self) -> None:
        """A private machine at a public address shows that, without being told."""
        identity = Identity.generate(lambda size: bytes(size))
        for host, machine, said, expected in (
            ("203.0.113.5", ["10.0.0.5"], [], ["203.0.113.5"]),
            ("203.0.113.5", ["10.0.0.5"], ["203.0.113.6"], ["203.0.113.6"]),
            ("203.0.113.5", ["10.0.0.5"], ["2001:db8::6"], ["2001:db8::6", "203.0.113.5"]),
            ("203.0.113.5", ["198.51.100.1"], [], []),
            ("203.0.113.5", [], [], []),
            ("127.0.0.1", ["10.0.0.5"], [], []),
            ("punch.example.org", ["10.0.0.5"], [], []),
            (None, ["10.0.0.5"], [], []),
        ):
            config = RendezvousConfig(identity, host=host, machine_addresses=machine, relay_addresses=said)
            self.assertEqual(list(shown_addresses(config)), expected, host)

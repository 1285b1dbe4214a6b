"""Tests for punch.net.sources."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.sources import Shares, source_of


class SourceTests(SynchronousTestCase):
    """The prefixes of hosts."""

    def test_prefixes(self) -> None:
        """Addresses of one prefix have it in common, and no other prefix."""
        for one, other, common in (
            ("203.0.113.7", "203.0.113.7", 2),
            ("203.0.113.7", "203.0.113.8", 1),
            ("203.0.113.7", "203.0.112.7", 0),
            ("2001:db8:1:200::1", "2001:db8:1:200:ffff:ffff:ffff:ffff", 3),
            ("2001:db8:1:200::1", "2001:db8:1:2ff::1", 2),
            ("2001:db8:1:200::1", "2001:db8:1:300::1", 1),
            ("2001:db8:1:200::1", "2001:db8:2:200::1", 0),
            ("::ffff:203.0.113.7", "203.0.113.7", 2),
            ("64:ff9b::203.0.113.7", "203.0.113.7", 2),
            ("64:ff9b::203.0.113.7", "64:ff9b::203.0.112.7", 0),
            ("2002:cb00:7107:1::1", "2002:cb00:7107:ff00::1", 2),
            ("2002:cb00:7107:1::1", "203.0.113.8", 1),
            ("2002:cb00:7107:1::1", "2002:cb00:7007:1::1", 0),
            ("fe80::1%eth0", "fe80::2%eth1", 3),
            ("", "/run/punch/socket", 0),
        ):
            a, b = source_of(one), source_of(other)
            self.assertEqual(sum(x == y for x, y in zip(a, b, strict=False)), common, (one, other))
        # No IPv4 prefix is one of IPv6.
        self.assertEqual(set(source_of("32.1.13.184")) & set(source_of("2001:db8::")), set())

    def test_shares(self) -> None:
        """Wider prefixes have more."""
        shares = Shares.growing(5)
        self.assertEqual([shares.of(prefix) for prefix in source_of("192.0.2.1")], [20, 5])
        self.assertEqual([shares.of(prefix) for prefix in source_of("2001:db8::1")], [20, 10, 5])
        self.assertEqual([shares.of(prefix) for prefix in source_of("nobody")], [5])
        for senseless in ((0, 1, 1), (2, 1, 2), (1, 2, 1)):
            self.assertRaises(ValueError, Shares, *senseless)

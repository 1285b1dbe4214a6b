"""Tests for punch.rendezvous.limits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.limits import Counters, TokenBuckets, prefix_key

PROPERTIES = settings(derandomize=True, deadline=None, max_examples=100)


class TokenBucketTests(SynchronousTestCase):
    """So much at once, so much in the long run, for each key, in a table that doesn't grow."""

    def test_burst(self) -> None:
        """A key that is new may do as much as its bucket holds."""
        buckets = TokenBuckets(10, 5, 100)
        self.assertEqual([buckets.allow("a", 7.0) for _ in range(7)], [True] * 5 + [False] * 2)

    def test_rate(self) -> None:
        """After that, as much as flows in."""
        buckets = TokenBuckets(10, 5, 100)
        for _ in range(5):
            buckets.allow("a", 0.0)
        self.assertFalse(buckets.allow("a", 0.05))
        self.assertTrue(buckets.allow("a", 0.1))
        self.assertFalse(buckets.allow("a", 0.15))
        allowed = sum(buckets.allow("a", 0.1 + step / 1000) for step in range(10_000))
        self.assertIn(allowed, (99, 100))

    def test_pause(self) -> None:
        """However long the pause, a bucket is no more than full."""
        buckets = TokenBuckets(10, 5, 100)
        for now in (0.0, 1e6):
            self.assertEqual(sum(buckets.allow("a", now) for _ in range(20)), 5)

    def test_keys(self) -> None:
        """One key's bucket is not another's."""
        buckets = TokenBuckets(1, 1, 100)
        self.assertTrue(buckets.allow("a", 0.0))
        self.assertTrue(buckets.allow("b", 0.0))
        self.assertFalse(buckets.allow("a", 0.0))

    def test_cost(self) -> None:
        """Something may cost more than one token; what is refused costs nothing."""
        buckets = TokenBuckets(1, 10, 100)
        self.assertTrue(buckets.allow("a", 0.0, 8))
        self.assertFalse(buckets.allow("a", 0.0, 3))
        self.assertTrue(buckets.allow("a", 0.0, 2))
        self.assertFalse(buckets.allow("b", 0.0, 11))
        self.assertTrue(buckets.allow("b", 0.0, 10))

    def test_fixed_size(self) -> None:
        """A million keys take no more room than the table has."""
        buckets = TokenBuckets(0.001, 10, 50)
        for number in range(20_000):
            self.assertTrue(buckets.allow(number, 0.0))
            self.assertLessEqual(len(buckets), 50)

    def test_busy_stay(self) -> None:
        """A key that keeps asking keeps its empty bucket while others come and go."""
        buckets = TokenBuckets(0.001, 1, 50)
        self.assertTrue(buckets.allow("busy", 0.0))
        for number in range(1000):
            buckets.allow(number, 0.0)
            self.assertFalse(buckets.allow("busy", 0.0))

    def test_forgets(self) -> None:
        """Buckets that are full again are dropped as others come."""
        buckets = TokenBuckets(10, 5, 1000)
        for number in range(1000):
            buckets.allow(number, 0.0)
        for number in range(600):
            buckets.allow(("later", number), 100.0)
        self.assertEqual(len(buckets), 600)

    def test_time_going_back(self) -> None:
        """It gives nobody more than its due, and raises nothing."""
        buckets = TokenBuckets(10, 5, 100)
        for _ in range(5):
            buckets.allow("a", 100.0)
        self.assertFalse(buckets.allow("a", 50.0))

    def test_senseless(self) -> None:
        """A bucket that could never let anything through is a mistake of who made it."""
        for rate, burst, capacity in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)]:
            self.assertRaises(ValueError, TokenBuckets, rate, burst, capacity)

    @given(
        st.floats(0.1, 100),
        st.integers(1, 50),
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=200),
    )
    @PROPERTIES
    def test_never_more(self, rate: float, burst: int, questions: list[tuple[str, float]]) -> None:
        """In any time, no key gets more than the burst and what flowed in."""
        buckets = TokenBuckets(rate, burst, 2)
        single = TokenBuckets(rate, burst, 100)
        now = 0.0
        allowed: Counter[str] = Counter()
        for key, pause in questions:
            now += pause
            buckets.allow(key, now)
            self.assertLessEqual(len(buckets), 2)
            allowed[key] += single.allow(key, now)
            self.assertLessEqual(allowed[key], burst + now * rate + 0.01)


class CounterTests(SynchronousTestCase):
    """So many for each key, so many in all."""

    def test_each(self) -> None:
        """A key has its own limit."""
        counters = Counters(2, 100)
        self.assertEqual([counters.enter("a") for _ in range(3)], [True, True, False])
        self.assertTrue(counters.enter("b"))
        self.assertEqual((counters["a"], counters["b"], counters["c"], counters.total), (2, 1, 0, 3))

    def test_total(self) -> None:
        """All keys together have one too."""
        counters = Counters(2, 3)
        self.assertEqual([counters.enter(key) for key in "aabbc"], [True, True, True, False, False])
        counters.leave("a")
        self.assertTrue(counters.enter("c"))

    def test_leave(self) -> None:
        """What has left makes room, and keys without anything are not kept."""
        counters = Counters(1, 10)
        for _ in range(3):
            self.assertTrue(counters.enter("a"))
            self.assertFalse(counters.enter("a"))
            counters.leave("a")
        self.assertEqual((len(counters), counters.total), (0, 0))

    def test_leave_without_enter(self) -> None:
        """It is a mistake, and counts nothing."""
        counters = Counters(1, 10)
        self.assertRaises(KeyError, counters.leave, "a")
        self.assertEqual(counters.total, 0)

    def test_senseless(self) -> None:
        """Limits are at least one."""
        self.assertRaises(ValueError, Counters, 0, 1)
        self.assertRaises(ValueError, Counters, 1, 0)

    @given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=200))
    @PROPERTIES
    def test_any_order(self, steps: list[tuple[bool, str]]) -> None:
        """Counts are right after any coming and going."""
        counters = Counters(3, 7)
        inside: Counter[str] = Counter()
        for entering, key in steps:
            if entering:
                possible = inside[key] < 3 and inside.total() < 7
                self.assertEqual(counters.enter(key), possible)
                inside[key] += possible
            elif inside[key]:
                counters.leave(key)
                inside[key] -= 1
            self.assertEqual(counters[key], inside[key])
            self.assertEqual(counters.total, inside.total())
            self.assertEqual(len(counters), sum(1 for count in inside.values() if count))


class PrefixTests(SynchronousTestCase):
    """What counts as one place."""

    def test_ipv4(self) -> None:
        """The /24."""
        self.assertEqual(prefix_key("203.0.113.77"), "203.0.113.0/24")
        self.assertEqual(prefix_key("203.0.113.0"), prefix_key("203.0.113.255"))
        self.assertNotEqual(prefix_key("203.0.113.1"), prefix_key("203.0.112.1"))

    def test_ipv6(self) -> None:
        """The /64, however it is written, with a zone or without."""
        self.assertEqual(prefix_key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64")
        self.assertEqual(prefix_key("2001:0DB8:0001:0002::"), "2001:db8:1:2::/64")
        self.assertEqual(prefix_key("fe80::1%eth0"), "fe80::/64")
        self.assertNotEqual(prefix_key("2001:db8:1:3::"), "2001:db8:1:2::/64")

    def test_mapped(self) -> None:
        """An IPv4 address written as IPv6 is where the IPv4 address is."""
        self.assertEqual(prefix_key("::ffff:203.0.113.77"), "203.0.113.0/24")

    def test_no_address(self) -> None:
        """Names have no prefix."""
        for host in ("", "example.org", "203.0.113", "203.0.113.256"):
            self.assertRaises(ValueError, prefix_key, host)

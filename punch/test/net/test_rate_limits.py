"""Tests for punch.net.rate_limits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.rate_limits import Counters, NoRoom, SourceBuckets, SourceScope, SourceTable
from punch.net.sources import Shares, Source, source_of
from punch.net.token_bucket import TokenBuckets

PROPERTIES = settings(derandomize=True, deadline=None, max_examples=100)


class TokenBucketTests(SynchronousTestCase):
    """So much at once, so much in the long run, for each key, in a table that doesn't grow."""

    def test_burst(self) -> None:
        """A key that is new may do as much as its bucket holds."""
        buckets = TokenBuckets(10, 5, 100)
        self.assertEqual([buckets.allow("a", 7.0) for _ in range(7)], [True] * 5 + [False] * 2)

    def test_rate(self) -> None:
        """When the burst is used up, a key gets as much as is refilled."""
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

    def test_when_it_has_enough(self) -> None:
        """A bucket tells when it holds so many tokens again."""
        buckets = TokenBuckets(2, 10, 100)
        self.assertEqual(buckets.has_at("a", 7.0, 10), 7.0)
        self.assertTrue(buckets.allow("a", 7.0, 10))
        at = buckets.has_at("a", 8.0, 4)
        self.assertEqual((at, buckets.has("a", at, 4), buckets.has("a", at - 0.01, 4)), (9.0, True, False))
        self.assertEqual(buckets.has_at("a", 9.5, 4), 9.5)

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

    def test_emptied_stay(self) -> None:
        """Many keys that take little do not have an emptied bucket forgotten, which would fill it at once."""
        buckets = TokenBuckets(1, 10, 50)
        self.assertTrue(buckets.allow("flood", 0.0, 10))
        for number in range(1000):
            buckets.allow(number, number / 1000)
        self.assertFalse(buckets.allow("flood", 1.0, 2))
        self.assertTrue(buckets.allow("flood", 1.0, 1))

    def test_refusing_stay(self) -> None:
        """The same where a bucket holds one token, and others are emptied later."""
        buckets = TokenBuckets(0.1, 1, 50)
        self.assertTrue(buckets.allow("busy", 0.0))
        for number in range(1000):
            buckets.allow(number, number / 200)
            self.assertFalse(buckets.allow("busy", number / 200))
        self.assertLessEqual(len(buckets), 50)

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
        """No key gets more in any time than the burst and what was refilled in that time."""
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
        """An entry that has left makes room, and keys without entries are not kept."""
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


class SourceTableTests(SynchronousTestCase):
    """Nobody fills a table from one place."""

    def fill(self, table: SourceTable[int], hosts: list[str]) -> int:
        """Let each host ask for a place; returns how many got one."""
        got = 0
        for host in hosts:
            self.number += 1
            try:
                evicted = table.room(source_of(host))
                if evicted is not None:
                    table.leave(evicted)
                table.enter(source_of(host), self.number)
            except NoRoom:
                continue
            got += 1
        return got

    def setUp(self) -> None:
        self.number = 0

    def test_share_of_an_address(self) -> None:
        """It is not exceeded, whoever else is there."""
        table = SourceTable[int](100, Shares.growing(4))
        self.assertEqual(self.fill(table, ["192.0.2.1"] * 10), 4)
        self.assertEqual(self.fill(table, ["2001:db8::1", "2001:db8::2"] * 5), 4)
        self.assertEqual(table.count(source_of("2001:db8::3")), 4)
        self.assertEqual(table.count(source_of("2001:db8:0:1::3")), 0)
        with self.assertRaises(NoRoom) as caught:
            table.enter(source_of("192.0.2.1"), 99)
        self.assertIs(caught.exception.scope, SourceScope.ADDRESS)

    def test_replaced_entries(self) -> None:
        """The new one is the newest of the source, which has as many entries as before."""
        table = SourceTable[int](3, Shares.growing(3))
        source = source_of("192.0.2.1")
        for number in range(3):
            table.enter(source, number)
        table.replace(0, 3)
        self.assertEqual((table.count(source), table.oldest(source), table.newest(source)), (3, 1, 3))
        self.assertEqual((0 in table, 3 in table, table.source(3)), (False, True, source))
        self.assertRaises(KeyError, table.replace, 0, 4)
        for number in (1, 2, 3):
            table.leave(number)
        self.assertEqual((len(table), table.count(source[:1])), (0, 0))

    def test_share_of_wider_prefixes(self) -> None:
        """A /56, a /48 and a /24 have some addresses' worth, however many they have."""
        table = SourceTable[int](10_000, Shares.growing(4))
        self.fill(table, [f"2001:db8:0:{number:x}::1" for number in range(256) for _ in range(8)])
        self.assertEqual(len(table), 8)
        self.fill(table, [f"2001:db8:1:{number * 256:x}::1" for number in range(256) for _ in range(8)])
        self.assertEqual(len(table), 8 + 16)
        self.fill(table, [f"192.0.2.{number}" for number in range(256) for _ in range(8)])
        self.assertEqual(len(table), 8 + 16 + 16)
        for host in ("192.0.2.255", "2001:db8:1:ff77::1", "2001:db8:0:77::1"):
            with self.assertRaises(NoRoom) as caught:
                table.room(source_of(host))
            self.assertIs(caught.exception.scope, SourceScope.NETWORK)

    def test_the_largest_source_makes_room(self) -> None:
        """Its newest entry leaves."""
        table = SourceTable[int](10, Shares.growing(10))
        self.fill(table, ["192.0.2.1"] * 8 + ["198.51.100.1"] * 2)
        self.assertEqual(table.room(source_of("203.0.113.1")), 8)
        self.assertEqual(self.fill(table, ["203.0.113.1"] * 9), 4)
        counts = [table.count(source_of(host)) for host in ("192.0.2.1", "198.51.100.1", "203.0.113.1")]
        self.assertEqual(counts, [4, 2, 4])
        self.assertEqual([table.oldest(source_of("192.0.2.1")), 4 in table, 5 in table], [1, True, False])
        # Nobody takes a place from a source that has as few: they would take turns for ever.
        with self.assertRaises(NoRoom) as caught:
            table.room(source_of("203.0.113.1"))
        self.assertIs(caught.exception.scope, SourceScope.TABLE)

    def test_singles_are_not_replaced(self) -> None:
        """When every source has one place, no newer source replaces an older one."""
        table = SourceTable[int](8, Shares(2, 3, 4))
        self.fill(table, [f"198.51.{number}.1" for number in range(60)])
        self.assertEqual([key for key in range(100) if key in table], list(range(1, 9)))

    def test_a_neighbour_of_a_flood(self) -> None:
        """Within a full /24, /56 or /48 the same rule holds."""
        table = SourceTable[int](10_000, Shares.growing(4))
        for flood, neighbour in (
            ([f"192.0.2.{number}" for number in range(8)], "192.0.2.200"),
            ([f"2001:db8:1:{number:x}::1" for number in range(4)], "2001:db8:1:ff::1"),
            ([f"2001:db8:2:{number << 8:x}::1" for number in range(8)], "2001:db8:2:ffff::1"),
        ):
            self.fill(table, flood * 100)
            self.assertEqual(self.fill(table, [neighbour]), 1)
            self.assertEqual(table.count(source_of(neighbour)), 1)

    def test_sixty_addresses(self) -> None:
        """A flood from 60 places leaves the 61st its part of a full table, and takes nothing back."""
        table = SourceTable[int](600, Shares.growing(40))
        hosts = [f"198.51.{number}.1" for number in range(60)]
        self.fill(table, hosts * 30)
        self.assertEqual(len(table), 600)
        self.assertEqual(self.fill(table, ["203.0.113.1"] * 5), 5)
        self.fill(table, hosts * 30)
        self.assertEqual(table.count(source_of("203.0.113.1")), 5)

    def test_mistakes(self) -> None:
        """One key has one place, and what left has none."""
        table = SourceTable[int](2, Shares.growing(2))
        table.enter(source_of("192.0.2.1"), 1)
        self.assertRaises(ValueError, table.enter, source_of("192.0.2.2"), 1)
        table.leave(2)
        table.leave(1)
        table.leave(1)
        self.assertEqual((len(table), 1 in table, table.oldest(source_of("192.0.2.1"))), (0, False, None))
        self.assertRaises(ValueError, SourceTable, 0, Shares.growing(1))

    hosts = st.sampled_from(
        ["192.0.2.1", "192.0.2.2", "192.0.3.1", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:100::1", "x"]
    )

    @given(st.lists(st.tuples(st.booleans(), hosts, st.integers(0, 30)), max_size=80))
    @PROPERTIES
    def test_any_order(self, steps: list[tuple[bool, str, int]]) -> None:
        """Counts, bounds and the choice of who leaves are those of a list that is searched."""
        shares = Shares(3, 4, 6)
        table = SourceTable[int](9, shares)
        model: dict[int, Source] = {}

        def having(path: Source) -> list[int]:
            return [key for key, source in model.items() if source[: len(path)] == path]

        for entering, host, key in steps:
            source = source_of(host)
            if not entering:
                table.leave(key)
                model.pop(key, None)
            elif key not in model:
                full = len(model) >= 9 or any(
                    len(having(source[:depth])) >= shares.of(source[depth - 1])
                    for depth in range(1, len(source) + 1)
                )
                try:
                    evicted = table.room(source)
                    if evicted is not None:
                        theirs = model.pop(evicted)
                        depth = 1
                        while theirs[:depth] == source[:depth]:
                            depth += 1
                        self.assertGreater(len(having(theirs[:depth])), len(having(source[:depth])))
                        table.leave(evicted)
                    self.assertEqual(evicted is not None, full)
                    table.enter(source, key)
                    model[key] = source
                except NoRoom:
                    self.assertTrue(full)
                    self.assertRaises(NoRoom, table.enter, source, key)
            self.assertEqual(len(table), len(model))
            self.assertLessEqual(len(model), 9)
        for source in set(model.values()):
            self.assertEqual(table.count(source), len(having(source)))
            self.assertEqual(table.oldest(source), having(source)[0])
            try:
                table.displaced(source, 0)
            except NoRoom:
                self.assertTrue(table.has_most(source))
            else:
                self.assertFalse(table.has_most(source))
        self.assertFalse(table.has_most(source_of("203.0.113.1")))


class SourceBucketTests(SynchronousTestCase):
    """So much a second from one source, however wide it is."""

    def allowed(self, buckets: SourceBuckets, hosts: list[str]) -> int:
        return sum(buckets.allow(source_of(host), 7.0) for host in hosts)

    def test_prefixes(self) -> None:
        """All addresses of a prefix together have some addresses' worth."""
        buckets = SourceBuckets(1, 5, 1000)
        self.assertEqual(self.allowed(buckets, ["192.0.2.1"] * 20), 5)
        self.assertEqual(self.allowed(buckets, [f"192.0.2.{number}" for number in range(2, 99)]), 15)
        self.assertEqual(self.allowed(buckets, ["192.0.3.1"]), 1)
        self.assertEqual(self.allowed(buckets, [f"2001:db8:0:{number:x}::" for number in range(99)]), 10)
        self.assertEqual(self.allowed(buckets, [f"2001:db8:0:{number << 8:x}::" for number in range(99)]), 10)

    def test_refused_costs_nothing(self) -> None:
        """If one bucket lacks tokens, none are taken from the others."""
        buckets = SourceBuckets(1, 5, 1000)
        self.allowed(buckets, ["192.0.2.1"] * 1000)
        self.assertEqual(self.allowed(buckets, ["192.0.2.2"] * 5), 5)

    def test_about(self) -> None:
        """A source has buckets for each thing that it asks about."""
        buckets = SourceBuckets(1, 5, 1000)
        for about in ("alice", "bob"):
            allowed = [buckets.allow(source_of("192.0.2.1"), 7.0, about=about) for _ in range(9)]
            self.assertEqual(sum(allowed), 5)

    def test_busy_stay(self) -> None:
        """A source that keeps asking keeps its empty bucket while others come and go."""
        buckets = SourceBuckets(0.001, 1, 50)
        self.assertTrue(buckets.allow(source_of("192.0.2.1"), 0.0))
        for number in range(1000):
            buckets.allow(source_of(f"10.{number // 250}.{number % 250}.1"), 0.0)
            self.assertFalse(buckets.allow(source_of("192.0.2.1"), 0.0))

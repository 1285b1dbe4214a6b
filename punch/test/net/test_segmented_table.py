"""Which entries of a shared table make room for newer ones, and for how long others do not."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.rate_limits import NoRoom
from punch.net.segmented_table import PROBATION, SegmentedTable
from punch.net.sources import Shares, source_of
from punch.test.net.test_rate_limits import PROPERTIES


def hosts(networks: Iterable[int]) -> list[str]:
    """One address in each of these /24s."""
    return [f"10.{number >> 8}.{number & 255}.1" for number in networks]


class SegmentedTableTests(SynchronousTestCase):
    """A table of 100 places; an address may have 40 of them, a /24 160."""

    def setUp(self) -> None:
        self.table = SegmentedTable[int](100, Shares.growing(40))
        self.now = 1000.0
        self.number = 0

    def come(self, *hosts: str) -> list[int]:
        """Let each host ask for a place; returns the entries that got one."""
        got = []
        for host in hosts:
            source = source_of(host)
            self.number += 1
            try:
                evicted = self.table.room(source, self.now)
            except NoRoom:
                continue
            if evicted is not None:
                self.table.leave(evicted)
            self.table.enter(source, self.number, self.now)
            got.append(self.number)
        return got

    def left(self, entries: Iterable[int]) -> int:
        """How many of these are still there."""
        return sum(entry in self.table for entry in entries)

    def test_who_was_there_before_a_flood(self) -> None:
        """Entries stay until a flood has lasted for as long as they were there; then all sources share."""
        earlier = self.come(*["192.0.2.1"] * 40)
        self.now += 3600.0
        flood = hosts(range(50))
        for _ in range(70):
            self.come(*flood)
            self.now += 50.0
        self.assertEqual((self.left(earlier), len(self.table)), (40, 100))
        for _ in range(200):
            self.come(*flood)
            self.now += 50.0
        self.assertEqual(len(self.table), 100)
        self.assertLess(self.left(earlier), 5)

    def test_new_ones_share_what_is_left(self) -> None:
        """Also a network of which others are protected gets its part of a flooded table."""
        self.come(*["192.0.2.1"] * 30)
        self.now += PROBATION
        self.come(*hosts(range(35)) * 2)
        self.assertEqual(self.come("192.0.2.2", "198.51.100.1"), [self.number - 1, self.number])

    def test_patience_locks_nobody_out(self) -> None:
        """A source that filled the table long ago makes room for new ones, and then has no more than they."""
        patient = self.come(*hosts(range(3)) * 40)
        self.assertEqual(len(self.table), 100)
        self.now += 3600.0
        new = self.come(*["198.51.100.1"] * 12)
        self.assertEqual(len(new), 12)
        self.assertEqual(self.left(patient), 88)
        for _ in range(100):
            self.now += 3600.0
            new = [each for each in new if each in self.table] + self.come("198.51.100.1")
        self.assertEqual((24 <= len(new) <= 26, len(self.table)), (True, 100))

    def test_half_of_a_network(self) -> None:
        """Neighbours of those who have used up the share of a network long ago get in."""
        table = self.table = SegmentedTable[int](1000, Shares.growing(40))
        patient = self.come(*[f"192.0.2.{number}" for number in range(4)] * 40)
        self.now += 3600.0
        self.assertEqual(len(self.come(*["192.0.2.77"] * 10)), 10)
        self.assertEqual((self.left(patient), len(table)), (150, 160))

    def test_first_on_probation(self) -> None:
        """Those that came a moment before a flood are not protected."""
        earlier = self.come(*["192.0.2.1"] * 40)
        self.now += PROBATION - 1.0
        self.come(*hosts(range(50)) * 2)
        self.assertLess(self.left(earlier), 5)

    def test_another_source(self) -> None:
        """An entry that moves within its network keeps its place and its age, if there is room for it."""
        table = self.table
        [entry] = self.come("192.0.2.1")
        neighbours = self.come(*["192.0.2.3"] * 40)
        for wait in (0.0, 3600.0):
            self.now += wait
            self.come("198.51.100.1")
            for host, moves in (("192.0.2.2", True), ("192.0.2.3", False), ("198.51.100.1", False)):
                self.assertEqual(table.move(entry, source_of(host)), moves)
                self.assertEqual((table.count(source_of("192.0.2.2")), len(table)), (1, 42 + (wait > 0)))
            self.assertTrue(table.move(entry, source_of("192.0.2.1")))
        self.come(*["192.0.2.1"] * 30, *hosts(range(50)) * 2)
        self.assertEqual(self.left([entry, *neighbours]), 41)
        self.assertEqual(table.leave(entry), 1000.0)

    def test_large_sources(self) -> None:
        """`large` counts the entries of both segments; entries elsewhere count for the share."""
        self.come(*["192.0.2.1"] * 8)
        self.now += PROBATION
        self.come(*["192.0.2.1"] * 7, "198.51.100.1")
        address = source_of("192.0.2.1")[1]
        self.assertEqual(self.table.large(15 / 40), {address: 15})
        self.assertEqual(self.table.large(16 / 40), {})
        self.table.elsewhere = {address: 25}
        self.assertEqual(self.come("192.0.2.1"), [])
        self.table.elsewhere = {address: 24}
        self.assertEqual(len(self.come("192.0.2.1")), 1)

    places = st.sampled_from(
        ["192.0.2.1", "192.0.2.2", "192.0.3.1", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:100::1", "x"]
    )

    @given(st.lists(st.tuples(places, st.integers(0, 20), st.sampled_from([0.0, 1.0, 40.0])), max_size=80))
    @PROPERTIES
    def test_any_order(self, steps: list[tuple[str, int, float]]) -> None:
        """Nobody has more than their share, and who has to leave makes room for who comes."""
        shares = Shares(3, 4, 6)
        self.table = table = SegmentedTable[int](9, shares)
        there: dict[int, str] = {}
        for host, leaving, wait in steps:
            self.now += wait
            table.leave(leaving)
            there.pop(leaving, None)
            before = set(there)
            for key in self.come(host):
                there[key] = host
            gone = [key for key in before if key not in table]
            assert len(gone) <= 1
            for key in gone:
                del there[key]
            counts: dict[object, int] = {}
            for each in there.values():
                for prefix in source_of(each):
                    counts[prefix] = counts.get(prefix, 0) + 1
            assert all(count <= shares.of(prefix) for prefix, count in counts.items())
            assert len(table) == len(there) <= 9
            assert all(
                table.count(source_of(each)[:1]) == counts[source_of(each)[0]] for each in there.values()
            )
            assert table.large(0.5) == {
                prefix: count for prefix, count in counts.items() if count >= 0.5 * shares.of(prefix)
            }

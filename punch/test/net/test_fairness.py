"""How the members of one source share what it may use."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.fairness import FairShares, SourceShares
from punch.net.sources import source_of


class Sender:
    """Uses `cost` every `interval` seconds, as far as it is let."""

    def __init__(self, shares: FairShares, name: object, interval: float, cost: float = 1.0) -> None:
        self.shares = shares
        self.name = name
        self.interval = interval
        self.cost = cost
        self.next = 0.0
        self.used = 0.0
        self.longest_wait = 0.0

    def run(self, now: float) -> None:
        """Use what is due."""
        while self.next <= now:
            wait = self.shares.charge("source", self.name, self.cost, now)
            self.used += self.cost
            self.longest_wait = max(self.longest_wait, wait)
            self.next = max(self.next + self.interval, now + wait)


class FairSharesTests(SynchronousTestCase):
    """400 a second and 4,000 at once, as lines of one address."""

    def setUp(self) -> None:
        self.shares = FairShares(400.0, 4000.0, 100)

    def run_all(self, senders: list[Sender], seconds: float, begin: float = 0.0) -> None:
        for step in range(int(begin * 200), int((begin + seconds) * 200)):
            for sender in senders:
                if sender.next <= step / 200:
                    sender.run(step / 200)

    def test_within_the_rate_nobody_waits(self) -> None:
        senders = [Sender(self.shares, number, 0.1) for number in range(40)]
        self.run_all(senders, 20.0)
        self.assertEqual(max(each.longest_wait for each in senders), 0.0)

    def test_the_heavy_wait_and_the_light_do_not(self) -> None:
        heavy = [Sender(self.shares, f"heavy {number}", 0.005) for number in range(8)]
        light = [Sender(self.shares, f"light {number}", 0.5) for number in range(20)]
        self.run_all(heavy + light, 10.0)
        for each in heavy:
            each.used = 0.0
        self.run_all(heavy + light, 20.0, 10.0)
        self.assertEqual(max(each.longest_wait for each in light), 0.0)
        # 400 a second, less what the light ones use, in equal parts.
        for each in heavy:
            self.assertApproximates(each.used / 20.0, 45.0, 8.0)
        self.assertLess(sum(each.used for each in heavy + light) / 30.0, 560.0)

    def test_one_heavy_member_among_many_has_all_of_the_rate(self) -> None:
        heavy = Sender(self.shares, "heavy", 0.001)
        light = [Sender(self.shares, f"light {number}", 10.0) for number in range(500)]
        self.run_all([heavy, *light], 10.0)
        heavy.used = 0.0
        self.run_all([heavy, *light], 10.0, 10.0)
        self.assertApproximates(heavy.used / 10.0, 400.0, 40.0)
        self.assertEqual(max(each.longest_wait for each in light), 0.0)

    def test_who_comes_under_a_new_name_again_and_again_has_no_more(self) -> None:
        used = 0
        now, generation = 0.0, 0
        while now < 60.0:
            wait = self.shares.charge("source", generation, 1.0, now)
            used += 1
            if wait > 0.0:
                generation += 1
                now += 0.02  # What a new connection takes, at least
        self.assertLess(used / 60.0, 800.0)

    def test_sources_are_apart(self) -> None:
        for _ in range(10_000):
            self.shares.charge("one", "heavy", 1.0, 0.0)
        self.assertGreater(self.shares.charge("one", "heavy", 1.0, 0.0), 1.0)
        self.assertEqual(self.shares.charge("other", "heavy", 1.0, 0.0), 0.0)

    def test_nobody_waits_longer_than_until_the_debt_is_paid(self) -> None:
        for _ in range(4_400):
            wait = self.shares.charge("one", "heavy", 1.0, 0.0)
        self.assertAlmostEqual(wait, 1.0, places=3)
        self.assertEqual(self.shares.charge("one", "heavy", 1.0, 20.0), 0.0)

    def test_tables_are_bounded_and_shrink(self) -> None:
        for number in range(1_000):
            self.shares.charge(number, "x", 1.0, 0.0)
        self.assertEqual(len(self.shares), 100)
        for number in range(100):
            self.shares.charge(f"later {number}", "x", 1.0, 100.0)
        self.assertLessEqual(len(self.shares), 100)
        self.shares.charge("last", "x", 1.0, 1_000.0)
        self.assertLess(len(self.shares), 100)

    def test_wider_prefixes_have_growing_shares(self) -> None:
        """A home or a server that has many /64s does not have as many shares."""
        for prefix, growth in (("2001:db8:1:{:x}::1", 2), ("2001:db8:2:{:x}00::1", 4)):
            shares = SourceShares(400.0, 400.0, 1000)
            used, step = 0, 0
            due = [0.0] * 64
            while step < 1000:
                for number in range(64):
                    if due[number] <= step / 100:
                        used += 1
                        source = source_of(prefix.format(number))
                        wait = shares.charge(source, "x", 1.0, step / 100)
                        due[number] = step / 100 + max(wait, 0.02)
                step += 1
            self.assertLess(used / 10.0, growth * 400.0 + growth * 40.0 + 100.0)
            neighbour = source_of(prefix.format(200))
            self.assertEqual(shares.charge(neighbour, "y", 1.0, 10.0), 0.0)

    def test_bad_numbers(self) -> None:
        for numbers in ((0.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0)):
            self.assertRaises(ValueError, FairShares, *numbers)

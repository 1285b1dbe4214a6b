"""Fair shares of a rate, of a table's places, and of turns."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.fairness import FairShares, SourceShares, SourceTurns
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


class SourceTurnsTests(SynchronousTestCase):
    """`SourceTurns`: whose turn is next. Keys are numbers, or the host and a number."""

    def setUp(self) -> None:
        self.turns: SourceTurns[object] = SourceTurns(1000)
        self.now = 0.0

    def pop(self) -> object:
        self.now += 1.0
        return self.turns.pop(self.now)

    def add(self, host: str, key: object) -> None:
        self.turns.add(source_of(host), key)

    def test_networks_take_turns(self) -> None:
        """Within a network, its addresses take turns. Within an address, the newest comes first."""
        for number, host in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1", "10.2.0.1"]):
            self.add(host, number)
        self.assertEqual([self.pop() for _ in range(5)], [1, 3, 4, 2, 0])
        self.assertEqual(len(self.turns), 0)
        self.assertRaises(IndexError, self.pop)

    def test_newcomers_do_not_wait_for_a_flood(self) -> None:
        """A network that comes now and then has its turn before those that always have something waiting."""
        flood = [f"10.0.{number}.1" for number in range(200)]
        for host in flood * 2:
            self.add(host, object())
        for _ in range(500):
            self.add(f"10.0.{int(self.now) % 200}.1", object())
            self.pop()
        for number in range(20):
            for host in ("192.0.2.1", "2001:db8::1"):
                key = (host, number)
                self.add(host, key)
                self.assertIn(key, [self.pop() for _ in range(2)])
                for _ in range(300):
                    self.add(flood[int(self.now) % 200], object())
                    self.pop()

    def test_newcomers_of_a_flooding_network(self) -> None:
        """A new address of a network that floods does not wait for all the others of the network."""
        for prefix in ("10.0.0.", "2001:db8:0:{:x}::"):
            hosts = [prefix.format(number) + str(number) for number in range(1, 251)]
            self.turns = SourceTurns(1000)
            for host in hosts[1:] * 2:
                self.add(host, object())
            for _ in range(300):
                self.pop()
            self.add(hosts[0], "newcomer")
            self.assertIn("newcomer", [self.pop() for _ in range(2)])

    def test_ever_new_networks(self) -> None:
        """A flood from ever new networks does not keep out a network that had a turn before."""
        self.add("192.0.2.1", "first")
        self.assertEqual(self.pop(), "first")
        for number in range(20):
            self.add(f"10.0.{number}.1", number)
        self.add("192.0.2.1", "second")
        popped = []
        for number in range(20, 100):
            self.add(f"10.0.{number}.1", number)
            popped.append(self.pop())
        self.assertIn("second", popped)

    def test_what_is_removed_has_no_turn(self) -> None:
        """What was removed is not returned; removing what is not there changes nothing."""
        for number, host in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1"]):
            self.add(host, number)
        for key in (1, 3, 2, 2, 77):
            self.turns.remove(key)
        self.assertEqual((len(self.turns), self.pop(), len(self.turns)), (1, 0, 0))
        self.add("10.1.0.1", 5)
        self.assertEqual(self.pop(), 5)

    def test_latest(self) -> None:
        """`latest` is from the source with the latest turn; `last_turn` is the time of a network's turn."""
        for number, host in enumerate(["10.0.0.1", "10.1.0.1", "10.0.0.1", "10.1.0.1", "10.2.0.1"]):
            self.add(host, number)
        self.assertEqual([self.pop() for _ in range(2)], [2, 3])
        self.assertEqual(self.turns.latest(), 1)
        self.assertEqual(self.turns.last_turn(source_of("10.1.0.77")), 2.0)
        self.assertEqual(self.turns.last_turn(source_of("10.2.0.1")), float("-inf"))

    def test_memory_is_bounded(self) -> None:
        """Of more turns than are remembered, those that were longest ago are forgotten."""
        self.turns = SourceTurns(10)
        for number in range(30):
            self.add(f"10.0.{number}.1", number)
            self.pop()
        had_turn = [self.turns.last_turn(source_of(f"10.0.{number}.1")) > 0 for number in range(30)]
        self.assertEqual(had_turn, [False] * 20 + [True] * 10)

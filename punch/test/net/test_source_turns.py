"""Whose turn is next, when more comes than can be served."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.source_turns import SourceTurns
from punch.net.sources import source_of


class SourceTurnsTests(SynchronousTestCase):
    """Keys are numbers, or the host and a number."""

    def setUp(self) -> None:
        self.turns: SourceTurns[object] = SourceTurns(1000)
        self.now = 0.0

    def pop(self) -> object:
        self.now += 1.0
        return self.turns.pop(self.now)

    def add(self, host: str, key: object) -> None:
        self.turns.add(source_of(host), key)

    def test_networks_take_turns(self) -> None:
        """Within a network its addresses do, and of an address the newest is first."""
        for number, host in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1", "10.2.0.1"]):
            self.add(host, number)
        self.assertEqual([self.pop() for _ in range(5)], [1, 3, 4, 2, 0])
        self.assertEqual(len(self.turns), 0)
        self.assertRaises(IndexError, self.pop)

    def test_newcomers_do_not_wait_for_a_flood(self) -> None:
        """Networks that always have something waiting come after one that comes now and then."""
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
        """One of its addresses that comes now and then does not wait for all the others."""
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
        """They keep out nobody who had a turn before them."""
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
        """To remove what is not there changes nothing."""
        for number, host in enumerate(["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.1.0.1"]):
            self.add(host, number)
        for key in (1, 3, 2, 2, 77):
            self.turns.remove(key)
        self.assertEqual((len(self.turns), self.pop(), len(self.turns)), (1, 0, 0))
        self.add("10.1.0.1", 5)
        self.assertEqual(self.pop(), 5)

    def test_latest(self) -> None:
        """The one that would make room, and when its network had its turn."""
        for number, host in enumerate(["10.0.0.1", "10.1.0.1", "10.0.0.1", "10.1.0.1", "10.2.0.1"]):
            self.add(host, number)
        self.assertEqual([self.pop() for _ in range(2)], [2, 3])
        self.assertEqual(self.turns.latest(), 1)
        self.assertEqual(self.turns.last_turn(source_of("10.1.0.77")), 2.0)
        self.assertEqual(self.turns.last_turn(source_of("10.2.0.1")), float("-inf"))

    def test_memory_is_bounded(self) -> None:
        """The turns that were longest ago are forgotten."""
        self.turns = SourceTurns(10)
        for number in range(30):
            self.add(f"10.0.{number}.1", number)
            self.pop()
        had_turn = [self.turns.last_turn(source_of(f"10.0.{number}.1")) > 0 for number in range(30)]
        self.assertEqual(had_turn, [False] * 20 + [True] * 10)

"""When a process with many connections gives its memory back."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from punch.cli.rendezvous.service import FEWEST, LARGE, LONG, MANY, PERIOD, MemoryReturn


class MemoryReturnTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.connections = self.ended = 0
        self.blocks_each = 100
        self.returned: list[float] = []
        self.collected: list[float] = []
        self.service = MemoryReturn(
            self.clock,
            lambda: self.connections,
            lambda: self.ended,
            blocks=lambda: self.blocks_each * (self.connections + FEWEST),
            begin=lambda: None,
            collect=lambda: self.collected.append(self.clock.seconds()),
            give_back=lambda: self.returned.append(self.clock.seconds()),
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def has(self, connections: int) -> int:
        """So many connections are open for a while; return how often memory was given back until now."""
        self.ended += max(0, self.connections - connections)
        self.connections = connections
        self.clock.pump([PERIOD] * 3)
        return len(self.returned)

    def test_after_a_flood(self) -> None:
        """Once, when most connections have ended."""
        self.assertEqual(self.has(10 * FEWEST), 0)
        self.assertEqual(self.has(6 * FEWEST), 0)
        self.assertEqual(self.has(5 * FEWEST), 1)
        self.assertEqual(self.has(5 * FEWEST), 1)
        self.assertEqual(self.has(0), 2)

    def test_stopped(self) -> None:
        """A service that was stopped leaves nothing in the reactor."""
        self.service.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.service.startService()

    def test_few(self) -> None:
        """Not for a few connections."""
        self.has(FEWEST - 1)
        self.assertEqual(self.has(0), 0)

    def test_others_took_their_place(self) -> None:
        """As many as ever are open, but by now all are other ones, in other places of the memory."""
        self.assertEqual(self.has(10 * FEWEST), 0)
        self.ended = 10 * FEWEST - 1
        self.assertEqual(self.has(10 * FEWEST), 0)
        self.ended += 1
        self.assertEqual(self.has(10 * FEWEST), 1)
        self.ended += FEWEST
        self.assertEqual(self.has(10 * FEWEST), 1)

    def test_all_objects(self) -> None:
        """The collector looks at all of them when many times as many have ended as are open: not before."""
        self.has(10 * FEWEST)
        self.blocks_each = 150
        self.end_connections(MANY - 1)
        self.assertEqual(self.collected, [])
        self.assertEqual(len(self.returned), MANY - 1)
        self.end_connections(1)
        self.assertEqual(len(self.collected), 1)
        self.assertEqual(len(self.returned), MANY)

    def test_nothing_to_collect(self) -> None:
        """All objects are looked at only if ended connections have left something in memory."""
        self.has(10 * FEWEST)
        self.blocks_each = 140
        self.end_connections(3 * MANY)
        self.assertEqual((self.collected, len(self.returned)), ([], 3 * MANY))
        self.blocks_each = 200
        self.end_connections(MANY)
        self.assertEqual(len(self.collected), 1)

    def test_few_objects(self) -> None:
        """If few connections are open, all objects are looked at in any case, since that is fast."""
        self.has(LARGE - 1)
        for _ in range(MANY):
            self.ended += LARGE
            self.has(LARGE - 1)
        self.assertEqual(len(self.collected), 1)

    def end_connections(self, times: int) -> None:
        """All connections end, and others take their places, so many times."""
        for _ in range(times):
            self.ended += 10 * FEWEST
            self.has(10 * FEWEST)

    def test_after_a_long_time(self) -> None:
        """It looks at all of them in any case, and what it frees goes back."""
        self.has(100)
        self.clock.pump([PERIOD] * int(LONG / PERIOD))
        self.assertEqual((len(self.collected), len(self.returned)), (1, 1))

"""What a source has at all processes counts together; with Redis simulated."""

from __future__ import annotations

from punch.net.rate_limits import NoRoom, SourceBuckets, SourceScope, SourceTable
from punch.net.sources import Shares, source_of
from punch.rendezvous.directory.shared_state import SharedCounts
from punch.test.internet.testcase import InternetTestCase
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis

SHARE = 16
RATE, BURST = 10.0, 60.0
"""Calls that an address may place in a second, and at once."""
KEY = "punch:counts"
HOST, NEIGHBOUR, OTHER = "203.0.113.1", "203.0.113.2", "198.51.100.1"


class SharedCountsCase(InternetTestCase):
    """Processes that count together, by one Redis."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes: list[Process] = []
        self.tables: list[SourceTable[int]] = []
        self.buckets: list[SourceBuckets] = []
        for _ in range(3):
            self.start()
        self.net.advance(2.0)

    def start(self) -> None:
        """Start one more process."""
        number = len(self.processes) + 1
        table = SourceTable[int](1000, Shares.growing(SHARE))
        process = Process(self.net, number)
        random = self.net.random_bytes(f"counts {number}")
        buckets = SourceBuckets(RATE, BURST, 1000)
        process.directory.share(
            SharedCounts({"table": table}, {"calls": buckets}, self.clock, secret=b"key", random=random)
        )
        self.processes.append(process)
        self.tables.append(table)
        self.buckets.append(buckets)

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.net.now

    def tearDown(self) -> None:
        for process in self.processes:
            process.directory.stop()
        self.net.advance(0.5)

    def fill(self, process: int, host: str, most: int = 10_000) -> int:
        """How many more entries a host gets at a process; then the others learn it."""
        table, source = self.tables[process], source_of(host)
        for number in range(most):
            try:
                displaced = table.room(source)
                if displaced is not None:
                    table.leave(displaced)
                table.enter(source, hash((host, process, number, len(table))))
            except NoRoom as full:
                self.full = full
                break
        else:
            number = most
        self.net.advance(2.5)
        return number

    def keys(self, process: int) -> list[int]:
        """The entries of a host, the oldest first."""
        oldest = self.tables[process].oldest(source_of(HOST))
        assert oldest is not None
        return [oldest]

    def calls(self, process: int, host: str = HOST, most: int = 10_000) -> int:
        """How many calls from a host a process lets through at once."""
        source = source_of(host)
        return next((n for n in range(most) if not self.buckets[process].allow(source, self.net.now)), most)


class SharedCountsTests(SharedCountsCase):
    def test_one_share_for_all(self) -> None:
        self.assertEqual(self.fill(0, HOST), SHARE)
        self.assertEqual(self.full.scope, SourceScope.ADDRESS)
        self.assertEqual((self.fill(1, HOST), self.fill(2, HOST)), (0, 0))
        self.assertEqual((self.fill(1, OTHER), self.fill(0, OTHER)), (SHARE, 0))
        self.tables[0].leave(next(iter(self.keys(0))))
        self.net.advance(2.5)
        self.assertEqual(self.fill(2, HOST), 1)

    def test_a_network(self) -> None:
        """Four times the share of an address, at all processes; each neighbour gets a first place."""
        hosts = [f"203.0.113.{number}" for number in range(10, 14)]
        self.assertEqual([self.fill(0, host) for host in hosts], [SHARE] * 4)
        self.assertEqual(self.fill(1, NEIGHBOUR), 1)
        self.assertEqual(self.full.scope, SourceScope.NETWORK)
        self.assertEqual(self.fill(0, NEIGHBOUR), 4 * SHARE // 5, "the largest ones make room")

    def test_little_is_not_told(self) -> None:
        """Nor does it matter."""
        self.assertEqual(self.fill(0, HOST, 1), 1)
        self.assertEqual(self.fill(1, HOST), SHARE)

    def test_a_process_that_died(self) -> None:
        """Its peers come back elsewhere, and have their places there soon."""
        self.assertEqual(self.fill(0, HOST), SHARE)
        self.processes[0].directory.stop()
        self.net.advance(3.0)
        self.assertEqual(self.fill(1, HOST), SHARE)
        self.net.advance(70.0)
        self.assertEqual(len(self.redis.run(None, b"HGETALL", [KEY.encode()])), 4)

    def test_redis_away(self) -> None:
        """Then each process goes by its own."""
        self.assertEqual(self.fill(0, HOST), SHARE)
        self.redis.stop()
        self.net.advance(1.0)
        self.assertEqual(self.fill(1, HOST), SHARE)
        self.redis.start()
        self.net.advance(5.0)
        self.assertEqual(self.fill(2, HOST), 0)
        self.redis.data.clear()
        self.net.advance(3.0)
        self.assertEqual(self.fill(2, HOST), 0)

    def test_strangers_in_redis(self) -> None:
        """What another key has made, a copy under another name and rubbish count nothing."""
        self.assertEqual(self.fill(0, HOST, 10), 10)
        fields = self.redis.run(None, b"HGETALL", [KEY.encode()])
        self.assertEqual(len(fields), 6)
        for name, value in [
            (b"00" * 16, fields[1]),
            (b"11", b"rubbish"),
            (b"22", b""),
            (b"\xff", b"x" * 300_000),
        ]:
            self.redis.run(None, b"HSET", [KEY.encode(), name, value])
        self.net.advance(3.0)
        self.assertEqual(
            {prefix: self.tables[1].elsewhere.get(prefix) for prefix in source_of(HOST)},
            dict.fromkeys(source_of(HOST), 10),
        )
        self.assertIsNone(self.processes[1].directory.problem)
        self.assertEqual(len(self.redis.run(None, b"HGETALL", [KEY.encode()])), 6)
        self.assertNotIn(bytes([203, 0, 113, 1]).hex().encode(), b"".join(fields))

    # Buckets

    def test_one_burst_for_all(self) -> None:
        self.assertEqual(self.calls(0), BURST)
        self.net.advance(2.5)
        # What each bucket has gained since
        self.assertLess(self.calls(1) + self.calls(2), 2 * 2.5 * RATE)
        self.assertEqual(self.calls(1, OTHER), BURST)

    def test_a_burst_with_redis_away(self) -> None:
        """Each process goes by its own, and by all when it is back."""
        self.redis.stop()
        self.net.advance(4.0)
        self.assertEqual([self.calls(process) for process in range(3)], [BURST] * 3)
        self.redis.start()
        self.net.advance(6.0)
        self.assertEqual([self.calls(process) for process in range(3)], [0] * 3)
        self.net.advance(3 * BURST / RATE)
        self.assertGreaterEqual(self.calls(1), 0.9 * BURST)

"""The relay's quotas, counted over all processes of a service."""

from __future__ import annotations

from punch.rendezvous.directory.shared_state import SharedQuotas
from punch.test.internet.testcase import InternetTestCase
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.turn.server.turn_server import TurnServer
from punch.turn.server.quotas import DAY, Quotas

LIMIT = 10_000
HOST = "192.0.2.1"


class SharedQuotaTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes: list[Process] = []
        self.quotas: list[Quotas] = []
        for _ in range(2):
            self.start()
        self.net.advance(1.5)

    def start(self) -> Quotas:
        """Start one more process."""
        server = TurnServer(quota_per_user=LIMIT, quota_per_address=LIMIT)
        quotas = server.core.allocations.quotas
        quotas.begin_day(server.unix)
        self.processes.append(Process(self.net, len(self.processes) + 1))
        self.processes[-1].directory.share(SharedQuotas(quotas, b"key"))
        self.quotas.append(quotas)
        return quotas

    def tearDown(self) -> None:
        for process in self.processes:
            process.directory.stop()
        self.net.advance(0.5)

    def carry(self, process: int, size: int, user: str = "alice") -> None:
        """A relay carries so many bytes of a user."""
        self.quotas[process].of_user(user).used += size
        self.net.advance(6.5)

    def used(self, user: str = "alice") -> list[int]:
        """How much each process counts for a user."""
        return [quotas.of_user(user).used for quotas in self.quotas]

    def test_added_up(self) -> None:
        """Half of it at one process and half at another is all of it, for who relays at both."""
        self.carry(0, 5_000)
        self.carry(1, 100)
        self.assertEqual(self.used(), [5_000, 5_100])
        self.carry(1, 4_900)
        self.assertEqual([quotas.of_user("alice").spent for quotas in self.quotas], [False, True])
        self.carry(0, 100)
        self.assertEqual(self.used(), [10_100, 10_000])

    def test_only_own_bytes_are_stored(self) -> None:
        """What others carried is not in the usage of this process."""
        self.carry(0, 5_000)
        self.carry(1, 1_000)
        meters = [quotas.of_user("alice") for quotas in self.quotas]
        self.assertEqual([meter.used - meter.stored for meter in meters], [5_000, 1_000])

    def test_addresses_and_networks(self) -> None:
        one, two = self.quotas
        for quotas, size in ((one, 9_000), (two, 1_000)):
            for meter in (quotas.of_host(HOST, 0.0), *quotas.of_networks(HOST, 0.0)):
                meter.used += size
            self.net.advance(6.5)
        self.assertEqual((one.spent_at(HOST), two.spent_at(HOST)), (False, True))
        self.assertEqual([meter.used for meter in two.of_networks(HOST, 0.0)], [10_000])
        self.assertFalse(two.spent_at("192.0.2.2"))

    def test_a_new_process_learns_it(self) -> None:
        """Also one that has stored what it carried itself before it was started again."""
        self.carry(0, 9_000)
        third = self.start()
        third.restore("alice", 2_000)
        self.net.advance(1.5)
        self.carry(2, 100)
        self.assertEqual(third.of_user("alice").used, 9_100)

    def test_flushed_and_away(self) -> None:
        """What processes know of is not forgotten, and not counted twice."""
        self.carry(0, 4_000)
        self.carry(1, 1_000)
        self.redis.data.clear()
        self.net.advance(6.5)
        self.carry(0, 500)
        self.assertEqual(self.used(), [4_500, 5_000])
        self.carry(1, 500)
        self.assertEqual(self.used(), [4_500, 5_500])
        self.redis.stop()
        self.carry(1, 500)
        self.redis.start()
        self.net.advance(6.0)
        self.assertEqual(self.used(), [4_500, 6_000])
        self.carry(0, 100)
        self.assertEqual(self.used()[0], 6_100)

    def test_the_next_day(self) -> None:
        for quotas in self.quotas:
            quotas.begin_day(5 * DAY)
        self.carry(0, 9_000)
        for quotas in self.quotas:
            quotas.begin_day(6 * DAY)
        self.carry(1, 1_000)
        self.assertEqual(self.used(), [0, 1_000])

    def test_little_is_not_told(self) -> None:
        """Many new identities, each with a few bytes, do not make the table in Redis grow."""
        for number in range(50):
            self.quotas[0].of_user(f"user {number}").used = LIMIT // 200
        self.net.advance(6.5)
        self.assertEqual([key for key in self.redis.data if b"relayed" in key], [])

    def test_nothing_is_readable(self) -> None:
        self.quotas[0].of_host(HOST, 0.0).used += 5_000
        self.carry(0, 5_000)
        fields = b" ".join(value for key, (value, _) in self.redis.data.items() if b"relayed" in key)
        self.assertEqual(fields.count(b"=5000"), 2)
        self.assertNotIn(b"alice", fields)
        self.assertNotIn(HOST.encode(), fields)

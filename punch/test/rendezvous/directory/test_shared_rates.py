"""The rates of the relay, over all processes of a service."""

from __future__ import annotations

from punch.rendezvous.directory.shared_state import SharedRates
from punch.test.internet.testcase import InternetTestCase
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.turn.server.test_data import CAROL, channel_data
from punch.test.turn.server.turn_server import ALICE, FiveTupleClient, TurnServer

RATE = 50_000
DATAGRAM = channel_data(bytes(1000))


class SharedRateTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes: list[Process] = []
        self.servers: list[TurnServer] = []
        self.clients: list[FiveTupleClient] = []
        for number in (1, 2):
            server = TurnServer(rate_per_user=RATE)
            process = Process(self.net, number)
            allocations = server.core.allocations
            process.directory.share(
                SharedRates(
                    allocations,
                    lambda: 100.0 + self.net.now,
                    secret=b"key",
                    random=self.net.random_bytes(f"rates {number}"),
                )
            )
            client = server.client(ALICE, "alice")
            client.allocate()
            client.bind(0x4000, CAROL)
            self.processes.append(process)
            self.servers.append(server)
            self.clients.append(client)
        self.net.advance(2.0)

    def tearDown(self) -> None:
        for process in self.processes:
            process.directory.stop()
        self.net.advance(0.5)

    def relayed(self, seconds: float, *wanted: int) -> list[int]:
        """The bytes a second that each process relays for a user who wants so many there."""
        before = [server.core.bytes_to_peers for server in self.servers]
        for _ in range(int(seconds * 10)):
            self.net.advance(0.1)
            for server, client, rate in zip(self.servers, self.clients, wanted, strict=True):
                server.now = 100.0 + self.net.now
                client.send(*[DATAGRAM] * (rate // 10_000))
                client.relayed.clear()
        return [
            int((server.core.bytes_to_peers - count) / seconds)
            for server, count in zip(self.servers, before, strict=True)
        ]

    def test_one_rate_for_all(self) -> None:
        """Whoever uses two relays gets as much from both as from one; who uses one gets all of it."""
        self.assertApproximates(self.relayed(4.0, 2 * RATE, 0)[0], RATE, 0.2 * RATE)
        self.relayed(6.0, 2 * RATE, 2 * RATE)
        both = self.relayed(6.0, 2 * RATE, 2 * RATE)
        self.assertApproximates(sum(both), RATE, 0.2 * RATE)
        self.assertGreater(min(both), 0.3 * RATE)
        self.relayed(4.0, 2 * RATE, 0)
        self.assertApproximates(self.relayed(4.0, 2 * RATE, 0)[0], RATE, 0.1 * RATE)

    def test_redis_away(self) -> None:
        """Then each process allows the whole rate."""
        self.relayed(6.0, 2 * RATE, 2 * RATE)
        self.redis.stop()
        self.relayed(1.0, 2 * RATE, 2 * RATE)
        both = self.relayed(4.0, 2 * RATE, 2 * RATE)
        self.assertApproximates(sum(both), 2 * RATE, 0.2 * RATE)

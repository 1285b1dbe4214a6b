"""Tables and queues that others have filled: they have bounds, and honest peers their places."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.net.sources import source_of
from punch.node.calls.offer_freshness import (
    MAX_CALLERS,
    MAX_CHALLENGES,
    MAX_UNTIMED_CALLERS,
    KeptOffers,
    OfferVerdict,
)
from punch.rendezvous.directory.command_queue import IN_FLIGHT, MOST_WAITING, QueueFull
from punch.rendezvous.directory.messages import PeerLost
from punch.rendezvous.directory.redis_client import RedisProblem
from punch.rendezvous.members.database import MAX_PEERS_A_DAY
from punch.test.node.calls.test_offer_freshness import WALL, Callee, peer
from punch.test.rendezvous.control_client import (
    connect_raw,
)
from punch.test.rendezvous.directory.test_redis import ALICE, BOB, RedisTestCase
from punch.test.rendezvous.directory.test_redis_client import QueueCase
from punch.test.rendezvous.test_relay_members import MemberCase
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.test.turn.server.test_quotas import QuotaCase
from punch.test.turn.server.turn_server import TurnServer
from punch.turn.server.quotas import MAX_LEFT, MAX_METERS

SOURCES = [source_of(address) for address in ("192.0.2.1", "198.51.100.1", "203.0.113.1")]


class QuotaTableTests(QuotaCase):
    """Bytes a day of each user of the relay."""

    def test_bounded(self) -> None:
        quotas = TurnServer().core.allocations.quotas
        for number in range(MAX_METERS + MAX_LEFT + 10):
            quotas.of_user(str(number)).used = 1
        self.assertEqual(len(quotas.not_stored), MAX_METERS + MAX_LEFT)
        quotas.all_stored()
        self.assertEqual(quotas.not_stored, {})
        self.assertIsNone(quotas.meter(str(MAX_LEFT)))

    def test_many_identities_of_others(self) -> None:
        """Ever new users in one network do not have the meters of others begin anew."""
        quotas = TurnServer().core.allocations.quotas
        quotas.of_user("alice", source_of("198.51.100.1")).used = 5
        quotas.restore("bob", 6)
        for number in range(MAX_METERS + 10):
            quotas.of_user(str(number), source_of(f"203.0.113.{number % 256}")).used = 1
        self.assertEqual([quotas.of_user(name).used for name in ("alice", "bob")], [5, 6])
        self.assertLess(len(quotas.not_stored), MAX_METERS // 10 + MAX_LEFT)


class UsageTableTests(MemberCase):
    """How much was relayed for each peer on a day, on the disk."""

    def test_usage_is_bounded(self) -> None:
        """New identities do not fill the disk; those that are known are counted further."""
        peers = [PeerID(number.to_bytes(32, "big")) for number in range(MAX_PEERS_A_DAY + 2)]
        self.store.add_usage(100, dict.fromkeys(peers[:-1], 1), {})
        self.store.add_usage(100, {peers[0]: 2, peers[-1]: 1}, {})
        usage = self.store.usage(100)
        self.assertEqual((len(usage), usage[0]), (MAX_PEERS_A_DAY, (100, peers[0], 3)))
        self.store.add_usage(101, {peers[-1]: 1}, {})
        self.assertEqual(self.store.usage(101), [(101, peers[-1], 1)])

    def test_many_small_ones_leave_out_no_large_one(self) -> None:
        """Whoever fills the table of a day with new identities has not had the others forgotten by that."""
        small = {str(number): 10 + number % 2 for number in range(MAX_PEERS_A_DAY - 1)}
        self.store.add_usage(100, {}, {"before": 1_000, **small})
        self.store.add_usage(100, {}, {"afterwards": 900, "too small": 10, "before": 1, "second": 11})
        stored = self.store.relayed(100)
        self.assertEqual(len(stored), MAX_PEERS_A_DAY)
        self.assertEqual([stored.get(name) for name in ("before", "afterwards", "second")], [1_001, 900, 11])
        self.assertNotIn("too small", stored)
        self.store.add_usage(101, {}, {"next day": 1})
        self.assertEqual((self.store.relayed(100), self.store.relayed(101)), ({}, {"next day": 1}))


class DirectoryQueueTests(RedisTestCase):
    """What one process of a service tells the others."""

    def test_one_network_fills_what_may_wait(self) -> None:
        """What it says makes room for what others ask, and nobody takes the other process for dead."""
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(0.5)
        self.redis.delay = 0.05
        for number in range(5_000):
            one.directory.send(two.name, PeerLost(ALICE), source_of(f"203.0.113.{number % 50}"))
        honest = [one.directory.locate(BOB, source_of(f"192.0.2.{number}")) for number in range(20)]
        self.net.advance(6.0)
        self.assertEqual({self.successResultOf(each) for each in honest}, {two.name})
        self.assertEqual(len(two.messages), MOST_WAITING + IN_FLIGHT - len(honest))
        self.assertEqual(one.gone, [])


class CommandQueueTests(QueueCase):
    """Commands that wait for Redis."""

    def test_lost_while_full(self) -> None:
        """What waits fails. For each that fails two more wait, which displace some that would fail next."""
        one, two, three = SOURCES
        found = self.fill()

        def ask_again(failure: Failure) -> None:
            if not isinstance(failure.value, QueueFull):
                for _ in range(2):
                    self.queue.ask(self.connection, ("GET", "a"), source=three).addBoth(found.append)

        for number in range(MOST_WAITING):
            asked = self.queue.ask(self.connection, ("GET", "a"), source=(one, two)[number % 2])
            asked.addErrback(ask_again)
        self.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertGreater(len(found), MOST_WAITING)
        for result in found:
            self.assertIsInstance(cast(Failure, result).value, RedisProblem)
        self.connect()
        self.check()

    def test_others_wait_when_one_is_displaced(self) -> None:
        """What is told that there is no room asks for something else at once."""
        one, two, three = SOURCES
        self.fill()
        again: list[Deferred[list[Any]]] = []

        def ask_again(failure: Failure) -> None:
            failure.trap(QueueFull)
            again.append(self.queue.ask(self.connection, ("EXISTS", "a"), source=three))

        for number in range(MOST_WAITING):
            asked = self.queue.ask(self.connection, ("EXISTS", "a"), source=(one, two)[number % 2])
            asked.addErrback(ask_again if number >= MOST_WAITING - 2 else lambda _: None)
        last = self.queue.ask(self.connection, ("EXISTS", "a"), source=three)
        self.assertNoResult(last)
        self.assertGreater(len(again), 0)
        while self.transport.value():
            self.answer()
        self.assertEqual([self.successResultOf(each) for each in (last, *again)], [[1]] * (1 + len(again)))
        self.check()


class OfferMemoryTests(SynchronousTestCase):
    """Which offers a callee remembers."""

    def test_bounds(self) -> None:
        """However many call, little is kept, and who was forgotten is asked."""
        callee = Callee()
        for number in range(MAX_CALLERS + 100):
            self.assertIs(callee.takes(WALL + number / 1000, peer(number)), OfferVerdict.FRESH)
            callee.takes(None, peer(100_000 + number), digest=bytes(32), known=number < 500)
            callee.memory.challenge(peer(number), 0.0, known=False)
        assert callee.content is not None
        self.assertLess(len(callee.content), 65536)
        kept = KeptOffers.decode(callee.content)
        self.assertEqual((len(kept.newest), len(kept.untimed)), (MAX_CALLERS, MAX_UNTIMED_CALLERS))
        restarted = callee.restarted()
        for number in range(MAX_CALLERS + 100):
            self.assertIs(restarted.takes(WALL + number / 1000, peer(number)), OfferVerdict.STALE)
        fresh = callee.memory.challenge(peer(0), 0.0, known=False)
        self.assertNotEqual(fresh, (1).to_bytes(16, "big"), "more than MAX_CHALLENGES are kept")
        self.assertGreater(MAX_CALLERS, MAX_CHALLENGES)


class HalfOpenTests(RendezvousCase):
    """Connections of strangers that say nothing."""

    def test_half_open_connections_lock_nobody_out(self) -> None:
        strangers = [self.net.host(f"s{i}", f"192.0.2.{i}") for i in range(1, 26)]
        connections = [connect_raw(host.reactor, SERVICE, 7001) for host in strangers for _ in range(40)]
        self.net.advance(1)
        self.assertLessEqual(self.service.open_handshakes, 512)
        self.assertEqual(sum(client.ended is None for client in connections), 512)
        self.register(self.alice)
        self.net.advance(10)
        self.assertEqual(sum(client.ended is None for client in connections), 0)

    def test_half_open_connections_cost_little(self) -> None:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(3):
                for _ in range(100):
                    connect_raw(self.office.reactor, SERVICE, 7001)
                self.net.advance(11)
            self.net.advance(120)
            # What the clients of this test leave to the collector does not count
            gc.collect()
            self.assertLess(tracemalloc.get_traced_memory()[0] - before, 2_500_000)
        finally:
            tracemalloc.stop()

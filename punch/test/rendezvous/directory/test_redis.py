"""The directory in Redis, on the simulated internet: processes that fail, a Redis that fails or is wrong."""

from __future__ import annotations

from itertools import chain, cycle, islice

from twisted.internet.defer import Deferred

from punch.identity import PeerID
from punch.net.sources import source_of
from punch.rendezvous.directory.command_queue import KEPT_TIME, MOST_KEPT, UndeliveredMessages
from punch.rendezvous.directory.connector import DirectoryUnavailable
from punch.rendezvous.directory.messages import TWIN_TIME, UNKNOWN, PeerLost, PeerReply, PeerRequest
from punch.rendezvous.directory.peer_entries import AWAIT_LIFE
from punch.rendezvous.directory.redis import LAST_TIME, REWRITE_TIME
from punch.test.internet.testcase import InternetTestCase
from punch.test.rendezvous.directory.directory_processes import REDIS, Process, run_seed
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.rendezvous.registry.test_registry import envelope
from punch.test.strategies import IDENTITIES
from punch.test.system import EPOCH
from punch.wire.control import Answered, Cancel, Establish

ALICE, BOB, CAROL = (identity.peer_id for identity in IDENTITIES[:3])


class RedisTestCase(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes: list[Process] = []

    def start(self, count: int = 1, **options: object) -> list[Process]:
        """Start processes, and let them connect."""
        for _ in range(count):
            number = len(self.processes) + 1
            self.processes.append(Process(self.net, number, **options))  # type: ignore[arg-type]
        self.net.advance(1.5)
        return self.processes

    def tearDown(self) -> None:
        """A directory that is stopped leaves nothing behind."""
        for process in self.processes:
            process.directory.stop()
        self.net.advance(0.5)
        self.assertEqual(self.redis.connections, [])
        for process in self.processes:
            self.assertEqual(process.host.reactor.getDelayedCalls(), [])


class DirectoryTests(RedisTestCase):
    def test_locate_and_send(self) -> None:
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(0.5)
        self.assertEqual(one.locate(BOB), two.name)
        self.assertIsNone(two.locate(BOB), "it is here")
        self.assertIsNone(one.locate(CAROL))
        for peer in (ALICE, BOB, CAROL):
            one.directory.send(two.name, PeerLost(peer))
        self.net.advance(0.5)
        self.assertEqual(two.messages, [(one.name, PeerLost(peer)) for peer in (ALICE, BOB, CAROL)])
        two.leave(BOB)
        self.net.advance(0.5)
        self.assertIsNone(one.locate(BOB))
        self.assertIsNone(one.directory.problem)

    def test_many_at_once(self) -> None:
        """Redis is asked so much at once that each answer comes soon, and messages stay in order."""
        one, two = self.start(2)
        self.redis.delay = 0.1
        two.register(BOB)
        self.net.advance(1.0)
        before = self.redis.count
        asked = [one.directory.locate(BOB) for _ in range(1000)]
        for number in range(500):
            one.directory.send(two.name, PeerLost((ALICE, BOB, CAROL)[number % 3]))
        self.net.advance(0.05)
        self.assertLess(self.redis.count - before, 70)
        self.net.advance(10.0)
        self.assertEqual({self.successResultOf(each) for each in asked}, {two.name})
        expected = [(one.name, PeerLost((ALICE, BOB, CAROL)[number % 3])) for number in range(500)]
        self.assertEqual(two.messages, expected)
        self.assertIsNone(one.directory.problem)

    def test_more_than_redis_answers(self) -> None:
        """What waits is bounded: calls fail, messages are lost, and all works again afterwards."""
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(0.5)
        self.redis.delay = 0.5
        for _ in range(6_000):
            one.directory.send(two.name, PeerLost(ALICE))
        self.failureResultOf(one.directory.locate(BOB), DirectoryUnavailable)
        self.redis.stop()
        self.net.advance(1.0)
        # It is told once for each message that waited.
        self.assertLess(len(one.gone), 5_000)
        self.redis.delay = 0.0
        self.redis.start()
        self.net.advance(5.0)
        self.assertEqual(one.locate(BOB), two.name)
        self.assertIsNone(one.directory.problem)

    def test_newer_registration(self) -> None:
        """The older process is told, and its release does not touch the newer entry."""
        one, two, three = self.start(3)
        one.register(ALICE)
        self.net.advance(1.0)
        two.register(ALICE)
        self.net.advance(1.0)
        self.assertEqual((one.replaced, two.replaced), ([ALICE], []))
        self.assertEqual(three.locate(ALICE), two.name)
        one.register(ALICE)
        self.net.advance(1.0)
        self.assertEqual((one.replaced, two.replaced), ([ALICE], [ALICE]))
        self.assertEqual(three.locate(ALICE), one.name)

    def test_newer_registration_while_redis_is_slow(self) -> None:
        """A sign of life of one process that took long does not make an older registration the newer one."""
        one, two = self.start(2)
        self.net.advance(5.0)
        self.redis.delays[one.host.addresses[0]] = 2.5
        self.net.advance(1.2)
        self.redis.delays.clear()
        self.net.advance(2.4)
        one.register(ALICE)
        self.net.advance(0.3)
        two.register(ALICE)
        self.net.advance(3.0)
        self.assertEqual((one.replaced, two.replaced), ([ALICE], []))

    def test_what_was_said_last(self) -> None:
        """A process that stops tells which peers are gone; a silent Redis does not keep it waiting."""
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(0.5)
        two.leave(BOB)
        two.directory.send(one.name, PeerLost(BOB))
        stopped = two.directory.stop()
        self.net.wait(stopped, LAST_TIME)
        self.net.advance(0.2)
        self.assertEqual(one.messages, [(two.name, PeerLost(BOB))])
        self.assertEqual([key for key in self.redis.data if "peer" in str(key)], [])
        self.assertIsNone(one.locate(BOB))
        self.redis.delay = 5.0
        self.net.wait(one.directory.stop(), LAST_TIME + 0.01)

    def test_dead_process(self) -> None:
        """It is found out at the next message, or within 5 s where an introduction depends on it."""
        one, two, three = self.start(3)
        two.register(BOB)
        self.net.advance(0.5)
        one.needs.add(two.name)
        two.directory.stop()
        three.directory.send(two.name, PeerLost(ALICE))
        self.net.advance(0.5)
        self.assertEqual(three.gone, [two.name])
        self.net.advance(4.5)
        self.assertIn(two.name, one.gone)

    def test_cut_off_from_redis(self) -> None:
        """Its peers are not found meanwhile, which callers learn within 6 s; all recovers in 10 s."""
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(1.0)
        self.net.drop = lambda packet: two.host.addresses[0] in (packet.source[0], packet.destination[0])
        self.net.advance(0.5)
        self.assertEqual(one.locate(BOB), two.name, "it is not known yet")
        one.needs.add(two.name)
        one.directory.send(two.name, PeerLost(ALICE))
        self.net.advance(6.0)
        self.assertIn(two.name, one.gone)
        self.assertIsNotNone(two.directory.problem)
        one.needs.clear()
        self.net.drop = None
        self.net.advance(10.0)
        self.assertIsNone(two.directory.problem)
        self.assertEqual(one.locate(BOB), two.name)
        one.directory.send(two.name, PeerLost(CAROL))
        self.net.advance(0.5)
        self.assertEqual(two.messages, [(one.name, PeerLost(CAROL))])
        self.redis.stop()  # It takes a connection of before for open.

    def test_flushed(self) -> None:
        one, two, three = self.start(3)
        one.register(ALICE)
        two.register(BOB)
        one.needs.add(two.name)
        self.net.advance(1.0)
        self.redis.data.clear()
        self.net.advance(3.0)
        self.assertEqual((three.locate(ALICE), three.locate(BOB)), (one.name, two.name))
        self.assertEqual((one.gone, one.replaced, two.replaced), ([], [], []))

    def test_return_of_an_awaited_peer(self) -> None:
        """Every process that waits is told once, by the process at which the peer registers."""
        one, two, three = self.start(3)
        for process in (one, two):
            process.await_return(BOB)
            process.await_return(CAROL)
        self.net.advance(0.5)
        three.register(BOB)
        self.net.advance(0.5)
        three.leave(BOB)
        three.register(BOB)
        self.net.advance(0.5)
        self.assertEqual((one.returned, two.returned, three.returned), ([BOB], [BOB], []))
        # It waits for it itself, too: that needs no message.
        two.register(CAROL)
        self.net.advance(0.5)
        self.assertEqual((one.returned, two.returned), ([BOB, CAROL], [BOB]))
        self.assertEqual([key for key in self.redis.data if b"await" in key], [])

    def test_awaited_while_others_are_told(self) -> None:
        """Who begins to wait at the moment when a peer returns and leaves is told of its next return."""
        one, two = self.start(2)
        one.await_return(CAROL)
        self.net.advance(0.5)
        two.register(CAROL)
        two.leave(CAROL)
        two.await_return(CAROL)
        self.net.advance(0.5)
        one.register(CAROL)
        self.net.advance(0.5)
        self.assertEqual((one.returned, two.returned), ([CAROL], [CAROL]))

    def test_how_long_a_return_is_told(self) -> None:
        """For an hour since it was asked for last, whoever else has asked meanwhile."""
        one, two = self.start(2)
        for seconds, told in ((0.9 * AWAIT_LIFE, [CAROL]), (AWAIT_LIFE + 1.0, [])):
            one.await_return(CAROL)
            self.net.advance(0.5)
            self.redis.age(b"punch:await:", seconds)
            one.awaited.clear()
            two.register(CAROL)
            self.net.advance(0.5)
            self.assertEqual(one.returned, told)
            two.leave(CAROL)
            one.returned.clear()

    def test_peers_that_are_awaited_no_longer(self) -> None:
        """Strangers call ever new IDs, and one wish makes room for the next: Redis has few of them."""
        one, two = self.start(2)
        one.await_return(BOB)
        two.await_return(BOB)
        for number in range(1000):
            peer = PeerID(number.to_bytes(32, "big"))
            one.await_return(peer)
            one.awaited.remove(peer)
            if number % 50 == 0:
                two.await_return(peer)
                self.net.advance(0.5)
        self.net.advance(2.0)
        awaited = [key for key in self.redis.data if b"await" in key]
        self.assertLess(len(awaited), 1 + 20 + 2 + 100)
        self.assertGreaterEqual(len(awaited), 1 + 20)
        two.register(BOB)
        self.net.advance(0.5)
        self.assertEqual((one.returned, two.returned), ([BOB], []))

    def test_return_while_redis_is_away(self) -> None:
        """Flushed or away when the peer registers: it is told afterwards."""
        one, two = self.start(2)
        one.await_return(BOB)
        self.net.advance(0.5)
        self.redis.stop()
        self.net.advance(1.0)
        one.await_return(CAROL)
        two.register(BOB)
        two.register(CAROL)
        self.redis.start()
        self.net.advance(6.0)
        self.assertEqual(sorted(one.returned), sorted([BOB, CAROL]))

    def test_returned_before_it_was_awaited(self) -> None:
        """It has registered between the answer that it is away and the wish to be told."""
        one, two, three = self.start(3)
        two.register(BOB)
        self.net.advance(0.5)
        one.await_return(BOB)
        # A stale entry: nobody is told that this peer is back.
        three.register(CAROL)
        self.net.advance(0.5)
        before = dict(self.redis.data)
        three.leave(CAROL)
        self.net.advance(0.5)
        self.redis.data.update((key, each) for key, each in before.items() if b"peer" in key)
        one.await_return(CAROL)
        self.net.advance(0.5)
        self.assertEqual(one.returned, [BOB])

    def test_older_process_comes_back_after_a_flush(self) -> None:
        """The newer registration counts, whichever process writes first."""
        one, two, three = self.start(3)
        one.register(ALICE)
        self.net.advance(1.0)
        two.register(ALICE)
        # Its message is lost with the connections.
        self.redis.stop()
        self.net.advance(1.0)
        self.redis.start()
        self.net.advance(6.0)
        self.assertEqual((one.replaced, two.replaced), ([ALICE], []))
        self.assertEqual(three.locate(ALICE), two.name)

    def test_redis_away_and_back(self) -> None:
        """It says so meanwhile; peers that registered are found after at most 5 s, and nobody hurries."""
        one, two = self.start(2)
        self.redis.stop()
        self.net.advance(1.5)
        two.register(BOB)
        assert one.directory.problem is not None
        self.assertIn("Only peers of this server", one.directory.problem)
        self.failureResultOf(one.directory.locate(BOB), DirectoryUnavailable)
        one.directory.send(two.name, PeerLost(ALICE))
        one.directory.send(two.name, PeerRequest(BOB, "bob", "", Establish("0" * 32, CAROL, envelope(CAROL))))
        self.assertEqual((one.gone, len(one.lost)), ([], 1))
        self.net.advance(60.0)
        before = self.redis.count
        self.redis.start()
        self.net.advance(5.0)
        self.assertIsNone(one.directory.problem)
        self.assertEqual(two.messages, [(one.name, PeerLost(ALICE))])
        self.assertEqual(one.locate(BOB), two.name)
        self.assertLess(self.redis.count - before, 150)
        texts = [problem and "Only peers of this server" in problem for problem in one.problems]
        self.assertEqual((texts[0], texts[-1]), (None, None))
        self.assertTrue(1 <= len(texts[1:-1]) <= 3 and all(texts[1:-1]), "each reason is told once")

    def test_before_all_entries_are_written_again(self) -> None:
        """Who is not found just after Redis was flushed may be at another process; later it is not."""
        (one,) = self.start()
        self.assertIsNone(one.locate(BOB), "nothing was lost at the start")
        self.redis.data.clear()
        self.net.advance(1.5)
        self.failureResultOf(self.asked(one, BOB), DirectoryUnavailable)
        self.assertIsNone(one.directory.problem)
        self.net.advance(REWRITE_TIME)
        self.assertIsNone(one.locate(BOB))

    def asked(self, process: Process, peer: PeerID) -> Deferred[str | None]:
        """What the directory has answered."""
        located = process.directory.locate(peer)
        self.net.advance(0.5)
        return located

    def test_a_process_that_connects_again_later(self) -> None:
        """What is sent to it meanwhile arrives later, in order; new calls fail, and introductions go on."""
        one, two = self.start(2)
        call, cancel = (
            PeerRequest(ALICE, "alice", "192.0.2.1", request)
            for request in (Establish("0" * 32, BOB, envelope(BOB)), Cancel("1" * 32, BOB))
        )
        answer = PeerReply(BOB, Answered("2" * 32, ALICE, envelope(BOB)), "192.0.2.1")
        others = [PeerLost(peer) for peer in (ALICE, BOB, CAROL)]
        self.redis.stop()
        self.net.advance(1.5)
        self.redis.delays[two.host.addresses[0]] = 2.0
        self.redis.start()
        self.net.run_until(lambda: one.directory.problem is None, 10.0, "Redis works")
        before = list(one.gone)
        for message in (call, cancel, answer):
            one.directory.send(two.name, message)
        self.net.advance(0.5)
        for each in others:
            one.directory.send(two.name, each)
        self.assertEqual((one.lost, one.gone, two.messages), ([call], before, []))
        self.redis.delays.clear()
        self.net.advance(10.0)
        one.directory.send(two.name, call)
        self.net.advance(0.5)
        self.assertEqual(len(one.lost), 1)
        self.assertEqual(two.messages, [(one.name, each) for each in (cancel, answer, *others, call)])
        two.directory.stop()
        self.net.advance(REWRITE_TIME)
        one.directory.send(two.name, call)
        self.net.advance(0.5)
        self.assertEqual((len(one.lost), one.gone), (1, [*before, two.name]))

    def test_a_process_that_does_not_come_back(self) -> None:
        """What was kept for it ends with its introductions, even if Redis is lost again meanwhile."""
        one, two = self.start(2)
        self.redis.stop()
        two.directory.stop()
        self.net.advance(1.5)
        self.redis.start()
        self.net.run_until(lambda: one.directory.problem is None, 10.0, "Redis works")
        for peer in (ALICE, BOB):
            one.directory.send(two.name, PeerLost(peer))
        self.net.advance(REWRITE_TIME - 2.0)
        self.assertEqual(one.gone, [])
        self.net.advance(4.0)
        self.assertEqual(set(one.gone), {two.name})
        one.gone.clear()
        self.redis.stop()
        self.net.advance(1.5)
        self.redis.start()
        self.net.run_until(lambda: one.directory.problem is None, 10.0, "Redis works")
        one.directory.send(two.name, PeerLost(ALICE))
        self.net.advance(1.0)
        self.assertEqual(one.gone, [])
        self.redis.stop()
        self.net.advance(1.5)
        self.redis.start()
        self.net.advance(REWRITE_TIME)
        self.assertEqual(one.gone, [])
        self.net.advance(5.0)
        self.assertEqual(set(one.gone), {two.name})

    def test_messages_are_kept_in_order(self) -> None:
        """What is sent while earlier messages are being sent again comes after them."""
        one, two = self.start(2)
        self.redis.stop()
        self.net.advance(1.5)
        sent = [PeerLost(PeerID(bytes([number]) * 32)) for number in range(40)]
        for message in sent[:20]:
            one.directory.send(two.name, message)
        self.redis.delay = 0.05
        self.redis.start()
        for message in sent[20:]:
            self.net.advance(0.2)
            one.directory.send(two.name, message)
        self.net.advance(5.0)
        self.assertEqual([message for _, message in two.messages], sent)

    def test_messages_of_calls_that_are_over(self) -> None:
        """They are not sent when Redis is back, and do not take the places of newer ones."""
        one, two = self.start(2)
        self.redis.stop()
        self.net.advance(1.5)
        for _ in range(2 * MOST_KEPT):
            one.directory.send(two.name, PeerLost(ALICE), source_of("192.0.2.1"))
        self.net.advance(KEPT_TIME)
        one.directory.send(two.name, PeerLost(BOB))
        self.redis.start()
        self.net.advance(5.0)
        self.assertEqual(two.messages, [(one.name, PeerLost(BOB))])

    def test_what_is_kept_is_bounded(self) -> None:
        """One source does not take the places of others, and its newest messages stay."""
        kept = UndeliveredMessages()
        for number in range(2 * MOST_KEPT):
            kept.add("one", PeerLost(ALICE), source_of("192.0.2.1") if number % 4 else UNKNOWN, 0.0)
        kept.add("one", PeerLost(BOB), source_of("192.0.2.1"), 1.0)
        kept.add("two", PeerLost(CAROL), source_of("198.51.100.1"), 1.0)
        self.assertEqual(kept.processes, ["one", "two"])
        found = []
        while (first := kept.first("one", 1.0)) is not None:
            found.append(first[1])
            kept.forget(first[0])
        self.assertLess(len(found), MOST_KEPT)
        self.assertEqual((found[-1], found.count(PeerLost(BOB))), (PeerLost(BOB), 1))
        self.assertEqual((kept.processes, kept.first("two", 0.0)[1:2]), (["two"], (PeerLost(CAROL),)))  # type: ignore[index]
        kept.forget_all("two")
        self.assertEqual((kept.processes, "two" in kept), ([], False))

    def test_introductions_while_others_connect_again(self) -> None:
        """They go on with a process that is back seconds after Redis, and end with one that has died."""
        one, two = self.start(2)
        one.needs.add(two.name)
        two.needs.add(one.name)
        self.redis.stop()
        self.redis.data.clear()
        self.net.advance(0.5)
        self.redis.delays[two.host.addresses[0]] = 1.2
        self.redis.start()
        self.net.run_until(lambda: one.directory.problem is None, 10.0, "Redis works")
        self.net.advance(2.5)
        self.assertIsNotNone(two.directory.problem)
        self.redis.delays.clear()
        self.net.advance(4.0)
        self.assertIsNone(two.directory.problem)
        self.assertEqual((one.gone, two.gone), ([], []))
        two.directory.stop()
        self.net.advance(REWRITE_TIME + 2.0)
        self.assertEqual(set(one.gone), {two.name})

    def test_entries_expire_and_are_refreshed(self) -> None:
        """An entry lives for ten minutes, and is refreshed long before while its peer is registered."""
        (one,) = self.start()
        one.register(ALICE)
        self.net.advance(1.0)
        (key,) = [key for key in self.redis.data if key.startswith(b"punch:peer:")]
        first = self.redis.data[key][1]
        self.assertLess(abs(first - self.net.now - 600.0), 3.0)
        self.net.advance(205.0)
        self.assertGreater(self.redis.data[key][1], first + 100.0)

    def test_peers_that_come_and_go_leave_nothing(self) -> None:
        """Peers that come and go do not make the list of entries longer."""
        (one,) = self.start()
        for _ in range(200):
            one.register(ALICE)
            one.leave(ALICE)
        one.register(ALICE)
        self.net.advance(2.0)
        before = self.redis.count
        self.net.advance(10.0)
        self.assertLess(self.redis.count - before, 100)


class SentinelTests(RedisTestCase):
    def test_fail_over(self) -> None:
        """A Sentinel that is down is passed; when the primary changes, the processes follow."""
        sentinel = SimulatedRedis(self.net, self.net.host("sentinel", "198.51.100.11"), 26379)
        second = SimulatedRedis(self.net, self.net.host("second", "198.51.100.12"), 6380)
        sentinel.primary = REDIS, 6379
        one, two = self.start(2, url="redis+sentinel://198.51.100.9:9,198.51.100.11/main")
        two.register(BOB)
        self.net.advance(1.0)
        self.assertEqual(one.locate(BOB), two.name)
        self.redis.broken = "READONLY You can't write against a read only replica."
        sentinel.primary = "198.51.100.12", 6380
        self.net.advance(6.0)
        self.assertIsNone(one.directory.problem)
        self.assertEqual(one.locate(BOB), two.name)
        self.assertEqual((len(second.connections), len(sentinel.connections)), (4, 0))

    def test_unknown_name(self) -> None:
        SimulatedRedis(self.net, self.net.host("sentinel", "198.51.100.11"), 26379)
        (one,) = self.start(url="redis+sentinel://198.51.100.11/main")
        self.assertIn("Sentinel knows no primary of the name 'main'", str(one.directory.problem))


class BadRedisTests(RedisTestCase):
    def problem(self, *words: str) -> None:
        """The only process says what is wrong, and is well when that is over."""
        text = self.processes[0].directory.problem
        assert text is not None
        for word in words:
            self.assertIn(word, text)
        self.assertNotIn("secret", text)

    def well(self) -> None:
        self.net.advance(8.0)
        self.assertIsNone(self.processes[0].directory.problem)

    def test_wrong_password(self) -> None:
        self.redis.password = "right"
        self.start(url=f"redis://:secret@{REDIS}")
        self.problem("refuses the user name or password", "--registry")
        self.redis.password = "secret"
        self.well()

    def test_no_password(self) -> None:
        self.redis.password = "right"
        self.start()
        self.problem("wants a password", "redis://:password@host")

    def test_needless_password(self) -> None:
        self.start(url=f"redis://:secret@{REDIS}")
        self.problem("leave it out")

    def test_tls_to_a_plain_port(self) -> None:
        self.start(url=f"rediss://{REDIS}")
        self.net.advance(5.0)
        self.problem("TLS has failed", "redis:// in place of rediss://")

    def test_plain_to_a_tls_port(self) -> None:
        """Such a port closes the connection when it gets no TLS."""
        self.redis.run = lambda connection, *_: connection.transport.abortConnection()  # type: ignore[method-assign]
        self.start()
        self.problem("closes the connection at once", "rediss://")

    def test_read_only_replica(self) -> None:
        self.redis.broken = "READONLY You can't write against a read only replica."
        self.start()
        self.problem("read-only replica", "primary")
        self.redis.broken = None
        self.well()

    def test_disk_full(self) -> None:
        self.start()
        self.redis.broken = (
            "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk."
        )
        self.net.advance(2.0)
        self.problem("refuses writes", "space on its disk")
        self.redis.broken = None
        self.well()

    def test_slow_by_five_seconds(self) -> None:
        (one,) = self.start()
        self.redis.delay = 5.0
        asked: Deferred[str | None] = one.directory.locate(BOB)
        self.net.advance(6.0)
        self.failureResultOf(asked, DirectoryUnavailable)
        self.problem("it has not answered for 3 s")
        self.redis.delay = 0.0
        self.well()

    def test_another_services_keys(self) -> None:
        """The first service is not disturbed; the other is told, and may begin when the first has gone."""
        self.start()
        self.start(key=b"another key")
        self.processes.reverse()
        self.problem("another key uses it", "identity.key")
        self.assertIsNone(self.processes[1].directory.problem)
        self.processes[1].directory.stop()
        self.net.advance(8.0)
        self.well()

    def test_version_too_old(self) -> None:
        self.redis.version = "4.0.9"
        self.start()
        self.problem("its version is 4.0, and 5.0 is the oldest that works")

    def test_not_redis(self) -> None:
        """Something else answers on that port. When Redis is back, all is well."""
        run = self.redis.run
        for answer in ("x", 7, ["x"], None, b"\xff", 10**15):
            self.redis.run = lambda *_, answer=answer: answer  # type: ignore[method-assign]
            if not self.processes:
                self.start()
            self.net.advance(8.0)
            self.problem("Redis at")
        time = [b"9" * 400, b"0"]
        self.redis.run = lambda *asked: time if asked[1] == b"TIME" else run(*asked)  # type: ignore[method-assign]
        self.net.advance(8.0)
        self.problem("answers as Redis does not")
        self.redis.run = run  # type: ignore[method-assign]
        self.well()

    def test_messages_of_strangers(self) -> None:
        """Messages that others write to Redis are not believed, and end nothing."""
        one, two = self.start(2)
        channel = f"punch:to:{two.name}".encode()
        one.directory.send(two.name, PeerLost(ALICE))
        self.net.advance(0.5)
        copies = [message for _, message in self.redis.published]
        for message in (b"x", bytes(100), b"\xff" * 60_000, *copies):
            self.redis.run(None, b"PUBLISH", [channel, message])
        self.redis.run(None, b"SET", [b"punch:peer:" + b"0" * 32, b"nonsense"])
        self.net.advance(0.5)
        self.assertEqual(two.messages, [(one.name, PeerLost(ALICE))])
        self.assertIsNone(two.directory.problem)

    def test_malformed_entry(self) -> None:
        one, two = self.start(2)
        two.register(BOB)
        self.net.advance(0.5)
        (key,) = [key for key in self.redis.data if key.startswith(b"punch:peer:")]
        huge = b"0" * 32 + b" " + b"9" * 5000
        for value in (b"", b"x", b"g" * 32 + b" 1", b"0" * 32 + b" x", b"\xff" * 40, huge):
            self.redis.data[key] = value, float("inf")
            self.assertIsNone(one.locate(BOB))

    def test_forged_entry(self) -> None:
        """An entry that names another process replaces no registration, even if that process lives."""
        one, two, three = self.start(3)
        two.register(BOB)
        self.net.advance(0.5)
        (key,) = [key for key in self.redis.data if key.startswith(b"punch:peer:")]
        self.redis.data[key] = f"{one.name} {10**18}".encode(), float("inf")
        self.redis.data.pop(f"punch:process:{two.name}".encode())  # So it looks at all of its entries.
        self.net.advance(3.0)
        self.assertEqual(two.replaced, [])
        self.assertEqual(three.locate(BOB), two.name)

    def test_one_name_for_two(self) -> None:
        """Names are random, so only a copy of a running process has the same one: both operators are told."""
        one, two = self.start_copies(2)
        self.net.advance(5.0)
        for process in self.processes:
            assert process.directory.problem is not None
            self.assertIn("another process has the same name", process.directory.problem)
        two.directory.stop()
        self.net.advance(TWIN_TIME + 2.0)
        self.assertIsNone(one.directory.problem)

    def test_one_name_for_three(self) -> None:
        """All operators are told, while there are two; entries of other processes and of copies are right."""
        first, second, third = copies = self.start_copies(3)
        (*_, other) = self.start()
        peers = [identity.peer_id for identity in IDENTITIES[:4]]
        for process, peer in zip((*copies, other), peers, strict=True):
            process.register(peer)
        self.net.advance(5.0)
        for process in copies:
            self.assertIn("another process has the same name", str(process.directory.problem))
        self.assertIsNone(other.directory.problem)
        self.assertEqual([other.locate(peer) for peer in peers[:3]], [first.name] * 3)
        self.assertEqual([process.locate(peers[3]) for process in copies], [other.name] * 3)
        # One leaves in order, as far as the others see: its peer is gone, theirs are not
        first.leave(peers[0])
        first.directory.stop()
        self.net.advance(TWIN_TIME + 5.0)
        self.assertEqual([other.locate(peer) for peer in peers[:3]], [None, second.name, third.name])
        for process in (second, third):
            self.assertIn("another process has the same name", str(process.directory.problem))
        # Another one dies
        second.host.kill()
        self.processes.remove(second)
        self.net.advance(TWIN_TIME + 5.0)
        self.assertIsNone(third.directory.problem)
        self.assertEqual([other.locate(peer) for peer in peers[2:]], [third.name, None])
        self.assertEqual([process.replaced for process in (*copies, other)], [[]] * 4)

    def start_copies(self, count: int) -> list[Process]:
        """Processes that have all the same name, and other random bytes after it."""
        for number in range(1, count + 1):
            random = chain(bytes(16), cycle([number]))
            self.processes.append(
                Process(self.net, number, random=lambda size, random=random: bytes(islice(random, size)))  # type: ignore[misc]
            )
        self.assertEqual(len({process.name for process in self.processes}), 1)
        return self.processes[:]

    def test_its_own_signs_are_those_of_nobody_else(self) -> None:
        """Also if Redis has those of an earlier connection still to deliver."""
        (one,) = self.start()
        for delay in (2.5, 0.0) * 2:
            self.redis.delay = delay
            self.net.advance(3.0)
            self.redis.stop()
            self.net.advance(0.1)
            self.redis.start()
            self.net.advance(6.0)
        self.assertNotIn("same name", " ".join(filter(None, one.problems)))
        self.assertIsNone(one.directory.problem)

    def test_clock_an_hour_off(self) -> None:
        """Registrations are ordered all the same, and the operator is told."""
        self.start(2)
        self.start(wall=lambda: EPOCH + self.net.now - 3600.0)
        one, two, wrong = self.processes
        wrong.register(ALICE)
        self.net.advance(1.0)
        one.register(ALICE)
        self.net.advance(1.0)
        self.assertEqual((one.replaced, wrong.replaced), ([], [ALICE]))
        self.assertEqual(two.locate(ALICE), one.name)
        assert wrong.directory.problem is not None
        self.assertIn("differ by 3600 s", wrong.directory.problem)
        self.assertIsNone(one.directory.problem)


class SeedTests(InternetTestCase):
    def test_seed(self) -> None:
        """Processes and Redis fail at random; `tests/simulation/test_directory_seeds.py` has many runs."""
        self.assertEqual(run_seed(self.internet(), 1, steps=25), [])

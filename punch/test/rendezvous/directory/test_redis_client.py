"""One connection to Redis and the queue of commands before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.directory.command_queue import IN_FLIGHT, CommandQueue
from punch.rendezvous.directory.connector import DirectoryUnavailable
from punch.rendezvous.directory.redis import LAST_TIME
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.directory.redis_client import (
    REPLY_TIME,
    RedisConnection,
    RedisProblem,
)
from punch.rendezvous.directory.shared_state import Ask
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.rendezvous.directory.test_redis import RedisTestCase
from punch.test.strategies import IDENTITIES

PEERS: Sequence[PeerID] = [identity.peer_id for identity in IDENTITIES[:4]]


class AnswerTests(RedisTestCase):
    def test_one_answer_too_many(self) -> None:
        """
        It is taken for that of the next command, and refused there. What follows would be shifted by one: no
        command gets any of it.
        """
        one, two, three = self.start(3)
        owners = [two, three, two, three] * 3
        for peer, owner in zip(PEERS, owners, strict=False):
            owner.register(peer)
        self.net.advance(1.0)
        seen = 0

        def spoil(name: bytes, answer: bytes) -> bytes:
            nonlocal seen
            seen += name == b"GET"
            return b":7\r\n" + answer if name == b"GET" and seen == 3 else answer

        self.redis.spoil = spoil
        asked: list[Deferred[str | None]] = [one.directory.locate(PEERS[n % 4]) for n in range(10)]
        found: list[object] = []
        for each in asked:
            each.addBoth(found.append)
        self.net.advance(0.5)
        self.assertEqual(len(found), 10)
        self.assertEqual(found[:2], [two.name, three.name])
        for result in found[2:]:
            self.assertTrue(cast(Failure, result).check(DirectoryUnavailable), result)
        self.redis.spoil = lambda name, answer: answer


class StopTests(RedisTestCase):
    """A process that stops while it waits for Redis: that is no failure of Redis, and nothing is told."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def stop(self, process: Process) -> None:
        """Stop it, and see what it says and does afterwards."""
        self.events.clear()
        process.problems.clear()
        process.directory.stop()
        self.net.advance(LAST_TIME + 0.2)
        asked = self.redis.count
        self.net.advance(10.0)
        self.assertEqual(process.problems, [])
        self.assertEqual([formatEvent(each) for each in self.events if "Redis" in formatEvent(each)], [])
        self.assertEqual([each for each in self.events if each["log_level"] >= LogLevel.warn], [])
        self.assertEqual(self.redis.count, asked)
        self.assertEqual(process.host.reactor.getDelayedCalls(), [])

    def test_while_it_answers_slowly(self) -> None:
        (one,) = self.start()
        self.redis.delay = 2.5
        self.net.advance(1.1)
        self.stop(one)

    def test_while_something_is_brought_in_step(self) -> None:
        """What processes share sees that it was cancelled."""
        (one,) = self.start()
        self.redis.delay = 0.2
        state = _State()
        one.directory.share(state)
        self.net.advance(2.0)
        self.stop(one)
        self.assertEqual(state.ends, [CancelledError])

    def test_while_it_connects(self) -> None:
        for seconds in (0.0, 0.01, 0.05, 0.1, 0.2, 0.5):
            with self.subTest(seconds=seconds):
                self.redis.delay = seconds / 2
                process = Process(self.net, len(self.processes) + 1)
                self.processes.append(process)
                self.net.advance(seconds)
                self.stop(process)

    def test_while_nothing_answers(self) -> None:
        for url in ("redis://198.51.100.77", "redis+sentinel://198.51.100.77,198.51.100.11/main"):
            self.net.drop = lambda packet: packet.destination[0] == "198.51.100.77"
            process = Process(self.net, len(self.processes) + 1, url=url)
            self.processes.append(process)
            self.net.advance(1.0)
            self.stop(process)

    def test_while_the_first_sentinel_is_silent(self) -> None:
        """The next one is not asked."""
        sentinel = SimulatedRedis(self.net, self.net.host("sentinel", "198.51.100.11"), 26379)
        sentinel.primary = REDIS, 6379
        silent = SimulatedRedis(self.net, self.net.host("silent", "198.51.100.12"), 26379)
        silent.delay = 60.0
        for seconds in (0.02, 1.0):
            url = "redis+sentinel://198.51.100.12,198.51.100.11/main"
            process = Process(self.net, len(self.processes) + 1, url=url)
            self.processes.append(process)
            self.net.advance(seconds)
            self.stop(process)
        self.assertEqual(sentinel.count, 0)
        self.net.advance(60.0)


class _State:
    """What processes share, and asks for all the time."""

    what = "things"

    def __init__(self) -> None:
        self.ends: list[type[Exception]] = []

    async def synchronize(self, ask: Ask, now: float) -> None:
        try:
            while True:
                await ask(("TIME",))
        except Exception as error:
            self.ends.append(type(error))
            raise

    def disconnected(self) -> None:
        """It keeps nothing."""


class ConnectionTestCase(SynchronousTestCase):
    """A connection to Redis whose other end is this test."""

    def setUp(self) -> None:
        self.clock = MemoryReactorClock()
        self.connect()

    def connect(self) -> None:
        """Connect, again if it is the second time."""
        self.connection = RedisConnection(self.clock, RedisAddress((("192.0.2.1", 6379),)))
        connecting = Deferred.fromCoroutine(self.connection.connect("192.0.2.1", 6379))
        factory: Any = self.clock.tcpClients[-1][2]
        self.protocol: Any = factory.buildProtocol(None)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.successResultOf(connecting)

    def tearDown(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionError("the end")))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def results(self, *asked: Deferred[list[Any]]) -> list[object]:
        """Their results, as they come."""
        found: list[object] = []
        for each in asked:
            each.addBoth(found.append)
        return found


class ConnectionTests(ConnectionTestCase):
    def test_commands_that_cannot_be_sent(self) -> None:
        """They fail, and the next answers are those of the next commands."""
        bad = self.connection.ask(("GET", "a"), ("GET", "\ud800"))
        self.failureResultOf(bad, RedisProblem)
        self.assertEqual(self.transport.value(), b"")
        good = self.connection.ask(("GET", "b"))
        self.protocol.dataReceived(b"$1\r\nb\r\n")
        self.assertEqual(self.successResultOf(good), [b"b"])

    def test_no_answer(self) -> None:
        asked = self.connection.ask(("EXISTS", "a"))
        self.clock.advance(REPLY_TIME - 0.1)
        self.assertFalse(self.connection.given_up)
        self.clock.advance(0.2)
        self.assertTrue(self.connection.given_up)
        self.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIn("not answered for 3 s", str(self.failureResultOf(asked, RedisProblem).value))
        self.connect()

    def test_process_was_stopped(self) -> None:
        """
        The process was stopped while Redis answered. Its reactor calls what is due before it reads what has
        come, a part in each of its turns.
        """
        asked = self.results(self.connection.ask(("GET", "a")), self.connection.ask(("GET", "b")))

        def read() -> None:
            self.protocol.dataReceived(b"$4\r\nte")
            self.clock.callLater(0, self.protocol.dataReceived, b"xt\r\n$-1\r\n")

        # `advance` calls in the order of times, so this is after the timer.
        self.clock.callLater(REPLY_TIME + 1.0, read)
        self.clock.advance(10.0)
        self.assertEqual(asked, [[b"text"], [None]])
        self.assertFalse(self.connection.given_up)


class QueueCase(ConnectionTestCase):
    """A connection to a Redis that answers when the test says so, and the queue of commands for it."""

    def setUp(self) -> None:
        super().setUp()
        self.queue = CommandQueue(self.clock.seconds)

    def fill(self) -> list[object]:
        """Have so many commands in flight that others wait."""
        return self.results(*(self.queue.ask(self.connection, ("EXISTS", "a")) for _ in range(IN_FLIGHT)))

    def answer(self) -> None:
        """Answer all commands that were sent."""
        sent = self.transport.value().count(b"EXISTS")
        self.transport.clear()
        self.protocol.dataReceived(b":1\r\n" * sent)

    def check(self) -> None:
        """Commands are sent and answered as at the start."""
        found = self.fill()
        self.assertEqual(self.transport.value().count(b"EXISTS"), IN_FLIGHT)
        waiting = self.results(*(self.queue.ask(self.connection, ("EXISTS", "a")) for _ in range(IN_FLIGHT)))
        self.answer()
        self.answer()
        self.assertEqual(found + waiting, [[1]] * 2 * IN_FLIGHT)


class QueueTests(QueueCase):
    def test_commands_that_cannot_be_made(self) -> None:
        """The caller gets what its function raises, and nobody else waits for that, at once or later."""

        def commands() -> Sequence[Sequence[str]]:
            raise ZeroDivisionError

        for _ in range(2 * IN_FLIGHT):
            self.failureResultOf(self.queue.ask_for(self.connection, commands), ZeroDivisionError)
        self.fill()
        asked = [self.queue.ask_for(self.connection, commands) for _ in range(2000)]
        last = self.queue.ask(self.connection, ("EXISTS", "a"))
        self.answer()
        for each in asked:
            self.failureResultOf(each, ZeroDivisionError)
        self.answer()
        self.assertEqual(self.successResultOf(last), [1])
        self.check()

    def test_cancelled_while_waiting(self) -> None:
        """It is not sent, and nobody waits for it."""
        self.fill()
        asked = [self.queue.ask(self.connection, ("EXISTS", "a")) for _ in range(2 * IN_FLIGHT)]
        for each in asked:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.answer()
        self.assertEqual(self.transport.value(), b"")
        self.check()

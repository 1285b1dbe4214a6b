"""Answers that are not those of Redis: it counts as away then, and nothing is made of them."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.net.rate_limits import SourceTable
from punch.net.sources import Shares
from punch.rendezvous.directory.connector import DirectoryUnavailable
from punch.rendezvous.directory.messages import PeerLost
from punch.rendezvous.directory.redis_client import is_answer
from punch.rendezvous.directory.shared_state import SharedCounts
from punch.test.rendezvous.directory.directory_processes import Process
from punch.test.rendezvous.directory.test_redis import ALICE, BOB, RedisTestCase

MALFORMED: dict[str, bytes] = {
    "integer": b":7\r\n",
    "negative integer": b":-7\r\n",
    "integer that is none": b":x\r\n",
    "huge integer": b":" + b"9" * 400 + b"\r\n",
    "text": b"$3\r\nabc\r\n",
    "status": b"+OK\r\n",
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "empty list": b"*0\r\n",
    "odd list": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "nested list": b"*2\r\n*1\r\n:1\r\n*1\r\n:2\r\n",
    "list with an error": b"*2\r\n-ERR no\r\n$1\r\na\r\n",
    "error": b"-ERR no\r\n",
    "wrong type of key": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "not RESP": b"HTTP/1.1 200 OK\r\n\r\n",
    "not text": b"\xff\xfe\xfd\r\n",
    "cut short": b"$10\r\nabc",
    "huge announced": b"$99999999999\r\nabc",
    "huge list announced": b"*99999999999\r\n:1\r\n",
    "negative length": b"$-5\r\n",
    "long line": b"+" + b"x" * 70_000 + b"\r\n",
    "nothing at all": b"",
}
LIES = {(b"GET", kind) for kind in ("text", "nothing", "no list", "cut short", "huge announced")}
"""
What Redis could answer if somebody has written something else, or removed it; what follows may complete what
is cut short.
"""


class ShapeTests(SynchronousTestCase):
    def test_every_command(self) -> None:
        """An answer is good for one kind of command, and malformed ones for none."""
        good: dict[str, list[Any]] = {
            "GET": [None, b"", b"x"],
            "INFO": [b"redis_version:7"],
            "SET": ["OK", b"OK", None],
            "EXISTS": [0, 1],
            "PUBLISH": [0, 9],
            "SMEMBERS": [[], [b"a"], [b"a", b"b", b"c"]],
            "HGETALL": [[], [b"a", b"b"]],
            "TIME": [[b"1700000000", b"999999"]],
            "SENTINEL": [None, [b"192.0.2.1", b"6379"]],
            "SUBSCRIBE": [[b"subscribe", b"x", 1]],
        }
        never: list[Any] = [-1, 1 << 63, [None], [1], [b"a", [b"b"]], 1.5, ValueError(), {}, "no"]
        for command, answers in good.items():
            for answer in answers:
                self.assertTrue(is_answer((command, "x"), answer), (command, answer))
            for answer in never:
                self.assertFalse(is_answer((command, "x"), answer), (command, answer))
        for command, answer in (
            ("GET", 1),
            ("GET", "OK"),
            ("GET", []),
            ("SET", b"x"),
            ("EXISTS", None),
            ("EXISTS", b"1"),
            ("SMEMBERS", None),
            ("HGETALL", [b"a"]),
            ("TIME", [b"1"]),
            ("TIME", [b"1e9", b"0"]),
            ("TIME", [b"9" * 400, b"0"]),
            ("SENTINEL", [b"host", b"x"]),
            ("INFO", None),
        ):
            self.assertFalse(is_answer((command, "x"), answer), (command, answer))


class MalformedCase(RedisTestCase):
    """A process whose Redis answers what the test says."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        self.spoilt: dict[bytes, int] = {}
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def use(self, process: Process, other: Process) -> Deferred[str | None]:
        """Have a process send all kinds of commands."""
        other.directory.await_return(ALICE)
        self.net.advance(0.1)
        process.register(ALICE)
        process.directory.await_return(BOB)
        process.directory.send(other.name, PeerLost(BOB))
        asked = process.directory.locate(BOB)
        self.net.advance(0.5)
        process.leave(ALICE)
        self.net.advance(1.5)
        return asked

    def check(self, process: Process, other: Process, command: bytes, kind: str) -> None:
        """One command is answered in one way, for some seconds."""
        case = f"{command.decode()}: {kind}"
        self.events.clear()
        process.problems.clear()
        self.redis.spoil = lambda name, answer: MALFORMED[kind] if name == command else answer
        if command in (b"INFO", b"SUBSCRIBE"):
            # They are sent on new connections.
            for connection in list(self.redis.connections):
                connection.end()
        found: list[object] = []
        for _ in range(3):
            self.use(process, other).addBoth(found.append)
        self.net.advance(4.0)
        for result in found:
            # The truth, or that it is not known
            if isinstance(result, Failure):
                self.assertTrue(result.check(DirectoryUnavailable), case)
            elif (command, kind) not in LIES:
                self.assertEqual(result, other.name, case)
        self.assertEqual(len(found), 3, case)
        problem = process.directory.problem
        lines = [formatEvent(event) for event in self.events if event["log_level"] >= LogLevel.warn]
        self.assertEqual([event for event in self.events if event["log_level"] >= LogLevel.error], [], case)
        told = [line for line in lines if "does not work" in line]
        if problem is not None:
            self.assertIn("Redis at", problem, case)
            self.assertLess(len(problem), 400, case)
            self.assertNotIn("Traceback", problem)
        # One of each process, however often it tries
        self.assertLessEqual(len(told), 2, (case, lines))
        self.spoilt[command] = self.spoilt.get(command, 0) + (problem is not None or bool(told))
        self.redis.spoil = lambda name, answer: answer
        self.net.advance(8.0)
        self.assertIsNone(process.directory.problem, case)
        self.assertIsNone([None, *process.problems][-1], case)
        self.assertEqual(self.net.wait(process.directory.locate(BOB), 5.0), other.name, case)

    def start_sharing(self) -> list[Process]:
        """Start two processes that share counts."""
        random = self.net.random_bytes("counts")
        processes = self.start(2)
        for each in processes:
            table = SourceTable[int](100, Shares.growing(10))
            counts = SharedCounts({"t": table}, {}, lambda: self.net.now, secret=b"key", random=random)
            each.directory.share(counts)
        return processes

    def come_and_go(self, process: Process, times: int) -> None:
        """A peer registers and leaves, so many times."""
        for _ in range(times):
            process.register(ALICE)
            self.net.advance(0.2)
            process.leave(ALICE)
            self.net.advance(0.1)


class MalformedTests(MalformedCase):
    """A process with peers that come, go, are looked for and waited for, while one command is answered so."""

    def test_the_end_is_told(self) -> None:
        """A failure soon after another one, which is told and then comes back in the same way."""
        process, _ = self.start(2)
        self.redis.spoil = lambda name, answer: MALFORMED["integer"] if name == b"SMEMBERS" else answer
        self.come_and_go(process, 1)
        self.redis.spoil = lambda name, answer: MALFORMED["status"] if name == b"GETSET" else answer
        self.come_and_go(process, 6)
        self.assertIn("GETSET", str(process.problems[-1]))
        self.redis.spoil = lambda name, answer: answer
        self.net.advance(10.0)
        self.assertIsNone(process.directory.problem)
        self.assertIsNone(process.problems[-1])

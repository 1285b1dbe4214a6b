"""Processes of one service: what they count together, and what Redis answers."""

from __future__ import annotations

import os

from punch.net.rate_limits import FIRST, SourceScope
from punch.test.rendezvous.directory.test_malformed_answers import MALFORMED, MalformedCase
from punch.test.rendezvous.directory.test_redis import BOB
from punch.test.rendezvous.directory.test_shared_counts import BURST, RATE, SHARE, SharedCountsCase

USED = (
    *(b"GET", b"SET", b"EXISTS", b"EXPIRE", b"GETSET", b"SMEMBERS", b"EVAL", b"SADD", b"SREM"),
    *(b"PUBLISH", b"TIME", b"INFO", b"SUBSCRIBE", b"HSET", b"HGETALL"),
)
"""The commands that a process sends below."""


class SharedCountsTests(SharedCountsCase):
    """Limits of all processes together."""

    def test_first_places_of_many_addresses(self) -> None:
        """A network whose share is used up elsewhere gets a small part of it here, however many it has."""
        for network in ("203.0.113.{}", "2001:db8:1:{:x}00::1"):
            hosts = [network.format(number) for number in range(10, 110)]
            self.assertEqual([self.fill(0, host) for host in hosts[:4]], [SHARE] * 4)
            first = 4 * SHARE // FIRST
            for process in (1, 2):
                got = [self.fill(process, host, 2) for host in hosts[4 : 4 + 2 * first]]
                self.assertEqual(got, [1] * first + [0] * first)
                self.assertEqual(self.full.scope, SourceScope.NETWORK)

    def test_one_rate_for_all(self) -> None:
        """Who calls at all processes for long gets the rate of one, beside what was too much at first."""
        passed = sum(self.calls(process) for process in range(3))
        for _ in range(180):
            self.net.advance(0.5)
            passed += sum(self.calls(process) for process in range(3))
        self.assertLess(abs(passed - BURST - 90 * RATE), 0.15 * 90 * RATE, passed)

    def test_redis_away_for_long(self) -> None:
        """What a source has called meanwhile does not count when it is back, only what is missing then."""
        self.redis.stop()
        self.net.advance(600.0)
        for process in range(3):
            self.assertEqual(self.calls(process), BURST)
        self.redis.start()
        # Several processes may call together what one may; the first seconds are charged to all
        self.net.advance(20.0 + 3 * BURST / RATE)
        self.assertGreaterEqual(self.calls(1), 0.9 * BURST)


class MalformedTests(MalformedCase):
    """Answers that no Redis gives."""

    def test_an_answer_that_another_one_completes(self) -> None:
        """One cause has two signs: the operator is told once."""
        process, other = self.start_sharing()
        other.register(BOB)
        self.net.advance(1.0)
        for _ in range(4):
            self.check(process, other, b"HGETALL", "cut short")
            told = [each for each in process.problems if each is not None]
            self.assertLessEqual(len(told), 1, told)

    def test_every_command(self) -> None:
        """Some commands with one kind of answer each; with PUNCH_SEEDS=all, all with each."""
        process, other = self.start_sharing()
        other.register(BOB)
        self.net.advance(1.0)
        every = os.environ.get("PUNCH_SEEDS") == "all"
        some = {b"GETSET": "status", b"SMEMBERS": "integer", b"PUBLISH": "nothing", b"HGETALL": "odd list"}
        for command in USED if every else some:
            for kind in MALFORMED if every else [some[command]]:
                self.check(process, other, command, kind)
        self.assertEqual([command for command, count in self.spoilt.items() if not count], [])

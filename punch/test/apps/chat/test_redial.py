"""When peers for whom messages wait are called."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.redial import (
    FIRST,
    HOUR,
    LONGEST,
    MAX_CALLS,
    PACE,
    RETURN,
    SLOW,
    RedialSchedule,
)


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outbox: RedialSchedule[str] = RedialSchedule(lambda: 0.0)
        self.outbox.registered(0.0)

    def fail_until(self, end: float, reason: str = "not-registered") -> list[float]:
        """When bob is called, if he never is there."""
        calls = []
        now = 0.0
        while now <= end:
            if self.outbox.due(now):
                calls.append(now)
                self.outbox.failed("bob", reason, now)
            following = self.outbox.next()
            if following is None:
                break
            now = following
        return calls

    def test_less_and_less_often(self) -> None:
        self.outbox.want("bob", 0.0)
        calls = self.fail_until(3 * HOUR)
        gaps = [round(later - earlier, 6) for earlier, later in pairwise(calls)]
        self.assertEqual(calls[0], 0.0)
        self.assertEqual(gaps[0], FIRST)
        self.assertEqual(sorted(gaps), gaps)
        in_first_hour = [
            gap for gap, when in zip(gaps, calls, strict=False) if FIRST * 10 < when < HOUR - SLOW
        ]
        self.assertEqual(set(in_first_hour), {LONGEST})
        self.assertEqual(gaps[-1], SLOW)

    def test_not_without_a_rendezvous(self) -> None:
        self.outbox.unregistered()
        self.outbox.want("bob", 0.0)
        self.assertEqual((self.outbox.due(100.0), self.outbox.next()), (None, None))
        self.outbox.registered(200.0)
        self.assertEqual(self.outbox.due(200.0), "bob")

    def test_at_once_when_registered_anew(self) -> None:
        self.outbox.want("bob", 0.0)
        self.outbox.due(0.0)
        self.outbox.failed("bob", "not-registered", 0.0)
        self.outbox.registered(1.0)
        self.assertEqual(self.outbox.due(1.0), "bob")

    def test_one_call_at_a_time(self) -> None:
        self.outbox.want("bob", 0.0)
        self.assertEqual(self.outbox.due(0.0), "bob")
        self.outbox.want("bob", 1.0)
        self.outbox.registered(2.0)
        self.assertIsNone(self.outbox.due(100.0))

    def test_at_once_when_the_peer_is_back(self) -> None:
        """Its return ends the wait, and so do further ones, which cause one call in a second."""
        self.outbox.want("bob", 0.0)
        self.fail_until(HOUR / 2)
        now = self.outbox.next() or 0.0
        self.assertEqual(self.outbox.due(now), "bob")
        self.outbox.failed("bob", "not-registered", now)
        self.outbox.returned("bob", now + 0.3)
        self.assertEqual(self.outbox.due(now + 0.3), "bob")
        self.assertEqual(self.outbox.failed("bob", "not-registered", now + 0.4), FIRST)
        for moment in (0.4, 0.5, 0.6, 1.2):
            self.outbox.returned("bob", now + moment)
            self.assertIsNone(self.outbox.due(now + moment))
        self.assertEqual(self.outbox.due(now + 0.3 + RETURN), "bob")
        self.assertEqual(self.outbox.failed("bob", "not-registered", now + 1.4), FIRST)
        self.outbox.returned("bob", now + 4.0)
        self.assertEqual(self.outbox.due(now + 4.0), "bob")

    def test_the_return_of_one_who_refused(self) -> None:
        """A return does not call a peer that refused, nor one for whom nothing waits."""
        self.outbox.want("bob", 0.0)
        self.fail_until(1.0, "refused")
        self.outbox.returned("bob", 2.0)
        self.outbox.returned("carol", 2.0)
        self.assertIsNone(self.outbox.next())

    def test_who_refuses_is_left_alone(self) -> None:
        self.outbox.want("bob", 0.0)
        self.assertEqual(self.fail_until(HOUR, "refused"), [0.0])
        self.outbox.want("bob", HOUR)
        self.outbox.registered(HOUR)
        self.assertIsNone(self.outbox.due(2 * HOUR))
        self.outbox.done("bob")
        self.outbox.want("bob", 3 * HOUR)
        self.assertEqual(self.outbox.due(3 * HOUR), "bob")

    def test_a_bell_does_not_ring_all_the_time(self) -> None:
        self.outbox.want("bob", 0.0)
        self.assertEqual(self.fail_until(SLOW * 2.5, "timeout"), [0.0, SLOW, 2 * SLOW])
        self.outbox.want("bob", SLOW * 2.6)
        self.assertIsNone(self.outbox.due(SLOW * 2.7))

    def test_a_link_that_ends_at_once_again_and_again(self) -> None:
        """No hot loop: only a message that gets through makes it young again."""
        self.outbox.want("bob", 0.0)
        waits = []
        for turn in range(5):
            self.outbox.called("bob")
            waits.append(self.outbox.failed("bob", "protocol", float(turn)) or 0.0)
        self.assertEqual(waits, sorted(waits))
        self.assertGreater(waits[-1], waits[0])
        self.outbox.progress("bob", 5.0)
        self.assertEqual(self.outbox.failed("bob", "lost", 5.0), FIRST)

    def call_all(self, start: float, end: float) -> list[tuple[float, str]]:
        """Who is called when, if nobody answers."""
        calls: list[tuple[float, str]] = []
        now = start
        while True:
            following = self.outbox.next()
            if following is None or max(following, now) > end:
                return calls
            now = max(following, now)
            peer = self.outbox.due(now)
            assert peer is not None
            calls.append((now, peer))

    def test_few_at_a_time(self) -> None:
        """Nodes and rendezvous refuse who calls hundreds at once; each call that is over makes room."""
        for number in range(300):
            self.outbox.want(f"peer-{number}", 0.0)
        calls = self.call_all(0.0, HOUR)
        self.assertEqual(len(calls), MAX_CALLS)
        for (one, _), (later, _) in pairwise(calls):
            self.assertAlmostEqual(later - one, PACE)
        self.assertIsNone(self.outbox.due(HOUR))
        self.outbox.failed(calls[0][1], "not-registered", HOUR)
        self.outbox.called(calls[1][1])
        self.outbox.done(calls[2][1])
        self.assertEqual(len(self.call_all(HOUR, 2 * HOUR)), 3)

    def test_everybody_has_a_turn(self) -> None:
        """Those who are never there don't keep the others waiting, nor somebody new."""
        for number in range(300):
            self.outbox.want(f"peer-{number}", 0.0)
        called: list[str] = []
        now = 0.0
        while now < 300 * PACE * 2:
            peer = self.outbox.due(now)
            if peer is not None:
                called.append(peer)
                self.outbox.failed(peer, "not-registered", now)
            if len(called) == 450:
                self.outbox.want("new", now)
                called.append("-")
            now = max(self.outbox.next() or now, now)
        self.assertEqual(called[called.index("-") + 1], "new")
        self.assertEqual(len(set(called)), 302)
        self.assertLess(max(called.count(peer) for peer in set(called)), 5)

    def test_jitter(self) -> None:
        outbox: RedialSchedule[str] = RedialSchedule(lambda: 1.0)
        outbox.registered(0.0)
        outbox.want("bob", 0.0)
        outbox.due(0.0)
        self.assertEqual(outbox.failed("bob", "gone", 0.0), FIRST * 0.8)

    def test_nobody_waits(self) -> None:
        self.assertIsNone(self.outbox.failed("bob", "gone", 0.0))
        self.outbox.progress("bob", 0.0)
        self.outbox.called("bob")
        self.assertNotIn("bob", self.outbox)

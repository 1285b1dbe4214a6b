"""
Which packets of a handshake may leave early, when a path is checked because nothing arrives, and which
changes of the path are announced.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.budget import Budget, Route
from punch.ice.limits import MAX_EARLY, MAX_EARLY_BYTES, WINDOW, EarlyBudget
from punch.link.events import Path
from punch.node.paths.path import (
    AMPLIFICATION,
    GRACE,
    HOLD,
    PROBE_AFTER,
    SLOW,
    SLOWED,
    TOLD_GAP,
    DebouncedPath,
    EarlyHandshake,
    ExpectedAnswer,
    SlowedPath,
)
from punch.wire.address import FULL_SIZE, Address, Transmit
from punch.wire.stun_attributes import RelayLimit

LOCAL = Address("192.168.1.2", 5000)
PEER = Address("203.0.113.2", 6000)
OTHER_PORT = PEER._replace(port=6001)
VICTIM = Address("203.0.113.66", 6000)
INITIAL = [bytes(FULL_SIZE)] * 2
FLIGHT = [bytes(FULL_SIZE), bytes(FULL_SIZE), bytes(520)]
REQUEST, ANSWER = b"\x00\x01" + bytes(18), b"\x01\x01" + bytes(18)


class CallerTests(SynchronousTestCase):
    """The side that sends the Initial."""

    def setUp(self) -> None:
        self.budget = EarlyBudget()
        self.early = EarlyHandshake({PEER.host}, self.budget)
        self.made = 0

    def make(self) -> list[bytes]:
        self.made += 1
        return INITIAL

    def sent(self, remote: Address, data: bytes = REQUEST, now: float = 0.0) -> int:
        """How many datagrams leave after this one."""
        return len(self.early.initial(Transmit(data, remote, LOCAL), self.make, now))

    def test_after_the_first_check(self) -> None:
        """The Initial is sent early once, and to one address."""
        self.assertEqual([self.sent(each) for each in (VICTIM, PEER, PEER, OTHER_PORT)], [0, 2, 0, 0])
        self.assertEqual(self.made, 1)

    def test_not_to_others(self) -> None:
        """No Initial is sent where the peer was never reached, nor together with an answer to a check."""
        self.assertEqual(self.sent(VICTIM), 0)
        self.assertEqual(self.sent(Address("2001:db8::66", 6000)), 0)
        self.assertEqual(self.sent(PEER, ANSWER), 0)
        self.assertEqual(self.made, 0)

    def test_not_to_somebody_who_was_never_reached(self) -> None:
        self.early = EarlyHandshake((), self.budget)
        self.assertEqual(self.sent(PEER), 0)

    def test_call_after_call(self) -> None:
        """All calls with one peer share a budget. An answer from an address gives back what went there."""
        calls = []
        for now in range(10):
            self.early = EarlyHandshake({PEER.host}, self.budget)
            calls.append(self.sent(OTHER_PORT if now % 2 else PEER, now=float(now)))
        self.assertLessEqual(sum(calls), MAX_EARLY)
        self.assertLessEqual(sum(calls) * (FULL_SIZE + 28), MAX_EARLY_BYTES)
        self.budget.answered(PEER)
        self.early = EarlyHandshake({PEER.host}, self.budget)
        self.assertEqual(self.sent(PEER, now=11.0), 2)
        self.assertFalse(self.budget.is_idle(11.0 + WINDOW - 1))
        self.assertTrue(self.budget.is_idle(11.0 + WINDOW))

    def test_an_answer_through_a_relay(self) -> None:
        """It proves nothing about the direct route, and gives nothing back."""
        budget = Budget()
        for data in INITIAL:
            budget.early.charge(PEER, len(data), 0.0)
        budget.answered(Route(PEER, Address("198.51.100.1", 50000)), 1.0)
        self.assertFalse(budget.early.is_idle(1.0))
        self.assertFalse(budget.is_idle(WINDOW + 0.5 - 1.0))
        budget.answered(Route(PEER), 2.0)
        self.assertTrue(budget.early.is_idle(2.0))

    def test_how_long_an_answer_is_awaited(self) -> None:
        """Only on the path of the Initial, and until `GRACE` after the answer to the check is due."""
        self.assertEqual(self.early.wait(PEER, 0.1, 0.1), 0.0)
        self.sent(PEER)
        self.assertAlmostEqual(self.early.wait(PEER, 0.1, 0.1), GRACE)
        self.assertEqual(self.early.wait(PEER, 0.1, 1.0), 0.0)
        self.assertEqual(self.early.wait(OTHER_PORT, 0.1, 0.1), 0.0)
        self.assertEqual(self.early.wait(PEER, None, 0.1), 0.0)


class CalleeTests(SynchronousTestCase):
    """The side that answers the Initial."""

    def setUp(self) -> None:
        self.budget = EarlyBudget()
        self.early = EarlyHandshake({PEER.host}, self.budget)

    def sent(self, remote: Address, flight: list[bytes] = FLIGHT, now: float = 0.0) -> int:
        """How many of these datagrams leave at once."""
        return len(self.early.reply(flight, remote, now))

    def test_where_it_came_from(self) -> None:
        self.assertEqual(self.sent(PEER), 0, "nothing has come")
        self.early.received(INITIAL, PEER)
        self.assertEqual([self.sent(each) for each in (VICTIM, OTHER_PORT, PEER)], [0, 0, 3])

    def test_another_source(self) -> None:
        """Only the first address gets anything, and what comes from others does not raise its limit."""
        self.early.received(INITIAL[:1], PEER)
        self.early.received(INITIAL * 10, OTHER_PORT)
        self.assertEqual(self.sent(OTHER_PORT), 0)
        self.assertEqual(self.sent(PEER, FLIGHT * 2), 0)
        self.assertEqual(self.sent(PEER), 3)

    def test_a_forged_source(self) -> None:
        """Nothing is sent where the peer was never reached, however much seems to come from there."""
        self.early.received(INITIAL * 100, VICTIM)
        self.assertEqual(self.sent(VICTIM), 0)

    def test_amplification(self) -> None:
        """The callee sends at most three times as many bytes as came."""
        for size in (1, 100, 600, FULL_SIZE, 2 * FULL_SIZE):
            early = EarlyHandshake({PEER.host}, EarlyBudget())
            early.received([bytes(size)], PEER)
            sent = sum(sum(map(len, early.reply([bytes(400)], PEER, 0.0))) for _ in range(50))
            self.assertLessEqual(sent, AMPLIFICATION * size)

    def test_the_limit(self) -> None:
        """There is a limit for all calls with a peer, however many Initials come."""
        packets, size = 0, 0
        for now in range(50):
            early = EarlyHandshake({PEER.host}, self.budget)
            early.received(INITIAL * 50, PEER)
            for flight in (FLIGHT, FLIGHT[:1], [bytes(30)]):
                sent = early.reply(flight, PEER, float(now))
                packets, size = packets + len(sent), size + sum(len(data) + 28 for data in sent)
        self.assertLessEqual(packets, MAX_EARLY)
        self.assertLessEqual(size, MAX_EARLY_BYTES)


def path(port: int, rtt: float = 0.0) -> Path:
    """One of several paths."""
    return Path("host", Address("192.0.2.1", 1000), Address("192.0.2.2", port), "udp", rtt)


class ExpectedAnswerTests(SynchronousTestCase):
    """Each transition: nothing is expected, something is, it did not come."""

    def setUp(self) -> None:
        self.answer = ExpectedAnswer()

    def test_nothing_expected(self) -> None:
        """There is no timer."""
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertFalse(self.answer.handle_timer(99.0, None))

    def test_nothing_comes(self) -> None:
        """The path is checked once, until the link sends or receives something."""
        self.assertTrue(self.answer.expect(10.0))
        self.assertEqual(self.answer.get_timer(), 10.0 + PROBE_AFTER)
        self.assertFalse(self.answer.handle_timer(10.1, None))
        self.assertTrue(self.answer.handle_timer(10.0 + PROBE_AFTER, None))
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertTrue(self.answer.expect(20.0))
        self.assertEqual(self.answer.get_timer(), 20.0 + PROBE_AFTER)

    def test_more_comes(self) -> None:
        """The time begins again with each datagram, though the timer is only moved when it is due."""
        self.answer.expect(10.0)
        self.assertFalse(self.answer.expect(10.4))
        self.assertEqual(self.answer.get_timer(), 10.0 + PROBE_AFTER)
        self.assertFalse(self.answer.handle_timer(10.0 + PROBE_AFTER, None))
        self.assertTrue(self.answer.expected)
        self.assertEqual(self.answer.get_timer(), 10.4 + PROBE_AFTER)
        self.assertTrue(self.answer.handle_timer(10.4 + PROBE_AFTER, None))

    def test_a_long_round_trip(self) -> None:
        """It is waited for."""
        self.answer.expect(10.0)
        self.assertFalse(self.answer.handle_timer(10.0 + PROBE_AFTER, 2.0))
        self.assertEqual(self.answer.get_timer(), 10.0 + SLOW * 2.0)
        self.assertTrue(self.answer.handle_timer(10.0 + SLOW * 2.0, 2.0))

    def test_another_path(self) -> None:
        """What was expected on the path before says nothing about it."""
        self.answer.expect(10.0)
        self.answer.end()
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertFalse(self.answer.handle_timer(99.0, None))


class DebouncedPathTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.count = 0
        self.path = DebouncedPath(self.announced)
        self.path.announced(path(1))

    def announced(self) -> None:
        """A change was announced."""
        self.count += 1

    def test_a_change(self) -> None:
        """It is announced when it has lasted, and once."""
        self.path.changed(path(2), 10.0)
        self.assertEqual(self.path.get_timer(), 10.0 + HOLD)
        self.path.handle_timer(10.0 + HOLD / 2)
        self.assertEqual(self.count, 0)
        self.path.handle_timer(10.0 + HOLD)
        self.path.handle_timer(99.0)
        self.assertEqual(self.count, 1)
        self.assertIsNone(self.path.get_timer())

    def test_several_at_once(self) -> None:
        """Of several changes within `HOLD`, the last is announced, unless it is the path before."""
        self.path.changed(path(2), 10.0)
        self.path.changed(path(3), 10.0 + HOLD / 2)
        self.assertEqual(self.path.get_timer(), 10.0 + HOLD)
        self.path.handle_timer(10.0 + HOLD)
        self.assertEqual(self.count, 1)
        self.path.changed(path(2), 20.0)
        self.path.changed(path(3), 20.1)
        self.path.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)

    def test_nothing_new(self) -> None:
        """Another round-trip time is no change."""
        self.path.changed(path(1, 0.5), 10.0)
        self.assertIsNone(self.path.get_timer())

    def test_after_a_loss(self) -> None:
        """Any path is a change, also the one that was lost."""
        self.path.changed(path(2), 10.0)
        self.path.lost()
        self.assertIsNone(self.path.get_timer())
        self.path.changed(path(1), 20.0)
        self.path.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)


class SlowedPathTests(SynchronousTestCase):
    """When a relay's notices are told."""

    def test_once_while_they_come(self) -> None:
        """However many notices come, and whatever rates they name, one is told until there is silence."""
        path, here = SlowedPath(), Address("192.0.2.1", 1)
        told = [
            path.learn(RelayLimit(number % 4), here, now)
            for number, now in enumerate((0.0, 0.1, 0.1, 10.0, 39.9, 69.8, 99.9, 130.0))
        ]
        self.assertEqual(told, [True, False, False, False, False, False, True, True])

    def test_how_long_it_lasts(self) -> None:
        path, here = SlowedPath(), Address("192.0.2.1", 1)
        self.assertIsNone(path.limit(here, 0.0))
        path.learn(RelayLimit.PEER, here, 5.0)
        self.assertEqual(path.limit(here, 5.0 + SLOWED - 0.1), RelayLimit.PEER)
        self.assertIsNone(path.limit(here, 5.0 + SLOWED))

    def test_another_path(self) -> None:
        """A notice is about the relay that it comes from."""
        path, here, there = SlowedPath(), Address("192.0.2.1", 1), Address("192.0.2.1", 2)
        path.learn(RelayLimit.PEER, here, 5.0)
        self.assertIsNone(path.limit(there, 5.0))
        self.assertTrue(path.learn(RelayLimit.PEER, there, 6.0))
        self.assertEqual(path.limit(there, 7.0), RelayLimit.PEER)

    def test_the_other_side_is_told_now_and_then(self) -> None:
        """However often a relay says so."""
        path = SlowedPath()
        told = [now for now in range(100) if path.tells(now / 10)]
        self.assertEqual(told, list(range(0, 100, int(TOLD_GAP * 10))))

"""Which packets of a handshake may leave early: every way in which it is not allowed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.budget import Budget, Route
from punch.ice.early_budget import MAX_EARLY, MAX_EARLY_BYTES, EarlyBudget
from punch.ice.target_limits import WINDOW
from punch.node.calls.early_handshake import AMPLIFICATION, GRACE, EarlyHandshake
from punch.wire.address import FULL_SIZE, Address, Transmit

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
        """Once, and to one address."""
        self.assertEqual([self.sent(each) for each in (VICTIM, PEER, PEER, OTHER_PORT)], [0, 2, 0, 0])
        self.assertEqual(self.made, 1)

    def test_not_to_others(self) -> None:
        """Not to an address where the peer was never reached, and not after an answer to a check."""
        self.assertEqual(self.sent(VICTIM), 0)
        self.assertEqual(self.sent(Address("2001:db8::66", 6000)), 0)
        self.assertEqual(self.sent(PEER, ANSWER), 0)
        self.assertEqual(self.made, 0)

    def test_not_to_somebody_who_was_never_reached(self) -> None:
        self.early = EarlyHandshake((), self.budget)
        self.assertEqual(self.sent(PEER), 0)

    def test_call_after_call(self) -> None:
        """All calls with one peer share a budget; an answer gives back what went there."""
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
        """Only on the path that it would come from, and little longer than that of the check."""
        self.assertEqual(self.early.wait(PEER, 0.1, 0.1), 0.0)
        self.sent(PEER)
        self.assertAlmostEqual(self.early.wait(PEER, 0.1, 0.1), GRACE)
        self.assertEqual(self.early.wait(PEER, 0.1, 1.0), 0.0)
        self.assertEqual(self.early.wait(OTHER_PORT, 0.1, 0.1), 0.0)
        self.assertEqual(self.early.wait(PEER, None, 0.1), 0.0)


class CalleeTests(SynchronousTestCase):
    """The side that answers it."""

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
        """The first one counts: no other address gets anything, nor pays for it."""
        self.early.received(INITIAL[:1], PEER)
        self.early.received(INITIAL * 10, OTHER_PORT)
        self.assertEqual(self.sent(OTHER_PORT), 0)
        self.assertEqual(self.sent(PEER, FLIGHT * 2), 0)
        self.assertEqual(self.sent(PEER), 3)

    def test_a_forged_source(self) -> None:
        """Where the peer was never reached, there is no answer, however much seems to come from there."""
        self.early.received(INITIAL * 100, VICTIM)
        self.assertEqual(self.sent(VICTIM), 0)

    def test_amplification(self) -> None:
        """At most three times what came."""
        for size in (1, 100, 600, FULL_SIZE, 2 * FULL_SIZE):
            early = EarlyHandshake({PEER.host}, EarlyBudget())
            early.received([bytes(size)], PEER)
            sent = sum(sum(map(len, early.reply([bytes(400)], PEER, 0.0))) for _ in range(50))
            self.assertLessEqual(sent, AMPLIFICATION * size)

    def test_the_limit(self) -> None:
        """However many Initials come, and on however many calls."""
        packets, size = 0, 0
        for now in range(50):
            early = EarlyHandshake({PEER.host}, self.budget)
            early.received(INITIAL * 50, PEER)
            for flight in (FLIGHT, FLIGHT[:1], [bytes(30)]):
                sent = early.reply(flight, PEER, float(now))
                packets, size = packets + len(sent), size + sum(len(data) + 28 for data in sent)
        self.assertLessEqual(packets, MAX_EARLY)
        self.assertLessEqual(size, MAX_EARLY_BYTES)

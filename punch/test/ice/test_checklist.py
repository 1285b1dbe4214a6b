"""The checklist and transactions by themselves (RFC 8445, section 6.1; RFC 8489, section 6.2.1)."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.agent import Agent
from punch.ice.checklist import MAX_PAIRS, CheckList
from punch.ice.checks import IceCredentials
from punch.ice.pacing import HEAD_START
from punch.ice.pairs import CandidatePair, PairState
from punch.ice.transactions import Purpose, Transaction
from punch.test.ice.ice_network import REFLECTOR
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate, CandidateType

HERE, THERE = Address("192.0.2.1", 1), Address("192.0.2.2", 2)


def candidate(
    host: str, priority: int, foundation: str = "1", kind: CandidateType = CandidateType.HOST
) -> Candidate:
    return Candidate(kind, Address(host, 5000), priority, foundation)


def always(pair: CandidatePair) -> bool:
    return True


def never(pair: CandidatePair) -> bool:
    return False


class CheckListTests(SynchronousTestCase):
    """The states of pairs, and the order in which they are checked."""

    def setUp(self) -> None:
        self.list = CheckList()
        self.local = candidate("192.0.2.1", 100)

    def add(self, *remotes: Candidate) -> list[CandidatePair]:
        pairs = [self.list.add(self.local, remote) for remote in remotes]
        return [pair for pair in pairs if pair is not None]

    def take(self) -> CandidatePair | None:
        return self.list.next_pair(always, never)

    def test_pairs_are_formed_once(self) -> None:
        remote = candidate("192.0.2.2", 100)
        (pair,) = self.add(remote)
        self.assertIs(self.list.add(self.local, remote), pair)
        self.assertIs(self.list.get(self.local.address, remote.address), pair)
        self.assertEqual(len(self.list), 1)

    def test_one_pair_of_each_foundation_is_unfrozen(self) -> None:
        low, high, other = self.add(
            candidate("192.0.2.2", 10), candidate("192.0.2.3", 20), candidate("192.0.2.4", 5, "2")
        )
        self.list.unfreeze(always)
        self.assertEqual(
            [pair.state for pair in (low, high, other)],
            [PairState.FROZEN, PairState.WAITING, PairState.WAITING],
        )
        high.state = PairState.IN_PROGRESS
        self.list.unfreeze(always)
        self.assertIs(low.state, PairState.FROZEN)
        high.state = PairState.FAILED
        self.list.unfreeze(always)
        self.assertIs(low.state, PairState.WAITING)

    def test_a_check_without_answer_holds_up_nobody(self) -> None:
        """
        A steady check goes on for minutes. Pairs of its foundation are checked after its first
        retransmission.
        """
        low, high = self.add(candidate("192.0.2.2", 10), candidate("192.0.2.3", 20))
        self.list.unfreeze(always)
        high.state = PairState.IN_PROGRESS
        remote, local = high.remote.address, high.base
        high.transaction = Transaction(Purpose.CHECK, b"1" * 12, b"request", remote, local, 0.0)
        self.assertIsNotNone(high.transaction.handle_timer(0.0))
        self.list.unfreeze(always)
        self.assertIs(low.state, PairState.FROZEN)
        self.assertIsNotNone(high.transaction.handle_timer(high.transaction.next_at))
        self.list.unfreeze(always)
        self.assertIs(low.state, PairState.WAITING)

    def test_success_unfreezes_what_is_like_it(self) -> None:
        """RFC 8445, section 7.2.5.3.3."""
        pairs = self.add(*(candidate(f"192.0.2.{number}", number) for number in range(2, 6)))
        self.list.unfreeze(always)
        self.list.succeeded(pairs[-1])
        self.assertEqual({pair.state for pair in pairs[:-1]}, {PairState.WAITING})

    def test_order(self) -> None:
        """Triggered checks first, then by priority, types taking turns."""
        hosts = self.add(candidate("192.0.2.2", 20, "a"), candidate("192.0.2.3", 30, "b"))
        mapped = self.add(candidate("192.0.2.4", 10, "c", CandidateType.SRFLX))
        self.list.unfreeze(always)
        self.list.trigger(hosts[0])
        self.list.trigger(hosts[0])
        taken: list[CandidatePair | None] = []
        for _ in range(3):
            pair = self.take()
            assert pair is not None
            pair.state = PairState.IN_PROGRESS
            taken.append(pair)
        self.assertEqual(taken, [hosts[0], hosts[1], mapped[0]])
        self.assertIsNone(self.take())
        self.assertFalse(self.list.has_work(always))

    def test_turns(self) -> None:
        self.add(*(candidate(f"192.0.2.{number}", 100 - number, str(number)) for number in range(2, 12)))
        (mapped,) = self.add(candidate("192.0.2.40", 1, "c", CandidateType.SRFLX))
        self.list.unfreeze(always)
        first, second = self.take(), None
        assert first is not None
        first.state = PairState.IN_PROGRESS
        second = self.take()
        self.assertIs(second, mapped)

    def test_unlikely_pairs_come_last(self) -> None:
        first, second = self.add(candidate("192.0.2.2", 20, "a"), candidate("192.0.2.3", 10, "b"))
        self.list.unfreeze(always)
        self.assertIs(self.list.next_pair(always, lambda pair: pair is first), second)

    def test_priorities_depend_on_the_role(self) -> None:
        (pair,) = self.add(candidate("192.0.2.2", 7))
        self.assertEqual(pair.priority(True), 7 * 2**32 + 2 * 100 + 1)
        self.assertEqual(pair.priority(False), 7 * 2**32 + 2 * 100)

    def test_the_hundredth_and_further(self) -> None:
        for number in range(MAX_PAIRS):
            self.add(Candidate(CandidateType.HOST, Address("192.0.2.2", number + 1), number + 10, "1"))
        self.assertIsNone(self.list.add(self.local, candidate("192.0.2.3", 1)))
        self.assertIsNotNone(self.list.add(self.local, candidate("192.0.2.3", 1000)))
        self.assertEqual(len(self.list), MAX_PAIRS)
        self.assertIsNone(self.list.get(self.local.address, Address("192.0.2.2", 1)))

    def test_pairs_under_way_stay(self) -> None:
        for number in range(MAX_PAIRS):
            remote = Candidate(CandidateType.HOST, Address("192.0.2.2", number + 1), number + 10, "1")
            (pair,) = self.add(remote)
            pair.state = PairState.IN_PROGRESS
        self.assertIsNone(self.list.add(self.local, candidate("192.0.2.3", 1000)))
        pair.state = PairState.FAILED
        self.assertIsNotNone(self.list.add(self.local, candidate("192.0.2.3", 1000)))
        self.assertEqual(len(self.list), MAX_PAIRS)


class TransactionTests(SynchronousTestCase):
    """When requests are sent again."""

    def make(self, **options: float) -> Transaction:
        made = Transaction(Purpose.CHECK, bytes(12), b"request", THERE, HERE, 100.0)
        for name, value in options.items():
            setattr(made, name, value)
        return made

    def test_schedule(self) -> None:
        transaction, sent = self.make(), []
        while not transaction.expired(now := transaction.next_at):
            transmit = transaction.handle_timer(now)
            if transmit is not None:
                self.assertEqual(transmit, Transmit(b"request", THERE, HERE))
                sent.append(now - 100)
            if not transaction.retransmitting:
                break
        self.assertEqual(sent, [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
        self.assertEqual(transaction.next_at, 100 + (63 + 16) * 0.5)

    def test_nothing_is_sent_too_early(self) -> None:
        transaction = self.make()
        self.assertIsNotNone(transaction.handle_timer(100.0))
        self.assertIsNone(transaction.handle_timer(100.4))

    def test_stopped(self) -> None:
        transaction = self.make()
        transaction.handle_timer(100.0)
        transaction.stop_retransmitting(100.1)
        self.assertIsNone(transaction.handle_timer(101.0))
        self.assertFalse(transaction.expired(105.0))
        self.assertTrue(transaction.expired(108.2))

    def test_round_trip_time(self) -> None:
        transaction = self.make()
        transaction.handle_timer(100.0)
        self.assertEqual(transaction.rtt(100.25), (0.25, True))
        transaction.handle_timer(100.5)
        self.assertEqual(transaction.rtt(100.75), (0.75, False))


class FamiliarTests(SynchronousTestCase):
    """Addresses at which the peer answered before are checked first."""

    OURS = Address("192.168.1.2", 5000)
    RELAYED = Address("198.51.100.1", 50000)
    REFLEXIVE = Address("203.0.113.2", 6000)
    OTHER = Address("203.0.113.3", 6000)

    def agent(self, *familiar: str) -> Agent:
        """An agent that asks a reflector, and knows the peer's candidates."""
        random = Random(1)
        agent = Agent(
            controlling=False,
            credentials=IceCredentials.generate(random.randbytes),
            random=random.randbytes,
            familiar=familiar,
        )
        agent.add_local_address(self.OURS)
        agent.gather([REFLECTOR], 0.0)
        agent.set_remote(IceCredentials.generate(random.randbytes), 0.05, 0.0)
        for number, (kind, address) in enumerate(
            (
                (CandidateType.RELAY, self.RELAYED),
                (CandidateType.SRFLX, self.OTHER),
                (CandidateType.SRFLX, self.REFLEXIVE),
            )
        ):
            related = Address("0.0.0.0", 9)
            agent.add_remote_candidate(
                Candidate(kind, address, 1000 - number, str(number), related=related), 0.0
            )
        return agent

    def checked(self, agent: Agent, until: float) -> list[Address]:
        """Where the first check of each pair goes, in order; the reflector does not answer."""
        sent: list[Address] = []
        for step in range(round(until / 0.01)):
            sent += [transmit.remote for transmit in agent.datagrams_to_send(step * 0.01)]
        return [remote for remote in dict.fromkeys(sent) if remote != REFLECTOR]

    def test_first(self) -> None:
        """
        They are first once checks through the peer's NAT are no longer held back. Until then no other check
        is sent.
        """
        agent = self.agent(self.REFLEXIVE.host)
        self.assertEqual(self.checked(agent, HEAD_START - 0.02), [])
        self.assertEqual(self.checked(self.agent(self.REFLEXIVE.host), 0.45)[0], self.REFLEXIVE)

    def test_a_neighbour(self) -> None:
        """A check that does not go through a NAT is not held back, nor are others longer than without it."""
        for neighbour in (Address("192.168.1.3", 7000), Address("203.0.113.9", 7000)):
            agent = self.agent(neighbour.host)
            agent.add_remote_candidate(Candidate(CandidateType.HOST, neighbour, 2000, "9"), 0.0)
            self.assertEqual(self.checked(agent, 0.1), [neighbour, self.RELAYED])

    def test_somebody_elsewhere(self) -> None:
        """A private address that is probably behind another NAT holds no checks back."""
        neighbour = Address("192.168.1.3", 7000)
        agent = self.agent(neighbour.host)
        agent.reflexive.add(self.OURS, Address("203.0.113.50", 5000))
        agent.add_remote_candidate(Candidate(CandidateType.HOST, neighbour, 2000, "9"), 0.0)
        self.assertEqual(self.checked(agent, 0.1), [self.RELAYED])

    def test_others(self) -> None:
        """
        If no address answered before, or none of the peer's is such an address, the order is the usual one.
        """
        for familiar in ((), ("203.0.113.99",), (self.RELAYED.host,)):
            order = self.checked(self.agent(*familiar), 0.45)
            self.assertEqual(order, [self.RELAYED, self.OTHER, self.REFLEXIVE], familiar)

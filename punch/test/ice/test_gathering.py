"""What the ICE agent learns from reflectors."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.budget import MAX_DIRECT, MAX_DIRECT_TO_ONE
from punch.ice.checks import IceCredentials
from punch.ice.events import GatheringDone, LocalCandidate, Selected
from punch.ice.pacing import HEAD_START
from punch.test.ice.ice_network import NAT, REFLECTOR, Host, IceNetwork
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.stun import Attribute, encode, error, parse, success

DELAY = 0.05


class GatheringTests(SynchronousTestCase):
    """Server-reflexive candidates (RFC 8445, section 5.1.1.2)."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1"))

    def candidates(self) -> list[CandidateType]:
        events = self.alice.of(LocalCandidate)
        return [event.candidate.type for event in events if isinstance(event, LocalCandidate)]

    def gather(self, *reflectors: Address) -> None:
        self.alice.agent.gather(reflectors or [REFLECTOR], self.network.now)

    def test_answered(self) -> None:
        began = self.network.now
        self.gather()
        self.network.run(1)
        self.assertEqual(self.candidates(), [CandidateType.HOST, CandidateType.SRFLX])
        srflx = self.alice.agent.local_candidates[1]
        self.assertEqual(srflx.address, Address("203.0.113.1", 40001))
        self.assertEqual(srflx.related, self.alice.bases[0])
        self.assertAlmostEqual(self.alice.when(GatheringDone) - began, 2 * DELAY)

    def test_no_nat_no_candidate(self) -> None:
        public = self.network.host("public", "192.0.2.1")
        public.agent.gather([REFLECTOR], self.network.now)
        self.network.run(1)
        self.assertEqual(len(public.agent.local_candidates), 1)
        self.assertEqual(len(public.of(GatheringDone)), 1)

    def test_nothing_to_ask(self) -> None:
        self.gather(Address("2001:db8::1", 3478))
        self.network.run(0)
        self.assertEqual(self.alice.when(GatheringDone), self.network.now)
        self.assertEqual(self.alice.sent, [])
        loopback = self.network.host("loopback", "127.0.0.1")
        loopback.agent.gather([REFLECTOR, Address("127.0.0.1", 3478)], self.network.now)
        self.network.run(0)
        self.assertEqual(len(loopback.of(GatheringDone)), 1)
        self.assertEqual(loopback.sent, [])

    def test_silence_ends_after_3_5_seconds(self) -> None:
        began = self.network.now
        self.gather(Address("198.51.100.99", 3478))
        self.network.run(10)
        self.assertAlmostEqual(self.alice.when(GatheringDone) - began, 3.5)
        offsets = [round(when - began, 6) for when, _ in self.alice.sent]
        self.assertEqual(offsets, [0, 0.5, 1.5])

    def test_a_reflector_that_comes_back_is_heard(self) -> None:
        self.network.blocked = lambda source, target: True
        self.gather()
        self.network.run(10)
        self.network.blocked = lambda source, target: False
        self.network.run(20)
        self.assertEqual(self.candidates(), [CandidateType.HOST, CandidateType.SRFLX])
        self.assertEqual(len(self.alice.of(GatheringDone)), 1)

    def test_questions_are_short_and_paced(self) -> None:
        began = self.network.now
        many = self.network.host("many", "192.168.5.2", "192.168.6.2", "192.168.7.2", nat=NAT("203.0.113.5"))
        many.agent.gather([REFLECTOR], began)
        self.network.run(1)
        self.assertEqual([round(when - began, 6) for when, _ in many.sent], [0, 0.05, 0.1])
        self.assertEqual({len(transmit.data) for _, transmit in many.sent}, {20})

    def test_checks_are_not_delayed(self) -> None:
        bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.gather(Address("198.51.100.99", 3478))
        self.network.pair(self.alice, bob, gather=False)
        began = self.network.now
        self.network.run(0.5, lambda: self.alice.agent.selected is not None)
        self.assertAlmostEqual(self.network.now - began, 2 * DELAY)

    def test_the_mapping_is_kept_while_the_peer_is_called_and_no_longer(self) -> None:
        self.gather()
        self.network.run(61)
        self.assertEqual(len(self.alice.sent), 5)
        bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.network.pair(self.alice, bob, gather=False)
        self.network.run(61)
        to_reflector = [when for when, transmit in self.alice.sent if transmit.remote == REFLECTOR]
        self.assertEqual(len(to_reflector), 5)

    def test_a_changed_mapping_is_a_new_candidate(self) -> None:
        self.gather()
        self.network.run(1)
        assert self.alice.nat is not None
        self.alice.nat.mappings.clear()
        self.network.run(20)
        ports = [candidate.address.port for candidate in self.alice.agent.local_candidates[1:]]
        self.assertEqual(ports, [40001, 40002])

    def test_a_mapping_learned_elsewhere(self) -> None:
        self.alice.agent.reflexive.add(self.alice.bases[0], Address("203.0.113.1", 7))
        self.alice.agent.reflexive.add(self.alice.bases[0], Address("203.0.113.1", 7))
        self.network.run(0)
        self.assertEqual(self.candidates(), [CandidateType.HOST, CandidateType.SRFLX])

    def test_answers_from_elsewhere_and_errors_are_not_believed(self) -> None:
        self.gather()
        (question,) = self.alice.agent.datagrams_to_send(self.network.now)
        right = encode(
            success(parse(question.data), (Attribute.XOR_MAPPED_ADDRESS, Address("192.0.2.66", 6)))
        )
        stranger = Address(REFLECTOR.host, 3479)
        self.network.inject(self.alice, right, stranger)
        self.network.inject(self.alice, right[:-1], REFLECTOR)
        self.assertEqual(len(self.alice.agent.local_candidates), 1)
        wrong = encode(error(parse(question.data), 400, "Bad Request"))
        self.network.inject(self.alice, wrong, REFLECTOR)
        self.network.inject(self.alice, right, REFLECTOR)
        self.assertEqual(len(self.alice.agent.local_candidates), 1)
        self.assertEqual(len(self.alice.of(GatheringDone)), 1)

    def test_bounded(self) -> None:
        self.gather(*(Address("198.51.100.9", port) for port in range(1, 1000)))
        self.network.run(10)
        self.assertLessEqual(len({transmit.remote for _, transmit in self.alice.sent}), 32)


class MappedPortTests(SynchronousTestCase):
    """Alice's router maps a port and names a wrong address, and her NAT has a port for each reflector."""

    HOST = "203.0.113.1"
    WRONG, RIGHT = Address("192.0.2.99", 5000), Address(HOST, 5000)

    def checks(self, *seen: Address, named: Address = WRONG) -> list[Address]:
        """
        Where Bob sends checks while none arrives, in order.

        :param seen: Alice's addresses as reflectors see them.
        :param named: the address that her router names.
        """
        network = IceNetwork(budgets=True)
        network.loses = lambda transmit: True
        alice = network.host("alice", "192.168.1.2")
        bob = network.host("bob", "192.168.2.2", nat=NAT("203.0.113.2"), controlling=False)
        bob.agent.reflexive.add(bob.bases[0], Address("203.0.113.2", 4000))
        alice.agent.reflexive.add_mapped(alice.bases[0], named)
        for number, address in enumerate(seen):
            alice.agent.reflexive.add(alice.bases[0], address, f"reflector {number}")
        network.introduce(bob, alice)
        network.run(10.0)
        self.assertLessEqual(len(bob.sent), MAX_DIRECT)
        return [transmit.remote for _, transmit in bob.sent]

    def test_the_port_is_checked_first_and_again(self) -> None:
        """
        The mapped port is checked first and often enough, whether the address that the router names is wrong
        or not.
        """
        seen = [Address(self.HOST, port) for port in (40001, 40002)]
        for named in (self.WRONG, self.RIGHT):
            checks = self.checks(*seen, named=named)
            self.assertEqual(checks[0], self.RIGHT, (named, checks))
            self.assertGreaterEqual(checks.count(self.RIGHT), 2, (named, checks))

    def test_no_reflector_has_answered(self) -> None:
        """Without an answer of a reflector, the only candidate is at the address that the router names."""
        self.assertEqual(self.checks().count(self.WRONG), MAX_DIRECT_TO_ONE)

    def test_another_port_later(self) -> None:
        """A wrong address that the router named before does not count as one that a reflector saw."""
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2")
        (base,) = alice.bases
        alice.agent.reflexive.add_mapped(base, self.WRONG)
        alice.agent.reflexive.add(base, Address(self.HOST, 40001))
        alice.agent.reflexive.add_mapped(base, Address(self.WRONG.host, 5001))
        priorities = {each.address: each.priority >> 24 for each in alice.agent.local_candidates}
        self.assertEqual([priorities[Address(self.WRONG.host, port)] for port in (5000, 5001)], [100, 100])
        self.assertEqual([priorities[Address(self.HOST, port)] for port in (5000, 5001)], [105, 105])


class HoldTests(SynchronousTestCase):
    """
    Bob, who was called, knows both sides' candidates first. Routers that take what nobody asked for as meant
    for themselves let the two connect only if neither's check arrives before the other has sent one.
    """

    def call(self, known: bool, *takers: str) -> tuple[Host, Host]:
        """
        A call, signalled in 100 ms, which is what the reflector takes, too.

        :param known: whether Bob knows his mapping when the call comes.
        """
        self.network = network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1", takes="alice" in takers))
        bob_nat = NAT("203.0.113.2", takes="bob" in takers)
        bob = network.host("bob", "192.168.2.2", nat=bob_nat, controlling=False)
        alice.agent.gather([REFLECTOR], network.now)
        network.run(4.0)
        self.began = network.now
        if known:
            bob.agent.reflexive.add(bob.bases[0], bob_nat.outbound(bob.bases[0], REFLECTOR))
        answered = list(bob.agent.local_candidates)
        bob.agent.gather([REFLECTOR], network.now)
        network.introduce(bob, alice)
        network.run(2 * DELAY)
        alice.agent.set_remote(bob.agent.credentials, DELAY, network.now)
        for candidate in answered:
            network.tell(alice, candidate)
        network.run(2 * DELAY)
        for candidate in bob.agent.local_candidates:
            network.tell(alice, candidate)
        network.run(5.0)
        return alice, bob

    def test_routers_that_take_what_comes(self) -> None:
        """Routers that take unsolicited datagrams themselves do no harm, on one side or both."""
        for known in (True, False):
            for takers in ([], ["alice"], ["bob"], ["alice", "bob"]):
                alice, bob = self.call(known, *takers)
                self.assertTrue(self.network.connected(), (known, takers))
                self.assertEqual((alice.path.path, bob.path.path), ("srflx", "srflx"))

    def test_it_costs_nothing(self) -> None:
        """Holding checks back delays no path: the peer can't begin earlier."""
        alice, bob = self.call(True)
        self.assertAlmostEqual(alice.when(Selected) - self.began, 4 * DELAY)
        self.assertAlmostEqual(bob.when(Selected) - self.began, 4 * DELAY)

    def test_a_reflector_that_is_silent(self) -> None:
        """Checks wait for it only for a short time, and only those that go through a NAT."""
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1"))
        alice.agent.gather([Address("198.51.100.99", 3478)], network.now)
        alice.agent.set_remote(IceCredentials.generate(network.random.randbytes), DELAY, network.now)
        began = network.now
        through, beside = Address("203.0.113.2", 40000), Address("192.0.2.1", 5000)
        network.tell(alice, Candidate(CandidateType.SRFLX, through, 2000, "1", related=Address("0.0.0.0", 9)))
        network.tell(alice, Candidate(CandidateType.HOST, beside, 1000, "2"))
        network.run(1.0)
        first = {transmit.remote: when for when, transmit in reversed(alice.sent)}
        self.assertEqual(first[beside], began)
        self.assertAlmostEqual(first[through], began + HEAD_START)

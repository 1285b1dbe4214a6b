"""Roles, their conflicts, and nomination (RFC 8445, sections 7.3.1.1 and 8)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.check_client import MAX_ROLE_SWITCHES
from punch.ice.checks import IceCredentials, IceRole, build_check
from punch.ice.events import AgentState, RoleChanged, Selected
from punch.test.ice.ice_network import NAT, Host, IceNetwork
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate
from punch.wire.stun import (
    Attribute,
    MessageClass,
    StunMessage,
    encode,
    error,
    parse,
    success,
)


def requests(host: Host) -> list[StunMessage]:
    messages = [parse(transmit.data) for _, transmit in host.sent]
    return [message for message in messages if message.message_class is MessageClass.REQUEST]


def nominations(host: Host) -> list[tuple[Address, int | None]]:
    """Where nominations went, and their values, None without one; repetitions are left out."""
    found = []
    for _, transmit in host.sent:
        message = parse(transmit.data)
        if Attribute.USE_CANDIDATE in message:
            found.append((transmit.remote, message.get(Attribute.NOMINATION)))
    return list(dict.fromkeys(found))


class ConflictTests(SynchronousTestCase):
    """Both sides have the same role."""

    def meet(self, controlling: bool, seed: int) -> tuple[IceNetwork, Host, Host]:
        network = IceNetwork(seed)
        alice = network.host("alice", "192.0.2.1", controlling=controlling)
        bob = network.host("bob", "192.0.2.2", controlling=controlling)
        network.pair(alice, bob)
        return network, alice, bob

    def test_both_controlling_and_both_controlled(self) -> None:
        for controlling in (True, False):
            for seed in range(8):
                network, alice, bob = self.meet(controlling, seed)
                network.run(1)
                self.assertTrue(network.connected())
                self.assertNotEqual(alice.agent.controlling, bob.agent.controlling)
                changes = [host.of(RoleChanged) for host in (alice, bob)]
                self.assertEqual(sorted(map(len, changes)), [0, 1])
                chosen = alice if alice.agent.controlling else bob
                self.assertEqual(len(nominations(chosen)), 1)

    def test_a_late_side_learns_its_role_from_487(self) -> None:
        """One side has not begun yet, so that the other learns of the conflict from its answer alone."""
        learned = 0
        for seed in range(8):
            network = IceNetwork(seed)
            alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2")
            network.introduce(alice, bob)
            network.run(1)
            codes = [parse(transmit.data).get(Attribute.ERROR_CODE) for _, transmit in bob.sent]
            if (487, "Role Conflict") in codes:
                learned += 1
                before, after = requests(alice)[0], requests(alice)[-1]
                self.assertIn(Attribute.ICE_CONTROLLING, before)
                self.assertIn(Attribute.ICE_CONTROLLED, after)
                self.assertNotEqual(
                    before.get(Attribute.ICE_CONTROLLING), after.get(Attribute.ICE_CONTROLLED)
                )
                self.assertEqual(alice.of(RoleChanged), [RoleChanged(False)])
            else:
                self.assertEqual(bob.of(RoleChanged), [RoleChanged(False)])
            network.introduce(bob, alice)
            network.run(1)
            self.assertTrue(network.connected())
            self.assertNotEqual(alice.agent.controlling, bob.agent.controlling)
        self.assertIn(learned, range(1, 8))

    def test_a_peer_that_never_yields(self) -> None:
        """Every check is answered 487: that ends."""
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "192.0.2.2")
        network.introduce(alice, bob)
        seen = 0
        for _ in range(200):
            network.run(0.05)
            for _, transmit in alice.sent[seen:]:
                conflict = error(parse(transmit.data), 487, "Role Conflict")
                network.inject(alice, encode(conflict, bob.agent.credentials.key), transmit.remote)
            seen = len(alice.sent)
        self.assertEqual(len(alice.of(RoleChanged)), MAX_ROLE_SWITCHES)
        self.assertLess(len(alice.sent), 3 * MAX_ROLE_SWITCHES)

    def test_an_unsigned_487_is_nothing(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "192.0.2.2")
        network.introduce(alice, bob)
        network.run(0.01)
        conflict = encode(error(parse(alice.sent[0][1].data), 487, "Role Conflict"))
        network.inject(alice, conflict, alice.sent[0][1].remote)
        self.assertTrue(alice.agent.controlling)


class RenominationTests(SynchronousTestCase):
    """The controlling side chooses at once, and again when there is something better."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1", nat=None)
        self.bob = self.network.host("bob", "192.168.2.2", nat=NAT("203.0.113.2"), controlling=False)

    def test_grows_when_a_better_path_works(self) -> None:
        """
        The path through the NAT works first, the direct one later, since its addresses are signalled later.
        """
        network, home = IceNetwork(), NAT("203.0.113.1", filtering="EIF", hairpin=True)
        alice = network.host("alice", "192.168.1.2", nat=home)
        bob = network.host("bob", "192.168.1.3", nat=home, controlling=False)
        network.blocked = lambda source, target: target.host.startswith("192.168.")
        network.pair(alice, bob)
        network.run(1)
        self.assertEqual(alice.path.path, "srflx")
        network.blocked = lambda source, target: False
        network.run(40)
        self.assertEqual({alice.path.path, bob.path.path}, {"host"})
        self.assertEqual([value for _, value in nominations(alice)], [1, 2])
        self.assertEqual(len(alice.of(Selected)), 2)
        self.assertEqual(nominations(bob), [])

    def test_old_nominations_that_come_late_change_nothing(self) -> None:
        network = IceNetwork()
        alice = IceNetwork().host("alice", "192.0.2.1", "192.0.2.3")
        bob = network.host("bob", "192.0.2.2", controlling=False)
        network.introduce(bob, alice)
        network.run(0.2)
        for _, transmit in list(bob.sent):
            answer = success(parse(transmit.data), (Attribute.XOR_MAPPED_ADDRESS, bob.bases[0]))
            network.inject(bob, encode(answer, alice.agent.credentials.key), transmit.remote)
        self.nominate(network, bob, alice, 0, 7)
        self.assertEqual(bob.path.remote_address, alice.bases[0])
        self.nominate(network, bob, alice, 1, 8)
        self.assertEqual(bob.path.remote_address, alice.bases[1])
        self.nominate(network, bob, alice, 0, 7)
        self.nominate(network, bob, alice, 0, 3)
        self.assertEqual(bob.path.remote_address, alice.bases[1])
        self.nominate(network, bob, alice, 0, 9)
        self.assertEqual(bob.path.remote_address, alice.bases[0])

    def nominate(self, network: IceNetwork, host: Host, peer: Host, base: int, value: int) -> None:
        ours, theirs = peer.agent.credentials, host.agent.credentials
        check = build_check(network.random.randbytes(12), ours, theirs, IceRole.CONTROLLING, 1, 1000, value)
        network.inject(host, check, peer.bases[base])

    def test_a_nomination_before_our_own_success_is_kept(self) -> None:
        network = IceNetwork()
        alice, bob = (
            IceNetwork().host("alice", "192.0.2.1"),
            network.host("bob", "192.0.2.2", controlling=False),
        )
        network.introduce(bob, alice)
        self.nominate(network, bob, alice, 0, 1)
        self.assertIsNone(bob.agent.selected)
        network.run(0.1)
        transmit = bob.sent[-1][1]
        answer = success(parse(transmit.data), (Attribute.XOR_MAPPED_ADDRESS, bob.bases[0]))
        network.inject(bob, encode(answer, alice.agent.credentials.key), transmit.remote)
        self.assertEqual(bob.path.remote_address, alice.bases[0])

    def test_paths_of_the_same_kind_are_not_changed_for_nothing(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", "192.0.2.3")
        bob = network.host("bob", "192.0.2.2", "192.0.2.4", controlling=False)
        network.pair(alice, bob)
        network.run(60)
        for host in (alice, bob):
            self.assertEqual(len(host.of(Selected)), 1)
        self.assertEqual(alice.path.remote_address, bob.path.local_base)
        self.assertEqual(bob.path.remote_address, alice.path.local_base)

    def test_a_lost_nomination_is_repeated(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", "192.0.2.3")
        bob = network.host("bob", "192.0.2.2", "192.0.2.4", controlling=False)
        network.pair(alice, bob)
        network.run(1, network.connected)
        network.loss = 1.0
        network.run(1)
        network.loss = 0.0
        network.run(10)
        self.assertEqual(alice.path.remote_address, bob.path.local_base)

    def test_a_nomination_that_fails_leaves_the_path(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "192.0.2.2")
        network.introduce(alice, bob)
        network.run(0.01)
        key = bob.agent.credentials.key
        check = alice.sent[-1][1]
        right = success(parse(check.data), (Attribute.XOR_MAPPED_ADDRESS, alice.bases[0]))
        network.inject(alice, encode(right, key), check.remote)
        network.run(0.1)
        nomination = alice.sent[-1][1]
        self.assertIn(Attribute.USE_CANDIDATE, parse(nomination.data))
        network.inject(
            alice, encode(error(parse(nomination.data), 400, "Bad Request"), key), nomination.remote
        )
        self.assertEqual(alice.path.remote_address, bob.bases[0])

    def test_the_controlled_side_never_nominates(self) -> None:
        self.network.pair(self.alice, self.bob)
        self.network.run(30)
        self.assertTrue(all(Attribute.USE_CANDIDATE not in message for message in requests(self.bob)))


class RegularNominationTests(SynchronousTestCase):
    """RFC 8445, section 8.1.1, with other implementations."""

    def test_once_and_without_a_number(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", "192.0.2.3", regular=True)
        bob = network.host("bob", "192.0.2.2", "192.0.2.4", regular=True, controlling=False)
        network.pair(alice, bob)
        network.run(60)
        self.assertEqual([value for _, value in nominations(alice)], [None])
        self.assertEqual(nominations(alice)[0][0], alice.path.remote_address)
        self.assertEqual(bob.path.remote_address, alice.path.local_base)

    def test_waits_a_moment_for_a_better_pair(self) -> None:
        network, home = IceNetwork(), NAT("203.0.113.1", filtering="EIF", hairpin=True)
        alice = network.host("alice", "192.168.1.2", nat=home, regular=True)
        bob = network.host("bob", "192.168.1.3", nat=home, regular=True, controlling=False)
        sniffer = [True]
        network.blocked = lambda source, target: sniffer[0] and target.host.startswith("192.168.")
        network.pair(alice, bob)
        network.run(0.3)
        self.assertEqual(alice.path.path, "srflx")
        self.assertEqual(nominations(alice), [])
        sniffer[0] = False
        network.run(3)
        self.assertEqual(nominations(alice), [(bob.bases[0], None)])
        self.assertEqual({alice.path.path, bob.path.path}, {"host"})

    def test_and_no_longer(self) -> None:
        network, home = IceNetwork(), NAT("203.0.113.1", filtering="EIF", hairpin=True)
        alice = network.host("alice", "192.168.1.2", nat=home, regular=True)
        bob = network.host("bob", "192.168.1.3", nat=home, regular=True, controlling=False)
        network.blocked = lambda source, target: target.host.startswith("192.168.")
        network.pair(alice, bob)
        network.run(2)
        self.assertEqual([value for _, value in nominations(alice)], [None])
        self.assertEqual({alice.path.path, bob.path.path}, {"srflx"})

    def test_aggressive_nomination_of_others(self) -> None:
        """RFC 5245: every check nominates, and the pair with the highest priority is meant."""
        network = IceNetwork()
        alice = IceNetwork().host("alice", "192.0.2.1", "192.0.2.3")
        bob = network.host("bob", "192.0.2.2", controlling=False, regular=True)
        network.introduce(bob, alice)
        network.run(0.2)
        ours, theirs = alice.agent.credentials, bob.agent.credentials
        answers = {}
        for _, transmit in bob.sent:
            answer = success(parse(transmit.data), (Attribute.XOR_MAPPED_ADDRESS, bob.bases[0]))
            answers[transmit.remote] = encode(answer, ours.key)
        low, high = alice.bases[1], alice.bases[0]
        for remote in (low, high, low):
            check = build_check(network.random.randbytes(12), ours, theirs, IceRole.CONTROLLING, 1, 1000, 0)
            network.inject(bob, answers[remote], remote)
            network.inject(bob, check, remote)
        self.assertIs(bob.agent.state, AgentState.CONNECTED)
        self.assertEqual(bob.path.remote_address, high)


class PriorityTests(SynchronousTestCase):
    """The PRIORITY of a check."""

    def test_learned_candidates_have_the_priority_of_the_check(self) -> None:
        network = IceNetwork()
        alice, bob = (
            IceNetwork().host("alice", "192.0.2.1"),
            network.host("bob", "192.0.2.2", controlling=False),
        )
        bob.agent.set_remote(alice.agent.credentials, 0.05, network.now)
        ours, theirs = alice.agent.credentials, bob.agent.credentials
        check = build_check(bytes(12), ours, theirs, IceRole.CONTROLLING, 1, 12345, 1)
        (answer, triggered) = network.inject(bob, check, Address("203.0.113.7", 7))
        self.assertEqual(answer.remote, triggered.remote)
        response = encode(
            success(parse(triggered.data), (Attribute.XOR_MAPPED_ADDRESS, bob.bases[0])), ours.key
        )
        network.inject(bob, response, triggered.remote)
        self.assertEqual(bob.path.remote.priority, 12345)
        self.assertEqual(bob.path.remote.foundation, "prflx1")

    def test_credentials_are_of_both_sides(self) -> None:
        self.assertRaises(ValueError, IceCredentials, "", "")
        self.assertEqual(
            Candidate.parse(str(IceNetwork().host("a", "192.0.2.1").agent.local_candidates[0])).component, 1
        )

"""Two agents find each other: on a LAN, through NATs, with loss, and how soon."""

from __future__ import annotations

from itertools import pairwise, product

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.ice.events import AgentState, CheckingStarted, Selected
from punch.ice.pacing import MAX_CHECKING
from punch.ice.punching.spraying import SOCKETS, TARGETS
from punch.test.ice.ice_network import NAT, REFLECTOR, Host, IceNetwork
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode, parse

DELAY = 0.05


def behind_nats(network: IceNetwork, first: NAT, second: NAT) -> tuple[Host, Host]:
    return (
        network.host("alice", "192.168.1.2", nat=first),
        network.host("bob", "192.168.2.2", nat=second, controlling=False),
    )


def two_connected_hosts() -> tuple[IceNetwork, Host, Host]:
    """Return two public hosts that have been connecting for a second."""
    network = IceNetwork()
    alice = network.host("alice", "192.0.2.1")
    bob = network.host("bob", "192.0.2.2", controlling=False)
    network.pair(alice, bob)
    network.run(1.0)
    return network, alice, bob


class ConnectTests(SynchronousTestCase):
    """Between which hosts a path is found, and which one."""

    def test_two_public_hosts(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        network.run(1)
        for host, peer in ((alice, bob), (bob, alice)):
            self.assertEqual(host.path.path, "host")
            self.assertEqual(host.path.local_base, host.bases[0])
            self.assertEqual(host.path.remote_address, peer.bases[0])
            self.assertAlmostEqual(host.path.rtt or 0, 2 * DELAY)
            self.assertIs(host.agent.state, AgentState.CONNECTED)
            self.assertEqual(host.of(CheckingStarted), [CheckingStarted(1)])
            self.assertEqual(len(host.of(Selected)), 1)

    def test_ipv6(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "2001:db8::1", "192.0.2.1")
        bob = network.host("bob", "2001:db8::2", controlling=False)
        network.pair(alice, bob)
        network.run(1)
        self.assertEqual(alice.path.remote_address, bob.bases[0])
        self.assertEqual(len(alice.agent.pairs), 1)

    def test_where_we_receive(self) -> None:
        """
        The proof is sent to a relayed candidate until one check is answered, beside interfaces that can't
        reach it.
        """
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", "10.9.9.9")
        bob = network.host("bob", "192.0.2.2", controlling=False)
        network.blocked = lambda source, target: "10.9.9.9" in (source.host, target.host)
        relayed = Candidate(CandidateType.RELAY, bob.bases[0], 1000, "9", Address("192.0.2.9", 1))
        alice.agent.set_remote(bob.agent.credentials, 0.05, network.now)
        network.tell(alice, relayed)
        self.assertTrue(alice.agent.openings.prove("192.0.2.1"))
        network.introduce(bob, alice)
        network.run(2.0)
        self.assertFalse(alice.agent.openings.prove("192.0.2.1"))
        self.assertTrue(alice.agent.openings.prove("10.9.9.9"))
        self.assertIn("192.0.2.1", bob.agent.openings.proven_hosts)
        # What was proved does not count for ever
        network.blocked = lambda source, target: True
        network.run(31.0)
        self.assertEqual((alice.agent.openings.proven_hosts, bob.agent.openings.proven_hosts), (set(), set()))

    def test_sockets_for_a_while(self) -> None:
        """Addresses that the peer used to reach closed sockets leave their places to later ones."""
        network, alice, bob = two_connected_hosts()
        for number in range(100):
            base, remote = Address("192.0.2.1", 20000 + number), Address("192.0.2.2", 30000 + number)
            alice.agent.openings.add(base)
            bob.agent.openings.add(remote)
            check = bob.agent.openings.check(remote, base)
            assert check is not None
            alice.agent.receive_datagram(check.data, remote, base, network.now)
            self.assertTrue(alice.agent.openings.has_received_check({base}), number)
            alice.agent.remove_local(base, network.now)
            bob.agent.remove_local(remote, network.now)
        self.assertEqual(alice.path.path, "host")

    def test_an_answer_to_a_check_that_opens_a_nat(self) -> None:
        """The answer shows, once, that the other side has got through. It validates nothing."""
        network, alice, bob = two_connected_hosts()
        base, remote = Address("192.0.2.1", 20000), Address("192.0.2.2", 30000)
        alice.agent.openings.add(base)
        bob.agent.openings.add(remote)
        check = alice.agent.openings.check(base, remote)
        assert check is not None
        bob.agent.receive_datagram(check.data, base, remote, network.now)
        answers = [each for each in bob.agent.datagrams_to_send(network.now) if each.data[0] & 1]
        (answer,) = (each.data for each in answers if each.local == remote)
        forged = answer[:-1] + bytes((answer[-1] ^ 1,))
        unsigned = encode(StunMessage(Method.BINDING, MessageClass.SUCCESS, check.data[8:20]))
        for data, source in ((forged, remote), (unsigned, remote), (answer, Address("192.0.2.9", 30000))):
            alice.agent.receive_datagram(data, source, base, network.now)
            self.assertFalse(alice.agent.openings.was_answered({base}))
        self.assertTrue(alice.agent.wants(answer))
        alice.agent.receive_datagram(answer, remote, base, network.now)
        self.assertTrue(alice.agent.openings.was_answered({Address("192.0.2.1", 1), base}))
        self.assertFalse(alice.agent.openings.has_received_check({base}))
        self.assertFalse(alice.agent.wants(answer))

    def test_answers_to_all_checks_of_an_attempt(self) -> None:
        """Any check of spraying may be the one that is answered, until its socket is closed."""
        network, alice, bob = two_connected_hosts()
        bases = [Address("192.0.2.1", 20000 + number) for number in range(SOCKETS)]
        remotes = [Address("192.0.2.2", 30000 + number) for number in range(TARGETS)]
        for base in bases:
            alice.agent.openings.add(base)
        for remote in remotes:
            bob.agent.openings.add(remote)
        checks = [alice.agent.openings.check(base, remote) for base in bases for remote in remotes]

        def answer(number: int) -> bytes:
            check = checks[number]
            assert check is not None
            bob.agent.receive_datagram(check.data, check.local, check.remote, network.now)
            sent = bob.agent.datagrams_to_send(network.now)
            return next(each.data for each in sent if each.data[8:20] == check.data[8:20])

        first, last = answer(0), answer(-1)
        alice.agent.receive_datagram(first, remotes[0], bases[0], network.now)
        self.assertTrue(alice.agent.openings.was_answered({bases[0]}))
        for base in bases:
            alice.agent.remove_local(base, network.now)
        self.assertFalse(alice.agent.openings.was_answered(bases))
        self.assertFalse(alice.agent.wants(last))

    def test_both_behind_one_nat_use_the_lan(self) -> None:
        for hairpin in (False, True):
            network = IceNetwork()
            alice, bob = behind_nats(network, home := NAT("203.0.113.1", hairpin=hairpin), home)
            network.pair(alice, bob)
            network.run(2)
            self.assertEqual({alice.path.path, bob.path.path}, {"host"})

    def test_hairpin_alone_is_left_for_the_lan(self) -> None:
        """The path through the router works first; the controlling side moves to the direct one."""
        network = IceNetwork()
        alice, bob = behind_nats(network, home := NAT("203.0.113.1", hairpin=True, filtering="EIF"), home)
        for host in (alice, bob):
            host.agent.gather([REFLECTOR], network.now)
        network.run(4)
        for host, peer in ((alice, bob), (bob, alice)):
            host.agent.set_remote(peer.agent.credentials, 0.05, network.now)
            network.tell(host, peer.agent.local_candidates[1])
        network.run(1)
        self.assertEqual(alice.path.path, "srflx")
        for host, peer in ((alice, bob), (bob, alice)):
            network.tell(host, peer.agent.local_candidates[0])
        network.run(1)
        self.assertEqual({alice.path.path, bob.path.path}, {"host"})
        self.assertEqual(alice.path.remote_address, bob.bases[0])

    def test_every_pair_of_nats_that_can_connect(self) -> None:
        """
        RFC 4787 and 8445: endpoint-independent mapping on both sides always; with a mapping for each
        destination on one side, the other side's filter must not look at ports; on both sides, never without
        guessing.
        """
        mappings, filters = ("EIM", "APDM"), ("EIF", "ADF", "APDF")
        for first, here, second, there in product(mappings, filters, mappings, filters):
            network = IceNetwork()
            alice, bob = behind_nats(
                network, NAT("203.0.113.1", first, here), NAT("203.0.113.2", second, there)
            )
            network.pair(alice, bob)
            began = network.now
            network.run(MAX_CHECKING + 1, network.connected)
            if first == second == "APDM":
                expected = False
            elif first == "APDM":
                expected = there != "APDF"
            elif second == "APDM":
                expected = here != "APDF"
            else:
                expected = True
            case = f"{first}/{here} and {second}/{there}"
            self.assertEqual(network.connected(), expected, case)
            if expected:
                self.assertLess(network.now - began, 6 * DELAY, case)
                mapping = "srflx" if first == second == "EIM" else "prflx"
                self.assertEqual({alice.path.path, bob.path.path}, {mapping}, case)

    def test_only_one_side_can_be_reached(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1"))
        bob = network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob, gather=False)
        network.run(1)
        self.assertEqual(alice.path.local.type, CandidateType.PRFLX)
        self.assertEqual(bob.path.remote.type, CandidateType.PRFLX)
        self.assertEqual({alice.path.path, bob.path.path}, {"prflx"})

    def hidden_relay(self, credentials_first: bool) -> None:
        """
        Alice's NAT shows the checks of Bob's relay as its own, and they come first. If that were taken for a
        direct path, the relay would be kept.
        """
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", nat=NAT("203.0.113.1", filtering="EIF", rewrites=True))
        bob = network.host("bob", "192.0.2.2", controlling=False)
        relayed = Address("198.51.100.9", 50000)
        bob.bases.append(relayed)
        bob.agent.add_relayed(relayed, None, "relay")
        network.blocked = lambda source, target: network.now < 105.0 and bob.bases[0] in (source, target)
        alice.agent.gather([REFLECTOR], network.now)
        network.run(0.5)
        if credentials_first:
            alice.agent.set_remote(bob.agent.credentials, DELAY, network.now)
        network.introduce(bob, alice)
        network.run(0.3)
        network.introduce(alice, bob)
        network.run(1.0)
        self.assertEqual((alice.path.path, bob.path.path), ("relay", "relay"))
        self.assertEqual(alice.path.remote_address.port, relayed.port)
        network.run(10.0)
        self.assertEqual((alice.path.path, bob.path.path), ("prflx", "prflx"))
        self.assertEqual(alice.path.remote_address.port, bob.bases[0].port)

    def test_a_relay_whose_address_a_nat_hides(self) -> None:
        """The checks of the relay are the first packets that come from the peer."""
        self.hidden_relay(credentials_first=False)

    def test_a_relay_whose_address_a_nat_hides_is_told_late(self) -> None:
        """
        The relayed candidate is signalled when its path is in use already, and was taken for a direct one.
        """
        self.hidden_relay(credentials_first=True)

    def test_loopback_connects_a_machine_with_nothing_else(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "127.0.0.1"), network.host("bob", "127.0.0.1", controlling=False)
        network.pair(alice, bob)
        network.run(1)
        self.assertTrue(network.connected())

    def test_loss(self) -> None:
        for seed in range(20):
            network = IceNetwork(seed)
            alice, bob = behind_nats(network, NAT("203.0.113.1"), NAT("203.0.113.2"))
            network.pair(alice, bob)
            network.loss = 0.3
            network.run(20, network.connected)
            self.assertTrue(network.connected(), f"seed {seed}")

    def test_many_interfaces_do_not_starve_the_way_out(self) -> None:
        """Bridges of containers have the same addresses on both sides, and do not delay the path."""
        bridges = [f"172.{number}.0.1" for number in range(17, 24)]
        network = IceNetwork()
        alice = network.host("alice", "192.168.1.2", *bridges, nat=NAT("203.0.113.1"))
        bob = network.host("bob", "192.168.1.3", *bridges, nat=NAT("203.0.113.2"), controlling=False)
        network.pair(alice, bob)
        began = network.now
        network.run(5, network.connected)
        self.assertLess(network.now - began, 1.0)
        self.assertLessEqual(len(alice.agent.pairs), 100)

    def test_a_lost_check_is_soon_sent_again_beside_many_interfaces(self) -> None:
        """Pairs that are unlikely to work don't make those through the NATs wait (RFC 8445, section 14.3)."""
        bridges = [f"172.{number}.0.1" for number in range(17, 24)]
        times = []
        for seed in range(20):
            network = IceNetwork(seed, budgets=seed % 2 == 0)
            alice = network.host("alice", "192.168.1.2", *bridges, nat=NAT("203.0.113.1"))
            bob = network.host("bob", "192.168.2.2", *bridges, nat=NAT("203.0.113.2"), controlling=False)
            # The bridges lead nowhere
            network.blocked = lambda source, target: "172." in (source.host[:4], target.host[:4])
            for host in (alice, bob):
                host.agent.gather([REFLECTOR], network.now)
            network.run(4.0)
            network.loss = 0.1
            began = network.now
            network.introduce(bob, alice)
            network.run(2 * DELAY)
            network.introduce(alice, bob)
            network.run(20.0, network.connected)
            times.append(network.now - began)
        self.assertLess(max(times), 2.5)

    def test_one_side_whose_checks_are_never_answered(self) -> None:
        """Its checks arrive and the answers are lost. The other side's checks say that they arrived."""
        network = IceNetwork(budgets=True)
        alice, bob = behind_nats(network, NAT("203.0.113.1"), NAT("203.0.113.2"))
        network.loses = lambda transmit: (
            transmit.local in alice.bases
            and transmit.remote != REFLECTOR
            and parse(transmit.data).message_class is MessageClass.SUCCESS
        )
        network.pair(alice, bob)
        began = network.now
        network.run(5, network.connected)
        self.assertTrue(network.connected())
        self.assertLess(network.now - began, 1.0)

    def test_agents_are_deterministic(self) -> None:
        def trace() -> list[tuple[float, bytes]]:
            network = IceNetwork(5, loss=0.2)
            alice, bob = behind_nats(network, NAT("203.0.113.1"), NAT("203.0.113.2"))
            network.pair(alice, bob)
            network.run(60)
            return [(when, transmit.data) for host in (alice, bob) for when, transmit in host.sent]

        self.assertEqual(trace(), trace())


class TrickleTests(SynchronousTestCase):
    """Candidates that come one by one (RFC 8838)."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = self.network.host("bob", "192.0.2.2", controlling=False)

    def test_the_first_check_leaves_at_once(self) -> None:
        self.alice.agent.set_remote(self.bob.agent.credentials, 0.05, self.network.now)
        self.network.run(7.77)
        self.assertEqual(self.alice.sent, [])
        self.network.tell(self.alice, self.bob.agent.local_candidates[0])
        self.network.run(0)
        self.assertEqual([when for when, _ in self.alice.sent], [self.network.now])

    def test_checks_before_the_answer_are_answered_and_remembered(self) -> None:
        """RFC 8445, section 7.3: the callee knows the caller before the caller knows the callee."""
        self.network.introduce(self.bob, self.alice)
        self.network.run(1)
        self.assertIs(self.bob.agent.state, AgentState.CONNECTED)
        self.assertIs(self.alice.agent.state, AgentState.NEW)
        began = self.network.now
        self.alice.agent.set_remote(self.bob.agent.credentials, 0.05, began)
        self.assertTrue(self.alice.agent.validated(self.alice.bases[0], self.bob.bases[0]))
        self.network.run(1, lambda: self.alice.agent.selected is not None)
        self.assertAlmostEqual(self.network.now - began, 2 * DELAY)
        self.assertEqual(self.alice.path.path, "prflx")

    def test_what_was_found_is_named_when_it_is_signalled(self) -> None:
        self.test_checks_before_the_answer_are_answered_and_remembered()
        self.network.tell(self.alice, self.bob.agent.local_candidates[0])
        self.network.run(0)
        self.assertEqual(self.alice.path.path, "host")
        paths = [event.pair.path for event in self.alice.of(Selected) if isinstance(event, Selected)]
        self.assertEqual(paths, ["prflx", "host"])

    def test_early_checks_of_somebody_else_are_forgotten(self) -> None:
        self.network.introduce(self.bob, self.alice)
        self.network.run(1)
        stranger = IceCredentials.generate(self.network.random.randbytes)
        self.alice.agent.set_remote(stranger, 0.05, self.network.now)
        self.assertEqual(len(self.alice.agent.pairs), 0)

    def test_a_new_address_of_ours_is_paired_too(self) -> None:
        self.network.blocked = lambda source, target: "192.0.2.1" in (source.host, target.host)
        self.network.pair(self.alice, self.bob)
        self.network.run(3)
        self.assertIsNone(self.alice.agent.selected)
        base = Address("192.0.2.77", 7777)
        self.alice.bases.append(base)
        self.alice.agent.add_local_address(base)
        self.network.run(1)
        self.assertEqual(self.alice.path.local_base, base)
        self.assertEqual(self.bob.path.path, "prflx")

    def test_other_credentials_are_a_restart_which_is_refused(self) -> None:
        agent = self.alice.agent
        agent.set_remote(self.bob.agent.credentials, 0.05, self.network.now)
        agent.set_remote(self.bob.agent.credentials, 0.05, self.network.now)
        other = IceCredentials.generate(self.network.random.randbytes)
        self.assertRaises(ValueError, agent.set_remote, other, 0.05, self.network.now)


class LatencyTests(SynchronousTestCase):
    """How many one-way delays a path takes, and what pacing costs."""

    def test_each_side_may_send_as_soon_as_its_check_succeeded(self) -> None:
        """
        Through two NATs that filter by port: the callee's check opens its NAT, the caller's passes; one
        answer later the caller has its path, before anything was nominated.
        """
        network = IceNetwork()
        alice, bob = behind_nats(network, NAT("203.0.113.1"), NAT("203.0.113.2"))
        for host in (alice, bob):
            host.agent.gather([REFLECTOR], network.now)
        network.run(4)
        network.introduce(bob, alice)
        network.run(2 * DELAY)
        answered = network.now
        network.introduce(alice, bob)
        network.run(1)
        self.assertAlmostEqual(alice.when() - answered, 2 * DELAY)
        self.assertAlmostEqual(bob.when() - answered, 3 * DELAY)

    def test_paths_that_are_slower_than_the_rto(self) -> None:
        """On a path slower than the RTO, retransmissions start no new checks, and every answer counts."""
        network = IceNetwork(delay=1.0)
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        began = network.now
        network.run(10)
        for host in (alice, bob):
            self.assertAlmostEqual(host.when() - began, 2.0)
            self.assertLess(len([when for when, _ in host.sent if when > began]), 20)

    def test_pacing(self) -> None:
        """RFC 8445, section 14.2: new transactions are Ta apart, and Ta is the greater of both."""
        for ours, theirs, expected in [
            (0.02, 0.05, 0.05),
            (0.02, 0.02, 0.02),
            (0.1, 0.02, 0.1),
            (0, 0, 0.005),
        ]:
            network = IceNetwork()
            alice = network.host("alice", "192.0.2.1", pacing=ours)
            peers = IceNetwork().host("bob", *(f"192.0.2.{number}" for number in range(100, 108)))
            alice.agent.set_remote(peers.agent.credentials, theirs, network.now)
            for candidate in peers.agent.local_candidates:
                network.tell(alice, candidate)
            network.run(0.45)
            seen: dict[bytes, float] = {}
            for when, transmit in alice.sent:
                seen.setdefault(transmit.data, when)
            times = list(seen.values())
            gaps = [later - earlier for earlier, later in pairwise(times)]
            self.assertTrue(gaps)
            for gap in gaps:
                self.assertAlmostEqual(gap, expected)

    def test_retransmissions(self) -> None:
        """RFC 8445, section 14.3, and RFC 8489, section 6.2.1: RTO 500 ms, doubled, 7 requests."""
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), IceNetwork().host("bob", "192.0.2.9", "192.0.2.8")
        network.introduce(alice, bob)
        network.run(50)
        for target in bob.bases:
            times = [when for when, transmit in alice.sent if transmit.remote.host == target.host]
            offsets = [round(when - times[0], 6) for when in times]
            self.assertEqual(offsets, [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5])
        self.assertIs(alice.agent.state, AgentState.FAILED)

    def test_the_rto_grows_with_the_number_of_pairs(self) -> None:
        network = IceNetwork()
        alice, bob = (
            network.host("alice", "192.0.2.1"),
            IceNetwork().host("bob", *(f"192.0.2.{n}" for n in range(9, 29))),
        )
        network.introduce(alice, bob)
        network.run(1.2)
        first = [when for when, transmit in alice.sent if transmit.data == alice.sent[0][1].data]
        self.assertAlmostEqual(first[1] - first[0], 20 * 0.05)

    def test_nothing_new_is_sent_once_connected(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", "10.9.0.1")
        bob = network.host("bob", "192.0.2.2", "10.8.0.1", controlling=False)
        network.blocked = lambda source, target: "10." in (source.host[:3], target.host[:3])
        network.pair(alice, bob)
        network.run(1, network.connected)
        network.run(0.5)
        sent = len(alice.sent), len(bob.sent)
        network.run(3)
        self.assertEqual((len(alice.sent), len(bob.sent)), sent)


class MessageTests(SynchronousTestCase):
    """What a check contains (RFC 8445, section 7.1)."""

    def test_checks(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        network.run(1)
        for host, peer, role in (
            (alice, bob, Attribute.ICE_CONTROLLING),
            (bob, alice, Attribute.ICE_CONTROLLED),
        ):
            mine, theirs = host.agent.credentials, peer.agent.credentials
            messages = [parse(transmit.data) for _, transmit in host.sent if transmit.remote != REFLECTOR]
            requests = [m for m in messages if m.message_class is MessageClass.REQUEST]
            answers = [m for m in messages if m.message_class is MessageClass.SUCCESS]
            self.assertTrue(requests)
            self.assertTrue(answers)
            for message in requests:
                self.assertEqual(message.get(Attribute.USERNAME), f"{theirs.ufrag}:{mine.ufrag}")
                self.assertEqual(message.get(Attribute.PRIORITY), 110 * 2**24 + (65535 - 1) * 2**8 + 255)
                self.assertIn(role, message)
                self.assertTrue(message.has_fingerprint and message.check_integrity(theirs.key))
            for message in answers:
                self.assertEqual(message.get(Attribute.XOR_MAPPED_ADDRESS), peer.bases[0])
                self.assertTrue(message.has_fingerprint and message.check_integrity(mine.key))

    def test_tiebreakers_and_transaction_ids_are_random(self) -> None:
        network = IceNetwork()
        alice, bob = network.host("alice", "192.0.2.1"), network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        network.run(30)
        requests = [parse(transmit.data) for host in (alice, bob) for _, transmit in host.sent]
        ids = [m.transaction_id for m in requests if m.message_class is MessageClass.REQUEST]
        self.assertEqual(len(set(ids)), len(ids))


class ConstructionTests(SynchronousTestCase):
    """Mistakes of callers."""

    def test_unknown_nomination(self) -> None:
        credentials = IceCredentials.generate(bytes)
        self.assertRaises(
            ValueError, Agent, controlling=True, credentials=credentials, nomination="aggressive"
        )

    def test_an_idle_agent_needs_nothing(self) -> None:
        agent = Agent(controlling=True, credentials=IceCredentials.generate(bytes))
        self.assertIsNone(agent.get_timer())
        self.assertIsNone(agent.next_event())
        self.assertIsNone(agent.selected)
        self.assertEqual(agent.datagrams_to_send(0.0), [])
        self.assertEqual(agent.local_candidates, [])

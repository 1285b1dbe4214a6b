"""Consent, keepalives, and what happens when a path dies (RFC 7675; RFC 8445, section 11)."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.consent import EXPIRY
from punch.ice.events import AgentState, ConsentLost, Selected
from punch.test.ice.ice_network import NAT, Host, IceNetwork
from punch.wire.address import Address
from punch.wire.stun import Attribute, MessageClass, encode, parse, success


def asked(host: Host, since: float) -> list[float]:
    """When this host sent requests."""
    return [
        when
        for when, transmit in host.sent
        if when >= since and parse(transmit.data).message_class is MessageClass.REQUEST
    ]


class ConsentTests(SynchronousTestCase):
    """There is only one path."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = self.network.host("bob", "192.0.2.2", controlling=False)
        self.network.pair(self.alice, self.bob)
        self.network.run(1)

    def test_intervals(self) -> None:
        since = self.network.now
        self.network.run(1000)
        for host in (self.alice, self.bob):
            times = asked(host, since)
            gaps = [later - earlier for earlier, later in pairwise(times)]
            self.assertTrue(160 < len(times) < 250)
            self.assertTrue(all(3.999 < gap < 6.001 for gap in gaps))
            self.assertGreater(max(gaps) - min(gaps), 1)
            self.assertIs(host.agent.state, AgentState.CONNECTED)

    def test_each_is_a_transaction_of_its_own(self) -> None:
        self.network.blocked = lambda source, target: True
        since = self.network.now
        self.network.run(20)
        requests = [transmit.data for when, transmit in self.alice.sent if when >= since]
        self.assertEqual(len(set(requests)), len(requests))

    def test_lost_after_30_seconds(self) -> None:
        self.network.run(20)
        self.network.blocked = lambda source, target: True
        cut = self.network.now
        path = self.alice.path
        self.network.run(2 * EXPIRY)
        for host in (self.alice, self.bob):
            self.assertEqual(len(host.of(ConsentLost)), 1)
            self.assertTrue(EXPIRY - 6.1 < host.when(ConsentLost) - cut <= EXPIRY + 0.1)
            self.assertIs(host.agent.state, AgentState.FAILED)
            self.assertIsNone(host.agent.selected)
            self.assertIsNone(host.agent.get_timer())
        self.assertEqual(self.alice.of(ConsentLost), [ConsentLost(path)])
        self.assertFalse(self.alice.agent.validated(self.alice.bases[0], self.bob.bases[0]))

    def test_one_direction_is_not_enough(self) -> None:
        """Requests that come in are not consent: only answers are."""
        self.network.blocked = lambda source, target: source.host == "192.0.2.1"
        self.network.run(2 * EXPIRY)
        self.assertEqual(len(self.alice.of(ConsentLost)), 1)
        self.assertEqual(len(self.bob.of(ConsentLost)), 1)

    def test_a_short_darkness_is_survived(self) -> None:
        self.network.blocked = lambda source, target: True
        self.network.run(20)
        self.network.blocked = lambda source, target: False
        self.network.run(60)
        self.assertEqual(self.alice.of(ConsentLost), [])
        self.assertEqual(len(self.alice.of(Selected)), 1)

    def test_answers_must_be_authentic_and_from_the_peer(self) -> None:
        self.network.blocked = lambda source, target: True
        since = self.network.now
        while self.network.now < since + EXPIRY + 1:
            sent = len(self.alice.sent)
            self.network.run(1)
            for _, transmit in self.alice.sent[sent:]:
                answer = success(parse(transmit.data), (Attribute.XOR_MAPPED_ADDRESS, self.alice.bases[0]))
                self.network.inject(self.alice, encode(answer, b"forged" * 4), transmit.remote)
                right = encode(answer, self.bob.agent.credentials.key)
                self.network.inject(self.alice, right, Address("192.0.2.66", 6))
        self.assertEqual(len(self.alice.of(ConsentLost)), 1)

    def test_the_round_trip_time_is_kept_up(self) -> None:
        self.assertAlmostEqual(self.alice.path.rtt or 0, 0.1)
        self.network.delay = 0.2
        self.network.run(200)
        self.assertAlmostEqual(self.alice.path.rtt or 0, 0.4, places=2)

    def test_the_other_end_of_a_dead_path_gets_no_answer(self) -> None:
        """A side that has lost consent answers no checks, or the other side would use the path for ever."""
        self.network.blocked = lambda source, target: source.host == "192.0.2.2"
        self.network.run(EXPIRY + 7)
        request = next(t.data for _, t in reversed(self.bob.sent) if parse(t.data).message_class == 0)
        self.assertEqual(self.network.inject(self.alice, request, self.bob.bases[0]), [])


class FallbackTests(SynchronousTestCase):
    """There is another valid pair."""

    def setUp(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1", "2001:db8::1")
        self.bob = self.network.host("bob", "192.0.2.2", "2001:db8::2", controlling=False)
        # Both pairs are under way before the first is answered
        self.network.delay = 0.5
        self.network.pair(self.alice, self.bob, gather=False)
        self.network.run(5)

    def test_the_spare_is_used(self) -> None:
        first = self.alice.path.local_base
        self.network.run(60)
        self.assertTrue(self.alice.agent.validated(self.alice.bases[0], self.bob.bases[0]))
        self.network.blocked = lambda source, target: source.is_ipv6 == first.is_ipv6
        cut = self.network.now
        self.network.run(2 * EXPIRY)
        for host in (self.alice, self.bob):
            self.assertEqual(host.of(ConsentLost), [])
            self.assertEqual(len(host.of(Selected)), 2, host.name)
            self.assertNotEqual(host.path.local_base.is_ipv6, first.is_ipv6)
            self.assertIs(host.agent.state, AgentState.CONNECTED)
        self.assertLess(self.alice.events[-1][0] - cut, EXPIRY + 1)
        self.network.run(300)
        self.assertIs(self.alice.agent.state, AgentState.CONNECTED)

    def test_a_much_faster_spare_is_moved_to(self) -> None:
        first = self.alice.path.local_base
        self.network.delay = 0.02
        self.network.run(100)
        self.assertEqual(self.alice.path.local_base, first)
        self.network.detour = lambda source, target: 0.3 if source.is_ipv6 == first.is_ipv6 else 0.0
        self.network.run(100)
        for host in (self.alice, self.bob):
            self.assertNotEqual(host.path.local_base.is_ipv6, first.is_ipv6)
            self.assertEqual(len(host.of(Selected)), 2)

    def test_a_dead_spare_is_none(self) -> None:
        self.network.run(10)
        self.network.blocked = lambda source, target: True
        self.network.run(2 * EXPIRY)
        for host in (self.alice, self.bob):
            self.assertEqual(len(host.of(ConsentLost)), 1)

    def test_the_lost_path_is_not_used_again(self) -> None:
        """RFC 7675, section 5.1: nothing is sent there any more with these credentials."""
        first = self.alice.path
        self.test_the_spare_is_used()
        self.network.blocked = lambda source, target: False
        self.network.run(100)
        self.assertNotEqual(self.alice.path.local_base, first.local_base)
        self.assertFalse(self.alice.agent.validated(first.local_base, first.remote_address))


class RebindingTests(SynchronousTestCase):
    """The NAT forgets its table."""

    def test_a_new_mapping_is_followed(self) -> None:
        network = IceNetwork()
        home = NAT("203.0.113.1")
        alice = network.host("alice", "192.168.1.2", nat=home)
        bob = network.host("bob", "192.0.2.2", controlling=False)
        network.pair(alice, bob)
        network.run(5)
        before = bob.path.remote_address
        home.mappings.clear()
        home.inside.clear()
        network.run(60)
        for host in (alice, bob):
            self.assertIs(host.agent.state, AgentState.CONNECTED)
            self.assertEqual(host.of(ConsentLost), [])
        self.assertNotEqual(bob.path.remote_address, before)
        self.assertEqual(alice.path.local.address, bob.path.remote_address)


class KeepaliveTests(SynchronousTestCase):
    """Consent is not checked."""

    def test_indications(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1", consent=False)
        bob = network.host("bob", "192.0.2.2", controlling=False, consent=False)
        network.pair(alice, bob)
        network.run(1)
        since, seen = network.now, len(alice.sent)
        network.run(151)
        sent = alice.sent[seen:]
        self.assertEqual(len(sent), 10)
        self.assertLessEqual(sent[0][0] - since, 15)
        for _, transmit in sent:
            message = parse(transmit.data)
            self.assertIs(message.message_class, MessageClass.INDICATION)
            self.assertTrue(message.has_fingerprint)
        network.blocked = lambda source, target: True
        network.run(1000)
        self.assertIs(alice.agent.state, AgentState.CONNECTED)

"""Candidates, their priorities and foundations, and the bounds on them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.ice.candidates import (
    MAX_PER_HOST,
    MAX_REFLEXIVE,
    MAX_SIGNALLED,
    LocalCandidates,
    RemoteCandidates,
    behind_another_nat,
    candidate_priority,
)
from punch.ice.checks import IceCredentials
from punch.ice.pairs import (
    CandidatePair,
    Pair,
    PathKind,
    pair_priority,
    path_kind,
)
from punch.ice.reach import may_pair, may_relay, usable
from punch.wire.address import Address, TCPAddress, preference_class
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType

HOST, SRFLX, PRFLX, RELAY = CandidateType
BASE = Address("192.168.1.2", 5000)


def signalled(host: str, port: int = 6000, kind: CandidateType = HOST, priority: int = 1000) -> Candidate:
    return Candidate(kind, Address(host, port), priority, "1")


class PriorityTests(SynchronousTestCase):
    """RFC 8445, sections 5.1.2 and 6.1.2.3."""

    def test_formula_of_candidates(self) -> None:
        self.assertEqual(candidate_priority(HOST, 65535), 2130706431)
        self.assertEqual(candidate_priority(PRFLX, 65535), 110 * 2**24 + 65535 * 2**8 + 255)
        self.assertEqual(candidate_priority(SRFLX, 65535), 1694498815)
        self.assertEqual(candidate_priority(RELAY, 65535), 16777215)

    def test_formula_of_pairs(self) -> None:
        self.assertEqual(pair_priority(7, 5), 5 * 2**32 + 2 * 7 + 1)
        self.assertEqual(pair_priority(5, 7), 5 * 2**32 + 2 * 7)
        self.assertEqual(pair_priority(5, 5), 5 * 2**32 + 2 * 5)

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(st.lists(st.ip_addresses(), unique=True, max_size=12))
    def test_every_base_has_a_preference_of_its_own(self, hosts: list[object]) -> None:
        addresses = [Address(str(host), 5000) for host in hosts]
        local = LocalCandidates()
        for address in filter(usable, addresses):
            local.add_host(address)
        priorities = [candidate.priority for candidate in local.bases]
        self.assertEqual(len(set(priorities)), len(priorities))
        self.assertTrue(all(0 < priority < 2**31 for priority in priorities))

    def test_families_take_turns_with_ipv6_first(self) -> None:
        local = LocalCandidates()
        hosts = ["192.168.1.2", "10.0.0.2", "2001:db8::2", "2001:db8::3", "fd00::2", "127.0.0.1"]
        for host in hosts:
            local.add_host(Address(host, 5000))
        ordered = sorted(local.bases, key=lambda candidate: -candidate.priority)
        expected = ["2001:db8::2", "192.168.1.2", "fd00::2", "127.0.0.1", "2001:db8::3", "10.0.0.2"]
        self.assertEqual([candidate.address.host for candidate in ordered], expected)

    def test_classes(self) -> None:
        hosts = {
            "2001:db8::1": 0,
            "192.0.2.1": 1,
            "fd00::1": 2,
            "2002:102:304::1": 2,
            "::1": 3,
            "127.0.0.1": 3,
        }
        self.assertEqual({host: preference_class(host) for host in hosts}, hosts)


class AddressTests(SynchronousTestCase):
    """Which addresses checks may go to."""

    def test_useless_addresses(self) -> None:
        useless = [
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "::",
            "ff02::1",
            "fe80::1",
        ]
        for host in useless:
            self.assertFalse(usable(Address(host, 5000)), host)
        self.assertFalse(usable(Address("192.0.2.1", 0)))
        self.assertTrue(usable(Address("192.0.2.1", 1)))

    def test_loopback_only_with_loopback(self) -> None:
        loopback, other = Address("127.0.0.1", 5000), Address("127.0.0.1", 5001)
        self.assertTrue(may_pair(loopback, other))
        self.assertFalse(may_pair(BASE, other))
        self.assertFalse(may_pair(loopback, BASE))

    def test_one_family_and_not_oneself(self) -> None:
        self.assertFalse(may_pair(BASE, Address("2001:db8::1", 5000)))
        self.assertFalse(may_pair(BASE, BASE))

    def test_wildcards_can_not_be_bases(self) -> None:
        for host in ("0.0.0.0", "::", "fe80::1", "224.0.0.1"):
            self.assertRaises(ValueError, LocalCandidates().add_host, Address(host, 5000))


class LocalTests(SynchronousTestCase):
    """Our own candidates."""

    def setUp(self) -> None:
        self.local = LocalCandidates()
        self.local.add_host(BASE)

    def test_host(self) -> None:
        (candidate,) = self.local.bases
        self.assertEqual((candidate.type, candidate.address, candidate.related), (HOST, BASE, None))
        self.assertIsNone(self.local.add_host(BASE))

    def test_relayed(self) -> None:
        """
        Relayed candidates come last, those over streams after the others. Their related address is told or
        kept secret.
        """
        mapped = Address("203.0.113.1", 40000)
        first = self.local.add_relayed(Address("198.51.100.1", 50000), mapped, "udp")
        second = self.local.add_relayed(Address("198.51.100.1", 50002), None, "tcp", streamed=True)
        third = self.local.add_relayed(Address("198.51.100.2", 50000), None, "udp elsewhere")
        assert first is not None
        assert second is not None
        assert third is not None
        self.assertEqual((first.type, first.related), (RELAY, mapped))
        self.assertEqual(second.related, Address("0.0.0.0", 9))
        priorities = [candidate.priority for candidate in (first, third, second)]
        self.assertEqual(priorities, sorted(set(priorities), reverse=True))
        self.assertLess(priorities[0], 1 << 24)
        self.assertEqual(len({candidate.foundation for candidate in (first, second, third)}), 3)
        self.assertEqual(Candidate.parse(str(second)), second)
        self.assertIsNone(self.local.add_relayed(first.address, mapped, "udp"))
        pairs = [CandidatePair(relayed, signalled("192.0.2.1")) for relayed in (first, second)]
        self.assertEqual([pair.kind for pair in pairs], [PathKind.RELAYED, PathKind.STREAMED])

    def test_what_relays_reach(self) -> None:
        """A relay reaches private addresses only if it has one itself, and never the other family."""
        public, private = Address("198.51.100.1", 50000), Address("10.0.0.1", 50000)
        for host in ("192.168.1.2", "10.0.0.2", "100.64.0.1", "127.0.0.1"):
            self.assertFalse(may_relay(public, Address(host, 5)), host)
            self.assertTrue(may_relay(private, Address(host, 5)), host)
        self.assertTrue(may_relay(public, Address("203.0.113.1", 5)))
        self.assertFalse(may_relay(public, public))
        self.assertFalse(may_relay(public, Address("2001:db8::1", 5)))
        self.assertFalse(may_relay(Address("2001:db8::1", 5), Address("fd00::1", 5)))

    def test_a_base_that_is_gone(self) -> None:
        """When a base is removed, its reflexive candidates are removed too."""
        self.local.add_reflexive(BASE, Address("203.0.113.1", 40000))
        self.local.remove(BASE)
        self.assertEqual(self.local.signalled, [])

    def test_foundations(self) -> None:
        """RFC 8445, section 5.1.1.3: the same for the same type, base address and server."""
        other = Address("192.168.1.2", 5001)
        self.local.add_host(other)
        first, second = self.local.bases
        self.assertEqual(first.foundation, second.foundation)
        mapped = [
            self.local.add_reflexive(base, Address("203.0.113.1", port), server)
            for port, (base, server) in enumerate([(BASE, "a"), (other, "a"), (BASE, "b")], 1)
        ]
        foundations = [candidate.foundation for candidate in mapped if candidate]
        self.assertEqual(foundations[0], foundations[1])
        self.assertNotEqual(foundations[0], foundations[2])
        self.assertNotIn(first.foundation, foundations)

    def test_redundant_reflexive_candidates(self) -> None:
        """RFC 8445, section 5.1.3."""
        mapped = Address("203.0.113.1", 40000)
        self.assertIsNone(self.local.add_reflexive(BASE, BASE))
        self.assertIsNotNone(self.local.add_reflexive(BASE, mapped))
        self.assertIsNone(self.local.add_reflexive(BASE, mapped))
        self.assertIsNone(self.local.add_reflexive(Address("192.168.1.3", 1), mapped))
        self.assertIsNone(self.local.add_reflexive(BASE, Address("0.0.0.0", 1)))
        self.assertEqual([known.type for known in self.local.signalled], [HOST, SRFLX])
        self.assertEqual(self.local.signalled[1].related, BASE)

    def test_peer_reflexive_candidate_becomes_server_reflexive(self) -> None:
        mapped = Address("203.0.113.1", 40000)
        learned = self.local.at(BASE, mapped)
        self.assertEqual((learned.type, learned.related), (PRFLX, BASE))
        self.assertEqual(learned.priority, self.local.check_priority(BASE))
        self.assertNotIn(learned, self.local.signalled)
        self.assertIsNotNone(self.local.add_reflexive(BASE, mapped))
        self.assertEqual(self.local.at(BASE, mapped).type, SRFLX)
        self.assertEqual(self.local.at(BASE, BASE).type, HOST)

    def test_a_hostile_peer_can_not_make_many(self) -> None:
        for port in range(1, 1000):
            self.local.at(BASE, Address("203.0.113.1", port))
        learned = [self.local.at(BASE, Address("203.0.113.1", port)).type for port in range(1, 1000)]
        self.assertEqual(learned.count(PRFLX), MAX_REFLEXIVE)

    def test_the_newest_mappings_are_kept(self) -> None:
        for port in range(1, 1000):
            self.local.add_reflexive(BASE, Address("203.0.113.1", port))
        ports = [candidate.address.port for candidate in self.local.signalled[1:]]
        self.assertEqual(ports, list(range(1000 - 2 * MAX_REFLEXIVE, 1000)))


class RemoteTests(SynchronousTestCase):
    """The peer's candidates."""

    def setUp(self) -> None:
        self.remote = RemoteCandidates()

    def test_useless_ones_are_ignored(self) -> None:
        useless = [
            signalled("224.0.0.1"),
            signalled("fe80::1"),
            signalled("192.0.2.1", 0),
            signalled("192.0.2.1", priority=0),
            signalled("192.0.2.1", priority=2**31),
            signalled("192.0.2.1", kind=PRFLX),
            Candidate(HOST, Address("192.0.2.1", 1), 1, "1", component=2),
            Candidate(HOST, TCPAddress("192.0.2.1", 1), 1, "1", tcp_type=TCPType.PASSIVE),
        ]
        self.assertFalse(any(self.remote.add(candidate) for candidate in useless))
        self.assertEqual(len(self.remote), 0)

    def test_bounds(self) -> None:
        for port in range(1, 1000):
            self.remote.add(signalled(f"192.0.{port % 250}.1", port))
            self.remote.learn(Address("192.0.2.2", port), 1000)
        self.assertEqual(len(self.remote), MAX_SIGNALLED + MAX_REFLEXIVE)

    def test_one_address_many_times(self) -> None:
        """A peer that names 200 ports of a victim has few of them used. Its other candidates have room."""
        for port in range(1, 201):
            self.remote.add(signalled("192.0.2.1", port))
        self.assertEqual(len(self.remote), MAX_PER_HOST)
        self.assertTrue(self.remote.add(signalled("192.0.2.2")))

    def test_what_checks_found_takes_no_room(self) -> None:
        """A NAT may show many ports before its reflexive candidate is signalled."""
        for port in range(1, 20):
            self.remote.learn(Address("192.0.2.1", port), 1000)
        self.assertTrue(self.remote.add(signalled("192.0.2.1", 50)))

    def test_doubles_are_ignored(self) -> None:
        self.assertTrue(self.remote.add(signalled("192.0.2.1")))
        self.assertFalse(self.remote.add(signalled("192.0.2.1", priority=5, kind=SRFLX)))
        self.assertEqual([candidate.priority for candidate in self.remote], [1000])

    def test_signalling_names_what_checks_found(self) -> None:
        """RFC 8838, section 11.4."""
        learned = self.remote.learn(Address("192.0.2.1", 6000), 77)
        assert learned is not None
        self.assertEqual((learned.type, learned.priority), (PRFLX, 77))
        self.assertTrue(self.remote.add(signalled("192.0.2.1")))
        self.assertEqual([candidate.type for candidate in self.remote], [HOST])

    def test_a_relay_that_is_seen_elsewhere(self) -> None:
        """
        The local preference in a check's PRIORITY shows which base sent it, signalled before or afterwards.
        """
        here = LocalCandidates()
        host = here.add_host(BASE)
        relay = here.add_relayed(Address("198.51.100.9", 50000), None, "relay")
        assert host is not None
        assert relay is not None
        seen, other = Address("203.0.113.1", 50000), Address("203.0.113.1", 50001)
        self.remote.learn(seen, here.check_priority(relay.address))
        self.remote.learn(other, here.check_priority(BASE))
        before = [candidate.foundation for candidate in self.remote]
        self.assertEqual([candidate.type for candidate in self.remote], [PRFLX, PRFLX])
        self.remote.add(relay)
        self.remote.add(host)
        self.assertEqual([candidate.type for candidate in self.remote], [RELAY, PRFLX, RELAY, HOST])
        known = self.remote.get(seen)
        assert known is not None
        self.assertEqual((known.address, known.priority), (seen, relay.priority))
        self.assertEqual([candidate.foundation for candidate in self.remote][:2], before)
        again = self.remote.learn(Address("203.0.113.1", 50002), here.check_priority(relay.address))
        assert again is not None
        self.assertEqual(again.type, RELAY)

    def test_a_relay_with_the_preference_of_a_host(self) -> None:
        """Other implementations give both the same preference, so a check may come from either."""
        for candidate in (signalled("192.0.2.1", kind=RELAY), signalled("192.0.2.2")):
            self.remote.add(candidate)
            self.remote.learn(Address("203.0.113.1", 1), 110 << 24 | 1000)
        self.assertEqual([candidate.type for candidate in self.remote], [RELAY, PRFLX, HOST])

    def test_a_relay_that_is_seen_elsewhere_may_be_named(self) -> None:
        """RFC 8838, section 11.4, holds for it as well."""
        self.remote.add(signalled("192.0.2.1", kind=RELAY))
        self.remote.learn(Address("203.0.113.1", 1), 110 << 24 | 1000)
        self.assertTrue(self.remote.add(signalled("203.0.113.1", 1, kind=SRFLX, priority=5)))
        self.assertEqual([candidate.type for candidate in self.remote], [RELAY, SRFLX])

    def test_foundations_of_learned_ones_are_unlike_all_others(self) -> None:
        """RFC 8445, section 7.3.1.3."""
        self.remote.add(Candidate(HOST, Address("192.0.2.9", 1), 1, "prflx1"))
        for port in range(1, 5):
            self.remote.learn(Address("192.0.2.1", port), 1)
        foundations = [candidate.foundation for candidate in self.remote]
        self.assertEqual(len(set(foundations)), 5)

    def test_priorities_of_learned_ones_are_lawful(self) -> None:
        for port, priority in enumerate([0, 2**32 - 1], 1):
            learned = self.remote.learn(Address("192.0.2.1", port), priority)
            assert learned is not None
            self.assertTrue(0 < learned.priority < 2**31)

    def test_private_addresses_behind_another_nat(self) -> None:
        local = LocalCandidates()
        local.add_host(BASE)
        far, near = signalled("192.168.2.2"), signalled("192.168.1.3")
        self.assertFalse(behind_another_nat(far, local, self.remote))
        local.add_reflexive(BASE, Address("198.51.100.7", 1))
        self.assertFalse(behind_another_nat(far, local, self.remote))
        self.remote.add(signalled("198.51.100.8", kind=SRFLX))
        self.assertTrue(behind_another_nat(far, local, self.remote))
        for elsewhere in ("8.8.8.8", "100.64.0.7", "2001:db8::7"):
            self.assertFalse(behind_another_nat(signalled(elsewhere), local, self.remote), elsewhere)
        self.remote.add(signalled("198.51.100.7", kind=SRFLX))
        self.assertFalse(behind_another_nat(near, local, self.remote))


class PathTests(SynchronousTestCase):
    """The kinds of paths and their order."""

    def test_kinds(self) -> None:
        self.assertEqual(path_kind(HOST, HOST), PathKind.HOST)
        self.assertEqual(path_kind(HOST, PRFLX), PathKind.REFLEXIVE)
        self.assertEqual(path_kind(SRFLX, SRFLX), PathKind.REFLEXIVE)
        self.assertEqual(path_kind(RELAY, HOST), PathKind.RELAYED)
        self.assertEqual(path_kind(RELAY, RELAY), PathKind.RELAYED_TWICE)
        self.assertEqual(path_kind(HOST, RELAY, True), PathKind.STREAMED)
        self.assertLess(PathKind.STREAMED, PathKind.RELAYED)

    def test_names(self) -> None:
        names = {
            (HOST, HOST): "host",
            (HOST, SRFLX): "srflx",
            (SRFLX, HOST): "srflx",
            (PRFLX, SRFLX): "prflx",
            (HOST, PRFLX): "prflx",
            (RELAY, PRFLX): "relay",
            (HOST, RELAY): "relay",
        }
        for (local, remote), name in names.items():
            ends = signalled("192.0.2.1", kind=local), signalled("192.0.2.2", kind=remote)
            pair = Pair(*ends, BASE, path_kind(local, remote))
            self.assertEqual(pair.path, name)


class CredentialsTests(SynchronousTestCase):
    """RFC 8445, section 5.3."""

    def test_generated(self) -> None:
        made = IceCredentials.generate(lambda size: bytes(range(256 - size, 256)))
        self.assertEqual((len(made.ufrag), len(made.password)), (8, 24))
        self.assertEqual(made, IceCredentials(made.ufrag, made.password))

    def test_randomness_is_asked_for(self) -> None:
        sizes: list[int] = []

        def random(size: int) -> bytes:
            sizes.append(size)
            return bytes(size)

        IceCredentials.generate(random)
        self.assertGreaterEqual(sizes[0] * 8, 24)
        self.assertGreaterEqual(sizes[1] * 8, 128)

    def test_refused(self) -> None:
        password = "p" * 22
        for ufrag, secret in [
            ("abc", password),
            ("ab:d", password),
            ("a" * 257, password),
            ("abcd", "p" * 21),
        ]:
            self.assertRaises(ValueError, IceCredentials, ufrag, secret)

    def test_the_password_is_not_shown(self) -> None:
        self.assertNotIn("p" * 22, repr(IceCredentials("abcd", "p" * 22)))

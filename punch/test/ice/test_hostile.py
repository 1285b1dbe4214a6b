"""
What strangers and hostile peers can do to an ICE agent: no table grows, and no answer is worth the attack.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.ice.checklist import MAX_PAIRS
from punch.ice.checks import MAX_EARLY, IceCredentials, IceRole, build_check
from punch.ice.events import AgentState, Selected
from punch.test.costs import calls_of
from punch.test.ice.ice_network import NAT, REFLECTOR, Host, IceNetwork
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.stun import (
    FINGERPRINT_MASK,
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    error,
    parse,
    success,
)

STRANGER = Address("203.0.113.66", 6666)
ID = bytes(12)


class Situation:
    """Alice checks Bob's address, and Bob is played by the test."""

    def __init__(self) -> None:
        self.network = IceNetwork()
        self.alice = self.network.host("alice", "192.0.2.1")
        self.bob = IceNetwork(seed=2).host("bob", "192.0.2.2", controlling=False)
        self.ours, self.theirs = self.alice.agent.credentials, self.bob.agent.credentials
        self.network.introduce(self.alice, self.bob)
        self.network.run(0.01)
        self.check = self.alice.sent[0][1]

    def request(
        self, *more: tuple[int, object], drop: int | None = None, username: str | None = None
    ) -> StunMessage:
        name = username or f"{self.ours.ufrag}:{self.theirs.ufrag}"
        attributes: list[tuple[int, object]] = [
            (Attribute.USERNAME, name),
            (Attribute.PRIORITY, 1000),
            (Attribute.ICE_CONTROLLED, 1),
            *more,
        ]
        kept = tuple((kind, value) for kind, value in attributes if kind != drop)
        return StunMessage(Method.BINDING, MessageClass.REQUEST, ID, kept)

    def inject(self, data: bytes, source: Address = STRANGER) -> list[Transmit]:
        return self.network.inject(self.alice, data, source)

    def answer(self, key: bytes | None = None, mapped: Address | None = None) -> bytes:
        seen = mapped or self.alice.bases[0]
        response = success(parse(self.check.data), (Attribute.XOR_MAPPED_ADDRESS, seen))
        return encode(response, key or self.theirs.key)

    @property
    def state(self) -> tuple[int, int, bool]:
        """What a stranger must not change."""
        return len(self.alice.agent.pairs), len(self.alice.events), self.alice.agent.controlling


class StrangerTests(SynchronousTestCase):
    """Strangers know no credentials."""

    def setUp(self) -> None:
        self.it = Situation()

    def silence(self, data: bytes, source: Address = STRANGER) -> None:
        before = self.it.state
        self.assertEqual(self.it.inject(data, source), [])
        self.assertEqual(self.it.state, before)

    def test_no_username(self) -> None:
        self.silence(encode(self.it.request(drop=Attribute.USERNAME), self.it.ours.key))
        self.silence(encode(StunMessage(Method.BINDING, MessageClass.REQUEST, ID)))

    def test_other_usernames(self) -> None:
        ours, theirs = self.it.ours.ufrag, self.it.theirs.ufrag
        for name in (
            f"{theirs}:{ours}",
            ours,
            f"{ours}:",
            f"{ours}:xxxx",
            f"{ours}{theirs}",
            f"x{ours}:{theirs}",
        ):
            self.silence(encode(self.it.request(username=name), self.it.ours.key))

    def test_the_cost_of_a_message(self) -> None:
        """Before a request is authenticated, only its USERNAME is decoded."""
        many = tuple((Attribute.ALTERNATE_SERVER, Address(f"2001:db8::{n:x}", 1)) for n in range(1, 56))
        for name, key in ((None, b"x" * 24), ("other:name", self.it.ours.key)):
            short, long = (encode(self.it.request(*more, username=name), key) for more in ((), many))
            agent, (base,) = self.it.alice.agent, self.it.alice.bases
            costs = [
                calls_of(partial(agent.receive_datagram, data, STRANGER, base, 100.5))
                for data in (short, long)
            ]
            self.assertLess(costs[1], costs[0] + 10)

    def test_values_that_are_not_valid(self) -> None:
        """A request with one is ignored, even if it is authenticated."""
        unsigned = bytearray(encode(self.it.request((0x7FFF, b"")), fingerprint=False))
        at = unsigned.index(b"\x7f\xff\0\0")
        for kind, accepted in ((0x7FFF, False), (Attribute.CHANNEL_NUMBER, False), (0xFFFF, True)):
            unsigned[at : at + 2] = kind.to_bytes(2, "big")
            unsigned[2:4] = (len(unsigned) - 20 + 24).to_bytes(2, "big")
            signed = bytes(unsigned) + b"\0\x08\0\x14" + hmac.digest(self.it.ours.key, unsigned, "sha1")
            covered = signed[:2] + (len(signed) - 20 + 8).to_bytes(2, "big") + signed[4:]
            data = covered + b"\x80\x28\0\x04" + (crc32(covered) ^ FINGERPRINT_MASK).to_bytes(4, "big")
            answered = [parse(each.data).message_class for each in self.it.inject(data)]
            expected = MessageClass.SUCCESS if accepted else MessageClass.ERROR
            self.assertEqual(answered[:1], [] if kind == Attribute.CHANNEL_NUMBER else [expected])

    def test_no_fingerprint(self) -> None:
        self.silence(encode(self.it.request(), self.it.ours.key, fingerprint=False))

    def test_wrong_password(self) -> None:
        """A 401, unsigned and no longer than the request."""
        before = self.it.state
        request = encode(self.it.request(), b"x" * 24)
        (answer,) = self.it.inject(request)
        self.assertLessEqual(len(answer.data), len(request))
        message = parse(answer.data)
        self.assertEqual(message.get(Attribute.ERROR_CODE), (401, "Unauthenticated"))
        self.assertFalse(message.has_integrity())
        self.assertEqual(self.it.state, before)

    def test_no_integrity(self) -> None:
        request = encode(self.it.request())
        for transmit in self.it.inject(request):
            self.assertLessEqual(len(transmit.data), len(request))
            self.assertEqual(parse(transmit.data).get(Attribute.ERROR_CODE), (400, "Bad Request"))

    def test_short_requests_get_nothing(self) -> None:
        name = f"{self.it.ours.ufrag}:{self.it.theirs.ufrag}"
        request = StunMessage(Method.BINDING, MessageClass.REQUEST, ID, ((Attribute.USERNAME, name),))
        for transmit in self.it.inject(encode(request)):
            self.assertLessEqual(len(transmit.data), len(encode(request)))

    def test_answers_that_nobody_asked_for(self) -> None:
        response = success(StunMessage(Method.BINDING, MessageClass.REQUEST, ID))
        self.silence(encode(response, self.it.theirs.key))
        self.silence(
            encode(error(StunMessage(Method.BINDING, MessageClass.REQUEST, ID), 487, "Role Conflict"))
        )

    def test_forged_answers_are_discarded(self) -> None:
        """RFC 8489, section 9.1.4: as if they had never come; the right one is still taken."""
        self.silence(self.it.answer(b"x" * 24), self.it.check.remote)
        refused = error(parse(self.it.check.data), 400, "Bad Request")
        self.silence(encode(refused), self.it.check.remote)
        self.it.inject(self.it.answer(), self.it.check.remote)
        self.assertIs(self.it.alice.agent.state, AgentState.CONNECTED)

    def test_indications_other_methods_and_other_protocols(self) -> None:
        name = ((Attribute.USERNAME, f"{self.it.ours.ufrag}:{self.it.theirs.ufrag}"),)
        self.silence(encode(StunMessage(Method.BINDING, MessageClass.INDICATION, ID, name), self.it.ours.key))
        self.silence(encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, ID, name), self.it.ours.key))
        for data in (b"", b"\x00", b"\xff" * 1200, bytes(65507), b"\x40\x00\x00\x00"):
            self.silence(data)
            self.assertFalse(self.it.alice.agent.wants(data))

    def test_other_sockets(self) -> None:
        request = encode(self.it.request(), self.it.ours.key)
        elsewhere = Address("192.0.2.99", 99)
        self.assertEqual(self.it.network.inject(self.it.alice, request, STRANGER, elsewhere), [])

    def test_truncated_everywhere(self) -> None:
        whole = encode(self.it.request(), self.it.ours.key)
        for size in range(len(whole)):
            self.silence(whole[:size])
            self.assertFalse(self.it.alice.agent.wants(whole[:size]))

    def test_changed_at_every_byte(self) -> None:
        whole = encode(self.it.request(), self.it.ours.key)
        before = self.it.state
        for position in range(len(whole)):
            changed = bytearray(whole)
            changed[position] ^= 1
            for transmit in self.it.inject(bytes(changed)):
                self.assertLessEqual(len(transmit.data), len(whole))
        self.assertEqual(self.it.state, before)

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.binary(max_size=200), st.booleans())
    def test_garbage(self, data: bytes, header: bool) -> None:
        if header:
            data = b"\x00\x01" + len(data).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + ID + data
        self.silence(data)

    def test_wants(self) -> None:
        agent = self.it.alice.agent
        self.assertTrue(agent.wants(encode(self.it.request(), b"any key")))
        self.assertFalse(agent.wants(encode(self.it.request(username="zzzz:yyyy"))))
        self.assertTrue(agent.wants(self.it.answer(b"any key")))
        self.assertFalse(agent.wants(encode(success(StunMessage(1, MessageClass.REQUEST, ID)))))

    def test_wants_answers_of_reflectors(self) -> None:
        host = self.it.network.host("carol", "192.0.2.5")
        host.agent.gather([REFLECTOR], self.it.network.now)
        (question,) = host.agent.datagrams_to_send(self.it.network.now)
        self.assertTrue(host.agent.wants(encode(success(parse(question.data)))))


class PeerTests(SynchronousTestCase):
    """A peer knows the credentials, and is hostile or faulty."""

    def setUp(self) -> None:
        self.it = Situation()

    def code(self, *more: tuple[int, object], drop: int | None = None) -> tuple[int, bool]:
        request = encode(self.it.request(*more, drop=drop), self.it.ours.key)
        answers = [parse(transmit.data) for transmit in self.it.inject(request)]
        (answer,) = [message for message in answers if message.message_class is not MessageClass.REQUEST]
        found = answer.get(Attribute.ERROR_CODE)
        return (found[0] if found else 0), answer.check_integrity(self.it.ours.key)

    def test_a_right_request(self) -> None:
        self.assertEqual(self.code(), (0, True))
        self.assertEqual(len(self.it.alice.agent.pairs), 2)
        self.assertTrue(self.it.alice.agent.validated(self.it.alice.bases[0], STRANGER))

    def told(self, transaction_id: bytes, source: Address) -> None:
        """A check from `source` that says that a check of ours arrived."""
        here = self.it.alice.bases[0]
        more = (Attribute.RECEIVED_CHECK, transaction_id), (Attribute.XOR_MAPPED_ADDRESS, here)
        self.it.inject(encode(self.it.request(*more), self.it.ours.key), source)

    def valid(self) -> list[Address]:
        """The remote addresses of valid pairs."""
        return [pair.remote for pair in self.it.alice.agent.pairs if pair.state == "succeeded"]

    def test_a_check_that_arrived(self) -> None:
        """
        Only the ID of our check, from the address where that went, validates a pair: it proves that it
        arrived.
        """
        there, asked = self.it.bob.bases[0], parse(self.it.check.data).transaction_id
        for transaction_id, source in ((ID, there), (asked[:-1] + b"!", there), (asked, STRANGER)):
            self.told(transaction_id, source)
            self.assertEqual(self.valid(), [])
        self.told(asked, there)
        self.assertEqual(self.valid(), [there])

    def test_unknown_attributes_that_must_be_understood(self) -> None:
        """RFC 8489, section 6.3.1."""
        before = self.it.state
        request = encode(self.it.request((0x0777, b""), (0x8777, b"")), self.it.ours.key)
        (answer,) = self.it.inject(request)
        message = parse(answer.data)
        self.assertEqual(message.get(Attribute.ERROR_CODE), (420, "Unknown Attribute"))
        self.assertEqual(message.get(Attribute.UNKNOWN_ATTRIBUTES), (0x0777,))
        self.assertTrue(message.check_integrity(self.it.ours.key))
        self.assertLessEqual(len(answer.data), len(request))
        self.assertEqual(self.it.state, before)

    def test_no_priority(self) -> None:
        self.assertEqual(self.code(drop=Attribute.PRIORITY), (400, True))

    def test_no_role(self) -> None:
        """A check without a role attribute causes no role conflict (RFC 8445, section 7.3.1.1)."""
        self.assertEqual(self.code(drop=Attribute.ICE_CONTROLLED), (0, True))

    def test_answers_from_elsewhere_fail_the_pair(self) -> None:
        """RFC 8445, section 7.2.5.2.1."""
        self.it.inject(self.it.answer(), STRANGER)
        self.it.inject(self.it.answer(), self.it.check.remote)
        self.assertIsNone(self.it.alice.agent.selected)

    def test_answers_to_elsewhere_fail_the_pair(self) -> None:
        other = Address("192.0.2.77", 7)
        self.it.alice.agent.add_local_address(other)
        self.it.network.inject(self.it.alice, self.it.answer(), self.it.check.remote, other)
        self.it.inject(self.it.answer(), self.it.check.remote)
        self.assertIsNone(self.it.alice.agent.selected)

    def test_answers_without_or_with_impossible_addresses(self) -> None:
        checks: list[Callable[[], bytes]] = [
            lambda: encode(success(parse(self.it.check.data)), self.it.theirs.key),
            lambda: self.it.answer(mapped=Address("0.0.0.0", 0)),
            lambda: encode(
                success(
                    parse(self.it.check.data),
                    (Attribute.XOR_MAPPED_ADDRESS, self.it.alice.bases[0]),
                    (0x0777, b""),
                ),
                self.it.theirs.key,
            ),
            lambda: encode(error(parse(self.it.check.data), 500, "Server Error"), self.it.theirs.key),
        ]
        for make in checks:
            self.it = Situation()
            self.it.inject(make(), self.it.check.remote)
            self.assertIsNone(self.it.alice.agent.selected)
            self.it.network.run(5)
            self.assertEqual(len(self.it.alice.sent), 1)

    def test_the_same_answer_twice(self) -> None:
        self.it.inject(self.it.answer(), self.it.check.remote)
        self.it.inject(self.it.answer(), self.it.check.remote)
        self.assertEqual(len(self.it.alice.of(Selected)), 1)

    def test_the_first_attribute_wins(self) -> None:
        name = (Attribute.USERNAME, f"{self.it.ours.ufrag}:{self.it.theirs.ufrag}")
        wrong = (Attribute.USERNAME, "zzzz:yyyy")
        for attributes, answered in (((name, wrong), True), ((wrong, name), False)):
            request = StunMessage(
                Method.BINDING, MessageClass.REQUEST, ID, (*attributes, (Attribute.PRIORITY, 1000))
            )
            self.assertEqual(bool(self.it.inject(encode(request, self.it.ours.key))), answered)

    def test_a_flood_of_addresses(self) -> None:
        request = encode(self.it.request(), self.it.ours.key)
        for port in range(1, 2000):
            self.it.inject(request, Address("203.0.113.66", port))
        self.assertLessEqual(len(self.it.alice.agent.pairs), MAX_PAIRS)
        self.it.network.run(30)
        remotes = {transmit.remote for _, transmit in self.it.alice.sent[-5000:]}
        checks = [t for _, t in self.it.alice.sent if parse(t.data).message_class is MessageClass.REQUEST]
        self.assertLess(len({transmit.remote for transmit in checks}), 40)
        self.assertLess(len(checks), 40 * 8)
        self.assertTrue(remotes)

    def test_a_flood_of_candidates(self) -> None:
        agent, now = self.it.alice.agent, self.it.network.now
        for number in range(2, 9):
            agent.add_local_address(Address(f"192.0.2.{number * 10}", 5000))
        for port in range(1, 2000):
            candidate = Candidate(CandidateType.HOST, Address("203.0.113.66", port), port, str(port))
            agent.add_remote_candidate(candidate, now)
        self.assertLessEqual(len(agent.pairs), MAX_PAIRS)

    def test_a_victim_listed_two_hundred_times(self) -> None:
        """A victim's address that is listed 200 times gets few packets, relays included, and then none."""
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1")
        alice.agent.set_remote(self.it.theirs, 0.05, network.now)
        alice.agent.add_relayed(Address("198.51.100.1", 50000), None, "relay")
        for port in range(1, 201):
            candidate = Candidate(CandidateType.HOST, Address("203.0.113.66", port), 1000 + port, str(port))
            alice.agent.add_remote_candidate(candidate, network.now)
        network.run(120)
        sent = [(when, transmit) for when, transmit in alice.sent if transmit.remote.host == "203.0.113.66"]
        self.assertLessEqual(len({transmit.remote for _, transmit in sent}), 8)
        self.assertLessEqual(sum(len(transmit.data) for _, transmit in sent), 16_000)
        for start, _ in sent:
            self.assertLessEqual(sum(start <= when < start + 1 for when, _ in sent), 36)

    def test_nats_that_answer_each_other(self) -> None:
        """
        Both give each destination another port and let everything in: a check that answers a check comes from
        a new address each time, which stops after a few.
        """
        network = IceNetwork()
        hosts = [
            network.host(
                name,
                f"10.0.{number}.2",
                nat=NAT(f"203.0.113.{number}", "APDM", "EIF"),
                controlling=not number,
            )
            for number, name in enumerate(("alice", "bob"))
        ]
        network.pair(hosts[0], hosts[1])
        network.run(30.0)
        for host, peer in (hosts, hosts[::-1]):
            assert peer.nat is not None
            tried = {sent.remote for _, sent in host.sent if sent.remote.host == peer.nat.public}
            self.assertLess(len(tried), 16)

    def test_the_best_pairs_are_kept(self) -> None:
        """RFC 8445, section 6.1.2.5."""
        network = IceNetwork()
        alice = network.host("alice", *(f"192.0.2.{number}" for number in range(1, 9)))
        alice.agent.set_remote(self.it.theirs, 0.05, network.now)
        for port in range(1, 33):
            host = f"203.0.113.{port // 8}"
            candidate = Candidate(CandidateType.HOST, Address(host, port), port, str(port))
            alice.agent.add_remote_candidate(candidate, network.now)
        self.assertEqual(len(alice.agent.pairs), MAX_PAIRS)
        network.run(10)
        ports = {transmit.remote.port for _, transmit in alice.sent}
        self.assertEqual(max(ports), 32)
        self.assertGreater(min(ports), 32 - MAX_PAIRS // 8 - 2)

    def test_a_flood_of_checks_of_one_pair(self) -> None:
        """Each of them starts our check anew, but never faster than Ta."""
        request = encode(self.it.request(), self.it.ours.key)
        start, seen = self.it.network.now, len(self.it.alice.sent)
        for _ in range(2000):
            self.it.inject(request, self.it.bob.bases[0])
            self.it.network.run(0.001)
        sent = [parse(transmit.data) for _, transmit in self.it.alice.sent[seen:]]
        checks = [message for message in sent if message.message_class is MessageClass.REQUEST]
        self.assertLessEqual(len(checks), (self.it.network.now - start) / 0.05 + 10)
        self.assertEqual(len(self.it.alice.agent.pairs), 1)

    def test_our_own_services_are_not_for_peers(self) -> None:
        """Candidates of a peer that are our loopback, link-local or multicast addresses."""
        sent = len(self.it.alice.sent)
        for host in (
            "127.0.0.1",
            "::1",
            "169.254.1.1",
            "224.0.0.251",
            "255.255.255.255",
            "0.0.0.0",
            "fe80::1",
        ):
            candidate = Candidate(CandidateType.HOST, Address(host, 53), 1000, "1")
            self.it.alice.agent.add_remote_candidate(candidate, self.it.network.now)
        self.assertEqual(len(self.it.alice.agent.pairs), 1)
        self.it.network.run(0.3)
        self.assertEqual(len(self.it.alice.sent), sent)


class EarlyTests(SynchronousTestCase):
    """Checks before the peer's credentials are known."""

    def early(self, host: Host, peer: IceCredentials, source: Address, network: IceNetwork) -> list[Transmit]:
        ours = host.agent.credentials
        check = build_check(network.random.randbytes(12), peer, ours, IceRole.CONTROLLED, 1, 1000)
        return network.inject(host, check, source)

    def test_bounded_and_answered(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1")
        peer = IceCredentials.generate(network.random.randbytes)
        for port in range(1, 500):
            (answer,) = self.early(alice, peer, Address("203.0.113.66", port), network)
            self.assertIs(parse(answer.data).message_class, MessageClass.SUCCESS)
        self.assertEqual(len(alice.agent.pairs), 0)
        alice.agent.set_remote(peer, 0.05, network.now)
        self.assertEqual(len(alice.agent.pairs), MAX_EARLY)

    def test_repetition_takes_no_room(self) -> None:
        network = IceNetwork()
        alice = network.host("alice", "192.0.2.1")
        peer = IceCredentials.generate(network.random.randbytes)
        for _ in range(100):
            self.early(alice, peer, STRANGER, network)
        self.early(alice, peer, Address("203.0.113.66", 1), network)
        alice.agent.set_remote(peer, 0.05, network.now)
        self.assertEqual(len(alice.agent.pairs), 2)

"""Probes of NATs: who may have them sent, where to, and how often."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity, PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.reflector import PERIOD, Prober, ProbeSend, Reflector, Vantages
from punch.test.strategies import IDENTITIES
from punch.wire.address import Address
from punch.wire.control import Probe, ProbeOutcome, Vantage, commitment
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)

ALICE, MALLORY = (known.peer_id for known in IDENTITIES[:2])
MAPPED = Address("203.0.113.7", 40000)
MAPPED6 = Address("2001:db8:7::7", 40000)
VICTIM = Address("198.51.100.99", 53)
OWN, OTHER, OWN6 = "198.51.100.1", "198.51.100.2", "2001:db8::1"
NONCE = bytes(range(16))
TRANSACTION = b"transaction!"


class ProberTests(SynchronousTestCase):
    """A prober with all vantages, and its reflector."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.prober = self.make()
        self.reflector = Reflector(prove=self.prober.prove)

    def make(self, limits: RendezvousLimits | None = None) -> Prober:
        prober = Prober(limits or RendezvousLimits(), Random(1).randbytes)
        prober.vantages = Vantages(True, (OTHER,))
        return prober

    def reflect(
        self, remote: Address = MAPPED, local: str = OWN, peer: PeerID = ALICE, nonce: bytes = NONCE
    ) -> bytes:
        """Ask the reflector, as `peer` at `remote`: the proof in its answer."""
        attributes = ((Attribute.PROBE, commitment(peer, nonce)),)
        question = StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION, attributes)
        data = encode(question, fingerprint=False)
        answer = self.reflector.handle(data, remote, self.now, local)
        assert answer is not None
        self.assertLess(len(answer), 2 * len(data))
        parsed = parse(answer)
        self.assertEqual(parsed.get(Attribute.XOR_MAPPED_ADDRESS), remote)
        proof = parsed.get(Attribute.PROBE)
        assert isinstance(proof, bytes)
        return proof

    def ask(
        self,
        proof: bytes,
        vantage: Vantage = Vantage.SAME,
        mapped: Address = MAPPED,
        peer: PeerID = ALICE,
        nonce: bytes = NONCE,
    ) -> tuple[ProbeOutcome, ProbeSend | None]:
        request = Probe(mapped.host, mapped.port, vantage, TRANSACTION, nonce, proof)
        return self.prober.probe(peer, request, self.now)

    def assert_refused(self, *asked: object) -> None:
        self.assertEqual(asked, (ProbeOutcome.REFUSED, None))

    def test_what_is_sent(self) -> None:
        """From each vantage, an answer with the requested transaction ID is sent, and little more."""
        for remote, local, vantage, origin, second in (
            (MAPPED, OWN, Vantage.SAME, OWN, False),
            (MAPPED, OWN, Vantage.PORT, OWN, True),
            (MAPPED, OWN, Vantage.ADDRESS, OTHER, True),
            (MAPPED6, OWN6, Vantage.SAME, OWN6, False),
            (MAPPED6, OWN6, Vantage.PORT, OWN6, True),
        ):
            outcome, send = self.ask(self.reflect(remote, local), vantage, remote)
            self.assertEqual(outcome, ProbeOutcome.SENT)
            assert send is not None
            self.assertEqual((send.remote, send.local, send.second), (remote, origin, second))
            answer = parse(send.data)
            self.assertEqual(answer.message_class, MessageClass.SUCCESS)
            self.assertEqual(answer.transaction_id, TRANSACTION)
            self.assertEqual(answer.get(Attribute.XOR_MAPPED_ADDRESS), remote)
            self.assertEqual(len(send.data), 44 if remote.is_ipv6 else 32)

    def test_sizes_with_a_proof(self) -> None:
        """The reflector's answers to a question of 40 bytes."""
        attributes = ((Attribute.PROBE, commitment(ALICE, NONCE)),)
        question = StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION, attributes)
        data = encode(question, fingerprint=False)
        answers = [self.reflector.handle(data, remote, self.now, OWN) for remote in (MAPPED, MAPPED6)]
        self.assertEqual((len(data), [len(each or b"") for each in answers]), (40, [52, 64]))

    def test_no_such_vantage(self) -> None:
        """A probe from a vantage that the service does not have is refused as such."""
        proof6 = self.reflect(MAPPED6, OWN6)
        self.assertEqual(self.ask(proof6, Vantage.ADDRESS, MAPPED6), (ProbeOutcome.UNAVAILABLE, None))
        proof = self.reflect(local=OTHER)
        self.assertEqual(self.ask(proof, Vantage.ADDRESS), (ProbeOutcome.UNAVAILABLE, None))
        self.prober.vantages = Vantages(False, (OTHER,))
        for vantage in (Vantage.PORT, Vantage.ADDRESS):
            self.assertEqual(self.ask(self.reflect(), vantage), (ProbeOutcome.UNAVAILABLE, None))
        self.assertEqual(self.ask(self.reflect())[0], ProbeOutcome.SENT)

    def test_a_victim(self) -> None:
        """A proof is good for the address that it was sent to, and for no other host or port."""
        proof = self.reflect()
        self.assert_refused(*self.ask(proof, mapped=VICTIM))
        self.assert_refused(*self.ask(proof, mapped=MAPPED._replace(port=40001)))
        self.assert_refused(*self.ask(proof, mapped=MAPPED._replace(host="203.0.113.8")))

    def test_spoofed_sources(self) -> None:
        """A peer that forges a victim's address never sees the proof, and guessed proofs are refused."""
        self.reflect(VICTIM)
        for guess in (bytes(16), b"\xff" * 16, self.reflect()):
            self.assert_refused(*self.ask(guess, mapped=VICTIM))

    def test_somebody_elses_proof(self) -> None:
        """An overheard proof is worth nothing to another key, even with the nonce."""
        proof = self.reflect()
        self.assert_refused(*self.ask(proof, peer=MALLORY))
        self.assert_refused(*self.ask(proof, nonce=bytes(16)))
        self.assert_refused(*self.ask(proof, peer=MALLORY, nonce=b"m" * 16))

    def test_every_bit_counts(self) -> None:
        """A proof with any bit changed is refused."""
        proof = self.reflect()
        self.reflect(local=OTHER)
        for bit in range(128):
            changed = bytearray(proof)
            changed[bit // 8] ^= 1 << bit % 8
            self.assert_refused(*self.ask(bytes(changed)))

    def test_old_proofs(self) -> None:
        """Good for ten minutes, and for twenty at most."""
        proof = self.reflect()
        self.now += PERIOD
        self.assertEqual(self.ask(proof)[0], ProbeOutcome.SENT)
        self.now += PERIOD
        self.assert_refused(*self.ask(proof))

    def test_another_service(self) -> None:
        """A restart forgets all proofs."""
        proof = self.reflect()
        self.prober = Prober(RendezvousLimits(), Random(2).randbytes)
        self.assert_refused(*self.ask(proof))

    def test_another_process_of_the_service(self) -> None:
        """It takes a proof of this one if it is asked at the same address; no other service does."""
        begin = 1_700_000_400.0
        for secret, ahead in ((b"secret", 0.5), (b"secret", -0.5), (b"other", 0.5)):
            maker, taker = (
                Prober(RendezvousLimits(), Random(1).randbytes, secret=key, wall=lambda unix=unix: unix)  # type: ignore[misc]
                for key, unix in ((b"secret", begin - ahead), (secret, begin + ahead))
            )
            self.reflector, self.prober = Reflector(prove=maker.prove), taker
            proof = self.reflect()
            for local in (OTHER, OWN):
                self.assert_refused(*self.ask(proof))
                taker.prove(bytes(16), MAPPED, local, 7.0)
            outcome = ProbeOutcome.SENT if secret == b"secret" else ProbeOutcome.REFUSED
            self.assertIs(self.ask(proof)[0], outcome)
            self.assert_refused(*self.ask(proof, peer=MALLORY))

    def test_many_own_addresses(self) -> None:
        """The table of our own addresses stays small; proofs from before it was cleared are refused."""
        proof = self.reflect()
        for number in range(255):
            self.prober.prove(bytes(16), MAPPED, f"127.0.1.{number}", self.now)
        self.assert_refused(*self.ask(proof))
        self.assertEqual(self.ask(self.reflect())[0], ProbeOutcome.SENT)

    def test_rate_of_one_peer(self) -> None:
        """A burst, then two a second."""
        proof = self.reflect()
        outcomes = [self.ask(proof)[0] for _ in range(50)]
        self.assertEqual(outcomes, [ProbeOutcome.SENT] * 40 + [ProbeOutcome.RATE] * 10)
        self.now += 1.0
        self.assertEqual([self.ask(proof)[0] for _ in range(3)].count(ProbeOutcome.SENT), 2)

    def test_rate_at_one_prefix(self) -> None:
        """Many identities at one place get ten times as much as one, and no more."""
        sent = 0
        random = Random(3)
        for _ in range(100):
            peer = Identity.generate(random.randbytes).peer_id
            for number in range(5):
                remote = Address(f"203.0.113.{number}", 5000)
                proof = self.reflect(remote, peer=peer)
                sent += self.ask(proof, mapped=remote, peer=peer)[0] is ProbeOutcome.SENT
        self.assertEqual(sent, 400)

    def test_rate_at_one_ipv6_network(self) -> None:
        """A /48, which a rented server has, has as much as one of its addresses."""
        sent = 0
        random = Random(3)
        for number in range(1, 451):
            peer = Identity.generate(random.randbytes).peer_id
            remote = Address(f"2001:db8:1:{number:x}::1", 5000)
            sent += (
                self.ask(self.reflect(remote, peer=peer), mapped=remote, peer=peer)[0] is ProbeOutcome.SENT
            )
        self.assertEqual(sent, 400)

    def test_refusals_cost_nothing(self) -> None:
        """Wrong proofs don't use up what right ones need."""
        for _ in range(100):
            self.assert_refused(*self.ask(bytes(16)))
        self.assertEqual(self.ask(self.reflect())[0], ProbeOutcome.SENT)


class ReflectorTests(SynchronousTestCase):
    """The attribute where there is nobody to prove anything."""

    def test_without_a_prober(self) -> None:
        """It is ignored, as what isn't known may be (RFC 8489, section 14)."""
        question = StunMessage(
            Method.BINDING, MessageClass.REQUEST, TRANSACTION, ((Attribute.PROBE, bytes(16)),)
        )
        prober = Prober(RendezvousLimits(), Random(1).randbytes)
        for reflector, local in ((Reflector(), OWN), (Reflector(prove=prober.prove), None)):
            answer = reflector.handle(encode(question, fingerprint=False), MAPPED, 0.0, local)
            assert answer is not None
            self.assertEqual(len(answer), 32)

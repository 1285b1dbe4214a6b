"""The proof of a link: what a caller must show, and every way in which somebody could try to do without."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.link.events import CloseCode, Proved, StreamData, StreamOpened, encode_name
from punch.link.proof import (
    PROOF_LABEL,
    PROOF_LENGTH,
    LinkCertificate,
    ProofError,
    SecretsLog,
    check_proof,
    make_proof,
    proof_message,
    tls_binding,
)
from punch.test.link.link_pair import (
    ANSWER,
    CALLEE,
    CALLER,
    OFFER,
    STRANGER,
    AioquicMixin,
    CoreEnd,
    KeepingBackend,
    LinkTestCase,
    Pipe,
    Rogue,
    RogueCallee,
    RogueCaller,
)


class ProofBytesTests(SynchronousTestCase):
    """The bytes of a proof, as docs/protocol.md describes them."""

    binding = sha256(b"binding").digest()

    def test_message(self) -> None:
        message = proof_message(CALLER.peer_id, CALLEE.peer_id, OFFER, ANSWER, self.binding)
        expected = b"\x01" + CALLER.peer_id.key + CALLEE.peer_id.key + OFFER + ANSWER + self.binding
        self.assertEqual(message, expected)

    def test_proof_is_version_and_signature(self) -> None:
        proof = make_proof(CALLER, CALLEE.peer_id, OFFER, ANSWER, self.binding)
        self.assertEqual(len(proof), PROOF_LENGTH)
        self.assertEqual(proof[0], 1)
        message = proof_message(CALLER.peer_id, CALLEE.peer_id, OFFER, ANSWER, self.binding)
        CALLER.private_key.public_key().verify(proof[1:], PROOF_LABEL + b"\0" + message)

    def test_binding(self) -> None:
        client, server = b"c" * 32, b"s" * 48
        expected = sha256(b"punch/1 tls binding\0\0\x20" + client + b"\0\x30" + server).digest()
        self.assertEqual(tls_binding(client, server), expected)

    def test_digests_of_another_length_are_refused(self) -> None:
        with self.assertRaises(ValueError):
            proof_message(CALLER.peer_id, CALLEE.peer_id, OFFER, b"short", self.binding)

    @given(st.integers(0, PROOF_LENGTH * 8 - 1))
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_any_flipped_bit_is_noticed(self, bit: int) -> None:
        proof = bytearray(make_proof(CALLER, CALLEE.peer_id, OFFER, ANSWER, self.binding))
        proof[bit // 8] ^= 1 << bit % 8
        with self.assertRaises(ProofError):
            check_proof(bytes(proof), CALLER.peer_id, CALLEE.peer_id, OFFER, ANSWER, self.binding)

    @given(st.integers(0, 4))
    @settings(derandomize=True, deadline=None, max_examples=10)
    def test_every_field_counts(self, field: int) -> None:
        proof = make_proof(CALLER, CALLEE.peer_id, OFFER, ANSWER, self.binding)
        arguments: list[Any] = [CALLER.peer_id, CALLEE.peer_id, OFFER, ANSWER, self.binding]
        check_proof(proof, *arguments)
        arguments[field] = STRANGER.peer_id if field < 2 else sha256(b"other").digest()
        with self.assertRaises(ProofError):
            check_proof(proof, *arguments)


class SecretsLogTests(SynchronousTestCase):
    def full_log(self) -> SecretsLog:
        log = SecretsLog()
        log.write(f"CLIENT_HANDSHAKE_TRAFFIC_SECRET {'aa' * 32} {'01' * 32}\n")
        log.write(f"CLIENT_TRAFFIC_SECRET_0 {'aa' * 32} {'02' * 32}\n")
        log.write(f"SERVER_TRAFFIC_SECRET_0 {'aa' * 32} {'03' * 32}\n")
        log.flush()
        return log

    def test_binding_of_both_application_secrets(self) -> None:
        self.assertEqual(self.full_log().binding(), tls_binding(b"\x02" * 32, b"\x03" * 32))

    def test_secrets_are_erased_after_use(self) -> None:
        log = self.full_log()
        kept = list(log.secrets.values())
        log.binding()
        self.assertEqual([bytes(secret) for secret in kept], [bytes(32)] * 2)
        with self.assertRaises(ProofError):
            log.binding()

    def test_incomplete(self) -> None:
        with self.assertRaises(ProofError):
            SecretsLog().binding()


class CertificateTests(SynchronousTestCase):
    def test_names_nobody_and_has_one_length(self) -> None:
        made = [LinkCertificate.generate() for _ in range(5)]
        self.assertEqual(len({len(certificate.der) for certificate in made}), 1)
        self.assertEqual(len({certificate.sha256 for certificate in made}), 5)
        for certificate in made:
            self.assertEqual(certificate.certificate.subject.rfc4514_string(), "CN=punch")

    def test_randomness_is_a_parameter(self) -> None:
        first, second = (LinkCertificate.generate(lambda size: b"\x07" * size) for _ in range(2))
        self.assertEqual(first.sha256, second.sha256)


class ProofTests(LinkTestCase):
    """Proofs on live connections."""

    def assert_unmoved(self, callee: CoreEnd) -> None:
        """The callee accepted nobody, and its application heard nothing."""
        self.assertEqual(callee.events, [])

    def assert_refused(self, rogue: Rogue, callee: CoreEnd, pipe: Pipe, code: CloseCode) -> None:
        pipe.run(2.0, lambda: rogue.refused is not None)
        self.assertIsNotNone(rogue.refused)
        assert rogue.refused is not None
        self.assertEqual(rogue.refused[0], code)
        self.assert_unmoved(callee)

    def attack(self, proof: bytes) -> None:
        """Send these bytes instead of a proof, and then data on another stream."""
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.open_stream_zero(proof)
        rogue.quic.send(rogue.quic.open_stream(), encode_name("chat/1") + b"hello", True)
        rogue.quic.send_datagram(b"hello")
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_both_sides_prove_themselves(self) -> None:
        caller, callee, _ = self.connect()
        self.assertEqual(caller.of(Proved), [Proved(CALLEE.peer_id)])
        self.assertEqual(callee.of(Proved), [Proved(CALLER.peer_id)])

    def test_a_first_message_costs_no_round_trip(self) -> None:
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        pipe.delay = 0.1
        caller.core.start(0.0)

        def greet(event: object) -> None:
            if isinstance(event, Proved):
                caller.core.streams.send(caller.core.streams.open_stream("chat/1"), b"hello")

        caller.on_event = greet
        self.assertTrue(pipe.run(2.0, lambda: bool(callee.of(StreamData))))
        # One round trip of handshake, and the way of the proof with the message behind it.
        self.assertApproximates(pipe.now, 0.3, 0.02)
        self.assertEqual([type(event) for event in callee.events], [Proved, StreamOpened, StreamData])

    def test_forged_by_another_key(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.open_stream_zero(rogue.proof(STRANGER))
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_random_bytes(self) -> None:
        self.attack(b"\x01" + self.random.randbytes(64))

    def test_wrong_version(self) -> None:
        self.attack(b"\x02")

    def test_wrong_role(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        message = proof_message(CALLER.peer_id, CALLEE.peer_id, OFFER, ANSWER, rogue.quic.binding())
        rogue.open_stream_zero(b"\x01" + CALLER.sign(PROOF_LABEL, b"\x02" + message[1:]))
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_another_offer(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        other = sha256(b"another offer").digest()
        rogue.open_stream_zero(make_proof(CALLER, CALLEE.peer_id, other, ANSWER, rogue.quic.binding()))
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_reflected(self) -> None:
        """The callee's own signature doesn't pass for the caller's."""
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        binding = rogue.quic.binding()
        rogue.open_stream_zero(make_proof(CALLEE, CALLER.peer_id, OFFER, ANSWER, binding))
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_replayed_from_another_connection(self) -> None:
        first = self.make_callee()
        honest, pipe = self.rogue(first)
        proof = honest.proof()
        honest.open_stream_zero(proof)
        self.assertTrue(pipe.run(2.0, lambda: first.proved))
        # The same link (offer, answer, certificate, keys), another connection.
        self.attack(proof)

    def test_passed_on_by_somebody_with_the_callees_key(self) -> None:
        """The holder of the callee's key can receive a call, but can't pass the caller's proof on."""
        caller = self.make_caller()
        middle = RogueCallee(self.backend, self.certificate)
        pipe = Pipe(caller, middle)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(2.0, lambda: len(middle.streams.get(0, b"")) >= PROOF_LENGTH))
        self.assertTrue(caller.proved)
        callee = self.make_callee()
        rogue, onward = self.rogue(callee)
        rogue.open_stream_zero(bytes(middle.streams[0][:PROOF_LENGTH]))
        self.assert_refused(rogue, callee, onward, CloseCode.PROOF)

    def test_truncated(self) -> None:
        for length in (0, 1, 33, PROOF_LENGTH - 1):
            callee = self.make_callee()
            rogue, pipe = self.rogue(callee)
            rogue.quic.open_stream()
            rogue.quic.send(0, rogue.proof()[:length], True)
            self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_broken_off(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.open_stream_zero(rogue.proof()[:10])
        pipe.run(0.1)
        rogue.quic.reset(0, 1)
        self.assert_refused(rogue, callee, pipe, CloseCode.PROOF)

    def test_trickled_bytewise(self) -> None:
        """A proof may arrive in any pieces, if it arrives in time."""
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        proof = rogue.proof()
        rogue.quic.open_stream()
        for index in range(PROOF_LENGTH):
            self.assert_unmoved(callee)
            rogue.quic.send(0, proof[index : index + 1], False)
            pipe.run(0.04)
        self.assertTrue(callee.proved)

    def test_trickled_for_too_long(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        proof = rogue.proof()
        rogue.quic.open_stream()
        for index in range(PROOF_LENGTH - 1):
            rogue.quic.send(0, proof[index : index + 1], False)
            pipe.run(0.1, lambda: rogue.refused is not None)
        self.assert_refused(rogue, callee, pipe, CloseCode.TIMEOUT)
        self.assertApproximates(pipe.now, 5.0, 0.3)

    def test_silent_after_the_handshake(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        pipe.run(7.0, lambda: rogue.refused is not None)
        self.assert_refused(rogue, callee, pipe, CloseCode.TIMEOUT)
        self.assertEqual(callee.core.connection_ids, set())

    def test_too_much_before_the_proof(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.quic.open_stream()
        stream_id = rogue.quic.open_stream()
        rogue.quic.send(stream_id, bytes(100_000), False)
        self.assert_refused(rogue, callee, pipe, CloseCode.REFUSED)

    def test_too_many_pieces_before_the_proof(self) -> None:
        """A flood of the smallest pieces is cut off by their number."""
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.quic.open_stream()
        streams = [rogue.quic.open_stream() for _ in range(40)]
        for _ in range(40):
            for stream_id in streams:
                rogue.quic.send(stream_id, b"x", False)
                rogue.quic.send_datagram(b"")
            pipe.run(0.05)
        self.assert_refused(rogue, callee, pipe, CloseCode.REFUSED)

    def test_nothing_is_heard_before_the_proof(self) -> None:
        """Streams and datagrams that arrive before the proof are delivered after it, in order."""
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee)
        rogue.quic.open_stream()
        stream_id = rogue.quic.open_stream()
        rogue.quic.send(stream_id, encode_name("chat/1") + b"early", True)
        rogue.quic.send_datagram(b"early too")
        pipe.run(1.0)
        self.assert_unmoved(callee)
        rogue.quic.send(0, rogue.proof(), False)
        pipe.run(1.0)
        self.assertEqual(callee.events[0], Proved(CALLER.peer_id))
        self.assertIn(StreamOpened(stream_id, "chat/1"), callee.events)
        self.assertIn(StreamData(stream_id, b"early", True), callee.events)

    def test_raced_by_a_second_connection(self) -> None:
        """The first that proves itself is the link; the others are closed, and no more are taken."""
        callee = self.make_callee()
        rogue, _ = self.rogue(callee)
        caller = self.make_caller()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(1.0, lambda: callee.proved and caller.proved))
        for datagram in [data for target, data in pipe.sent if target == 0]:
            rogue.receive([datagram], pipe.now)
        rogue.timer(pipe.now + 5)
        self.assertIsNotNone(rogue.ended)
        late = RogueCaller(self.backend.client(pipe.now))
        callee.core.receive_datagrams(late.send(pipe.now), pipe.now)
        pipe.run(1.0)
        self.assertEqual(callee.core.connection_count, 1)
        caller.core.streams.send(caller.core.streams.open_stream("chat/1"), b"hello", True)
        pipe.run(1.0)
        self.assertEqual(callee.received, {4: bytearray(b"hello")})

    def test_at_most_four_unproved_connections(self) -> None:
        callee = self.make_callee()
        rogues = [RogueCaller(self.backend.client(0.0)) for _ in range(6)]
        for rogue in rogues:
            callee.core.receive_datagrams(rogue.send(0.0), 0.0)
        self.assertEqual(callee.core.connection_count, 4)
        # Their time runs out, and there is room for the rightful caller.
        for step in range(70):
            callee.timer(step / 10)
            callee.send(step / 10)
        self.assertEqual(callee.core.connection_count, 0)
        caller = self.make_caller()
        pipe = Pipe(caller, callee)
        pipe.now = 7.0
        caller.core.start(7.0)
        self.assertTrue(pipe.run(1.0, lambda: callee.proved))

    def test_no_initial_from_an_unchecked_address(self) -> None:
        callee, rogue = self.make_callee(), RogueCaller(self.backend.client(0.0))
        callee.core.receive_datagrams(rogue.send(0.0), 0.0, initial_allowed=False)
        self.assertEqual(callee.core.connection_ids, set())
        self.assertEqual(callee.core.datagrams_to_send(0.0), [])

    def test_wrong_certificate(self) -> None:
        """The caller sends nothing to a callee without the certificate that its answer named."""
        caller = self.make_caller(certificate_sha256=sha256(b"another").digest())
        callee = self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        pipe.run(2.0, lambda: caller.closed is not None)
        assert caller.closed is not None
        self.assertEqual((caller.closed.code, caller.closed.by_peer), (CloseCode.PROOF, False))
        self.assertFalse(caller.proved)
        pipe.run(1.0)
        self.assert_unmoved(callee)

    def test_a_refused_caller_is_told(self) -> None:
        caller = self.make_caller(identity=STRANGER)
        callee = self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(2.0, lambda: caller.closed is not None))
        assert caller.closed is not None
        self.assertEqual((caller.closed.code, caller.closed.by_peer), (CloseCode.PROOF, True))
        self.assertIn(CALLER.peer_id.short, caller.closed.reason)
        self.assert_unmoved(callee)

    def test_caller_needs_the_hash(self) -> None:
        with self.assertRaises(ValueError):
            self.make_caller(certificate_sha256=None)
        with self.assertRaises(ValueError):
            self.make_caller(certificate_sha256=b"short")

    def test_secrets_do_not_outlive_the_proof(self) -> None:
        self.backend = keeping = KeepingBackend(self.backend)
        self.connect()
        self.assertEqual(len(keeping.connections), 2)
        for connection in keeping.connections:
            self.assertIsNone(connection.configuration.secrets_log_file)
            with self.assertRaises(ProofError):
                connection.binding()

    def test_callee_makes_its_own_certificate(self) -> None:
        callee = self.make_callee(certificate=None)
        assert callee.core.certificate is not None
        caller = self.make_caller(certificate_sha256=callee.core.certificate.sha256)
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(1.0, lambda: callee.proved))


class AioquicProofTests(AioquicMixin, ProofTests):
    __test__ = True

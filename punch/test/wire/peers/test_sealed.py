"""Sealed offers, answers and candidates: only the recipient reads them, only the sender wrote them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PublicKey,
    Suite,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity, PeerID
from punch.test.strategies import IDENTITIES, SETTINGS, candidates, names, nat_profiles
from punch.wire import control, control_lines, strict_json
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate
from punch.wire.peers.nat_profile import MAX_PROFILES
from punch.wire.peers.prekey import check_prekey, private_prekey, signed_prekey
from punch.wire.peers.sealed import (
    ANSWER_LABEL,
    CANDIDATE_LABEL,
    OFFER_LABEL,
    AnswerBody,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_answer,
    open_offer,
    open_trickle,
    seal_answer,
    seal_offer,
    seal_trickle,
)

ALICE, BOB, EVE = IDENTITIES[:3]
REPLY_PRIVATE = X25519PrivateKey.from_private_bytes(sha256(b"reply key").digest())
REPLY_KEY = REPLY_PRIVATE.public_key().public_bytes_raw()
REPLY_KEM_PRIVATE = MLKEM768PrivateKey.from_seed_bytes(sha256(b"reply kem").digest() * 2)
REPLY_KEM = REPLY_KEM_PRIVATE.public_key().public_bytes_raw()
PREKEY = check_prekey(BOB.peer_id, signed_prekey(BOB))
CALL = "00112233445566778899aabbccddeeff"
CANDIDATE = Candidate.parse("1 1 udp 2130706431 192.168.1.2 50000 typ host")
OFFER = Offer("alice", "abcd", "p" * 22, (CANDIDATE,), REPLY_KEY)
ANSWER = AnswerBody("bob", "efgh", "q" * 22, (CANDIDATE,), bytes(range(32)))
TRICKLE = TrickledCandidates((CANDIDATE,), False)
DIGEST = sha256(b"an offer").digest()
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
]

ice_text = st.text("abcXYZ019+/", min_size=22, max_size=64)
LONGEST = Candidate.parse(
    "a" * 32 + " 256 udp 2147483647 2001:db8:1234:5678:9abc:def0:1234:5678 65535 typ srflx "
    "raddr 2001:db8:1234:5678:9abc:def0:1234:5679 rport 65535"
)
candidate_lists = st.lists(candidates, max_size=5).map(tuple) | st.just((LONGEST,) * MAX_CANDIDATES)
nat_lists = st.lists(nat_profiles, max_size=MAX_PROFILES).map(tuple)
offers = st.builds(
    Offer,
    names,
    ice_text,
    ice_text,
    candidate_lists,
    st.just(REPLY_KEY),
    st.integers(5, 1000),
    st.integers(0, 9),
    st.booleans(),
    nats=nat_lists,
    reply_kem=st.sampled_from([b"", REPLY_KEM]),
)
answers = st.builds(
    AnswerBody,
    names,
    ice_text,
    ice_text,
    candidate_lists,
    st.binary(min_size=32, max_size=32),
    st.integers(5, 1000),
    st.booleans(),
    nat_lists,
)


def forge(
    sender: Identity, to: PeerID, label: bytes, context: bytes, plain: bytes, key: X25519PrivateKey
) -> Envelope:
    """Seal any bytes, by the letter of docs/protocol.md and with no code of punch.wire.peers.sealed."""
    info = label + b"\0" + sender.peer_id.key + to.key + context
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
    body = suite.encrypt(plain, key.public_key(), info)
    signature = sender.private_key.sign(label + b"\0" + to.key + context + body)
    return Envelope(to, body, signature)


class RoundTripTests(SynchronousTestCase):
    """What is sealed comes out the same."""

    @SETTINGS
    @given(offers)
    def test_offer(self, offer: Offer) -> None:
        """An offer, by way of JSON, fits a control line."""
        envelope = seal_offer(ALICE, BOB.peer_id, offer)
        self.assertEqual(
            Envelope.from_json(strict_json.loads(strict_json.dumps(envelope.to_json()))), envelope
        )
        self.assertEqual(open_offer(BOB, ALICE.peer_id, envelope), offer)
        control_lines.encode(control.Incoming(CALL, ALICE.peer_id, "\U0001f600" * 64, envelope))

    @SETTINGS
    @given(answers)
    def test_answer(self, answer: AnswerBody) -> None:
        """An answer to the key of its offer."""
        envelope = seal_answer(BOB, ALICE.peer_id, REPLY_KEY, DIGEST, answer)
        opened = open_answer(ALICE.peer_id, REPLY_PRIVATE, BOB.peer_id, DIGEST, envelope)
        self.assertEqual(opened, answer)

    @SETTINGS
    @given(candidate_lists, st.booleans(), st.integers(0, 2**32 - 1))
    def test_trickle(self, found: tuple[Candidate, ...], complete: bool, sequence: int) -> None:
        """Candidates, from the caller and from the called."""
        trickle = TrickledCandidates(found, complete)
        envelope = seal_trickle(ALICE, BOB.peer_id, BOB.peer_id.x25519(), CALL, DIGEST, sequence, trickle)
        self.assertEqual(
            open_trickle(BOB.peer_id, BOB.x25519(), ALICE.peer_id, CALL, DIGEST, sequence, envelope), trickle
        )
        envelope = seal_trickle(
            BOB, ALICE.peer_id, REPLY_PRIVATE.public_key(), CALL, DIGEST, sequence, trickle
        )
        self.assertEqual(
            open_trickle(ALICE.peer_id, REPLY_PRIVATE, BOB.peer_id, CALL, DIGEST, sequence, envelope), trickle
        )

    @SETTINGS
    @given(offers)
    def test_hybrid_offer(self, offer: Offer) -> None:
        """The same to a prekey as well; the longest one with a reply key of ML-KEM still fits a line."""
        envelope = seal_offer(ALICE, BOB.peer_id, offer, prekey=PREKEY)
        self.assertTrue(envelope.hybrid)
        self.assertEqual(open_offer(BOB, ALICE.peer_id, envelope), offer)
        line = control_lines.encode(control.Incoming(CALL, ALICE.peer_id, "\U0001f600" * 64, envelope))
        self.assertLessEqual(len(line), control_lines.MAX_LINE)

    @SETTINGS
    @given(answers)
    def test_hybrid_answer(self, answer: AnswerBody) -> None:
        """An answer to both keys of its offer."""
        envelope = seal_answer(BOB, ALICE.peer_id, REPLY_KEY, DIGEST, answer, reply_kem=REPLY_KEM)
        self.assertTrue(envelope.hybrid)
        opened = open_answer(
            ALICE.peer_id, REPLY_PRIVATE, BOB.peer_id, DIGEST, envelope, reply_kem=REPLY_KEM_PRIVATE
        )
        self.assertEqual(opened, answer)

    def test_hybrid_trickle(self) -> None:
        """Candidates to the prekey."""
        envelope = seal_trickle(
            ALICE, BOB.peer_id, BOB.peer_id.x25519(), CALL, DIGEST, 3, TRICKLE, kem=PREKEY
        )
        opened = open_trickle(
            BOB.peer_id, BOB.x25519(), ALICE.peer_id, CALL, DIGEST, 3, envelope, kem=private_prekey(BOB)
        )
        self.assertEqual((envelope.hybrid, opened), (True, TRICKLE))

    def test_sizes_say_little(self) -> None:
        """Bodies come in steps of 256 bytes: one candidate more or a longer name doesn't show."""
        sizes = {
            len(seal_offer(ALICE, BOB.peer_id, replace(OFFER, name="a" * length)).body)
            for length in range(1, 65)
        }
        self.assertLessEqual(len(sizes), 2)
        self.assertEqual({(size - 48) % 256 for size in sizes}, {0})

    def test_nothing_to_be_read(self) -> None:
        """No part of an offer stands in its envelope, and no two envelopes of one offer are alike."""
        first, second = (seal_offer(ALICE, BOB.peer_id, OFFER) for _ in range(2))
        for secret in (b"192.168.1.2", b"alice", OFFER.password.encode(), REPLY_KEY, ALICE.peer_id.key):
            self.assertNotIn(secret, first.body)
        self.assertNotEqual(first.body[:32], second.body[:32])
        self.assertNotEqual(first.digest(), second.digest())


class HybridTests(SynchronousTestCase):
    """To open what was sealed to two keys, it takes both of them."""

    def test_needs_the_identity_key(self) -> None:
        """Whoever has somebody seal an offer to its own prekey can't open that all the same."""
        eves = check_prekey(EVE.peer_id, signed_prekey(EVE))
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER, prekey=eves)
        self.assertRaises(SealError, open_offer, BOB, ALICE.peer_id, envelope)
        for key in (EVE.x25519(), REPLY_PRIVATE):
            self.assertRaises(
                SealError,
                open_trickle,
                *(BOB.peer_id, key, ALICE.peer_id, CALL, DIGEST, 0),
                seal_trickle(ALICE, BOB.peer_id, BOB.peer_id.x25519(), CALL, DIGEST, 0, TRICKLE, kem=eves),
                kem=private_prekey(EVE),
            )

    def test_needs_the_prekey(self) -> None:
        """The X25519 key alone, which a quantum computer could find, does not open it."""
        envelope = seal_answer(BOB, ALICE.peer_id, REPLY_KEY, DIGEST, ANSWER, reply_kem=REPLY_KEM)
        for kem in (None, private_prekey(ALICE)):
            self.assertRaises(
                SealError,
                open_answer,
                *(ALICE.peer_id, REPLY_PRIVATE, BOB.peer_id, DIGEST, envelope),
                reply_kem=kem,
            )

    def test_no_key(self) -> None:
        """What can't be a key of ML-KEM is refused before anything is sealed."""
        for kem in (b"short", b"\xff" * len(PREKEY)):
            self.assertRaises(SealError, seal_offer, ALICE, BOB.peer_id, OFFER, prekey=kem)

    def test_altered(self) -> None:
        """A changed byte anywhere in the body, also in what encapsulates the keys."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER, prekey=PREKEY)
        for position in (0, 1087, 1088, 1119, 1120, len(envelope.body) - 1):
            body = bytearray(envelope.body)
            body[position] ^= 1
            signature = ALICE.sign(OFFER_LABEL, BOB.peer_id.key + bytes(body))
            altered = Envelope(BOB.peer_id, bytes(body), signature)
            self.assertRaises(SealError, open_offer, BOB, ALICE.peer_id, altered)

    def test_sizes(self) -> None:
        """The length tells a hybrid body from another one, and nothing else."""
        sizes = {len(seal_offer(ALICE, BOB.peer_id, OFFER, prekey=PREKEY).body) % 256 for _ in range(3)}
        self.assertEqual(sizes, {112})
        self.assertFalse(seal_offer(ALICE, BOB.peer_id, OFFER).hybrid)

    def test_made_by_another_program(self) -> None:
        """By the letter of docs/protocol.md, with no code of punch.wire.peers.sealed."""
        plain = seal_plain({"reply_kem": urlsafe_b64encode(REPLY_KEM).rstrip(b"=").decode()})
        info = OFFER_LABEL + b"\0" + ALICE.peer_id.key + BOB.peer_id.key
        key = MLKEM768X25519PublicKey(private_prekey(BOB).public_key(), BOB.peer_id.x25519())
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        body = suite.encrypt(plain, key, info)
        signature = ALICE.private_key.sign(OFFER_LABEL + b"\0" + BOB.peer_id.key + body)
        opened = open_offer(BOB, ALICE.peer_id, Envelope(BOB.peer_id, body, signature))
        self.assertEqual(opened, replace(OFFER, reply_kem=REPLY_KEM))


def seal_plain(more: dict[str, object]) -> bytes:
    """The JSON of `OFFER` with further fields, padded."""
    value = {
        "name": "alice",
        "ufrag": "abcd",
        "password": "p" * 22,
        "candidates": [str(CANDIDATE)],
        "reply_key": urlsafe_b64encode(REPLY_KEY).rstrip(b"=").decode(),
        **more,
    }
    plain = json.dumps(value).encode()
    return plain + b" " * (-len(plain) % 256)


class WireFormatTests(SynchronousTestCase):
    """The bytes that docs/protocol.md describes."""

    def test_made_by_another_program(self) -> None:
        """An offer that was sealed without our code is opened."""
        plain = json.dumps(
            {
                "name": "alice",
                "ufrag": "abcd",
                "password": "p" * 22,
                "candidates": ["1 1 udp 2130706431 192.168.1.2 50000 typ host"],
                "reply_key": urlsafe_b64encode(REPLY_KEY).rstrip(b"=").decode(),
            }
        ).encode()
        plain += b" " * (512 - len(plain))
        envelope = forge(ALICE, BOB.peer_id, b"punch/1 offer", b"", plain, BOB.x25519())
        self.assertEqual(open_offer(BOB, ALICE.peer_id, envelope), OFFER)

    def test_read_by_another_program(self) -> None:
        """An offer of ours, checked and opened without our code."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER)
        Ed25519PublicKey.from_public_bytes(ALICE.peer_id.key).verify(
            envelope.sig, b"punch/1 offer\0" + BOB.peer_id.key + envelope.body
        )
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        info = b"punch/1 offer\0" + ALICE.peer_id.key + BOB.peer_id.key
        plain = suite.decrypt(envelope.body, BOB.x25519(), info)
        self.assertEqual(len(plain) % 256, 0)
        self.assertEqual(
            strict_json.loads(plain),
            {
                "name": "alice",
                "ufrag": "abcd",
                "password": "p" * 22,
                "candidates": [str(CANDIDATE)],
                "pacing": 50,
                "complete": False,
                "reply_key": urlsafe_b64encode(REPLY_KEY).rstrip(b"=").decode(),
                "generation": 0,
            },
        )

    def test_contexts(self) -> None:
        """Answers are bound to their offer, trickled candidates to call, offer and number."""
        answer = seal_answer(BOB, ALICE.peer_id, REPLY_KEY, DIGEST, ANSWER)
        self.assertTrue(
            BOB.peer_id.verify(b"punch/1 answer", ALICE.peer_id.key + DIGEST + answer.body, answer.sig)
        )
        trickle = seal_trickle(ALICE, BOB.peer_id, BOB.peer_id.x25519(), CALL, DIGEST, 5, TRICKLE)
        signed = BOB.peer_id.key + bytes.fromhex(CALL) + DIGEST + b"\0\0\0\5" + trickle.body
        self.assertTrue(ALICE.peer_id.verify(b"punch/1 candidate", signed, trickle.sig))

    def test_digest(self) -> None:
        """The digest covers recipient, body and signature."""
        envelope = Envelope(BOB.peer_id, b"body", b"sig")
        self.assertEqual(envelope.digest(), sha256(BOB.peer_id.key + b"body" + b"sig").digest())


class RefusedTests(SynchronousTestCase):
    """What a rendezvous, or anyone else on the way, can try."""

    def offer_refused(
        self, envelope: Envelope, because: str, me: Identity = BOB, sender: Identity = ALICE
    ) -> None:
        """The offer isn't opened, and the sentence says why."""
        message = str(self.assertRaises(SealError, open_offer, me, sender.peer_id, envelope))
        self.assertIn(because, message)
        self.assertTrue(message.isprintable() and message.endswith("."), message)

    def test_changed(self) -> None:
        """An envelope with any bit changed is refused."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER)
        for position in (0, 31, 32, 100, len(envelope.body) - 1):
            body = bytearray(envelope.body)
            body[position] ^= 1
            self.offer_refused(replace(envelope, body=bytes(body)), "signature")
        for position in range(64):
            sig = bytearray(envelope.sig)
            sig[position] ^= 1
            self.offer_refused(replace(envelope, sig=bytes(sig)), "signature")

    def test_redirected(self) -> None:
        """An envelope that is sent to another recipient can't be opened, with or without its name changed."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER)
        self.offer_refused(envelope, "meant for another peer", me=EVE)
        self.offer_refused(replace(envelope, to=EVE.peer_id), "signature", me=EVE)

    def test_claimed_by_another(self) -> None:
        """An envelope that is said to be from somebody else, or is signed by somebody else, is refused."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER)
        self.offer_refused(envelope, "signature", sender=EVE)
        stolen = replace(envelope, sig=EVE.sign(OFFER_LABEL, BOB.peer_id.key + envelope.body))
        self.offer_refused(stolen, "not sealed for this use", sender=EVE)

    def test_reflected(self) -> None:
        """An offer that is sent back to its sender is refused."""
        envelope = seal_offer(ALICE, BOB.peer_id, OFFER)
        self.offer_refused(envelope, "meant for another peer", me=ALICE, sender=BOB)

    def test_used_for_something_else(self) -> None:
        """Refused: an offer as an answer, answers to other offers, candidates of another call or number."""
        key = REPLY_PRIVATE
        answer = seal_answer(BOB, ALICE.peer_id, REPLY_KEY, DIGEST, ANSWER)
        self.assertRaises(SealError, open_answer, ALICE.peer_id, key, BOB.peer_id, bytes(32), answer)
        self.assertRaises(SealError, open_answer, ALICE.peer_id, BOB.x25519(), BOB.peer_id, DIGEST, answer)
        self.assertRaises(SealError, open_offer, ALICE, BOB.peer_id, answer)
        trickle = seal_trickle(BOB, ALICE.peer_id, key.public_key(), CALL, DIGEST, 1, TRICKLE)
        for call, digest, sequence in (
            (CALL[::-1], DIGEST, 1),
            (CALL, bytes(32), 1),
            (CALL, DIGEST, 0),
            (CALL, DIGEST, 2),
        ):
            self.assertRaises(
                SealError, open_trickle, ALICE.peer_id, key, BOB.peer_id, call, digest, sequence, trickle
            )

    def test_labels_differ(self) -> None:
        """The three uses sign three labels."""
        self.assertEqual(len({OFFER_LABEL, ANSWER_LABEL, CANDIDATE_LABEL}), 3)

    def test_weak_reply_keys(self) -> None:
        """An answer isn't sealed to a key that gives everybody the same secret."""
        for key in LOW_ORDER:
            self.assertRaises(SealError, seal_answer, BOB, ALICE.peer_id, key, DIGEST, ANSWER)
        self.assertRaises(SealError, seal_answer, BOB, ALICE.peer_id, bytes(31), DIGEST, ANSWER)

    def test_weak_recipient(self) -> None:
        """An offer can't be sealed to an ID that is no usable key."""
        self.assertRaises(SealError, seal_offer, ALICE, PeerID(bytes(32)), OFFER)

    def test_nonsense_inside(self) -> None:
        """Properly sealed and signed, and wrong: even a known peer can't make us trip."""
        good = strict_json.loads(
            Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305).decrypt(
                seal_offer(ALICE, BOB.peer_id, OFFER).body,
                BOB.x25519(),
                b"punch/1 offer\0" + ALICE.peer_id.key + BOB.peer_id.key,
            )
        )
        wrong: list[tuple[str, object, str]] = [
            ("name", "\x1b[2J", "name has a character"),
            ("name", None, "name must be a string"),
            ("ufrag", "abc", "ufrag must be"),
            ("ufrag", "ab:cd", "ufrag must be"),
            ("password", "p" * 21, "password must be"),
            ("password", "p" * 257, "password must be"),
            ("candidates", "x", "candidates must be an array"),
            ("candidates", [1], "candidates [0] must be a string"),
            ("candidates", ["x"], "candidates [0] is wrong"),
            ("candidates", [str(CANDIDATE)] * 33, "more than 32"),
            ("reply_key", "AAAA", "reply_key must have 32 bytes"),
            ("pacing", 4, "pacing must be 5 to 1000"),
            ("pacing", 50.0, "pacing must be an integer"),
            ("generation", -1, "generation must be"),
            ("complete", 1, "complete must be true or false"),
        ]
        for key, value, because in wrong:
            plain = strict_json.dumps({**good, key: value})
            self.offer_refused(forge(ALICE, BOB.peer_id, OFFER_LABEL, b"", plain, BOB.x25519()), because)
        for key in ("name", "ufrag", "password", "candidates", "reply_key"):
            plain = strict_json.dumps({other: good[other] for other in good if other != key})
            envelope = forge(ALICE, BOB.peer_id, OFFER_LABEL, b"", plain, BOB.x25519())
            self.offer_refused(envelope, f"{key} is missing")
        for plain in (b"", b"[]", b"\xff", b"[" * 9000, b'{"name":1,"name":2}'):
            self.offer_refused(
                forge(ALICE, BOB.peer_id, OFFER_LABEL, b"", plain, BOB.x25519()), "JSON object"
            )

    def test_candidates_of_other_kinds(self) -> None:
        """They are left out, as RFC 8839 wants, and the others kept."""
        texts = [
            "1 1 tcp 1 192.0.2.1 9 typ host tcptype active",
            "1 1 udp 1 3f1c.local 5000 typ host",
            str(CANDIDATE),
        ]
        plain = strict_json.dumps({"candidates": texts, "future": 1})
        context = bytes.fromhex(CALL) + DIGEST + bytes(4)
        envelope = forge(ALICE, BOB.peer_id, CANDIDATE_LABEL, context, plain, BOB.x25519())
        opened = open_trickle(BOB.peer_id, BOB.x25519(), ALICE.peer_id, CALL, DIGEST, 0, envelope)
        self.assertEqual(opened, TrickledCandidates((CANDIDATE,), False))

    def test_short_bodies(self) -> None:
        """A body shorter than a sealed one can be, rightly signed."""
        for body in (b"", bytes(31), bytes(32), bytes(48)):
            envelope = Envelope(BOB.peer_id, body, ALICE.sign(OFFER_LABEL, BOB.peer_id.key + body))
            self.offer_refused(envelope, "not sealed for this use")

    def test_too_much(self) -> None:
        """33 candidates, or a name that can't be used, are not sealed."""
        many = (CANDIDATE,) * (MAX_CANDIDATES + 1)
        self.assertRaises(SealError, seal_offer, ALICE, BOB.peer_id, replace(OFFER, candidates=many))
        self.assertRaises(SealError, seal_offer, ALICE, BOB.peer_id, replace(OFFER, name="\x1b"))
        self.assertRaises(
            SealError, seal_trickle, ALICE, BOB.peer_id, BOB.peer_id.x25519(), CALL, DIGEST, 0,
            TrickledCandidates(many, True),
        )  # fmt: skip

"""
Offers, answers and trickled candidates, sealed to the recipient and signed by the sender.

Sealing is HPKE in base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305.
Where the sender has a key of ML-KEM-768 of the recipient, the KEM is MLKEM768-X25519 (draft-ietf-hpke-pq),
and the body is *hybrid*: to open it takes both private keys. Such a key is the callee's prekey
(`punch.wire.peers.prekey`), or came with the offer.

The plaintext is a JSON object, padded with spaces to a multiple of 256 bytes to hide its size. The signature
is over `label ‖ 0 ‖ recipient's key ‖ context ‖ body`. HPKE's `info` is `label ‖ 0 ‖ sender's key ‖
recipient's key ‖ context`, so nobody can sign a body that someone else sealed as their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from punch.identity import Identity, PeerID, PeerIDError
from punch.wire import strict_json
from punch.wire.fields import (
    FieldError,
    Reader,
    binary,
    boolean,
    check_name,
    field,
    integer,
    mapping,
    matching,
    name,
    peer_id,
    to_base64,
)
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate, read_candidates
from punch.wire.peers.nat_profile import NatProfile, read_profiles, write_profiles
from punch.wire.peers.prekey import KEY_SIZE, PrekeyError, private_prekey, public_kem_key

MAX_BODY = 10240
"""The largest sealed body in bytes: with base64, keys and signature it fits into a control line."""
PADDING = 256
"""Messages are padded to a multiple of so many bytes before they are sealed."""

OFFER_LABEL = b"punch/1 offer"
ANSWER_LABEL = b"punch/1 answer"
CANDIDATE_LABEL = b"punch/1 candidate"

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_OVERHEAD = 32 + 16  # the encapsulated key and the tag
_HYBRID_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_HYBRID_OVERHEAD = 1088 + _OVERHEAD

_LINK_SIZE = 32
MAX_GENERATION = 2**31 - 1
"""The largest number of an ICE generation."""

MAX_TIME = 2**53 - 1
"""The latest time of an offer, in milliseconds since 1970."""
CHALLENGE_SIZE = 16
"""The size of a challenge in bytes."""

read_ufrag = matching("[A-Za-z0-9+/]{4,256}", "4 to 256 ICE characters")
read_password = matching("[A-Za-z0-9+/]{22,256}", "22 to 256 ICE characters")
read_pacing = integer(5, 1000)
read_generation = integer(0, MAX_GENERATION)
read_time = integer(0, MAX_TIME)
read_challenge = binary(CHALLENGE_SIZE, CHALLENGE_SIZE)


class SealError(Exception):
    """
    A sealed message can't be opened, is not signed by its sender, or is malformed; or a message can't be
    sealed.
    """


@dataclass(frozen=True)
class Envelope:
    """
    A sealed message, which the rendezvous can't read. `sig` is the sender's, over the exact bytes of `body`.
    """

    to: PeerID
    body: bytes
    sig: bytes

    def to_json(self) -> dict[str, str]:
        """The envelope as a value for `strict_json.dumps`."""
        return {"to": str(self.to), "body": to_base64(self.body), "sig": to_base64(self.sig)}

    @classmethod
    def from_json(cls, value: object, to: Reader[PeerID] = peer_id) -> Envelope:
        """
        Read an envelope.

        :param to: reads the recipient.
        :raise FieldError: the value is not an envelope.
        """
        fields = mapping(value)
        return cls(
            field(fields, "to", to),
            field(fields, "body", binary(_OVERHEAD + PADDING, MAX_BODY)),
            field(fields, "sig", binary(64, 64)),
        )

    @property
    def hybrid(self) -> bool:
        """Whether the body was sealed with MLKEM768-X25519, which its length shows."""
        return len(self.body) % PADDING == _HYBRID_OVERHEAD % PADDING

    def digest(self) -> bytes:
        """SHA-256 over recipient, body and signature; answers and link proofs are bound to it."""
        return sha256(self.to.key + self.body + self.sig).digest()


@dataclass(frozen=True)
class Offer:
    """
    The offer of a caller to the called peer.

    `reply_key` is a fresh X25519 public key (32 bytes): what comes back is sealed to it, and can't be
    opened later by someone who gets the identity key. `reply_kem` is a fresh ML-KEM-768 public key (1,184
    bytes) to which it is sealed as well; empty in offers of old releases. `complete`: no more candidates will
    be trickled.

    `generation` above 0: an ICE restart for a live link, whose own offer had the digest `link`.

    `time`: when it was made by the caller's clock, in milliseconds since 1970; None in offers of old
    releases. `challenge`: what the callee asked for, because it could not tell an earlier offer from a copy.

    `nats`: what the caller knows about its NATs; empty in offers of old releases.
    """

    name: str
    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]
    reply_key: bytes
    pacing_ms: int = 50
    generation: int = 0
    complete: bool = False
    link: bytes = b""
    time: int | None = None
    challenge: bytes = b""
    nats: tuple[NatProfile, ...] = ()
    reply_kem: bytes = b""


@dataclass(frozen=True)
class AnswerBody:
    """
    The called peer's answer. `certificate_sha256` is the hash of its link certificate in DER form, and `nats`
    is as in an offer.
    """

    name: str
    ufrag: str
    password: str
    candidates: tuple[Candidate, ...]
    certificate_sha256: bytes
    pacing_ms: int = 50
    complete: bool = False
    nats: tuple[NatProfile, ...] = ()


@dataclass(frozen=True)
class TrickledCandidates:
    """
    Candidates that were found later (RFC 8838). `complete`: no more follow.

    `challenge` comes from a callee that refuses the offer; the caller may call again with it.
    """

    candidates: tuple[Candidate, ...]
    complete: bool
    challenge: bytes = b""


def seal_offer(identity: Identity, to: PeerID, offer: Offer, *, prekey: bytes = b"") -> Envelope:
    """
    Seal an offer to the called peer's identity key, and to its prekey.

    :param prekey: its public key (`check_prekey`); empty if it is not known.
    :raise SealError: the offer or the recipient's key is not usable.
    """
    value = {
        **_common_to_json(offer),
        "reply_key": to_base64(offer.reply_key),
        "generation": offer.generation,
    }
    if offer.link:
        value["link"] = to_base64(offer.link)
    if offer.time is not None:
        value["time"] = offer.time
    if offer.challenge:
        value["challenge"] = to_base64(offer.challenge)
    if offer.reply_kem:
        value["reply_kem"] = to_base64(offer.reply_kem)
    return _seal(identity, to, _key_of(to), prekey, OFFER_LABEL, b"", value)


def open_offer(identity: Identity, sender: PeerID, envelope: Envelope) -> Offer:
    """
    Open an offer.

    :raise SealError: it is not a valid offer from `sender` to `identity`.
    """
    kem = prekey_for(identity, envelope)
    fields = _open(identity.peer_id, identity.x25519(), kem, sender, OFFER_LABEL, b"", envelope)
    try:
        return Offer(
            name=field(fields, "name", name),
            ufrag=field(fields, "ufrag", read_ufrag),
            password=field(fields, "password", read_password),
            candidates=field(fields, "candidates", read_candidates),
            reply_key=field(fields, "reply_key", binary(32, 32)),
            pacing_ms=field(fields, "pacing", read_pacing, 50),
            generation=field(fields, "generation", read_generation, 0),
            complete=field(fields, "complete", boolean, False),
            link=field(fields, "link", binary(_LINK_SIZE, _LINK_SIZE), b""),
            time=field(fields, "time", read_time, None),
            challenge=field(fields, "challenge", read_challenge, b""),
            nats=field(fields, "nats", read_profiles, ()),
            reply_kem=field(fields, "reply_kem", binary(KEY_SIZE, KEY_SIZE), b""),
        )
    except FieldError as error:
        raise SealError(f"The offer makes no sense: {error}.") from error


def seal_answer(
    identity: Identity,
    to: PeerID,
    reply_key: bytes,
    offer_digest: bytes,
    answer: AnswerBody,
    *,
    reply_kem: bytes = b"",
) -> Envelope:
    """
    Seal an answer to the keys that came with the offer.

    :param reply_kem: the key of ML-KEM-768; empty: to the other one only.

    :raise SealError: the answer or the key is not usable.
    """
    value = {**_common_to_json(answer), "certificate": to_base64(answer.certificate_sha256)}
    try:
        key = X25519PublicKey.from_public_bytes(reply_key)
    except ValueError as error:
        raise SealError("The offer's reply key is no key.") from error
    return _seal(identity, to, key, reply_kem, ANSWER_LABEL, offer_digest, value)


def open_answer(
    me: PeerID,
    reply_private: X25519PrivateKey,
    sender: PeerID,
    offer_digest: bytes,
    envelope: Envelope,
    *,
    reply_kem: MLKEM768PrivateKey | None = None,
) -> AnswerBody:
    """
    Open an answer.

    :param reply_kem: the private key of the offer's `reply_kem`; None if it had none.

    :raise SealError: it is not a valid answer from `sender` to this offer of ours.
    """
    fields = _open(me, reply_private, reply_kem, sender, ANSWER_LABEL, offer_digest, envelope)
    try:
        return AnswerBody(
            name=field(fields, "name", name),
            ufrag=field(fields, "ufrag", read_ufrag),
            password=field(fields, "password", read_password),
            candidates=field(fields, "candidates", read_candidates),
            certificate_sha256=field(fields, "certificate", binary(32, 32)),
            pacing_ms=field(fields, "pacing", read_pacing, 50),
            complete=field(fields, "complete", boolean, False),
            nats=field(fields, "nats", read_profiles, ()),
        )
    except FieldError as error:
        raise SealError(f"The answer makes no sense: {error}.") from error


def seal_trickle(
    identity: Identity,
    to: PeerID,
    recipient_key: X25519PublicKey,
    call: str,
    offer_digest: bytes,
    sequence: int,
    trickle: TrickledCandidates,
    *,
    kem: bytes = b"",
) -> Envelope:
    """
    Seal later candidates to the called peer's identity key or to the caller's reply key.

    :param kem: the called peer's prekey or the offer's `reply_kem`; empty: to the other key only.
    :param sequence: the number of such messages that this side has sent before in this call.
    :raise SealError: the candidates or the key are not usable.
    """
    context = _trickle_context(call, offer_digest, sequence)
    value: dict[str, Any] = {
        "candidates": write_candidates(trickle.candidates),
        "complete": trickle.complete,
    }
    if trickle.challenge:
        value["challenge"] = to_base64(trickle.challenge)
    return _seal(identity, to, recipient_key, kem, CANDIDATE_LABEL, context, value)


def open_trickle(
    me: PeerID,
    recipient_private: X25519PrivateKey,
    sender: PeerID,
    call: str,
    offer_digest: bytes,
    sequence: int,
    envelope: Envelope,
    *,
    kem: MLKEM768PrivateKey | None = None,
) -> TrickledCandidates:
    """
    Open a trickled message.

    :param kem: the private key of the prekey or of the offer's `reply_kem`; None if there is none.
    :raise SealError: it is not the message with this number from `sender` in this call.
    """
    context = _trickle_context(call, offer_digest, sequence)
    fields = _open(me, recipient_private, kem, sender, CANDIDATE_LABEL, context, envelope)
    try:
        return TrickledCandidates(
            candidates=field(fields, "candidates", read_candidates),
            complete=field(fields, "complete", boolean, False),
            challenge=field(fields, "challenge", read_challenge, b""),
        )
    except FieldError as error:
        raise SealError(f"The candidates make no sense: {error}.") from error


def prekey_for(identity: Identity, envelope: Envelope) -> MLKEM768PrivateKey | None:
    """
    Return the private prekey of an identity if it is needed to open an envelope.

    :raise SealError: it is needed, and the library does not have ML-KEM.
    """
    if not envelope.hybrid:
        return None
    try:
        return private_prekey(identity)
    except UnsupportedAlgorithm as error:
        raise SealError("It is sealed with ML-KEM, which the cryptography library here lacks.") from error


def _trickle_context(call: str, offer_digest: bytes, sequence: int) -> bytes:
    return bytes.fromhex(call) + offer_digest + sequence.to_bytes(4, "big")


def _key_of(peer: PeerID) -> X25519PublicKey:
    try:
        return peer.x25519()
    except PeerIDError as error:
        raise SealError(str(error)) from error


def _seal(
    identity: Identity,
    to: PeerID,
    key: X25519PublicKey,
    kem: bytes,
    label: bytes,
    context: bytes,
    value: Mapping[str, Any],
) -> Envelope:
    plain = strict_json.dumps(value)
    plain += b" " * (-len(plain) % PADDING)
    if len(plain) + (_HYBRID_OVERHEAD if kem else _OVERHEAD) > MAX_BODY:
        raise SealError(f"There is too much to seal: {len(plain)} bytes.")
    info = _info(label, identity.peer_id, to, context)
    try:
        if kem:
            hybrid_key = MLKEM768X25519PublicKey(public_kem_key(kem), key)
            body = _HYBRID_SUITE.encrypt(plain, hybrid_key, info)
        else:
            body = _SUITE.encrypt(plain, key, info)
    except PrekeyError as error:
        raise SealError(str(error)) from error
    except ValueError as error:
        raise SealError("The recipient's key is of small order: nothing can be sealed to it.") from error
    return Envelope(to, body, identity.sign(label, to.key + context + body))


def _open(
    me: PeerID,
    private_key: X25519PrivateKey,
    kem: MLKEM768PrivateKey | None,
    sender: PeerID,
    label: bytes,
    context: bytes,
    envelope: Envelope,
) -> Mapping[str, Any]:
    if envelope.to != me:
        raise SealError("It is meant for another peer.")
    if not sender.verify(label, me.key + context + envelope.body, envelope.sig):
        raise SealError("Its signature is not by the sender.")
    info = _info(label, sender, me, context)
    try:
        if not envelope.hybrid:
            plain = _SUITE.decrypt(envelope.body, private_key, info)
        elif kem is not None:
            hybrid_key = MLKEM768X25519PrivateKey(kem, private_key)
            plain = _HYBRID_SUITE.decrypt(envelope.body, hybrid_key, info)
        else:
            raise SealError("It is sealed to a key of ML-KEM-768, and there is none.")
    except (InvalidTag, ValueError) as error:
        raise SealError("It was not sealed for this use.") from error
    try:
        return mapping(strict_json.loads(plain))
    except ValueError as error:
        raise SealError(f"What was sealed is not a JSON object: {error}.") from error


def _info(label: bytes, sender: PeerID, to: PeerID, context: bytes) -> bytes:
    return label + b"\0" + sender.key + to.key + context


def _common_to_json(value: Offer | AnswerBody) -> dict[str, Any]:
    try:
        check_name(value.name)
    except ValueError as error:
        raise SealError(str(error)) from error
    common: dict[str, Any] = {
        "name": value.name,
        "ufrag": value.ufrag,
        "password": value.password,
        "candidates": write_candidates(value.candidates),
        "pacing": value.pacing_ms,
        "complete": value.complete,
    }
    if value.nats:
        common["nats"] = write_profiles(value.nats)
    return common


def write_candidates(candidates: tuple[Candidate, ...]) -> list[str]:
    """
    The candidates as a JSON value.

    :raise SealError: there are too many for one message.
    """
    if len(candidates) > MAX_CANDIDATES:
        raise SealError(
            f"There are {len(candidates)} candidates; at most {MAX_CANDIDATES} go into one message."
        )
    return [str(candidate) for candidate in candidates]

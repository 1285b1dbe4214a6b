"""
What one side of a call tells the other about its ICE agent, in the terms of offers and answers
(`Description`), and the candidates that follow (RFC 8838), sealed and numbered in each direction
(`TrickleSender`, `TrickleReceiver`). The sequence number is signed with them: messages may be missing, but
not out of order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from punch.identity import Identity, PeerID
from punch.node.calls.offer_freshness import SeenEnvelopes
from punch.wire.peers.candidate import MAX_CANDIDATES, Candidate
from punch.wire.peers.nat_profile import NatProfile
from punch.wire.peers.sealed import (
    AnswerBody,
    Envelope,
    Offer,
    SealError,
    TrickledCandidates,
    open_trickle,
    prekey_for,
    seal_trickle,
)

MAX_TRICKLES = 64
"""Trickled messages accepted from the other side in one call."""
MAX_GAP = 8
"""
How many sequence numbers are tried for a trickled message: up to one less may be missing before it, for
example after a lost control connection.
"""


@dataclass(frozen=True)
class Description:
    """
    An ICE agent as its side describes it.

    :ivar name: the name of its side.
    :ivar ufrag: its user name fragment.
    :ivar password: its password, for the integrity of checks that it receives.
    :ivar pacing_ms: its Ta (RFC 8445, section 14), in milliseconds.
    :ivar candidates: its candidates.
    :ivar complete: it will have no others.
    :ivar generation: above 0, it is for an ICE restart of the live link whose offer had the digest `link`.
    :ivar time: as in `Offer`, and so are `challenge` and `nats`.
    """

    name: str
    ufrag: str
    password: str
    pacing_ms: int
    candidates: tuple[Candidate, ...] = ()
    complete: bool = False
    generation: int = 0
    link: bytes = b""
    time: int | None = None
    challenge: bytes = b""
    nats: tuple[NatProfile, ...] = ()

    @classmethod
    def received(
        cls, body: Offer | AnswerBody, candidates: Sequence[Candidate], complete: bool
    ) -> Description:
        """
        Return the description in the other side's offer or answer.

        :param candidates: those in it and those trickled since.
        :param complete: no more will be trickled.
        """
        return cls(
            body.name,
            body.ufrag,
            body.password,
            body.pacing_ms,
            tuple(candidates),
            complete,
            nats=body.nats,
        )

    def offer(self, candidates: tuple[Candidate, ...], reply_key: bytes, reply_kem: bytes) -> Offer:
        """
        Return an offer with this description.

        :param candidates: those of the description that may be sent.
        :param reply_key, reply_kem: as in `Offer`.
        """
        return Offer(
            self.name,
            self.ufrag,
            self.password,
            candidates,
            reply_key,
            self.pacing_ms,
            self.generation,
            self.complete,
            self.link,
            self.time,
            self.challenge,
            self.nats,
            reply_kem,
        )

    def answer(self, candidates: tuple[Candidate, ...], certificate_sha256: bytes) -> AnswerBody:
        """
        Return an answer with this description.

        :param candidates: those of the description that may be sent.
        :param certificate_sha256: the hash of the link certificate of this side.
        """
        return AnswerBody(
            self.name,
            self.ufrag,
            self.password,
            candidates,
            certificate_sha256,
            self.pacing_ms,
            self.complete,
            self.nats,
        )


class TrickleSender:
    """Seals candidates of ours: at most `MAX_CANDIDATES`, those of the offer or answer included."""

    def __init__(self, identity: Identity, peer: PeerID, call_id: str) -> None:
        self._identity = identity
        self._peer = peer
        self._call_id = call_id
        self._candidates = 0
        self._messages = 0

    def take(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Return as many of these as may still be sent, and count them."""
        taken = tuple(candidates)[: MAX_CANDIDATES - self._candidates]
        self._candidates += len(taken)
        return taken

    def seal(
        self, trickle: TrickledCandidates, offer_digest: bytes, key: X25519PublicKey, kem: bytes
    ) -> Envelope:
        """
        Seal the next message.

        :param key, kem: the other side's keys; `kem` is empty if it has none of ML-KEM-768.
        """
        sequence, self._messages = self._messages, self._messages + 1
        return seal_trickle(
            self._identity, self._peer, key, self._call_id, offer_digest, sequence, trickle, kem=kem
        )


class TrickleReceiver:
    """
    Opens messages of the other side.

    :ivar candidates: all that it has named, those of its offer or answer first.
    """

    def __init__(self, identity: Identity, peer: PeerID, call_id: str) -> None:
        self.candidates: list[Candidate] = []
        self._identity = identity
        self._peer = peer
        self._call_id = call_id
        self._seen = SeenEnvelopes(MAX_TRICKLES)
        self._messages = 0

    @property
    def exceeded(self) -> bool:
        """Whether the other side has named more candidates than it may."""
        return self._messages > MAX_TRICKLES or len(self.candidates) > MAX_CANDIDATES

    def is_new(self, envelope: Envelope) -> bool:
        """Whether this message has not come before."""
        return self._seen.add(envelope.digest())

    def open(
        self,
        envelope: Envelope,
        offer_digest: bytes,
        key: X25519PrivateKey | None,
        kem: MLKEM768PrivateKey | None,
    ) -> TrickledCandidates | None:
        """
        Return what a message says; None if the other side has not sent it in this call.

        :param key, kem: our keys for answers to our offer; None: it is sealed to our identity.
        """
        try:
            kem = kem or prekey_for(self._identity, envelope)
        except SealError:
            return None
        key = key or self._identity.x25519()
        for sequence in range(self._messages, self._messages + MAX_GAP):
            try:
                trickle = open_trickle(
                    self._identity.peer_id,
                    key,
                    self._peer,
                    self._call_id,
                    offer_digest,
                    sequence,
                    envelope,
                    kem=kem,
                )
            except SealError:
                continue
            self._messages = sequence + 1
            self.candidates += trickle.candidates
            return trickle
        return None

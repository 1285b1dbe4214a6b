"""
The candidates that follow the offer and answer of a call (RFC 8838), sealed and numbered in each direction.
The sequence number is signed with them: messages may be missing, but not out of order.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from punch.identity import Identity, PeerID
from punch.node.calls.offer_freshness import SeenEnvelopes
from punch.wire.peers.candidate import Candidate
from punch.wire.peers.sealed import (
    MAX_CANDIDATES,
    Envelope,
    SealError,
    TrickledCandidates,
    open_trickle,
    prekey_for,
    seal_trickle,
)

MAX_TRICKLES = 64
"""Trickled messages accepted from the other side in one call."""
MAX_GAP = 8
"""Consecutive trickled messages that may be missing, for example after a lost control connection."""


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

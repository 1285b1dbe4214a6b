"""
How the caller proves its peer ID on a link, bound to this very TLS session.

The proof is the first thing on the caller's first stream: version (1 byte) ‖ Ed25519 signature (64 bytes).
What is signed names both peers, the sealed offer and answer that led here, and a hash of both TLS traffic
secrets, so that a proof is good on one connection only: not on another, not in the other direction, and not
by the hand of somebody who holds the callee's key and passes it on.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from punch.identity import Identity, PeerID

PROOF_LABEL: Final = b"punch/1 link proof"
PROOF_VERSION: Final = 1
PROOF_LENGTH: Final = 65
CALLER_ROLE: Final = 1

_BINDING_LABEL: Final = b"punch/1 tls binding\0"
_CLIENT_SECRET: Final = "CLIENT_TRAFFIC_SECRET_0"
_SERVER_SECRET: Final = "SERVER_TRAFFIC_SECRET_0"


class ProofError(Exception):
    """The other side did not prove what it had to; `str()` is a sentence."""


class SecretsLog:
    """
    A key log (in the format of NSS, as TLS libraries write it) that keeps in memory the two secrets of the
    binding, and forgets them once they are used.

    :ivar secrets: the secrets by their labels in the log; `erase` overwrites and removes them.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, bytearray] = {}

    def write(self, text: str) -> int:
        """One line of the log: label, client random, secret."""
        fields = text.split()
        if len(fields) == 3 and fields[0] in (_CLIENT_SECRET, _SERVER_SECRET):
            self.secrets[fields[0]] = bytearray.fromhex(fields[2])
        return len(text)

    def flush(self) -> None:
        """Nothing is ever written anywhere."""

    def binding(self) -> bytes:
        """
        `B` of the proof (32 bytes), once; the secrets are erased.

        :raise ProofError: the handshake has not given both secrets, or the binding was taken before.
        """
        client, server = self.secrets.get(_CLIENT_SECRET), self.secrets.get(_SERVER_SECRET)
        if client is None or server is None:
            raise ProofError("The TLS session has no traffic secrets to bind the proof to.")
        value = tls_binding(bytes(client), bytes(server))
        self.erase()
        return value

    def receiving(self, is_client: bool) -> bytes | None:
        """The traffic secret of the other side, until it is erased."""
        secret = self.secrets.get(_SERVER_SECRET if is_client else _CLIENT_SECRET)
        return None if secret is None else bytes(secret)

    def erase(self) -> None:
        """Overwrite and forget the secrets."""
        for secret in self.secrets.values():
            secret[:] = bytes(len(secret))
        self.secrets.clear()


def tls_binding(client_secret: bytes, server_secret: bytes) -> bytes:
    """SHA-256 over both application traffic secrets of a TLS 1.3 session (RFC 8446, section 7.1)."""
    digest = sha256(_BINDING_LABEL)
    for secret in (client_secret, server_secret):
        digest.update(len(secret).to_bytes(2, "big") + secret)
    return digest.digest()


def proof_message(
    caller: PeerID, callee: PeerID, offer_digest: bytes, answer_digest: bytes, binding: bytes
) -> bytes:
    """What a caller signs, behind the label and a zero byte. All digests have 32 bytes."""
    if not len(offer_digest) == len(answer_digest) == len(binding) == 32:
        raise ValueError("the digests of a link proof have 32 bytes each")
    return bytes([CALLER_ROLE]) + caller.key + callee.key + offer_digest + answer_digest + binding


def make_proof(
    identity: Identity, callee: PeerID, offer_digest: bytes, answer_digest: bytes, binding: bytes
) -> bytes:
    """The 65 bytes with which the caller begins its first stream."""
    message = proof_message(identity.peer_id, callee, offer_digest, answer_digest, binding)
    return bytes([PROOF_VERSION]) + identity.sign(PROOF_LABEL, message)


def check_proof_version(first: int) -> None:
    """
    Judge the first byte of a proof as soon as it is there.

    :raise ProofError: this version is unknown.
    """
    if first != PROOF_VERSION:
        raise ProofError(f"The link proof has version {first} and this Punch knows version {PROOF_VERSION}.")


def check_proof(
    proof: bytes, caller: PeerID, callee: PeerID, offer_digest: bytes, answer_digest: bytes, binding: bytes
) -> None:
    """
    Judge a complete proof.

    :raise ProofError: it is not the caller's, or not for this connection.
    """
    if len(proof) != PROOF_LENGTH:
        raise ProofError(f"A link proof has {PROOF_LENGTH} bytes, this one has {len(proof)}.")
    check_proof_version(proof[0])
    message = proof_message(caller, callee, offer_digest, answer_digest, binding)
    if not caller.verify(PROOF_LABEL, message, proof[1:]):
        raise ProofError(f"The link proof is not by {caller.short} for this connection.")

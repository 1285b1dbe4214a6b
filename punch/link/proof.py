"""
How the two sides of a link prove their peer IDs, bound to this TLS session.

The callee proves itself by a certificate (`LinkCertificate`) that is made for one link. Its hash is in the
callee's sealed and signed answer.

The caller proves itself at the beginning of its first stream: version (1 byte) ‖ Ed25519 signature (64
bytes). The signed message names both peers, the sealed offer and answer of the call, and a hash of both TLS
traffic secrets. So a proof is valid on one connection only: not on another one, not in the other direction,
and not when somebody who holds the callee's key passes it on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from punch.identity import Identity, PeerID, RandomBytes

# The dates are never checked: a link's certificate is valid because its hash is in the callee's signed
# answer. Real dates would reveal the callee's clock.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=timezone.utc)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)


@dataclass(frozen=True)
class LinkCertificate:
    """A new Ed25519 key and a self-signed certificate for one link. It does not name its owner."""

    certificate: x509.Certificate
    private_key: Ed25519PrivateKey

    @classmethod
    def generate(cls, random: RandomBytes = os.urandom) -> LinkCertificate:
        """Make a new key and certificate. All certificates have the same length."""
        private_key = Ed25519PrivateKey.from_private_bytes(random(32))
        # Exactly 16 bytes as a positive DER integer: the top bit clear, the next one set.
        serial = int.from_bytes(random(16), "big") & ((1 << 127) - 1) | (1 << 126)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "punch")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private_key.public_key())
            .serial_number(serial)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .sign(private_key, None)
        )
        return cls(certificate, private_key)

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @cached_property
    def sha256(self) -> bytes:
        """SHA-256 of the DER form, 32 bytes. It is in the answer, and the caller checks it."""
        return sha256(self.der).digest()

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def private_key_pem(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


PROOF_LABEL: Final = b"punch/1 link proof"
PROOF_VERSION: Final = 1
PROOF_LENGTH: Final = 65
CALLER_ROLE: Final = 1

_BINDING_LABEL: Final = b"punch/1 tls binding\0"
_CLIENT_SECRET: Final = "CLIENT_TRAFFIC_SECRET_0"
_SERVER_SECRET: Final = "SERVER_TRAFFIC_SECRET_0"


class ProofError(Exception):
    """The other side did not prove its identity; `str()` is a sentence that says why."""


class SecretsLog:
    """
    A key log file (in the NSS format that TLS libraries write) in memory. It keeps the two secrets that the
    binding needs, and erases them when they were used.

    :ivar secrets: the secrets by their labels in the log.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, bytearray] = {}

    def write(self, text: str) -> int:
        """Read one line of the log: label, client random, secret. Returns the number of characters."""
        fields = text.split()
        if len(fields) == 3 and fields[0] in (_CLIENT_SECRET, _SERVER_SECRET):
            self.secrets[fields[0]] = bytearray.fromhex(fields[2])
        return len(text)

    def flush(self) -> None:
        """Do nothing, since nothing is written anywhere."""

    def binding(self) -> bytes:
        """
        Return `B` of the proof (32 bytes) and erase the secrets.

        :raise ProofError: the handshake has not provided both secrets, or `binding` was called before.
        """
        client, server = self.secrets.get(_CLIENT_SECRET), self.secrets.get(_SERVER_SECRET)
        if client is None or server is None:
            raise ProofError("The TLS session has no traffic secrets to bind the proof to.")
        value = tls_binding(bytes(client), bytes(server))
        self.erase()
        return value

    def receiving(self, is_client: bool) -> bytes | None:
        """The traffic secret of the other side; None before the handshake and after `erase`."""
        secret = self.secrets.get(_SERVER_SECRET if is_client else _CLIENT_SECRET)
        return None if secret is None else bytes(secret)

    def erase(self) -> None:
        """Overwrite and drop the secrets."""
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
    """The message that a caller signs, after the label and a zero byte. All digests have 32 bytes."""
    if not len(offer_digest) == len(answer_digest) == len(binding) == 32:
        raise ValueError("the digests of a link proof have 32 bytes each")
    return bytes([CALLER_ROLE]) + caller.key + callee.key + offer_digest + answer_digest + binding


def make_proof(
    identity: Identity, callee: PeerID, offer_digest: bytes, answer_digest: bytes, binding: bytes
) -> bytes:
    """Make the proof: the first 65 bytes of the caller's first stream."""
    message = proof_message(identity.peer_id, callee, offer_digest, answer_digest, binding)
    return bytes([PROOF_VERSION]) + identity.sign(PROOF_LABEL, message)


def check_proof_version(first: int) -> None:
    """
    Check the first byte of a proof, as soon as it has arrived.

    :raise ProofError: the version is unknown.
    """
    if first != PROOF_VERSION:
        raise ProofError(f"The link proof has version {first} and this Punch knows version {PROOF_VERSION}.")


def check_proof(
    proof: bytes, caller: PeerID, callee: PeerID, offer_digest: bytes, answer_digest: bytes, binding: bytes
) -> None:
    """
    Check a complete proof.

    :raise ProofError: the proof is not the caller's, or not for this connection.
    """
    if len(proof) != PROOF_LENGTH:
        raise ProofError(f"A link proof has {PROOF_LENGTH} bytes, but this one has {len(proof)}.")
    check_proof_version(proof[0])
    message = proof_message(caller, callee, offer_digest, answer_digest, binding)
    if not caller.verify(PROOF_LABEL, message, proof[1:]):
        raise ProofError(f"The link proof is not by {caller.short} for this connection.")

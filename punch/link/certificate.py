"""The ephemeral certificate of one link: made by the callee, named by its hash in the sealed answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from punch.identity import RandomBytes

# The dates are never looked at: a link's certificate is good because its hash came in the callee's signed
# answer, and dates of its own would tell when (by whose clock) it was made.
_NOT_BEFORE = datetime(2000, 1, 1, tzinfo=timezone.utc)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone.utc)


@dataclass(frozen=True)
class LinkCertificate:
    """A fresh Ed25519 key and a self-signed certificate that names nobody, used for one link."""

    certificate: x509.Certificate
    private_key: Ed25519PrivateKey

    @classmethod
    def generate(cls, random: RandomBytes = os.urandom) -> LinkCertificate:
        """A new key and certificate. Its length is always the same, so that it says nothing."""
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
        """SHA-256 of the DER form: what the answer carries and the caller checks (32 bytes)."""
        return sha256(self.der).digest()

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def private_key_pem(self) -> bytes:
        return self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

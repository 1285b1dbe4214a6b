"""
Prekeys: the ML-KEM-768 keys (FIPS 203) that make what is sealed to a peer safe from quantum computers, too.

What is sealed to a peer is sealed to the X25519 form of its identity key, and also to its prekey if the
sender has that (`punch.wire.peers.sealed`). A prekey derives from the seed of the identity key, so it is at
hand wherever the identity is, and nothing has to be kept or replaced. A quantum computer that finds the
private scalar of the identity's public key does not find the seed, which is hashed to make the scalar.

The owner signs its prekey. A wrong prekey would do no harm all the same: what is sealed to it can be opened
only with the X25519 key as well.
"""

from __future__ import annotations

from functools import cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from punch.identity import Identity, PeerID

PREKEY_LABEL = b"punch/1 prekey"
KEY_SIZE = 1184
"""The size of a public key of ML-KEM-768, in bytes."""
SEED_SIZE = 64
"""The size of the seed of a private key, in bytes."""
SIGNED_SIZE = KEY_SIZE + 64
"""The size of a prekey with its signature, in bytes."""


class PrekeyError(ValueError):
    """A prekey is malformed, or is not signed by the peer whose it is said to be."""


@cache
def supported() -> bool:
    """Whether the cryptography library of this machine has ML-KEM: its OpenSSL may be too old."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(SEED_SIZE))
    except UnsupportedAlgorithm:
        return False
    return True


def private_prekey(identity: Identity) -> MLKEM768PrivateKey:
    """
    Return what opens messages that are sealed to an identity's prekey.

    :raise UnsupportedAlgorithm: the library does not have ML-KEM.
    """
    seed = HKDF(SHA256(), SEED_SIZE, None, PREKEY_LABEL).derive(identity.private_key.private_bytes_raw())
    return MLKEM768PrivateKey.from_seed_bytes(seed)


def signed_prekey(identity: Identity) -> bytes:
    """
    Return the public prekey of an identity and its signature, `SIGNED_SIZE` bytes.

    :raise UnsupportedAlgorithm: the library does not have ML-KEM.
    """
    key = private_prekey(identity).public_key().public_bytes_raw()
    return key + identity.sign(PREKEY_LABEL, key)


def check_prekey(peer: PeerID, signed: bytes) -> bytes:
    """
    Return the public key in what `signed_prekey` of this peer has returned.

    :raise PrekeyError: this is something else.
    """
    key, signature = signed[:KEY_SIZE], signed[KEY_SIZE:]
    if len(signed) != SIGNED_SIZE:
        raise PrekeyError(f"a prekey has {SIGNED_SIZE} bytes")
    if not peer.verify(PREKEY_LABEL, key, signature):
        raise PrekeyError("the prekey is not signed by the peer")
    public_kem_key(key)
    return key


def public_kem_key(key: bytes) -> MLKEM768PublicKey:
    """
    Read a public key of ML-KEM-768, `KEY_SIZE` bytes.

    :raise PrekeyError: it is none.
    :raise UnsupportedAlgorithm: the library does not have ML-KEM.
    """
    try:
        return MLKEM768PublicKey.from_public_bytes(key)
    except ValueError as error:
        raise PrekeyError("this is no key of ML-KEM-768") from error

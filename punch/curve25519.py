"""
From Ed25519 keys to X25519 keys (RFC 7748, section 4.1), as libsodium and age do it.

A peer ID is an Ed25519 key, and offers are sealed to the X25519 key that is made of it.

It is written here because `cryptography`, on which Punch depends already, does not offer the mapping. PyNaCl
does, but would be a dependency that brings a second cryptography library (libsodium, 4 MB with its bindings)
for these two functions. The tests compare the results with PyNaCl's. Only public points are computed with
here, so nothing has to take constant time; X25519 itself is the library's.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

P = 2**255 - 19
"""The field prime."""

_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)
# -1 modulo the prime order, 0 modulo 8, and with the top bit set: X25519's clamping does not change it.
_MINUS_ONE = X25519PrivateKey.from_private_bytes((5 * _ORDER - 1).to_bytes(32, "little"))


@lru_cache(maxsize=4096)
def montgomery_u(key: bytes) -> bytes:
    """
    The X25519 public key (32 bytes) of an Ed25519 public key (32 bytes): u = (1 + y) / (1 - y).

    :raise ValueError: the key is not the canonical form of a point, or the point is not in the prime-order
        group: it is of small order or has a component of small order, which no generated key has.
    """
    y = _decode(key)
    if y == 1:
        raise ValueError("it is the neutral point")
    u = ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")
    if not _in_prime_order_group(u):
        raise ValueError("the point is not in the prime-order group")
    return u


def montgomery_scalar(seed: bytes) -> bytes:
    """The X25519 private key (32 bytes, clamped) of an Ed25519 seed (RFC 8032, section 5.1.5)."""
    scalar = bytearray(sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return bytes(scalar)


def _in_prime_order_group(u: bytes) -> bool:
    """
    Whether a point is in the prime-order group.

    Multiplying by a number that is 0 modulo 8 and -1 modulo the prime order gives the inverse of a point's
    component of prime order, and a point and its inverse have the same u. X25519 multiplies several times as
    fast as Python code does.
    """
    try:
        return _MINUS_ONE.exchange(X25519PublicKey.from_public_bytes(u)) == u
    except ValueError:  # the result is neutral: the point has small order
        return False


def _decode(key: bytes) -> int:
    """The y coordinate of a point in its canonical form (RFC 8032, section 5.1.3)."""
    if len(key) != 32:
        raise ValueError("a key has 32 bytes")
    number = int.from_bytes(key, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= P:
        raise ValueError("the y coordinate is not canonical")
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * _SQRT_MINUS_ONE % P
        if v * x * x % P != u:
            raise ValueError("there is no such point")
    if x == 0 and sign:
        raise ValueError("the sign of x is not canonical")
    return y

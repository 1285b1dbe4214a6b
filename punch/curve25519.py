"""
From Ed25519 keys to X25519 keys (RFC 7748, section 4.1), as libsodium and age do it.

A peer ID is an Ed25519 key, and offers are sealed to it: the same secret, seen on the Montgomery curve. Only
public points are computed with here, so nothing need take constant time.
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
# -1 modulo the prime order, 0 modulo 8, and with the top bit set: X25519's clamping leaves it as it is.
_MINUS_ONE = X25519PrivateKey.from_private_bytes((5 * _ORDER - 1).to_bytes(32, "little"))


@lru_cache(maxsize=4096)
def montgomery_u(key: bytes) -> bytes:
    """
    The X25519 public key (32 bytes) of an Ed25519 public key (32 bytes): u = (1 + y) / (1 - y).

    :raise ValueError: the key is not the canonical form of a point, or the point is not one of the
        prime-order group (so it is of small order, or has a part of small order: no honest key is).
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
    Whether a point is its own part of prime order.

    Multiplying by what is 0 modulo 8 and -1 modulo the prime order takes a point to the inverse of that part,
    which has the same u. X25519 does it several times as fast as the same in Python.
    """
    try:
        return _MINUS_ONE.exchange(X25519PublicKey.from_public_bytes(u)) == u
    except ValueError:  # nothing is left: the point has small order
        return False


def _decode(key: bytes) -> int:
    """The y of a point: RFC 8032, section 5.1.3, and nothing but the canonical form."""
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

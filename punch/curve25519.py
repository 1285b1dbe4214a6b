"""
From Ed25519 keys to X25519 keys (RFC 7748, section 4.1), as libsodium and age do it.

A peer ID is an Ed25519 key, and offers are sealed to it: the same secret, seen on the Montgomery curve.
Only public points are computed with here, so nothing need take constant time.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512

P = 2**255 - 19
"""The field prime."""

_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_SQRT_MINUS_ONE = pow(2, (P - 1) // 4, P)
_Point = tuple[int, int, int, int]
"""Extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z (RFC 8032, section 5.1.4)."""


@lru_cache(maxsize=4096)
def montgomery_u(key: bytes) -> bytes:
    """
    The X25519 public key (32 bytes) of an Ed25519 public key (32 bytes): u = (1 + y) / (1 - y).

    :raise ValueError: the key is not the canonical form of a point, or the point is not one of the
        prime-order group (so it is of small order, or has a part of small order: no honest key is).
    """
    x, y = _decode(key)
    if not _is_neutral(_multiply(_ORDER, (x, y, 1, x * y % P))) or y == 1:
        raise ValueError("the point is not in the prime-order group")
    return ((1 + y) * pow(1 - y, -1, P) % P).to_bytes(32, "little")


def montgomery_scalar(seed: bytes) -> bytes:
    """The X25519 private key (32 bytes, clamped) of an Ed25519 seed (RFC 8032, section 5.1.5)."""
    scalar = bytearray(sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return bytes(scalar)


def _decode(key: bytes) -> tuple[int, int]:
    """RFC 8032, section 5.1.3, and nothing but the canonical form."""
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
    return (P - x if x & 1 != sign else x), y


def _add(a: _Point, b: _Point) -> _Point:
    """RFC 8032, section 5.1.4; complete, so it doubles as well."""
    p = (a[1] - a[0]) * (b[1] - b[0]) % P
    q = (a[1] + a[0]) * (b[1] + b[0]) % P
    r = 2 * a[3] * b[3] * _D % P
    s = 2 * a[2] * b[2] % P
    e, f, g, h = q - p, s - r, s + r, q + p
    return e * f % P, g * h % P, f * g % P, e * h % P


def _multiply(scalar: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    for bit in bin(scalar)[2:]:
        result = _add(result, result)
        if bit == "1":
            result = _add(result, point)
    return result


def _is_neutral(point: _Point) -> bool:
    return point[0] % P == 0 and (point[1] - point[2]) % P == 0

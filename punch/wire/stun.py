"""
Encoding and decoding STUN messages (RFC 8489).

`parse` accepts only what the RFC allows and raises `STUNError` for everything else. `encode` writes a
message, protected by a key if one is given. The attributes are in `punch.wire.stun_attributes`; the most used
names can be imported from here too.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from hashlib import md5
from hashlib import sha256 as _sha256
from struct import Struct
from struct import error as StructError
from typing import Any
from zlib import crc32

from punch.wire.address import Address
from punch.wire.stun_attributes import CODECS, MAGIC_COOKIE, REQUIRED_BELOW, Attribute, STUNError

__all__ = [
    "HEADER_SIZE",
    "MAGIC_COOKIE",
    "MAX_ATTRIBUTES",
    "Attribute",
    "Invalid",
    "MessageClass",
    "Method",
    "PasswordAlgorithm",
    "STUNError",
    "StunMessage",
    "TooManyAttributesError",
    "Undecoded",
    "binding_request",
    "encode",
    "encode_padded",
    "error",
    "header",
    "long_term_key",
    "mapped_address",
    "parse",
    "success",
    "userhash",
]

HEADER_SIZE = 20
"""The size of the header in bytes: type, length, magic cookie, transaction ID."""

_ATTRIBUTE_HEADER = 4

FINGERPRINT_MASK = 0x5354554E
"""The value that the CRC-32 of FINGERPRINT is XORed with (RFC 8489, section 14.7)."""


MAX_ATTRIBUTES = 64
"""How many attributes of a stranger's message are read."""


class TooManyAttributesError(STUNError):
    """A message has too many attributes."""


class Invalid(bytes):
    """The bytes of an attribute of a known type that are not a valid value of it."""


class Undecoded(bytes):
    """The bytes of an attribute of a known type that `parse` was not asked to decode."""


class Method(IntEnum):
    """The method of a message (RFC 8489, section 18.2; RFC 8656, section 17)."""

    BINDING = 1
    ALLOCATE = 3
    REFRESH = 4
    SEND = 6
    DATA = 7
    CREATE_PERMISSION = 8
    CHANNEL_BIND = 9


class MessageClass(IntEnum):
    """The class of a message (RFC 8489, section 5)."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class PasswordAlgorithm(IntEnum):
    """The hash that makes a long-term key from a password (RFC 8489, section 18.5)."""

    MD5 = 1
    SHA256 = 2


_HEADER = Struct(">HHI")
_ATTRIBUTE = Struct(">HH")
_CLASSES = tuple(MessageClass)
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_MESSAGE_INTEGRITY = int(Attribute.MESSAGE_INTEGRITY)
_MESSAGE_INTEGRITY_SHA256 = int(Attribute.MESSAGE_INTEGRITY_SHA256)
_FINGERPRINT = int(Attribute.FINGERPRINT)
_PROTECTION = (_MESSAGE_INTEGRITY, _MESSAGE_INTEGRITY_SHA256, _FINGERPRINT)
_SHA1_SIZE = 20
_SHA256_SIZE = 32


@dataclass(frozen=True)
class StunMessage:
    """
    One STUN message.

    `attributes` are pairs of type and value in order, including duplicates. They do not include
    MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT: `encode` writes these, and `has_integrity`,
    `check_integrity` and `has_fingerprint` tell about those of a parsed message. Values are typed: addresses
    are `Address`, numbers `int`, texts `str`, flags `True`, ERROR-CODE is `(code, reason)`,
    UNKNOWN-ATTRIBUTES is a tuple of numbers, and values of unknown types are `bytes`.
    """

    method: int
    message_class: MessageClass
    transaction_id: bytes
    attributes: tuple[tuple[int, Any], ...] = ()
    has_fingerprint: bool = field(default=False, compare=False)
    """Whether the parsed message had a FINGERPRINT; if so, it was correct."""
    _raw: bytes = field(default=b"", compare=False, repr=False)
    # The offsets of these attributes in `_raw`; 0 if there are none
    _sha1_at: int = field(default=0, compare=False, repr=False)
    _sha256_at: int = field(default=0, compare=False, repr=False)

    def get(self, attribute: int) -> Any | None:
        """
        The value of the first attribute of this type (RFC 8489, section 14: others are ignored), or None.
        """
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    def get_all(self, attribute: int) -> Iterator[Any]:
        """All values of this type, for the few attributes that may occur more than once."""
        return (value for kind, value in self.attributes if kind == attribute)

    def __contains__(self, attribute: int) -> bool:
        for kind, _ in self.attributes:  # noqa: SIM110 (a generator takes twice as long)
            if kind == attribute:
                return True
        return False

    def unknown_required(self) -> tuple[int, ...]:
        """The types that must be understood and are not, once each: what a 420 answer lists."""
        return tuple(
            dict.fromkeys(kind for kind, _ in self.attributes if kind < REQUIRED_BELOW and kind not in CODECS)
        )

    def invalid(self) -> tuple[int, ...]:
        """The types of attributes with invalid values, in a message that was parsed with `lenient`."""
        return tuple(kind for kind, value in self.attributes if isinstance(value, Invalid))

    def decoded(self) -> StunMessage:
        """
        This message, which was parsed, with the attributes that are `Undecoded` yet decoded or `Invalid`.
        """
        mask = self._raw[4:HEADER_SIZE]
        attributes = (
            (kind, _decode_leniently(kind, value, mask) if isinstance(value, Undecoded) else value)
            for kind, value in self.attributes
        )
        return StunMessage(
            self.method,
            self.message_class,
            self.transaction_id,
            tuple(attributes),
            self.has_fingerprint,
            self._raw,
            self._sha1_at,
            self._sha256_at,
        )

    def has_integrity(self) -> bool:
        """Whether the parsed message has a MESSAGE-INTEGRITY of either kind, which may be wrong."""
        return bool(self._sha1_at or self._sha256_at)

    def check_integrity(self, key: bytes, *, shortest_sha256: int = _SHA256_SIZE) -> bool:
        """
        Whether this message, which was parsed, is protected by `key` (RFC 8489, sections 14.5 and 14.6).

        If it has both kinds, both must be right. False for a message that has none, and for one that was not
        parsed. The comparison takes constant time.

        :param shortest_sha256: the least size of a MESSAGE-INTEGRITY-SHA256 in bytes. RFC 8489 lets usages
            allow 16; none of ours does.
        """
        raw = self._raw
        right = self.has_integrity()
        if at := self._sha1_at:
            expected = _digest(raw, at, at + 4 + _SHA1_SIZE, key, "sha1")
            right &= hmac.compare_digest(expected, raw[at + 4 : at + 4 + _SHA1_SIZE])
        if at := self._sha256_at:
            size = int.from_bytes(raw[at + 2 : at + 4], "big")
            expected = _digest(raw, at, at + 4 + size, key, "sha256")[:size]
            right &= size >= shortest_sha256 and hmac.compare_digest(expected, raw[at + 4 : at + 4 + size])
        return right


def _decode_leniently(kind: int, value: bytes, mask: bytes) -> Any:
    try:
        return CODECS[kind].decode(value, mask)
    except STUNError:
        return Invalid(value)


def _digest(raw: bytes, at: int, end: int, key: bytes, algorithm: str) -> bytes:
    """The HMAC of the message before `at`, with the length in its header as if it ended at `end`."""
    length = (end - HEADER_SIZE).to_bytes(2, "big")
    return hmac.digest(key, raw[:2] + length + raw[4:at], algorithm)


def _fingerprint(covered: bytes) -> bytes:
    return (crc32(covered) ^ FINGERPRINT_MASK).to_bytes(4, "big")


def header(data: bytes) -> StunMessage | None:
    """The message without its attributes, which are not parsed; None if it is no STUN message."""
    if len(data) < HEADER_SIZE or data[0] > 0x3F or data[4:8] != _COOKIE:
        return None
    length = data[2] << 8 | data[3]
    if length & 3 or length + HEADER_SIZE != len(data):
        return None
    return StunMessage(*_method_and_class(data[0] << 8 | data[1]), data[8:HEADER_SIZE])


def _method_and_class(message_type: int) -> tuple[int, MessageClass]:
    return (
        message_type & 0xF | message_type >> 1 & 0x70 | message_type >> 2 & 0xF80,
        _CLASSES[message_type >> 4 & 1 | message_type >> 7 & 2],
    )


def parse(
    data: bytes, *, lenient: bool = False, most: int | None = None, only: frozenset[int] | None = None
) -> StunMessage:
    """
    Decode one message, which is all of `data`.

    Attributes after MESSAGE-INTEGRITY are not protected and are ignored, except MESSAGE-INTEGRITY-SHA256 and
    FINGERPRINT (RFC 8489, sections 14.5 and 14.6). Nothing may follow FINGERPRINT (section 14.7).

    :param lenient: the value of an attribute that can't be decoded is `Invalid`, for servers that answer 400.
    :param most: the largest number of attributes; None: no limit.
    :param only: decode the first attribute of each of these types, and leave all others `Undecoded`: what a
        stranger sends need not be decoded before it is known who sent it. None: decode all.
    :raise STUNError: this is no STUN message, an attribute has an invalid value, or its FINGERPRINT is wrong.
    :raise TooManyAttributesError: it has more than `most` attributes; the rest of it was not parsed.
    """
    size = len(data)
    if size < HEADER_SIZE:
        raise STUNError(f"{size} bytes are too few for a header")
    message_type, length, cookie = _HEADER.unpack_from(data)
    if message_type > 0x3FFF:
        raise STUNError("the first two bits are not zero")
    if cookie != MAGIC_COOKIE:
        raise STUNError("the magic cookie is missing")
    if length & 3 or length + HEADER_SIZE != size:
        raise STUNError(f"the header says {length} bytes follow, and {size - HEADER_SIZE} do")
    mask = data[4:HEADER_SIZE]
    attributes: list[tuple[int, Any]] = []
    sha1_at = sha256_at = 0
    has_fingerprint = False
    position = HEADER_SIZE
    room = size if most is None else most
    wanted = None if only is None else set(only)
    while position < size:
        if not room:
            raise TooManyAttributesError(f"more than {most} attributes")
        room -= 1
        kind, value_size = _ATTRIBUTE.unpack_from(data, position)
        start = position + 4
        end = start + value_size
        if end > size:
            raise STUNError(f"attribute 0x{kind:04x} runs over the end of the message")
        if kind == _FINGERPRINT:
            if value_size != 4 or end != size:
                raise STUNError("FINGERPRINT is not 4 bytes at the end of the message")
            if _fingerprint(data[:position]) != data[start:]:
                raise STUNError("FINGERPRINT is wrong")
            has_fingerprint = True
        elif sha256_at:
            pass
        elif kind == _MESSAGE_INTEGRITY_SHA256:
            if not 16 <= value_size <= _SHA256_SIZE or value_size & 3:
                raise STUNError(f"MESSAGE-INTEGRITY-SHA256 has {value_size} bytes")
            sha256_at = position
        elif sha1_at:
            pass
        elif kind == _MESSAGE_INTEGRITY:
            if value_size != _SHA1_SIZE:
                raise STUNError(f"MESSAGE-INTEGRITY has {value_size} bytes")
            sha1_at = position
        elif (codec := CODECS.get(kind)) is None:
            attributes.append((kind, data[start:end]))
        elif wanted is not None and kind not in wanted:
            attributes.append((kind, Undecoded(data[start:end])))
        else:
            if wanted is not None:
                wanted.discard(kind)
            try:
                attributes.append((kind, codec.decode(data[start:end], mask)))
            except STUNError:
                if not lenient:
                    raise
                attributes.append((kind, Invalid(data[start:end])))
        position = end + 3 & ~3
    method, message_class = _method_and_class(message_type)
    return StunMessage(
        method=method,
        message_class=message_class,
        transaction_id=data[8:HEADER_SIZE],
        attributes=tuple(attributes),
        has_fingerprint=has_fingerprint,
        _raw=data,
        _sha1_at=sha1_at,
        _sha256_at=sha256_at,
    )


def encode(
    message: StunMessage, key: bytes | None = None, *, fingerprint: bool = True, sha256: bool = False
) -> bytes:
    """
    Encode a message.

    :param key: protects it with MESSAGE-INTEGRITY: the password itself for short-term credentials,
        `long_term_key` for long-term ones.
    :param fingerprint: end it with a FINGERPRINT.
    :param sha256: protect it with MESSAGE-INTEGRITY-SHA256 instead.
    :raise STUNError: a value is invalid, or the message is too long.
    """
    method = message.method
    if not 0 <= method <= 0xFFF:
        raise STUNError(f"there is no method {method}")
    if len(message.transaction_id) != 12:
        raise STUNError("a transaction ID has 12 bytes")
    mask = _COOKIE + message.transaction_id
    message_class = message.message_class
    message_type = (
        method & 0xF
        | (method & 0x70) << 1
        | (method & 0xF80) << 2
        | (message_class & 1) << 4
        | (message_class & 2) << 7
    )
    parts = [message_type.to_bytes(2, "big"), b"", mask]
    length = 0
    for kind, value in message.attributes:
        if kind in _PROTECTION:
            raise STUNError("MESSAGE-INTEGRITY and FINGERPRINT are written by encode itself")
        codec = CODECS.get(kind)
        try:
            octets = codec.encode(value, mask) if codec is not None else _opaque(value)
            size = len(octets)
            padding = -size & 3
            parts += (_ATTRIBUTE.pack(kind, size), octets, bytes(padding))
        except STUNError:
            raise
        except (StructError, TypeError, ValueError, OverflowError, AttributeError) as wrong:
            raise STUNError(f"attribute 0x{kind:04x} can't have the value {value!r}") from wrong
        length += 4 + size + padding
    if key is not None:
        kind, algorithm, size = (
            (_MESSAGE_INTEGRITY_SHA256, "sha256", _SHA256_SIZE)
            if sha256
            else (_MESSAGE_INTEGRITY, "sha1", _SHA1_SIZE)
        )
        length += 4 + size
        parts[1] = _length(length)
        digest = hmac.digest(key, b"".join(parts), algorithm)
        parts += (_ATTRIBUTE.pack(kind, size), digest)
    if fingerprint:
        length += 8
        parts[1] = _length(length)
        covered = b"".join(parts)
        return covered + b"\x80\x28\x00\x04" + _fingerprint(covered)
    parts[1] = _length(length)
    return b"".join(parts)


def _opaque(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise STUNError("an attribute that isn't known carries bytes")
    return value


def _length(length: int) -> bytes:
    if length > 0xFFFF:
        raise STUNError(f"{length} bytes of attributes are too many for one message")
    return length.to_bytes(2, "big")


def encode_padded(message: StunMessage, key: bytes | None, size: int) -> bytes:
    """Encode a message, with PADDING if it would have fewer than `size` bytes (a multiple of 4)."""
    data = encode(message, key)
    missing = size - len(data) - _ATTRIBUTE_HEADER
    if missing < 0:
        return data
    padding = (Attribute.PADDING, bytes(missing))
    return encode(replace(message, attributes=(*message.attributes, padding)), key)


def success(request: StunMessage, *attributes: tuple[int, Any]) -> StunMessage:
    """The success response to `request`, with `attributes`."""
    return StunMessage(request.method, MessageClass.SUCCESS, request.transaction_id, attributes)


def error(request: StunMessage, code: int, reason: str, *attributes: tuple[int, Any]) -> StunMessage:
    """The error response to `request`: ERROR-CODE, then `attributes`."""
    return StunMessage(
        request.method,
        MessageClass.ERROR,
        request.transaction_id,
        ((Attribute.ERROR_CODE, (code, reason)), *attributes),
    )


def binding_request(transaction_id: bytes, *attributes: tuple[int, Any]) -> bytes:
    """
    Encode a Binding request to a reflector. It has no FINGERPRINT: the shorter the request is, the shorter is
    the answer that a reflector may send.
    """
    request = StunMessage(Method.BINDING, MessageClass.REQUEST, transaction_id, attributes)
    return encode(request, fingerprint=False)


def mapped_address(answer: StunMessage) -> Address | None:
    """
    Return the address at which a reflector has seen the sender of a Binding request, from its answer.

    :return: None if the answer is no success response, has an attribute that has to be understood and is not
        (RFC 8489, section 6.3.3), or has no XOR-MAPPED-ADDRESS with a port.
    """
    if answer.method != Method.BINDING or answer.message_class is not MessageClass.SUCCESS:
        return None
    mapped = answer.get(Attribute.XOR_MAPPED_ADDRESS)
    if answer.unknown_required() or not isinstance(mapped, Address) or not mapped.port:
        return None
    return mapped


def long_term_key(
    username: str, realm: str, password: str, algorithm: PasswordAlgorithm = PasswordAlgorithm.MD5
) -> bytes:
    """
    The key for MESSAGE-INTEGRITY from long-term credentials (RFC 8489, section 9.2.2).

    The three texts are used as they are; texts that a person typed are to be prepared first (RFC 8265).
    """
    credentials = f"{username}:{realm}:{password}".encode()
    if algorithm is PasswordAlgorithm.SHA256:
        return _sha256(credentials).digest()
    return md5(credentials, usedforsecurity=False).digest()


def userhash(username: str, realm: str) -> bytes:
    """The value of USERHASH, which hides a USERNAME (RFC 8489, section 14.4)."""
    return _sha256(f"{username}:{realm}".encode()).digest()

"""
STUN attributes: their numbers and values.

Every attribute of RFC 8489 (STUN), 8445 (ICE), 8656 (TURN) and 5780 (NAT behaviour discovery) has a codec
here, which converts between the bytes of one attribute, without type, length and padding, and a typed value.
Both directions refuse values that the RFC does not allow: `decode` because they come from strangers, `encode`
so that we never send them.

MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT depend on the rest of the message, so they have no
codec; `punch.wire.stun` handles them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv6Address
from struct import Struct
from typing import Any, NamedTuple

from punch.wire.address import Address, parsed

MAGIC_COOKIE = 0x2112A442
"""Bytes 4 to 7 of every message, which distinguish RFC 8489 from RFC 3489."""

IPV4 = 1
"""The address family of IPv4 in STUN and TURN attributes."""
IPV6 = 2
"""The address family of IPv6 in STUN and TURN attributes."""

REQUIRED_BELOW = 0x8000
"""Attributes with a smaller number must be understood by the receiver (RFC 8489, section 14)."""

MAX_USERNAME = 508
"""The longest USERNAME in bytes (RFC 8489, section 14.3)."""
MAX_CHARACTERS = 127
"""The longest REALM, NONCE, SOFTWARE or reason in characters (RFC 8489, 14.8 to 14.10 and 14.14)."""
MAX_DOMAIN = 255
"""The longest ALTERNATE-DOMAIN in bytes (RFC 8489, section 14.16)."""


class STUNError(ValueError):
    """Bytes are not a STUN message, or a message can't be encoded; `str()` says why."""


class Attribute(IntEnum):
    """The known attribute types."""

    # RFC 8489
    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    PASSWORD_ALGORITHMS = 0x8002
    ALTERNATE_DOMAIN = 0x8003
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    # RFC 8445
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802A
    # libwebrtc's GOOG-NOMINATION: a number that grows with each nomination
    NOMINATION = 0xC001
    # Ours (docs/protocol.md, section 7): a commitment in a Binding request, a proof in its answer
    PROBE = 0xC0BE
    # Ours (docs/protocol.md, section 7.2): the relay drops datagrams because of a rate
    RELAY_LIMIT = 0xC0BF
    # Ours (docs/protocol.md, section 7): the transaction ID of the peer's newest check, in a check
    RECEIVED_CHECK = 0xC0C0
    # RFC 8656
    CHANNEL_NUMBER = 0x000C
    LIFETIME = 0x000D
    XOR_PEER_ADDRESS = 0x0012
    DATA = 0x0013
    XOR_RELAYED_ADDRESS = 0x0016
    REQUESTED_ADDRESS_FAMILY = 0x0017
    EVEN_PORT = 0x0018
    REQUESTED_TRANSPORT = 0x0019
    DONT_FRAGMENT = 0x001A
    RESERVATION_TOKEN = 0x0022
    ADDITIONAL_ADDRESS_FAMILY = 0x8000
    ADDRESS_ERROR_CODE = 0x8001
    ICMP = 0x8004
    # RFC 5780
    CHANGE_REQUEST = 0x0003
    PADDING = 0x0026
    RESPONSE_PORT = 0x0027
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


class ICMPError(NamedTuple):
    """
    The value of ICMP (RFC 8656, section 18.13): the error that a datagram from a relay to a peer caused.
    """

    icmp_type: int
    icmp_code: int
    data: int


class PasswordAlgorithmValue(NamedTuple):
    """One entry of PASSWORD-ALGORITHM(S) (RFC 8489, sections 14.11 and 14.12)."""

    algorithm: int
    parameters: bytes = b""


class AddressErrorCode(NamedTuple):
    """The value of ADDRESS-ERROR-CODE (RFC 8656, section 18.12): why a family could not be allocated."""

    family: int
    code: int
    reason: str = ""


class RelayLimit(IntEnum):
    """A rate of a relay: that of all clients, of one peer, or of all at an address or in a network."""

    RELAY = 0
    PEER = 1
    ADDRESS = 2
    NETWORK = 3


class RelayLimitValue(NamedTuple):
    """
    The value of RELAY-LIMIT (docs/protocol.md, section 7.2).

    :ivar limit: the rate that is exceeded.
    :ivar dropped: how many bytes of the allocation have been dropped so far because of such limits.
    """

    limit: RelayLimit
    dropped: int


class Codec(NamedTuple):
    """
    How the value of one attribute is read and written.

    Both functions also get the XOR mask: the magic cookie and the transaction ID, 16 bytes. `decode` raises
    STUNError for bytes that are no value. `encode` raises it for a value out of range; for a value of a wrong
    type it raises any exception, which `punch.wire.stun.encode` turns into a STUNError.
    """

    decode: Callable[[bytes, bytes], Any]
    encode: Callable[[Any, bytes], bytes]


_ADDRESS = Struct(">BBH")
_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_UINT64 = Struct(">Q")
_ALGORITHM = Struct(">HH")
_PORT_MASK = MAGIC_COOKIE >> 16
_NO_MASK = bytes(16)


# Addresses


def _host4(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _host6(number: int) -> str:
    # An IPv4-mapped address becomes an IPv4 address, so that others need not know of this form
    if number >> 32 == 0xFFFF:
        return _host4(number & 0xFFFFFFFF)
    return str(IPv6Address(number))


def _decode_xored(value: bytes, mask: bytes, port_mask: int) -> Address:
    size = len(value)
    if size == 8 and value[1] == IPV4:
        number = int.from_bytes(value[4:], "big") ^ int.from_bytes(mask[:4], "big")
        host = _host4(number)
    elif size == 20 and value[1] == IPV6:
        host = _host6(int.from_bytes(value[4:], "big") ^ int.from_bytes(mask, "big"))
    else:
        raise STUNError("an address has a family and a length that don't belong together")
    return Address(host, (value[2] << 8 | value[3]) ^ port_mask)


def _encode_xored(address: Address, mask: bytes, port_mask: int) -> bytes:
    host, port = address.host, address.port
    if ":" in host:
        number = int(parsed(host)) ^ int.from_bytes(mask, "big")
        return _ADDRESS.pack(0, IPV6, port ^ port_mask) + number.to_bytes(16, "big")
    number = int(parsed(host)) ^ int.from_bytes(mask[:4], "big")
    return _ADDRESS.pack(0, IPV4, port ^ port_mask) + number.to_bytes(4, "big")


def _decode_address(value: bytes, _mask: bytes) -> Address:
    return _decode_xored(value, _NO_MASK, 0)


def _encode_address(value: Address, _mask: bytes) -> bytes:
    return _encode_xored(value, _NO_MASK, 0)


def _decode_xor_address(value: bytes, mask: bytes) -> Address:
    return _decode_xored(value, mask, _PORT_MASK)


def _encode_xor_address(value: Address, mask: bytes) -> bytes:
    return _encode_xored(value, mask, _PORT_MASK)


# Numbers


def _unsigned(layout: Struct) -> Codec:
    def decode(value: bytes, _mask: bytes) -> int:
        if len(value) != layout.size:
            raise STUNError(f"a number has {len(value)} bytes, not {layout.size}")
        return int.from_bytes(value, "big")

    def encode(value: int, _mask: bytes) -> bytes:
        return value.to_bytes(layout.size, "big")

    return Codec(decode, encode)


def _leading(size: int, highest: int, total: int = 4, lowest: int = 0) -> Codec:
    """A number in the first `size` of `total` bytes; the rest is reserved, sent as zero and ignored."""

    def decode(value: bytes, _mask: bytes) -> int:
        if len(value) != total:
            raise STUNError(f"a number with reserved bytes has {len(value)} bytes, not {total}")
        number = int.from_bytes(value[:size], "big")
        if not lowest <= number <= highest:
            raise STUNError(f"the number {number} is out of range")
        return number

    def encode(value: int, _mask: bytes) -> bytes:
        if not lowest <= value <= highest:
            raise STUNError(f"the number {value} is out of range")
        return value.to_bytes(size, "big") + bytes(total - size)

    return Codec(decode, encode)


def _decode_response_port(value: bytes, _mask: bytes) -> int:
    # RFC 5780, section 7.5 leaves open whether the two bytes that follow are padding or part of the value.
    if len(value) not in (2, 4):
        raise STUNError("RESPONSE-PORT has a length other than 2 or 4")
    return value[0] << 8 | value[1]


def _encode_response_port(value: int, _mask: bytes) -> bytes:
    return value.to_bytes(2, "big") + bytes(2)


def _decode_even_port(value: bytes, _mask: bytes) -> bool:
    if len(value) != 1:
        raise STUNError("EVEN-PORT has a length other than 1")
    return value[0] >= 0x80


def _encode_even_port(value: bool, _mask: bytes) -> bytes:
    return b"\x80" if value else b"\x00"


def _decode_flag(value: bytes, _mask: bytes) -> bool:
    if value:
        raise STUNError("a flag carries a value")
    return True


def _encode_flag(value: bool, _mask: bytes) -> bytes:
    if value is not True:
        raise STUNError("a flag is True or absent")
    return b""


# Text and bytes


def _decode_text(value: bytes, bytes_limit: int, characters_limit: int) -> str:
    if len(value) > bytes_limit:
        raise STUNError(f"a text of {len(value)} bytes is too long")
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise STUNError("a text is no UTF-8") from error
    if len(text) > characters_limit:
        raise STUNError(f"a text of {len(text)} characters is too long")
    return text


def _encode_text(text: str, bytes_limit: int, characters_limit: int) -> bytes:
    try:
        value = text.encode()
    except UnicodeEncodeError as error:
        raise STUNError("a text can't be written as UTF-8") from error
    if len(value) > bytes_limit or len(text) > characters_limit:
        raise STUNError(f"a text of {len(text)} characters is too long")
    return value


def _text(bytes_limit: int, characters_limit: int) -> Codec:
    return Codec(
        lambda value, _mask: _decode_text(value, bytes_limit, characters_limit),
        lambda value, _mask: _encode_text(value, bytes_limit, characters_limit),
    )


def _octets(size: int | None = None) -> Codec:
    def check(value: bytes, _mask: bytes) -> bytes:
        if size is not None and len(value) != size:
            raise STUNError(f"{len(value)} bytes where {size} belong")
        return bytes(value)

    return Codec(check, check)


# Structures


def _decode_code(value: bytes) -> tuple[int, str]:
    if len(value) < 4:
        raise STUNError("an error code has fewer than 4 bytes")
    hundreds, number = value[2] & 7, value[3]
    if not 3 <= hundreds <= 6 or number > 99:
        raise STUNError(f"the error code {hundreds}/{number} is out of range")
    return hundreds * 100 + number, _decode_text(value[4:], 763, MAX_CHARACTERS)


def _encode_code(family: int, code: int, reason: str) -> bytes:
    if not 300 <= code <= 699:
        raise STUNError(f"the error code {code} is out of range")
    return bytes((family, 0, *divmod(code, 100))) + _encode_text(reason, 763, MAX_CHARACTERS)


def _decode_error_code(value: bytes, _mask: bytes) -> tuple[int, str]:
    return _decode_code(value)


def _encode_error_code(value: tuple[int, str], _mask: bytes) -> bytes:
    code, reason = value
    return _encode_code(0, code, reason)


def _decode_address_error(value: bytes, _mask: bytes) -> AddressErrorCode:
    code, reason = _decode_code(value)
    if value[0] not in (IPV4, IPV6):
        raise STUNError(f"there is no address family {value[0]}")
    return AddressErrorCode(value[0], code, reason)


def _encode_address_error(value: AddressErrorCode, _mask: bytes) -> bytes:
    family, code, reason = value
    if family not in (IPV4, IPV6):
        raise STUNError(f"there is no address family {family}")
    return _encode_code(family, code, reason)


def _decode_types(value: bytes, _mask: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise STUNError("UNKNOWN-ATTRIBUTES has an odd length")
    return tuple(number for (number,) in _UINT16.iter_unpack(value))


def _encode_types(value: tuple[int, ...], _mask: bytes) -> bytes:
    return b"".join(_UINT16.pack(number) for number in value)


def _decode_icmp(value: bytes, _mask: bytes) -> ICMPError:
    if len(value) != 8:
        raise STUNError("ICMP has a length other than 8")
    # Seven bits of type, nine of code: so the figure of RFC 8656, section 18.13.
    both = value[2] << 8 | value[3]
    return ICMPError(both >> 9, both & 0x1FF, int.from_bytes(value[4:], "big"))


def _encode_icmp(value: ICMPError, _mask: bytes) -> bytes:
    if not (0 <= value.icmp_type < 128 and 0 <= value.icmp_code < 512):
        raise STUNError("an ICMP type or code is out of range")
    return _UINT32.pack(value.icmp_type << 9 | value.icmp_code) + _UINT32.pack(value.data)


def _decode_relay_limit(value: bytes, _mask: bytes) -> RelayLimitValue:
    if len(value) != 8 or value[0] not in RelayLimit.__members__.values():
        raise STUNError("RELAY-LIMIT has a length other than 8, or names no limit")
    return RelayLimitValue(RelayLimit(value[0]), int.from_bytes(value[1:], "big"))


def _encode_relay_limit(value: RelayLimitValue, _mask: bytes) -> bytes:
    return bytes((value.limit,)) + value.dropped.to_bytes(7, "big")


def _decode_algorithms(value: bytes, _mask: bytes) -> tuple[PasswordAlgorithmValue, ...]:
    algorithms = []
    position = 0
    while position < len(value):
        if position + 4 > len(value):
            raise STUNError("a password algorithm is cut short")
        number, size = _ALGORITHM.unpack_from(value, position)
        end = position + 4 + size
        if end > len(value):
            raise STUNError("the parameters of a password algorithm are cut short")
        algorithms.append(PasswordAlgorithmValue(number, value[position + 4 : end]))
        # The last entry may end with the attribute, whose own padding serves for it.
        position = end + (-size & 3)
    return tuple(algorithms)


def _encode_algorithms(value: tuple[PasswordAlgorithmValue, ...], _mask: bytes) -> bytes:
    return b"".join(
        _ALGORITHM.pack(number, len(parameters)) + parameters + bytes(-len(parameters) & 3)
        for number, parameters in value
    )


def _decode_algorithm(value: bytes, mask: bytes) -> PasswordAlgorithmValue:
    algorithms = _decode_algorithms(value, mask)
    if len(algorithms) != 1:
        raise STUNError("PASSWORD-ALGORITHM names another number of algorithms than one")
    return algorithms[0]


def _encode_algorithm(value: PasswordAlgorithmValue, mask: bytes) -> bytes:
    return _encode_algorithms((value,), mask)


_PLAIN_ADDRESS = Codec(_decode_address, _encode_address)
_XOR_ADDRESS = Codec(_decode_xor_address, _encode_xor_address)
_NUMBER32 = _unsigned(_UINT32)
_NUMBER64 = _unsigned(_UINT64)
_FLAG = Codec(_decode_flag, _encode_flag)
_SHORT_TEXT = _text(763, MAX_CHARACTERS)
_FAMILY = _leading(1, IPV6, lowest=IPV4)

CODECS: dict[int, Codec] = {
    Attribute.MAPPED_ADDRESS: _PLAIN_ADDRESS,
    Attribute.USERNAME: _text(MAX_USERNAME, MAX_USERNAME),
    Attribute.ERROR_CODE: Codec(_decode_error_code, _encode_error_code),
    Attribute.UNKNOWN_ATTRIBUTES: Codec(_decode_types, _encode_types),
    Attribute.REALM: _SHORT_TEXT,
    Attribute.NONCE: _SHORT_TEXT,
    Attribute.PASSWORD_ALGORITHM: Codec(_decode_algorithm, _encode_algorithm),
    Attribute.USERHASH: _octets(32),
    Attribute.XOR_MAPPED_ADDRESS: _XOR_ADDRESS,
    Attribute.PASSWORD_ALGORITHMS: Codec(_decode_algorithms, _encode_algorithms),
    Attribute.ALTERNATE_DOMAIN: _text(MAX_DOMAIN, MAX_DOMAIN),
    Attribute.SOFTWARE: _SHORT_TEXT,
    Attribute.ALTERNATE_SERVER: _PLAIN_ADDRESS,
    Attribute.PRIORITY: _NUMBER32,
    Attribute.USE_CANDIDATE: _FLAG,
    Attribute.ICE_CONTROLLED: _NUMBER64,
    Attribute.ICE_CONTROLLING: _NUMBER64,
    Attribute.NOMINATION: _NUMBER32,
    Attribute.PROBE: _octets(16),
    Attribute.RELAY_LIMIT: Codec(_decode_relay_limit, _encode_relay_limit),
    Attribute.RECEIVED_CHECK: _octets(12),
    Attribute.CHANNEL_NUMBER: _leading(2, 0xFFFF),
    Attribute.LIFETIME: _NUMBER32,
    Attribute.XOR_PEER_ADDRESS: _XOR_ADDRESS,
    Attribute.DATA: _octets(),
    Attribute.XOR_RELAYED_ADDRESS: _XOR_ADDRESS,
    Attribute.REQUESTED_ADDRESS_FAMILY: _FAMILY,
    Attribute.EVEN_PORT: Codec(_decode_even_port, _encode_even_port),
    Attribute.REQUESTED_TRANSPORT: _leading(1, 0xFF),
    Attribute.DONT_FRAGMENT: _FLAG,
    Attribute.RESERVATION_TOKEN: _octets(8),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: _FAMILY,
    Attribute.ADDRESS_ERROR_CODE: Codec(_decode_address_error, _encode_address_error),
    Attribute.ICMP: Codec(_decode_icmp, _encode_icmp),
    Attribute.CHANGE_REQUEST: _NUMBER32,
    Attribute.PADDING: _octets(),
    Attribute.RESPONSE_PORT: Codec(_decode_response_port, _encode_response_port),
    Attribute.RESPONSE_ORIGIN: _PLAIN_ADDRESS,
    Attribute.OTHER_ADDRESS: _PLAIN_ADDRESS,
}
"""The codec of every attribute in `Attribute` but the three that protect the message."""

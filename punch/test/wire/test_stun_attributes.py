"""Tests for punch.wire.stun_attributes: each value, its limits, and round trips through whole messages."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.wire.test_stun import (
    TRANSACTION,
    raw_attribute,
    raw_message,
    request,
)
from punch.wire.address import Address, canonical
from punch.wire.stun import (
    Attribute,
    MessageClass,
    STUNError,
    StunMessage,
    encode,
    parse,
)
from punch.wire.stun_attributes import (
    CODECS,
    AddressErrorCode,
    ICMPError,
    PasswordAlgorithmValue,
    RelayLimit,
    RelayLimitValue,
)

ADDRESSES = st.builds(
    lambda ip, port: canonical(str(ip), port),
    st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)),
    st.integers(0, 65535),
)
SHORT_TEXTS = st.text(max_size=127)
CODES = st.integers(300, 699)
ALGORITHMS = st.builds(PasswordAlgorithmValue, st.integers(0, 65535), st.binary(max_size=20))

VALUES: dict[Attribute, st.SearchStrategy[Any]] = {
    Attribute.MAPPED_ADDRESS: ADDRESSES,
    Attribute.USERNAME: SHORT_TEXTS,
    Attribute.ERROR_CODE: st.tuples(CODES, SHORT_TEXTS),
    Attribute.UNKNOWN_ATTRIBUTES: st.lists(st.integers(0, 65535), max_size=20).map(tuple),
    Attribute.REALM: SHORT_TEXTS,
    Attribute.NONCE: SHORT_TEXTS,
    Attribute.PASSWORD_ALGORITHM: ALGORITHMS,
    Attribute.USERHASH: st.binary(min_size=32, max_size=32),
    Attribute.XOR_MAPPED_ADDRESS: ADDRESSES,
    Attribute.PASSWORD_ALGORITHMS: st.lists(ALGORITHMS, max_size=4).map(tuple),
    Attribute.ALTERNATE_DOMAIN: st.text(max_size=63),
    Attribute.SOFTWARE: SHORT_TEXTS,
    Attribute.ALTERNATE_SERVER: ADDRESSES,
    Attribute.PRIORITY: st.integers(0, 2**32 - 1),
    Attribute.USE_CANDIDATE: st.just(True),
    Attribute.ICE_CONTROLLED: st.integers(0, 2**64 - 1),
    Attribute.ICE_CONTROLLING: st.integers(0, 2**64 - 1),
    Attribute.NOMINATION: st.integers(0, 2**32 - 1),
    Attribute.PROBE: st.binary(min_size=16, max_size=16),
    Attribute.RELAY_LIMIT: st.builds(RelayLimitValue, st.sampled_from(RelayLimit), st.integers(0, 2**56 - 1)),
    Attribute.RECEIVED_CHECK: st.binary(min_size=12, max_size=12),
    Attribute.CHANNEL_NUMBER: st.integers(0, 65535),
    Attribute.LIFETIME: st.integers(0, 2**32 - 1),
    Attribute.XOR_PEER_ADDRESS: ADDRESSES,
    Attribute.DATA: st.binary(max_size=1500),
    Attribute.XOR_RELAYED_ADDRESS: ADDRESSES,
    Attribute.REQUESTED_ADDRESS_FAMILY: st.sampled_from((1, 2)),
    Attribute.EVEN_PORT: st.booleans(),
    Attribute.REQUESTED_TRANSPORT: st.integers(0, 255),
    Attribute.DONT_FRAGMENT: st.just(True),
    Attribute.RESERVATION_TOKEN: st.binary(min_size=8, max_size=8),
    Attribute.ADDITIONAL_ADDRESS_FAMILY: st.sampled_from((1, 2)),
    Attribute.ADDRESS_ERROR_CODE: st.builds(AddressErrorCode, st.sampled_from((1, 2)), CODES, SHORT_TEXTS),
    Attribute.ICMP: st.builds(ICMPError, st.integers(0, 127), st.integers(0, 511), st.integers(0, 2**32 - 1)),
    Attribute.CHANGE_REQUEST: st.integers(0, 2**32 - 1),
    Attribute.PADDING: st.binary(max_size=1500),
    Attribute.RESPONSE_PORT: st.integers(0, 65535),
    Attribute.RESPONSE_ORIGIN: ADDRESSES,
    Attribute.OTHER_ADDRESS: ADDRESSES,
}

UNKNOWN = st.tuples(
    st.integers(0, 65535).filter(lambda kind: kind not in set(Attribute)), st.binary(max_size=40)
)
KNOWN = st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(int(kind)), VALUES[kind]))
MESSAGES = st.builds(
    StunMessage,
    st.integers(0, 0xFFF),
    st.sampled_from(MessageClass),
    st.binary(min_size=12, max_size=12),
    st.lists(st.one_of(KNOWN, UNKNOWN), max_size=8).map(tuple),
)
PROPERTIES = settings(derandomize=True, deadline=None, max_examples=40)


class RoundTripTests(SynchronousTestCase):
    """What is written is read as it was."""

    def test_all_are_tried(self) -> None:
        """Every attribute has a codec and a strategy, but the three that protect the message."""
        protection = {Attribute.MESSAGE_INTEGRITY, Attribute.MESSAGE_INTEGRITY_SHA256, Attribute.FINGERPRINT}
        self.assertEqual(set(VALUES), set(Attribute) - protection)
        self.assertEqual(set(CODECS), set(VALUES))

    @given(MESSAGES, st.one_of(st.none(), st.binary(max_size=64)), st.booleans(), st.booleans())
    @PROPERTIES
    def test_messages(self, message: StunMessage, key: bytes | None, fingerprint: bool, sha256: bool) -> None:
        """Whole messages, with and without protection."""
        data = encode(message, key, fingerprint=fingerprint, sha256=sha256)
        read = parse(data)
        self.assertEqual(read, message)
        self.assertEqual(read.has_fingerprint, fingerprint)
        self.assertEqual(read.has_integrity(), key is not None)
        if key is not None:
            self.assertTrue(read.check_integrity(key))
            self.assertFalse(read.check_integrity(key + b"\x01"))
        self.assertEqual(encode(read, key, fingerprint=fingerprint, sha256=sha256), data)

    @given(st.data())
    @PROPERTIES
    def test_damage(self, data: st.DataObject) -> None:
        """A message with a changed byte or a cut end is read or refused, and nothing else happens."""
        whole = encode(data.draw(MESSAGES), b"key", fingerprint=False)
        position = data.draw(st.integers(0, len(whole) - 1))
        changed = whole[:position] + data.draw(st.binary(min_size=1, max_size=1)) + whole[position + 1 :]
        for damaged in (changed, whole[:position]):
            try:
                parse(damaged)
            except STUNError:
                continue

    @given(st.sampled_from(sorted(Attribute)), st.binary(max_size=40))
    @PROPERTIES
    def test_any_value(self, kind: Attribute, value: bytes) -> None:
        """Whatever bytes a known attribute carries: refused, or a value that can be written again."""
        try:
            message = parse(raw_message(raw_attribute(kind, value)))
        except STUNError:
            return
        self.assertEqual(parse(encode(message)), message)


class ValueTests(SynchronousTestCase):
    """The bytes of single attributes."""

    def read(self, kind: int, value: bytes) -> Any:
        """The value of an attribute with these bytes."""
        return parse(raw_message(raw_attribute(kind, value))).get(kind)

    def write(self, kind: int, value: Any) -> bytes:
        """The bytes of an attribute with this value, without header and padding."""
        data = encode(request((kind, value)), fingerprint=False)
        return data[24 : 24 + int.from_bytes(data[22:24], "big")]

    def refused(self, kind: int, *values: bytes) -> None:
        """None of these bytes are a value."""
        for value in values:
            self.assertRaises(STUNError, self.read, kind, value)

    def unwritable(self, kind: int, *values: Any) -> None:
        """None of these values can be written."""
        for value in values:
            self.assertRaises(STUNError, self.write, kind, value)

    def test_plain_address(self) -> None:
        """MAPPED-ADDRESS and its like are not XORed; their first byte is ignored."""
        for kind in (
            Attribute.MAPPED_ADDRESS,
            Attribute.ALTERNATE_SERVER,
            Attribute.RESPONSE_ORIGIN,
            Attribute.OTHER_ADDRESS,
        ):
            self.assertEqual(self.read(kind, b"\xff\x01\x12\x34\xc0\x00\x02\x01"), ("192.0.2.1", 0x1234))
            self.assertEqual(self.write(kind, Address("192.0.2.1", 0x1234)).hex(), "00011234c0000201")

    def test_xor_address(self) -> None:
        """The port is XORed with half the cookie, IPv6 with cookie and transaction ID."""
        for kind in (
            Attribute.XOR_MAPPED_ADDRESS,
            Attribute.XOR_PEER_ADDRESS,
            Attribute.XOR_RELAYED_ADDRESS,
        ):
            self.assertEqual(self.read(kind, b"\x00\x01\x21\x12\x21\x12\xa4\x42"), ("0.0.0.0", 0))
            self.assertEqual(self.read(kind, b"\x00\x02\x21\x12\x21\x12\xa4\x42" + TRANSACTION), ("::", 0))

    def test_mapped_ipv4(self) -> None:
        """An IPv4-mapped IPv6 address is read as the IPv4 address it is."""
        value = b"\x00\x02\x00\x50" + IPv6Address("::ffff:127.0.0.1").packed
        self.assertEqual(self.read(Attribute.MAPPED_ADDRESS, value), Address("127.0.0.1", 80))

    def test_bad_addresses(self) -> None:
        """Family and length must fit."""
        for kind in (Attribute.MAPPED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS):
            four, six = bytes(8), bytes(20)
            self.refused(kind, b"", bytes(4), four, six)
            self.refused(kind, b"\x00\x01" + bytes(5), b"\x00\x01" + bytes(7), b"\x00\x01" + six[2:])
            self.refused(kind, b"\x00\x02" + six[3:], b"\x00\x02" + bytes(19), b"\x00\x02" + four[2:])
            self.refused(kind, b"\x00\x03" + four[2:], b"\x01\x00" + four[2:])

    def test_numbers(self) -> None:
        """Their sizes are exact."""
        for kind in (
            Attribute.PRIORITY,
            Attribute.LIFETIME,
            Attribute.NOMINATION,
            Attribute.CHANGE_REQUEST,
        ):
            self.assertEqual(self.read(kind, b"\x01\x02\x03\x04"), 0x01020304)
            self.refused(kind, b"", bytes(3), bytes(5), bytes(8))
        for kind in (Attribute.ICE_CONTROLLED, Attribute.ICE_CONTROLLING):
            self.assertEqual(self.read(kind, bytes(7) + b"\x01"), 1)
            self.refused(kind, b"", bytes(4), bytes(7), bytes(9))
            self.unwritable(kind, -1, 1 << 64)

    def test_reserved_bytes(self) -> None:
        """Reserved bytes are ignored when read, and zero when written."""
        self.assertEqual(self.read(Attribute.CHANNEL_NUMBER, b"\x40\x00\xff\xff"), 0x4000)
        self.assertEqual(self.write(Attribute.CHANNEL_NUMBER, 0x4FFF).hex(), "4fff0000")
        self.assertEqual(self.read(Attribute.REQUESTED_TRANSPORT, b"\x11\xff\xff\xff"), 17)
        self.assertEqual(self.write(Attribute.REQUESTED_TRANSPORT, 17).hex(), "11000000")
        self.assertEqual(self.read(Attribute.REQUESTED_ADDRESS_FAMILY, b"\x02\xff\xff\xff"), 2)
        self.assertEqual(self.write(Attribute.ADDITIONAL_ADDRESS_FAMILY, 2).hex(), "02000000")
        for kind in (
            Attribute.CHANNEL_NUMBER,
            Attribute.REQUESTED_TRANSPORT,
            Attribute.REQUESTED_ADDRESS_FAMILY,
            Attribute.ADDITIONAL_ADDRESS_FAMILY,
        ):
            self.refused(kind, b"", b"\x01", b"\x01\x00", b"\x01\x00\x00", b"\x01\x00\x00\x00\x00")
            self.unwritable(kind, -1, 0x10000)

    def test_families(self) -> None:
        """The address families are IPv4 and IPv6; others are refused."""
        for kind in (Attribute.REQUESTED_ADDRESS_FAMILY, Attribute.ADDITIONAL_ADDRESS_FAMILY):
            self.refused(kind, bytes(4), b"\x03\x00\x00\x00")
            self.unwritable(kind, 0, 3)

    def test_even_port(self) -> None:
        """One byte, of which the first bit counts."""
        self.assertIs(self.read(Attribute.EVEN_PORT, b"\x80"), True)
        self.assertIs(self.read(Attribute.EVEN_PORT, b"\x7f"), False)
        self.assertEqual(self.write(Attribute.EVEN_PORT, True), b"\x80")
        self.refused(Attribute.EVEN_PORT, b"", bytes(2), bytes(4))

    def test_flags(self) -> None:
        """They have no value; with one, they are no flags."""
        for kind in (Attribute.USE_CANDIDATE, Attribute.DONT_FRAGMENT):
            self.assertIs(self.read(kind, b""), True)
            self.refused(kind, b"\x00", b"\x01", bytes(4))
            self.unwritable(kind, False, None, b"")

    def test_username(self) -> None:
        """A USERNAME has at most 508 bytes of UTF-8."""
        self.assertEqual(self.read(Attribute.USERNAME, "é".encode() * 254), "é" * 254)
        self.refused(Attribute.USERNAME, b"x" * 509, "é".encode() * 255, b"\xff", b"\xc3", b"\xed\xa0\x80")
        self.unwritable(Attribute.USERNAME, "x" * 509, "é" * 255, "\ud800", None)

    def test_short_texts(self) -> None:
        """REALM, NONCE and SOFTWARE have at most 127 characters, whatever their size in bytes."""
        for kind in (Attribute.REALM, Attribute.NONCE, Attribute.SOFTWARE):
            self.assertEqual(self.read(kind, "😀".encode() * 127), "😀" * 127)
            self.refused(kind, b"x" * 128, b"x" * 764, b"\xc0\x80", "é".encode()[:1])
            self.unwritable(kind, "x" * 128, "\udfff", 5)

    def test_domain(self) -> None:
        """An ALTERNATE-DOMAIN has at most 255 bytes."""
        self.assertEqual(self.read(Attribute.ALTERNATE_DOMAIN, b"x" * 255), "x" * 255)
        self.refused(Attribute.ALTERNATE_DOMAIN, b"x" * 256)

    def test_exact_sizes(self) -> None:
        """A user hash has 32 bytes, a reservation token 8."""
        self.refused(Attribute.USERHASH, b"", bytes(31), bytes(33))
        self.refused(Attribute.RESERVATION_TOKEN, b"", bytes(7), bytes(9))
        self.unwritable(Attribute.USERHASH, bytes(20))
        self.unwritable(Attribute.RESERVATION_TOKEN, bytes(4))

    def test_error_code(self) -> None:
        """Hundreds from 3 to 6, the rest from 0 to 99, the reserved bits ignored."""
        kind = Attribute.ERROR_CODE
        self.assertEqual(self.read(kind, b"\xff\xff\xfc\x14Unknown"), (420, "Unknown"))
        self.assertEqual(self.write(kind, (699, "é")), b"\x00\x00\x06\x63" + "é".encode())
        self.refused(kind, b"", bytes(3), bytes(4), b"\x00\x00\x02\x00", b"\x00\x00\x07\x00")
        self.refused(kind, b"\x00\x00\x04\x64", b"\x00\x00\x04\xff", b"\x00\x00\x04\x00\xff")
        self.refused(kind, b"\x00\x00\x04\x00" + b"x" * 128)
        self.unwritable(kind, (299, ""), (700, ""), (400, "x" * 128), 400, (400,))

    def test_address_error_code(self) -> None:
        """An error code with the family it is about."""
        kind = Attribute.ADDRESS_ERROR_CODE
        self.assertEqual(self.read(kind, b"\x02\x00\x04\x28no"), AddressErrorCode(2, 440, "no"))
        self.assertEqual(self.write(kind, AddressErrorCode(1, 508)), b"\x01\x00\x05\x08")
        self.refused(kind, b"\x02\x00\x04", b"\x00\x00\x04\x28", b"\x03\x00\x04\x28", b"\x01\x00\x02\x00")
        self.unwritable(kind, AddressErrorCode(0, 440), AddressErrorCode(1, 200))

    def test_unknown_attributes(self) -> None:
        """Two bytes each."""
        kind = Attribute.UNKNOWN_ATTRIBUTES
        self.assertEqual(self.read(kind, b"\x00\x03\x77\x77\x00\x26"), (3, 0x7777, 0x26))
        self.refused(kind, b"\x00", b"\x00\x03\x77")
        self.unwritable(kind, (0x10000,), (-1,))

    def test_icmp(self) -> None:
        """Two reserved bytes, seven bits of type, nine of code, four bytes of data."""
        kind = Attribute.ICMP
        self.assertEqual(self.read(kind, b"\xff\xff\x06\x04\x00\x00\x05\x00"), ICMPError(3, 4, 1280))
        self.assertEqual(self.write(kind, ICMPError(127, 511, 1)).hex(), "0000ffff00000001")
        self.refused(kind, b"", bytes(4), bytes(7), bytes(9))
        self.unwritable(kind, ICMPError(128, 0, 0), ICMPError(0, 512, 0), ICMPError(0, 0, -1))

    def test_response_port(self) -> None:
        """Two bytes, with or without two of padding in the length."""
        self.assertEqual(self.read(Attribute.RESPONSE_PORT, b"\x12\x34"), 0x1234)
        self.assertEqual(self.read(Attribute.RESPONSE_PORT, b"\x12\x34\xff\xff"), 0x1234)
        self.refused(Attribute.RESPONSE_PORT, b"", b"\x12", b"\x12\x34\x56", bytes(8))
        self.unwritable(Attribute.RESPONSE_PORT, 65536, -1)

    def test_password_algorithms(self) -> None:
        """A list of numbers with parameters, each padded."""
        kind = Attribute.PASSWORD_ALGORITHMS
        two = (PasswordAlgorithmValue(2), PasswordAlgorithmValue(9, b"abc"))
        self.assertEqual(self.write(kind, two).hex(), "00020000" + "00090003" + "61626300")
        self.assertEqual(self.read(kind, bytes.fromhex("00020000" + "00090003" + "616263")), two)
        self.refused(kind, b"\x00", b"\x00\x02\x00", b"\x00\x02\x00\x01", b"\x00\x02\x00\x00\x00\x01")
        single = Attribute.PASSWORD_ALGORITHM
        self.refused(single, b"", bytes.fromhex("0002000000010000"))

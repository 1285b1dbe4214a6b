"""Tests for punch.wire.stun: the RFC's own vectors, strictness, protection, and round trips."""

from __future__ import annotations

import hmac
import struct
from dataclasses import replace
from typing import Any
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.wire.stun_vectors import (
    LONG_TERM_PASSWORD,
    LONG_TERM_REQUEST,
    LONG_TERM_USERNAME,
    PASSWORD,
    REALM,
    SAMPLE_IPV4_RESPONSE,
    SAMPLE_IPV6_RESPONSE,
    SAMPLE_REQUEST,
    USERHASH_REQUEST,
    VECTORS,
)
from punch.wire.address import Address
from punch.wire.stun import (
    HEADER_SIZE,
    Attribute,
    Invalid,
    MessageClass,
    Method,
    PasswordAlgorithm,
    STUNError,
    StunMessage,
    TooManyAttributesError,
    Undecoded,
    binding_request,
    encode,
    error,
    long_term_key,
    mapped_address,
    parse,
    success,
    userhash,
)
from punch.wire.stun_attributes import PasswordAlgorithmValue

TRANSACTION = bytes(range(12))
COOKIE = b"\x21\x12\xa4\x42"


def raw_attribute(kind: int, value: bytes, padding: bytes = b"\x00") -> bytes:
    """The bytes of one attribute, whatever it is."""
    return struct.pack(">HH", kind, len(value)) + value + padding * (-len(value) & 3)


def raw_message(*attributes: bytes, message_type: int = 1) -> bytes:
    """The bytes of a message with these attributes, lawful or not."""
    body = b"".join(attributes)
    return struct.pack(">HH", message_type, len(body)) + COOKIE + TRANSACTION + body


def raw_fingerprint(covered: bytes) -> bytes:
    """`covered`, whose header says so, with the FINGERPRINT that belongs to it."""
    length = struct.pack(">H", len(covered) - HEADER_SIZE + 8)
    covered = covered[:2] + length + covered[4:]
    return covered + struct.pack(">HHI", Attribute.FINGERPRINT, 4, crc32(covered) ^ 0x5354554E)


def request(*attributes: tuple[int, Any]) -> StunMessage:
    """A Binding request."""
    return StunMessage(Method.BINDING, MessageClass.REQUEST, TRANSACTION, attributes)


class VectorTests(SynchronousTestCase):
    """The messages that the RFCs print are read as the RFCs say."""

    def test_sample_request(self) -> None:
        """RFC 5769, section 2.1."""
        message = parse(SAMPLE_REQUEST)
        self.assertEqual(message.method, Method.BINDING)
        self.assertIs(message.message_class, MessageClass.REQUEST)
        self.assertEqual(message.transaction_id.hex(), "b7e7a701bc34d686fa87dfae")
        self.assertEqual(
            message.attributes,
            (
                (Attribute.SOFTWARE, "STUN test client"),
                (Attribute.PRIORITY, 0x6E0001FF),
                (Attribute.ICE_CONTROLLED, 0x932FF9B151263B36),
                (Attribute.USERNAME, "evtj:h6vY"),
            ),
        )
        self.assertTrue(message.has_fingerprint)
        self.assertTrue(message.check_integrity(PASSWORD))
        self.assertFalse(message.check_integrity(PASSWORD + b"x"))

    def test_sample_ipv4_response(self) -> None:
        """RFC 5769, section 2.2."""
        message = parse(SAMPLE_IPV4_RESPONSE)
        self.assertIs(message.message_class, MessageClass.SUCCESS)
        self.assertEqual(message.get(Attribute.XOR_MAPPED_ADDRESS), Address("192.0.2.1", 32853))
        self.assertEqual(message.get(Attribute.SOFTWARE), "test vector")
        self.assertTrue(message.has_fingerprint)
        self.assertTrue(message.check_integrity(PASSWORD))

    def test_sample_ipv6_response(self) -> None:
        """RFC 5769, section 2.3."""
        message = parse(SAMPLE_IPV6_RESPONSE)
        self.assertEqual(
            message.get(Attribute.XOR_MAPPED_ADDRESS),
            Address("2001:db8:1234:5678:11:2233:4455:6677", 32853),
        )
        self.assertTrue(message.has_fingerprint)
        self.assertTrue(message.check_integrity(PASSWORD))

    def test_long_term_request(self) -> None:
        """RFC 5769, section 2.4, read, and written again to the byte."""
        message = parse(LONG_TERM_REQUEST)
        key = long_term_key(LONG_TERM_USERNAME, REALM, LONG_TERM_PASSWORD)
        self.assertEqual(message.get(Attribute.USERNAME), LONG_TERM_USERNAME)
        self.assertEqual(message.get(Attribute.NONCE), "f//499k954d6OL34oL9FSTvy64sA")
        self.assertEqual(message.get(Attribute.REALM), REALM)
        self.assertFalse(message.has_fingerprint)
        self.assertTrue(message.check_integrity(key))
        self.assertEqual(encode(message, key, fingerprint=False), LONG_TERM_REQUEST)

    def test_userhash_request(self) -> None:
        """RFC 8489, appendix B.1, read, and written again to the byte."""
        message = parse(USERHASH_REQUEST)
        key = long_term_key(LONG_TERM_USERNAME, REALM, LONG_TERM_PASSWORD, PasswordAlgorithm.SHA256)
        self.assertEqual(message.get(Attribute.USERHASH), userhash(LONG_TERM_USERNAME, REALM))
        self.assertEqual(message.get(Attribute.PASSWORD_ALGORITHM), PasswordAlgorithmValue(2))
        self.assertTrue(message.check_integrity(key))
        self.assertFalse(message.check_integrity(long_term_key(LONG_TERM_USERNAME, REALM, "TheMatrIX")))
        self.assertEqual(encode(message, key, fingerprint=False, sha256=True), USERHASH_REQUEST)

    def test_header(self) -> None:
        """An empty Binding request is twenty bytes, in the order the RFC draws them."""
        self.assertEqual(
            encode(request(), fingerprint=False), bytes.fromhex("000100002112a442") + TRANSACTION
        )

    def test_message_types(self) -> None:
        """The class bits lie between the method's (RFC 8489, section 5; RFC 8656, section 17)."""
        for method, message_class, written in [
            (Method.BINDING, MessageClass.REQUEST, 0x0001),
            (Method.BINDING, MessageClass.INDICATION, 0x0011),
            (Method.BINDING, MessageClass.SUCCESS, 0x0101),
            (Method.BINDING, MessageClass.ERROR, 0x0111),
            (Method.ALLOCATE, MessageClass.SUCCESS, 0x0103),
            (Method.SEND, MessageClass.INDICATION, 0x0016),
            (Method.CHANNEL_BIND, MessageClass.ERROR, 0x0119),
            (0xFFF, MessageClass.REQUEST, 0x3EEF),
            (0xFFF, MessageClass.ERROR, 0x3FFF),
        ]:
            data = encode(StunMessage(method, message_class, TRANSACTION), fingerprint=False)
            self.assertEqual(int.from_bytes(data[:2], "big"), written)
            self.assertEqual(parse(data), StunMessage(method, message_class, TRANSACTION))


class StrictnessTests(SynchronousTestCase):
    """What is not exactly one well-formed message is refused."""

    def refused(self, data: bytes) -> None:
        """`data` raises STUNError, and nothing else."""
        self.assertRaises(STUNError, parse, data)

    def test_truncated_at_every_byte(self) -> None:
        """No beginning of a message is a message."""
        for vector in VECTORS:
            for size in range(len(vector)):
                self.refused(vector[:size])

    def test_truncated_with_a_fitting_header(self) -> None:
        """A message cut inside an attribute is refused even if its length was adjusted."""
        for vector in VECTORS:
            boundaries = set()
            position = HEADER_SIZE
            while position < len(vector):
                boundaries.add(position)
                position += 4 + (int.from_bytes(vector[position + 2 : position + 4], "big") + 3 & ~3)
            for size in range(HEADER_SIZE, len(vector)):
                cut = vector[:2] + struct.pack(">H", size - HEADER_SIZE) + vector[4:size]
                if size in boundaries:
                    parse(cut)
                else:
                    self.refused(cut)

    def test_more_than_the_message(self) -> None:
        """A message with bytes after it is refused."""
        for vector in VECTORS:
            for size in (1, 3, 4, 1000):
                self.refused(vector + bytes(size))

    def test_noise(self) -> None:
        """Empty, tiny, and enormous datagrams are no messages."""
        for data in (b"", b"\x00", bytes(19), bytes(20), b"\xff" * 20, bytes(65507), b"\xff" * 65507):
            self.refused(data)

    def test_first_two_bits(self) -> None:
        """They are zero."""
        for bits in (0x40, 0x80, 0xC0):
            self.refused(bytes([SAMPLE_REQUEST[0] | bits]) + SAMPLE_REQUEST[1:])

    def test_magic_cookie(self) -> None:
        """Each of its bytes counts; the messages of RFC 3489 have none."""
        plain = raw_message()
        for position in range(4, 8):
            self.refused(plain[:position] + bytes([plain[position] ^ 1]) + plain[position + 1 :])

    def test_length_not_a_multiple_of_four(self) -> None:
        """A length that is no multiple of four is refused, even if that many bytes follow."""
        for size in (1, 2, 3, 5):
            data = raw_message()
            self.refused(data[:2] + struct.pack(">H", size) + data[4:] + bytes(size))

    def test_attribute_overruns(self) -> None:
        """An attribute that says it is longer than what is left, by a byte or by all it can."""
        for size in (5, 8, 0xFFFF):
            self.refused(raw_message(struct.pack(">HH", 0x7777, size) + bytes(4)))

    def test_fingerprint_wrong(self) -> None:
        """A flipped bit anywhere is found out."""
        data = encode(request((Attribute.PRIORITY, 1), (0x7777, b"opaque")))
        for position in range(len(data)):
            changed = data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
            if len(data) - 8 <= position < len(data) - 6:
                # Now it is another attribute, and the message has no FINGERPRINT.
                self.assertFalse(parse(changed).has_fingerprint)
            else:
                self.refused(changed)

    def test_fingerprint_length(self) -> None:
        """It has four bytes."""
        for size in (0, 3, 5, 8):
            self.refused(raw_message(raw_attribute(Attribute.FINGERPRINT, bytes(size))))

    def test_fingerprint_last(self) -> None:
        """A FINGERPRINT must be the last attribute, even if it is right for what is before it."""
        data = raw_fingerprint(raw_message())
        after = data[:2] + struct.pack(">H", 16) + data[4:] + raw_attribute(0x8022, b"more")
        self.refused(after)
        body = raw_attribute(0x8022, b"more")
        covered = raw_message(body)
        covered = covered[:2] + struct.pack(">H", 16) + covered[4:20]
        crc = struct.pack(">HHI", Attribute.FINGERPRINT, 4, crc32(covered) ^ 0x5354554E)
        self.refused(covered + crc + body)

    def test_integrity_lengths(self) -> None:
        """SHA-1 has 20 bytes; SHA-256 has 16 to 32, a multiple of four."""
        for size in (0, 16, 19, 21, 24):
            self.refused(raw_message(raw_attribute(Attribute.MESSAGE_INTEGRITY, bytes(size))))
        for size in (0, 12, 15, 17, 30, 33, 36):
            self.refused(raw_message(raw_attribute(Attribute.MESSAGE_INTEGRITY_SHA256, bytes(size))))
        for size in (16, 20, 24, 28, 32):
            parse(raw_message(raw_attribute(Attribute.MESSAGE_INTEGRITY_SHA256, bytes(size))))

    @given(st.binary(max_size=200))
    @settings(derandomize=True, deadline=None, max_examples=100)
    def test_anything(self, body: bytes) -> None:
        """Whatever follows a good header, it is read or refused with STUNError."""
        body += bytes(-len(body) & 3)
        data = raw_message(body)
        try:
            message = parse(data)
        except STUNError:
            return
        self.assertEqual(message.transaction_id, TRANSACTION)

    def test_many_attributes(self) -> None:
        """As many empty attributes as fit in a message are read, in order."""
        count = 0xFFFC // 4
        message = parse(raw_message(raw_attribute(0xFFFE, b"") * count))
        self.assertEqual(message.attributes, ((0xFFFE, b""),) * count)

    def test_no_more_than_wanted(self) -> None:
        """A message with more attributes than asked for is refused, and the others are not looked at."""
        most = raw_attribute(0xFFFE, b"") * 64
        self.assertEqual(len(parse(raw_message(most), most=64).attributes), 64)
        for further in (raw_attribute(0xFFFE, b""), b"\xff" * 60_000):
            self.assertRaises(TooManyAttributesError, parse, raw_message(most + further), most=64)

    def test_only_some(self) -> None:
        """The first of each type that was asked for is decoded; the rest is when it is asked for."""
        peers = [Address("192.0.2.1", number) for number in range(3)]
        attributes = (
            (Attribute.XOR_PEER_ADDRESS, peers[0]),
            (Attribute.USERNAME, "first"),
            (Attribute.USERNAME, "second"),
            (0x7FFF, b"unknown"),
            (Attribute.LIFETIME, 600),
        )
        data = encode(StunMessage(3, MessageClass.REQUEST, TRANSACTION, attributes), b"key")
        message = parse(data, only=frozenset((Attribute.USERNAME, Attribute.NONCE)))
        left = [kind for kind, value in message.attributes if isinstance(value, Undecoded)]
        self.assertEqual(left, [Attribute.XOR_PEER_ADDRESS, Attribute.USERNAME, Attribute.LIFETIME])
        self.assertEqual(message.get(Attribute.USERNAME), "first")
        self.assertTrue(message.check_integrity(b"key"))
        decoded = message.decoded()
        self.assertEqual(decoded, parse(data))
        self.assertTrue(decoded.check_integrity(b"key"))
        wrong = raw_message(raw_attribute(Attribute.LIFETIME, b"") + raw_attribute(Attribute.USERNAME, b"x"))
        self.assertEqual(
            parse(wrong, only=frozenset((Attribute.USERNAME,))).decoded().invalid(), (Attribute.LIFETIME,)
        )

    def test_leniently(self) -> None:
        """Values that are not lawful are told of; what makes the message none still does."""
        data = raw_message(
            raw_attribute(Attribute.USERNAME, b"\xff") + raw_attribute(Attribute.LIFETIME, b"")
        )
        self.assertRaises(STUNError, parse, data)
        message = parse(data, lenient=True)
        self.assertEqual(message.invalid(), (Attribute.USERNAME, Attribute.LIFETIME))
        self.assertEqual(message.get(Attribute.USERNAME), Invalid(b"\xff"))
        self.assertRaises(STUNError, parse, data[:-4], lenient=True)


class AttributeOrderTests(SynchronousTestCase):
    """Duplicates, unknown attributes, and what follows the protection."""

    def test_first_duplicate_wins(self) -> None:
        """Later ones are ignored, though they can be asked for."""
        data = encode(request((Attribute.PRIORITY, 1), (Attribute.PRIORITY, 2)))
        message = parse(data)
        self.assertEqual(message.get(Attribute.PRIORITY), 1)
        self.assertEqual(list(message.get_all(Attribute.PRIORITY)), [1, 2])

    def test_absent(self) -> None:
        """`get` returns None for attributes that are absent."""
        self.assertIsNone(parse(raw_message()).get(Attribute.PRIORITY))
        self.assertNotIn(Attribute.PRIORITY, parse(raw_message()))

    def test_unknown_required(self) -> None:
        """Below 0x8000, once each, in the order they came."""
        message = parse(encode(request((0x7777, b""), (0x8777, b"x"), (0x0002, b"abcd"), (0x7777, b"again"))))
        self.assertEqual(message.unknown_required(), (0x7777, 0x0002))
        self.assertEqual(message.get(0x8777), b"x")
        self.assertEqual(parse(SAMPLE_REQUEST).unknown_required(), ())

    def test_padding_is_ignored(self) -> None:
        """Padding may have any bytes, and is no part of the value."""
        message = parse(raw_message(raw_attribute(Attribute.USERNAME, b"abcde", padding=b"\xff")))
        self.assertEqual(message.get(Attribute.USERNAME), "abcde")

    def test_after_integrity(self) -> None:
        """Attributes after MESSAGE-INTEGRITY are ignored, except FINGERPRINT."""
        protected = encode(request((Attribute.PRIORITY, 1)), b"key", fingerprint=False)
        injected = protected + raw_attribute(Attribute.USE_CANDIDATE, b"") + raw_attribute(0x7777, b"")
        message = parse(raw_fingerprint(injected))
        self.assertEqual(message.attributes, ((Attribute.PRIORITY, 1),))
        self.assertEqual(message.unknown_required(), ())
        self.assertTrue(message.has_fingerprint)
        self.assertTrue(message.check_integrity(b"key"))

    def test_after_integrity_malformed(self) -> None:
        """Values of ignored attributes may be invalid, but their lengths must be right."""
        protected = encode(request(), b"key", fingerprint=False)
        ignored = raw_attribute(Attribute.PRIORITY, b"too long for it")
        self.assertTrue(parse(raw_message(protected[20:] + ignored)).has_integrity())
        self.assertRaises(STUNError, parse, raw_message(protected[20:], struct.pack(">HH", 0x8022, 4)))

    def test_second_integrity(self) -> None:
        """A second MESSAGE-INTEGRITY does not replace the first."""
        protected = encode(request((Attribute.PRIORITY, 1)), b"key", fingerprint=False)
        forged = protected[20:] + raw_attribute(Attribute.MESSAGE_INTEGRITY, bytes(20))
        self.assertTrue(parse(raw_message(forged)).check_integrity(b"key"))

    def test_nothing_after_sha256(self) -> None:
        """What follows MESSAGE-INTEGRITY-SHA256 is ignored as well, MESSAGE-INTEGRITY included."""
        protected = encode(request((Attribute.PRIORITY, 1)), b"key", fingerprint=False, sha256=True)
        forged = protected[20:] + raw_attribute(Attribute.MESSAGE_INTEGRITY, bytes(20))
        message = parse(raw_message(forged + raw_attribute(Attribute.USE_CANDIDATE, b"")))
        self.assertEqual(message.attributes, ((Attribute.PRIORITY, 1),))
        self.assertTrue(message.check_integrity(b"key"))


class IntegrityTests(SynchronousTestCase):
    """MESSAGE-INTEGRITY of both kinds."""

    def test_every_bit(self) -> None:
        """A flipped bit in what is covered, or in the HMAC, is found out."""
        for sha256 in (False, True):
            data = encode(request((0x8777, b"opaque")), b"key", fingerprint=False, sha256=sha256)
            self.assertTrue(parse(data).check_integrity(b"key"))
            for position in [*range(8, 20), *range(24, 32), *range(36, len(data))]:
                changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
                self.assertFalse(parse(changed).check_integrity(b"key"), position)

    def test_absent(self) -> None:
        """A message without any is not protected by any key, the empty one included."""
        message = parse(encode(request((Attribute.USERNAME, "a:b"))))
        self.assertFalse(message.has_integrity())
        self.assertFalse(message.check_integrity(b""))
        self.assertFalse(request().check_integrity(b""))

    def test_both(self) -> None:
        """If both are there, both must be right."""
        key = b"key"
        first = encode(request(), key, fingerprint=False)
        whole = encode(request((Attribute.PRIORITY, 1)), key, fingerprint=False, sha256=True)
        # Take the sizes from real messages, then compute the second HMAC as section 14.6 says: over
        # everything before it, with the length up to its end.
        covered = first[:2] + struct.pack(">H", len(first) - 20 + 36) + first[4:]
        right = raw_attribute(Attribute.MESSAGE_INTEGRITY_SHA256, hmac.new(key, covered, "sha256").digest())
        wrong = raw_attribute(Attribute.MESSAGE_INTEGRITY_SHA256, bytes(32))
        self.assertEqual(len(right), len(whole) - 28)
        self.assertTrue(parse(raw_fingerprint(covered + right)).check_integrity(key))
        self.assertFalse(parse(covered + wrong).check_integrity(key))
        broken = covered[:-1] + bytes([covered[-1] ^ 1])
        recomputed = raw_attribute(
            Attribute.MESSAGE_INTEGRITY_SHA256, hmac.new(key, broken, "sha256").digest()
        )
        self.assertFalse(parse(broken + recomputed).check_integrity(key))

    def test_truncated_sha256(self) -> None:
        """A truncated one holds only where a usage says so."""
        covered = raw_message(raw_attribute(Attribute.PRIORITY, bytes(4)))
        covered = covered[:2] + struct.pack(">H", 8 + 4 + 16) + covered[4:]
        digest = hmac.new(b"key", covered, "sha256").digest()[:16]
        message = parse(covered + raw_attribute(Attribute.MESSAGE_INTEGRITY_SHA256, digest))
        self.assertTrue(message.has_integrity())
        self.assertFalse(message.check_integrity(b"key"))
        self.assertTrue(message.check_integrity(b"key", shortest_sha256=16))
        self.assertFalse(message.check_integrity(b"yek", shortest_sha256=16))


class EncodeTests(SynchronousTestCase):
    """We never send what we would refuse."""

    def refused(self, *attributes: tuple[int, Any]) -> None:
        """A message with these attributes can't be written."""
        self.assertRaises(STUNError, encode, request(*attributes))

    def test_bad_values(self) -> None:
        """Values of the wrong type or out of range raise STUNError."""
        self.refused((Attribute.PRIORITY, 1 << 32))
        self.refused((Attribute.PRIORITY, -1))
        self.refused((Attribute.PRIORITY, "1"))
        self.refused((Attribute.XOR_MAPPED_ADDRESS, Address("example.org", 1)))
        self.refused((Attribute.XOR_MAPPED_ADDRESS, Address("192.0.2.1", 65536)))
        self.refused((Attribute.XOR_MAPPED_ADDRESS, Address("2001:db8::1", -1)))
        self.refused((Attribute.XOR_MAPPED_ADDRESS, None))
        self.refused((Attribute.USERNAME, b"bytes"))
        self.refused((0x8777, "text"))
        self.refused((0x8777, bytes(0x10000)))
        self.refused((0x10000, b""))

    def test_protection_is_not_a_value(self) -> None:
        """MESSAGE-INTEGRITY and FINGERPRINT come from the arguments."""
        self.refused((Attribute.MESSAGE_INTEGRITY, bytes(20)))
        self.refused((Attribute.MESSAGE_INTEGRITY_SHA256, bytes(32)))
        self.refused((Attribute.FINGERPRINT, bytes(4)))

    def test_header(self) -> None:
        """Methods have 12 bits, transaction IDs 12 bytes."""
        self.assertRaises(STUNError, encode, StunMessage(0x1000, MessageClass.REQUEST, TRANSACTION))
        self.assertRaises(STUNError, encode, StunMessage(-1, MessageClass.REQUEST, TRANSACTION))
        self.assertRaises(STUNError, encode, StunMessage(1, MessageClass.REQUEST, bytes(11)))

    def test_too_long(self) -> None:
        """Lengths have 16 bits."""
        half = (0x8777, bytes(0x7FF4))
        encode(request(half, half))
        self.refused(half, half, half)

    def test_answers(self) -> None:
        """An answer has its question's method and transaction ID."""
        question = parse(SAMPLE_REQUEST)
        address = Address("192.0.2.1", 1)
        good = success(question, (Attribute.XOR_MAPPED_ADDRESS, address))
        self.assertEqual(good.transaction_id, question.transaction_id)
        self.assertIs(good.message_class, MessageClass.SUCCESS)
        self.assertEqual(parse(encode(good)).get(Attribute.XOR_MAPPED_ADDRESS), address)
        bad = parse(encode(error(question, 487, "Role Conflict", (Attribute.UNKNOWN_ATTRIBUTES, (1,)))))
        self.assertIs(bad.message_class, MessageClass.ERROR)
        self.assertEqual(bad.method, Method.BINDING)
        self.assertEqual(bad.get(Attribute.ERROR_CODE), (487, "Role Conflict"))
        self.assertEqual(bad.get(Attribute.UNKNOWN_ATTRIBUTES), (1,))


class ReflectionTests(SynchronousTestCase):
    """Questions to a reflector, and what its answers say."""

    def test_request(self) -> None:
        """A request has only its header and the attributes that were given: no FINGERPRINT is added."""
        self.assertEqual(len(binding_request(TRANSACTION)), HEADER_SIZE)
        data = binding_request(TRANSACTION, (Attribute.PRIORITY, 1))
        question = parse(data)
        self.assertEqual((question.method, question.message_class), (Method.BINDING, MessageClass.REQUEST))
        self.assertEqual((question.transaction_id, question.get(Attribute.PRIORITY)), (TRANSACTION, 1))
        self.assertFalse(question.has_fingerprint)

    def test_answers(self) -> None:
        """Only a success response counts, and only if all attributes that must be understood are."""
        address = Address("192.0.2.1", 1)
        attribute = (Attribute.XOR_MAPPED_ADDRESS, address)
        good = success(parse(binding_request(TRANSACTION)), attribute, (0x8777, b"not required"))
        self.assertEqual(mapped_address(parse(encode(good))), address)
        for bad in (
            replace(good, message_class=MessageClass.ERROR),
            replace(good, message_class=MessageClass.INDICATION),
            replace(good, method=Method.ALLOCATE),
            replace(good, attributes=()),
            replace(good, attributes=((Attribute.XOR_MAPPED_ADDRESS, address._replace(port=0)),)),
            replace(good, attributes=(attribute, (0x7777, b""))),
        ):
            self.assertIsNone(mapped_address(parse(encode(bad))), bad)

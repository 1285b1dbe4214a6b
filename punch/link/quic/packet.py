"""
Reading QUIC packets.

Without keys, the header of a packet is read, which is enough to route it (RFC 8999; RFC 9000, section 17).

With a copy of the other side's traffic secret, `PacketReader` removes packet protection (RFC 9001, sections 5
and 6), and `read_frames` lists the frames inside (RFC 9000, section 19; RFC 9221). The QUIC libraries decrypt
packets too, but neither tells which frames a packet had. `receive_limits.py` counts them, because a peer can
flood the library with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

CONNECTION_ID_LENGTH: Final = 8
"""Bytes of every connection ID that we choose."""
MIN_INITIAL: Final = 1200
"""Bytes below which a datagram with a client's Initial is ignored (RFC 9000, section 14.1)."""
QUIC_V1: Final = b"\x00\x00\x00\x01"

_LONG: Final = 0x80
_FIXED: Final = 0x40
_TYPE: Final = 0x30
_RETRY: Final = 0x30


def destination_id(data: bytes) -> bytes | None:
    """Return the destination connection ID of a datagram's first packet, None if it is no QUIC version 1."""
    if not data or not data[0] & _FIXED:
        return None
    if not data[0] & _LONG:
        return data[1 : 1 + CONNECTION_ID_LENGTH] if len(data) > CONNECTION_ID_LENGTH else None
    if len(data) < 7 or data[1:5] != QUIC_V1:
        return None
    length = data[5]
    return data[6 : 6 + length] if length <= 20 and len(data) > 6 + length else None


def is_short(data: bytes) -> bool:
    """Whether a packet has a short header, and is not a STUN message."""
    return data[0] & (_LONG | _FIXED) == _FIXED


def is_long(data: bytes) -> bool:
    """Whether a packet has a long header: the handshake, Retry or version negotiation."""
    return bool(data) and bool(data[0] & _LONG)


def is_retry(data: bytes) -> bool:
    """Whether a packet is a Retry packet, which no callee of ours sends."""
    return bool(data) and data[0] & (_LONG | _TYPE) == _LONG | _RETRY


def is_client_initial(data: bytes) -> bool:
    """
    Whether a datagram may begin a connection: it has an Initial packet of QUIC version 1 with a connection ID
    of at least 8 bytes (RFC 9000, section 7.2), and is padded as a client has to.
    """
    if len(data) < MIN_INITIAL or data[0] & (_LONG | _FIXED | _TYPE) != _LONG | _FIXED:
        return False
    return data[1:5] == QUIC_V1 and 8 <= data[5] <= 20 and data[6 + data[5]] <= 20


def packet_after_long_headers(data: bytes) -> int:
    """
    Return where the 1-RTT packet of a datagram begins, behind the packets of the handshake that may be
    coalesced with it (RFC 9000, section 12.2). It is the datagram's length if there is none.
    """
    start = 0
    try:
        while data[start] & _LONG:
            at = start + 5
            at += 1 + data[at]
            at += 1 + data[at]
            if data[start] & _TYPE == 0:
                length, at = _integer(data, at)
                at += length
            elif data[start] & _TYPE == _RETRY:
                return len(data)
            length, at = _integer(data, at)
            start = at + length
    except IndexError:
        return len(data)
    return min(start, len(data))


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (RFC 9000, section 16) and its end."""
    end = at + (1 << (data[at] >> 6))
    if end > len(data):
        raise IndexError("an integer is cut short")
    return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1), end


_SAMPLE_OFFSET: Final = 4
_SAMPLE_LENGTH: Final = 16
_SHA384_SECRET: Final = 48


@dataclass(frozen=True)
class CipherSuite:
    """The cipher suite of packet protection."""

    digest: HashAlgorithm
    key_length: int
    is_chacha: bool

    def expand(self, secret: bytes, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context."""
        full = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
        return HKDFExpand(self.digest, length, info).derive(secret)

    def aead(self, key: bytes) -> AESGCM | ChaCha20Poly1305:
        return ChaCha20Poly1305(key) if self.is_chacha else AESGCM(key)


def suites_for(secret: bytes) -> list[CipherSuite]:
    """The suites of TLS 1.3 that have a traffic secret of this length."""
    if len(secret) == _SHA384_SECRET:
        return [CipherSuite(SHA384(), 32, False)]
    return [CipherSuite(SHA256(), 16, False), CipherSuite(SHA256(), 32, True)]


class PacketKey:
    """The key of one key phase."""

    def __init__(self, suite: CipherSuite, secret: bytes) -> None:
        self._suite = suite
        self._secret = secret
        self._aead = suite.aead(suite.expand(secret, b"quic key", suite.key_length))
        self._iv = int.from_bytes(suite.expand(secret, b"quic iv", 12), "big")

    def open(self, packet_number: int, header: bytes, protected: bytes) -> bytes | None:
        """Decrypt a payload; returns None if it is not protected with this key."""
        try:
            return self._aead.decrypt((self._iv ^ packet_number).to_bytes(12, "big"), protected, header)
        except InvalidTag:
            return None

    def seal(self, packet_number: int, header: bytes, payload: bytes) -> bytes:
        """Encrypt a payload."""
        return self._aead.encrypt((self._iv ^ packet_number).to_bytes(12, "big"), payload, header)

    def following(self) -> PacketKey:
        """The key of the next phase (RFC 9001, section 6.1)."""
        return PacketKey(self._suite, self._suite.expand(self._secret, b"quic ku", len(self._secret)))


class HeaderProtection:
    """The mask over a packet's first byte and its packet number (RFC 9001, section 5.4)."""

    def __init__(self, suite: CipherSuite, secret: bytes) -> None:
        key = suite.expand(secret, b"quic hp", suite.key_length)
        self._chacha_key = key if suite.is_chacha else None
        self._aes = None if suite.is_chacha else Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def mask(self, sample: bytes) -> bytes:
        """Return the mask, five bytes or more, for 16 bytes of ciphertext."""
        if self._aes is not None:
            return self._aes.update(sample)
        assert self._chacha_key is not None
        return Cipher(algorithms.ChaCha20(self._chacha_key, sample), None).encryptor().update(bytes(5))


class PacketReader:
    """
    Reads the 1-RTT packets of one direction. Any number of packets may be left out.

    :param secret: the sender's first application traffic secret (RFC 8446, section 7.1).
    :ivar largest: the largest packet number that was read, -1 before the first.
    """

    def __init__(self, secret: bytes) -> None:
        self._suites = suites_for(secret)
        self._secret = secret
        self.largest = -1
        self._phase = 0
        self._begin(self._suites[0])

    def _begin(self, suite: CipherSuite) -> None:
        self._header = HeaderProtection(suite, self._secret)
        self._current = PacketKey(suite, self._secret)
        self._previous: PacketKey | None = None
        self._next: PacketKey | None = None

    def read(self, datagram: bytes) -> bytes | None:
        """
        Return the payload of the datagram's 1-RTT packet, b"" if it has none. None means that the packet is
        not protected with the keys of the current phase, the one before, or the next.
        """
        start = packet_after_long_headers(datagram)
        number_at = start + 1 + CONNECTION_ID_LENGTH
        if len(datagram) < number_at + _SAMPLE_OFFSET + _SAMPLE_LENGTH or datagram[start] & 0x80:
            return b""
        payload = self._open(datagram, start, number_at)
        if payload is None and self.largest < 0:
            # The first packet shows which of the suites was agreed on.
            for suite in self._suites[1:]:
                self._begin(suite)
                payload = self._open(datagram, start, number_at)
                if payload is not None:
                    break
            else:
                self._begin(self._suites[0])
        return payload

    def _open(self, datagram: bytes, start: int, number_at: int) -> bytes | None:
        sample_at = number_at + _SAMPLE_OFFSET
        mask = self._header.mask(datagram[sample_at : sample_at + _SAMPLE_LENGTH])
        first = datagram[start] ^ (mask[0] & 0x1F)
        length = (first & 3) + 1
        end = number_at + length
        number = int.from_bytes(datagram[number_at:end], "big") ^ int.from_bytes(mask[1 : 1 + length], "big")
        header = bytes([first]) + datagram[start + 1 : number_at] + number.to_bytes(length, "big")
        packet_number = decode_packet_number(number, length * 8, self.largest + 1)
        payload = self._try_keys(first >> 2 & 1, packet_number, header, datagram[end:])
        if payload is not None and packet_number > self.largest:
            self.largest = packet_number
        return payload

    def _try_keys(self, phase: int, packet_number: int, header: bytes, protected: bytes) -> bytes | None:
        if phase == self._phase:
            return self._current.open(packet_number, header, protected)
        if self._previous is not None:
            payload = self._previous.open(packet_number, header, protected)
            if payload is not None:
                return payload
        if self._next is None:
            self._next = self._current.following()
        payload = self._next.open(packet_number, header, protected)
        if payload is not None:
            self._previous, self._current, self._next = self._current, self._next, None
            self._phase = phase
        return payload


def decode_packet_number(truncated: int, bits: int, expected: int) -> int:
    """Restore a truncated packet number (RFC 9000, appendix A.3)."""
    window = 1 << bits
    candidate = (expected & ~(window - 1)) | truncated
    if candidate <= expected - window // 2 and candidate < (1 << 62) - window:
        return candidate + window
    if candidate > expected + window // 2 and candidate >= window:
        return candidate - window
    return candidate


class Frame(NamedTuple):
    """
    What the limits need of a frame.

    :ivar size: the bytes of its data; of an ACK, the number of its ranges.
    :ivar stream_id: that of any frame about a stream.
    :ivar offset: that of a STREAM frame; of a frame about a connection ID, its sequence number.
    :ivar fin: that of a STREAM frame.
    """

    frame_type: int
    size: int = 0
    stream_id: int = -1
    offset: int = 0
    fin: bool = False


class QuicFrameType:
    """Frame types of RFC 9000 and RFC 9221; ranges are named by their first."""

    PADDING: Final = 0x00
    PING: Final = 0x01
    ACK: Final = 0x02
    ACK_ECN: Final = 0x03
    RESET_STREAM: Final = 0x04
    STOP_SENDING: Final = 0x05
    CRYPTO: Final = 0x06
    NEW_TOKEN: Final = 0x07
    STREAM: Final = 0x08
    STREAM_LAST: Final = 0x0F
    MAX_DATA: Final = 0x10
    MAX_STREAM_DATA: Final = 0x11
    DATA_BLOCKED: Final = 0x14
    STREAM_DATA_BLOCKED: Final = 0x15
    NEW_CONNECTION_ID: Final = 0x18
    RETIRE_CONNECTION_ID: Final = 0x19
    PATH_CHALLENGE: Final = 0x1A
    PATH_RESPONSE: Final = 0x1B
    CONNECTION_CLOSE: Final = 0x1C
    HANDSHAKE_DONE: Final = 0x1E
    DATAGRAM: Final = 0x30
    DATAGRAM_WITH_LENGTH: Final = 0x31


_INTEGERS: Final = {
    QuicFrameType.PING: 0,
    QuicFrameType.RESET_STREAM: 3,
    QuicFrameType.STOP_SENDING: 2,
    QuicFrameType.MAX_DATA: 1,
    QuicFrameType.MAX_STREAM_DATA: 2,
    0x12: 1,
    0x13: 1,
    QuicFrameType.DATA_BLOCKED: 1,
    QuicFrameType.STREAM_DATA_BLOCKED: 2,
    0x16: 1,
    0x17: 1,
    QuicFrameType.HANDSHAKE_DONE: 0,
}
"""The number of integers in the frames that consist only of integers."""
_ABOUT_STREAMS: Final = frozenset({0x04, 0x05, 0x11, 0x15})


def read_frames(payload: bytes) -> Iterator[Frame]:
    """
    List the frames of a packet, up to the first that is unknown or cut short, which the library answers with
    a connection error.
    """
    reader = _Integers(payload)
    try:
        while reader.at < len(payload):
            if payload[reader.at] == QuicFrameType.PADDING:
                reader.at = len(payload) - len(payload[reader.at :].lstrip(b"\0"))
                continue
            frame = _read_frame(reader)
            if frame is None:
                return
            yield frame
    except IndexError:
        return


class _Integers:
    """Reads variable-length integers (RFC 9000, section 16)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self) -> int:
        """
        Return the next integer.

        :raise IndexError: the data ends before its end.
        """
        data, at = self.data, self.at
        first = data[at]
        if first < 0x40:
            self.at = at + 1
            return first
        end = at + (1 << (first >> 6))
        if end > len(data):
            raise IndexError("an integer is cut short")
        self.at = end
        return int.from_bytes(data[at:end], "big") & ((1 << (8 * (end - at) - 2)) - 1)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise IndexError("a frame is cut short")
        self.at += size


def _read_frame(reader: _Integers) -> Frame | None:
    take = reader.take
    frame_type = take()
    if QuicFrameType.STREAM <= frame_type <= QuicFrameType.STREAM_LAST:
        stream_id = take()
        offset = take() if frame_type & 4 else 0
        size = take() if frame_type & 2 else len(reader.data) - reader.at
        reader.skip(size)
        return Frame(frame_type, size, stream_id, offset, bool(frame_type & 1))
    integers = _INTEGERS.get(frame_type)
    if integers is not None:
        first = take() if integers else -1
        for _ in range(integers - 1):
            take()
        return Frame(frame_type, stream_id=first if frame_type in _ABOUT_STREAMS else -1)
    if frame_type in (QuicFrameType.ACK, QuicFrameType.ACK_ECN):
        take()  # the largest that is acknowledged
        take()  # the delay
        ranges = take()
        take()
        for _ in range(2 * ranges + (3 if frame_type == QuicFrameType.ACK_ECN else 0)):
            take()
        return Frame(frame_type, ranges + 1)
    if frame_type in (QuicFrameType.PATH_CHALLENGE, QuicFrameType.PATH_RESPONSE):
        reader.skip(8)
        return Frame(frame_type)
    if frame_type in (QuicFrameType.CRYPTO, QuicFrameType.NEW_TOKEN, QuicFrameType.DATAGRAM_WITH_LENGTH):
        if frame_type == QuicFrameType.CRYPTO:
            take()
        size = take()
        reader.skip(size)
        return Frame(frame_type, size)
    if frame_type == QuicFrameType.RETIRE_CONNECTION_ID:
        return Frame(frame_type, offset=take())
    if frame_type == QuicFrameType.NEW_CONNECTION_ID:
        sequence = take()
        take()  # retire prior to
        length = reader.data[reader.at]
        reader.skip(1 + length + 16)
        return Frame(frame_type, offset=sequence)
    if frame_type == QuicFrameType.DATAGRAM:
        size = len(reader.data) - reader.at
        reader.skip(size)
        return Frame(frame_type, size)
    return None

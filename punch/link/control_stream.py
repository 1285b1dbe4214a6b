"""
The control stream of a link: the form of its frames, and those that wait to be sent. Also the close code and
reason of a link whose QUIC connection has ended or failed.

The frames follow the proof on a link's first stream, in both directions. A frame is: type (1 byte) ‖ length
(2 bytes, big-endian, at most 16,384) ‖ payload. A type with the top bit set is optional: a receiver that does
not know it skips the frame. Any other unknown type is an error, and so is a payload that does not have the
form described here.

==== ========== ======================================================================================
type name       payload
==== ========== ======================================================================================
0x01 ACCEPTED   empty; the callee, once and first: the proof is good
0x02 CREDIT     stream ID (8 bytes) ‖ limit (8 bytes): the receiver of this frame may have sent `limit`
                bytes on that stream in all, its name included; a limit only grows
0x03 CLOSE      code (1 byte) ‖ reason (UTF-8, at most 256 bytes): the sender ends the link
0x10 CANDIDATES for the layer above (`punch.wire.peers.link_frames`): candidates found after an ICE restart
0x11 RESTART    for the layer above: an ICE restart
0x90 NATS       for the layer above: what the sender knows about its NATs
0x91 TARGETS    for the layer above: where the sender will be seen
0x92 OPENED     for the layer above: where the sender may be reached
0x93 PREKEY     for the layer above (`punch.wire.peers.prekey`): the sender's signed prekey
0x94 BEGIN      for the layer above: the receiver is to send now
0x95 TCP        for the layer above: where the sender listens for TCP
0xa0 SLOWED     which rate (1 byte, as in RELAY-LIMIT): a relay of the sender drops datagrams of the link
==== ========== ======================================================================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from punch.link.events import MAX_REASON, CloseCode, LinkRole
from punch.link.quic.interface import QuicConnection, QuicError
from punch.link.quic.receive_limits import LimitExceeded
from punch.wire.stun_attributes import RelayLimit

MAX_FRAME: Final = 16 * 1024
OPTIONAL: Final = 0x80
"""The top bit of a type, which is set if the type is optional."""
_HEADER: Final = struct.Struct("!BH")
_CREDIT: Final = struct.Struct("!QQ")
_MAX_VARINT: Final = (1 << 62) - 1


class FrameError(Exception):
    """The control stream is malformed; `str()` says why."""


class ControlFrameType(IntEnum):
    """The types of frames that a receiver must know."""

    ACCEPTED = 0x01
    CREDIT = 0x02
    CLOSE = 0x03
    CANDIDATES = 0x10
    RESTART = 0x11


class OptionalFrameType(IntEnum):
    """The types of frames that a receiver skips if it does not know them."""

    NATS = 0x90
    TARGETS = 0x91
    OPENED = 0x92
    PREKEY = 0x93
    BEGIN = 0x94
    TCP = 0x95
    SLOWED = 0xA0


def encode_frame(frame_type: int, payload: bytes = b"") -> bytes:
    """
    Encode a frame.

    :raise ValueError: the type or the payload's length is out of range.
    """
    if not 0 <= frame_type <= 0xFF or len(payload) > MAX_FRAME:
        raise ValueError("a control frame has a type of one byte and at most 16,384 bytes")
    return _HEADER.pack(frame_type, len(payload)) + payload


def encode_credit(stream_id: int, limit: int) -> bytes:
    """Encode a CREDIT frame; `limit` is in bytes since the start of the stream."""
    return encode_frame(ControlFrameType.CREDIT, _CREDIT.pack(stream_id, limit))


def decode_credit(payload: bytes) -> tuple[int, int]:
    """
    Decode a CREDIT frame; returns stream ID and limit.

    :raise FrameError: the frame is malformed.
    """
    if len(payload) != _CREDIT.size:
        raise FrameError("a CREDIT frame has 16 bytes")
    stream_id, limit = _CREDIT.unpack(payload)
    if stream_id > _MAX_VARINT or limit > _MAX_VARINT:
        raise FrameError("a CREDIT frame is out of range")
    return stream_id, limit


def clip_reason(reason: str) -> str:
    """Cut a close reason at a character to at most 256 bytes of UTF-8, and replace lone surrogates."""
    data = reason.encode("utf-8", "replace")
    return data[:MAX_REASON].decode("utf-8", "ignore")


def encode_close(code: int, reason: str) -> bytes:
    """Encode a CLOSE frame."""
    return encode_frame(ControlFrameType.CLOSE, bytes([code]) + clip_reason(reason).encode("utf-8"))


def known_code(code: int) -> CloseCode:
    """Return the close code of a number from the other side; one that a newer version added counts as OK."""
    try:
        return CloseCode(code)
    except ValueError:
        return CloseCode.OK


def decode_close(payload: bytes) -> tuple[CloseCode, str]:
    """
    Decode a CLOSE frame; returns code and reason.

    :raise FrameError: the frame is malformed.
    """
    if not 1 <= len(payload) <= 1 + MAX_REASON:
        raise FrameError("a CLOSE frame has a code and at most 256 bytes of reason")
    try:
        return known_code(payload[0]), payload[1:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError("the reason of a CLOSE frame is not UTF-8") from error


def decode_slowed(payload: bytes) -> RelayLimit | None:
    """
    Decode the payload of a SLOWED frame; None if a newer version added the rate.

    :raise FrameError: the frame is malformed.
    """
    if len(payload) != 1:
        raise FrameError("a SLOWED frame has one byte")
    return RelayLimit(payload[0]) if payload[0] in RelayLimit.__members__.values() else None


class ControlFrameReader:
    """Splits a byte stream into frames. It keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """
        Return the frames that are complete now: (type, payload).

        :raise FrameError: a frame announces more bytes than a frame can have.
        """
        self._buffer += data
        offset = 0
        try:
            while len(self._buffer) - offset >= _HEADER.size:
                frame_type, length = _HEADER.unpack_from(self._buffer, offset)
                if length > MAX_FRAME:
                    raise FrameError("a control frame is longer than 16,384 bytes")
                end = offset + _HEADER.size + length
                if len(self._buffer) < end:
                    break
                payload = bytes(self._buffer[offset + _HEADER.size : end])
                offset = end
                yield frame_type, payload
        finally:
            del self._buffer[:offset]


CONTROL_STREAM: Final = 0
"""The ID of the QUIC stream: the first that the caller opens."""
CONTROL_QUEUE: Final = 256 * 1024
"""Bytes of control frames that may wait to be sent, because the other side acknowledges nothing."""
ABOVE: Final = (ControlFrameType.CANDIDATES, ControlFrameType.RESTART)
"""The types of frames that a receiver must know and that are for a layer above."""


class FrameAllowance:
    """
    How many control frames the other side may send: a burst, then a steady rate, plus one for every 4 KiB
    that we sent it (an honest receiver grants credit at most once for every 8 KiB). A side that sends
    more breaks the rules of the link.
    """

    BURST: Final = 4096.0
    PER_SECOND: Final = 100.0
    BYTES_PER_FRAME: Final = 4096

    def __init__(self, now: float) -> None:
        self._left = self.BURST
        self._at = now

    def sent(self, size: int) -> None:
        """We sent so many bytes on streams, which the other side may answer with credit."""
        self._left += size / self.BYTES_PER_FRAME

    def opened(self) -> None:
        """We opened a stream, which the other side accepts with one frame."""
        self._left += 1

    def spend(self, now: float) -> bool:
        """Count one frame; returns False if it is one too many."""
        if now > self._at:
            if self._left < self.BURST:
                self._left = min(self.BURST, self._left + (now - self._at) * self.PER_SECOND)
            self._at = now
        self._left -= 1
        return self._left >= 0


class ControlStream:
    """
    The frames in both directions. The callee's first one says that the proof is good.

    :ivar allowance: counts the frames that the other side may still send.
    """

    def __init__(self, quic: QuicConnection, role: LinkRole, now: float) -> None:
        self.allowance = FrameAllowance(now)
        self._quic = quic
        self._reader = ControlFrameReader()
        self._out = bytearray()
        self._closing = False
        if role is LinkRole.CALLEE:
            self.put(encode_frame(ControlFrameType.ACCEPTED))

    def put(self, frame: bytes) -> None:
        """Queue a frame."""
        self._out += frame

    def put_above(self, frame_type: int, payload: bytes) -> None:
        """
        Queue a frame of a layer above.

        :raise ValueError: the type is one of the link's own, or out of range; or the payload is longer than
            16,384 bytes.
        """
        if frame_type not in ABOVE and not frame_type & OPTIONAL:
            raise ValueError("this type of control frame is not for a layer above")
        self.put(encode_frame(frame_type, payload))

    def put_close(self, code: CloseCode, reason: str) -> None:
        """Queue the CLOSE frame, which is the last one, once."""
        if not self._closing:
            self._closing = True
            self.put(encode_close(code, reason))

    def flush(self) -> bool:
        """
        Give the QUIC library all that is queued.

        :return: False if that was dropped, because the other side has acknowledged nothing for long.
        """
        if self._out:
            out, self._out = bytes(self._out), bytearray()
            if not self._closing and self._quic.unsent(CONTROL_STREAM) > CONTROL_QUEUE:
                return False
            self._quic.send(CONTROL_STREAM, out, False)
        return True

    def receive(self, data: bytes, now: float) -> Iterator[tuple[int, bytes]]:
        """
        Return the frames that are complete now: type and payload.

        :raise FrameError: one is too long, or there are too many.
        """
        for frame in self._reader.feed(data):
            if not self.allowance.spend(now):
                raise FrameError("there are too many of them")
            yield frame


APPLICATION_CODES: Final = 0x5000
"""The QUIC application error code of close code 0. QUIC itself defines no codes there."""
_APPLICATION_ERROR: Final = 0x0C
_CRYPTO_ERRORS: Final = range(0x100, 0x200)


def explain(code: int, application: bool, reason: str) -> tuple[CloseCode, str, bool]:
    """
    Return how a link ends when its QUIC connection has ended: code, reason, and whether the other side's
    application ended it.
    """
    if application and APPLICATION_CODES <= code < APPLICATION_CODES + 256:
        return known_code(code - APPLICATION_CODES), reason, True
    if not application and code in _CRYPTO_ERRORS:
        return CloseCode.PROOF, f"The handshake failed: {reason or hex(code)}.", False
    if not application and code == _APPLICATION_ERROR:
        # During the handshake, QUIC replaces our own code by this one
        return CloseCode.REFUSED, "The other side closed the connection.", True
    if "idle" in reason.lower():
        return CloseCode.LOST, "The other side has not been heard of for too long.", False
    return CloseCode.PROTOCOL, f"QUIC ended the connection: {reason or hex(code)}.", False


def explain_failure(error: QuicError | LimitExceeded) -> tuple[CloseCode, str]:
    """
    Return the code and reason with which a link ends when the library has failed or a limit was exceeded.
    """
    if isinstance(error, LimitExceeded):
        return CloseCode.PROTOCOL, str(error)
    return CloseCode.INTERNAL, f"The QUIC library failed: {error}."

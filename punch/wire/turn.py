"""
ChannelData (RFC 8656, section 12.4), STUN messages and ChannelData on a byte stream (RFC 8656, section 3.1;
RFC 8489, section 6.2.2), and the lifetimes of RFC 8656.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from punch.wire.stun import HEADER_SIZE, MAGIC_COOKIE, Method

MAX_REQUEST = 2048
"""
The largest request to a TURN server, in bytes. RFC 8489, section 6.1 demands that requests fit into one
packet; an Allocate request with the longest realm and nonce has 700 bytes.
"""

DEFAULT_LIFETIME = 600.0
"""Seconds that an allocation lives if its client asks for no lifetime (RFC 8656, section 3.2)."""
PERMISSION_LIFETIME = 300.0
"""Seconds (RFC 8656, section 9)."""
CHANNEL_LIFETIME = 600.0
"""Seconds (RFC 8656, section 12). Binding a channel again also renews its permission."""

FIRST_CHANNEL = 0x4000
LAST_CHANNEL = 0x4FFF
"""RFC 8656, section 12. The larger numbers of RFC 5766 are used by other protocols now (RFC 7983)."""

_HEADER = Struct(">HH")
_COOKIE = MAGIC_COOKIE.to_bytes(4, "big")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_SEND_INDICATION = 0x0016
# The lower four bits of the method are the last of the message's type; its upper bits are zero, and the two
# bits of the class stand between (RFC 8489, section 5).
_TURN_TYPES = frozenset(
    (upper << 8 | lower << 4 | method).to_bytes(2, "big")
    for upper in (0, 1)
    for lower in (0, 1)
    for method in range(Method.BINDING + 1, 16)
)
TURN_BEGIN = min(_TURN_TYPES)
"""`is_turn` is false for all datagrams that are less than this, compared as bytes."""
TURN_END = (int.from_bytes(max(_TURN_TYPES), "big") + 1).to_bytes(2, "big")
"""
`is_turn` is false for all datagrams that are not less than this. These comparisons save most calls of it.
"""


def is_turn(data: bytes) -> bool:
    """
    Whether this is a STUN message with a method of TURN: any from Allocate to ConnectionAttempt (RFC 8656,
    section 17; RFC 6062, section 6), of whatever class.
    """
    return data[4:8] == _COOKIE and data[:2] in _TURN_TYPES and len(data) >= HEADER_SIZE


class FramingError(ValueError):
    """A stream contains anything but STUN messages and ChannelData, so it can't be read any further."""


class ChannelData(NamedTuple):
    """Data from or for a peer of the relay, with the number of its channel."""

    number: int
    data: bytes


def encode_channel_data(number: int, data: bytes, *, padded: bool) -> bytes:
    """
    Encode a ChannelData message.

    :param padded: pad it to a multiple of 4 bytes, as streams demand.
    """
    header = _HEADER.pack(number, len(data))
    return header + data + _PADDING[len(data) & 3] if padded else header + data


def parse_channel_data(message: bytes) -> ChannelData | None:
    """
    Decode a ChannelData message, padded or not; returns None if it is malformed.
    """
    if len(message) < 4:
        return None
    number, length = _HEADER.unpack_from(message)
    if not FIRST_CHANNEL <= number <= LAST_CHANNEL or len(message) < 4 + length:
        return None
    return ChannelData(number, message[4 : 4 + length])


class StreamSplitter:
    """Splits a byte stream into STUN messages and ChannelData, each as in a datagram."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def waiting(self) -> int:
        """How many bytes of an incomplete message have arrived."""
        return len(self._buffer)

    def feed(
        self, data: bytes, *, longest: int | None = None, longest_request: int | None = None
    ) -> list[bytes]:
        """
        Process bytes; returns the messages that are complete now, ChannelData without its padding.

        :param longest: the longest message in bytes; None: no limit. A longer one is refused as soon as its
            header has arrived.
        :param longest_request: the same for messages without application data: neither ChannelData nor Send
            indications.
        :raise FramingError: the stream is malformed, or a message is too long.
        """
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        position, size = 0, len(buffer)
        while size - position >= 4:
            first, length = _HEADER.unpack_from(buffer, position)
            if first <= 0x3FFF:
                end = padded_end = position + HEADER_SIZE + length
                if length & 3 or (size - position >= 8 and buffer[position + 4 : position + 8] != _COOKIE):
                    raise FramingError("no STUN message")
                if (
                    longest_request is not None
                    and first != _SEND_INDICATION
                    and end - position > longest_request
                ):
                    raise FramingError("a message is too long")
            elif first <= LAST_CHANNEL:
                end = position + 4 + length
                padded_end = end + (-length & 3)
            else:
                raise FramingError("neither a STUN message nor ChannelData")
            if longest is not None and end - position > longest:
                raise FramingError("a message is too long")
            if padded_end > size:
                break
            messages.append(bytes(buffer[position:end]))
            position = padded_end
        del buffer[:position]
        return messages

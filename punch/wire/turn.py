"""
TURN (RFC 8656): lifetimes, ChannelData (section 12.4), messages on a byte stream (section 3.1; RFC 8489,
section 6.2.2), and the relays with credentials that a rendezvous sends to its peers, with their URIs (RFC
7065).

A rendezvous that is its own relay often does not know by which address its peers reach it, so it names no
host: the relay is then at the host that the peer connected to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from struct import Struct
from typing import Any, NamedTuple

from punch.identity import PIN_VERSION, PeerIDError, key_from_text, key_to_text
from punch.wire.address import PortError, canonical, parse_port
from punch.wire.fields import FieldError, integer, mapping, matching, number, string
from punch.wire.fields import field as read_field
from punch.wire.framing import FramingError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError
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


# -- the relays that a rendezvous sends to its peers --

MAX_RELAYS = 8
"""How many relays a rendezvous hands out at most."""
MAX_LIFETIME = 7 * 86400.0
"""The longest lifetime of credentials in seconds."""


class TurnTransport(str, Enum):
    """How a relay is reached: the client's side of TURN (RFC 8656, section 3.1)."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


_DEFAULT_PORTS = {TurnTransport.UDP: 3478, TurnTransport.TCP: 3478, TurnTransport.TLS: 5349}
_URI = re.compile(r"(turns?):([^?]*)(?:\?transport=([A-Za-z0-9]+))?", re.IGNORECASE)
_LOCATION = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*))(?::([^:]*))?")


class TurnURIProblem(str, Enum):
    """What is wrong with a text that should be a TURN URI; `found` is the part that is wrong."""

    FORM = "form"
    """It does not have the form of a TURN URI."""
    TLS_TRANSPORT = "tls-transport"
    """A transport that `turns:` can't have."""
    TRANSPORT = "transport"
    CHARACTER = "character"
    """A character that begins a part which a TURN URI does not have."""
    BRACKETS = "brackets"
    """An IPv6 address without brackets."""
    LOCATION = "location"
    """It is not a host and a port."""
    NO_HOST = "no-host"
    PORT = "port"
    HOST = "host"
    """Neither a DNS name nor the address of one host."""


class TurnURIError(ValueError):
    """
    A text is not a TURN URI that can be used.

    :ivar problem: what is wrong.
    :ivar found: the part of the text that is wrong, or "".
    """

    def __init__(self, problem: TurnURIProblem, found: str = "") -> None:
        super().__init__(problem.value, found)
        self.problem = problem
        self.found = found


@dataclass(frozen=True)
class TurnURI:
    """
    A URI of RFC 7065. `host` is an IP address in canonical form, a DNS name, or None: the host that the
    rendezvous was reached at.
    """

    host: str | None
    port: int
    transport: TurnTransport

    @classmethod
    def parse(cls, text: str) -> TurnURI:
        """
        Parse `turn:host[:port][?transport=udp|tcp]` or `turns:host[:port][?transport=tcp]`.

        :raise TurnURIError: it is malformed.
        """
        found = _URI.fullmatch(text.strip())
        if found is None:
            raise TurnURIError(TurnURIProblem.FORM, text)
        scheme, location, transport_text = found[1].lower(), found[2], (found[3] or "").lower()
        if scheme == "turns":
            if transport_text not in ("", "tcp"):
                raise TurnURIError(TurnURIProblem.TLS_TRANSPORT, transport_text)
            transport = TurnTransport.TLS
        elif transport_text in ("", "udp", "tcp"):
            transport = TurnTransport(transport_text or "udp")
        else:
            raise TurnURIError(TurnURIProblem.TRANSPORT, transport_text)
        host, port = _location(location, transport)
        return cls(host, port, transport)

    def __str__(self) -> str:
        host = self.host or ""
        host = f"[{host}]" if ":" in host else host
        if self.transport is TurnTransport.TLS:
            return f"turns:{host}:{self.port}?transport=tcp"
        return f"turn:{host}:{self.port}?transport={self.transport.value}"


def _location(text: str, transport: TurnTransport) -> tuple[str, int]:
    """
    Parse the host and the port of a TURN URI.

    :raise TurnURIError: one of them is malformed.
    """
    for character in "/@#%":
        if character in text:
            raise TurnURIError(TurnURIProblem.CHARACTER, character)
    if text.count(":") > 1 and "[" not in text:
        raise TurnURIError(TurnURIProblem.BRACKETS, text)
    found = _LOCATION.fullmatch(text)
    if found is None:
        raise TurnURIError(TurnURIProblem.LOCATION, text)
    six, other, port = found[1], found[2], found[3]
    if not (six or other):
        raise TurnURIError(TurnURIProblem.NO_HOST)
    try:
        port_number = _DEFAULT_PORTS[transport] if port is None else parse_port(port)
    except PortError:
        raise TurnURIError(TurnURIProblem.PORT, port) from None
    try:
        host = RendezvousAddress.parse(f"[{six}]:1" if six else f"{other}:1").host
    except RendezvousAddressError as error:
        raise TurnURIError(TurnURIProblem.HOST, six or other) from error
    with suppress(ValueError):
        host = canonical(host, 1).host
    return host, port_number


@dataclass(frozen=True)
class RelayServer:
    """
    A relay that a peer may use, with long-term credentials (RFC 8489, section 9.2). Realm and nonce are sent
    along, which saves the round trip of a 401. `lifetime` is how many seconds the credentials are valid after
    their arrival. `pin` is the hash of the relay's key (`pin_of`) for TLS; None: a certificate authority
    issues the relay's certificate.
    """

    url: TurnURI
    username: str
    password: str = field(repr=False)
    realm: str
    nonce: str
    lifetime: float
    pin: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """The relay as it is written in control messages."""
        url = self.url
        value: dict[str, Any] = {} if url.host is None else {"host": url.host}
        value |= {
            "port": url.port,
            "transport": url.transport.value,
            "username": self.username,
            "password": self.password,
            "realm": self.realm,
            "nonce": self.nonce,
            "lifetime": self.lifetime,
        }
        if self.pin is not None:
            value["pin"] = key_to_text(self.pin, PIN_VERSION)
        return value

    @classmethod
    def from_json(cls, value: object) -> RelayServer:
        """
        Read a relay of a control message.

        :raise FieldError: a field is missing or wrong.
        """
        entries: Mapping[str, Any] = mapping(value)
        return cls(
            TurnURI(
                read_field(entries, "host", _host, None),
                read_field(entries, "port", integer(1, 65535)),
                read_field(entries, "transport", _transport),
            ),
            read_field(entries, "username", _printable(512)),
            read_field(entries, "password", _printable(256)),
            read_field(entries, "realm", _printable(127)),
            read_field(entries, "nonce", _printable(127, shortest=0)),
            read_field(entries, "lifetime", number(1.0, MAX_LIFETIME)),
            read_field(entries, "pin", _pin, None),
        )


def _printable(longest: int, shortest: int = 1) -> Any:
    # Text that is not ASCII would have to be prepared (RFC 8265)
    return matching(f"[ -~]{{{shortest},{longest}}}", f"{shortest} to {longest} printable ASCII characters")


def _transport(value: object) -> TurnTransport:
    text = string(value)
    try:
        return TurnTransport(text)
    except ValueError as error:
        raise FieldError("must be udp, tcp or tls") from error


def _host(value: object) -> str:
    text = string(value)
    if "%" in text:
        # A zone may have any characters, and means nothing to others
        raise FieldError("must be an IP address or a DNS name")
    try:
        return RendezvousAddress.parse(f"[{text}]:1" if ":" in text else f"{text}:1").host
    except RendezvousAddressError as error:
        raise FieldError("must be an IP address or a DNS name") from error


def _pin(value: object) -> bytes:
    try:
        pin, version = key_from_text(string(value), "pin of the relay")
    except PeerIDError as error:
        raise FieldError(f"is not a pin. {error}") from error
    if version != PIN_VERSION:
        raise FieldError("must be a pin")
    return pin

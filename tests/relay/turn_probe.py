"""
A TURN client for a conformance test, with an encoder and a decoder of its own: nothing of it is Punch's, so
that a mistake there is not made on both sides. RFC 8489 (STUN), RFC 8656 (TURN).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import struct
import time
from base64 import b64encode
from dataclasses import dataclass, field

COOKIE = b"\x21\x12\xa4\x42"
ALLOCATE, REFRESH, SEND, CREATE_PERMISSION, CHANNEL_BIND = 0x003, 0x004, 0x006, 0x008, 0x009
USERNAME, MESSAGE_INTEGRITY, ERROR_CODE, UNKNOWN_ATTRIBUTES = 0x0006, 0x0008, 0x0009, 0x000A
CHANNEL_NUMBER, LIFETIME, XOR_PEER_ADDRESS, DATA = 0x000C, 0x000D, 0x0012, 0x0013
REALM, NONCE, XOR_RELAYED_ADDRESS, REQUESTED_ADDRESS_FAMILY = 0x0014, 0x0015, 0x0016, 0x0017
EVEN_PORT, REQUESTED_TRANSPORT, DONT_FRAGMENT = 0x0018, 0x0019, 0x001A
XOR_MAPPED_ADDRESS, RESERVATION_TOKEN = 0x0020, 0x0022
ADDITIONAL_ADDRESS_FAMILY, ADDRESS_ERROR_CODE = 0x8000, 0x8001

Attributes = list[tuple[int, bytes]]

UDP = (REQUESTED_TRANSPORT, b"\x11\0\0\0")


def attribute(kind: int, value: bytes) -> bytes:
    """Type, length, value, padding (RFC 8489, section 14)."""
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def peer(host: str, port: int, *, family: int = 1) -> tuple[int, bytes]:
    """XOR-PEER-ADDRESS of an IPv4 address."""
    number = struct.unpack(">I", socket.inet_aton(host))[0] ^ 0x2112A442
    return XOR_PEER_ADDRESS, struct.pack(">BBHI", 0, family, port ^ 0x2112, number)


@dataclass
class TurnAnswer:
    """
    A response.

    :ivar code: the error code, 0 for success, -1 for silence.
    :ivar signed: whether it has a MESSAGE-INTEGRITY that is right.
    """

    code: int
    attributes: dict[int, bytes] = field(default_factory=dict)
    signed: bool = False

    @property
    def relayed_port(self) -> int:
        """Of XOR-RELAYED-ADDRESS."""
        return int(struct.unpack(">H", self.attributes[XOR_RELAYED_ADDRESS][2:4])[0]) ^ 0x2112


class TurnProbe:
    """One five-tuple over UDP, which does what it is told."""

    def __init__(self, host: str, port: int, secret: str, user: str, source: str = "") -> None:
        """
        :param secret: what time-limited credentials are made with.
        :param source: the address of this machine that it is at; empty: whichever.
        """
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect((host, port))
        self.username = f"{int(time.time()) + 3600}:{user}".encode()
        self.password = b64encode(hmac.digest(secret.encode(), self.username, "sha1"))
        self.realm = self.nonce = b""

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()

    @property
    def key(self) -> bytes:
        """The long-term key (RFC 8489, section 9.2.2)."""
        text = self.username + b":" + self.realm + b":" + self.password
        return hashlib.md5(text, usedforsecurity=False).digest()

    def login(self, timeout: float = 5.0) -> None:
        """Learn realm and nonce from a 401."""
        answer = self.exchange(self.message(ALLOCATE, [UDP]), timeout)
        assert answer.code == 401
        assert not answer.signed
        self.realm, self.nonce = answer.attributes[REALM], answer.attributes[NONCE]

    def message(self, method: int, attributes: Attributes, *, key: bytes | None = None) -> bytes:
        """A request, protected if there is a key."""
        body = b"".join(attribute(kind, value) for kind, value in attributes)
        transaction = os.urandom(12)
        size = len(body) + (24 if key is not None else 0)
        head = struct.pack(">HH", method, size) + COOKIE + transaction
        if key is None:
            return head + body
        return head + body + attribute(MESSAGE_INTEGRITY, hmac.digest(key, head + body, "sha1"))

    def signed(self, method: int, attributes: Attributes, **instead: bytes | None) -> bytes:
        """
        A request with credentials.

        :param instead: values for `username`, `realm` or `nonce`; None leaves one out.
        """
        login: dict[str, bytes | None] = {
            "username": self.username,
            "realm": self.realm,
            "nonce": self.nonce,
            **instead,
        }
        kinds = {"username": USERNAME, "realm": REALM, "nonce": NONCE}
        added = [(kinds[name], value) for name, value in login.items() if value is not None]
        return self.message(method, attributes + added, key=self.key)

    def ask(self, method: int, *attributes: tuple[int, bytes], **instead: bytes | None) -> TurnAnswer:
        """The answer to a request with credentials."""
        return self.exchange(self.signed(method, list(attributes), **instead))

    def exchange(self, request: bytes, timeout: float = 5.0) -> TurnAnswer:
        """The answer to a message."""
        self.socket.send(request)
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                break
            if data[8:20] == request[8:20]:
                return self.read(data)
        return TurnAnswer(-1)

    def read(self, data: bytes) -> TurnAnswer:
        """A response as values."""
        assert data[4:8] == COOKIE
        assert struct.unpack(">H", data[2:4])[0] == len(data) - 20
        found: dict[int, bytes] = {}
        signed = False
        position = 20
        while position < len(data):
            kind, size = struct.unpack(">HH", data[position : position + 4])
            value = data[position + 4 : position + 4 + size]
            if kind == MESSAGE_INTEGRITY:
                covered = data[:2] + struct.pack(">H", position + 4) + data[4:position]
                signed = hmac.compare_digest(hmac.digest(self.key, covered, "sha1"), value)
            found.setdefault(kind, value)
            position += 4 + size + -size % 4
        is_error = struct.unpack(">H", data[:2])[0] & 0x0110 == 0x0110
        code = found[ERROR_CODE][2] * 100 + found[ERROR_CODE][3] if is_error else 0
        return TurnAnswer(code, found, signed)

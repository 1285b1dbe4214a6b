"""
Time-limited credentials and nonces, neither of which the server has to remember.

The credentials have the form that coturn calls `use-auth-secret`: whoever holds the shared secret can make
and check them.

    username = expiry, in Unix seconds, as decimal digits ‖ ":" ‖ user
    password = base64(HMAC-SHA1(secret, username))

Whoever makes them chooses the user. A rendezvous derives it from the peer ID that the peer has proved, so
that an allocation is bound to that peer; the ID itself would be readable on the wire.

A nonce (RFC 8489, section 9.2) is a time and a MAC over it. It is bound either to the address that it was
sent to, or to the user that it was issued to along with its credentials, whose address is not known
beforehand. The former proves that the client receives at the address that it sends from; the latter does not,
and is good for an Allocate request only.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from punch.identity import PeerID
from punch.wire.address import Address

_USERNAME = re.compile(r"([0-9]{1,12})(?::(.*))?", re.DOTALL)
_USER_LABEL = b"punch relay user\0"


class TurnCredentials(NamedTuple):
    """What a TURN client is given."""

    username: str
    password: str


class Claim(NamedTuple):
    """The content of a username; true only if the password was right."""

    expires: int
    """Unix seconds."""
    user: str


def password_of(secret: bytes, username: str) -> str:
    """The password that belongs to a username."""
    return b64encode(hmac.digest(secret, username.encode(), "sha1")).decode("ascii")


def issue(secret: bytes, user: str, expires: float) -> TurnCredentials:
    """
    Credentials for `user`, good until `expires` (Unix seconds).
    """
    username = f"{int(expires)}:{user}"
    return TurnCredentials(username, password_of(secret, username))


def read_username(username: str) -> Claim | None:
    """The content of a username, or None if it does not have this form."""
    found = _USERNAME.fullmatch(username)
    return None if found is None else Claim(int(found[1]), found[2] or "")


def user_of(secret: bytes, peer: PeerID) -> str:
    """
    The user name for a peer. It is always the same, and does not reveal the peer to anyone without the
    secret.
    """
    return b32encode(hmac.digest(secret, _USER_LABEL + peer.key, "sha256")[:15]).decode("ascii").lower()


NONCE_SIZE = 16
"""Characters; short enough that a 401 is not longer than three times the request."""

_ADDRESS, _USER = b"a", b"u"
_TIME_BYTES = 4
_MAC_BYTES = 8


class Nonces:
    """
    Makes and checks nonces. Pure: `unix` is Unix seconds.

    :param lifetime: the lifetime of a nonce, in seconds.
    """

    def __init__(self, secret: bytes, lifetime: float) -> None:
        self._key = hmac.digest(secret, b"punch relay nonces", "sha256")
        self._lifetime = lifetime

    def for_address(self, remote: Address, unix: float) -> str:
        """A nonce for a client at `remote`."""
        return self._make(_ADDRESS + str(remote).encode(), int(unix))

    def for_user(self, user: str, unix: float) -> str:
        """A nonce for `user` at any address."""
        return self._make(_USER + user.encode(), int(unix))

    def is_for_address(self, nonce: str, remote: Address, unix: float) -> bool:
        """Whether a nonce was made for a client at `remote` and has not expired."""
        return self._is_good(nonce, _ADDRESS + str(remote).encode(), unix)

    def is_for_user(self, nonce: str, user: str, unix: float) -> bool:
        """Whether a nonce was made for `user` and has not expired."""
        return self._is_good(nonce, _USER + user.encode(), unix)

    def _is_good(self, nonce: str, bound_to: bytes, unix: float) -> bool:
        if len(nonce) != NONCE_SIZE or not nonce.isascii():
            return False
        try:
            made = int.from_bytes(urlsafe_b64decode(nonce)[:_TIME_BYTES], "big")
        except ValueError:
            return False
        # Nonces from the near future are accepted, because the clock may have been set back.
        if not made - self._lifetime <= unix < made + self._lifetime:
            return False
        return hmac.compare_digest(nonce.encode(), self._make(bound_to, made).encode())

    def _make(self, bound_to: bytes, made: int) -> str:
        time = (made & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        mac = hmac.digest(self._key, time + bound_to, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(time + mac).decode("ascii")

"""
Time-limited credentials in the form that coturn calls `use-auth-secret`: whoever holds the shared secret can
make them and check them, and nobody keeps a list.

    username = expiry, in Unix seconds, as decimal digits ‖ ":" ‖ user
    password = base64(HMAC-SHA1(secret, username))

The user is chosen by who makes them. A rendezvous derives it from the peer ID that the peer has proved, so
that an allocation is bound to that peer; the ID itself would be readable on the wire.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode, b64encode
from typing import NamedTuple

from punch.identity import PeerID

_USERNAME = re.compile(r"([0-9]{1,12})(?::(.*))?", re.DOTALL)
_USER_LABEL = b"punch relay user\0"


class TurnCredentials(NamedTuple):
    """What a TURN client is given."""

    username: str
    password: str


class Claim(NamedTuple):
    """What a username says: true only if the password was right."""

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
    """What a username claims, or None if it is none of these."""
    found = _USERNAME.fullmatch(username)
    return None if found is None else Claim(int(found[1]), found[2] or "")


def user_of(secret: bytes, peer: PeerID) -> str:
    """
    The user that stands for a peer: the same each time, and nobody without the secret can tell whose it is.
    """
    return b32encode(hmac.digest(secret, _USER_LABEL + peer.key, "sha256")[:15]).decode("ascii").lower()

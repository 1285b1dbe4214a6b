"""
Nonces (RFC 8489, section 9.2) that the server need not remember: a time and a MAC over it.

A nonce is bound either to the address that was refused without one, or to the user that it was handed to
along with its credentials, whose address nobody knows beforehand. Anywhere else it is stale.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

from punch.wire.address import Address

NONCE_SIZE = 16
"""Characters: so few that a 401 is never longer than three times its question."""

_ADDRESS, _USER = b"a", b"u"
_TIME_BYTES = 4
_MAC_BYTES = 8


class Nonces:
    """
    Makes and checks nonces. Pure: `unix` is the time in Unix seconds.

    :param lifetime: seconds that a nonce is good for.
    """

    def __init__(self, secret: bytes, lifetime: float) -> None:
        self._key = hmac.digest(secret, b"punch relay nonces", "sha256")
        self._lifetime = lifetime

    def for_address(self, remote: Address, unix: float) -> str:
        """A nonce for whoever asks from `remote`."""
        return self._make(_ADDRESS + str(remote).encode(), int(unix))

    def for_user(self, user: str, unix: float) -> str:
        """A nonce for `user`, wherever it will ask from."""
        return self._make(_USER + user.encode(), int(unix))

    def is_good(self, nonce: str, remote: Address, user: str, unix: float) -> bool:
        """Whether this nonce was made for one of these two, and not too long ago."""
        if len(nonce) != NONCE_SIZE or not nonce.isascii():
            return False
        try:
            made = int.from_bytes(urlsafe_b64decode(nonce)[:_TIME_BYTES], "big")
        except ValueError:
            return False
        # A clock that was set back must not turn everybody away.
        if not made - self._lifetime <= unix < made + self._lifetime:
            return False
        expected = (
            self._make(_USER + user.encode(), made),
            self._make(_ADDRESS + str(remote).encode(), made),
        )
        return any(hmac.compare_digest(nonce.encode(), each.encode()) for each in expected)

    def _make(self, bound_to: bytes, made: int) -> str:
        time = (made & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        mac = hmac.digest(self._key, time + bound_to, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(time + mac).decode("ascii")

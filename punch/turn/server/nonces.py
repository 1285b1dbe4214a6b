"""
Nonces (RFC 8489, section 9.2) that the server need not remember: a time and a MAC over it.

A nonce is bound either to an address that it was sent to, or to the user that it was handed to along with its
credentials, whose address nobody knows beforehand. The former proves that its user receives at the address
that it asks from; the latter does not, and is good for an Allocate request only.
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

    def is_for_address(self, nonce: str, remote: Address, unix: float) -> bool:
        """Whether this nonce was made for who asks from `remote`, and not too long ago."""
        return self._is_good(nonce, _ADDRESS + str(remote).encode(), unix)

    def is_for_user(self, nonce: str, user: str, unix: float) -> bool:
        """Whether this nonce was handed to `user`, and not too long ago."""
        return self._is_good(nonce, _USER + user.encode(), unix)

    def _is_good(self, nonce: str, bound_to: bytes, unix: float) -> bool:
        if len(nonce) != NONCE_SIZE or not nonce.isascii():
            return False
        try:
            made = int.from_bytes(urlsafe_b64decode(nonce)[:_TIME_BYTES], "big")
        except ValueError:
            return False
        # A clock that was set back must not turn everybody away.
        if not made - self._lifetime <= unix < made + self._lifetime:
            return False
        return hmac.compare_digest(nonce.encode(), self._make(bound_to, made).encode())

    def _make(self, bound_to: bytes, made: int) -> str:
        time = (made & 0xFFFFFFFF).to_bytes(_TIME_BYTES, "big")
        mac = hmac.digest(self._key, time + bound_to, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(time + mac).decode("ascii")

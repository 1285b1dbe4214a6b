"""The short-term credentials of an ICE session (RFC 8445, section 5.3)."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass

from punch.identity import RandomBytes

_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")


@dataclass(frozen=True)
class IceCredentials:
    """
    What both sides' checks of one session are named and protected with.

    :raise ValueError: one of them is not of the form of RFC 8839, section 5.4.
    """

    ufrag: str
    password: str

    def __post_init__(self) -> None:
        if not _UFRAG.fullmatch(self.ufrag):
            raise ValueError("a ufrag is 4 to 256 letters, digits, + or /")
        if not _PASSWORD.fullmatch(self.password):
            raise ValueError("an ICE password is 22 to 256 letters, digits, + or /")

    @classmethod
    def generate(cls, random: RandomBytes) -> IceCredentials:
        """New ones: 48 bits of ufrag (at least 24 are demanded), 144 of password (128)."""
        return cls(b64encode(random(6)).decode(), b64encode(random(18)).decode())

    @property
    def key(self) -> bytes:
        """What protects messages to the owner of these credentials (RFC 8489, section 9.1.1)."""
        return self.password.encode()

    def __repr__(self) -> str:
        return f"Credentials(ufrag={self.ufrag!r}, password=…)"

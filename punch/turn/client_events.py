"""What a TURN client has to tell, and the credentials it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from punch.wire.address import Address


@dataclass(frozen=True)
class RelayCredentials:
    """
    Long-term credentials (RFC 8489, section 9.2). With `realm` and `nonce` the first request is
    authenticated; where they are empty, the server tells them, which costs a round trip.
    """

    username: str
    password: str = field(repr=False)
    realm: str = ""
    nonce: str = ""


class Trouble(str, Enum):
    """Why there is no allocation (any more); in brackets the error code of RFC 8656, section 18."""

    TIMEOUT = "timeout"
    """The server does not answer."""
    DISCONNECTED = "disconnected"
    """The connection to the server could not be made, or ended."""
    UNAUTHORIZED = "unauthorized"
    """The credentials are wrong or have expired (401)."""
    MISMATCH = "mismatch"
    """There is no such allocation, or, when allocating, there is one already (437)."""
    WRONG_CREDENTIALS = "wrong-credentials"
    """The allocation is somebody else's (441)."""
    UNSUPPORTED = "unsupported"
    """The server relays nothing of the kind that we need (440, 442)."""
    QUOTA = "quota"
    """We have too many allocations there (486)."""
    CAPACITY = "capacity"
    """The server has no room (508)."""
    REFUSED = "refused"
    """The server said no for another reason."""


TROUBLES = {
    401: Trouble.UNAUTHORIZED,
    437: Trouble.MISMATCH,
    440: Trouble.UNSUPPORTED,
    441: Trouble.WRONG_CREDENTIALS,
    442: Trouble.UNSUPPORTED,
    486: Trouble.QUOTA,
    508: Trouble.CAPACITY,
}


@dataclass(frozen=True)
class Allocated:
    """
    `relayed` relays for us from now on. `mapped` is what the server sees us as, if it said so; `lifetime`
    the seconds it gave, which the client renews by itself.
    """

    relayed: Address
    mapped: Address | None
    lifetime: float


@dataclass(frozen=True)
class AllocationDenied:
    """The server does not relay to this peer (403)."""

    peer: Address


@dataclass(frozen=True)
class AllocationFailed:
    """There is no allocation (any more). `text` is the server's reason phrase, or empty."""

    trouble: Trouble
    text: str = ""


Event = Allocated | AllocationDenied | AllocationFailed


class Data(NamedTuple):
    """What a peer sent to our relayed address."""

    data: bytes
    peer: Address

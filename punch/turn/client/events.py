"""The events of a TURN client, and the credentials that it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


@dataclass(frozen=True)
class RelayCredentials:
    """
    Long-term credentials (RFC 8489, section 9.2). With `realm` and `nonce` the first request is
    authenticated. Where they are empty, the server has to send them first, which costs a round trip.
    """

    username: str
    password: str = field(repr=False)
    realm: str = ""
    nonce: str = ""


class AllocationProblem(str, Enum):
    """Why an allocation failed or ended; in brackets the error code of RFC 8656, section 18."""

    TIMEOUT = "timeout"
    """The server does not answer."""
    DISCONNECTED = "disconnected"
    """The connection to the server could not be made, or ended."""
    UNAUTHORIZED = "unauthorized"
    """The credentials are wrong or have expired (401)."""
    MISMATCH = "mismatch"
    """There is no such allocation, or an Allocate request found one already (437)."""
    WRONG_CREDENTIALS = "wrong-credentials"
    """The allocation belongs to another user (441)."""
    UNSUPPORTED = "unsupported"
    """The server does not support the address family or the transport (440, 442)."""
    QUOTA = "quota"
    """The user has too many allocations there (486)."""
    CAPACITY = "capacity"
    """The server has no capacity left (508)."""
    REFUSED = "refused"
    """The server refused for another reason."""


PROBLEM_OF_CODE = {
    401: AllocationProblem.UNAUTHORIZED,
    437: AllocationProblem.MISMATCH,
    440: AllocationProblem.UNSUPPORTED,
    441: AllocationProblem.WRONG_CREDENTIALS,
    442: AllocationProblem.UNSUPPORTED,
    486: AllocationProblem.QUOTA,
    508: AllocationProblem.CAPACITY,
}


@dataclass(frozen=True)
class Allocated:
    """
    The server has made the allocation, with the relayed address `relayed`. `mapped` is the client's address
    as the server sees it, if the server said so. `lifetime` is in seconds; the client renews it by itself.
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
    """The allocation was refused or has ended. `text` is the server's reason phrase, or empty."""

    problem: AllocationProblem
    text: str = ""


@dataclass(frozen=True)
class RateLimited:
    """The server drops datagrams of the allocation, because more come than this limit allows."""

    limit: RelayLimit


Event = Allocated | AllocationDenied | AllocationFailed | RateLimited


class Data(NamedTuple):
    """A datagram that a peer sent to the relayed address."""

    data: bytes
    peer: Address

"""What happens to allocations that an operator may have to know of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from punch.wire.address import Address


class AllocationOwner(NamedTuple):
    """Whose allocation it is: its user and the client's address."""

    user: str
    client: Address
    is_stream: bool


@dataclass(frozen=True)
class AllocationMade:
    """An allocation relays from now on, at this address as peers see it."""

    owner: AllocationOwner
    relayed: Address


@dataclass(frozen=True)
class AllocationEnded:
    """It is over: for how many seconds it was there, and how many bytes it relayed."""

    owner: AllocationOwner
    relayed: Address
    seconds: float
    to_peers: int
    to_client: int


@dataclass(frozen=True)
class AllocationRefused:
    """None was made: the code of the answer says why."""

    owner: AllocationOwner
    code: int


@dataclass(frozen=True)
class LimitHit:
    """Something of a client at this host was refused, slowed down or ended; its user, if known."""

    host: str
    limit: str
    user: str | None = None


RelayEvent = AllocationMade | AllocationEnded | AllocationRefused | LimitHit

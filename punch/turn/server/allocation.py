"""
One allocation of the relay, with its permissions and channels; the request for an allocation; a port that is
reserved for a later one; and the events that an operator may want to know of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple, Protocol

from punch.net.sources import Source
from punch.net.token_bucket import TokenBucket
from punch.turn.server.quotas import Meter
from punch.wire.address import Address


class FiveTuple(NamedTuple):
    """A client: both addresses, and the number of its connection on a stream transport (0 for UDP)."""

    remote: Address
    local: Address
    connection: int = 0


class AllocationRefusal(Exception):
    """
    A request is refused with an error code of RFC 8489 or 8656, and a reason for a person.

    :ivar limit: the limit that was hit, for the log, if the code does not tell it.
    """

    def __init__(self, code: int, reason: str, limit: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.limit = limit


class RelayedPort(Protocol):
    """A bound UDP socket. Datagrams that arrive there are for `allocation`."""

    allocation: Allocation | None

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send datagrams. Those that cannot be sent are dropped."""

    def close(self) -> None:
        """Close the socket."""


class PortPool(Protocol):
    """Opens sockets for relayed addresses."""

    def open(self, host: str, port: int) -> RelayedPort | None:
        """A socket bound to `host` and `port`, or None if it cannot be opened."""


@dataclass(slots=True, eq=False)
class User:
    """One user of the relay: a peer, under the name in its credentials."""

    name: str
    bandwidth: TokenBucket
    ports: int = 0
    """Allocations and reservations."""


@dataclass(slots=True, eq=False)
class Flow:
    """
    Datagrams that wait for the end of the turn: to `peer`, or to the client if it is None.
    """

    allocation: Allocation
    peer: Address | None
    waiting: list[bytes] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Binding:
    """A channel: its two bytes on the wire, its peer, and when it expires."""

    number: bytes
    peer: Address
    expires: float


@dataclass(slots=True, eq=False)
class Place:
    """A place in the table of ports, and its holder: an allocation, or the token of a reservation."""

    source: Source
    holder: Allocation | bytes | None = None


@dataclass(slots=True, eq=False)
class Allocation:
    """
    The allocation of one client.

    `channels` and `numbers` hold the open channels, whose binding and permission are both valid
    (`update_channels`): `RelayCore` needs no other check to relay a datagram. Without a channel, it looks the
    host up in `permissions`.
    """

    client: FiveTuple
    user: User
    place: Place | None
    """Its place in the table; None until its client has proved that it receives at its address."""
    key: bytes
    """The long-term key of the user (RFC 8489, section 9.2.2), as in its last request."""
    transaction: bytes
    port: RelayedPort
    bound: Address
    relayed: Address
    """The address that peers see: `bound`, unless a NAT is in front."""
    expires: float
    token: bytes | None = None
    """The RESERVATION-TOKEN that came with it."""
    permissions: dict[str, float] = field(default_factory=dict)
    """Hosts that datagrams may be exchanged with, and when each permission expires."""
    inside: frozenset[str] = frozenset()
    """Hosts with permissions that are the relay's own: only relayed ports may be reached there."""
    bindings: dict[bytes, Binding] = field(default_factory=dict)
    channels: dict[bytes, Flow] = field(default_factory=dict)
    numbers: dict[Address, bytes] = field(default_factory=dict)
    sends: dict[Address, Flow] = field(default_factory=dict)
    """The data of Send indications of this turn, by peer."""
    to_client: Flow | None = None
    """The data for its client, from the first on. `Allocations.close` removes it, because it refers back."""
    meters: tuple[Meter, ...] = ()
    """What counts its bytes: for its user, its client's address and networks. Empty until it relays."""
    buckets: tuple[TokenBucket, ...] = ()
    """The bandwidth of all, of its user, and of its client's address and networks. Empty until it relays."""
    made: float = 0.0
    """When it began to relay, in monotonic seconds."""
    bytes_to_peers: int = 0
    bytes_to_client: int = 0
    bytes_dropped: int = 0
    """Bytes of datagrams, in both directions, that were dropped because a bucket had too few tokens."""
    dropped_at: float = -inf
    """When such a datagram was dropped last, in monotonic seconds."""
    dropped_since: float = -inf
    """Since when some have been dropped again and again, in monotonic seconds."""
    bytes_told: int = 0
    """The value of `bytes_dropped` that its client was told last."""
    told_at: float = -inf
    """When that was, in monotonic seconds."""

    @property
    def is_ipv6(self) -> bool:
        """The family of the relayed address."""
        return self.relayed.is_ipv6

    def update_channels(self) -> None:
        """Update `channels` and `numbers` from the bindings and permissions."""
        self.channels = {
            number: self.channels.get(number) or Flow(self, binding.peer)
            for number, binding in self.bindings.items()
            if binding.peer.host in self.permissions
        }
        self.numbers = {self.bindings[number].peer: number for number in self.channels}

    def forbid(self, denies: Callable[[str], bool]) -> None:
        """Remove the permissions for hosts that are refused now."""
        self.permissions = {host: end for host, end in self.permissions.items() if not denies(host)}
        self.update_channels()

    def expire(self, now: float) -> None:
        """Remove permissions and bindings that have expired."""
        self.permissions = {host: end for host, end in self.permissions.items() if end > now}
        self.bindings = {number: each for number, each in self.bindings.items() if each.expires > now}
        self.update_channels()

    @property
    def owner(self) -> AllocationOwner:
        """Its user and client, for events."""
        return AllocationOwner(self.user.name, self.client.remote, self.client.connection != 0)

    def next_end(self) -> float:
        """When the allocation or a part of it expires next."""
        ends = [self.expires, *self.permissions.values(), *(each.expires for each in self.bindings.values())]
        return min(ends)


@dataclass(slots=True, eq=False)
class Reservation:
    """A port that waits for a request with its token, until `expires` (monotonic seconds)."""

    user: User
    place: Place
    port: RelayedPort
    bound: Address
    expires: float


class AllocateRequest(NamedTuple):
    """What an Allocate request asks for."""

    ipv6: bool = False
    even: bool = False
    reserve: bool = False
    """Whether to reserve the next higher port for a later request (EVEN-PORT)."""
    token: bytes | None = None


class AllocationOwner(NamedTuple):
    """The user and the client's address of an allocation."""

    user: str
    client: Address
    is_stream: bool


@dataclass(frozen=True)
class AllocationMade:
    """An allocation relays from now on, at this address as peers see it."""

    owner: AllocationOwner
    relayed: Address


@dataclass(frozen=True)
class FirstPermission:
    """An allocation that had no permission has one: datagrams may be relayed for it from now on."""

    owner: AllocationOwner
    relayed: Address


@dataclass(frozen=True)
class AllocationEnded:
    """An allocation ended: how many seconds it relayed, and how many bytes."""

    owner: AllocationOwner
    relayed: Address
    seconds: float
    to_peers: int
    to_client: int


@dataclass(frozen=True)
class AllocationRefused:
    """An allocation was refused with this error code, for this limit if the code does not tell it."""

    owner: AllocationOwner
    code: int
    limit: str = ""


@dataclass(frozen=True)
class RelayLimitHit:
    """A request or allocation of a client at this host was refused, slowed down or ended."""

    host: str
    limit: str
    user: str | None = None


RelayEvent = AllocationMade | FirstPermission | AllocationEnded | AllocationRefused | RelayLimitHit

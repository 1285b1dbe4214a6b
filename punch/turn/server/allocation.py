"""
One allocation of the relay, with its permissions and channels, and the events that an operator may want to
know. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from punch.net.rate_limits import Source
from punch.net.token_bucket import TokenBucket
from punch.wire.address import Address


class FiveTuple(NamedTuple):
    """Who asks: the two addresses, and which connection it is on a stream transport (0: UDP)."""

    remote: Address
    local: Address
    connection: int = 0


class AllocationRefusal(Exception):
    """A request is refused with an error code of RFC 8489 or 8656, and a reason for a person."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class RelayedPort(Protocol):
    """A bound UDP socket. What arrives there is for `allocation`."""

    allocation: Allocation | None

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send them; whatever goes wrong, they are lost."""

    def close(self) -> None:
        """Stop."""


class PortPool(Protocol):
    """Opens sockets for the table."""

    def open(self, host: str, port: int) -> RelayedPort | None:
        """A socket bound to `host` and `port`, or None if it can't be had."""


@dataclass(slots=True, eq=False)
class User:
    """One user of the relay: a peer, as its credentials name it."""

    name: str
    bandwidth: TokenBucket
    ports: int = 0
    """Allocations and reservations."""


@dataclass(slots=True, eq=False)
class Flow:
    """
    Datagrams on their way: to `peer`, or to the client if that is None. They wait for the end of the turn.
    """

    allocation: Allocation
    peer: Address | None
    waiting: list[bytes] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Binding:
    """A channel: its two bytes on the wire, and its end."""

    number: bytes
    peer: Address
    expires: float


@dataclass(slots=True, eq=False)
class Place:
    """A place in the table of ports, and who has it: an allocation, or the token of a reservation."""

    source: Source
    holder: Allocation | bytes | None = None


@dataclass(slots=True, eq=False)
class Allocation:
    """
    What one client was given.

    `channels` and `numbers` hold the channels that are open now, that is, whose binding and permission both
    live: looking a datagram up there is all that relaying it takes.
    """

    client: FiveTuple
    user: User
    place: Place | None
    """Its place in the table; None as long as its client has not proved that it receives at its address."""
    key: bytes
    """The long-term key of who asked for it."""
    transaction: bytes
    port: RelayedPort
    bound: Address
    relayed: Address
    """What peers see: `bound`, unless a NAT is in front."""
    expires: float
    token: bytes | None = None
    """The RESERVATION-TOKEN that came with it."""
    permissions: dict[str, float] = field(default_factory=dict)
    inside: frozenset[str] = frozenset()
    """Hosts of the relay itself: there, only relayed ports may be reached."""
    bindings: dict[bytes, Binding] = field(default_factory=dict)
    channels: dict[bytes, Flow] = field(default_factory=dict)
    numbers: dict[Address, bytes] = field(default_factory=dict)
    sends: dict[Address, Flow] = field(default_factory=dict)
    """Send indications of this turn, by peer."""
    to_client: Flow = field(init=False)
    made: float = 0.0
    """Monotonic seconds; since when it relays."""
    bytes_to_peers: int = 0
    bytes_to_client: int = 0

    def __post_init__(self) -> None:
        self.to_client = Flow(self, None)

    @property
    def is_ipv6(self) -> bool:
        """The family of the relayed address."""
        return self.relayed.is_ipv6

    def arrange(self) -> None:
        """Bring `channels` and `numbers` into line with bindings and permissions."""
        self.channels = {
            number: self.channels.get(number) or Flow(self, binding.peer)
            for number, binding in self.bindings.items()
            if binding.peer.host in self.permissions
        }
        self.numbers = {self.bindings[number].peer: number for number in self.channels}

    def expire(self, now: float) -> None:
        """Forget permissions and bindings whose time is over."""
        self.permissions = {host: end for host, end in self.permissions.items() if end > now}
        self.bindings = {number: each for number, each in self.bindings.items() if each.expires > now}
        self.arrange()

    @property
    def owner(self) -> AllocationOwner:
        """Whose it is."""
        return AllocationOwner(self.user.name, self.client.remote, self.client.connection != 0)

    def next_end(self) -> float:
        """When the first part of it ends."""
        ends = [self.expires, *self.permissions.values(), *(each.expires for each in self.bindings.values())]
        return min(ends)


# -- events --


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

"""
The allocations of the relay, and their limits: number, users, lifetime and bandwidth.

An allocation belongs to a five-tuple (RFC 8656, section 2.2) and to the user with whose credentials it was
made. Until its client has proved that it receives at its address, the allocation is *unproved*: it is found
by five-tuple and user together, relays nothing, leaves the five-tuple free for other users, and counts for
its user only. At most one part in `UNPROVED_PART` of all allocations may be unproved. A client that forges
its address gets no more than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from punch.identity import RandomBytes
from punch.net.deadlines import Deadlines
from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.segmented_table import SegmentedTable
from punch.net.sources import Shares, Source, address_key, source_of
from punch.net.token_bucket import TokenBucket
from punch.turn.server.allocation import (
    AllocateRequest,
    Allocation,
    AllocationEnded,
    AllocationMade,
    AllocationRefusal,
    AllocationRefused,
    FiveTuple,
    Place,
    PortPool,
    RelayedPort,
    RelayEvent,
    RelayLimitHit,
    Reservation,
    User,
)
from punch.turn.server.quotas import GROWTH, Meter, Quotas
from punch.turn.server.settings import RelaySettings
from punch.wire.address import Address, parsed

RESERVATION_TIME = 30.0
"""Seconds that a reserved port waits for its RESERVATION-TOKEN (RFC 8656, section 7.2)."""
QUOTA = "relay-quota"
"""The limit of the bytes of a day, for the log."""
UNPROVED_PART = 8
"""The number of unproved allocations is at most the limit of all allocations divided by this."""
_PORT_TRIES = 512
"""Ports that are tried for an allocation, starting at a random one (RFC 6056, section 3.3.1)."""
_TOKEN_SIZE = 8
_EVENTS = 10_000
"""
Events that are kept if nobody takes them, and two more for each allocation: all may end in one turn of the
reactor, for example, and no event may be lost that the operator needs.
"""


class Limited(NamedTuple):
    """
    What limits the rate of a user, an address or a network.

    :ivar rate: the bytes a second that it may have at all processes together.
    """

    meter: Meter
    bandwidth: TokenBucket
    rate: float


class Allocations:
    """
    All allocations, reservations and users. `now` is monotonic seconds.
    """

    def __init__(self, settings: RelaySettings, ports: PortPool, random: RandomBytes, now: float) -> None:
        self.bandwidth = TokenBucket(settings.rate, settings.rate * settings.burst_time, now)
        """The bandwidth of all users together."""
        self.by_client: dict[tuple[Address, Address, int], Allocation] = {}
        """The allocations whose clients have proved that they receive at their address."""
        self.by_relayed: dict[Address, Allocation] = {}
        self.users: dict[str, User] = {}
        self.events: deque[RelayEvent] = deque(maxlen=_EVENTS + 2 * settings.allocations)
        """Events for the log; the caller takes them."""
        self.denied: frozenset[str] = frozenset()
        """Users whose requests for allocations are refused."""
        self.ended = 0
        """Allocations that have ended since the start, including the unproved ones."""
        self.quotas = Quotas(settings)
        self._settings = settings
        self._ports = ports
        self._random = random
        shares = Shares.growing(settings.allocations_per_address)
        self.places: SegmentedTable[Place] = SegmentedTable(settings.allocations, shares)
        """The ports in use, by the sources of their clients."""
        self.unproved: dict[tuple[FiveTuple, str], Allocation] = {}
        """The other allocations, by five-tuple and user, the oldest first."""
        most = max(1, settings.allocations // UNPROVED_PART)
        self.unproved_places: SourceTable[Allocation] = SourceTable(most, Shares.growing(most))
        """The places of unproved allocations, by user, because their addresses may be forged."""
        self._hosts = {*settings.machine, *settings.shown}
        """The hosts of relayed addresses."""
        self._bound: set[Address] = set()
        self.reservations: dict[bytes, Reservation] = {}
        self._deadlines: Deadlines[Allocation | User | bytes] = Deadlines()

    def __len__(self) -> int:
        """The number of ports in use, by allocations and reservations."""
        return len(self.places) + len(self.unproved)

    def of(self, client: FiveTuple, user: str) -> Allocation | None:
        """
        The allocation of a five-tuple: that of any user if its client has proved that it receives there, else
        this user's own.
        """
        return self.by_client.get(client) or self.unproved.get((client, user))

    def is_relay(self, remote: Address) -> bool:
        """
        Whether this is, or may become, a relayed address. A client at a relayed address could make a loop.
        Loopback is excluded: it cannot be forged from outside, and clients on this machine use the same
        ports.
        """
        if remote in self.by_relayed or remote in self._bound:
            return True
        low, high = self._settings.ports
        return (
            low <= remote.port <= high and remote.host in self._hosts and not parsed(remote.host).is_loopback
        )

    def open(
        self,
        client: FiveTuple,
        user_name: str,
        key: bytes,
        transaction: bytes,
        wanted: AllocateRequest,
        expires: float,
        now: float,
        *,
        receives: bool,
    ) -> Allocation:
        """
        A new allocation for `client`, which has none.

        :param receives: whether the client has proved that it receives at its address. Only then it may
            reserve ports, or use a reserved one.
        :raise AllocationRefusal: 403, 440, 486 or 508.
        """
        place: Place | None = None
        token = None
        if user_name in self.denied:
            raise AllocationRefusal(403, "The operator refuses this peer")
        if self.quotas.is_spent(user_name):
            raise AllocationRefusal(486, "Relay quota of the day reached", QUOTA)
        if self.quotas.spent_at(client.remote.host):
            raise AllocationRefusal(486, "Relay quota of the day reached at this address", QUOTA)
        if wanted.token is not None:
            reservation = self._take_reservation(wanted.token, user_name)
            user, place = reservation.user, reservation.place
            port, bound = reservation.port, reservation.bound
            shown = self._settings.shown_host(bound.host, client.local.host)
        else:
            hosts = self._settings.hosts(client.local.host, wanted.ipv6)
            if hosts is None:
                raise AllocationRefusal(440, "No such address family here")
            user = self._admit(user_name, 2 if wanted.reserve else 1, now)
            source = source_of(client.remote.host)
            taken: list[Place] = []
            try:
                if receives:
                    place = self._take_place(source, taken, now)
                    second = self._take_place(source, taken, now) if wanted.reserve else None
                else:
                    second = None
                    self._make_room_for_unproved(source, user_name, now)
                bound, port, token = self._open_port(hosts.bound, user, second, wanted, now)
            except AllocationRefusal:
                for each in taken:
                    self.places.leave(each)
                self._release(user, 2 if wanted.reserve else 1, now)
                raise
            shown = hosts.shown
        relayed = Address(shown, bound.port)
        self._hosts |= {shown, bound.host}
        allocation = Allocation(client, user, place, key, transaction, port, bound, relayed, expires, token)
        port.allocation = allocation
        if place is not None:
            place.holder = allocation
            self._relays(allocation, now)
        else:
            self.unproved[client, user_name] = allocation
            self.unproved_places.enter((user_name,), allocation)
        self.by_relayed[allocation.relayed] = allocation
        self.by_relayed[bound] = allocation
        self.schedule(allocation)
        return allocation

    def prove(self, allocation: Allocation, now: float) -> None:
        """
        The client has proved that it receives at its address: the allocation relays from now on, and counts
        for that address.

        :raise AllocationRefusal: 437. The allocation has ended, because there is no room for it.
        """
        if allocation.place is not None:
            return
        host = allocation.client.remote.host
        try:
            if self.quotas.is_spent(allocation.user.name) or self.quotas.spent_at(host):
                raise AllocationRefusal(486, "Relay quota of the day reached", QUOTA)
            place = self._take_place(source_of(host), [], now)
        except AllocationRefusal as full:
            self.close(allocation, now)
            self.events.append(AllocationRefused(allocation.owner, full.code, full.limit))
            raise AllocationRefusal(437, full.reason) from full
        self._forget_unproved(allocation)
        allocation.place = place
        place.holder = allocation
        self._relays(allocation, now)

    def close(self, allocation: Allocation, now: float) -> None:
        """
        End an allocation. Its five-tuple and its port are free at once. Nothing that it refers to refers to
        it afterwards, so that its memory is free without the garbage collector.
        """
        if allocation.port.allocation is not allocation:
            return
        if allocation.place is None:
            self._forget_unproved(allocation)
        else:
            del self.by_client[allocation.client]
            seconds, sizes = now - allocation.made, (allocation.bytes_to_peers, allocation.bytes_to_client)
            self.events.append(AllocationEnded(allocation.owner, allocation.relayed, seconds, *sizes))
            self.places.leave(allocation.place)
            allocation.place.holder = None
        self._deadlines.discard(allocation)
        self.by_relayed.pop(allocation.relayed, None)
        self.by_relayed.pop(allocation.bound, None)
        self._bound.discard(allocation.bound)
        allocation.expires = now
        allocation.channels = {}
        allocation.numbers = {}
        allocation.to_client = None
        allocation.port.allocation = None
        allocation.port.close()
        self.ended += 1
        self._release(allocation.user, 1, now)

    def end_spent(self, allocation: Allocation, now: float) -> None:
        """End an allocation whose user or address has used up its bytes of the day."""
        self.events.append(RelayLimitHit(allocation.client.remote.host, QUOTA, allocation.user.name))
        self.close(allocation, now)

    def schedule(self, allocation: Allocation) -> None:
        """Set the timer of an allocation whose deadlines have changed."""
        self._deadlines.set(allocation, allocation.next_end())

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called; None if nothing is due."""
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        """End what has expired."""
        while (due := self._deadlines.pop(now)) is not None:
            if isinstance(due, Allocation):
                self._expire(due, now)
            elif isinstance(due, User):
                self._forget(due)
            else:
                self._end_reservation(due, now)

    def all(self) -> list[Allocation]:
        """All allocations, including the unproved ones."""
        return [*self.by_client.values(), *self.unproved.values()]

    def limited(self) -> dict[str, Limited]:
        """What limits the rates of allocations now, by names that are the same at all processes."""
        settings, found = self._settings, {}
        for allocation in self.by_client.values():
            user, host = allocation.user, allocation.client.remote.host
            prefixes = source_of(host)[:-1]
            names = [
                (f"user {user.name}", settings.rate_per_user),
                (f"address {address_key(host)}", settings.rate_per_address),
                *(
                    (f"network {_hexadecimal(key)}", GROWTH.of(key) * settings.rate_per_address)
                    for key in prefixes
                ),
            ]
            # A network that has no limits has no meter
            for (name, rate), meter, bucket in zip(
                names, allocation.meters, allocation.buckets[1:], strict=False
            ):
                found[name] = Limited(meter, bucket, rate)
        return found

    def close_all(self, now: float) -> None:
        """End all allocations and reservations."""
        for allocation in self.all():
            self.close(allocation, now)
        for token in list(self.reservations):
            self._end_reservation(token, now)
        self.users.clear()
        self._deadlines.clear()

    def _relays(self, allocation: Allocation, now: float) -> None:
        self.by_client[allocation.client] = allocation
        allocation.made = now
        host = allocation.client.remote.host
        user, at_host = allocation.user, self.quotas.of_host(host, now)
        sources = at_host, *self.quotas.of_networks(host, now)
        allocation.meters = (self.quotas.of_user(user.name, source_of(host)), *sources)
        allocation.buckets = (self.bandwidth, user.bandwidth, *(each.bandwidth for each in sources))
        self.events.append(AllocationMade(allocation.owner, allocation.relayed))

    def _expire(self, allocation: Allocation, now: float) -> None:
        if allocation.expires <= now:
            self.close(allocation, now)
        else:
            allocation.expire(now)
            self.schedule(allocation)

    def _admit(self, name: str, ports: int, now: float) -> User:
        """
        Count ports for a user.

        :raise AllocationRefusal: 486.
        """
        settings = self._settings
        user = self.users.get(name)
        if (user.ports if user else 0) + ports > settings.allocations_per_user:
            raise AllocationRefusal(486, "Allocation quota reached")
        if user is None:
            rate = settings.rate_per_user
            bandwidth = TokenBucket(rate, rate * settings.burst_time, now)
            user = self.users[name] = User(name, bandwidth)
        user.ports += ports
        return user

    def _take_place(self, source: Source, taken: list[Place], now: float) -> Place:
        """
        Take a place in the table; if all are in use, one makes room (`SegmentedTable`).

        :param taken: the place is appended to this list.
        :raise AllocationRefusal: 486 or 508.
        """
        self._make_room(source, now)
        place = Place(source)
        self.places.enter(source, place, now)
        taken.append(place)
        return place

    def _make_room(self, source: Source, now: float) -> None:
        """
        End allocations or reservations until the table has room for another one of this source.

        :raise AllocationRefusal: 486 or 508.
        """
        while (leaving := self._leaving(source, now)) is not None:
            if isinstance(leaving.holder, Allocation):
                owner = leaving.holder.owner
                self.events.append(RelayLimitHit(owner.client.host, "relay-allocations", owner.user))
                self.close(leaving.holder, now)
            elif leaving.holder is not None:
                user = self.reservations[leaving.holder].user.name
                self.events.append(RelayLimitHit("", "relay-allocations", user))
                self._end_reservation(leaving.holder, now)
            else:
                raise AllocationRefusal(508, "The relay is full")

    def _leaving(self, source: Source, now: float) -> Place | None:
        """
        Return the place that has to become free for one of this source; None if there is room.

        :raise AllocationRefusal: 486 or 508.
        """
        try:
            return self.places.room(source, now)
        except NoRoom as full:
            if full.shared:
                raise AllocationRefusal(508, "The relay is full") from full
            raise AllocationRefusal(486, "Allocation quota of this address reached") from full

    def _make_room_for_unproved(self, source: Source, user: str, now: float) -> None:
        """
        End an unproved allocation if there are too many: the newest of the user that has most; the oldest of
        this user if it has most; the oldest of all if no user has two. A proof takes a round trip.

        :raise AllocationRefusal: 486 or 508, there would be no place for the allocation once it is proved.
        """
        self._leaving(source, now)
        try:
            leaving = self.unproved_places.room((user,))
        except NoRoom:
            leaving = self.unproved_places.oldest((user,)) or next(iter(self.unproved.values()))
        if leaving is not None:
            owner = leaving.owner
            self.events.append(RelayLimitHit(owner.client.host, "relay-allocations-unproved", owner.user))
            self.close(leaving, now)

    def _forget_unproved(self, allocation: Allocation) -> None:
        del self.unproved[allocation.client, allocation.user.name]
        self.unproved_places.leave(allocation)

    def _release(self, user: User, ports: int, now: float) -> None:
        user.ports -= ports
        if not user.ports:
            # A user that comes back at once finds its bucket as it was.
            self._deadlines.set(user, user.bandwidth.full_at(now))

    def _forget(self, user: User) -> None:
        if not user.ports and self.users.get(user.name) is user:
            del self.users[user.name]

    def _open_port(
        self, host: str, user: User, second_place: Place | None, wanted: AllocateRequest, now: float
    ) -> tuple[Address, RelayedPort, bytes | None]:
        """
        Open a port, and a second one if it is to be reserved.

        :param second_place: the place of the reserved port.
        :raise AllocationRefusal: 508, there is none.
        """
        low, high = self._settings.ports
        total = high - low + 1
        start = int.from_bytes(self._random(4), "big") % total
        for step in range(min(total, _PORT_TRIES)):
            number = low + (start + step) % total
            if wanted.even and number & 1:
                continue
            bound = Address(host, number)
            port = self._bind(bound)
            if port is None:
                continue
            if second_place is None:
                return bound, port, None
            following = Address(host, number + 1)
            second = self._bind(following) if number < high else None
            if second is None:
                self._bound.discard(bound)
                port.close()
                continue
            return bound, port, self._reserve(user, second_place, second, following, now)
        raise AllocationRefusal(508, "No port is free")

    def _bind(self, bound: Address) -> RelayedPort | None:
        if bound in self._bound:
            return None
        port = self._ports.open(*bound)
        if port is not None:
            self._bound.add(bound)
        return port

    def _reserve(self, user: User, place: Place, port: RelayedPort, bound: Address, now: float) -> bytes:
        token = self._random(_TOKEN_SIZE)
        end = now + RESERVATION_TIME
        place.holder = token
        self.reservations[token] = Reservation(user, place, port, bound, end)
        self._deadlines.set(token, end)
        return token

    def _end_reservation(self, token: bytes, now: float) -> None:
        reservation = self.reservations.pop(token, None)
        if reservation is not None:
            self._deadlines.discard(token)
            self._bound.discard(reservation.bound)
            reservation.port.close()
            self.places.leave(reservation.place)
            self._release(reservation.user, 1, now)

    def _take_reservation(self, token: bytes, user_name: str) -> Reservation:
        reservation = self.reservations.get(token)
        if reservation is None or reservation.user.name != user_name:
            raise AllocationRefusal(508, "No such reservation")
        self._deadlines.discard(token)
        return self.reservations.pop(token)


def _hexadecimal(prefix: Hashable) -> str:
    return prefix.hex() if isinstance(prefix, bytes) else str(prefix)

"""
How many bytes the relay has carried today, for each user and for the clients at each address, and how many it
may carry, in a day and in a second.

A day is one of UTC. The data of a datagram counts when it is relayed, in either direction, without headers.
An IPv6 address counts as its /64. Its /56 may have twice as much as a /64, and its /48 or an IPv4 /24 four
times as much, so that one machine with many addresses has no more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from math import inf
from typing import Any
from weakref import WeakValueDictionary

from punch.net.fairness import SourceCache
from punch.net.sources import NETWORK_GROWTH, SITE_GROWTH, Shares, Source, address_key, source_of, width
from punch.net.token_bucket import TokenBucket
from punch.turn.server.settings import RelaySettings

DAY = 86_400
GROWTH = Shares.growing(1)
"""How many times as much as an address a network may have."""
MAX_METERS = 50_000
"""
How many users are counted in a day, how many addresses, and how many networks of each width. Sources share
these places: if one comes with ever new identities or addresses, only its own meters are forgotten
(`SourceCache`). Then the meter of an address or a network begins at zero, that of a user with what was
stored.
"""
MAX_LEFT = 10_000
"""How many forgotten meters of users are kept until their bytes are stored."""
_SHARE = MAX_METERS // 64
_IN_ONE = 256
"""How many addresses an IPv4 /24 has, and how many /56s an IPv6 /48."""

TOLD_FROM = 0.01
"""
The other processes are told of a meter when it has counted this part of its limit since they were last told
of it, so that few meters are sent.
"""


class Meter:
    """
    The bytes of one user, or of all clients at one address or in one network.

    :ivar used: how many it has had today.
    :ivar stored: how many of these are not to be stored: the operator's file contains them, or another
        process has carried them.
    :ivar told: how many of these all processes of the service know of.
    :ivar elsewhere: how many of these were carried by other processes, or by an earlier one.
    :ivar limit: how many it may have in a day; infinity: any number.
    """

    __slots__ = ("__weakref__", "elsewhere", "limit", "stored", "told", "used")

    def __init__(self, limit: float) -> None:
        self.clear()
        self.limit = limit

    def clear(self) -> None:
        """Begin at zero, because a day has begun."""
        self.used = self.stored = self.told = self.elsewhere = 0

    @property
    def spent(self) -> bool:
        """Whether nothing more is relayed today."""
        return self.used >= self.limit

    def learn(self, total: int, known: int) -> None:
        """
        Count what other processes have carried.

        :param total: what all processes together have carried.
        :param known: how much of it this process knew of when it asked.
        """
        self.add_elsewhere(max(0, total - known))
        self.told = max(total, known)

    def add_elsewhere(self, size: int) -> None:
        """Count what this process has not carried, and need not store."""
        self.used += size
        self.stored += size
        self.elsewhere += size


class SourceMeter(Meter):
    """
    A meter of an address or a network.

    :ivar bandwidth: what its clients may have together.
    """

    __slots__ = ("bandwidth",)

    def __init__(self, limit: float, bandwidth: TokenBucket) -> None:
        super().__init__(limit)
        self.bandwidth = bandwidth


class Quotas:
    """
    The meters of today.

    :ivar own_limit: returns the limit of a user that has one of its own, in bytes a day; None for the others.
    :ivar stored: returns how many bytes of a user were stored today.
    """

    def __init__(self, settings: RelaySettings) -> None:
        self.own_limit: Callable[[str], int | None] = lambda user: None
        self.stored: Callable[[str], int] = lambda user: 0
        self._settings = settings
        self._day = 0
        self._users: SourceCache[str, Meter] = SourceCache(
            MAX_METERS, Shares.growing(_SHARE), self._forgotten
        )
        self._left: dict[str, Meter] = {}
        """Forgotten meters of users whose bytes are not stored yet."""
        self._in_use: WeakValueDictionary[str, Meter] = WeakValueDictionary()
        """The meters of all users, also those that only allocations use."""
        self._addresses: SourceCache[str, SourceMeter] = SourceCache(
            MAX_METERS, Shares(1, _IN_ONE, NETWORK_GROWTH * _IN_ONE)
        )
        # At the rate of the whole relay, no network has less than all.
        slow = SITE_GROWTH * settings.rate_per_address < settings.rate
        self._limits_networks = slow or settings.quota_per_address is not None
        # Networks of each width in a table of their own: whoever has all addresses of one can't fill it.
        self._networks: dict[int, SourceCache[Hashable, SourceMeter]] = {
            1: SourceCache(MAX_METERS, Shares(1, 1, _IN_ONE)),
            2: SourceCache(MAX_METERS, Shares(1, 1, 1)),
        }

    @property
    def day(self) -> int:
        """The day that is counted, as days since 1970."""
        return self._day

    @property
    def not_stored(self) -> dict[str, Meter]:
        """The meters of the users that have more bytes than are stored, by the names of the users."""
        return {user: meter for user, meter in self._in_use.items() if meter.used > meter.stored}

    @property
    def hosts(self) -> int:
        """How many addresses are counted."""
        return len(self._addresses)

    def to_tell(self, most: int) -> list[tuple[str, Meter]]:
        """
        The meters of which the other processes are to be told (`TOLD_FROM`), and their names, which are the
        same at all processes. Those with the largest such part come first.

        :param most: how many.
        """
        kinds: list[tuple[str, Iterable[tuple[Any, Meter]]]] = [
            ("user", list(self._in_use.items())),
            ("address", self._addresses),
            *(("network", meters) for meters in self._networks.values()),
        ]
        parts = [
            (part, f"{kind} {key}", meter)
            for kind, meters in kinds
            for key, meter in meters
            if (part := (meter.used - meter.told) / meter.limit) >= TOLD_FROM
        ]
        parts.sort(key=lambda each: -each[0])
        return [(name, meter) for _, name, meter in parts[:most]]

    def begin_day(self, unix: float) -> None:
        """Begin anew if a day has begun. Meters that are in use stay in use."""
        day = int(unix) // DAY
        if day != self._day:
            self._day = day
            self._left.clear()
            for user_meter in list(self._in_use.values()):
                user_meter.clear()
            kinds: list[SourceCache[Any, Any]] = [self._addresses, *self._networks.values()]
            for meters in kinds:
                for _, meter in meters:
                    meter.clear()

    def restore(self, user: str, used: int) -> None:
        """Take what was stored today, by an earlier process for example."""
        meter = self._in_use.get(user) or self._add((user,), user, 0)
        meter.add_elsewhere(used)
        meter.told += used

    def all_stored(self) -> None:
        """The bytes of all users were stored."""
        for meter in self.not_stored.values():
            meter.stored = meter.used
        self._left.clear()

    def update_limit(self, name: str) -> None:
        """The limit of a user may have changed."""
        meter = self._in_use.get(name)
        if meter is not None:
            meter.limit = self._limit_of(name)

    def of_user(self, name: str, source: Source | None = None) -> Meter:
        """
        The meter of a user.

        :param source: where the user is, if that is known and there is no meter yet.
        """
        if (meter := self._users.get(name)) is not None:
            return meter
        if (meter := self._in_use.get(name)) is not None:
            self._left.pop(name, None)
            return self._users.put(source or (name,), name, meter)
        return self._add(source or (name,), name, self.stored(name))

    def meter(self, user: str) -> Meter | None:
        """The meter of a user if there is one."""
        return self._in_use.get(user)

    def is_spent(self, user: str) -> bool:
        """Whether a user has used up its bytes. Counts nothing."""
        meter = self._in_use.get(user)
        if meter is not None:
            return meter.spent
        limit = self._limit_of(user)
        return limit < inf and self.stored(user) >= limit

    def of_host(self, host: str, now: float) -> SourceMeter:
        """The meter of the clients at the address of `host`."""
        key = address_key(host)
        return self._addresses.get(key) or self._addresses.put(source_of(host), key, self._meter(1, now))

    def of_networks(self, host: str, now: float) -> tuple[SourceMeter, ...]:
        """The meters of the networks that `host` is in; empty if these have no limit."""
        if not self._limits_networks:
            return ()
        found = []
        source = source_of(host)
        for depth, prefix in enumerate(source[:-1], 1):
            meters, meter = self._networks[width(prefix)], self._meter(GROWTH.of(prefix), now)
            found.append(meters.get(prefix) or meters.put(source[:depth], prefix, meter))
        return tuple(found)

    def _add(self, source: Source, name: str, stored: int) -> Meter:
        """Add the meter of a user that has none, of which so many bytes were stored."""
        meter = Meter(self._limit_of(name))
        meter.add_elsewhere(stored)
        meter.told = stored
        self._in_use[name] = meter
        return self._users.put(source, name, meter)

    def _forgotten(self, name: str, meter: Meter) -> None:
        if meter.used > meter.stored:
            self._left[name] = meter
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]

    def _meter(self, growth: int, now: float) -> SourceMeter:
        rate, limit = growth * self._settings.rate_per_address, self._settings.quota_per_address
        bandwidth = TokenBucket(rate, rate * self._settings.burst_time, now)
        return SourceMeter(inf if limit is None else growth * limit, bandwidth)

    def spent_at(self, host: str) -> bool:
        """Whether the address of `host` or a network that it is in has used up its bytes. Counts nothing."""
        at_host = self._addresses.get(address_key(host))
        around = (self._networks[width(prefix)].get(prefix) for prefix in source_of(host)[:-1])
        return any(meter is not None and meter.spent for meter in (at_host, *around))

    def _limit_of(self, user: str) -> float:
        own = self.own_limit(user)
        limit = self._settings.quota_per_user if own is None else own
        return inf if limit is None else limit

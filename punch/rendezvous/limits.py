"""
How much a stranger may make grow: token buckets and counters, in tables of fixed size.

Neither ever raises because of what strangers do: the answer is yes or no. Keys are usually what `prefix_key`
makes of an address, since whoever has one address of an IPv4 /24 or an IPv6 /64 often has all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv4Address, IPv6Address

from punch.wire.address import parsed

# More than one: so the table shrinks again when a flood is over.
_FORGET_AT_ONCE = 2


class TokenBuckets:
    """
    One token bucket for each key, for at most `capacity` keys.

    A bucket that has filled up again is the same as none, so it is forgotten when new keys come. When all of
    `capacity` are in use, the one longest not asked for makes room: whoever can send from that many prefixes
    at once gets a fresh bucket for each anyway.

    :param rate: tokens that a bucket gains each second.
    :param burst: tokens that a bucket holds at most, and at first.
    :param capacity: buckets at most.
    """

    def __init__(self, rate: float, burst: float, capacity: int) -> None:
        if rate <= 0 or burst <= 0 or capacity < 1:
            raise ValueError("a token bucket needs a rate, a burst and a capacity above zero")
        self.rate = rate
        self.burst = burst
        self.capacity = capacity
        # For each key the time at which its bucket is, or was, full again. One number says it all: the tokens
        # missing now are the seconds until then, times the rate. Ordered by when a key was last asked for.
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    def allow(self, key: Hashable, now: float, cost: float = 1.0) -> bool:
        """
        Take `cost` tokens from the bucket of `key` if it has them.

        :param now: monotonic seconds.
        :return: whether it had them. If not, it keeps those it has.
        """
        table = self._full_at
        full_at = table.get(key)
        if full_at is None:
            self._forget(now)
            full_at = now
        elif full_at < now:
            full_at = now
        after = full_at + cost / self.rate
        # A bucket of `burst` tokens is empty when it takes burst / rate seconds to be full again. Tiny errors
        # of binary fractions must not cost a token.
        if (after - now) * self.rate > self.burst + 1e-6:
            if key in table:
                table.move_to_end(key)
            return False
        table[key] = after
        table.move_to_end(key)
        return True

    def _forget(self, now: float) -> None:
        """Before a key is added: drop the oldest if they are full again, or if there is no room."""
        table = self._full_at
        for _ in range(_FORGET_AT_ONCE):
            if not table:
                return
            key = next(iter(table))
            if table[key] > now and len(table) < self.capacity:
                return
            del table[key]


class Counters:
    """
    How many of something each key has at the same time, and how many there are in all.

    Only keys that have some are kept, so the table never grows past `limit_total`.
    """

    def __init__(self, limit_each: int, limit_total: int) -> None:
        if limit_each < 1 or limit_total < 1:
            raise ValueError("a limit is at least one")
        self.limit_each = limit_each
        self.limit_total = limit_total
        self.total = 0
        self._counts: dict[Hashable, int] = {}

    def __getitem__(self, key: Hashable) -> int:
        """How many `key` has."""
        return self._counts.get(key, 0)

    def __len__(self) -> int:
        """How many keys have some."""
        return len(self._counts)

    def enter(self, key: Hashable) -> bool:
        """
        Count one more for `key`, and say whether it was within both limits: if not, nothing was counted.
        """
        count = self._counts.get(key, 0)
        if count >= self.limit_each or self.total >= self.limit_total:
            return False
        self._counts[key] = count + 1
        self.total += 1
        return True

    def leave(self, key: Hashable) -> None:
        """
        Count one less for `key`.

        :raise KeyError: it has none; whoever calls this has not kept to one `leave` for each `enter` that
            said yes.
        """
        count = self._counts[key]
        if count == 1:
            del self._counts[key]
        else:
            self._counts[key] = count - 1
        self.total -= 1


def prefix_key(host: str) -> str:
    """
    The /24 of an IPv4 address, the /64 of an IPv6 address: what one customer of a provider typically has.

    :raise ValueError: `host` is no IP address.
    """
    address = _ipv4_or_prefix(host)
    return f"{str(address).rpartition('.')[0]}.0/24" if isinstance(address, IPv4Address) else address


def address_key(host: str) -> str:
    """What is one address to the limits: an IPv4 address, the /64 of an IPv6 address, or the text itself."""
    try:
        return str(_ipv4_or_prefix(host))
    except ValueError:
        return host


def _ipv4_or_prefix(host: str) -> IPv4Address | str:
    address = parsed(host.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64"

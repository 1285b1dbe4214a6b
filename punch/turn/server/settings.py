"""The settings of the relay: its addresses, secrets and limits, and the destinations that it permits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from punch.wire.address import parsed
from punch.wire.special_addresses import (
    TABLE,
    IPAddress,
    IPNetwork,
    carried,
    is_translated,
)


class Hosts(NamedTuple):
    """The address that a relayed port is bound to, and the one that peers see."""

    bound: str
    shown: str


@dataclass(frozen=True)
class RelaySettings:
    """
    Times are in seconds, rates in bytes a second.

    :param secrets: the secrets with which credentials may be made.
    :param machine: addresses of this machine for clients that arrive at an address of the other family, or at
        loopback.
    :param shown: addresses that peers see instead of the machine's own, behind a 1:1 NAT.
    """

    secrets: tuple[bytes, ...]
    realm: str = "punch"
    machine: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    ports: tuple[int, int] = (49152, 65535)
    allocations: int = 2_000
    allocations_per_user: int = 64
    allocations_per_address: int = 512
    """Of all users at one IPv4 address or IPv6 /64."""
    rate: float = 125_000_000.0
    rate_per_user: float = 12_500_000.0
    rate_per_address: float = 125_000_000.0
    """Of all users at one IPv4 address or IPv6 /64."""
    quota_per_user: int | None = None
    """Bytes in a day; None: no limit."""
    quota_per_address: int | None = None
    """Bytes in a day of all users at one IPv4 address or IPv6 /64; None: no limit."""
    burst_time: float = 0.5
    """The size of token buckets, in seconds of their rate."""
    lifetime: float = 3600.0
    """The longest lifetime of an allocation without a refresh."""
    nonce_time: float = 3600.0
    requests_rate: float = 200.0
    requests_burst: float = 2000.0
    """Requests a second, and at once, of all clients at one address."""
    permissions: int = 256
    """Permissions of one allocation."""
    channels: int = 256
    """Channels of one allocation."""

    def hosts(self, local: str, ipv6: bool) -> Hosts | None:
        """
        The addresses for a client that arrived at the address `local`; None if there is none of the family.
        """
        candidates = [local, *self.machine]
        fitting = [each for each in candidates if (":" in each) == ipv6]
        # Loopback comes last, because peers elsewhere cannot reach it.
        fitting.sort(key=lambda each: parsed(each.partition("%")[0]).is_loopback)
        usable = [each for each in fitting if not parsed(each.partition("%")[0]).is_unspecified]
        if usable:
            return Hosts(usable[0], self.shown_host(usable[0], local))
        shown = _first(self.shown, ipv6)
        if fitting and shown is not None:
            return Hosts(fitting[0], shown)
        return None

    def shown_host(self, bound: str, local: str) -> str:
        """The address that peers see for a port bound to `bound`."""
        ipv6 = ":" in bound
        shown = _first(self.shown, ipv6)
        if shown is not None:
            return shown
        if not parsed(bound.partition("%")[0]).is_unspecified:
            return bound
        return _first(self.machine, ipv6) or local


def _first(hosts: Sequence[str], ipv6: bool) -> str | None:
    return next((each for each in hosts if (":" in each) == ipv6), None)


REFUSED: dict[IPNetwork, str] = {row.network: row.reason for row in TABLE}
"""Networks to which nothing is relayed, and why."""


class Destinations:
    """
    Tells whether an address may be relayed to.

    :param allowed: networks that are relayed to although the table refuses them, for test networks.
    :param is_own: whether an address is one of this machine's, at which its other services listen.
    :ivar denied: returns whether the operator refuses an address; at first, none is refused.
    """

    def __init__(self, allowed: Iterable[IPNetwork] = (), *, is_own: Callable[[str], bool]) -> None:
        self._allowed = tuple(allowed)
        self._is_own = is_own
        self.denied: Callable[[str], bool] = lambda host: False

    def refuses(self, host: str) -> bool:
        """
        Whether nothing may be relayed to `host`.

        :raise ValueError: it is not an IP address.
        """
        if self.denies(host):
            return True
        if self._allows(ip_address(host)):
            return False
        return any(
            _is_refused(each) or self._is_own(str(each)) for each in _ends(host) if not self._allows(each)
        )

    def denies(self, host: str) -> bool:
        """
        Whether the operator refuses `host`, in whatever form it is written.

        :raise ValueError: it is not an IP address.
        """
        return any(self.denied(str(each)) for each in _ends(host))

    def _allows(self, address: IPAddress) -> bool:
        return any(address in network for network in self._allowed)


def _ends(host: str) -> tuple[IPAddress, ...]:
    """
    The addresses that this one leads to: those that it contains, and itself unless it is always translated.
    """
    written = ip_address(host)
    inside = carried(written)
    return inside if is_translated(written) else (written, *inside)


@lru_cache(maxsize=1024)
def _is_refused(address: IPAddress) -> bool:
    return any(address in network for network in REFUSED)

"""
Where a relay sends nothing: networks around it that strangers have no business in, and what is no host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address

from punch.wire.special import HARMLESS, MAPPED, NAT64, TABLE, IPAddress, IPNetwork, unwrapped

__all__ = ["HARMLESS", "REFUSED", "Destinations", "IPAddress", "IPNetwork", "unwrapped"]

REFUSED: dict[IPNetwork, str] = {row.network: row.reason for row in TABLE}
"""Networks to which nothing is relayed, and why."""


class Destinations:
    """
    Says whether an address may be relayed to.

    :param allowed: networks that may although the table says no, for laboratories.
    :param is_own: whether an address is one of the machine's own, at which its other services listen.
    """

    def __init__(self, allowed: Iterable[IPNetwork] = (), *, is_own: Callable[[str], bool]) -> None:
        self._allowed = tuple(allowed)
        self._is_own = is_own

    def refuses(self, host: str) -> bool:
        """
        Whether nothing may be relayed to `host`.

        :raise ValueError: it is no IP address.
        """
        written = ip_address(host)
        address = unwrapped(written)
        if any(each in network for network in self._allowed for each in {written, address}):
            return False
        if _is_refused(address):
            return True
        # A form that is unwrapped stands outside of global unicast, or at a host that the table lets pass.
        if written != address and written not in MAPPED and written not in NAT64 and _is_refused(written):
            return True
        return any(self._is_own(str(each)) for each in {written, address})


@lru_cache(maxsize=1024)
def _is_refused(address: IPAddress) -> bool:
    return any(address in network for network in REFUSED)

"""
The addresses to which a relay sends nothing: private networks around it, its own machine, and addresses that
are no host.

What the operator denies comes first, then what is allowed for test networks, then the table. There is one
exception, in `punch.turn.server.requests`: a relayed address may send to another one of the same relay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import ip_address

from punch.wire.special_addresses import (
    TABLE,
    IPAddress,
    IPNetwork,
    carried,
    is_translated,
)

REFUSED: dict[IPNetwork, str] = {row.network: row.reason for row in TABLE}
"""Networks to which nothing is relayed, and why."""


class Destinations:
    """
    Tells whether an address may be relayed to.

    :param allowed: networks that are relayed to although the table refuses them, for test networks.
    :param is_own: whether an address is one of this machine's, at which its other services listen.
    :ivar denied: whether the operator refuses an address.
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
    """The addresses that this one leads to."""
    written = ip_address(host)
    inside = carried(written)
    return inside if is_translated(written) else (written, *inside)


@lru_cache(maxsize=1024)
def _is_refused(address: IPAddress) -> bool:
    return any(address in network for network in REFUSED)

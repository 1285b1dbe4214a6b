"""Which socket is bound where."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random
from typing import Generic, TypeVar

from punch.test.internet.packet import IPV4_ANY, IPV6_ANY, Endpoint, is_ipv6, os_error

_EPHEMERAL = (32768, 60999)

Bound = TypeVar("Bound")


class PortTable(Generic[Bound]):
    """
    The sockets of one protocol on one host, by the address and port that they are bound to.

    `::` takes IPv4, too, as on Linux; so it and `0.0.0.0` exclude each other.
    """

    def __init__(self, owns: Callable[[str], bool], random: Random) -> None:
        self._owns = owns
        self._random = random
        self._ports: dict[int, dict[str, Bound]] = {}

    def bind(self, address: str, port: int, owner: Bound) -> Endpoint:
        """
        Bind to an address and port; port 0 stands for any free one.

        :raise OSError: EADDRINUSE, EADDRNOTAVAIL.
        """
        if address not in (IPV4_ANY, IPV6_ANY) and not self._owns(address):
            raise os_error(errno.EADDRNOTAVAIL)
        if port == 0:
            port = self._free_port(address)
        elif self._is_taken(address, port):
            raise os_error(errno.EADDRINUSE)
        self._ports.setdefault(port, {})[address] = owner
        return (address, port)

    def unbind(self, endpoint: Endpoint) -> None:
        """Undo `bind`."""
        bound = self._ports.get(endpoint[1], {})
        bound.pop(endpoint[0], None)
        if not bound:
            self._ports.pop(endpoint[1], None)

    def find(self, endpoint: Endpoint) -> Bound | None:
        """The socket that receives what is sent to `endpoint`."""
        bound = self._ports.get(endpoint[1])
        if bound is None:
            return None
        host = endpoint[0]
        if host in bound:
            return bound[host]
        if not is_ipv6(host) and IPV4_ANY in bound:
            return bound[IPV4_ANY]
        return bound.get(IPV6_ANY)

    def holder(self, endpoint: Endpoint) -> Bound | None:
        """The socket that is bound to exactly this address and port."""
        return self._ports.get(endpoint[1], {}).get(endpoint[0])

    def clear(self) -> None:
        """Unbind all sockets."""
        self._ports.clear()

    def _is_taken(self, address: str, port: int) -> bool:
        bound = self._ports.get(port)
        if not bound:
            return False
        if address == IPV6_ANY:
            return True
        if address == IPV4_ANY:
            return any(other == IPV6_ANY or not is_ipv6(other) for other in bound)
        return address in bound or IPV6_ANY in bound or (not is_ipv6(address) and IPV4_ANY in bound)

    def _free_port(self, address: str) -> int:
        low, high = _EPHEMERAL
        start = self._random.randint(low, high)
        for step in range(high - low + 1):
            port = low + (start - low + step) % (high - low + 1)
            if not self._is_taken(address, port):
                return port
        raise os_error(errno.EADDRINUSE)

"""
Where a relay sends nothing: networks behind it that strangers have no business in.

The table is our own because no library's idea of "private" is it: documentation networks are harmless, and an
address that is wrapped into another form is as dangerous as it is plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

REFUSED: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this host, this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared: behind carriers' NATs
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments
        "192.168.0.0/16",  # private
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/128",  # unspecified
        "::1/128",  # loopback
        "64:ff9b:1::/48",  # NAT64 of the network around us, whatever lies behind
        "fc00::/7",  # private
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
"""Networks to which nothing is relayed."""

_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def unwrapped(address: IPAddress) -> IPAddress:
    """
    The IPv4 address inside an IPv6 address that is translated to it (IPv4-mapped, 64:ff9b::/96, 2002::/16,
    ::/96), or the address itself.
    """
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


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
        if any(each in network for network in self._allowed for each in (written, address)):
            return False
        if any(each in network for network in REFUSED for each in (written, address)):
            return True
        return self._is_own(str(address))

"""
Where a relay sends nothing: networks around it that strangers have no business in, and what is no host.

The table is our own because no library's idea of "private" is it: documentation networks are harmless, and an
address that is wrapped into another form is as dangerous as it is plain. A test checks it against the
registries of special-purpose addresses of the IANA (RFC 6890), row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address

REFUSED: dict[IPNetwork, str] = {
    ip_network(text): reason
    for text, reason in {
        "0.0.0.0/8": "this host, this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared: behind carriers' NATs",
        "127.0.0.0/8": "loopback",
        "169.254.0.0/16": "link-local, and the metadata services of clouds",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "protocols of the network around us: NAT64 discovery, DS-Lite, anycast",
        "192.88.99.0/24": "6to4 relays, whatever they lead to; deprecated",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "benchmarks of the network around us",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved, and broadcast",
        "::/128": "unspecified",
        "::1/128": "loopback",
        "::/96": "an IPv4 address in the deprecated compatible form",
        "::ffff:0:0:0/96": "an IPv4 address in the form of SIIT (RFC 2765): a translator around us",
        "64:ff9b:1::/48": "NAT64 of the network around us, whatever lies behind",
        "100::/64": "discarded",
        "100:0:0:1::/64": "a dummy, never a destination",
        "2001::/32": "Teredo: an IPv4 address and port of somebody's choice, behind a NAT",
        "2001::/23": "protocols: benchmarks, identifiers that are no addresses, anycast of PCP and TURN",
        "5f00::/16": "segment routing within a network",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
        "::/3": "no global unicast, but for NAT64's 64:ff9b::/96",
        "4000::/2": "no global unicast",
        "8000::/1": "no global unicast",
    }.items()
}
"""Networks to which nothing is relayed, and why."""

HARMLESS: dict[IPNetwork, str] = {
    ip_network(text): "documentation: nobody's network, where laboratories and our own simulation live"
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
}
"""Networks that are not globally reachable either, and are relayed to all the same."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = 0x00005EFE
_UNIVERSAL = 0x02000000


def unwrapped(address: IPAddress) -> IPAddress:
    """
    The IPv4 address inside an IPv6 address that leads to it: IPv4-mapped, NAT64 (64:ff9b::/96, RFC 6052),
    6to4 (2002::/16, RFC 3056), or with the interface identifier of ISATAP (RFC 5214, section 6.1). Else the
    address itself. Other forms with an IPv4 address in them are refused altogether.
    """
    if isinstance(address, IPv4Address):
        return address
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        return address.sixtofour
    if (int(address) >> 32 & 0xFFFFFFFF) | _UNIVERSAL == _ISATAP | _UNIVERSAL:
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
        if any(each in network for network in self._allowed for each in {written, address}):
            return False
        if _is_refused(address):
            return True
        # A form that is unwrapped stands outside of global unicast, or at a host that the table lets pass.
        if written != address and written not in _MAPPED and written not in _NAT64 and _is_refused(written):
            return True
        return any(self._is_own(str(each)) for each in {written, address})


@lru_cache(maxsize=1024)
def _is_refused(address: IPAddress) -> bool:
    return any(address in network for network in REFUSED)

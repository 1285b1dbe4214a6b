"""
Special-purpose IP addresses: a table of the networks that are not on the internet; and ports of other
protocols.

The table is our own because "private" has another meaning in libraries: documentation networks are harmless,
and an IPv4 address inside an IPv6 address is as dangerous as the IPv4 address. A test compares it with the
IANA's registries of special-purpose addresses (RFC 6890), row by row.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from punch.wire.address import parsed

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address


class Scope(Enum):
    """Where an address is valid, from the widest scope to the narrowest."""

    GLOBAL = "global"
    """On the internet."""
    PRIVATE = "private"
    """Within one site, or behind one carrier's NATs."""
    LINK_LOCAL = "link-local"
    """On one link."""
    LOOPBACK = "loopback"
    """In this machine."""
    NOWHERE = "nowhere"
    """Not a host that one can connect to: multicast, reserved addresses, addresses of protocols."""


class SpecialNetwork(NamedTuple):
    """A row of the table. Of several networks that contain an address, the smallest one counts."""

    network: IPNetwork
    scope: Scope
    reason: str


TABLE: tuple[SpecialNetwork, ...] = tuple(
    SpecialNetwork(ip_network(text), scope, reason)
    for text, scope, reason in (
        ("0.0.0.0/8", Scope.NOWHERE, "this host, this network"),
        ("10.0.0.0/8", Scope.PRIVATE, "private"),
        ("100.64.0.0/10", Scope.PRIVATE, "shared: behind carriers' NATs"),
        ("127.0.0.0/8", Scope.LOOPBACK, "loopback"),
        ("169.254.0.0/16", Scope.LINK_LOCAL, "link-local, and the metadata services of clouds"),
        ("172.16.0.0/12", Scope.PRIVATE, "private"),
        (
            "192.0.0.0/24",
            Scope.NOWHERE,
            "protocols of the network around us: NAT64 discovery, DS-Lite, anycast",
        ),
        ("192.88.99.0/24", Scope.NOWHERE, "6to4 relays, whatever they lead to; deprecated"),
        ("192.168.0.0/16", Scope.PRIVATE, "private"),
        ("198.18.0.0/15", Scope.PRIVATE, "benchmarks of the network around us"),
        ("224.0.0.0/4", Scope.NOWHERE, "multicast"),
        ("240.0.0.0/4", Scope.NOWHERE, "reserved, and broadcast"),
        ("::/128", Scope.NOWHERE, "unspecified"),
        ("::1/128", Scope.LOOPBACK, "loopback"),
        ("::/96", Scope.NOWHERE, "an IPv4 address in the deprecated compatible form"),
        (
            "::ffff:0:0:0/96",
            Scope.NOWHERE,
            "an IPv4 address in the form of SIIT (RFC 2765): a translator around us",
        ),
        ("64:ff9b:1::/48", Scope.NOWHERE, "NAT64 of the network around us, whatever lies behind"),
        ("100::/64", Scope.NOWHERE, "discarded"),
        ("100:0:0:1::/64", Scope.NOWHERE, "a dummy, never a destination"),
        ("2001::/32", Scope.NOWHERE, "Teredo: an IPv4 address and port of somebody's choice, behind a NAT"),
        (
            "2001::/23",
            Scope.NOWHERE,
            "protocols: benchmarks, identifiers that are no addresses, anycast of PCP and TURN",
        ),
        ("5f00::/16", Scope.NOWHERE, "segment routing within a network"),
        ("fc00::/7", Scope.PRIVATE, "private"),
        ("fe80::/10", Scope.LINK_LOCAL, "link-local"),
        ("fec0::/10", Scope.PRIVATE, "site-local"),
        ("ff00::/8", Scope.NOWHERE, "multicast"),
        ("::/3", Scope.NOWHERE, "no global unicast, but for NAT64's 64:ff9b::/96"),
        ("4000::/2", Scope.NOWHERE, "no global unicast"),
        ("8000::/1", Scope.NOWHERE, "no global unicast"),
    )
)
"""The networks that are not on the internet, and why. All others are."""

HARMLESS: dict[IPNetwork, str] = {
    ip_network(text): "documentation: nobody's network, where laboratories and our own simulation live"
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
}
"""Networks that are not globally reachable, but may be used."""

MAPPED = IPv6Network("::ffff:0:0/96")
NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = 0x00005EFE
_UNIVERSAL = 0x02000000


def carried(address: IPAddress) -> tuple[IPv4Address, ...]:
    """
    The IPv4 addresses that an IPv6 address leads to: IPv4-mapped, NAT64 (64:ff9b::/96, RFC 6052), 6to4
    (2002::/16, RFC 3056), and the interface identifier of ISATAP (RFC 5214, section 6.1), which an address of
    6to4 may have as well. Other forms that contain an IPv4 address are refused altogether.
    """
    if isinstance(address, IPv4Address):
        return ()
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if is_translated(address):
        return (last,)
    found: tuple[IPv4Address, ...] = () if address.sixtofour is None else (address.sixtofour,)
    if (int(address) >> 32 & 0xFFFFFFFF) | _UNIVERSAL == _ISATAP | _UNIVERSAL:
        found += (last,)
    return found


def is_translated(address: IPAddress) -> bool:
    """Whether it is another form of an IPv4 address: IPv4-mapped or NAT64."""
    return address in MAPPED or address in NAT64


@lru_cache(maxsize=1024)
def scope_of(host: str) -> Scope:
    """
    The scope of an IP address. An address that contains others has the narrowest of their scopes. IPv4-mapped
    and NAT64 addresses have the scope of the IPv4 address.

    :raise ValueError: `host` is not an IP address.
    """
    address = parsed(host)
    all_of_them = carried(address) if is_translated(address) else (address, *carried(address))
    return max(map(_scope, all_of_them), key=list(Scope).index)


def _scope(address: IPAddress) -> Scope:
    rows = [row for row in TABLE if address in row.network]
    return max(rows, key=lambda row: row.network.prefixlen).scope if rows else Scope.GLOBAL


LOW_PORTS = frozenset({53, 80, 443})
"""Ports below 1024 that servers and relays at hosts that others name may have."""
FIRST_PORT = 1024
"""The first of all other ports."""


def usable_port(port: int) -> bool:
    """
    Whether a server or relay at a host that others name may have this port. Ports below 1024 belong to
    services of other protocols. Of these, only those are used that relays commonly have, as in WebRTC.
    """
    return port in LOW_PORTS or FIRST_PORT <= port <= 65535

"""
Special-purpose IP addresses: one table of the networks that are not simply hosts of the internet.

It follows the IANA registries of special-purpose addresses (RFC 6890: iana-ipv4-special-registry and
iana-ipv6-special-registry), and is our own because no library's idea of "private" is it: documentation
networks are harmless, and an address that is wrapped into another form is as dangerous as it is plain.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from punch.wire.address import parsed

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


class Scope(Enum):
    """Where an address means one host."""

    GLOBAL = "global"
    """On the internet."""
    PRIVATE = "private"
    """In one site, or behind one carrier's NATs."""
    LINK_LOCAL = "link-local"
    """On one link."""
    LOOPBACK = "loopback"
    """In this machine."""
    NOWHERE = "nowhere"
    """It is no host that one could connect to: a group, a reserved address, or one of a protocol."""


class SpecialNetwork(NamedTuple):
    """A row of the table."""

    network: IPNetwork
    scope: Scope
    reason: str


TABLE: tuple[SpecialNetwork, ...] = tuple(
    SpecialNetwork(ip_network(text), scope, reason)
    for text, scope, reason in (
        ("0.0.0.0/8", Scope.NOWHERE, "this network (RFC 791)"),
        ("10.0.0.0/8", Scope.PRIVATE, "private use (RFC 1918)"),
        ("100.64.0.0/10", Scope.PRIVATE, "shared by the customers of a carrier (RFC 6598)"),
        ("127.0.0.0/8", Scope.LOOPBACK, "loopback (RFC 1122)"),
        ("169.254.0.0/16", Scope.LINK_LOCAL, "link-local (RFC 3927), and metadata services of clouds"),
        ("172.16.0.0/12", Scope.PRIVATE, "private use (RFC 1918)"),
        ("192.0.0.0/24", Scope.NOWHERE, "IETF protocol assignments (RFC 6890)"),
        ("192.88.99.0/24", Scope.NOWHERE, "6to4 relay anycast, deprecated (RFC 7526)"),
        ("192.168.0.0/16", Scope.PRIVATE, "private use (RFC 1918)"),
        ("198.18.0.0/15", Scope.PRIVATE, "benchmarking (RFC 2544)"),
        ("224.0.0.0/4", Scope.NOWHERE, "multicast (RFC 1112)"),
        ("240.0.0.0/4", Scope.NOWHERE, "reserved, and limited broadcast (RFC 1112, RFC 919)"),
        ("::/128", Scope.NOWHERE, "unspecified (RFC 4291)"),
        ("::1/128", Scope.LOOPBACK, "loopback (RFC 4291)"),
        ("64:ff9b:1::/48", Scope.NOWHERE, "NAT64 of one site (RFC 8215), whatever lies behind it"),
        ("100::/64", Scope.NOWHERE, "discard only (RFC 6666)"),
        ("100:0:0:1::/64", Scope.NOWHERE, "dummy prefix (RFC 9780)"),
        ("2001::/32", Scope.NOWHERE, "Teredo (RFC 4380)"),
        ("2001:2::/48", Scope.PRIVATE, "benchmarking (RFC 5180)"),
        ("2001:10::/28", Scope.NOWHERE, "ORCHID, deprecated (RFC 4843)"),
        ("2001:20::/28", Scope.NOWHERE, "ORCHIDv2 (RFC 7343)"),
        ("5f00::/16", Scope.NOWHERE, "segment routing (RFC 9602)"),
        ("fc00::/7", Scope.PRIVATE, "unique local (RFC 4193)"),
        ("fe80::/10", Scope.LINK_LOCAL, "link-local (RFC 4291)"),
        ("fec0::/10", Scope.PRIVATE, "site-local, deprecated (RFC 3879)"),
        ("ff00::/8", Scope.NOWHERE, "multicast (RFC 4291)"),
    )
)
"""Of what is not in it, all is global; documentation networks (RFC 5737, RFC 3849, RFC 9637) are harmless."""

_WRAPPERS = tuple(
    IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, deprecated (RFC 4291)
        "::ffff:0:0/96",  # IPv4-mapped (RFC 4291)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
    )
)
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x00005EFE, 0x02005EFE)


def embedded(address: IPAddress) -> list[IPv4Address]:
    """
    The IPv4 addresses that an IPv6 address stands for, or is sent to by way of: mapped, compatible,
    translated (RFC 6052, RFC 2765), 6to4 (RFC 3056), ISATAP (RFC 5214), Teredo (RFC 4380, two of them).
    """
    if isinstance(address, IPv4Address):
        return []
    number = int(address)
    last = IPv4Address(number & 0xFFFFFFFF)
    if number <= 1:
        return []
    if any(address in wrapper for wrapper in _WRAPPERS):
        return [last]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address in _TEREDO and address.teredo is not None:
        return list(address.teredo)
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        return [last]
    return []


def find(address: IPAddress) -> SpecialNetwork | None:
    """The row of the table that an address is in, as it is written; None: it is an ordinary one."""
    return next((row for row in TABLE if address in row.network), None)


@lru_cache(maxsize=1024)
def scope_of(host: str) -> Scope:
    """
    The scope of an IP address. One that has another in it has the narrower scope of both.

    :raise ValueError: `host` is no IP address.
    """
    address = parsed(host)
    rows = [find(each) for each in (address, *embedded(address))]
    scopes = [Scope.GLOBAL if row is None else row.scope for row in rows]
    return max(scopes, key=list(Scope).index)

"""
IP addresses with a meaning of their own: a table of the networks that are not on the internet, and IPv4
addresses in the form that a NAT64 translates.

The table is our own because "private" has another meaning in libraries: documentation networks are harmless,
and an IPv4 address inside an IPv6 address is as dangerous as the IPv4 address. A test compares it with the
IANA's registries of special-purpose addresses (RFC 6890), row by row.

A NAT64 (RFC 6146) translates IPv6 addresses that have its prefix (RFC 6052). A machine learns the
prefix by looking up the IPv6 addresses of a name whose IPv4 addresses are well known (RFC 7050).
"""

from __future__ import annotations

from collections.abc import Iterable
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


DISCOVERY_NAME = "ipv4only.arpa"
"""The name server of a network with a NAT64 gives this name IPv6 addresses, which contain the prefix."""
WELL_KNOWN = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
"""The IPv4 addresses of this name."""
CLAT_NETWORK = IPv4Network("192.0.0.0/29")
"""
Where a machine has an IPv4 address of its own making, in front of a translator to IPv6 (RFC 7335). No other
machine can send to it.
"""
_LENGTHS = (96, 64, 56, 48, 40, 32)


class Prefix(NamedTuple):
    """The prefix of a NAT64: the first `length` bits of `network`, of which the others are zero."""

    network: int
    length: int

    def contains(self, host: str) -> bool:
        """Whether an IP address has this prefix."""
        address = parsed(host)
        return isinstance(address, IPv6Address) and (int(address) ^ self.network) >> 128 - self.length == 0


def prefixes(hosts: Iterable[str]) -> list[Prefix]:
    """The prefixes that the addresses of `ipv4only.arpa` contain (RFC 7050, section 3)."""
    found: list[Prefix] = []
    for host in hosts:
        address = parsed(host)
        if isinstance(address, IPv4Address) or not _may_have_prefix(address):
            continue
        for length in _LENGTHS:
            prefix = Prefix(int(address) >> 128 - length << 128 - length, length)
            whole = any(int(synthesized(prefix, known)) == int(address) for known in WELL_KNOWN)
            if whole and prefix not in found:
                found.append(prefix)
                break
    return found


def _may_have_prefix(address: IPv6Address) -> bool:
    """Whether a packet to this address leaves the machine, and the link."""
    inside = address in MAPPED or address.is_loopback or address.is_link_local
    return not inside and not address.is_multicast


def synthesized(prefix: Prefix, address: IPv4Address) -> IPv6Address:
    """The IPv6 address that stands for an IPv4 address (RFC 6052, section 2.2); its suffix is zero."""
    network, length = prefix
    if length == 96:
        return IPv6Address(network | int(address))
    # The address follows the prefix. Bits 64 to 71 are skipped, and are zero.
    shifted = int(address) << 128 - 32 - length
    upper = shifted >> 64 << 64
    return IPv6Address(network | upper | (shifted ^ upper) >> 8)


def extracted(prefix: Prefix, address: IPv6Address) -> IPv4Address | None:
    """
    The IPv4 address that an address with this prefix stands for (RFC 6052, section 2.3), whatever its suffix
    is. None if it has another prefix.
    """
    if not prefix.contains(str(address)):
        return None
    number, length = int(address), prefix.length
    if length < 96:
        # Without bits 64 to 71
        number = number >> 64 << 64 | (number << 8 & 0xFFFFFFFFFFFFFFFF)
        return IPv4Address(number >> 96 - length & 0xFFFFFFFF)
    return IPv4Address(number & 0xFFFFFFFF)


def translated(hosts: Iterable[str], known: Iterable[Prefix]) -> list[str]:
    """The IPv6 addresses by which the IPv4 addresses among `hosts` are reached."""
    known = list(known)
    return [
        str(synthesized(prefix, address))
        for address in map(parsed, hosts)
        if isinstance(address, IPv4Address)
        for prefix in known
    ]


@lru_cache(maxsize=1024)  # For each batch of datagrams
def to_ipv6(prefix: Prefix, host: str) -> str | None:
    """
    The IPv6 address by which a peer's IPv4 address is reached. None if it is not on the internet: a private
    address, for example, means another host to the translator than to the peer, and must not be put behind
    the well-known prefix (RFC 6052, section 3.1).
    """
    address = parsed(host)
    if not isinstance(address, IPv4Address) or scope_of(host) is not Scope.GLOBAL:
        return None
    return str(synthesized(prefix, address))


@lru_cache(maxsize=1024)
def to_ipv4(prefix: Prefix, host: str) -> str | None:
    """The IPv4 address for which an IPv6 address stands; None if there is none on the internet."""
    address = parsed(host)
    inner = extracted(prefix, address) if isinstance(address, IPv6Address) else None
    return None if inner is None or scope_of(str(inner)) is not Scope.GLOBAL else str(inner)


@lru_cache(maxsize=1024)
def is_clat(host: str) -> bool:
    """Whether an IP address is in `CLAT_NETWORK`."""
    return parsed(host) in CLAT_NETWORK

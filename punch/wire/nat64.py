"""
IPv4 addresses in the form that a NAT64 translates (RFC 6146): IPv6 addresses with the translator's prefix
(RFC 6052), which is discovered by a name whose IPv4 addresses are well known (RFC 7050).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import NamedTuple

from punch.wire.address import parsed
from punch.wire.special_addresses import MAPPED, Scope, scope_of

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

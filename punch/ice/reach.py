"""
Which addresses checks may be sent to, and from which addresses of ours.

Loopback addresses are candidates only on machines that have no others. They are paired with loopback
addresses only, and a peer's loopback candidate is ignored unless we have one, so that nobody can direct our
checks at the services of our own machine. IPv6 link-local addresses are not used, because reaching them takes
a zone, which candidates can't carry. IPv4 link-local addresses need no zone; they have the lowest preference,
and are paired only with each other (RFC 3927, section 2.6.2).

A peer's address must be one that a host can have (`punch.wire.special_addresses`). IPv4 addresses that are
written as IPv6 addresses are refused: the packets to each address are counted, so it may have only one form.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from punch.wire.address import Address, parsed
from punch.wire.special_addresses import NAT64, Scope, carried, is_clat, scope_of

_BROADCAST = IPv4Address("255.255.255.255")
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_OVERLAY = IPv6Network("200::/7")
"""Addresses of Yggdrasil, an overlay network that passes NATs. They are reserved: nothing else has them."""
# Networks of one site or host, which a relay on the internet refuses to send to (RFC 8656, section 9)
_LOCAL_NETWORKS: list[IPv4Network | IPv6Network] = [
    *map(IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16")),
    *map(IPv4Network, ("172.16.0.0/12", "192.0.0.0/29", "192.168.0.0/16")),
    *map(IPv6Network, ("::1/128", "fc00::/7")),
]


def usable(address: Address) -> bool:
    """Whether checks may be sent to this address: a unicast address with a port that needs no zone."""
    return 0 < address.port < 65536 and _usable_host(address.host)


@lru_cache(maxsize=1024)  # Asked for each check and each answer
def _usable_host(host: str) -> bool:
    ip = parsed(host)
    if ip.is_multicast or ip.is_unspecified or ip == _BROADCAST:
        return False
    return ip not in _THIS_NETWORK if isinstance(ip, IPv4Address) else not ip.is_link_local


def may_be_remote(address: Address) -> bool:
    """Whether a peer may have this address: that of a host, and no IPv4 address written as an IPv6 one."""
    return usable(address) and _may_be_remote(address.host)


@lru_cache(maxsize=1024)
def _may_be_remote(host: str) -> bool:
    ip = parsed(host)
    # The other form of an IPv4 address would be counted apart, or lead to an address that nobody may name
    inner = ip in NAT64 or any(scope_of(str(each)) is not Scope.GLOBAL for each in carried(ip))
    return not inner and (scope_of(host) is not Scope.NOWHERE or ip in _OVERLAY)


def may_pair(base: Address, remote: Address) -> bool:
    """
    Whether checks may be sent from `base` to `remote`: they must have the same transport and family, and both
    or neither of them must be loopback, and link-local. From an address in front of a NAT64, they may be sent
    only to the internet (RFC 6052, section 3.1).
    """
    if base.protocol != remote.protocol or base.is_ipv6 != remote.is_ipv6:
        return False
    if base == remote or not may_be_remote(remote) or _reach(base.host) != _reach(remote.host):
        return False
    return not is_clat(base.host) or scope_of(remote.host) is Scope.GLOBAL


@lru_cache(maxsize=1024)
def _reach(host: str) -> tuple[bool, bool]:
    """Whether an IP address leads to loopback, and whether it leads to a link-local address."""
    scope = scope_of(host)
    return scope is Scope.LOOPBACK, scope is Scope.LINK_LOCAL


def may_relay(relayed: Address, remote: Address) -> bool:
    """
    Whether a check from a relayed address to `remote` is useful, because the relay may reach it.

    A relay with an address of a private network, as in a test network, may reach other private addresses.
    """
    if remote.protocol != "udp" or relayed.is_ipv6 != remote.is_ipv6:
        return False
    if relayed == remote or not may_be_remote(remote):
        return False
    return not is_local(remote.host) or is_local(relayed.host)


@lru_cache(maxsize=1024)
def is_local(host: str) -> bool:
    """Whether an IP address is private, shared or loopback, or link-local over IPv4."""
    ip = parsed(host)
    return any(ip in network for network in _LOCAL_NETWORKS)

"""Transport addresses and datagrams, as all cores use them; ports in texts, and which others may name."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

# RFC 6724, section 2.1: addresses that rank below IPv4 in the default policy table, or are meant for one site
_LOW_IPV6 = [IPv6Network(text) for text in ("fc00::/7", "2001::/32", "2002::/16", "fec0::/10", "3ffe::/16")]

MAX_PORT = 65535
LOW_PORTS = frozenset({53, 80, 443})
"""Ports below 1024 that servers and relays at hosts that others name may have."""
FIRST_PORT = 1024
"""The first of all other ports."""
_PORT = re.compile("[0-9]{1,5}")

FULL_SIZE = 1200
"""
The size of a link's largest datagrams in bytes; QUIC demands that a path carries it (RFC 9000, section 14).
"""


class Address(NamedTuple):
    """An IP address in canonical text form, and a port (0 to 65535)."""

    host: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def protocol(self) -> str:
        """The transport protocol, "udp" or "tcp"."""
        return "udp"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


class TCPAddress(Address):
    """An IP address and a TCP port. It equals no address of UDP, and their hashes differ."""

    __slots__ = ()

    @property
    def protocol(self) -> str:
        return "tcp"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TCPAddress) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return ~tuple.__hash__(self)


def same_protocol(host: str, port: int, other: Address) -> Address:
    """Return an address of the same transport protocol as another one."""
    return (TCPAddress if isinstance(other, TCPAddress) else Address)(host, port)


class Transmit(NamedTuple):
    """A datagram to send from `local` to `remote`: from a socket, or on the TCP connection between them."""

    data: bytes
    remote: Address
    local: Address


class PortError(ValueError):
    """
    A text is not the number of a port.

    :ivar text: the text.
    :ivar out_of_range: whether it is a number of at most five digits, but not one that a port can have there.
    """

    def __init__(self, text: str, out_of_range: bool) -> None:
        super().__init__(f"{text[:20]!a} is no port")
        self.text = text
        self.out_of_range = out_of_range


def parse_port(text: str, lowest: int = 1) -> int:
    """
    Read the number of a port, in one to five digits.

    :param lowest: the lowest number that is allowed: 0 where that means any free port.
    :raise PortError: it is no number from `lowest` to 65535.
    """
    is_number = _PORT.fullmatch(text) is not None
    if not is_number or not lowest <= int(text) <= MAX_PORT:
        raise PortError(text, is_number)
    return int(text)


def usable_port(port: int) -> bool:
    """
    Whether a server or relay at a host that others name may have this port. Ports below 1024 belong to
    services of other protocols. Of these, only those are used that relays commonly have, as in WebRTC.
    """
    return port in LOW_PORTS or FIRST_PORT <= port <= MAX_PORT


@lru_cache(maxsize=1024)
def parsed(host: str) -> IPv4Address | IPv6Address:
    """
    Parse an IP address; the results are cached.

    :raise ValueError: `host` is not an IP address.
    """
    return ip_address(host)


@lru_cache(maxsize=1024)  # It is called for the source of every datagram, and most sources repeat
def canonical(host: str, port: int) -> Address:
    """
    Return an address in the form in which addresses are compared: compressed IPv6, IPv4-mapped IPv6 as IPv4.

    :raise ValueError: `host` is not an IP address, or `port` is out of range.
    """
    address = parsed(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not 0 <= port <= MAX_PORT:
        raise ValueError(f"port {port} is out of range")
    return Address(str(address), port)


def preference_class(host: str) -> int:
    """
    The rank of an address (RFC 6724): 0 global IPv6, 1 IPv4, 2 site-local or tunneled IPv6, 3 link-local and
    loopback addresses.
    """
    ip = parsed(host)
    if ip.is_loopback or ip.is_link_local:
        return 3
    if isinstance(ip, IPv4Address):
        return 1
    return 2 if any(ip in network for network in _LOW_IPV6) else 0

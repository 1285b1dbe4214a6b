"""Packets, what a capture shows of them, and addresses as text."""

from __future__ import annotations

import os
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple, TypeAlias

Endpoint = tuple[str, int]
"""An IP address in canonical text, and a port."""

IPNetwork: TypeAlias = IPv4Network | IPv6Network

IPV4_ANY = "0.0.0.0"
IPV6_ANY = "::"


class Packet:
    """
    One IP packet. It is never changed: a NAT makes a new one.

    `payload` is bytes for UDP, a `Segment` for TCP; `size` counts all headers. `ttl` is how many
    routers may pass it on, None if that are more than there are. `routers` is how many may take it, be it to
    pass it on or because it is for them.
    """

    __slots__ = ("destination", "payload", "protocol", "routers", "size", "source", "ttl")

    def __init__(
        self,
        protocol: str,
        source: Endpoint,
        destination: Endpoint,
        payload: Any,
        size: int,
        ttl: int | None = None,
        routers: int | None = None,
    ) -> None:
        self.protocol = protocol
        self.source = source
        self.destination = destination
        self.payload = payload
        self.size = size
        self.ttl = ttl
        self.routers = routers

    def translated(self, source: Endpoint, destination: Endpoint) -> Packet:
        """The same packet between other endpoints."""
        return Packet(self.protocol, source, destination, self.payload, self.size, self.ttl, self.routers)

    def resized(self, more: int) -> Packet:
        """The same packet with so many bytes of headers more. TCP has smaller segments instead."""
        if self.protocol == "tcp":
            return self
        return Packet(
            self.protocol,
            self.source,
            self.destination,
            self.payload,
            self.size + more,
            self.ttl,
            self.routers,
        )

    def passed_on(self, routers: int) -> Packet | None:
        """The same packet behind so many routers; None if it has not come so far."""
        if self.ttl is None:
            return self
        return None if self.ttl <= routers else self._limited(self.ttl - routers, self.routers)

    def taken(self, routers: int) -> Packet | None:
        """The same packet, taken by so many routers; None if one of them discards it."""
        if self.routers is None:
            return self
        return None if self.routers < routers else self._limited(self.ttl, self.routers - routers)

    def behind(self, routers: int) -> Packet | None:
        """The same packet, taken and passed on by so many routers; None if it has not come so far."""
        if self.ttl is None and self.routers is None:
            return self
        passed_on = self.passed_on(routers)
        return None if passed_on is None else passed_on.taken(routers)

    def _limited(self, ttl: int | None, routers: int | None) -> Packet:
        return Packet(self.protocol, self.source, self.destination, self.payload, self.size, ttl, routers)

    @property
    def data(self) -> bytes:
        """The bytes that the application sent."""
        return bytes(self.payload if self.protocol == "udp" else self.payload.data)

    def __repr__(self) -> str:
        return f"<{self.protocol} {self.source} → {self.destination}, {self.size} bytes: {self.payload!r}>"


class Seen(NamedTuple):
    """
    What a capture shows of a packet on one link. A packet is seen once on each link that it takes.

    `fate` is "sent", or the reason why it was dropped: "lost", "mtu", "queue", "down".
    """

    time: float
    size: int
    source: Endpoint
    destination: Endpoint
    protocol: str
    payload: bytes
    link: str
    fate: str


@lru_cache(maxsize=65536)
def canonical_host(host: str) -> str:
    """
    The one text form of an IP address; IPv4-mapped IPv6 stays as it is.

    :raise ValueError: it is no IP address.
    """
    address = ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped is not None else str(address)


@lru_cache(maxsize=65536)
def contains(network: IPNetwork, host: str) -> bool:
    """Whether `host` lies in `network`."""
    return ip_address(host) in network


@lru_cache(maxsize=65536)
def embedding(network: IPNetwork, host: str) -> str:
    """The address in a /96 that stands for an IPv4 address (RFC 6052)."""
    return str(network.network_address + int(ip_address(host)))


@lru_cache(maxsize=65536)
def embedded(host: str) -> str:
    """The IPv4 address for which an address in a /96 stands; an IPv4 address stands for itself."""
    return str(IPv4Address(int(ip_address(host)) & 0xFFFFFFFF))


def is_ipv6(host: str) -> bool:
    """Whether an IP address in text form is an IPv6 address."""
    return ":" in host


def is_loopback(host: str) -> bool:
    """Whether an IP address stands for the host itself."""
    return host.startswith("127.") or host == "::1"


def mapped(host: str) -> str:
    """An IPv4 address as an IPv6 socket shows it."""
    return f"::ffff:{host}"


def unmapped(host: str) -> str:
    """The IPv4 address that an IPv6 socket shows as `host`; any other address unchanged."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def network_of(text: str) -> IPNetwork:
    """Read `192.168.1.0/24` or `2001:db8::/64`."""
    return ip_network(text)


def header_size(protocol: str, host: str) -> int:
    """The bytes of IP and transport headers of a packet to `host`."""
    return (40 if is_ipv6(host) else 20) + (8 if protocol == "udp" else 20)


def local_form(address: str) -> str:
    """Parse an address to bind to as Twisted gives it: the empty string is the IPv4 wildcard."""
    return canonical_host(address) if address else IPV4_ANY


def os_error(code: int) -> OSError:
    """The exception of a system call that fails with this errno."""
    return OSError(code, os.strerror(code))

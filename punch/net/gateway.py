"""
The default gateways of this machine: where port mappings are asked for (RFC 6887, section 8.1).

Linux tells them in two files of /proc. On other systems none is found, and no port is mapped: FreeBSD and
macOS tell them through a routing socket, and Windows through a library, neither of which is read here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from punch.net.interfaces import Interface, machine_interfaces
from punch.wire.address import preference_class

_ROUTES_4 = Path("/proc/net/route")
_ROUTES_6 = Path("/proc/net/ipv6_route")
MOST = 256 * 1024
"""
Bytes that are read of each file: some 2,000 routes. A router with more, which the default route may not be
among, maps no ports for itself.
"""
_UP = 0x1
_GATEWAY = 0x2
_REJECT = 0x200


class Gateway(NamedTuple):
    """A router of a default route. The address of a link-local one ends with its zone (RFC 4007)."""

    interface: str
    host: str
    metric: int


def gateways_of_machine() -> Mapping[str, str]:
    """Return the default gateway of each address of this machine that has one."""
    try:
        routes = [*ipv4_gateways(_read(_ROUTES_4)), *ipv6_gateways(_read(_ROUTES_6))]
        return gateways_of(machine_interfaces(), routes)
    except OSError:
        return {}


def gateways_of(interfaces: Iterable[Interface], gateways: Sequence[Gateway]) -> Mapping[str, str]:
    """
    Return the gateway of each local address: that of its interface and family with the smallest metric.

    Only global IPv6 addresses have one: others can't be reached from elsewhere.
    """
    found: dict[str, str] = {}
    ordered = sorted(gateways, key=lambda gateway: gateway.metric)
    for name, host, _ in interfaces:
        if ":" in host and preference_class(host) != 0:
            continue
        for gateway in ordered:
            # The name of an IPv4 address may have a label: eth0:1
            if gateway.interface == name.partition(":")[0] and (":" in gateway.host) == (":" in host):
                found.setdefault(host, gateway.host)
    return found


def ipv4_gateways(text: str) -> Iterator[Gateway]:
    """Read /proc/net/route. What can't be read is left out."""
    for line in text.splitlines()[1:]:
        columns = line.split()
        try:
            name, destination, gateway, flags, _, _, metric, mask = columns[:8]
            wanted = int(flags, 16) & (_UP | _GATEWAY | _REJECT) == _UP | _GATEWAY
            if wanted and int(destination, 16) == int(mask, 16) == 0:
                # The kernel prints the address as a number of this machine's byte order
                packed = int(gateway, 16).to_bytes(4, sys.byteorder)
                yield Gateway(name, str(IPv4Address(packed)), int(metric))
        except (ValueError, OverflowError):
            continue


def ipv6_gateways(text: str) -> Iterator[Gateway]:
    """Read /proc/net/ipv6_route. What can't be read is left out."""
    for line in text.splitlines():
        columns = line.split()
        try:
            destination, size, _, _, gateway, metric, _, _, flags, name = columns
            wanted = int(flags, 16) & (_UP | _GATEWAY | _REJECT) == _UP | _GATEWAY
            if wanted and int(size, 16) == int(destination, 16) == 0:
                ip = IPv6Address(bytes.fromhex(gateway))
                zone = f"%{name}" if ip.is_link_local else ""
                yield Gateway(name, f"{ip}{zone}", int(metric, 16))
        except (ValueError, OverflowError):
            continue


def _read(path: Path) -> str:
    """Return the complete lines at the beginning of a file; none if there is no such file."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST)
    except FileNotFoundError:
        return ""
    return content[: content.rfind(b"\n") + 1].decode("ascii", "replace")

"""
The addresses of this machine that peers may reach, which are the host candidates, and its default gateways,
where port mappings are asked for (RFC 6887, section 8.1).

Loopback addresses are returned only if there are no others, or if they are asked for: two peers on one
machine reach each other at the addresses of its interfaces.

The addresses come from `getifaddrs` by ctypes, and not from the package `ifaddr`, because two things are
needed that it does not tell. Whether the interface is up: Linux keeps the IPv4 addresses of an interface that
is taken down, and a link has to leave them at once. And the flags of IPv6 addresses: temporary addresses are
preferred to those that contain the hardware's address, and deprecated ones are not used; for these
/proc/net/if_inet6 is read in addition.

Linux tells the gateways in two files of /proc. On other systems none is found, and no port is mapped: FreeBSD
and macOS tell them through a routing socket, and Windows through a library, neither of which is read here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from ctypes import POINTER, Structure, c_char_p, c_ubyte, c_uint, c_ushort, c_void_p
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path
from typing import Any, NamedTuple

from punch.wire.address import preference_class

LIMIT = 8
"""
How many addresses are used at most, since each is paired with each of the peer's. Those from which the system
reaches the rendezvous are always among them.
"""
PER_SUBNET = 2
"""How many IPv6 addresses of one /64 are used at most: a host may have many temporary ones."""
MOST = 256 * 1024
"""
Bytes that are read of each file with routes: some 2,000 routes. The default route may not be among them if
there are more, but a machine with so many is a router, for which no ports are mapped.
"""

# linux/if.h
_UP = 0x1
_IF_INET6 = Path("/proc/net/if_inet6")
# linux/if_addr.h: temporary; duplicate found, deprecated, not yet usable
_TEMPORARY = 0x01
_UNUSABLE = 0x08 | 0x20 | 0x40
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
# How the names of the bridges and links of containers and virtual machines begin.
_VIRTUAL = ("docker", "br-", "veth", "virbr", "lxc", "lxd", "podman", "cni", "vmnet", "vboxnet", "vnet")
_ROUTES_4 = Path("/proc/net/route")
_ROUTES_6 = Path("/proc/net/ipv6_route")
# linux/route.h and linux/ipv6_route.h
_ROUTE_UP = 0x1
_GATEWAY = 0x2
_REJECT = 0x200


class Interface(NamedTuple):
    """One address of this machine; `flags` are those of Linux's if_addr.h, 0 where unknown."""

    name: str
    host: str
    flags: int = 0


def local_addresses(include_loopback: bool | None = None) -> list[str]:
    """
    Return all usable unicast addresses of this machine, in order of preference. `select` limits their number
    and prefers those from which the rendezvous is reached.

    :param include_loopback: True: loopback addresses too. False: never. None: only if there are no others.
    """
    return usable_addresses(machine_interfaces(), include_loopback)


def all_addresses() -> list[str]:
    """Return all addresses of this machine, also those that no new connection should leave from."""
    return [interface.host for interface in machine_interfaces()]


def source_address(remote: str) -> str | None:
    """
    Return the address of this machine from which the system sends to the IP address `remote`, or None if it
    has no route. Nothing is sent.
    """
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((remote, 9))
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


def usable_addresses(interfaces: Sequence[Interface], include_loopback: bool | None = None) -> list[str]:
    """
    Choose from all addresses of a machine: those of real interfaces before those of virtual ones, temporary
    IPv6 addresses before those that contain the hardware's (RFC 8445, section 5.1.1.1), and no deprecated
    one.
    """
    usable = [interface for interface in interfaces if not interface.flags & _UNUSABLE]
    usable.sort(key=lambda interface: (interface.name.startswith(_VIRTUAL), not interface.flags & _TEMPORARY))
    hosts = [interface.host for interface in usable]
    chosen = select([host for host in hosts if not _is_loopback(host)], len(hosts))
    if include_loopback or (include_loopback is None and not chosen):
        chosen += select([host for host in hosts if _is_loopback(host)], len(hosts))
    return chosen


def select(
    addresses: Sequence[str] | Iterator[str], limit: int = LIMIT, preferred: Collection[str] = ()
) -> list[str]:
    """
    Return the addresses to open sockets at, in order of preference.

    Those of `preferred` come first. Then global IPv6 and IPv4 alternate, IPv6 first (RFC 8421, section 4).
    Addresses of private IPv4 networks that end in .1, which the bridges of containers and virtual machines
    have, come late, and IPv4 link-local addresses last. Wildcard, multicast and IPv6 link-local addresses are
    dropped, and loopback addresses if there are others.

    :param limit: how many addresses to return at most, unless `preferred` has more.
    :param preferred: the addresses from which this machine reaches the rendezvous, as far as that is known.
    :raise ValueError: one of them is no IP address.
    """
    usable = [host for host in dict.fromkeys(_plain(address) for address in addresses) if _is_usable(host)]
    if any(not _is_loopback(host) for host in usable):
        usable = [host for host in usable if not _is_loopback(host)]
    subnets: dict[bytes, int] = {}
    families: dict[bool, list[str]] = {True: [], False: []}
    first = [host for host in dict.fromkeys(map(_plain, preferred)) if host in usable]
    for host in sorted(usable, key=lambda host: (host not in first, *_rank(host))):
        ip = ip_address(host)
        if isinstance(ip, IPv6Address):
            subnet = ip.packed[:8]
            subnets[subnet] = subnets.get(subnet, 0) + 1
            if subnets[subnet] > PER_SUBNET:
                continue
        families[ip.version == 6].append(host)
    turns = [
        (_is_link_local(host), _is_gateway(host), turn, preference_class(host), host)
        for hosts in families.values()
        for turn, host in enumerate(hosts)
    ]
    turns.sort(key=lambda entry: entry[:4])
    others = [host for *_, host in turns if host not in first]
    return [*first, *others[: max(0, limit - len(first))]]


def _plain(address: str) -> str:
    """An address in its usual form, without a zone."""
    return str(ip_address(address.partition("%")[0]))


def _rank(host: str) -> tuple[bool, bool, int]:
    return _is_link_local(host), _is_gateway(host), preference_class(host)


def _is_link_local(host: str) -> bool:
    return ip_address(host).is_link_local


def _is_loopback(host: str) -> bool:
    return ip_address(host).is_loopback


def _is_usable(host: str) -> bool:
    ip = ip_address(host)
    if isinstance(ip, IPv6Address):
        return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local or ip.ipv4_mapped is not None)
    broadcast = ip == IPv4Address("255.255.255.255")
    return not (ip.is_multicast or ip in _THIS_NETWORK or broadcast)


def _is_gateway(host: str) -> bool:
    ip = ip_address(host)
    return isinstance(ip, IPv4Address) and ip.is_private and ip.packed[3] == 1 and not ip.is_loopback


# The machine


class _SockAddr(Structure):
    # On BSD and macOS, sa_family is one byte, and the byte before it is the length.
    _fields_ = [("head", c_ubyte * 2), ("port", c_ushort), ("data", c_ubyte * 24)]


class _IfAddrs(Structure):
    pass


_IfAddrs._fields_ = [
    ("next", POINTER(_IfAddrs)),
    ("name", c_char_p),
    ("flags", c_uint),
    ("address", POINTER(_SockAddr)),
    ("netmask", c_void_p),
    ("destination", c_void_p),
    ("data", c_void_p),
]


def machine_interfaces() -> list[Interface]:
    """
    Return all addresses of interfaces that are up; without `getifaddrs`, those of the machine's name, which
    have no interface.
    """
    try:
        found = list(_getifaddrs())
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no such library
        return [Interface("", host) for host in _by_name()]
    flags = _inet6_flags()
    return [Interface(name, host, flags.get(host, 0)) for name, host in found]


@cache
def _libc() -> Any:
    """The C library that this process has loaded. (To find it by name, Python would run `ldconfig`.)"""
    return ctypes.CDLL(None, use_errno=True)


def _getifaddrs() -> Iterator[tuple[str, str]]:
    libc = _libc()
    head = POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)) != 0:
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code))
    try:
        entry = head
        while entry:
            contents = entry.contents
            if contents.flags & _UP and contents.address:
                host = _host(contents.address.contents)
                if host is not None:
                    yield contents.name.decode(errors="replace"), host
            entry = contents.next
    finally:
        libc.freeifaddrs(head)


def _host(address: _SockAddr) -> str | None:
    head, data = bytes(address.head), bytes(address.data)
    bsd = sys.platform.startswith(("darwin", "freebsd", "openbsd", "netbsd"))
    family = head[1] if bsd else int.from_bytes(head, sys.byteorder)
    if family == socket.AF_INET:
        return str(IPv4Address(data[:4]))
    if family == socket.AF_INET6:
        return str(IPv6Address(data[4:20]))
    return None


def _inet6_flags() -> dict[str, int]:
    """The flags of IPv6 addresses on Linux: temporary, deprecated, or not usable yet."""
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return {}
    rows = (line.split() for line in lines)
    return {str(IPv6Address(bytes.fromhex(row[0]))): int(row[4], 16) for row in rows if len(row) == 6}


def _by_name() -> list[str]:
    """The addresses of the machine's name, which on Windows are all of its addresses."""
    hosts: list[str] = []
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_DGRAM)
    except OSError:
        found = []
    hosts += [str(address[0]) for *_, address in found]
    # Documentation addresses: the route to them is the default route.
    hosts += [host for host in map(source_address, ("192.0.2.1", "2001:db8::1")) if host is not None]
    return [*hosts, "127.0.0.1"]


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
            wanted = int(flags, 16) & (_ROUTE_UP | _GATEWAY | _REJECT) == _ROUTE_UP | _GATEWAY
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
            wanted = int(flags, 16) & (_ROUTE_UP | _GATEWAY | _REJECT) == _ROUTE_UP | _GATEWAY
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

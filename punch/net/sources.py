"""
The source of a host: the prefixes of its address that are counted, and how much of something each may have.

Identities and ports are free, addresses are not, so what strangers use is counted for each source. A source
is more than one address, because whoever has one address of a prefix often has the whole prefix. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from punch.wire.address import parsed

SITE_GROWTH = 2
"""An IPv6 /56 may have this many times what an address may have."""
NETWORK_GROWTH = 4
"""An IPv4 /24 or an IPv6 /48 may have this many times what an address may have."""

Source = tuple[Hashable, ...]
"""
The prefixes of an IP address that are counted, the widest first.

For IPv4 these are the /24, which can be rented as a whole, and the address. For IPv6 they are the /48, which
a rented server has, the /56, which a home has, and the /64. Any other text is its own only prefix.
"""


def source_of(host: str) -> Source:
    """
    The prefixes of a host's address. An IPv4 address that is written as IPv6 (mapped, or by a NAT64 in front
    of the service) counts as the IPv4 address. So does the 6to4 network of an IPv4 address, since whoever has
    the address has that network.

    :param host: an IP address, with a zone or without; any other text is a source of its own.
    """
    try:
        address = parsed(host.partition("%")[0])
    except ValueError:
        return (host,)
    if isinstance(address, IPv6Address):
        packed = address.packed
        if packed.startswith((_MAPPED, _NAT64)):
            packed = packed[12:]
        elif packed.startswith(_6TO4):
            packed = packed[2:6]
        else:
            return packed[:6], packed[:7], packed[:8]
    else:
        packed = address.packed
    return packed[:3], packed


def source_ending_in(prefix: Hashable) -> Source:
    """A source or a part of one, by its last prefix."""
    if not isinstance(prefix, bytes):
        return (prefix,)
    return tuple(prefix[:length] for length in _LENGTHS[len(prefix)])


_LENGTHS = {3: (3,), 4: (3, 4), 6: (6,), 7: (6, 7), 8: (6, 7, 8)}
_MAPPED, _NAT64 = bytes(10) + b"\xff\xff", b"\0\x64\xff\x9b" + bytes(8)
_6TO4 = b"\x20\x02"
_WIDTHS = {3: 2, 6: 2, 7: 1}


def width(prefix: Hashable) -> int:
    """0 for an address or an IPv6 /64, 1 for a /56, 2 for an IPv4 /24 or an IPv6 /48."""
    return _WIDTHS.get(len(prefix), 0) if isinstance(prefix, bytes) else 0


@dataclass(frozen=True)
class Shares:
    """How many entries of a table one source may have at the most."""

    address: int
    """An IPv4 address, or an IPv6 /64."""
    site: int
    """An IPv6 /56."""
    network: int
    """An IPv4 /24, or an IPv6 /48."""

    def __post_init__(self) -> None:
        if not 1 <= self.address <= self.site <= self.network:
            raise ValueError("shares are at least one, and a wider prefix has no smaller one")

    @classmethod
    def growing(cls, address: int) -> Shares:
        """An address has this share, a /56 has twice as much, a /24 or a /48 four times as much."""
        return cls(address, SITE_GROWTH * address, NETWORK_GROWTH * address)

    def of(self, prefix: Hashable) -> int:
        """The share of one prefix of a `Source`."""
        return (self.address, self.site, self.network)[width(prefix)]


def address_key(host: str) -> str:
    """The narrowest prefix of `source_of` as text: an IPv4 address, a /64 of IPv6, or the text itself."""
    prefix = source_of(host)[-1]
    if not isinstance(prefix, bytes):
        return host
    return str(IPv4Address(prefix)) if len(prefix) == 4 else f"{IPv6Address(prefix + bytes(8))}/64"

"""
The behaviour of a NAT or firewall in the terms of RFC 4787, and how it follows from observations.

If the observations leave several answers possible, all of them are kept: with a service that has a single
address, for example, nobody can tell whether mappings depend on the remote address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import pairwise

from punch.wire.address import Address
from punch.wire.peers.nat_profile import Mapping, PortAssignment


class Filtering(str, Enum):
    """From which remote endpoints packets are let in (RFC 4787, section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Hairpinning(str, Enum):
    """Whether hosts behind the NAT reach each other by its external addresses (RFC 4787, section 6)."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


Mappings = frozenset[Mapping]
Filterings = frozenset[Filtering]
"""The behaviours that are possible by the observations: a single one if it is known."""

ANY_MAPPING: Mappings = frozenset(Mapping)
ANY_FILTERING: Filterings = frozenset(Filtering)

SEQUENTIAL_SPAN = 400
"""
The range of ports in which sequential ones lie, since other hosts take some in between. Six random ports of
64,512 lie so close together once in 10 ** 10 times.
"""
_FEWEST_PORTS = 4
_PORTS = 65536


def mapping_of(
    first: Address | None, second: Address | None, third: Address | None, fourth: Address | None
) -> Mappings:
    """
    The mapping behaviour, from the mapped addresses of one socket (RFC 5780, section 4.3).

    :param first: the address that the service sees at its first address and port; None if not known, as for
        the others.
    :param second: the one that it sees at its second port.
    :param third: the one that it sees at its other address.
    :param fourth: the one that it sees at the second port of its other address.
    """
    by_port = [pair for pair in ((first, second), (third, fourth)) if None not in pair]
    by_address = [pair for pair in ((first, third), (second, fourth)) if None not in pair]
    if any(one != other for one, other in by_port):
        return frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
    possible = set(Mapping)
    if by_port:
        possible.discard(Mapping.ADDRESS_AND_PORT_DEPENDENT)
    if any(one != other for one, other in by_address):
        possible.discard(Mapping.ENDPOINT_INDEPENDENT)
    elif by_address:
        possible = {Mapping.ENDPOINT_INDEPENDENT}
    return frozenset(possible)


def filtering_of(port: bool | None, address: bool | None) -> Filterings:
    """
    The filtering behaviour, from unsolicited datagrams (RFC 5780, section 4.4).

    :param port: whether one arrived from another port of an address that we had sent to; None: not known.
    :param address: whether one arrived from another address; None: not known.
    """
    if address:
        return frozenset({Filtering.ENDPOINT_INDEPENDENT})
    if port is False:
        return frozenset({Filtering.ADDRESS_AND_PORT_DEPENDENT})
    possible = set(Filtering)
    if port:
        possible.discard(Filtering.ADDRESS_AND_PORT_DEPENDENT)
    if address is False:
        possible.discard(Filtering.ENDPOINT_INDEPENDENT)
    return frozenset(possible)


def ports_of(seen: Sequence[tuple[Address, Address]]) -> PortAssignment:
    """The port assignment, from the local and mapped addresses of several new sockets."""
    if len(seen) < _FEWEST_PORTS:
        return PortAssignment.UNKNOWN
    kept = sum(local.port == mapped.port for local, mapped in seen)
    # One of the ports may have been in use already
    if kept >= len(seen) - 1:
        return PortAssignment.PRESERVING
    return (
        PortAssignment.SEQUENTIAL
        if _span(mapped.port for _, mapped in seen) <= SEQUENTIAL_SPAN
        else PortAssignment.RANDOM
    )


def hairpinning_of(arrived: bool, mappings: Mappings, filterings: Filterings) -> Hairpinning:
    """
    Whether the NAT hairpins, from whether a datagram to our own mapped address arrived.

    It was sent by another socket of ours, to whose mapped address we had sent. If mappings depend on the
    destination, it left by an unknown mapping, and a NAT that filters by source does not let it in. So its
    loss is a result only for some behaviours.
    """
    if arrived:
        return Hairpinning.YES
    known = mappings == {Mapping.ENDPOINT_INDEPENDENT} or filterings == {Filtering.ENDPOINT_INDEPENDENT}
    return Hairpinning.NO if known else Hairpinning.UNKNOWN


def _span(ports: Iterable[int]) -> int:
    """The length of the shortest range of ports that contains all of these; the range may wrap around."""
    ordered = sorted(ports)
    gaps = [after - before for before, after in pairwise(ordered)]
    gaps.append(ordered[0] + _PORTS - ordered[-1])
    return _PORTS - max(gaps)

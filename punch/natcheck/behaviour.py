"""
What a NAT or firewall does, in the terms of RFC 4787, and what follows from an observation.

Where the observations leave several answers, all of them are kept: a service with a single address can't
show whether a mapping depends on the address it is used for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import pairwise

from punch.wire.address import Address


class Mapping(str, Enum):
    """When a mapping is used again (RFC 4787, section 4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(str, Enum):
    """Whose packets are let in (RFC 4787, section 5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class PortAssignment(str, Enum):
    """How external ports are chosen (RFC 4787, section 4.2)."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    UNKNOWN = "unknown"


class Hairpinning(str, Enum):
    """Whether hosts behind the NAT reach each other by its external addresses (RFC 4787, section 6)."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


Mappings = frozenset[Mapping]
Filterings = frozenset[Filtering]
"""Those that the observations leave possible: one where all is known."""

ANY_MAPPING: Mappings = frozenset(Mapping)
ANY_FILTERING: Filterings = frozenset(Filtering)

SEQUENTIAL_SPAN = 400
"""
Within how many ports sequential ones lie: others take some in between. Six random ports of 64,512 lie so
close together once in 10 ** 10 times.
"""
_FEWEST_PORTS = 4
_PORTS = 65536


def mapping_of(
    first: Address | None, second: Address | None, third: Address | None, fourth: Address | None
) -> Mappings:
    """
    What the mappings of one socket say (RFC 5780, section 4.3).

    :param first: what the service sees at its first address and port; the others are None if not known.
    :param second: the same at the second port.
    :param third: at the other address.
    :param fourth: at the second port of the other address.
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
    What unsolicited datagrams say (RFC 5780, section 4.4).

    :param port: whether one came in from another port of an address that we had sent to; None: not known.
    :param address: whether one came in from another address.
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
    """How the ports of new mappings were chosen: pairs of local and mapped address, a socket each."""
    if len(seen) < _FEWEST_PORTS:
        return PortAssignment.UNKNOWN
    kept = sum(local.port == mapped.port for local, mapped in seen)
    # One may have been in use already
    if kept >= len(seen) - 1:
        return PortAssignment.PRESERVING
    return (
        PortAssignment.SEQUENTIAL
        if _span(mapped.port for _, mapped in seen) <= SEQUENTIAL_SPAN
        else PortAssignment.RANDOM
    )


def hairpinning_of(arrived: bool, mappings: Mappings, filterings: Filterings) -> Hairpinning:
    """
    What it means that a datagram to our own mapped address came back, or did not.

    It came from another socket of ours, to whose mapped address we had sent. Where mappings depend on the
    destination, that was by a mapping that nobody knows, and what filters by source lets nothing in by the
    one that we know.
    """
    if arrived:
        return Hairpinning.YES
    known = mappings == {Mapping.ENDPOINT_INDEPENDENT} or filterings == {Filtering.ENDPOINT_INDEPENDENT}
    return Hairpinning.NO if known else Hairpinning.UNKNOWN


def _span(ports: Iterable[int]) -> int:
    """How many ports the shortest run has that holds all of these; after the last comes the first again."""
    ordered = sorted(ports)
    gaps = [after - before for before, after in pairwise(ordered)]
    gaps.append(ordered[0] + _PORTS - ordered[-1])
    return _PORTS - max(gaps)

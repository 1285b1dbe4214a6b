"""
The candidates of an attempt over TCP (RFC 6544): which we name to the other side, and to which of its own we
connect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from punch.ice.candidates import MAPPED_PREFERENCE, STREAM_PREFERENCE, candidate_priority
from punch.ice.port_mapping.mapper import mapped_addresses
from punch.ice.reach import is_local, may_pair
from punch.net.sources import source_of
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.special_addresses import FIRST_PORT, Scope, scope_of

MAX_TARGETS = 3
"""To how many candidates of the other side we connect."""


def local_candidates(
    listening: Iterable[Address], mapped: Mapping[Address, Address], external: Mapping[Address, Address]
) -> tuple[Candidate, ...]:
    """
    Return our candidates, the likeliest first.

    :param listening: the addresses at which we listen.
    :param mapped: how the rendezvous sees each of them, if it says so.
    :param external: the address of each that a router has mapped, as the router says it.
    """
    candidates: list[Candidate] = []
    for number, local in enumerate(listening):
        preference = STREAM_PREFERENCE - number
        priority = candidate_priority(CandidateType.HOST, preference)
        candidates.append(
            Candidate(CandidateType.HOST, local, priority, f"{number}h", tcp_type=TCPType.PASSIVE)
        )
        seen = mapped.get(local)
        if seen is not None and seen != local and seen.is_ipv6 == local.is_ipv6:
            priority = candidate_priority(CandidateType.SRFLX, preference)
            so = TCPType.SIMULTANEOUS_OPEN
            candidates.append(
                Candidate(CandidateType.SRFLX, seen, priority, f"{number}s", related=local, tcp_type=so)
            )
        if local in external:
            hosts = [] if seen is None else [seen.host]
            candidates += _of_mapped_port(local, external[local], hosts, preference, number)
    return tuple(sorted(candidates, key=lambda each: -each.priority))


def _of_mapped_port(
    local: Address, external: Address, seen_at: Collection[str], preference: int, number: int
) -> list[Candidate]:
    """
    Return the candidates of a port that a router maps. Everybody reaches it, so we need not connect from
    there. At an address that only the router names it often leads nowhere, so this one has no preference.
    """
    candidates = []
    for address in mapped_addresses(local, external, seen_at):
        if address == local:
            continue  # A firewall without NAT: the host candidate is let in now
        certain = address.host in seen_at
        priority = candidate_priority(
            CandidateType.SRFLX, preference, preference=MAPPED_PREFERENCE if certain else None
        )
        foundation = f"{number}{'m' if certain else 'n'}"
        passive = TCPType.PASSIVE
        candidates.append(
            Candidate(CandidateType.SRFLX, address, priority, foundation, related=local, tcp_type=passive)
        )
    return candidates


def public_host(candidates: Iterable[Candidate]) -> str | None:
    """
    Return the public IP address of a side, IPv4 if it has both, by which its network is recognized; None if
    it names none.
    """
    hosts = [each.address for each in candidates if not is_local(each.address.host)]
    return min(hosts, key=lambda address: address.is_ipv6).host if hosts else None


def kinds(candidates: Iterable[Candidate]) -> list[tuple[str, str, bool]]:
    """Return which kinds of candidates a side has, without their addresses: what its network lets it have."""
    return sorted(
        {
            (each.type.value, "" if each.tcp_type is None else each.tcp_type.value, each.address.is_ipv6)
            for each in candidates
        }
    )


class TCPTarget(NamedTuple):
    """
    Where to connect.

    :ivar local: the address to connect from.
    :ivar remote: the address to connect to.
    :ivar near: it is in our own network, as far as its address shows.
    """

    local: Address
    remote: Address
    near: bool


def targets(
    listening: Collection[Address],
    mapped: Mapping[Address, Address],
    theirs: Iterable[Candidate],
    own: Collection[str],
) -> list[TCPTarget]:
    """
    Return where to connect to reach the other side at its candidates, the likeliest first.

    Ports below 1024 belong to services, not to peers. Private addresses are only worth a SYN if the other
    side is in our own network. It says so, which proves nothing, so it must not see what answers there. The
    same is true of our router, and of what has an IPv6 address of our own /56, behind the same firewall.
    This machine is not the other side: whoever names it would have us connect to services of ours.

    :param listening: the addresses at which we listen, from which we also connect.
    :param mapped: how the rendezvous sees each of them, if it says so.
    :param theirs: the candidates of the other side.
    :param own: all IP addresses of this machine, also those that no candidate of ours has.
    """
    theirs, ours = list(theirs), {address.host for address in mapped.values()}
    neighbours = any(each.address.host in ours for each in theirs if each.type is CandidateType.SRFLX)
    networks = {source_of(local.host)[1] for local in listening if local.is_ipv6}
    found: list[tuple[bool, int, TCPTarget]] = []
    for each in theirs:
        remote = each.address
        private = scope_of(remote.host) is not Scope.GLOBAL
        usable = each.tcp_type is not TCPType.ACTIVE and remote.port >= FIRST_PORT
        if not usable or each.type is CandidateType.RELAY or (private and not neighbours):
            continue
        local = next((local for local in listening if may_pair(local, remote)), None)
        if local is not None and remote.host not in own:
            near = private or remote.host in ours or source_of(remote.host)[1] in networks
            found.append((not private, -each.priority, TCPTarget(local, remote, near)))
    found.sort(key=lambda target: target[:2])
    return list(dict.fromkeys(target for _, _, target in found))[:MAX_TARGETS]

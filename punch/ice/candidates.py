"""
Local and remote candidates, their priorities and foundations (RFC 8445, section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from punch.ice.reach import is_local, may_be_remote, usable
from punch.wire.address import Address, parsed, preference_class
from punch.wire.peers.candidate import Candidate, CandidateType
from punch.wire.special_addresses import is_clat

STREAM_PREFERENCE = 0x7FFF
"""The largest local preference of relayed candidates whose relay is reached over TCP or TLS."""
MAX_SIGNALLED = 32
"""How many signalled candidates of a peer are used."""
MAX_PER_HOST = 8
"""
How many of these may have the same IP address: as many as a peer may have sockets behind one NAT. With more,
a peer could only have us send more checks to whoever has that address, and who has not agreed to them.
"""
MAX_REFLEXIVE = 32
"""How many peer-reflexive candidates of each side are learned from checks."""

TYPE_PREFERENCE = {
    CandidateType.HOST: 126,
    CandidateType.PRFLX: 110,
    CandidateType.SRFLX: 100,
    CandidateType.RELAY: 0,
}
"""RFC 8445, section 5.1.2.2."""
MAPPED_PREFERENCE = 105
"""The type preference of a port that a router maps (RFC 6544, section 4.2: NAT-assisted candidates)."""

_COMPONENT = 1
_BASE_BITS = 0xFFFFFF
"""The bits of a priority that hold the local preference and the component (section 5.1.2.1)."""
_NOWHERE = {False: Address("0.0.0.0", 9), True: Address("::", 9)}


def candidate_priority(
    kind: CandidateType,
    local_preference: int,
    component: int = _COMPONENT,
    *,
    preference: int | None = None,
) -> int:
    """
    RFC 8445, section 5.1.2.1.

    :param preference: the type preference; None: that of `TYPE_PREFERENCE`.
    """
    type_preference = TYPE_PREFERENCE[kind] if preference is None else preference
    return (type_preference << 24) + (local_preference << 8) + (256 - component)


@dataclass(frozen=True)
class _Base:
    candidate: Candidate
    local_preference: int


class LocalCandidates:
    """Our candidates and their bases."""

    def __init__(self) -> None:
        self._bases: dict[Address, _Base] = {}
        self._reflexive: dict[tuple[Address, Address], Candidate] = {}
        self._foundations: dict[tuple[CandidateType, str, str], str] = {}
        self._relay_hosts: dict[Address, str] = {}
        self._openings: set[Address] = set()

    @property
    def bases(self) -> list[Candidate]:
        """
        The candidates that are their own base, in the order in which they were added, without those of
        `add_opening`.
        """
        return [known.candidate for base, known in self._bases.items() if base not in self._openings]

    @property
    def openings(self) -> list[Address]:
        """The bases that were added with `add_opening`."""
        return list(self._openings)

    def is_opening(self, base: Address) -> bool:
        """Whether a base was added with `add_opening`."""
        return base in self._openings

    @property
    def signalled(self) -> list[Candidate]:
        """
        The candidates to signal: all but those that the peer learns from checks, which are peer-reflexive
        ones and those of `add_opening`, and host candidates of a translator (`CLAT_NETWORK`).
        """
        reflexive = (
            known
            for (base, _), known in self._reflexive.items()
            if known.type is not CandidateType.PRFLX and base not in self._openings
        )
        return [*(base for base in self.bases if not is_clat(base.address.host)), *reflexive]

    def __contains__(self, base: Address) -> bool:
        return base in self._bases

    def __iter__(self) -> Iterator[Address]:
        return iter(self._bases)

    @property
    def reflexive_hosts(self) -> set[str]:
        """The IP addresses of our reflexive candidates, of both families."""
        return {mapped.host for _, mapped in self._reflexive}

    @property
    def relay_hosts(self) -> set[str]:
        """
        The hosts of our relays: the addresses at which they have answered us, not those at which they say
        that they relay.
        """
        return set(self._relay_hosts.values())

    def seen_as(self, base: Address) -> Address | None:
        """The newest reflexive address of `base`; None if there is none."""
        return next((mapped for known, mapped in reversed(self._reflexive) if known == base), None)

    def sees_family(self, ipv6: bool) -> bool:
        """Whether any of our addresses of this family has a reflexive address."""
        return any(base.is_ipv6 == ipv6 for base, _ in self._reflexive)

    def base(self, base: Address) -> Candidate | None:
        """The host or relayed candidate with this address."""
        known = self._bases.get(base)
        return None if known is None else known.candidate

    def add_host(self, base: Address) -> Candidate | None:
        """
        Add the host candidate of a bound socket; returns None if it is known already.

        :raise ValueError: the address can't be a candidate (a wildcard, for example).
        """
        if base in self._bases:
            return None
        if not usable(base):
            raise ValueError(f"{base} can't be a candidate")
        preference = self._free_preference(base.host)
        candidate = Candidate(
            CandidateType.HOST,
            base,
            candidate_priority(CandidateType.HOST, preference),
            self._foundation(CandidateType.HOST, base.host),
        )
        self._bases[base] = _Base(candidate, preference)
        return candidate

    def add_opening(self, base: Address, mapped: Address | None) -> None:
        """
        Add a socket that is neither signalled nor paired with candidates: checks that arrive form pairs.

        :param mapped: its address as a reflector sees it, if that is known.
        :raise ValueError: the address can't be a candidate.
        """
        self.add_host(base)
        self._openings.add(base)
        if mapped is not None:
            self.add_reflexive(base, mapped)

    def add_relayed(
        self,
        relayed: Address,
        mapped: Address | None,
        server: str,
        streamed: bool = False,
        host: str | None = None,
    ) -> Candidate | None:
        """
        Add the relayed candidate of an allocation; returns None if it is known already or unusable.

        :param mapped: our address as the relay sees it, which is signalled to the peer; None: it is not.
        :param server: identifies the relay and how it is reached; part of the foundation.
        :param streamed: the relay is reached over TCP or TLS.
        :param host: the IP address at which the relay has answered us.
        """
        if relayed in self._bases or not usable(relayed):
            return None
        if host is not None:
            self._relay_hosts[relayed] = host
        preference = self._free_preference(relayed.host) - (STREAM_PREFERENCE + 1 if streamed else 0)
        candidate = Candidate(
            CandidateType.RELAY,
            relayed,
            candidate_priority(CandidateType.RELAY, preference),
            self._foundation(CandidateType.RELAY, relayed.host, server),
            # RFC 8839, section 5.1 demands a related address; this one stands for a secret one
            related=mapped or _NOWHERE[relayed.is_ipv6],
        )
        self._bases[relayed] = _Base(candidate, preference)
        return candidate

    def remove(self, base: Address) -> None:
        """Remove a base and its reflexive candidates."""
        self._bases.pop(base, None)
        self._openings.discard(base)
        self._relay_hosts.pop(base, None)
        for known in [known for known in self._reflexive if known[0] == base]:
            del self._reflexive[known]

    def add_reflexive(
        self, base: Address, mapped: Address, server: str = "", *, preference: int | None = None
    ) -> Candidate | None:
        """
        Add the server-reflexive candidate `mapped` of the host candidate `base`. If there are too many, the
        oldest one is dropped.

        :param server: identifies the server that saw the mapping; part of the foundation.
        :param preference: the type preference; None: that of server-reflexive candidates. If the candidate is
            known already, it gets this type preference if that is larger than its own.
        :return: None if the candidate is redundant (RFC 8445, section 5.1.3) or unusable.
        """
        if base not in self._bases or mapped == base or not usable(mapped):
            return None
        known = self._reflexive.pop((base, mapped), None)
        if known is not None and known.type is CandidateType.SRFLX:
            # It was seen again, so it becomes the newest one
            priority = candidate_priority(
                known.type, self._bases[base].local_preference, preference=preference
            )
            self._reflexive[base, mapped] = replace(known, priority=max(known.priority, priority))
            return None
        if len(self._reflexive) >= 2 * MAX_REFLEXIVE:
            del self._reflexive[next(iter(self._reflexive))]
        return self._learn(CandidateType.SRFLX, base, mapped, server, preference)

    def at(self, base: Address, mapped: Address) -> Candidate:
        """
        The candidate with address `mapped` and base `base`.

        If there is none, a peer-reflexive candidate is added (RFC 8445, section 7.2.5.3.1).
        """
        known = self._bases[base].candidate if mapped == base else self._reflexive.get((base, mapped))
        if known is not None:
            return known
        if len(self._reflexive) >= MAX_REFLEXIVE:
            return self._bases[base].candidate
        return self._learn(CandidateType.PRFLX, base, mapped, "")

    def check_priority(self, base: Address) -> int:
        """
        The PRIORITY of a check from `base`: that of a peer-reflexive candidate (RFC 8445, section 7.1.1).
        """
        return candidate_priority(CandidateType.PRFLX, self._bases[base].local_preference)

    def _learn(
        self,
        kind: CandidateType,
        base: Address,
        mapped: Address,
        server: str,
        preference: int | None = None,
    ) -> Candidate:
        priority = candidate_priority(kind, self._bases[base].local_preference, preference=preference)
        candidate = Candidate(kind, mapped, priority, self._foundation(kind, base.host, server), related=base)
        self._reflexive[base, mapped] = candidate
        return candidate

    def _foundation(self, kind: CandidateType, base_host: str, server: str = "") -> str:
        """RFC 8445, section 5.1.1.3. Foundations are numbers, so that they reveal nothing about us."""
        return self._foundations.setdefault((kind, base_host, server), str(len(self._foundations) + 1))

    def _free_preference(self, host: str) -> int:
        """
        A local preference that no other base has, as section 5.1.2.1 demands. Families alternate, IPv6 first,
        so that a family that does not work can't delay the other one (RFC 8421, section 4).
        """
        preference = 65535 - preference_class(host)
        taken = {base.local_preference | STREAM_PREFERENCE + 1 for base in self._bases.values()}
        while preference in taken and preference >= 4:
            preference -= 4
        return preference


class RemoteCandidates:
    """
    The peer's candidates, signalled and learned from checks. Their number is bounded.

    :param refused: returns whether no address with this host is the peer's.
    """

    def __init__(self, refused: Callable[[str], bool] = lambda host: False) -> None:
        self._refused_host = refused
        self._candidates: dict[Address, Candidate] = {}
        self._refused: set[Address] = set()
        self._signalled = 0
        # The PRIORITY of the first check from each address that is not signalled
        self._learned: dict[Address, int] = {}

    def refuse(self, address: Address) -> None:
        """Drop the candidate with this address, and ignore later ones; for at most 32 addresses."""
        if len(self._refused) < MAX_SIGNALLED:
            self._refused.add(address)
        self._candidates.pop(address, None)
        self._learned.pop(address, None)

    def forget(self, addresses: Collection[Address]) -> None:
        """Drop those of these candidates that were learned from checks."""
        for address in addresses:
            if self._learned.pop(address, None) is not None:
                del self._candidates[address]

    @property
    def relay_hosts(self) -> set[str]:
        """The IP addresses of the peer's relayed candidates."""
        candidates = self._candidates.values()
        return {known.address.host for known in candidates if known.type is CandidateType.RELAY}

    def refuses(self, address: Address) -> bool:
        """Whether nothing is sent to this address, and no check from there is answered."""
        refused = address in self._refused or self._refused_host(address.host)
        return refused or not may_be_remote(address)

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(tuple(self._candidates.values()))

    @property
    def reflexive_hosts(self) -> set[str]:
        """The IP addresses of the peer's server-reflexive candidates, of both families."""
        candidates = self._candidates.values()
        return {known.address.host for known in candidates if known.type is CandidateType.SRFLX}

    def get(self, address: Address) -> Candidate | None:
        """The candidate with this address."""
        return self._candidates.get(address)

    def add(self, candidate: Candidate) -> bool:
        """
        Add a signalled candidate. It replaces a peer-reflexive one of the same address (RFC 8838, section
        11.4).

        :return: whether anything changed.
        """
        if candidate.address in self._candidates and candidate.address not in self._learned:
            return False
        if self.refuses(candidate.address):
            return False
        if candidate.type is CandidateType.PRFLX or self._signalled >= MAX_SIGNALLED:
            return False
        if candidate.component != _COMPONENT or candidate.protocol != "udp":
            return False
        if not 0 < candidate.priority < 2**31:
            return False
        hosts = [address.host for address in self._candidates if address not in self._learned]
        if hosts.count(candidate.address.host) >= MAX_PER_HOST:
            return False
        self._learned.pop(candidate.address, None)
        self._signalled += 1
        self._candidates[candidate.address] = candidate
        for address, priority in self._learned.items():
            self._candidates[address] = self._learn(address, priority, self._candidates[address].foundation)
        return True

    def learn(self, address: Address, priority: int) -> Candidate | None:
        """
        The candidate that an authenticated check came from. If it is unknown, a peer-reflexive one is added
        (RFC 8445, section 7.3.1.3). None if there are too many.

        An unknown address may be that of a relayed candidate: some NATs, and proxies before containers,
        replace the source address of a datagram by their own, so that a relay's datagram seems to come from a
        new address of the peer.
        """
        known = self._candidates.get(address)
        if known is not None:
            return known
        if len(self._learned) >= MAX_REFLEXIVE or self.refuses(address):
            return None
        self._learned[address] = priority
        candidate = self._candidates[address] = self._learn(address, priority, self._unlike_all())
        return candidate

    def _learn(self, address: Address, priority: int, foundation: str) -> Candidate:
        relayed = self._relayed_with(priority)
        if relayed is not None:
            return replace(relayed, address=address, foundation=foundation)
        return Candidate(CandidateType.PRFLX, address, min(max(priority, 1), 2**31 - 1), foundation)

    def _relayed_with(self, priority: int) -> Candidate | None:
        """
        The signalled relayed candidate that a check with this PRIORITY was sent from; None if it was another.

        A check's PRIORITY has the type preference of a peer-reflexive candidate, and otherwise the bits of
        the candidate that it is sent from (RFC 8445, section 7.1.1). If the peer gives host and relayed
        candidates the same local preference, nothing is known.
        """
        alike = {
            each.type: each
            for address, each in self._candidates.items()
            if address not in self._learned and each.priority & _BASE_BITS == priority & _BASE_BITS
        }
        return None if CandidateType.HOST in alike else alike.get(CandidateType.RELAY)

    def _unlike_all(self) -> str:
        taken = {candidate.foundation for candidate in self._candidates.values()}
        number = 1
        while f"prflx{number}" in taken:
            number += 1
        return f"prflx{number}"


def is_unlikely(base: Address, candidate: Candidate, ours: LocalCandidates, theirs: RemoteCandidates) -> bool:
    """
    Whether a check from `base` to this candidate of the peer probably fails.

    This may be wrong, since private networks may contain several NATs, so it only decides on the order.
    """
    return behind_another_nat(candidate, ours, theirs) or _is_cut_off(base, candidate, ours)


def _is_cut_off(base: Address, candidate: Candidate, ours: LocalCandidates) -> bool:
    """
    Whether `base` probably can't reach this candidate: `base` is a private address that got no answer from a
    reflector, while another address of its family did. It may belong to a bridge of containers, for example.
    """
    local = ours.base(base)
    if local is None or local.type is CandidateType.RELAY or not is_local(base.host):
        return False
    if is_local(candidate.address.host):
        return False
    return ours.seen_as(base) is None and ours.sees_family(base.is_ipv6)


def behind_another_nat(candidate: Candidate, ours: LocalCandidates, theirs: RemoteCandidates) -> bool:
    """
    Whether this candidate of the peer is probably a private address behind another NAT than ours.
    """
    host = candidate.address.host
    # Not an address of documentation, which is_private counts, nor one of an overlay in 100.64.0.0/10
    if candidate.type is not CandidateType.HOST or not (is_local(host) and parsed(host).is_private):
        return False
    here, there = ours.reflexive_hosts, theirs.reflexive_hosts
    return bool(here and there) and here.isdisjoint(there)

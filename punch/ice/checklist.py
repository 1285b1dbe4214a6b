"""The checklist: the candidate pairs, and which one is checked next (RFC 8445, section 6.1)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.pairs import CandidatePair, Pair, PairState, PathKind
from punch.ice.reach import may_pair, may_relay
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType

MAX_PAIRS = 100
"""RFC 8445, section 6.1.2.5."""

MAX_ECHOES = 4
"""
How many failed pairs of one base with peer-reflexive addresses of one host there may be before further ones
are not checked. If both NATs have address-and-port-dependent mapping and endpoint-independent filtering, each
triggered check comes from a new address, which triggers another check, without end.
"""

_UNTRIED = (PairState.FROZEN, PairState.WAITING)
_PENDING = (PairState.WAITING, PairState.IN_PROGRESS)


class CheckList:
    """
    The pairs, and the queue of triggered checks (RFC 8445, section 6.1.4.1).

    :param familiar: IP addresses of the peer at which it answered before.
    """

    def __init__(self, familiar: Container[str] = ()) -> None:
        self._familiar = familiar
        self.controlling = False
        """Whether our role is controlling; priorities depend on it."""
        self._pairs: dict[tuple[Address, Address], CandidatePair] = {}
        self._triggered: deque[CandidatePair] = deque()
        self._started: Counter[tuple[bool, CandidateType]] = Counter()

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[CandidatePair]:
        return iter(self._pairs.values())

    @property
    def valid(self) -> list[CandidatePair]:
        """The valid pairs."""
        return [
            pair for pair in self._pairs.values() if pair.state is PairState.SUCCEEDED and not pair.revoked
        ]

    def get(self, base: Address, remote: Address) -> CandidatePair | None:
        """The pair of these addresses."""
        return self._pairs.get((base, remote))

    def add(self, local: Candidate, remote: Candidate) -> CandidatePair | None:
        """
        Form the pair of two candidates, or return the existing one.

        :return: None if they can't be paired, or if there are 100 better pairs.
        """
        known = self._pairs.get((local.address, remote.address))
        if known is not None:
            return known
        may = may_relay if local.type is CandidateType.RELAY else may_pair
        if not may(local.address, remote.address):
            return None
        pair = CandidatePair(local, remote)
        if len(self._pairs) >= MAX_PAIRS and not self._make_room(pair):
            return None
        self._pairs[local.address, remote.address] = pair
        return pair

    def update_remotes(self, candidates: RemoteCandidates) -> None:
        """Update the pairs, because the peer signalled candidates that had been learned from its checks."""
        for pair in self._pairs.values():
            pair.learn(candidates.get(pair.remote.address) or pair.remote)

    def remove(self, pair: CandidatePair) -> None:
        """Remove a pair."""
        self.forget_trigger(pair)
        self._pairs.pop((pair.base, pair.remote.address), None)

    def trigger(self, pair: CandidatePair) -> None:
        """Queue a triggered check of this pair."""
        if pair not in self._triggered:
            self._triggered.append(pair)
        pair.state = PairState.WAITING

    def forget_trigger(self, pair: CandidatePair) -> None:
        """Remove this pair from the queue of triggered checks."""
        if pair in self._triggered:
            self._triggered.remove(pair)

    def succeeded(self, pair: CandidatePair) -> None:
        """A check succeeded: unfreeze the pairs of the same foundation (RFC 8445, section 7.2.5.3.3)."""
        pair.state = PairState.SUCCEEDED
        self.forget_trigger(pair)
        for other in self._pairs.values():
            if other.state is PairState.FROZEN and other.foundation == pair.foundation:
                other.state = PairState.WAITING

    def unfreeze(self, needed: Callable[[CandidatePair], bool]) -> None:
        """
        Unfreeze one pair of each foundation that has no other pair waiting or in progress (RFC 8445, sections
        6.1.2.6 and 6.1.4.2). A pair whose first request was not answered in time does not count.
        """
        frozen = [pair for pair in self._pairs.values() if pair.state is PairState.FROZEN and needed(pair)]
        if not frozen:
            return
        busy = {pair.foundation for pair in self._pairs.values() if pair.holds_others and needed(pair)}
        for pair in sorted(frozen, key=self._priority, reverse=True):
            if pair.foundation not in busy:
                busy.add(pair.foundation)
                pair.state = PairState.WAITING

    def retry_failed(self) -> None:
        """Check the failed pairs again, but not those whose consent was lost."""
        for pair in self._pairs.values():
            if pair.state is PairState.FAILED and not pair.revoked:
                pair.state = PairState.WAITING

    def has_work(self, needed: Callable[[CandidatePair], bool]) -> bool:
        """Whether `next_pair` would return a pair."""
        return bool(self._triggered) or any(
            pair.state is PairState.WAITING and needed(pair) for pair in self._pairs.values()
        )

    def next_pair(
        self, needed: Callable[[CandidatePair], bool], unlikely: Callable[[CandidatePair], bool]
    ) -> CandidatePair | None:
        """
        Return the pair to check now: a triggered one, or otherwise the best waiting one (RFC 8445, section
        6.1.4.2).

        The types of remote candidates take turns, and so do our host and relayed candidates. By priority
        alone, all private addresses of a peer with many interfaces (bridges of containers, for example) would
        be checked before the address at its NAT, and all of these before any relay. For the same reason pairs
        that are `unlikely` to work come last. Addresses at which the peer answered before come first.
        """
        if self._triggered:
            return self._triggered.popleft()
        waiting = [pair for pair in self._pairs.values() if pair.state is PairState.WAITING and needed(pair)]
        if not waiting:
            return None
        pair = min(
            waiting,
            key=lambda pair: (
                unlikely(pair),
                not self.is_familiar(pair),
                self._started[_class_of(pair)],
                -self._priority(pair),
            ),
        )
        self._started[_class_of(pair)] += 1
        return pair

    def is_echo(self, pair: CandidatePair) -> bool:
        """Whether `MAX_ECHOES` pairs like this one have failed already, so that it is not to be checked."""
        if pair.remote.type is not CandidateType.PRFLX or pair.state is PairState.IN_PROGRESS:
            return False
        alike = [
            other
            for other in self._pairs.values()
            if other.base == pair.base
            and other.remote.address.host == pair.remote.address.host
            and other.remote.type is CandidateType.PRFLX
            and other.state is PairState.FAILED
        ]
        return len(alike) >= MAX_ECHOES

    def is_familiar(self, pair: CandidatePair) -> bool:
        """Whether this pair has an address at which the peer answered before."""
        types = pair.local.type, pair.remote.type
        return CandidateType.RELAY not in types and pair.remote.address.host in self._familiar

    def awaits_familiar(self, needed: Callable[[CandidatePair], bool]) -> bool:
        """Whether a pair that `is_familiar` is still to be checked."""
        return any(
            pair.state in _UNTRIED and self.is_familiar(pair) and needed(pair)
            for pair in self._pairs.values()
        )

    def pending(self, needed: Callable[[CandidatePair], bool]) -> int:
        """How many pairs are waiting or in progress; the RTO depends on it (RFC 8445, section 14.3)."""
        return sum(pair.state in _PENDING and needed(pair) for pair in self._pairs.values())

    def exhausted(self) -> bool:
        """Whether every pair has failed."""
        return all(pair.state is PairState.FAILED for pair in self._pairs.values())

    def best_valid(self, most: PathKind = PathKind.HOST) -> CandidatePair | None:
        """Return the best usable pair of this kind at most: by what it carries, its kind and its priority."""
        valid = [pair for pair in self._pairs.values() if pair.usable and pair.valid_kind <= most]
        return max(valid, key=lambda pair: (pair.full, pair.valid_kind, self._priority(pair)), default=None)

    def best_nominated(self) -> CandidatePair | None:
        """
        The usable pair with the newest nomination. Of several pairs without renomination (the aggressive
        nomination of RFC 5245), the one with the highest priority.
        """
        nominated = [pair for pair in self._pairs.values() if pair.usable and pair.nomination is not None]
        return max(nominated, key=lambda pair: (pair.nomination or 0, self._priority(pair)), default=None)

    def _priority(self, pair: CandidatePair) -> int:
        return pair.priority(self.controlling)

    def _make_room(self, newcomer: CandidatePair) -> bool:
        """
        Drop the worst unchecked pair if it is worse than the new one, or otherwise the worst failed pair.
        """
        untried = [
            pair
            for pair in self._pairs.values()
            if pair.state in _UNTRIED and not pair.received_check and pair not in self._triggered
        ]
        worst = min(untried, key=self._priority, default=None)
        if worst is None or self._priority(worst) >= self._priority(newcomer):
            failed = [
                pair for pair in self._pairs.values() if pair.state is PairState.FAILED and not pair.revoked
            ]
            worst = min(failed, key=self._priority, default=None)
        if worst is None:
            return False
        del self._pairs[worst.base, worst.remote.address]
        return True


def _class_of(pair: CandidatePair) -> tuple[bool, CandidateType]:
    return pair.local.type is CandidateType.RELAY, pair.remote.type


SILENT = "silent"
"""The state of an impaired pair in `PairStatus`; the other states are those of `PairState`."""


@dataclass(frozen=True)
class PairStatus:
    """
    The status of one candidate pair, for display.

    `local` is the address of the socket or allocation. `seen_as` is its reflexive address, if that is known
    and another one. `rtt` is in seconds. `selected`: data is sent on this pair.
    """

    local: Address
    local_kind: CandidateType
    seen_as: Address | None
    remote: Address
    remote_kind: CandidateType
    state: str
    selected: bool
    rtt: float | None


def take_snapshot(
    checklist: CheckList, candidates: LocalCandidates, selected: Pair | None
) -> list[PairStatus]:
    """The status of all pairs, in the order of their priorities."""
    path = None if selected is None else (selected.local_base, selected.remote_address)
    pairs = sorted(checklist, key=lambda pair: pair.priority(checklist.controlling), reverse=True)
    return [
        PairStatus(
            pair.base,
            pair.local.type,
            _other(pair.mapped or candidates.seen_as(pair.base), pair.base),
            pair.remote.address,
            pair.remote.type,
            SILENT if pair.impaired else pair.state.value,
            (pair.base, pair.remote.address) == path,
            pair.rtt,
        )
        for pair in pairs
    ]


def _other(address: Address | None, base: Address) -> Address | None:
    return None if address == base else address

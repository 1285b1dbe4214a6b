"""The checklist: which pairs there are, and which one is checked next (RFC 8445, section 6.1)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from punch.ice.candidates import LocalCandidates, RemoteCandidates, may_pair, may_relay
from punch.ice.pairs import CandidatePair, Pair, PairState
from punch.wire.address import Address
from punch.wire.candidate import Candidate, CandidateType

MAX_PAIRS = 100
"""RFC 8445, section 6.1.2.5."""

MAX_ECHOES = 4
"""
Failed pairs of one base with addresses that checks of one host came from, after which a further one is not
tried. Where both NATs give each destination another port and let everything in, each check that answers a
check comes from a new address, which would go on for ever.
"""

_UNTRIED = (PairState.FROZEN, PairState.WAITING)
_PENDING = (PairState.WAITING, PairState.IN_PROGRESS)


class CheckList:
    """Pairs by address, and the queue of triggered checks (RFC 8445, section 6.1.4.1)."""

    def __init__(self) -> None:
        self.controlling = False
        """Our role, which priorities depend on."""
        self._pairs: dict[tuple[Address, Address], CandidatePair] = {}
        self._triggered: deque[CandidatePair] = deque()
        self._started: Counter[tuple[bool, CandidateType]] = Counter()

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[CandidatePair]:
        return iter(self._pairs.values())

    def get(self, base: Address, remote: Address) -> CandidatePair | None:
        """The pair of these addresses."""
        return self._pairs.get((base, remote))

    def add(self, local: Candidate, remote: Candidate) -> CandidatePair | None:
        """
        Form the pair of two candidates, or find it.

        :return: None if they can't be paired, or if there are 100 better ones.
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
        """The peer told more about candidates that were found by its checks."""
        for pair in self._pairs.values():
            pair.learn(candidates.get(pair.remote.address) or pair.remote)

    def remove(self, pair: CandidatePair) -> None:
        """There is no such pair any more."""
        self.forget_trigger(pair)
        self._pairs.pop((pair.base, pair.remote.address), None)

    def trigger(self, pair: CandidatePair) -> None:
        """Check this pair as soon as pacing allows, before all others."""
        if pair not in self._triggered:
            self._triggered.append(pair)
        pair.state = PairState.WAITING

    def forget_trigger(self, pair: CandidatePair) -> None:
        """It needs no check any more."""
        if pair in self._triggered:
            self._triggered.remove(pair)

    def succeeded(self, pair: CandidatePair) -> None:
        """RFC 8445, section 7.2.5.3.3: what is like this pair is likely to work too."""
        pair.state = PairState.SUCCEEDED
        self.forget_trigger(pair)
        for other in self._pairs.values():
            if other.state is PairState.FROZEN and other.foundation == pair.foundation:
                other.state = PairState.WAITING

    def unfreeze(self, needed: Callable[[CandidatePair], bool]) -> None:
        """
        RFC 8445, sections 6.1.2.6 and 6.1.4.2: of each foundation that is not being tried, one pair waits.
        Where a try was not answered in time, so does the next.
        """
        frozen = [pair for pair in self._pairs.values() if pair.state is PairState.FROZEN and needed(pair)]
        if not frozen:
            return
        busy = {pair.foundation for pair in self._pairs.values() if pair.holds_others and needed(pair)}
        for pair in sorted(frozen, key=self._priority, reverse=True):
            if pair.foundation not in busy:
                busy.add(pair.foundation)
                pair.state = PairState.WAITING

    def revive(self) -> None:
        """Try again all that failed before, but where consent was lost."""
        for pair in self._pairs.values():
            if pair.state is PairState.FAILED and not pair.revoked:
                pair.state = PairState.WAITING

    def has_work(self, needed: Callable[[CandidatePair], bool]) -> bool:
        """Whether `next_pair` would return one."""
        return bool(self._triggered) or any(
            pair.state is PairState.WAITING and needed(pair) for pair in self._pairs.values()
        )

    def next_pair(
        self, needed: Callable[[CandidatePair], bool], unlikely: Callable[[CandidatePair], bool]
    ) -> CandidatePair | None:
        """
        Take the pair to check now: a triggered one, else the best that waits (RFC 8445, section 6.1.4.2).

        Remote candidates of different types take turns, and so do our own addresses with relayed ones. By
        priority alone, a peer with many interfaces (bridges of containers, say) would be tried at all of its
        private addresses before the one that crosses the NAT, and at all of those before any relay. For the
        same reason pairs that are `unlikely` to work come last.
        """
        if self._triggered:
            return self._triggered.popleft()
        waiting = [pair for pair in self._pairs.values() if pair.state is PairState.WAITING and needed(pair)]
        if not waiting:
            return None
        pair = min(
            waiting,
            key=lambda pair: (unlikely(pair), self._started[_class_of(pair)], -self._priority(pair)),
        )
        self._started[_class_of(pair)] += 1
        return pair

    def is_echo(self, pair: CandidatePair) -> bool:
        """Whether a check from this address only answers checks of ours, and `MAX_ECHOES` did before."""
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

    def pending(self, needed: Callable[[CandidatePair], bool]) -> int:
        """How many pairs are waiting or being checked, which the RTO depends on (RFC 8445, section 14.3)."""
        return sum(pair.state in _PENDING and needed(pair) for pair in self._pairs.values())

    def exhausted(self) -> bool:
        """Whether every pair has failed."""
        return all(pair.state is PairState.FAILED for pair in self._pairs.values())

    def best_valid(self) -> CandidatePair | None:
        """The pair to use if there were no other reason to choose."""
        valid = [pair for pair in self._pairs.values() if pair.usable]
        return max(valid, key=lambda pair: (pair.full, pair.valid_kind, self._priority(pair)), default=None)

    def best_nominated(self) -> CandidatePair | None:
        """
        The pair that the controlling side wants: of the newest nomination, and of several without
        renomination (the aggressive nomination of RFC 5245) the one of highest priority.
        """
        nominated = [pair for pair in self._pairs.values() if pair.usable and pair.nomination is not None]
        return max(nominated, key=lambda pair: (pair.nomination or 0, self._priority(pair)), default=None)

    def _priority(self, pair: CandidatePair) -> int:
        return pair.priority(self.controlling)

    def _make_room(self, newcomer: CandidatePair) -> bool:
        """Drop the worst pair that was not tried yet, if it is worse than the new one."""
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
"""The state of a pair that worked and stopped answering; the other states are `PairState`'s."""


@dataclass(frozen=True)
class PairStatus:
    """
    One candidate pair.

    `local` is the socket (or the allocation at a relay) that is sent from, and `seen_as` the address that
    others see it as, if that is known to be another one: that of our NAT. `rtt` is in seconds. `selected`:
    what is sent to the peer goes this way.
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
    """All pairs as they are now, in the order of their priorities."""
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

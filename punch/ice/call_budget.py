"""What one session sends to addresses that have not answered, out of its peer's budget."""

from __future__ import annotations

from punch.ice.budget import Budget, PacketKind
from punch.ice.candidates import LocalCandidates, RemoteCandidates, is_unlikely
from punch.ice.pairs import CandidatePair
from punch.wire.address import Address
from punch.wire.candidate import CandidateType


class CallBudget:
    """
    Decides what may be sent, by what kind of packet it is.

    :param budget: of the peer; None: there is no limit.
    """

    def __init__(
        self, budget: Budget | None, local_candidates: LocalCandidates, remote_candidates: RemoteCandidates
    ) -> None:
        self._budget = budget
        self._locals = local_candidates
        self._remotes = remote_candidates

    def may_check(self, pair: CandidatePair, request: bytes, now: float) -> bool:
        """Whether a check on this pair may leave."""
        if pair.heard is not None:
            kind = PacketKind.TRIGGERED
        elif pair.remote.type is CandidateType.RELAY:
            kind = PacketKind.RELAYED
        else:
            kind = PacketKind.UNLIKELY if self.is_unlikely(pair) else PacketKind.DIRECT
        return self._may_send(pair.remote.address, request, kind, now)

    def may_answer(self, remote: Address, answer: bytes, now: float) -> bool:
        """Whether a check that came from `remote` may be answered."""
        return self._may_send(remote, answer, PacketKind.ANSWER, now)

    def may_be_large(self, remote: Address, now: float) -> bool:
        """Whether full-size checks from `remote` may be answered: not before a check of ours was."""
        return self._budget is None or self._budget.is_open(remote, now)

    def answered(self, remote: Address, now: float) -> None:
        """A check of ours was answered from there."""
        if self._budget is not None:
            self._budget.answered(remote, now)

    def is_unlikely(self, pair: CandidatePair) -> bool:
        """Whether this pair is to be tried after all others."""
        return is_unlikely(pair.base, pair.remote, self._locals, self._remotes)

    def _may_send(self, remote: Address, data: bytes, kind: PacketKind, now: float) -> bool:
        if self._budget is None:
            return True
        candidate = self._remotes.get(remote)
        relayed = candidate is not None and candidate.type is CandidateType.RELAY
        return self._budget.allows(remote, len(data), kind, now, self._locals.relay_hosts, relayed=relayed)

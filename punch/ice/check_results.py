"""
What the peer's checks, and its answers to our checks, mean for the pairs of an ICE session and for our role
(RFC 8445, sections 7.2.5 and 7.3).
"""

from __future__ import annotations

from collections import deque

from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.check_client import CheckClient, CheckOutcome, CheckVerdict
from punch.ice.checklist import CheckList
from punch.ice.checks import Check, CheckServer, IceRole
from punch.ice.events import Event, RoleChanged
from punch.ice.pairs import CandidatePair, PairState
from punch.ice.reach import may_pair
from punch.ice.selected_pair import SelectedPair
from punch.ice.selector import Selector
from punch.ice.transactions import Purpose
from punch.wire.address import Address
from punch.wire.peers.candidate import CandidateType
from punch.wire.stun import StunMessage


class CheckResults:
    """
    Updates the pairs and our role from the peer's checks and from its answers to ours.

    :param events: the queue that events are appended to.
    """

    def __init__(
        self,
        checklist: CheckList,
        checker: CheckClient,
        server: CheckServer,
        selector: Selector,
        local_candidates: LocalCandidates,
        remote_candidates: RemoteCandidates,
        path: SelectedPair,
        events: deque[Event],
    ) -> None:
        self._checklist = checklist
        self._checker = checker
        self._server = server
        self._selector = selector
        self._locals = local_candidates
        self._remotes = remote_candidates
        self._path = path
        self._events = events

    def receive_request(
        self, request: StunMessage, size: int, remote: Address, local: Address, now: float
    ) -> None:
        """
        Answer a request of the peer that came from `remote` to `local`, and update its pair.

        :param request: the request, which is not authenticated.
        :param size: its length in bytes.
        """
        pair = self._checklist.get(local, remote)
        refused = self._remotes.refuses(remote) or (pair is not None and pair.revoked)
        if refused or not self._may_answer(local, remote) or not self._server.is_for_us(request):
            return
        role, tiebreaker = self._checker.role, self._checker.tiebreaker
        check, role = self._server.receive(request, size, remote, local, role, tiebreaker, now)
        if role is not self._checker.role:
            self._take_role(role, now, refused=False)
        if check is not None:
            self.take_check(check, now)
            outcome = self._checker.receive_acknowledgement(check, now)
            if outcome is not None:
                self.take_outcome(outcome, now)

    def _may_answer(self, local: Address, remote: Address) -> bool:
        """Whether a check that came to this address of ours can have come from `remote`."""
        base = self._locals.base(local)
        relayed = base is not None and base.type is CandidateType.RELAY
        return relayed or may_pair(local, remote)

    def take_check(self, check: Check, now: float) -> None:
        """Update the pair of an authenticated check, or form it, and check it as well (section 7.3.1.4)."""
        candidate = self._remotes.learn(check.remote, check.priority)
        local = self._locals.base(check.local)
        pair = None if candidate is None or local is None else self._checklist.add(local, candidate)
        if pair is None:
            return
        repeated, pair.received_check = pair.received_check == check.transaction_id, check.transaction_id
        if not self._checklist.controlling and check.nomination is not None:
            pair.nomination = max(check.nomination, pair.nomination or 0)
        if pair.state is PairState.SUCCEEDED:
            self._path.choose(now)
        elif self._checklist.is_echo(pair):
            pair.state = PairState.FAILED
        elif not pair.revoked and not (repeated and pair.state is PairState.IN_PROGRESS):
            # The peer's NAT may have dropped our earlier requests, so start again (section 7.3.1.4)
            self._checker.stop(pair, now)
            self._checklist.trigger(pair)

    def take_outcome(self, outcome: CheckOutcome, now: float) -> None:
        """Update the pair of a check of ours that was answered (section 7.2.5)."""
        pair, transaction = outcome.pair, outcome.transaction
        if pair.revoked or self._checklist.get(pair.base, pair.remote.address) is not pair:
            return
        if outcome.verdict is CheckVerdict.ROLE_CONFLICT:
            self._take_role_conflict(outcome, now)
        elif outcome.verdict is CheckVerdict.FAILED:
            self.pair_failed(pair, now)
        else:
            if pair.local.type is not CandidateType.RELAY:
                pair.mapped = outcome.mapped
                self._locals.at(pair.base, pair.mapped or pair.base)
            if transaction.purpose is Purpose.CHECK:
                self._checklist.succeeded(pair)
            self._path.answered(pair, now, full=transaction.purpose is Purpose.SIZE)
            held = self._server.take_held(pair.base, pair.remote.address)
            if held is not None:
                self.receive_request(*held, pair.remote.address, pair.base, now)

    def _take_role_conflict(self, outcome: CheckOutcome, now: float) -> None:
        pair, transaction = outcome.pair, outcome.transaction
        ours = transaction.controlling == self._checklist.controlling
        if ours and not self._take_role(self._checker.role.other, now, refused=True):
            self.pair_failed(pair, now)
        elif transaction.purpose is Purpose.CHECK and pair.state is not PairState.SUCCEEDED:
            self._checklist.trigger(pair)

    def _take_role(self, role: IceRole, now: float, *, refused: bool) -> bool:
        if not self._checker.switch_role(role, refused=refused):
            return False
        self._checklist.controlling = self._checker.role is IceRole.CONTROLLING
        self._events.append(RoleChanged(self._checklist.controlling))
        self._selector.role_changed(now)
        return True

    def pair_failed(self, pair: CandidatePair, now: float) -> None:
        """A check on this pair was refused or not answered. A valid pair stays valid."""
        if pair.valid:
            return  # Only a nomination failed; consent checks decide whether the pair still works
        self._checker.forget(pair)
        self._checklist.forget_trigger(pair)
        pair.state = PairState.FAILED
        self._path.choose(now)

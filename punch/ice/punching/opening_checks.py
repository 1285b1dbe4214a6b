"""
Connectivity checks that an ICE agent sends only when asked to, for attempts at a direct path
(`punch.node.punching`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from punch.ice.candidates import LocalCandidates, RemoteCandidates
from punch.ice.check_client import CheckClient
from punch.ice.checklist import CheckList
from punch.ice.checks import CallBudget
from punch.ice.pairs import PairState
from punch.ice.reach import may_pair
from punch.identity import RandomBytes
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import CandidateType
from punch.wire.stun import MessageClass, StunMessage

MAX_REMEMBERED = 2048
"""
How many checks of `OpeningChecks.check` are remembered, the newest ones, so that their answers are
recognized: as many as an attempt by spraying sends.
"""


class OpeningChecks:
    """
    The checks from sockets that are not those of candidates, and the addresses where the peer has answered.

    :param budget: what may be sent to addresses that have not answered.
    :param ready: returns whether checks can be sent: the peer's credentials are known, and the session has
        not ended.
    :param changed: called when the session may have something to do before its timer is due.
    """

    def __init__(
        self,
        local_candidates: LocalCandidates,
        remote_candidates: RemoteCandidates,
        checklist: CheckList,
        checker: CheckClient,
        budget: CallBudget,
        random: RandomBytes,
        *,
        ready: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._locals = local_candidates
        self._remotes = remote_candidates
        self._checklist = checklist
        self._checker = checker
        self._budget = budget
        self._random = random
        self._ready = ready
        self._changed = changed
        # The newest checks: where they were sent, and from which socket; and the IDs of those of each socket
        self._sent: dict[bytes, tuple[Address, Address]] = {}
        self._sent_from: dict[Address, set[bytes]] = {}
        # The sockets with a check that was answered
        self._answered: set[Address] = set()

    @property
    def bases(self) -> list[Address]:
        """The sockets of `add`."""
        return self._locals.openings

    def add(self, base: Address, mapped: Address | None = None) -> None:
        """
        Take checks that arrive at another socket, which is not signalled.

        :param mapped: its address as a reflector sees it, if that is known.
        """
        self._changed()
        self._locals.add_opening(base, mapped)

    def check(self, base: Address, remote: Address) -> Transmit | None:
        """
        Return a check from a socket of `add` that opens our NAT for `remote`; None if these two can't be
        paired, or no check can be sent now.

        Its answer validates nothing, since the peer checks the pair itself if this check arrives. But the
        answer shows that the peer's check is worth waiting for (`was_answered`).
        """
        if base not in self._locals or not self._ready() or not may_pair(base, remote):
            return None
        transaction_id = self._random(12)
        if len(self._sent) >= MAX_REMEMBERED:
            self._forget_check(next(iter(self._sent)))
        self._sent[transaction_id] = remote, base
        self._sent_from.setdefault(base, set()).add(transaction_id)
        data = self._checker.encode_check(transaction_id, self._locals.check_priority(base))
        return Transmit(data, remote, base)

    def owns(self, transaction_id: bytes) -> bool:
        """Whether an answer with this ID is expected here."""
        return transaction_id in self._sent

    def receive(self, answer: StunMessage, remote: Address, local: Address) -> None:
        """Process an answer to a check of `check`. One that is not authentic is ignored."""
        sent = self._sent.get(answer.transaction_id) == (remote, local)
        if sent and self._checker.is_authentic(answer) and answer.message_class is MessageClass.SUCCESS:
            self._forget_check(answer.transaction_id)
            self._answered.add(local)

    def forget(self, base: Address) -> None:
        """Forget the checks from this socket, and their answers: it is closed."""
        for transaction_id in list(self._sent_from.get(base, ())):
            self._forget_check(transaction_id)
        self._answered.discard(base)

    def _forget_check(self, transaction_id: bytes) -> None:
        _, base = self._sent.pop(transaction_id)
        sent = self._sent_from[base]
        sent.discard(transaction_id)
        if not sent:
            del self._sent_from[base]

    @property
    def check_size(self) -> int:
        """
        How many bytes the check of `check` has.

        :raise RuntimeError: the peer's credentials are not known.
        """
        return len(self._checker.encode_check(bytes(12), 0))

    def has_received_check(self, bases: Collection[Address]) -> bool:
        """Whether an authenticated check has arrived at one of these sockets."""
        return any(pair.received_check is not None and pair.base in bases for pair in self._checklist)

    def was_answered(self, bases: Collection[Address]) -> bool:
        """Whether the peer has answered a check of `check` from one of these sockets."""
        return not self._answered.isdisjoint(bases)

    @property
    def proven_addresses(self) -> set[Address]:
        """
        The addresses at which the peer has answered checks of ours, directly or through our relay, but not
        those of relays: others use them as well. Our own IP addresses are not among them either, nor those at
        which reflectors see us. A peer that works together with a relay seems to answer anywhere: it could
        aim at our router, or, with the router's help, at our neighbours.
        """
        ours = {base.host for base in self._locals} | self._locals.reflexive_hosts
        excluded = ours | self._locals.relay_hosts | self._remotes.relay_hosts
        return {
            pair.remote.address
            for pair in self._checklist
            if pair.valid
            and pair.remote.type is not CandidateType.RELAY
            and pair.remote.address.host not in excluded
        }

    @property
    def proven_hosts(self) -> set[str]:
        """The IP addresses of `proven_addresses`."""
        return {address.host for address in self.proven_addresses}

    def prove(self, host: str) -> bool:
        """
        Check the peer's relayed candidates from our sockets at this local IP address, so that the peer sees
        at which address we receive; returns False if one has answered.
        """
        self._budget.prove()
        pairs = [
            pair
            for pair in self._checklist
            if pair.local.type is not CandidateType.RELAY
            and pair.base.host == host
            and pair.remote.type is CandidateType.RELAY
            and not pair.revoked
        ]
        if any(pair.valid for pair in pairs):
            return False
        for pair in pairs:
            if pair.state is not PairState.IN_PROGRESS:
                self._changed()
                self._checklist.trigger(pair)
        return bool(pairs)

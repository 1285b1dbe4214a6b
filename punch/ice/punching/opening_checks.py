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
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import CandidateType


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
        *,
        ready: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._locals = local_candidates
        self._remotes = remote_candidates
        self._checklist = checklist
        self._checker = checker
        self._budget = budget
        self._ready = ready
        self._changed = changed

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
        """
        if base not in self._locals or not self._ready() or not may_pair(base, remote):
            return None
        return self._checker.opening(base, remote)

    @property
    def check_size(self) -> int:
        """
        How many bytes the check of `check` has.

        :raise RuntimeError: the peer's credentials are not known.
        """
        return self._checker.opening_size

    def has_received_check(self, bases: Collection[Address]) -> bool:
        """Whether an authenticated check has arrived at one of these sockets."""
        return any(pair.received_check is not None and pair.base in bases for pair in self._checklist)

    def was_answered(self, bases: Collection[Address]) -> bool:
        """Whether the peer has answered a check of `check` from one of these sockets."""
        return any(map(self._checker.was_answered, bases))

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

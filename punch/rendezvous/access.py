"""Which peers and networks the service refuses: the deny list, and who may register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from punch.identity import PeerID
from punch.rendezvous.deny import DenyList
from punch.rendezvous.membership import Membership, MemberStoreError
from punch.rendezvous.operator_log import OperatorLog
from punch.wire.control import Error, ErrorCode, Register, Revoke


class AccessControl:
    """
    Says whom the service refuses, and logs it.

    :param membership: who may register; None: anyone.
    :param wall: Unix seconds, by which invitations expire.
    :ivar deny: the deny list.
    """

    def __init__(
        self,
        deny: DenyList,
        membership: Membership | None,
        *,
        log: OperatorLog,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.deny = deny
        self._membership = membership
        self._log = log
        self._monotonic = monotonic
        self._wall = wall

    def denied(self, peer: PeerID, address: str) -> Error | None:
        """The error for a peer that the deny list refuses; None for other peers."""
        if self.deny.has_peer(peer):
            text = "The operator of this rendezvous refuses this peer ID."
        elif self.deny.has_host(address):
            text = f"The operator of this rendezvous refuses the network of {address}."
        else:
            return None
        self._log.denied(address, peer)
        return Error(ErrorCode.DENIED, text)

    def not_admitted(self, peer: PeerID, address: str, request: Register) -> Error | None:
        """The error for a peer that may not register; None for other peers."""
        if self._membership is None:
            return None
        error = self._membership.admit(
            peer, request.name, request.invitation, address, self._monotonic(), self._wall()
        )
        if error is not None:
            self._refused(error, "invitations", peer, address)
        return error

    def revoke(self, peer: PeerID, address: str, request: Revoke) -> Error:
        """Refuse a peer for ever whose owner asks for that. Return what it is told."""
        if self._membership is None:
            return Error(ErrorCode.FORBIDDEN, "This rendezvous keeps no revocations.")
        error = self._membership.revoke(peer, request, address, self._monotonic(), self._wall())
        if error.code in (ErrorCode.RATE, ErrorCode.TOO_MANY):
            self._refused(error, "revocations", peer, address)
        return error

    def _refused(self, error: Error, limit: str, peer: PeerID, address: str) -> None:
        problem = None if self._membership is None else self._membership.problem
        if problem is not None:
            self._log.members_unusable(problem)
        elif error.code is ErrorCode.RATE:
            self._log.limit_hit(address, limit, peer)
        else:
            self._log.denied(address, peer)

    def no_longer_admitted(self, peers: Iterable[PeerID]) -> dict[PeerID, Error]:
        """Those of the registered peers that may not stay. The deny list is not asked."""
        if self._membership is not None:
            # If the members can't be read now, nobody is sent away for that.
            with suppress(MemberStoreError):
                return self._membership.refused(peers)
        return {}

    @property
    def revoked(self) -> frozenset[PeerID]:
        """The peers that are refused for ever, beside those of the deny list."""
        if self._membership is not None:
            with suppress(MemberStoreError):
                return frozenset(self._membership.revoked)
        return frozenset()

"""Which peers and networks the service refuses: the deny list, and who may register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from punch.identity import PeerID
from punch.net.fairness import SourceCache
from punch.net.sources import Shares, source_of
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import Membership, MemberStoreError
from punch.rendezvous.operator_log import OperatorLog
from punch.wire.control import Error, ErrorCode, Register, Revoke
from punch.wire.invitation import AdmissionRefusal
from punch.wire.voucher import Voucher

_RETURNS = 3
"""How often a peer may return within `_RETURN_TIME` before it is told `VERSION`."""
_RETURN_TIME = 600.0
"""Seconds."""
MAX_RETURNING = 4096
"""Refused peers whose returns are counted…"""
_SHARED_BY = 16
"""…and one address has at most one in so many of these places."""


class ReturningPeers:
    """
    Refused peers that return all the same. Pure.

    Peers of releases that don't know the code `DENIED` return for ever. They stop after `VERSION`, and say
    that they should be updated; others go by the refusal beside the code. The `most` places are shared
    between the sources of the peers.
    """

    def __init__(self, most: int = MAX_RETURNING) -> None:
        share = max(1, most // _SHARED_BY)
        self._returns: SourceCache[PeerID, tuple[float, int]] = SourceCache(most, Shares.growing(share))

    def error_for(self, peer: PeerID, address: str, error: Error, now: float) -> Error:
        """
        The error for a peer that is refused now; its code is `VERSION` if the peer has returned often.

        :param address: where the peer is.
        """
        if error.refusal is None:
            return error
        since, times = self._returns.get(peer) or (now, 0)
        if now - since > _RETURN_TIME:
            since, times = now, 0
        self._returns.put(source_of(address), peer, (since, times + 1))
        return error if times < _RETURNS else replace(error, code=ErrorCode.VERSION)


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
        self._returning = ReturningPeers()

    def denies(self, peer: PeerID, address: str) -> bool:
        """Whether the deny list refuses a peer or its address. Nothing is logged."""
        return self.deny.has_peer(peer) or self.deny.has_host(address)

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

    def admit(
        self, peer: PeerID, address: str, request: Register, binding: Callable[[], bytes]
    ) -> PeerID | Error:
        """
        A peer wants to register.

        :param binding: returns the channel binding of its connection (`punch.wire.voucher`).
        :return: who answers for it, itself or a member who vouches for it; or why it may not register.
        """
        if self._membership is None:
            return peer
        now = self._monotonic()
        error = self._membership.admit(peer, request.name, request.invitation, address, now, self._wall())
        if error is None:
            return peer
        limit = "invitations"
        if request.voucher and error.refusal in (AdmissionRefusal.NOT_INVITED, AdmissionRefusal.NOT_LISTED):
            voucher = Voucher.decode(request.voucher)
            if not voucher.is_for(peer, binding()):
                # Nothing is said about a member who has not signed it
                error = Error(ErrorCode.FORBIDDEN, "The signature of the voucher is wrong.")
            else:
                denied = self.denied(voucher.member, address)
                if denied is not None:
                    return denied
                error = self._membership.vouched(voucher.member, now)
                if error is None:
                    return voucher.member
            limit = "vouchers"
        self._refused(error, limit, peer, address)
        return self._returning.error_for(peer, address, error, now)

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

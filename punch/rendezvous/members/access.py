"""Which peers and networks the service refuses: the deny list, and who may register."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from punch.identity import PeerID
from punch.net.fairness import SourceCache
from punch.net.sources import Shares, source_of
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.operator_log import OperatorLog
from punch.wire.control import Error, ErrorCode, Register, Revoke
from punch.wire.invitation import AdmissionRefusal, Voucher

_RETURNS = 3
"""How often a peer may return within `_RETURN_TIME` before it is told `VERSION`."""
_RETURN_TIME = 600.0
"""Seconds."""
MAX_RETURNING = 4096
"""Refused peers whose returns are counted…"""
_SHARED_BY = 16
"""…and one address has at most one in so many of these places."""
MAX_GUESTS = 16
"""Keys for which one member vouches and that are registered at the same time."""
_FOR_MEMBERS = (AdmissionRefusal.NOT_INVITED, AdmissionRefusal.NOT_LISTED)
"""Refusals that a voucher helps against."""
_LIMITED = (ErrorCode.RATE, ErrorCode.TOO_MANY)
"""The codes of refusals by a limit."""
_FORGED = Error(ErrorCode.FORBIDDEN, "The signature of the voucher is wrong.")


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
        error = self._denial(peer, address)
        if error is not None:
            self._log.denied(address, peer)
        return error

    def _denial(self, peer: PeerID, address: str) -> Error | None:
        if self.deny.has_peer(peer):
            text = "The operator of this rendezvous refuses this peer ID."
            return Error(ErrorCode.DENIED, text, refusal=AdmissionRefusal.ID_DENIED)
        if self.deny.has_host(address):
            text = f"The operator of this rendezvous refuses the network of {address}."
            return Error(ErrorCode.DENIED, text)
        return None

    def admit(
        self,
        peer: PeerID,
        address: str,
        request: Register,
        binding: Callable[[], bytes],
        guests: Callable[[PeerID], int],
    ) -> PeerID | Error:
        """
        A peer wants to register.

        :param binding: returns the channel binding of its connection (`punch.wire.invitation`).
        :param guests: returns for how many peers that are registered a member vouches.
        :return: who answers for it, itself or a member who vouches for it; or why it may not register.
        """
        membership = self._membership
        if membership is None:
            return peer
        now = self._monotonic()
        error = membership.admit(peer, request.name, request.invitation, address, now, self._wall())
        limit, shown = "invitations", peer
        refusal = None if error is None else error.refusal
        if request.voucher and (refusal in _FOR_MEMBERS if error else not membership.may_relay(peer)):
            voucher = Voucher.decode(request.voucher)
            signed = voucher.is_for(peer, binding())
            # Nothing is said about a member who has not signed it
            problem = self._not_vouched(voucher.member, address, guests, now) if signed else _FORGED
            if problem is None:
                return voucher.member
            limit, shown = "vouchers", voucher.member if signed else peer
            if error is None and signed:
                # Without relays it may register all the same.
                if problem.code in _LIMITED:
                    self._refused(problem, limit, shown, address)
                return peer
            error = problem
        if error is None:
            return peer
        self._refused(error, limit, shown, address)
        return self._returning.error_for(peer, address, error, now)

    def _not_vouched(
        self, member: PeerID, address: str, guests: Callable[[PeerID], int], now: float
    ) -> Error | None:
        """Why it does not help that a member has vouched for a peer; None if it does."""
        assert self._membership is not None
        problem = self._denial(member, address) or self._membership.vouched(member, now)
        if problem is None and guests(member) >= MAX_GUESTS:
            return Error(ErrorCode.TOO_MANY, "Too many of your codes and transfers are under way here.")
        return problem

    def revoke(self, peer: PeerID, address: str, request: Revoke) -> Error:
        """Refuse a peer for ever whose owner asks for that. Return what it is told."""
        if self._membership is None:
            return Error(ErrorCode.FORBIDDEN, "This rendezvous keeps no revocations.")
        error = self._membership.revoke(peer, request, address, self._monotonic(), self._wall())
        if error.code in _LIMITED:
            self._refused(error, "revocations", peer, address)
        return error

    def _refused(self, error: Error, limit: str, peer: PeerID, address: str) -> None:
        problem = None if self._membership is None else self._membership.problem
        if problem is not None:
            self._log.members_unusable(problem)
        elif error.code in _LIMITED:
            self._log.limit_hit(address, limit, peer)
        else:
            self._log.denied(address, peer)

    def no_longer_admitted(
        self, peers: Collection[PeerID], *, list_changed: bool = True
    ) -> dict[PeerID, Error]:
        """
        Those of the registered peers that may not stay. The deny list is not asked.

        :param list_changed: as in `Membership.refused`.
        :raise MemberStoreError: the members can't be read.
        """
        if self._membership is None:
            return {}
        return self._membership.refused(peers, list_changed=list_changed)

    @property
    def revoked(self) -> Collection[PeerID]:
        """
        The peers that are revoked. The deny list may have others.

        :raise MemberStoreError: the members can't be read.
        """
        return () if self._membership is None else self._membership.revoked

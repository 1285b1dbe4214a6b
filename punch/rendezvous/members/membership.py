"""
Who may use the rendezvous: anyone, invited peers, or the peers of a list. Pure; what is kept is in a
`MemberStore`.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Protocol

from punch.identity import PeerID
from punch.net.rate_limits import SourceBuckets
from punch.net.sources import source_of
from punch.wire.control import Error, ErrorCode, Revoke
from punch.wire.invitation import AdmissionRefusal, Invitation, InvitationError

INVITATION_RATE = 0.5
"""Wrong invitations a second from one address that are answered with what is wrong, in the long run…"""
INVITATION_BURST = 60
"""…and at once. Right ones are not counted, so that nobody's guesses keep a neighbour out."""
REVOCATION_RATE = 1 / 600
"""Revocations a second that owners of IDs at one address may make for long, since IDs are free…"""
REVOCATION_BURST = 5
"""…and at once."""
MAX_REVOCATIONS = 100_000
VOUCHER_RATE = 1 / 30
"""Vouchers a second that one member may use for long…"""
VOUCHER_BURST = 20
"""…and at once."""
_SOURCES = 10_000
_FEW = 1000
"""Up to so many peers are looked up one by one; for more, the list of all that are revoked is read."""

_TEXTS = {
    AdmissionRefusal.NOT_INVITED: "This rendezvous is for invited peers.",
    AdmissionRefusal.INVITATION_USED: "This invitation was used already.",
    AdmissionRefusal.INVITATION_EXPIRED: "This invitation has expired.",
    AdmissionRefusal.INVITATION_UNKNOWN: "This invitation is not known here.",
    AdmissionRefusal.INVITATION_ELSEWHERE: "This invitation is for another rendezvous.",
    AdmissionRefusal.NOT_LISTED: "This rendezvous is for the peers on a list of its operator.",
    AdmissionRefusal.REVOKED: "The operator has revoked the admission of this peer ID.",
    AdmissionRefusal.ID_REVOKED: "The owner of this peer ID has revoked it.",
}


class AdmitPolicy(str, Enum):
    """Who may register."""

    OPEN = "open"
    """Anyone who can make a key."""
    INVITED = "invited"
    """Peers with an invitation, and those of the list if there is one."""
    LISTED = "listed"
    """The peers of the list."""


class Redemption(Enum):
    """What has come of redeeming an invitation."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"


class MemberStoreError(Exception):
    """Members can't be read or written; `str()` is a sentence for the operator."""


class MemberStore(Protocol):
    """
    Who has redeemed which invitation, and who is revoked. All methods may raise `MemberStoreError`.
    """

    def is_member(self, peer: PeerID) -> bool:
        """Whether a peer has redeemed an invitation."""

    def redeem(self, invitation: Invitation, peer: PeerID, name: str, wall: float) -> Redemption:
        """
        Make a peer, which calls itself `name`, a member by an invitation. When this returns `ACCEPTED`, it is
        kept, whatever happens to the process.

        The secret is compared in constant time, and only somebody who has it learns more than `UNKNOWN`.
        """

    def revocation(self, peer: PeerID) -> AdmissionRefusal | None:
        """`REVOKED` or `ID_REVOKED` if that has happened to a peer."""

    def revoked(self) -> Collection[PeerID]:
        """All peers that are revoked, without those whose revocation the operator has taken back."""

    def count_revoked(self) -> int:
        """The number of peers that are revoked."""

    def revoke(self, peer: PeerID, refusal: AdmissionRefusal, wall: float, statement: bytes = b"") -> None:
        """Refuse a peer from now on; `statement` is what its owner has signed."""

    def relay_quota(self, peer: PeerID) -> int | None:
        """The bytes a day of a member's own quota; None if it has none of its own."""


_REDEMPTIONS = {
    Redemption.UNKNOWN: AdmissionRefusal.INVITATION_UNKNOWN,
    Redemption.USED: AdmissionRefusal.INVITATION_USED,
    Redemption.EXPIRED: AdmissionRefusal.INVITATION_EXPIRED,
}


class Membership:
    """
    Decides whether a peer that has proved its key may register.

    :ivar listed: the peers of the list.
    :ivar wrong_invitations: the rate of wrong invitations that are told what is wrong.
    :ivar revocations: the rate of revocations by owners of IDs.
    :ivar vouchers: the rate of vouchers of each member.
    :ivar problem: a sentence for the operator if the last call could not use the store; None if it could.
    """

    def __init__(
        self,
        policy: AdmitPolicy,
        store: MemberStore,
        *,
        service: bytes,
        listed: frozenset[PeerID] = frozenset(),
        contact: str = "",
        relay_for_invited: bool = False,
        most_revocations: int = MAX_REVOCATIONS,
    ) -> None:
        """
        :param service: what invitations name this rendezvous by (`punch.wire.invitation.service_tag`).
        :param relay_for_invited: whether the relay is only for members and for peers of the list, where
            others may register.
        :param contact: whom to ask for an invitation, as the operator says it.
        :param most_revocations: after so many, those of owners are refused.
        """
        self.listed = listed
        self.problem: str | None = None
        self._policy = policy
        self._store = store
        self._service = service
        self._contact = contact
        self._relay_for_invited = relay_for_invited
        self._most_revocations = most_revocations
        self.revocations = SourceBuckets(REVOCATION_RATE, REVOCATION_BURST, _SOURCES)
        self.vouchers = SourceBuckets(VOUCHER_RATE, VOUCHER_BURST, _SOURCES)
        self.wrong_invitations = SourceBuckets(INVITATION_RATE, INVITATION_BURST, _SOURCES)

    def admit(
        self, peer: PeerID, name: str, invitation: str, address: str, now: float, wall: float
    ) -> Error | None:
        """
        A peer wants to register.

        :param invitation: the token that it has sent; empty: none.
        :param address: its IP address, by which tokens are counted.
        :param now: monotonic seconds.
        :param wall: Unix seconds, by which invitations expire.
        :return: why it may not; None if it may.
        """
        self.problem = None
        try:
            return self._admit(peer, name, invitation, address, now, wall)
        except MemberStoreError as problem:
            return self._unusable(problem)

    def _admit(
        self, peer: PeerID, name: str, invitation: str, address: str, now: float, wall: float
    ) -> Error | None:
        """:raise MemberStoreError: the members can't be read or written."""
        refusal = self._store.revocation(peer)
        wants_relay = self._relay_for_invited and invitation and not self._is_known(peer)
        if refusal is None and (wants_relay or not self._admitted(peer)):
            if self._policy is AdmitPolicy.LISTED:
                refusal = AdmissionRefusal.NOT_LISTED
            elif not invitation:
                refusal = AdmissionRefusal.NOT_INVITED
            else:
                return self._redeem(peer, name, invitation, address, now, wall)
        return None if refusal is None else self._error(refusal)

    def vouched(self, member: PeerID, now: float) -> Error | None:
        """
        A peer that may not register itself, or not use the relay, has shown a voucher that this member has
        signed for it.

        :return: why the voucher does not help; None if it does.
        """
        self.problem = None
        try:
            refusal = self._store.revocation(member)
            if refusal is None and not (self._admitted(member) and self._relays_for(member)):
                listed = self._policy is AdmitPolicy.LISTED
                refusal = AdmissionRefusal.NOT_LISTED if listed else AdmissionRefusal.NOT_INVITED
        except MemberStoreError as problem:
            return self._unusable(problem)
        if refusal is not None:
            return self._error(refusal)
        if not self.vouchers.allow((member.key,), now):
            return Error(ErrorCode.RATE, "You have vouched for too many keys; try again in some minutes.")
        return None

    def refused(self, peers: Collection[PeerID], *, list_changed: bool = True) -> dict[PeerID, Error]:
        """
        Those of these registered peers that may not stay, after the list or the store has changed.

        :param list_changed: whether the list may have changed. If only the store has, a member that is not
            revoked has lost its place to others, who have redeemed its invitation earlier at other processes.
        :raise MemberStoreError: the members can't be read.
        """
        revoked = self._store.revoked() if len(peers) > _FEW else None
        if self._policy is AdmitPolicy.LISTED:
            other = AdmissionRefusal.NOT_LISTED
        else:
            other = AdmissionRefusal.REVOKED if list_changed else AdmissionRefusal.INVITATION_USED
        errors = {}
        for peer in peers:
            refusal = self._store.revocation(peer) if revoked is None or peer in revoked else None
            if refusal is not None:
                errors[peer] = self._error(refusal)
            elif not self._admitted(peer):
                errors[peer] = self._error(other)
        return errors

    def revoke(self, peer: PeerID, request: Revoke, address: str, now: float, wall: float) -> Error:
        """
        Refuse a peer for ever whose owner asks for that.

        :return: what the peer is told.
        """
        self.problem = None
        if not request.is_by(peer):
            return Error(ErrorCode.FORBIDDEN, "The signature of the revocation is wrong.")
        try:
            allowed = self.revocations.allow(source_of(address), now)
            if not allowed or self._store.count_revoked() >= self._most_revocations:
                return Error(ErrorCode.RATE, "There were too many revocations; try again later.")
            self._store.revoke(peer, AdmissionRefusal.ID_REVOKED, wall, request.signature)
        except MemberStoreError as problem:
            return self._unusable(problem)
        return self._error(AdmissionRefusal.ID_REVOKED)

    @property
    def revoked(self) -> Collection[PeerID]:
        """
        The peers that are revoked.

        :raise MemberStoreError: the members can't be read.
        """
        return self._store.revoked()

    def may_relay(self, peer: PeerID) -> bool:
        """Whether a registered peer may use the relay."""
        try:
            return self._relays_for(peer)
        except MemberStoreError:
            return False

    def relay_quota(self, peer: PeerID) -> int | None:
        """The bytes a day that the relay carries for a peer by its invitation; None: no limit of its own."""
        try:
            return self._store.relay_quota(peer)
        except MemberStoreError:
            return None

    def _relays_for(self, peer: PeerID) -> bool:
        return not self._relay_for_invited or self._is_known(peer)

    def _admitted(self, peer: PeerID) -> bool:
        if self._policy is AdmitPolicy.OPEN:
            return True
        return peer in self.listed if self._policy is AdmitPolicy.LISTED else self._is_known(peer)

    def _is_known(self, peer: PeerID) -> bool:
        return peer in self.listed or self._store.is_member(peer)

    def _redeem(
        self, peer: PeerID, name: str, token: str, address: str, now: float, wall: float
    ) -> Error | None:
        try:
            invitation = Invitation.parse(token)
        except InvitationError as problem:
            return self._error(AdmissionRefusal.INVITATION_UNKNOWN, str(problem))
        if invitation.service != self._service:
            return self._error(AdmissionRefusal.INVITATION_ELSEWHERE)
        outcome = self._store.redeem(invitation, peer, name, wall)
        if outcome is Redemption.ACCEPTED:
            return None
        if not self.wrong_invitations.allow(source_of(address), now):
            return Error(ErrorCode.RATE, "Too many wrong invitations came from your address.")
        return self._error(_REDEMPTIONS[outcome])

    def _unusable(self, problem: MemberStoreError) -> Error:
        # The peer tries again later: the operator has to make room on the disk, for example.
        self.problem = str(problem)
        return Error(ErrorCode.TOO_MANY, "The list of members can't be used now.")

    def _error(self, refusal: AdmissionRefusal, text: str = "") -> Error:
        return Error(ErrorCode.DENIED, text or _TEXTS[refusal], refusal=refusal, contact=self._contact)

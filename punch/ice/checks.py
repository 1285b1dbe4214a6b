"""
Connectivity checks (RFC 8445, section 7): credentials, messages, the answers to a peer's checks, and which of
them may be sent to addresses that have not answered.

The client side, which sends our checks, is `punch.ice.check_client`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum

from punch.ice.budget import MAX_ANSWERED, MAX_TRIGGERED_THROUGH_RELAY, Budget, PacketKind, Route
from punch.ice.candidates import LocalCandidates, RemoteCandidates, is_unlikely
from punch.ice.pairs import CandidatePair
from punch.identity import RandomBytes
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import CandidateType
from punch.wire.stun import (
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    encode,
    encode_padded,
    error,
    parse,
    success,
)

_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")


@dataclass(frozen=True)
class IceCredentials:
    """
    The short-term credentials of one ICE session (RFC 8445, section 5.3).

    :raise ValueError: the ufrag or the password does not have the form of RFC 8839, section 5.4.
    """

    ufrag: str
    password: str

    def __post_init__(self) -> None:
        if not _UFRAG.fullmatch(self.ufrag):
            raise ValueError("a ufrag is 4 to 256 letters, digits, + or /")
        if not _PASSWORD.fullmatch(self.password):
            raise ValueError("an ICE password is 22 to 256 letters, digits, + or /")

    @classmethod
    def generate(cls, random: RandomBytes) -> IceCredentials:
        """
        Make new credentials: 48 random bits of ufrag (the RFC demands 24) and 144 of password (128).
        """
        return cls(b64encode(random(6)).decode(), b64encode(random(18)).decode())

    @property
    def key(self) -> bytes:
        """The MESSAGE-INTEGRITY key of messages to the owner (RFC 8489, section 9.1.1)."""
        return self.password.encode()

    def __repr__(self) -> str:
        return f"IceCredentials(ufrag={self.ufrag!r}, password=…)"


MAX_EARLY = 32
"""
How many checks are kept until the peer's credentials are known, and how many of full size until the peer has
answered a check: one for each pair of addresses.
"""


class IceRole(Enum):
    """Which side nominates (RFC 8445, section 6.1.1)."""

    CONTROLLING = Attribute.ICE_CONTROLLING
    CONTROLLED = Attribute.ICE_CONTROLLED

    @property
    def other(self) -> IceRole:
        """The role of the other side."""
        return IceRole.CONTROLLED if self is IceRole.CONTROLLING else IceRole.CONTROLLING


@dataclass(frozen=True)
class ReceivedCheck:
    """
    The newest check that one side has received on a valid pair. Its own checks on this pair tell the other
    side about it.

    :ivar source: the address that the check came from.
    """

    transaction_id: bytes
    source: Address


@dataclass(frozen=True)
class Check:
    """An authenticated check from the peer."""

    transaction_id: bytes
    remote: Address
    local: Address
    username: str
    priority: int
    nomination: int | None
    """None: the check does not nominate. 0: regular nomination. Otherwise: the value of NOMINATION."""
    received: ReceivedCheck | None = None
    """The check of ours that the peer has received."""


def build_check(
    transaction_id: bytes,
    ours: IceCredentials,
    theirs: IceCredentials,
    role: IceRole,
    tiebreaker: int,
    priority: int,
    nomination: int | None = None,
    *,
    received: ReceivedCheck | None = None,
    size: int = 0,
) -> bytes:
    """
    Encode a Binding request to the peer (RFC 8445, section 7.2.2).

    :param nomination: nominate the pair; a value above 0 is also sent as the NOMINATION attribute.
    :param received: the newest check that came on the same pair.
    :param size: the least number of bytes of the request; PADDING (RFC 5780, section 7.6) is added if needed.
    """
    attributes: list[tuple[int, object]] = [
        (Attribute.USERNAME, f"{theirs.ufrag}:{ours.ufrag}"),
        (Attribute.PRIORITY, priority),
        (role.value, tiebreaker),
    ]
    if nomination is not None:
        attributes.append((Attribute.USE_CANDIDATE, True))
        if nomination > 0:
            attributes.append((Attribute.NOMINATION, nomination))
    if received is not None:
        attributes.append((Attribute.RECEIVED_CHECK, received.transaction_id))
        attributes.append((Attribute.XOR_MAPPED_ADDRESS, received.source))
    request = StunMessage(Method.BINDING, MessageClass.REQUEST, transaction_id, tuple(attributes))
    return encode_padded(request, theirs.key, size)


def _read_check(request: StunMessage, remote: Address, local: Address) -> Check:
    """Decode an authenticated request."""
    nomination: int | None = None
    if Attribute.USE_CANDIDATE in request:
        nomination = request.get(Attribute.NOMINATION) or 0
    username, priority = request.get(Attribute.USERNAME) or "", request.get(Attribute.PRIORITY) or 0
    transaction_id, source = request.get(Attribute.RECEIVED_CHECK), request.get(Attribute.XOR_MAPPED_ADDRESS)
    received = ReceivedCheck(transaction_id, source) if transaction_id and source else None
    return Check(request.transaction_id, remote, local, username, priority, nomination, received)


class CallBudget:
    """
    The budget of the peer, as one ICE session uses it.

    :param budget: the budget of the peer; None: no limit.
    :param familiar: IP addresses of the peer at which it answered before.
    """

    def __init__(
        self,
        budget: Budget | None,
        local_candidates: LocalCandidates,
        remote_candidates: RemoteCandidates,
        familiar: Container[str] = (),
    ) -> None:
        self._budget = budget
        self._locals = local_candidates
        self._remotes = remote_candidates
        self._familiar = familiar
        # How many further checks may go to an address from which an authenticated check came through a relay
        self._heard: dict[Address, int] = {}
        self._proving = False

    def prove(self) -> None:
        """
        Allow a few more checks to relayed candidates from our own sockets from now on. The link works over a
        relay, and the peer must see where we receive before a direct path is looked for.
        """
        self._proving = True

    def may_check(self, pair: CandidatePair, request: bytes, now: float) -> bool:
        """Whether a check on this pair may be sent now."""
        if pair.received_check is not None:
            kind = PacketKind.TRIGGERED
        elif pair.remote.type is CandidateType.RELAY:
            twice = pair.local.type is CandidateType.RELAY
            kind = PacketKind.RELAYED_TWICE if twice else PacketKind.RELAYED
        else:
            kind = PacketKind.UNLIKELY if self.is_unlikely(pair) else PacketKind.DIRECT
        remote = pair.remote.address
        if self._may_send(remote, pair.base, request, kind, now):
            return True
        if self._proving and kind is PacketKind.RELAYED:
            return self._may_send(remote, pair.base, request, PacketKind.PROOF, now)
        left = self._heard.get(remote, 0)
        if not left or kind is not PacketKind.DIRECT:
            return False
        self._heard[remote] = left - 1
        return self._may_send(remote, pair.base, request, PacketKind.TRIGGERED, now)

    def may_answer(self, remote: Address, local: Address, answer: bytes, now: float) -> bool:
        """Whether an authenticated check that came from `remote` to `local` may be answered."""
        if self._route(remote, local).relayed is not None and len(self._heard) < MAX_ANSWERED:
            self._heard.setdefault(remote, MAX_TRIGGERED_THROUGH_RELAY)
        return self._may_send(remote, local, answer, PacketKind.ANSWER, now)

    def may_be_large(self, remote: Address, local: Address, now: float) -> bool:
        """
        Whether full-size checks from `remote` to `local` may be answered, because a check of ours was
        answered.
        """
        return self._budget is None or self._budget.is_validated(self._route(remote, local), now)

    def answered(self, remote: Address, local: Address, now: float) -> None:
        """A check that was sent from `local` to `remote` was answered."""
        if self._budget is not None:
            to_relay = remote.host in self._locals.relay_hosts or remote.host in self._remotes.relay_hosts
            self._budget.answered(self._route(remote, local), now, to_relay=to_relay)

    def is_unlikely(self, pair: CandidatePair) -> bool:
        """Whether this pair is checked after all others, because it probably fails."""
        return is_unlikely(pair.base, pair.remote, self._locals, self._remotes)

    def _may_send(self, remote: Address, local: Address, data: bytes, kind: PacketKind, now: float) -> bool:
        if self._budget is None:
            return True
        candidate = self._remotes.get(remote)
        relayed = candidate is not None and candidate.type is CandidateType.RELAY
        route = self._route(remote, local)
        opening = self._locals.is_opening(local)
        familiar = remote.host in self._familiar
        validated = self._budget.is_validated(route, now)
        allowed = self._budget.allows(
            route, len(data), kind, now, relayed=relayed, opening=opening, familiar=familiar
        )
        if allowed and not validated:
            self._budget.sent.add(local, remote, len(data))
        return allowed

    def _route(self, remote: Address, local: Address) -> Route:
        base = self._locals.base(local)
        direct = base is not None and base.type is not CandidateType.RELAY
        return Route(remote, None if direct else local)


UNAUTHENTICATED = frozenset((Attribute.USERNAME,))
"""The attributes that are decoded before a request is authenticated."""


class CheckServer:
    """
    The server side of connectivity checks (RFC 8445, section 7.3).

    Checks that arrive before the peer's credentials are known are answered, and kept until `set_remote`.

    :param ours: our credentials.
    :param budget: what may be sent to addresses that have not answered a check.
    """

    def __init__(self, ours: IceCredentials, budget: CallBudget) -> None:
        self._ours = ours
        self._theirs: IceCredentials | None = None
        self._budget = budget
        self._early: dict[tuple[Address, Address], Check] = {}
        self._held: dict[tuple[Address, Address], tuple[StunMessage, int]] = {}
        self._output: list[Transmit] = []

    def set_remote(self, theirs: IceCredentials) -> list[Check]:
        """Set the peer's credentials; returns the checks that arrived from it before."""
        self._theirs = theirs
        early, self._early = self._early, {}
        return [check for check in early.values() if check.username.partition(":")[2] == theirs.ufrag]

    def is_check(self, data: bytes) -> bool:
        """Whether a datagram is a STUN request for this ICE session. It is not authenticated."""
        try:
            request = parse(data, most=MAX_ATTRIBUTES, only=UNAUTHENTICATED)
        except STUNError:
            return False
        return request.message_class is MessageClass.REQUEST and self.is_for_us(request)

    def is_for_us(self, request: StunMessage) -> bool:
        """Whether a request has the USERNAME of this ICE session; one that does not gets no answer."""
        username = request.get(Attribute.USERNAME)
        if not isinstance(username, str) or not request.has_fingerprint:
            return False
        first, colon, second = username.partition(":")
        theirs = self._theirs
        return first == self._ours.ufrag and colon == ":" and (theirs is None or second == theirs.ufrag)

    def receive(
        self,
        request: StunMessage,
        size: int,
        remote: Address,
        local: Address,
        role: IceRole,
        tiebreaker: int,
        now: float,
    ) -> tuple[Check | None, IceRole]:
        """
        Authenticate and answer a request that `is_for_us`, and repair a role conflict.

        An answer to a check of full size is as large as the request, so that it tests both directions. The
        newest one from an address that has not answered a check is kept for `take_held`.

        :param request: the request, of which only the attributes of `UNAUTHENTICATED` need be decoded.
        :param size: the bytes of the request.
        :param role: our role.
        :return: the check, or None if the request was refused or is kept until `set_remote`; and the role to
            take.
        """
        padded = Attribute.PADDING in request
        if padded and not self._budget.may_be_large(remote, local, now):
            addresses = local, remote
            if addresses in self._held or len(self._held) < MAX_EARLY:
                self._held[addresses] = request, size
            return None, role
        refusal = _refusal(request, self._ours)
        if refusal is not None:
            if len(refusal) <= size:
                self._answer(refusal, remote, local, now)
            return None, role
        request = request.decoded()
        if request.invalid():
            return None, role
        theirs = request.get(role.value)
        if theirs is not None:
            # RFC 8445, section 7.3.1.1: the side with the larger tiebreaker is controlling
            wins = tiebreaker >= theirs
            if wins == (role is IceRole.CONTROLLING):
                self._answer(encode(error(request, 487, "Role Conflict"), self._ours.key), remote, local, now)
                return None, role
            role = role.other
        answer = success(request, (Attribute.XOR_MAPPED_ADDRESS, remote))
        self._answer(encode_padded(answer, self._ours.key, size if padded else 0), remote, local, now)
        check = _read_check(request, remote, local)
        if self._theirs is not None:
            return check, role
        addresses = local, remote
        if addresses in self._early or len(self._early) < MAX_EARLY:
            self._early[addresses] = check
        return None, role

    def take_held(self, local: Address, remote: Address) -> tuple[StunMessage, int] | None:
        """
        Remove and return a check of full size that `receive` has kept, and its size, to be given to `receive`
        again: when `remote` answers our check, the peer may have sent its last check of full size already.
        """
        return self._held.pop((local, remote), None)

    def datagrams_to_send(self) -> list[Transmit]:
        """The answers to send now."""
        output, self._output = self._output, []
        return output

    def _answer(self, answer: bytes, remote: Address, local: Address, now: float) -> None:
        if self._budget.may_answer(remote, local, answer, now):
            self._output.append(Transmit(answer, remote, local))


def _refusal(request: StunMessage, ours: IceCredentials) -> bytes | None:
    """
    The error response to a request, or None if the request is valid (RFC 8489, sections 9.1.3 and 6.3.1).

    A peer that fails to authenticate gets an error without a signature. It gets an error at all only because
    it knows our ufrag, which is a secret of the two peers.
    """
    if not request.has_integrity():
        return encode(error(request, 400, "Bad Request"))
    if not request.check_integrity(ours.key):
        return encode(error(request, 401, "Unauthenticated"))
    unknown = request.unknown_required()
    if unknown:
        answer = error(request, 420, "Unknown Attribute", (Attribute.UNKNOWN_ATTRIBUTES, unknown))
        return encode(answer, ours.key)
    if Attribute.PRIORITY not in request:
        return encode(error(request, 400, "Bad Request"), ours.key)
    return None


def keepalive(transaction_id: bytes) -> bytes:
    """A Binding indication, which is not answered (RFC 8445, section 11)."""
    return encode(StunMessage(Method.BINDING, MessageClass.INDICATION, transaction_id))

"""Connectivity checks as messages: writing them, and judging those that arrive (RFC 8445, section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from punch.ice.credentials import IceCredentials
from punch.wire.address import Address
from punch.wire.stun import (
    MAX_ATTRIBUTES,
    Attribute,
    MessageClass,
    Method,
    STUNError,
    StunMessage,
    encode,
    encode_padded,
    parse,
)

MAX_EARLY = 32
"""Checks from different addresses that are remembered before the peer's credentials are known."""


class IceRole(Enum):
    """Who nominates (RFC 8445, section 6.1.1)."""

    CONTROLLING = Attribute.ICE_CONTROLLING
    CONTROLLED = Attribute.ICE_CONTROLLED

    @property
    def other(self) -> IceRole:
        """The role that the other side should have."""
        return IceRole.CONTROLLED if self is IceRole.CONTROLLING else IceRole.CONTROLLING


@dataclass(frozen=True)
class Check:
    """An authenticated check of the peer."""

    transaction_id: bytes
    remote: Address
    local: Address
    username: str
    priority: int
    nomination: int | None
    """None: it nominates nothing. 0: it nominates, in the regular way. Else the value of its nomination."""


def build_check(
    transaction_id: bytes,
    ours: IceCredentials,
    theirs: IceCredentials,
    role: IceRole,
    tiebreaker: int,
    priority: int,
    nomination: int | None = None,
    *,
    size: int = 0,
) -> bytes:
    """
    A Binding request to the peer (RFC 8445, section 7.2.2).

    :param nomination: nominates the pair; a value above 0 also goes along as the NOMINATION attribute.
    :param size: bytes that the request is to have at least; PADDING (RFC 5780, section 7.6) fills it up.
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
    request = StunMessage(Method.BINDING, MessageClass.REQUEST, transaction_id, tuple(attributes))
    return encode_padded(request, theirs.key, size)


def is_for(request: StunMessage, ours: IceCredentials, theirs: IceCredentials | None) -> bool:
    """Whether a request names this session; if not, it deserves no answer."""
    username = request.get(Attribute.USERNAME)
    if not isinstance(username, str) or not request.has_fingerprint:
        return False
    first, colon, second = username.partition(":")
    return first == ours.ufrag and colon == ":" and (theirs is None or second == theirs.ufrag)


def is_check_for(data: bytes, ours: IceCredentials, theirs: IceCredentials | None) -> bool:
    """Whether a datagram is a STUN request that names this session."""
    try:
        request = parse(data, most=MAX_ATTRIBUTES)
    except STUNError:
        return False
    return request.message_class is MessageClass.REQUEST and is_for(request, ours, theirs)


def read_check(request: StunMessage, remote: Address, local: Address) -> Check:
    """What an authenticated request says."""
    nomination: int | None = None
    if Attribute.USE_CANDIDATE in request:
        nomination = request.get(Attribute.NOMINATION) or 0
    username, priority = request.get(Attribute.USERNAME) or "", request.get(Attribute.PRIORITY) or 0
    return Check(request.transaction_id, remote, local, username, priority, nomination)


class EarlyChecks:
    """Checks that came before the peer's credentials were known."""

    def __init__(self) -> None:
        self._checks: dict[tuple[Address, Address], Check] = {}

    def add(self, check: Check) -> None:
        """Keep the newest of each pair of addresses."""
        way = check.local, check.remote
        if way in self._checks or len(self._checks) < MAX_EARLY:
            self._checks[way] = check

    def take(self, ufrag: str) -> list[Check]:
        """Those of the peer with this ufrag."""
        checks, self._checks = self._checks, {}
        return [check for check in checks.values() if check.username.partition(":")[2] == ufrag]


def keepalive(transaction_id: bytes) -> bytes:
    """A Binding indication, which nobody answers (RFC 8445, section 11)."""
    return encode(StunMessage(Method.BINDING, MessageClass.INDICATION, transaction_id))

"""The server side of connectivity checks: what a request is answered with (RFC 8445, section 7.3)."""

from __future__ import annotations

from dataclasses import dataclass

from punch.ice.check_messages import IceRole
from punch.ice.credentials import IceCredentials
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    StunMessage,
    encode,
    encode_padded,
    error,
    success,
)


@dataclass(frozen=True)
class Reply:
    """
    What to do about a request: `answer` it, if not None; if `accepted`, be in `role` and take it as a check.
    """

    answer: bytes | None
    accepted: bool
    role: IceRole


def respond(
    request: StunMessage, size: int, remote: Address, ours: IceCredentials, role: IceRole, tiebreaker: int
) -> Reply:
    """
    Authenticate a request for this session (`checks.is_for`), repair a role conflict, and answer.

    The answer to a check of full size is as large, so that it says something about both directions.

    :param size: the bytes of the request, which no refusal exceeds.
    :param role: ours.
    """
    refused = _refusal(request, ours)
    if refused is not None:
        return Reply(refused if len(refused) <= size else None, False, role)
    theirs = request.get(role.value)
    if theirs is not None:
        # RFC 8445, section 7.3.1.1: with the greater tiebreaker goes the controlling role
        wins = tiebreaker >= theirs
        if wins == (role is IceRole.CONTROLLING):
            return Reply(encode(error(request, 487, "Role Conflict"), ours.key), False, role)
        role = role.other
    least = size if Attribute.PADDING in request else 0
    answer = encode_padded(success(request, (Attribute.XOR_MAPPED_ADDRESS, remote)), ours.key, least)
    return Reply(answer, True, role)


def _refusal(request: StunMessage, ours: IceCredentials) -> bytes | None:
    """
    The error that a request has earned, None if it is right (RFC 8489, sections 9.1.3 and 6.3.1).

    Who can't authenticate is told so without a signature, and only here, where the ufrag, which is secret to
    the two peers, was right.
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

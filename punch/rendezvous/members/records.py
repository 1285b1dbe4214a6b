"""
What changes in the list of members of a rendezvous, as records that its processes exchange. Pure.

A record is bytes that never change, and each process applies all records of all processes. The result does
not depend on their order, if the record of an invitation comes before those of its redemptions:

- An invitation that the operator has revoked admits no further peer, whatever the clocks say.
- An invitation for n peers admits those n that redeemed it first, by the clocks of their processes, even if
  processes that did not hear of each other admitted more.
- Of what the operator says about a peer, the latest counts. A revocation by the owner is for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from punch.identity import PeerID, PeerIDError
from punch.wire import strict_json
from punch.wire.invitation import AdmissionRefusal

MAX_RECORD = 4096
"""The most bytes of a record."""


class RecordError(ValueError):
    """Bytes are not a record."""


@dataclass(frozen=True)
class InvitationMade:
    """
    The operator has made an invitation.

    :ivar used: how many had redeemed it before redemptions were recorded.
    :ivar expires: Unix seconds.
    :ivar relay_quota: bytes a day that the relay carries for each of its members; None: no own limit.
    """

    number: bytes
    digest: bytes
    uses: int
    expires: float
    relay_quota: int | None
    used: int = 0


@dataclass(frozen=True)
class InvitationRedeemed:
    """
    A peer has become a member by an invitation.

    :ivar number: that of the invitation.
    :ivar since: Unix seconds.
    """

    number: bytes
    peer: PeerID
    name: str
    since: float


@dataclass(frozen=True)
class InvitationRevoked:
    """
    The operator has revoked an invitation, for ever. Peers that have redeemed it stay members.

    :ivar number: that of the invitation.
    """

    number: bytes


@dataclass(frozen=True)
class PeerRevoked:
    """
    A peer is refused from now on.

    :ivar time: Unix seconds.
    :ivar statement: what the owner of the ID has signed; empty: the operator did it.
    """

    peer: PeerID
    refusal: AdmissionRefusal
    time: float
    statement: bytes = b""


@dataclass(frozen=True)
class RevocationUndone:
    """
    The operator has taken a revocation back.

    :ivar time: Unix seconds.
    """

    peer: PeerID
    time: float


Record = InvitationMade | InvitationRedeemed | InvitationRevoked | PeerRevoked | RevocationUndone


def encode(record: Record) -> bytes:
    """The bytes of a record."""
    if isinstance(record, InvitationMade):
        value: dict[str, Any] = {
            "type": "invitation",
            "number": record.number.hex(),
            "digest": record.digest.hex(),
            "uses": record.uses,
            "expires": float(record.expires),
            "relay_quota": record.relay_quota,
            "used": record.used,
        }
    elif isinstance(record, InvitationRedeemed):
        value = {
            "type": "redeemed",
            "number": record.number.hex(),
            "peer": str(record.peer),
            "name": record.name,
            "since": float(record.since),
        }
    elif isinstance(record, InvitationRevoked):
        value = {"type": "invitation-revoked", "number": record.number.hex()}
    elif isinstance(record, PeerRevoked):
        value = {
            "type": "revoked",
            "peer": str(record.peer),
            "refusal": record.refusal.value,
            "time": float(record.time),
            "statement": record.statement.hex(),
        }
    else:
        value = {"type": "undone", "peer": str(record.peer), "time": float(record.time)}
    return strict_json.dumps(value)


def decode(data: bytes) -> Record:
    """
    Read the bytes of a record.

    :raise RecordError: they are not a record.
    """
    if len(data) > MAX_RECORD:
        raise RecordError("it is too long")
    try:
        value = strict_json.loads(data)
        kind = value["type"]
        if kind == "invitation":
            quota = value["relay_quota"]
            return InvitationMade(
                bytes.fromhex(value["number"]),
                bytes.fromhex(value["digest"]),
                _count(value["uses"]),
                _time(value["expires"]),
                None if quota is None else _count(quota),
                _count(value["used"]),
            )
        if kind == "invitation-revoked":
            return InvitationRevoked(bytes.fromhex(value["number"]))
        peer = PeerID.parse_unchecked(value["peer"])
        if kind == "redeemed":
            return InvitationRedeemed(
                bytes.fromhex(value["number"]), peer, str(value["name"]), _time(value["since"])
            )
        if kind == "revoked":
            refusal = AdmissionRefusal(value["refusal"])
            return PeerRevoked(peer, refusal, _time(value["time"]), bytes.fromhex(value["statement"]))
        if kind == "undone":
            return RevocationUndone(peer, _time(value["time"]))
    except (PeerIDError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"it can't be read ({error})") from error
    raise RecordError(f"its kind is not known ({str(kind)[:20]})")


def _count(value: object) -> int:
    # A float may be larger than what a record or SQLite can hold.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a count is an integer from 0 on")
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a time is a number")
    return float(value)

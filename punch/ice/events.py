"""The states and the events of an ICE agent. `Agent.next_event()` returns the events, oldest first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from punch.ice.pairs import Pair
from punch.wire.peers.candidate import Candidate


class AgentState(Enum):
    """
    The state of an ICE session.

    NEW: the peer's credentials are not known. CHECKING: no pair was selected yet. CONNECTED: a pair is
    selected. FAILED: no pair works, or consent was lost. CLOSED: `Agent.close` was called.
    """

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True)
class LocalCandidate:
    """A local candidate to signal to the peer (RFC 8838, section 9)."""

    candidate: Candidate


@dataclass(frozen=True)
class GatheringDone:
    """No more local candidates follow: every reflector has answered or timed out."""


@dataclass(frozen=True)
class CheckingStarted:
    """The first connectivity check is sent. The checklist has `pairs` pairs now; more may follow."""

    pairs: int


@dataclass(frozen=True)
class Selected:
    """
    The pair to send on from now on.

    The first event means that the agent is connected. Later ones come when another pair is selected, or when
    the type of one of its candidates becomes known.
    """

    pair: Pair


@dataclass(frozen=True)
class RoleChanged:
    """Our role was switched to repair a role conflict (RFC 8445, section 7.3.1.1)."""

    controlling: bool


@dataclass(frozen=True)
class ChecksUnanswered:
    """
    The selected pair left two checks in a row unanswered.

    `PairDisconnected` or another `Selected` may follow, or nothing.
    """

    pair: Pair


@dataclass(frozen=True)
class PairDisconnected:
    """
    The selected pair is impaired, and no other pair works.

    It stays selected while consent holds. `Recovered` follows if it works again. The call restarts
    ICE at once (`punch.node.paths.ice_restart`).
    """

    pair: Pair


@dataclass(frozen=True)
class Recovered:
    """The selected pair, which was impaired, works again."""

    pair: Pair


@dataclass(frozen=True)
class ConsentLost:
    """
    The consent on the selected pair has expired, and no other pair works (RFC 7675).

    Nothing may be sent any more; the call restarts ICE (`punch.node.paths.ice_restart`).
    """

    pair: Pair


@dataclass(frozen=True)
class CheckingFailure:
    """
    What is known about why no pair works.

    :ivar local: the address families of our host and relayed candidates, `IPv4` and `IPv6`.
    :ivar remote: those of the peer's candidates.
    :ivar pairs: the number of pairs that could be formed.
    """

    local: frozenset[str]
    remote: frozenset[str]
    pairs: int


def checking_failure(local: Iterable[Candidate], remote: Iterable[Candidate], pairs: int) -> CheckingFailure:
    """Describe a failure. `local` are our host and relayed candidates, `remote` the peer's candidates."""
    return CheckingFailure(_families(local), _families(remote), pairs)


def _families(candidates: Iterable[Candidate]) -> frozenset[str]:
    return frozenset("IPv6" if candidate.address.is_ipv6 else "IPv4" for candidate in candidates)


@dataclass(frozen=True)
class PathFailed:
    """No pair works, and the agent has ended. `failure` is None if it had a path before."""

    failure: CheckingFailure | None


Event = (
    LocalCandidate
    | GatheringDone
    | CheckingStarted
    | Selected
    | RoleChanged
    | ChecksUnanswered
    | PairDisconnected
    | Recovered
    | ConsentLost
    | PathFailed
)

"""The states and the events of an ICE agent. `Agent.next_event()` returns the events, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from punch.ice.pairs import Pair
from punch.wire.candidate import Candidate


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
    """A candidate of ours, to be told to the peer (RFC 8838, section 9)."""

    candidate: Candidate


@dataclass(frozen=True)
class GatheringDone:
    """No more local candidates are coming: every reflector answered, or had its time."""


@dataclass(frozen=True)
class CheckingStarted:
    """The first connectivity check leaves; `pairs` are in the checklist now (more may come)."""

    pairs: int


@dataclass(frozen=True)
class Selected:
    """
    The path to send on from now on.

    The first one means connected. Later ones come when the path changes, and when more is known about what
    kind of address one of its ends is.
    """

    pair: Pair


@dataclass(frozen=True)
class RoleChanged:
    """A role conflict was repaired by taking the other role (RFC 8445, section 7.3.1.1)."""

    controlling: bool


@dataclass(frozen=True)
class ChecksUnanswered:
    """
    The selected pair left two checks in a row unanswered.

    `Disconnected` or another `Selected` may follow, or nothing.
    """

    pair: Pair


@dataclass(frozen=True)
class Disconnected:
    """
    The selected pair stopped answering, and there is no other that works.

    It stays selected while consent holds; `Recovered` says that it answers again.
    """

    pair: Pair


@dataclass(frozen=True)
class Recovered:
    """The selected pair, which was doubtful, answers again."""

    pair: Pair


@dataclass(frozen=True)
class ConsentLost:
    """
    The peer no longer answers on the selected pair, and there is no other that works (RFC 7675).

    Nothing may be sent any more; only new credentials can bring the path back.
    """

    pair: Pair


@dataclass(frozen=True)
class PathFailed:
    """No pair works; `reason` is a sentence for the user. The agent does nothing any more."""

    reason: str


Event = (
    LocalCandidate
    | GatheringDone
    | CheckingStarted
    | Selected
    | RoleChanged
    | ChecksUnanswered
    | Disconnected
    | Recovered
    | ConsentLost
    | PathFailed
)

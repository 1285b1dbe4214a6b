"""Candidate pairs: one local base, one remote candidate, and what the checks between them said."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from punch.ice.candidates import STREAM_PREFERENCE
from punch.wire.address import Address
from punch.wire.candidate import Candidate, CandidateType

if TYPE_CHECKING:
    from punch.ice.transactions import Transaction


class PairState(Enum):
    """RFC 8445, section 6.1.2.6."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Impairment(Enum):
    """Why data on a valid pair would probably not arrive."""

    UNRESPONSIVE = "unresponsive"
    """It stopped answering checks."""
    SMALL = "small"
    """It answers checks, but none of full size."""
    BLOCKED = "blocked"
    """It answers checks of every size, and the link hears nothing on it."""


class PathKind(int, Enum):
    """How good a path is by its candidates alone; a greater one is worth moving to."""

    RELAYED_TWICE = 0
    STREAMED = 1
    """Relayed over TCP, where a lost packet holds up all that follow."""
    RELAYED = 2
    REFLEXIVE = 3
    HOST = 4


def path_kind(local: CandidateType, remote: CandidateType, streamed: bool = False) -> PathKind:
    """
    The kind of a path between candidates of these types.

    :param streamed: the relay is reached over a stream.
    """
    relays = (local, remote).count(CandidateType.RELAY)
    if relays == 2:
        return PathKind.RELAYED_TWICE
    if relays:
        return PathKind.STREAMED if streamed else PathKind.RELAYED
    return PathKind.HOST if local == remote == CandidateType.HOST else PathKind.REFLEXIVE


def _is_streamed(candidate: Candidate) -> bool:
    """What a relayed candidate's priority says (RFC 8445, section 5.1.2): there is no other sign of it."""
    preference = candidate.priority >> 8 & 0xFFFF
    return candidate.type is CandidateType.RELAY and preference <= STREAM_PREFERENCE


def pair_priority(controlling: int, controlled: int) -> int:
    """
    RFC 8445, section 6.1.2.3.

    :param controlling: the priority of the controlling side's candidate.
    :param controlled: that of the controlled side's candidate.
    """
    return (
        (min(controlling, controlled) << 32) + 2 * max(controlling, controlled) + (controlling > controlled)
    )


@dataclass(frozen=True)
class Pair:
    """
    A path, as it is shown to whoever sends on it: a validated candidate pair.

    `local` is the candidate that the peer sees us as, `local_base` the address of the socket (or allocation)
    to send from. `rtt` is in seconds, None if it could not be measured yet.
    """

    local: Candidate
    remote: Candidate
    local_base: Address
    rtt: float | None = None

    @property
    def remote_address(self) -> Address:
        """Where to send to."""
        return self.remote.address

    @property
    def path(self) -> str:
        """
        "relay" if either candidate is relayed, "host" if both are host candidates, else "prflx" if either is
        peer-reflexive, else "srflx".
        """
        types = {self.local.type, self.remote.type}
        if CandidateType.RELAY in types:
            return "relay"
        if types == {CandidateType.HOST}:
            return "host"
        return "prflx" if CandidateType.PRFLX in types else "srflx"


@dataclass(eq=False)
class CandidatePair:
    """
    An entry of the checklist.

    The local candidate is always one that is its own base (host or relayed): a reflexive one sends from its
    base, so that its pairs would all be redundant (RFC 8445, section 6.1.2.4).
    """

    local: Candidate
    remote: Candidate
    state: PairState = PairState.FROZEN
    received_check: bytes | None = None
    """The transaction ID of the newest authenticated check that came over this pair."""
    mapped: Address | None = None
    """The address that the peer saw our check come from: the local candidate of the valid pair."""
    nomination: int | None = None
    """The value the controlling side nominated this pair with, 0 without renomination; None: it did not."""
    rtt: float | None = None
    rtt_exact: bool = False
    answered_at: float = 0.0
    """When the newest success response came, in seconds."""
    refresh_at: float = 0.0
    """When a valid pair that is not selected has to be checked again, in seconds."""
    revoked: bool = False
    """Consent expired: nothing may be sent with these credentials any more (RFC 7675, section 5.1)."""
    used: bool = False
    """It was selected once: when its consent expires, it is revoked."""
    impairment: Impairment | None = None
    """Why other pairs are preferred now; None: no reason is known."""
    full_at: float | None = None
    """When the newest check of full size was answered, in seconds; None if it was not."""
    transaction: Transaction | None = None
    """The check that decides about this pair now."""
    superseded: list[Transaction] = field(default_factory=list)
    """Earlier checks, not retransmitted any more, whose answers would still count."""
    size_check: Transaction | None = None
    """The check of full size that is under way."""
    kind: PathKind = field(init=False)
    """What kind of path this would be if there were no NAT on our side."""

    def __post_init__(self) -> None:
        self.learn(self.remote)

    def learn(self, remote: Candidate) -> None:
        """The peer told more about its candidate."""
        self.remote = remote
        streamed = _is_streamed(self.local) or _is_streamed(remote)
        self.kind = path_kind(self.local.type, remote.type, streamed)

    @property
    def base(self) -> Address:
        """The local address that its checks are sent from."""
        return self.local.address

    @property
    def foundation(self) -> tuple[str, str]:
        """RFC 8445, section 6.1.2.6: pairs of one foundation are likely to fare alike."""
        return self.local.foundation, self.remote.foundation

    @property
    def holds_others(self) -> bool:
        """
        Whether frozen pairs of the same foundation wait for what becomes of this one (RFC 8445, section
        6.1.4.2). Not if its first request was not answered in time: checks may go on for minutes, and the
        other may be a relay that has started anew, on the same machine as the dead one that this pair is for.
        """
        if self.state is PairState.IN_PROGRESS:
            return self.transaction is None or self.transaction.sent < 2
        return self.state is PairState.WAITING

    @property
    def valid(self) -> bool:
        """Whether application data may take it now."""
        return self.state is PairState.SUCCEEDED and not self.revoked

    @property
    def full(self) -> bool:
        """Whether it is known to carry the largest datagrams of a link."""
        return self.full_at is not None

    @property
    def impaired(self) -> bool:
        """Whether data on it would probably not arrive."""
        return self.impairment is not None

    @property
    def usable(self) -> bool:
        """Whether data on it would arrive, as far as is known."""
        return self.valid and not self.impaired

    @property
    def valid_kind(self) -> PathKind:
        """What kind of path the valid pair is, as far as it is known."""
        behind_nat = self.mapped is not None and self.mapped != self.base
        return PathKind.REFLEXIVE if behind_nat and self.kind > PathKind.REFLEXIVE else self.kind

    def priority(self, controlling: bool) -> int:
        """
        Its priority in the checklist.

        :param controlling: our role.
        """
        local, remote = self.local.priority, self.remote.priority
        return pair_priority(local, remote) if controlling else pair_priority(remote, local)

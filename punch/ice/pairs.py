"""Candidate pairs: a local base, a remote candidate, and the results of the checks between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from punch.ice.candidates import STREAM_PREFERENCE
from punch.ice.transactions import Transaction
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType


class PairState(Enum):
    """RFC 8445, section 6.1.2.6."""

    FROZEN = "frozen"
    WAITING = "waiting"
    IN_PROGRESS = "in-progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Impairment(Enum):
    """Why data on a valid pair probably does not arrive."""

    UNRESPONSIVE = "unresponsive"
    """It stopped answering checks."""
    SMALL = "small"
    """It answers checks, but none of full size."""
    BLOCKED = "blocked"
    """It answers checks of every size, but the link receives nothing on it."""


class PathKind(int, Enum):
    """The kind of a path by its candidates; a larger value is worth moving to."""

    RELAYED_TWICE = 0
    STREAMED = 1
    """Relayed over TCP, where a lost packet delays all later ones."""
    RELAYED = 2
    TCP = 3
    """Direct, over TCP."""
    REFLEXIVE = 4
    HOST = 5


def path_kind(local: CandidateType, remote: CandidateType, streamed: bool = False) -> PathKind:
    """
    The kind of a path between candidates of these types.

    :param streamed: the path, or the relay, is reached over a stream.
    """
    relays = (local, remote).count(CandidateType.RELAY)
    if relays == 2:
        return PathKind.RELAYED_TWICE
    if relays:
        return PathKind.STREAMED if streamed else PathKind.RELAYED
    if streamed:
        return PathKind.TCP
    return PathKind.HOST if local == remote == CandidateType.HOST else PathKind.REFLEXIVE


def _is_streamed(candidate: Candidate) -> bool:
    """
    Whether a candidate uses TCP, or its relay is reached over a stream. Only the priority of a relayed
    candidate says so (RFC 8445, section 5.1.2).
    """
    if candidate.protocol == "tcp":
        return True
    preference = candidate.priority >> 8 & 0xFFFF
    return candidate.type is CandidateType.RELAY and preference <= STREAM_PREFERENCE


def pair_priority(controlling: int, controlled: int) -> int:
    """
    RFC 8445, section 6.1.2.3.

    :param controlling: the priority of the controlling side's candidate.
    :param controlled: that of the controlled side's candidate.
    """
    if controlling > controlled:
        return (controlled << 32) + 2 * controlling + 1
    return (controlling << 32) + 2 * controlled


@dataclass(frozen=True)
class Pair:
    """
    A valid candidate pair, as users of the agent see it.

    `local` is our candidate as the peer sees it, `local_base` the address of the socket or allocation to send
    from. `kind` is what is known of the kind of path. `rtt` is in seconds; None if it was not measured yet.
    """

    local: Candidate
    remote: Candidate
    local_base: Address
    kind: PathKind
    rtt: float | None = None

    @property
    def remote_address(self) -> Address:
        """The address to send to."""
        return self.remote.address

    @property
    def improvable(self) -> bool:
        """Whether a better path than this one may be found: it is relayed, or over TCP."""
        return self.kind < PathKind.REFLEXIVE

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

    The local candidate is always a host or relayed one. A reflexive candidate sends from its base, so all its
    pairs would be redundant (RFC 8445, section 6.1.2.4).
    """

    local: Candidate
    remote: Candidate
    state: PairState = PairState.FROZEN
    received_check: bytes | None = None
    """The transaction ID of the newest authenticated check that came on this pair."""
    mapped: Address | None = None
    """Our address as the peer sees it: that of the valid pair's local candidate."""
    nomination: int | None = None
    """The value of the controlling side's nomination, 0 without renomination; None: not nominated."""
    rtt: float | None = None
    rtt_exact: bool = False
    latest_rtt: float = 0.0
    """The newest round-trip time, of a check or of the link's data, queues included, in seconds."""
    answered_at: float = 0.0
    """When the newest success response came, in monotonic seconds."""
    asked_at: float = 0.0
    """When the newest answered check was sent for the first time, in monotonic seconds."""
    refresh_at: float = 0.0
    """When to check a valid pair that is not selected again, in monotonic seconds."""
    revoked: bool = False
    """Consent expired: nothing may be sent with these credentials any more (RFC 7675, section 5.1)."""
    used: bool = False
    """It was selected once, so it is revoked when its consent expires."""
    impairment: Impairment | None = None
    """Why other pairs are preferred now; None: no reason is known."""
    blocked_at: float = float("-inf")
    """When it was last taken for blocked, in monotonic seconds."""
    returned_at: float = float("-inf")
    """
    When this pair, which had been left because it seemed blocked, was last taken for usable again, in
    monotonic seconds.
    """
    full_at: float | None = None
    """When the newest check of full size was answered, in monotonic seconds; None: it was not."""
    size_failures: int = 0
    """How many checks of full size in a row were not answered while it was not selected."""
    size_at: float = 0.0
    """When to check this pair in full size again if it is small and not selected, in monotonic seconds."""
    transaction: Transaction | None = None
    """The current check."""
    superseded: list[Transaction] = field(default_factory=list)
    """Earlier checks that are no longer retransmitted, but whose answers still count."""
    size_check: Transaction | None = None
    """The current check of full size."""
    kind: PathKind = field(init=False)
    """The kind of path if there is no NAT on our side."""

    def __post_init__(self) -> None:
        self.learn(self.remote)

    def learn(self, remote: Candidate) -> None:
        """Replace the remote candidate, because the peer signalled more about it."""
        self.remote = remote
        streamed = _is_streamed(self.local) or _is_streamed(remote)
        self.kind = path_kind(self.local.type, remote.type, streamed)

    @property
    def base(self) -> Address:
        """The local address that its checks are sent from."""
        return self.local.address

    @property
    def foundation(self) -> tuple[str, str]:
        """RFC 8445, section 6.1.2.6: pairs with the same foundation probably succeed or fail alike."""
        return self.local.foundation, self.remote.foundation

    @property
    def holds_others(self) -> bool:
        """
        Whether frozen pairs of the same foundation wait for the result of this pair (RFC 8445, section
        6.1.4.2). They do not if its first request was not answered in time: its check may take minutes, and
        another pair may lead to a relay that was restarted on the same machine.
        """
        if self.state is PairState.IN_PROGRESS:
            return self.transaction is None or self.transaction.sent < 2
        return self.state is PairState.WAITING

    @property
    def valid(self) -> bool:
        """Whether application data may be sent on it."""
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
    def lost(self) -> bool:
        """Whether it was selected once, and has stopped answering checks."""
        return self.used and (self.revoked or self.impairment is Impairment.UNRESPONSIVE)

    @property
    def usable(self) -> bool:
        """Whether data on it arrives, as far as is known."""
        return self.valid and not self.impaired

    @property
    def expected_rtt(self) -> float:
        """
        The time that the next answer probably takes, in seconds: the newest measurement. The smoothed time
        follows late first answers for too long.
        """
        return self.latest_rtt or self.rtt or 0.0

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

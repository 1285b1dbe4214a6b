"""When an ICE session without a path fails (RFC 8863), and what is known about the cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from punch.wire.peers.candidate import Candidate

PAC_TIMEOUT = 39.5
"""Seconds of checking before an ICE session may fail (RFC 8863, section 4)."""
MAX_CHECKING = 60.0
"""
Seconds of checking after which it fails in any case. Checks that take longer, because their RTO grew with the
number of pairs, are not worth a user's time.
"""


class FailureTimer:
    """The time limits of checking."""

    def __init__(self) -> None:
        self._limits: tuple[float, float] = (0.0, 0.0)
        self._checked_at = 0.0

    def start(self, now: float) -> None:
        """Start the timer: checking starts."""
        self._limits = now + PAC_TIMEOUT, now + MAX_CHECKING
        self._checked_at = now

    def is_over(self, now: float, exhausted: bool) -> bool:
        """
        Whether the session has failed.

        :param exhausted: all pairs have failed, and no more candidates follow.
        """
        self._checked_at = now
        may_fail_at, must_fail_at = self._limits
        return now >= must_fail_at or (now >= may_fail_at and exhausted)

    def get_timer(self) -> float | None:
        """When to call `is_over` again; None: not needed."""
        return min((limit for limit in self._limits if self._checked_at < limit), default=None)


@dataclass(frozen=True)
class CheckingFailure:
    """
    What is known about why no pair works.

    :ivar local: the address families of our host candidates, `IPv4` and `IPv6`.
    :ivar remote: those of the peer's candidates.
    :ivar pairs: the number of pairs that could be formed.
    """

    local: frozenset[str]
    remote: frozenset[str]
    pairs: int


def checking_failure(local: Iterable[Candidate], remote: Iterable[Candidate], pairs: int) -> CheckingFailure:
    """Describe a failure. `local` are our candidates that are their own base."""
    return CheckingFailure(_families(local), _families(remote), pairs)


def _families(candidates: Iterable[Candidate]) -> frozenset[str]:
    return frozenset("IPv6" if candidate.address.is_ipv6 else "IPv4" for candidate in candidates)

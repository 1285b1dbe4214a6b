"""When an ICE session without a path fails (RFC 8863), and the sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence

from punch.wire.candidate import Candidate

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


_HERE = "this machine has no network address that a peer could reach: connect it to a network and call again"
_THERE = "the peer told no address that could be reached: it may be offline, so call again later"


def why_not(local: Sequence[Candidate], remote: Sequence[Candidate], pairs: int) -> str:
    """
    A sentence for the user that says why no pair works, and what to do.

    :param local: our candidates that are their own base.
    :param remote: the peer's candidates.
    :param pairs: the number of pairs that could be formed.
    """
    if not local:
        return _HERE
    if not remote:
        return _THERE
    if pairs == 0:
        here, there = _families(local), _families(remote)
        if here != there:
            return (
                f"this machine has only {here} and the peer only {there}, so there is no path between them: "
                "give one of them the other kind of address too and call again"
            )
        return "no address of the peer can be reached from this machine: call again from another network"
    ways = "the only path" if pairs == 1 else f"none of the {pairs} possible paths"
    verb = "to the peer did not let" if pairs == 1 else "to the peer let"
    return (
        f"{ways} {verb} anything through: the NATs or firewalls on the way block it, "
        "so call again from another network"
    )


def _families(candidates: Sequence[Candidate]) -> str:
    families = {"IPv6" if candidate.address.is_ipv6 else "IPv4" for candidate in candidates}
    return " and ".join(sorted(families))

"""When a session that found no path has failed (RFC 8863)."""

from __future__ import annotations

from collections.abc import Sequence

from punch.wire.candidate import Candidate

PAC_TIMEOUT = 39.5
"""Seconds of checking before failure may be declared (RFC 8863, section 4)."""
MAX_CHECKING = 60.0
"""
Seconds of checking after which it is declared, whatever is still under way: a check that waits longer because
its RTO grew with the number of pairs isn't worth a user's time.
"""


class FailureTimer:
    """The time that checking may take."""

    def __init__(self) -> None:
        self._limits: tuple[float, float] = (0.0, 0.0)
        self._judged_at = 0.0

    def start(self, now: float) -> None:
        """Checking starts."""
        self._limits = now + PAC_TIMEOUT, now + MAX_CHECKING
        self._judged_at = now

    def is_over(self, now: float, hopeless: bool) -> bool:
        """
        Whether to give up.

        :param hopeless: nothing is left to be tried.
        """
        self._judged_at = now
        patient_until, give_up_at = self._limits
        return now >= give_up_at or (now >= patient_until and hopeless)

    def get_timer(self) -> float | None:
        """When to ask `is_over` again."""
        return min((limit for limit in self._limits if self._judged_at < limit), default=None)


_HERE = "this machine has no network address that a peer could reach: connect it to a network and call again"
_THERE = "the peer told no address that could be reached: it may be offline, so call again later"


def why_not(local: Sequence[Candidate], remote: Sequence[Candidate], pairs: int) -> str:
    """
    The sentence for the user when no pair works.

    :param local: our candidates that are their own base.
    :param remote: the peer's.
    :param pairs: how many pairs could be formed.
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

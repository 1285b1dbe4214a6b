"""Why there is no path, in one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from punch.wire.candidate import Candidate

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

"""What an agent tries right now, as values for whoever wants to watch it."""

from __future__ import annotations

from dataclasses import dataclass

from punch.ice.candidates import LocalCandidates
from punch.ice.checklist import CheckList
from punch.ice.pairs import Pair
from punch.wire.address import Address
from punch.wire.candidate import CandidateType

SILENT = "silent"
"""The state of a pair that worked and stopped answering; the other states are `PairState`'s."""


@dataclass(frozen=True)
class PairStatus:
    """
    One candidate pair.

    `local` is the socket (or the allocation at a relay) that is sent from, and `seen_as` the address that
    others see it as, if that is known to be another one: that of our NAT. `rtt` is in seconds. `selected`:
    what is sent to the peer goes this way.
    """

    local: Address
    local_kind: CandidateType
    seen_as: Address | None
    remote: Address
    remote_kind: CandidateType
    state: str
    selected: bool
    rtt: float | None


def take_snapshot(
    checklist: CheckList, candidates: LocalCandidates, selected: Pair | None
) -> list[PairStatus]:
    """All pairs as they are now, in the order of their priorities."""
    path = None if selected is None else (selected.local_base, selected.remote_address)
    pairs = sorted(checklist, key=lambda pair: pair.priority(checklist.controlling), reverse=True)
    return [
        PairStatus(
            pair.base,
            pair.local.type,
            _other(pair.mapped or candidates.seen_as(pair.base), pair.base),
            pair.remote.address,
            pair.remote.type,
            SILENT if pair.unresponsive else pair.state.value,
            (pair.base, pair.remote.address) == path,
            pair.rtt,
        )
        for pair in pairs
    ]


def _other(address: Address | None, base: Address) -> Address | None:
    return None if address == base else address

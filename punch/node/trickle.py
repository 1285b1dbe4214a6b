"""Candidates of ours on their way to the other side (RFC 8838)."""

from __future__ import annotations

from punch.ice.events import Event, GatheringDone, LocalCandidate
from punch.node.ice_restart import IceRestarts
from punch.node.signaling import Signaling
from punch.wire.candidate import Candidate


class CandidateTrickler:
    """What our agents have found, until it is told."""

    def __init__(self) -> None:
        self._found: list[Candidate] = []
        self._done = False

    def take(self, event: Event) -> bool:
        """Keep what an agent has found; returns whether this event was about that."""
        if isinstance(event, LocalCandidate):
            self._found.append(event.candidate)
        elif isinstance(event, GatheringDone):
            self._done = True
        else:
            return False
        return True

    def tell(self, call: Signaling, ice_restarts: IceRestarts | None, now: float) -> bool:
        """
        Tell the other side, in the call, or by the way that restarts go; returns whether there was anything.

        :param roaming: of a link that was restarted; None before.
        """
        if not self._found and not self._done:
            return False
        found, self._found = self._found, []
        done, self._done = self._done, False
        if ice_restarts is not None:
            ice_restarts.found(found)
        else:
            call.add_candidates(found, done, now)
        return True

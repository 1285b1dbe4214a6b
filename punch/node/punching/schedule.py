"""
When attempts at a direct path over UDP begin, for one link. Attempts over TCP have a schedule of
their own (`punch.node.punching.tcp`).

    Resting ──on a relay──> Relayed ──on no relay──> Resting

=======  =====================================================================================================
state    its timer
=======  =====================================================================================================
Resting  none: the link is on no relay, so nothing is looked for
Relayed  `look_at`: both sides prove their public addresses to each other, or one begins an attempt; None: the
         other side begins the next one, none can be made now, or one is being made
=======  =====================================================================================================

How long a link waits depends on what was done since it left a direct path that had lasted, or since a network
changed: attempts (`Tries`), refused ones, and proofs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from punch.ice.limits import WINDOW
from punch.ice.punching import spraying
from punch.ice.punching.techniques import Technique

SETTLE = 1.0
"""
Seconds on a relayed path after which the first attempt begins, since plain ICE takes less time. Between two
peers that had a direct path by the same technique before, it begins at once.
"""
RETURN_TIME = 5.0
"""
The same for a path that an attempt had found before: it is likely to answer again, unless a network changes.
"""
SHORTEST_WAIT, LONGEST_WAIT = 2.0, 300.0
"""The least and the most seconds until an attempt is considered again for which the budget is not enough."""
PROOF_GAP = 0.5
"""Seconds until both sides check again whether they receive at their public addresses, if one was lost."""
PROOFS = 8
"""After so many of these checks, both sides wait longer…"""
PROOF_WAITS = 2.0, 300.0
"""…which is so many seconds at first, doubled each time, and the longest one."""
REFUSAL_WAITS = 1.0, 300.0
"""Seconds after an attempt that was refused or was impossible: at first, doubled each time, and at most."""
BUSY = 0.5
"""Seconds until this node is asked again whether another attempt is over."""
ROUND = 1.0
"""The least seconds from the beginning of one attempt of a few packets to that of the next…"""
QUICK = 4
"""…for the first few attempts; after that, it is `LATER` seconds, doubled each time."""
LATER = 15.0, 300.0
"""The wait after the quick attempts, and the longest one, in seconds."""
MAX_HOSTS = 4
"""For how many IP addresses of the other side the attempts are counted separately."""


def proof_wait(proofs: int) -> float:
    """Return the seconds until both sides check again, after so many times."""
    rounds, rest = divmod(proofs, PROOFS)
    return PROOF_GAP if rest else doubled(PROOF_WAITS, rounds - 1)


def refusal_wait(refusals: int) -> float:
    """Return the seconds to the next attempt after so many that were refused, or could not be made."""
    return doubled(REFUSAL_WAITS, refusals - 1)


def wait_after(tries: int) -> float:
    """
    Return the least seconds from the beginning of an attempt of a few packets to that of the next, after so
    many.
    """
    if tries < QUICK:
        return ROUND
    return doubled(LATER, tries - QUICK)


def doubled(waits: tuple[float, float], times: int) -> float:
    """
    Return a wait that has been doubled so many times.

    :param waits: the first one and the longest one, in seconds.
    """
    return min(waits[0] * 2.0 ** min(times, 10), waits[1])


class Tries:
    """
    How many attempts were made on a link, and when the next one may be.

    Each technique is counted for itself, and so is each IP address of the other side. If the other side is at
    another address, attempts that failed before say nothing, but the waits at the address before are not
    shortened. A peer may have any number of addresses, so all beyond a few are counted together.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Technique, str], tuple[int, float]] = {}
        # How many there were when the last path was found
        self._found: dict[tuple[Technique, str], int] = {}

    def add(self, technique: Technique, host: str, now: float) -> int:
        """An attempt has begun at `now`; returns how many there were, of those that count."""
        key = self._key(technique, host)
        tries = self._made.get(key, (0, now))[0] + 1
        self._made[key] = tries, now
        return self._counted(key)

    def next_at(
        self, technique: Technique, host: str, wait_after: Callable[[int], float], part: float = 1.0
    ) -> float:
        """
        Return when the next attempt may begin.

        :param wait_after: returns the least seconds from the beginning of an attempt to that of the next.
        :param part: which part of this wait has to be over.
        """
        key = self._key(technique, host)
        made = self._made.get(key)
        return float("-inf") if made is None else made[1] + part * wait_after(self._counted(key))

    def found(self, technique: Technique, host: str) -> None:
        """The newest attempt has found the path that the link takes."""
        key = self._key(technique, host)
        if key in self._made:
            self._found[key] = self._made[key][0]

    def path_found(self, now: float) -> None:
        """There is a direct path: attempts that were made some time ago no longer count."""
        self._made = {key: made for key, made in self._made.items() if now < made[1] + WINDOW}
        self._found = {key: tries for key, tries in self._found.items() if key in self._made}

    def clear(self) -> None:
        """We are in another network: nothing counts any more."""
        self._made.clear()
        self._found.clear()

    def _counted(self, key: tuple[Technique, str]) -> int:
        tries = self._made[key][0]
        if key[0] is not Technique.SPRAYING:
            return tries
        return spraying.counted(tries, tries - self._found.get(key, 0))

    def _key(self, technique: Technique, host: str) -> tuple[Technique, str]:
        key = technique, host
        others = sum(each[0] is technique for each in self._made)
        return key if key in self._made or others < MAX_HOSTS else (technique, "")


@dataclass(frozen=True)
class Resting:
    """
    The link is on no relay.

    :ivar had_path: False until the link has its first path.
    """

    had_path: bool = False


@dataclass(frozen=True)
class Relayed:
    """
    The link is on a relay.

    :ivar settled_at: until when no attempt begins, because connectivity checks alone may find a path, or the
        path before may answer again.
    :ivar look_at: when to look whether to begin an attempt, or what has to come before it; None: not until
        something changes.
    """

    settled_at: float
    look_at: float | None = None


class AttemptSchedule:
    """
    When the next attempt of one link begins. All transitions are made here.

    :ivar state: the present state.
    :ivar tries: the attempts that were made.
    """

    def __init__(self) -> None:
        self.state: Resting | Relayed = Resting()
        self.tries = Tries()
        # Since attempts began anew
        self._begun: Counter[Technique] = Counter()
        self._refusals = self._proofs = 0

    # What happens to the path

    def on_no_relay(self) -> None:
        """The link has a direct path, or none."""
        self.state = Resting(had_path=True)

    def on_relay(self, now: float, *, lasted: bool) -> None:
        """
        The link takes a relayed path.

        :param lasted: whether the last direct paths had lasted, if there were any.
        """
        if isinstance(self.state, Resting):
            if self.state.had_path and lasted:
                self.begin_anew(now)
            self.state = Relayed(now)

    def settle(self, seconds: float, now: float) -> None:
        """
        On a relay, if it is not known when the next attempt begins: begin it after so many seconds. The
        proofs begin `PROOF_GAP` before that, or at once if that is past.
        """
        if isinstance(self.state, Relayed) and self.state.look_at is None:
            settled_at = now + seconds
            self.state = Relayed(settled_at, max(now, settled_at - PROOF_GAP))

    def begin_anew(self, now: float) -> None:
        """A network changed, or a direct path that had lasted is lost: begin as soon as `tries` allow."""
        self.tries.path_found(now)
        self._refusals = self._proofs = 0
        self._begun.clear()
        self.forget()

    def forget(self) -> None:
        """Forget when to look next: what was waited for has come, or concerned another technique."""
        if isinstance(self.state, Relayed):
            self.state = replace(self.state, look_at=None)

    # What is done

    def wait_until(self, look_at: float) -> None:
        """On a relay, look again at this time."""
        if isinstance(self.state, Relayed):
            self.state = replace(self.state, look_at=look_at)

    def wait_for_budget(self, enough_at: float, now: float) -> None:
        """
        On a relay, look again when the budget is probably enough. Several links may wait for the same
        packets.
        """
        self.wait_until(min(max(enough_at, now + SHORTEST_WAIT), now + LONGEST_WAIT))

    def proofs_sent(self, now: float) -> None:
        """
        Messages were sent by which both sides prove that they receive at their public addresses: look again
        after `proof_wait`.
        """
        self._proofs += 1
        self.wait_until(now + proof_wait(self._proofs))

    def attempt_begun(self, technique: Technique) -> None:
        """An attempt begins, of either side."""
        self._begun[technique] += 1

    def attempt_refused(self) -> float:
        """An attempt was refused or impossible; returns the least seconds from its beginning to the next."""
        self._refusals += 1
        return refusal_wait(self._refusals)

    # What is known

    @property
    def settled_at(self) -> float:
        """Until when no attempt begins on the present relayed path."""
        return self.state.settled_at if isinstance(self.state, Relayed) else float("-inf")

    @property
    def unproved(self) -> bool:
        """Whether the proofs were repeated so often that one side probably can't receive there."""
        return self._proofs >= PROOFS

    def begun(self, technique: Technique) -> int:
        """Return how many attempts by a technique have begun since attempts began anew."""
        return self._begun[technique]

    # Time

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self.state.look_at if isinstance(self.state, Relayed) else None

    def handle_timer(self, now: float) -> bool:
        """Return whether it is time to look; then nothing more is due until something else is decided."""
        due = self.get_timer()
        if due is None or now < due:
            return False
        self.forget()
        return True

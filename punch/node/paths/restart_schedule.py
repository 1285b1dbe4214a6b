"""
The state of a link's path, and what is due in each state: ICE restarts, telling the user, ending the link.

    Usable <──found──> Improvable          the path works
      │ ^                  │ ^
    lost │               lost │
      v found              v found
    Unresponsive ──LOST_AFTER──> Lost      no path works

=============  ===============================================================================================
state          when something is due, and what
=============  ===============================================================================================
Usable         never
Improvable     `improve_at`: `IMPROVE`, a restart that looks for a better path; again after a longer wait
Unresponsive   `retry_at`: `RETRY`. `LOST_AFTER` seconds after the loss: `TELL`, and the state is `Lost`
Lost           `retry_at`: `RETRY`. `MAX_DISCONNECTED` seconds after the loss: `END`
=============  ===============================================================================================

A path that was found leads from every state to `Usable`, or to `Improvable` if a better one may be found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from punch.ice.generations import FlapDamping
from punch.ice.pairs import PathKind
from punch.net.deadlines import earliest

LOST_AFTER = 3.0
"""Seconds without a path after which the user is told."""
MAX_DISCONNECTED = 3 * 86400.0
"""Seconds that a link without a path is kept: from Friday evening to Monday morning."""
RETRY = 1.0, 30.0
"""Seconds until the rendezvous is asked again for a peer that is not there: the first time, and at most."""
IMPROVE = 15.0, 300.0
"""
Seconds on a relayed path, on one over TCP, or after a better one was lost, until a restart looks for a better
one: the first time, and at most. They are doubled each time, and begin anew after a better path that lasted
(`punch.ice.generations`). What closed the better path may have changed, which nothing else would notice.
"""


class Due(Enum):
    """What is to be done now."""

    TELL = "tell"
    """Tell the user that the link has no path."""
    RETRY = "retry"
    """Ask the rendezvous again for the peer."""
    IMPROVE = "improve"
    """Begin a restart, which may find a better path."""
    END = "end"
    """End the link: it had no path for too long."""


@dataclass(frozen=True)
class Usable:
    """
    The path works, and no better one is looked for.

    :ivar wait: seconds until the next restart that looks for a better path, if this one does not last.
    """

    wait: float = IMPROVE[0]


@dataclass(frozen=True)
class Improvable:
    """
    The path works, but a better one may be found.

    :ivar improve_at: when a restart looks for it.
    :ivar wait: seconds from the last such restart, or from the beginning, until then.
    """

    improve_at: float
    wait: float


@dataclass(frozen=True)
class NoPath:
    """
    No path works; a state is `Unresponsive` or `Lost`.

    :ivar since: when the last path was lost.
    :ivar before: the state until then.
    :ivar retry_at: when to ask the rendezvous again for the peer; None: nothing has failed.
    :ivar retry_wait: seconds until the next time after that.
    """

    since: float
    before: Usable | Improvable
    retry_at: float | None = None
    retry_wait: float = RETRY[0]


class Unresponsive(NoPath):
    """The user does not know of the loss, which may be over in a moment."""

    @property
    def deadline(self) -> float:
        """When this state ends if no path is found."""
        return self.since + LOST_AFTER


class Lost(NoPath):
    """The user was told of the loss."""

    @property
    def deadline(self) -> float:
        """When this state ends if no path is found."""
        return self.since + MAX_DISCONNECTED


PathState = Usable | Improvable | Unresponsive | Lost


class RestartSchedule:
    """
    The path of one link over time. All transitions are made here.

    :param damping: how soon the link may return to better paths.
    :ivar state: the present state.
    """

    def __init__(self, damping: FlapDamping) -> None:
        self.state: PathState = Usable()
        self._damping = damping

    @property
    def disconnected(self) -> bool:
        """Whether the link has no path."""
        return isinstance(self.state, NoPath)

    def path_found(self, improvable: bool, now: float) -> None:
        """
        A path works.

        :param improvable: whether a better one may be found.
        """
        state = self.state
        before = state.before if isinstance(state, NoPath) else state
        if not improvable:
            self.state = Usable(before.wait)
        elif isinstance(before, Usable):
            wait = before.wait if self._damping.short_lived else IMPROVE[0]
            self.state = Improvable(now + wait, wait)
        elif before.improve_at <= now:
            # The path was lost when that restart was due, and another restart has found this one
            self.state = replace(before, improve_at=now + before.wait)
        else:
            self.state = before

    def path_lost(self, now: float) -> bool:
        """
        No path works.

        :return: whether one did until now.
        """
        if isinstance(self.state, NoPath):
            return False
        self.state = Unresponsive(now, self.state)
        return True

    def retry(self, now: float) -> None:
        """The peer could not be reached through the rendezvous: ask again later, if no path works."""
        if isinstance(self.state, NoPath):
            wait = self.state.retry_wait
            self.state = replace(self.state, retry_at=now + wait, retry_wait=min(2 * wait, RETRY[1]))

    def retry_soon(self) -> None:
        """The network is back: after the next failure, ask again as soon as after the first one."""
        if isinstance(self.state, NoPath):
            self.state = replace(self.state, retry_wait=RETRY[0])

    def asked(self) -> None:
        """The rendezvous is asked for the peer, or a restart begins: no retry is due."""
        if isinstance(self.state, NoPath):
            self.state = replace(self.state, retry_at=None)

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`; None: not needed."""
        state = self.state
        if isinstance(state, Usable):
            return None
        if isinstance(state, Improvable):
            return state.improve_at
        return earliest((state.deadline, state.retry_at))

    def handle_timer(self, now: float) -> list[Due]:
        """Return what is due, in order."""
        if isinstance(self.state, Improvable):
            return self._improve(self.state, now)
        due = []
        if isinstance(self.state, Unresponsive) and now >= self.state.deadline:
            state = self.state
            self.state = Lost(state.since, state.before, state.retry_at, state.retry_wait)
            due.append(Due.TELL)
        if isinstance(self.state, Lost) and now >= self.state.deadline:
            return [*due, Due.END]
        if isinstance(self.state, NoPath) and self.state.retry_at is not None and now >= self.state.retry_at:
            self.state = replace(self.state, retry_at=None)
            due.append(Due.RETRY)
        return due

    def _improve(self, state: Improvable, now: float) -> list[Due]:
        if now < state.improve_at:
            return []
        allowed_at = self._damping.allowed_at(PathKind.REFLEXIVE)
        if now < allowed_at:
            # Such paths have not lasted, and have to wait
            self.state = replace(state, improve_at=allowed_at)
            return []
        wait = min(2 * state.wait, IMPROVE[1])
        self.state = Improvable(now + wait, wait)
        return [Due.IMPROVE]

"""
The ICE sessions of one link: the first one, and those of its ICE restarts (RFC 8445, section 9).

An ICE restart is another session with new credentials beside the one in use. Its path replaces the old one:
at once if the old path is impaired, otherwise as soon as the controlling side has nominated the new one and
it is not worse, and after `SETTLE` seconds in any case. The old session is kept for `LINGER` seconds, because
the other side may still use it.

A path may answer each connectivity check and lose what the link sends, or work for some seconds at a time.
Each return to it costs the link up to three seconds. So a better path that was left within `STEADY` seconds
is not taken again for a while, as long as a worse one works, and no attempt is made to find it. Paths that
are better still are looked for meanwhile. This is `FlapDamping` (route flap damping, RFC 2439, for the paths
of one link).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from punch.ice.agent import Agent
from punch.ice.checklist import PairStatus
from punch.ice.events import (
    AgentState,
    CheckingStarted,
    ChecksUnanswered,
    ConsentLost,
    Event,
    GatheringDone,
    LocalCandidate,
    PairDisconnected,
    PathFailed,
    Recovered,
    Selected,
)
from punch.ice.pairs import Pair, PathKind
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit

SETTLE = 3.0
"""Seconds that a working path is kept while the new session has only a worse or not nominated one."""
AVOIDANCE = 5.0
"""
Seconds for which a session that begins because no pair works looks for other pairs than those on which the
link's data was unanswered. They would be the first to answer in many cases, such as in a local network. If a
pair works, but pairs of some kinds have to wait (`FlapDamping`), a new session looks for pairs of other kinds
for this time.
"""
LINGER = 10.0
"""Seconds that the old session still answers checks."""
STEADY = 60.0
"""Seconds that a better path must have lasted so that its loss says nothing about later ones."""
FREE = 1
"""How many better paths in a row may be left within `STEADY` seconds before the next one has to wait."""
WAITS = 30.0, 300.0
"""Seconds that the next better path waits: the first time, and at most. The wait doubles each time."""

_ENDS = (ConsentLost, PathFailed)
_PATHS = (Selected, ChecksUnanswered, PairDisconnected, Recovered, *_ENDS)


@dataclass(frozen=True)
class OldSession:
    """A session that was in use; it answers checks until the time `until`."""

    agent: Agent
    until: float


class Generations:
    """
    The ICE sessions of one link: the current one, perhaps one on trial, and perhaps an old one.

    Its events look like those of one agent: path events come from the current session, candidates from the
    newest one. `PathFailed` means that the newest session ended without a path.

    :ivar current: the session whose selected pair is used.
    :ivar trial: the session of an ICE restart that has not replaced `current` yet; None if there is none.
    :ivar number: the number of the newest generation; 0 is that of the call.
    :ivar damping: how soon the link returns to a better path that did not last.
    """

    def __init__(self, agent: Agent) -> None:
        self.damping = FlapDamping()
        self.current = agent
        self.trial: Agent | None = None
        self.number = 0
        self._old: OldSession | None = None
        self._settle_at = 0.0
        self._output: list[Transmit] = []
        self._events: deque[Event] = deque()

    @property
    def newest(self) -> Agent:
        """The session that new candidates belong to."""
        return self.current if self.trial is None else self.trial

    @property
    def agents(self) -> list[Agent]:
        """All sessions that have not ended, the current one first."""
        if self.trial is None and self._old is None:
            return [self.current]
        old = None if self._old is None else self._old.agent
        return [agent for agent in (self.current, self.trial, old) if agent is not None]

    @property
    def working(self) -> bool:
        """Whether a pair is selected and data on it arrives, as far as is known."""
        return self.current.path.working

    @property
    def selected(self) -> Pair | None:
        """The pair to send on now."""
        return self.current.selected

    @property
    def pairs(self) -> list[PairStatus]:
        """The status of all pairs; for a pair that both sessions have, that of the newer one."""
        pairs = {(pair.local, pair.remote): pair for pair in self.current.pairs}
        if self.trial is not None:
            for pair in self.trial.pairs:
                before = pairs.get((pair.local, pair.remote))
                if before is None or not before.selected:
                    pairs[pair.local, pair.remote] = replace(pair, selected=False)
        return list(pairs.values())

    def begin(self, agent: Agent, number: int, now: float) -> None:
        """Start an ICE restart with this agent; a session on trial is closed."""
        self.give_up(now)
        self.trial, self.number = agent, number
        self._settle_at = now + SETTLE
        agent.path.hold(self.damping.held, now)
        before = self.current.selected
        if before is not None and self.working:
            agent.path.limit_first(_rank(before), now + AVOIDANCE)
        else:
            agent.path.avoid(self.current.path.blocked, now + AVOIDANCE)

    def network_changed(self, now: float) -> None:
        """One of the two sides is in another network, so that any path may be better than it was."""
        if self.damping.clear():
            self._hold(now)

    def give_up(self, now: float) -> None:
        """Close the session on trial."""
        if self.trial is not None:
            self.trial.close(now)
            self.trial = None

    def validated(self, local: Address, remote: Address) -> bool:
        """Whether an authenticated check came or was answered between these addresses."""
        return any(agent.validated(local, remote) for agent in self.agents)

    def wants(self, data: bytes) -> bool:
        """Whether this is a STUN message for one of the sessions."""
        return any(agent.wants(data) for agent in self.agents)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a STUN message."""
        for agent in self.agents:
            if agent.wants(data):
                agent.receive_datagram(data, remote, local, now)
                break
        self._collect(now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """Return the datagrams to send now."""
        for agent in self.agents:
            self._output += agent.datagrams_to_send(now)
        self._collect(now)
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        times = [agent.get_timer() for agent in self.agents]
        if self._old is not None:
            times.append(self._old.until)
        if self.trial is not None and self.trial.path.working and self.trial.path.ready:
            times.append(self._settle_at)
        return earliest(times)

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`."""
        for agent in self.agents:
            agent.handle_timer(now)
        if self._old is not None and now >= self._old.until:
            self._old.agent.close(now)
            self._old = None
        self._collect(now)

    def next_event(self, now: float) -> Event | None:
        """Remove and return the oldest event; None if there is none."""
        self._collect(now)
        return self._events.popleft() if self._events else None

    def close(self, now: float) -> None:
        """End all sessions."""
        for agent in self.agents:
            agent.close(now)

    def _collect(self, now: float) -> None:
        newest = self.newest
        for agent in self.agents:
            while (event := agent.next_event()) is not None:
                if agent is self.current and isinstance(event, _PATHS):
                    if isinstance(event, Selected):
                        self._take_path(event.pair, now)
                    self._events.append(event)
                elif agent is self.trial and isinstance(event, _ENDS):
                    self._events.append(event if isinstance(event, PathFailed) else PathFailed(None))
                if agent is newest and isinstance(event, (LocalCandidate, GatheringDone, CheckingStarted)):
                    self._events.append(event)
        if self.trial is not None and self.trial.state in (AgentState.FAILED, AgentState.CLOSED):
            self.trial = None
        self._move(now)

    def _move(self, now: float) -> None:
        """Start to use the session on trial if it has a path that is to replace the old one now."""
        trial = self.trial
        pair = None if trial is None else trial.selected
        if trial is None or pair is None:
            return
        before = self.current.selected
        # A working path is kept until a better one is found and the controlling side's nomination has arrived
        keep = before is not None and (not trial.path.nominated or _rank(pair) < _rank(before))
        useful = trial.path.working and trial.path.ready
        early = now < self._settle_at
        if self.working and ((keep and early) or not useful):
            return
        # A path that carries only small datagrams is left for one that carries large ones
        if self.current.path.size_limited and (not useful or (not trial.path.nominated and early)):
            return
        if self._old is not None:
            self._old.agent.close(now)
        self._old = OldSession(self.current, now + LINGER)
        self.current, self.trial = trial, None
        self._take_path(pair, now)
        self._events.append(Selected(pair))

    def _take_path(self, pair: Pair, now: float) -> None:
        if self.damping.selected(pair, now):
            self._hold(now)

    def _hold(self, now: float) -> None:
        for agent in self.agents:
            agent.path.hold(self.damping.held, now)


def _rank(pair: Pair) -> PathKind:
    """Its kind; all relayed paths are alike."""
    return max(pair.kind, PathKind.RELAYED)


class FlapDamping:
    """
    The flap damping of one link, over all of its ICE sessions.

    :ivar short_lived: how many better paths in a row have not lasted for `STEADY`.
    """

    def __init__(self) -> None:
        self.short_lived = 0
        self._pair: Pair | None = None
        # When the current path replaced a worse one (None: it did not), and the kind of that worse one
        self._better_since: float | None = None
        self._worse = PathKind.RELAYED_TWICE
        # The best kind of the better paths that did not last, and the beginning and end of the time for which
        # no better path up to this kind is taken
        self._kind: PathKind | None = None
        self._held = float("-inf"), float("-inf")

    def selected(self, pair: Pair, now: float) -> bool:
        """
        The link takes this pair from now on.

        :return: whether this has changed something: better paths have to wait from now on, or no longer have
            to.
        """
        before, self._pair = self._pair, pair
        if before is None or pair.kind == before.kind:
            return False
        if (pair.local_base, pair.remote_address) == (before.local_base, before.remote_address):
            # More is known about the kind of the same path
            self._better_since = self._better_since if pair.kind > self._worse else None
            return False
        if pair.kind > before.kind:
            self._better_since, self._worse = now, before.kind
            return False
        since, self._better_since = self._better_since, None
        if since is None:
            return False
        if now >= since + STEADY:
            return self.clear()
        self.short_lived += 1
        self._kind = before.kind if self._kind is None else max(before.kind, self._kind)
        if self.short_lived <= FREE:
            return False
        self._held = now, now + min(WAITS[0] * 2.0 ** min(self.short_lived - FREE - 1, 10), WAITS[1])
        return True

    def clear(self) -> bool:
        """
        Take better paths at once again: one has lasted, or one of the two sides is in another network.

        :return: whether they had to wait.
        """
        held = self.held is not None
        self.short_lived, self._kind, self._better_since = 0, None, None
        self._held = float("-inf"), float("-inf")
        return held

    @property
    def held(self) -> tuple[PathKind, float] | None:
        """The best kind that has to wait while a worse path works, and until when; None: no kind has to."""
        kind, until = self._kind, self._held[1]
        return None if kind is None or self.short_lived <= FREE else (kind, until)

    def allowed_at(self, kind: PathKind, part: float = 1.0) -> float:
        """
        Return from when on a path of this kind may be looked for.

        :param part: which part of the wait has to be over: the other side may have left the path earlier.
        """
        held = self.held
        if held is None or kind > held[0]:
            return float("-inf")
        since, until = self._held
        return since + part * (until - since)

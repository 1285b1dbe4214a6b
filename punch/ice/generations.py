"""
The ICE sessions of one link, one after the other (RFC 8445, section 9).

A restart is another session with new credentials, beside the one in use. Its first path takes over from the
old one's: at once where that is in doubt, else as soon as the controlling side has chosen it and it is no
worse, and after a moment in any case. The old session lingers a little, because the other side may still use
it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from punch.ice.agent import Agent, AgentState
from punch.ice.events import (
    CheckingStarted,
    ConsentLost,
    Doubtful,
    Event,
    GatheringDone,
    LocalCandidate,
    PathFailed,
    Recovered,
    Selected,
    Silent,
)
from punch.ice.pairs import Pair
from punch.ice.snapshot import PairStatus
from punch.wire.address import Address, Transmit

SETTLE = 3.0
"""Seconds that a working path is kept for, while the new session has only a worse one, or none agreed on."""
LINGER = 10.0
"""Seconds that the old session still answers."""

_RANKS = {"relay": 0, "host": 2}
_LATE = (ConsentLost, PathFailed)
_PATHS = (Selected, Silent, Doubtful, Recovered, *_LATE)


class Generations:
    """
    The sessions of one link: the one in `use`, the one on `trial`, and perhaps one that lingers.

    Events come as from one agent: paths from the session in use, candidates from the newest one. `PathFailed`
    says that the newest one is over without a path.

    :ivar number: of the newest generation; 0 is that of the call.
    """

    def __init__(self, agent: Agent) -> None:
        self.use = agent
        self.trial: Agent | None = None
        self.number = 0
        self._old: Agent | None = None
        self._old_until = 0.0
        self._settle_at = 0.0
        self._output: list[Transmit] = []
        self._events: deque[Event] = deque()

    @property
    def newest(self) -> Agent:
        """The session that new candidates are for."""
        return self.use if self.trial is None else self.trial

    @property
    def agents(self) -> list[Agent]:
        """All that live."""
        return [agent for agent in (self.use, self.trial, self._old) if agent is not None]

    @property
    def working(self) -> bool:
        """Whether there is a path, and no doubt about it."""
        return self.use.working

    @property
    def selected(self) -> Pair | None:
        """The path to send on now."""
        return self.use.selected

    @property
    def pairs(self) -> list[PairStatus]:
        """All pairs as they are now, to be looked at: of one that both sessions have, the newer try."""
        pairs = {(pair.local, pair.remote): pair for pair in self.use.pairs}
        if self.trial is not None:
            for pair in self.trial.pairs:
                before = pairs.get((pair.local, pair.remote))
                if before is None or not before.selected:
                    pairs[pair.local, pair.remote] = replace(pair, selected=False)
        return list(pairs.values())

    def begin(self, agent: Agent, number: int, now: float) -> None:
        """Restart: try a new session; one that was on trial is given up."""
        self.give_up(now)
        self.trial, self.number = agent, number
        self._settle_at = now + SETTLE

    def give_up(self, now: float) -> None:
        """The session on trial is not wanted any more."""
        if self.trial is not None:
            self.trial.close(now)
            self.trial = None

    def validated(self, local: Address, remote: Address) -> bool:
        """Whether an authenticated check came or was answered between these addresses."""
        return any(agent.validated(local, remote) for agent in self.agents)

    def wants(self, data: bytes, remote: Address) -> bool:
        """Whether this is a STUN message for one of the sessions."""
        return any(agent.wants(data, remote) for agent in self.agents)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Take a STUN message."""
        for agent in self.agents:
            if agent.wants(data, remote):
                agent.receive_datagram(data, remote, local, now)
                break
        self._collect(now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """What to send now."""
        for agent in self.agents:
            self._output += agent.datagrams_to_send(now)
        self._collect(now)
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        times = [agent.get_timer() for agent in self.agents]
        if self._old is not None:
            times.append(self._old_until)
        if self.trial is not None and self.trial.working and self.trial.settled:
            times.append(self._settle_at)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        for agent in self.agents:
            agent.handle_timer(now)
        if self._old is not None and now >= self._old_until:
            self._old.close(now)
            self._old = None
        self._collect(now)

    def next_event(self, now: float) -> Event | None:
        """The oldest event that was not taken yet."""
        self._collect(now)
        return self._events.popleft() if self._events else None

    def close(self, now: float) -> None:
        """End all of them."""
        for agent in self.agents:
            agent.close(now)

    def _collect(self, now: float) -> None:
        newest = self.newest
        for agent in self.agents:
            while (event := agent.next_event()) is not None:
                if agent is self.use and isinstance(event, _PATHS):
                    self._events.append(event)
                elif agent is self.trial and isinstance(event, _LATE):
                    self._events.append(event if isinstance(event, PathFailed) else PathFailed(""))
                if agent is newest and isinstance(event, (LocalCandidate, GatheringDone, CheckingStarted)):
                    self._events.append(event)
        if self.trial is not None and self.trial.state in (AgentState.FAILED, AgentState.CLOSED):
            self.trial = None
        self._move(now)

    def _move(self, now: float) -> None:
        """Take the new session into use if it has a path, and it is time."""
        trial = self.trial
        pair = None if trial is None else trial.selected
        if trial is None or pair is None:
            return
        before = self.use.selected
        # What works is kept until a better path is found, and until the controlling side's choice has arrived
        keep = before is not None and (not trial.agreed or _rank(pair) < _rank(before))
        useful = trial.working and trial.settled
        early = now < self._settle_at
        if self.working and ((keep and early) or not useful):
            return
        # What carries small datagrams is left for what carries large ones, and not for what may be no better
        if self.use.small and (not useful or (not trial.agreed and early)):
            return
        if self._old is not None:
            self._old.close(now)
        self._old, self._old_until = self.use, now + LINGER
        self.use, self.trial = trial, None
        self._events.append(Selected(pair))


def _rank(pair: Pair) -> int:
    return _RANKS.get(pair.path, 1)

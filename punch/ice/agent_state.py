"""The states of an ICE agent, from its making to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder


class AgentState(Enum):
    """
    NEW: the peer's credentials are not known. CHECKING: looking for a path. CONNECTED: a pair is selected.
    FAILED: there is none, or its consent was lost. CLOSED: nobody wants one any more.
    """

    NEW = "new"
    CHECKING = "checking"
    CONNECTED = "connected"
    FAILED = "failed"
    CLOSED = "closed"


class AgentLifecycle(Protocol):
    """What can happen to an agent. An input that makes no sense in a state changes nothing there."""

    def start(self) -> None:
        """The peer's credentials are known."""

    def connect(self) -> None:
        """A pair was selected."""

    def fail(self) -> None:
        """No pair works, or none works any more."""

    def close(self) -> None:
        """We want no path any more."""


@dataclass
class AgentLifecycleState:
    """Where the machine is, for those who look at it from outside."""

    now: AgentState = AgentState.NEW


def _build() -> Callable[[AgentLifecycleState], AgentLifecycle]:
    builder = TypeMachineBuilder(AgentLifecycle, AgentLifecycleState)

    def enter(state: AgentState) -> Callable[[AgentLifecycle, AgentLifecycleState], None]:
        def entered(_: AgentLifecycle, core: AgentLifecycleState) -> None:
            core.now = state

        return entered

    new = builder.state("new")
    checking = builder.state("checking")
    connected = builder.state("connected")
    failed = builder.state("failed")
    closed = builder.state("closed")

    places = {
        AgentState.NEW: new,
        AgentState.CHECKING: checking,
        AgentState.CONNECTED: connected,
        AgentState.FAILED: failed,
        AgentState.CLOSED: closed,
    }
    moves = [
        (new, AgentLifecycle.start, AgentState.CHECKING),
        (new, AgentLifecycle.close, AgentState.CLOSED),
        (checking, AgentLifecycle.connect, AgentState.CONNECTED),
        (checking, AgentLifecycle.fail, AgentState.FAILED),
        (checking, AgentLifecycle.close, AgentState.CLOSED),
        (connected, AgentLifecycle.fail, AgentState.FAILED),
        (connected, AgentLifecycle.close, AgentState.CLOSED),
        (failed, AgentLifecycle.close, AgentState.CLOSED),
    ]
    for source, happening, target in moves:
        source.upon(happening).to(places[target])(enter(target))
    for idle, happening in [
        (new, AgentLifecycle.connect),
        (new, AgentLifecycle.fail),
        (checking, AgentLifecycle.start),
        (connected, AgentLifecycle.start),
        (connected, AgentLifecycle.connect),
        (failed, AgentLifecycle.start),
        (failed, AgentLifecycle.connect),
        (failed, AgentLifecycle.fail),
        (closed, AgentLifecycle.start),
        (closed, AgentLifecycle.connect),
        (closed, AgentLifecycle.fail),
        (closed, AgentLifecycle.close),
    ]:
        idle.upon(happening).loop().returns(None)
    return builder.build()


new_lifecycle = _build()

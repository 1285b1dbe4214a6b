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


class Lifecycle(Protocol):
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
class LifecycleState:
    """Where the machine is, for those who look at it from outside."""

    now: AgentState = AgentState.NEW


def _build() -> Callable[[LifecycleState], Lifecycle]:
    builder = TypeMachineBuilder(Lifecycle, LifecycleState)

    def enter(state: AgentState) -> Callable[[Lifecycle, LifecycleState], None]:
        def entered(_: Lifecycle, core: LifecycleState) -> None:
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
        (new, Lifecycle.start, AgentState.CHECKING),
        (new, Lifecycle.close, AgentState.CLOSED),
        (checking, Lifecycle.connect, AgentState.CONNECTED),
        (checking, Lifecycle.fail, AgentState.FAILED),
        (checking, Lifecycle.close, AgentState.CLOSED),
        (connected, Lifecycle.fail, AgentState.FAILED),
        (connected, Lifecycle.close, AgentState.CLOSED),
        (failed, Lifecycle.close, AgentState.CLOSED),
    ]
    for source, happening, target in moves:
        source.upon(happening).to(places[target])(enter(target))
    for idle, happening in [
        (new, Lifecycle.connect),
        (new, Lifecycle.fail),
        (checking, Lifecycle.start),
        (connected, Lifecycle.start),
        (connected, Lifecycle.connect),
        (failed, Lifecycle.start),
        (failed, Lifecycle.connect),
        (failed, Lifecycle.fail),
        (closed, Lifecycle.start),
        (closed, Lifecycle.connect),
        (closed, Lifecycle.fail),
        (closed, Lifecycle.close),
    ]:
        idle.upon(happening).loop().returns(None)
    return builder.build()


new_lifecycle = _build()

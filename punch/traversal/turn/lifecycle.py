"""The states of an allocation, as its client sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder


class ClientState(Enum):
    """
    NEW: nothing was asked for. ALLOCATING: asked, not answered. ALLOCATED: it relays. CLOSING: it is being
    given back. OVER: there is none any more, and never will be.
    """

    NEW = "new"
    ALLOCATING = "allocating"
    ALLOCATED = "allocated"
    CLOSING = "closing"
    OVER = "over"


class Lifecycle(Protocol):
    """What can happen to an allocation."""

    def start(self) -> None:
        """We asked for it."""

    def allocated(self) -> None:
        """The server gave it."""

    def close(self) -> None:
        """We asked the server to take it back."""

    def end(self) -> None:
        """It was refused, taken back, or lost."""


@dataclass
class LifecycleState:
    """Where the machine is, for those who look at it from outside."""

    now: ClientState = ClientState.NEW


def _build() -> Callable[[LifecycleState], Lifecycle]:
    builder = TypeMachineBuilder(Lifecycle, LifecycleState)

    def enter(state: ClientState) -> Callable[[Lifecycle, LifecycleState], None]:
        def entered(_: Lifecycle, core: LifecycleState) -> None:
            core.now = state

        return entered

    places = {state: builder.state(state.value) for state in ClientState}
    new, allocating, allocated, closing, over = places.values()
    for source, happening, target in [
        (new, Lifecycle.start, ClientState.ALLOCATING),
        (new, Lifecycle.end, ClientState.OVER),
        (allocating, Lifecycle.allocated, ClientState.ALLOCATED),
        (allocating, Lifecycle.close, ClientState.CLOSING),
        (allocating, Lifecycle.end, ClientState.OVER),
        (allocated, Lifecycle.close, ClientState.CLOSING),
        (allocated, Lifecycle.end, ClientState.OVER),
        (closing, Lifecycle.end, ClientState.OVER),
    ]:
        source.upon(happening).to(places[target])(enter(target))
    over.upon(Lifecycle.end).loop().returns(None)
    return builder.build()


new_lifecycle = _build()

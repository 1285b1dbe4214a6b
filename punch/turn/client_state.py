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


class ClientLifecycle(Protocol):
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
class ClientLifecycleState:
    """Where the machine is, for those who look at it from outside."""

    now: ClientState = ClientState.NEW


def _build() -> Callable[[ClientLifecycleState], ClientLifecycle]:
    builder = TypeMachineBuilder(ClientLifecycle, ClientLifecycleState)

    def enter(state: ClientState) -> Callable[[ClientLifecycle, ClientLifecycleState], None]:
        def entered(_: ClientLifecycle, core: ClientLifecycleState) -> None:
            core.now = state

        return entered

    places = {state: builder.state(state.value) for state in ClientState}
    new, allocating, allocated, closing, over = places.values()
    for source, happening, target in [
        (new, ClientLifecycle.start, ClientState.ALLOCATING),
        (new, ClientLifecycle.end, ClientState.OVER),
        (allocating, ClientLifecycle.allocated, ClientState.ALLOCATED),
        (allocating, ClientLifecycle.close, ClientState.CLOSING),
        (allocating, ClientLifecycle.end, ClientState.OVER),
        (allocated, ClientLifecycle.close, ClientState.CLOSING),
        (allocated, ClientLifecycle.end, ClientState.OVER),
        (closing, ClientLifecycle.end, ClientState.OVER),
    ]:
        source.upon(happening).to(places[target])(enter(target))
    over.upon(ClientLifecycle.end).loop().returns(None)
    return builder.build()


new_lifecycle = _build()

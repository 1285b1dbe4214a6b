"""
The life of a link as a state machine: waiting for a proof, open, closing in good order, closed.

    Waiting ──proved──▶ Open ──close──▶ Closing ──answered or too late──▶ Closed
       └──────── anything that ends it, from any state ─────────────────────▲
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from automat import TypeMachineBuilder, pep614

from punch.link.events import CloseCode


@dataclass(frozen=True)
class Ending:
    """Why a link ends, and who says so."""

    code: CloseCode
    reason: str
    by_peer: bool = False


@dataclass(frozen=True)
class LifecycleActions:
    """What the machine makes happen."""

    begin: Callable[[], None]
    """The link is proved: announce it."""
    say_goodbye: Callable[[Ending], None]
    """Tell the other side reliably that the link ends, and wait a moment for its answer."""
    finish: Callable[[Ending], None]
    """Close every QUIC connection at once and announce the end."""


class LinkLifecycle(Protocol):
    """What can happen to a link."""

    def proved(self) -> None:
        """A connection has proved itself."""

    def close(self, ending: Ending) -> None:
        """Our side wants to end the link in good order."""

    def end(self, ending: Ending) -> None:
        """The link can't go on: the other side closed it, broke a rule, or is gone."""


def _build() -> Callable[[LifecycleActions], LinkLifecycle]:
    machine = TypeMachineBuilder(LinkLifecycle, LifecycleActions)

    def remember(lifecycle: LinkLifecycle, actions: LifecycleActions, ending: Ending) -> Ending:
        return ending

    waiting = machine.state("Waiting")
    open_ = machine.state("Open")
    closing = machine.state("Closing", remember)
    closed = machine.state("Closed")

    @pep614(waiting.upon(LinkLifecycle.proved).to(open_))
    def begin(lifecycle: LinkLifecycle, actions: LifecycleActions) -> None:
        actions.begin()

    @pep614(waiting.upon(LinkLifecycle.close).to(closed))
    @pep614(waiting.upon(LinkLifecycle.end).to(closed))
    @pep614(open_.upon(LinkLifecycle.end).to(closed))
    def finish(lifecycle: LinkLifecycle, actions: LifecycleActions, ending: Ending) -> None:
        actions.finish(ending)

    @pep614(open_.upon(LinkLifecycle.close).to(closing))
    def goodbye(lifecycle: LinkLifecycle, actions: LifecycleActions, ending: Ending) -> None:
        actions.say_goodbye(ending)

    # Whatever ends it while we say goodbye (the answer, as a rule), the reason stays the one that we gave.
    @pep614(closing.upon(LinkLifecycle.end).to(closed))
    def finish_closing(
        lifecycle: LinkLifecycle, actions: LifecycleActions, ours: Ending, ending: Ending
    ) -> None:
        actions.finish(ours)

    open_.upon(LinkLifecycle.proved).loop().returns(None)
    closing.upon(LinkLifecycle.proved, nodata=True).loop().returns(None)
    closing.upon(LinkLifecycle.close, nodata=True).loop().returns(None)
    closed.upon(LinkLifecycle.proved).loop().returns(None)
    closed.upon(LinkLifecycle.close).loop().returns(None)
    closed.upon(LinkLifecycle.end).loop().returns(None)
    return machine.build()


make_lifecycle: Callable[[LifecycleActions], LinkLifecycle] = _build()

"""The end of a service: peers are told, and introductions that are under way are finished first."""

from __future__ import annotations

from collections.abc import Callable, Set

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from punch.identity import PeerID
from punch.rendezvous.registry import Registry

_STEP = 0.1
"""Seconds between two looks at the introductions."""


async def finish_introductions(
    registry: Registry,
    end_sessions: Callable[[Set[PeerID]], None],
    *,
    clock: IReactorTime,
    monotonic: Callable[[], float],
    time: float,
) -> None:
    """
    Refuse new registrations and calls, end the sessions of peers without an introduction at once, and the
    others when their introductions are finished.

    :param end_sessions: tells all peers but these that the service ends, and closes their connections.
    :param time: seconds that this may take at most.
    """
    registry.stop()
    end = monotonic() + time
    while True:
        now = monotonic()
        unfinished = registry.unfinished(now) if now < end else set()
        end_sessions(unfinished)
        if not unfinished:
            return
        await deferLater(clock, min(_STEP, end - now), lambda: None)

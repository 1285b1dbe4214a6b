"""What the processes of a service keep in step through Redis, apart from the directory itself."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.rendezvous.directory.redis_client import RedisProblem

_LOG_PAUSE = 60.0
"""Seconds between two lines of the log about one state."""


class Ask(Protocol):
    """Send commands to Redis, all at once, and return their answers."""

    def __call__(self, *commands: Sequence[str | bytes | int]) -> Awaitable[list[Any]]:
        """:raise RedisProblem: one of them has failed."""


class SharedState(Protocol):
    """Something that processes keep in step."""

    what: str
    """What it is, for messages to the operator."""

    async def synchronize(self, ask: Ask, now: float) -> None:
        """
        Give the other processes what is new here, and take what is new there. Called about once a second, not
        again before it has ended.

        :param now: seconds by the clock of Redis.
        :raise RedisProblem: Redis does not work. It is called again when it does.
        """

    def disconnected(self) -> None:
        """Redis can't be asked from now on, and what others say is not known."""


class SharedStates:
    """
    All that is kept in step.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._states: list[SharedState] = []
        self._running: dict[int, Deferred[None]] = {}
        self._problems: dict[int, str] = {}
        self._logged: dict[int, float] = {}

    def add(self, state: SharedState) -> None:
        """Keep one more in step."""
        self._states.append(state)

    @property
    def problem(self) -> str | None:
        """What is not in step and why, in words that follow "Redis at …: "; None if all is."""
        return next(iter(self._problems.values()), None)

    def synchronize(self, ask: Ask, now: float) -> None:
        """Redis works now: synchronize everything that is not being synchronized already."""
        for number, state in enumerate(self._states):
            if number not in self._running:
                running = Deferred.fromCoroutine(state.synchronize(ask, now))
                self._running[number] = running
                running.addCallback(self._done, number)
                running.addErrback(self._failed, number)
                running.addBoth(self._ended, number)

    def stop(self) -> None:
        """End what is under way."""
        for running in list(self._running.values()):
            running.cancel()
        for state in self._states:
            state.disconnected()

    def _done(self, _: None, number: int) -> None:
        self._problems.pop(number, None)

    def _failed(self, failure: Failure, number: int) -> None:
        if failure.check(CancelledError):  # type: ignore[no-untyped-call]
            return
        what, now = self._states[number].what, self._monotonic()
        due = now >= self._logged.get(number, -math.inf) + _LOG_PAUSE
        if due:
            self._logged[number] = now
        if failure.check(RedisProblem):  # type: ignore[no-untyped-call]
            self._problems[number] = f"{failure.value}; {what} are not in step"
            if due:
                self._log.warn("Redis: {problem}.", problem=self._problems[number])
            return
        # A mistake of ours: the service goes on without, and says so.
        self._problems[number] = f"{what} are not in step ({type(failure.value).__name__})"
        if due:
            self._log.failure("What processes share is not in step.", failure)

    def _ended(self, _: None, number: int) -> None:
        self._running.pop(number, None)

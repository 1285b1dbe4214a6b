"""Questions to Redis take turns, so that each is answered soon even if many come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.logger import Logger

from punch.rendezvous.directory.redis_client import RedisConnection, RedisProblem

IN_FLIGHT = 64
"""Questions at once. Others wait."""
MOST_WAITING = 4096
"""Questions and messages that wait for their turn; beyond, calls fail and messages are lost."""
_LOG_PAUSE = 60.0
"""Seconds between two warnings that more comes than Redis answers."""


class Turns:
    """
    The questions of one process.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._turns = DeferredSemaphore(IN_FLIGHT)
        self._logged = -math.inf

    def is_overloaded(self) -> bool:
        """Whether so much waits for Redis that nothing may be added; the log tells it once a minute."""
        if len(self._turns.waiting) < MOST_WAITING:
            return False
        now = self._monotonic()
        if now >= self._logged + _LOG_PAUSE:
            self._logged = now
            self._log.warn("Redis answers more slowly than calls come: some of them fail.")
        return True

    async def ask(self, commands: RedisConnection, *questions: Sequence[str | bytes | int]) -> list[Any]:
        """
        Wait for a turn, send commands, all at once, and return their answers.

        :raise RedisProblem: one of them has failed, or the connection is lost.
        """
        return await self.ask_for(commands, lambda: questions)

    async def ask_for(
        self,
        commands: RedisConnection,
        questions: Callable[[], Sequence[Sequence[str | bytes | int]]],
    ) -> list[Any]:
        """As `ask`, with commands that are made when their turn has come. Turns come in order."""
        try:
            await self._turns.acquire()
        except CancelledError as error:
            raise RedisProblem("its connection is lost") from error
        try:
            return await commands.ask(*questions())
        finally:
            if not commands.open:
                # All that wait fail now, and not each within the failure of the one before it.
                for each in list(self._turns.waiting):
                    each.cancel()
            self._turns.release()

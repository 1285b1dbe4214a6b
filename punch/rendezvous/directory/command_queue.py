"""Commands to Redis wait in a queue, so that each is answered soon after it was sent even if many come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.logger import Logger

from punch.rendezvous.directory.redis_client import RedisConnection, RedisProblem

IN_FLIGHT = 64
"""Calls of `ask` whose commands are sent and not answered yet. Others wait."""
MOST_WAITING = 4096
"""Calls that wait; beyond, calls between peers fail and messages are lost."""
_LOG_PAUSE = 60.0
"""Seconds between two warnings that more comes than Redis answers."""


class CommandQueue:
    """
    The commands of one process.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._places = DeferredSemaphore(IN_FLIGHT)
        self._logged = -math.inf

    def is_overloaded(self) -> bool:
        """Whether so much waits for Redis that nothing may be added; the log tells it once a minute."""
        if len(self._places.waiting) < MOST_WAITING:
            return False
        now = self._monotonic()
        if now >= self._logged + _LOG_PAUSE:
            self._logged = now
            self._log.warn("Redis answers more slowly than calls come: some of them fail.")
        return True

    async def ask(self, connection: RedisConnection, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """
        Wait for their turn, then send commands, all at once, and return their answers.

        :raise RedisProblem: one of them has failed, or the connection is lost.
        """
        return await self.ask_for(connection, lambda: commands)

    async def ask_for(
        self,
        connection: RedisConnection,
        commands: Callable[[], Sequence[Sequence[str | bytes | int]]],
    ) -> list[Any]:
        """As `ask`, with commands that are made when they are sent, which is in the order of the calls."""
        try:
            await self._places.acquire()
        except CancelledError as error:
            raise RedisProblem("its connection is lost") from error
        try:
            return await connection.ask(*commands())
        finally:
            if not connection.open:
                # All that wait fail now, and not each within the failure of the one before it.
                for each in list(self._places.waiting):
                    each.cancel()
            self._places.release()

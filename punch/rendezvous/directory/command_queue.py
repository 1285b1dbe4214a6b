"""Commands to Redis wait in a queue, so that each is answered soon after it was sent even if many come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from punch.net.rate_limits import NoRoom, Shares, Source, SourceTable
from punch.rendezvous.directory.redis_client import QueueFull, RedisConnection, RedisProblem

IN_FLIGHT = 64
"""Calls of `ask` whose commands are sent and not answered yet. Others wait."""
MOST_WAITING = 4096
"""
Calls for peers that wait. When there are so many, the newest of the source that has most make room for those
of others: then calls between peers fail, and messages are lost.
"""
_SHARE = MOST_WAITING // 2
"""Of these, those for one address."""
_LOG_PAUSE = 60.0
"""Seconds between two warnings that more comes than Redis answers."""


class CommandQueue:
    """
    The commands of one process, which are sent in the order in which they come.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._in_flight = 0
        self._numbers = count()
        self._waiting: dict[int, Deferred[None]] = {}
        """The one that came first is the first."""
        self._places: SourceTable[int] = SourceTable(MOST_WAITING, Shares.growing(_SHARE))
        self._logged = -math.inf

    async def ask(
        self,
        connection: RedisConnection,
        *commands: Sequence[str | bytes | int],
        source: Source | None = None,
    ) -> list[Any]:
        """
        Wait for their turn, then send commands, all at once, and return their answers.

        :param source: for whom; None if it is for the process itself, which always may wait.
        :raise QueueFull: too many wait for this source.
        :raise RedisProblem: one of them has failed, or the connection is lost.
        """
        return await self.ask_for(connection, lambda: commands, source)

    async def ask_for(
        self,
        connection: RedisConnection,
        commands: Callable[[], Sequence[Sequence[str | bytes | int]]],
        source: Source | None = None,
    ) -> list[Any]:
        """As `ask`, with commands that are made when they are sent, which is in the order of the calls."""
        if self._in_flight < IN_FLIGHT:
            self._in_flight += 1
        else:
            await self._wait(source)
        try:
            return await connection.ask(*commands())
        finally:
            if not connection.open:
                # All that wait fail now, and not each within the failure of the one before it.
                for number in list(self._waiting):
                    self._take(number).errback(RedisProblem("its connection is lost"))
            if self._waiting:
                self._take(next(iter(self._waiting))).callback(None)
            else:
                self._in_flight -= 1

    def _wait(self, source: Source | None) -> Deferred[None]:
        number = next(self._numbers)
        if source is not None:
            try:
                displaced = self._places.room(source)
            except NoRoom as error:
                raise self._full() from error
            if displaced is not None:
                self._take(displaced).errback(self._full())
            self._places.enter(source, number)
        waiting = self._waiting[number] = Deferred()
        return waiting

    def _take(self, number: int) -> Deferred[None]:
        self._places.leave(number)
        return self._waiting.pop(number)

    def _full(self) -> QueueFull:
        """The log tells it once a minute."""
        now = self._monotonic()
        if now >= self._logged + _LOG_PAUSE:
            self._logged = now
            self._log.warn("Redis answers more slowly than calls come: some of them fail.")
        return QueueFull("it answers more slowly than calls come")

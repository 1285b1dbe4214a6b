"""
What waits for Redis: commands, so that each is answered soon after it was sent, even if there are many; and
messages, while Redis is away or the process that is to receive them has not connected to it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.net.rate_limits import NoRoom, SourceTable
from punch.net.sources import Shares, Source
from punch.rendezvous.directory.messages import PeerLost, PeerReply, PeerRequest
from punch.rendezvous.directory.redis_client import RedisConnection, RedisProblem

T = TypeVar("T")

IN_FLIGHT = 64
"""Calls of `ask` whose commands are sent and not answered yet. Others wait."""
MOST_WAITING = 4096
"""
Calls for peers that wait. When there are so many, the newest of the source that has most make room for those
of others: then calls between peers fail, and messages are lost.
"""
_SHARE = MOST_WAITING // 2
"""Of these, those for one address."""
MOST_KEPT = 1024
"""Messages that are kept at most, half of them for one address. A message has at most some 12 KiB."""
KEPT_TIME = 120.0
"""Seconds for which a message is kept. Its call is over by then (`ring_time` and `answered_time`)."""
_LOG_PAUSE = 60.0
"""Seconds between two warnings that more comes than Redis answers."""


class QueueFull(RedisProblem):
    """A command was not sent, because too many wait for its source."""


class CommandQueue:
    """
    The commands of one process, which are sent in the order in which they come.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._in_flight = 0
        self._sending = False
        """Whether those that wait are being sent."""
        self._numbers = count()
        self._waiting: dict[int, Deferred[None]] = {}
        """By number, in the order of arrival."""
        self._places: SourceTable[int] = SourceTable(MOST_WAITING, Shares.growing(_SHARE))
        self._logged = -math.inf

    def ask(
        self,
        connection: RedisConnection,
        *commands: Sequence[str | bytes | int],
        source: Source | None = None,
    ) -> Deferred[list[Any]]:
        """
        Send commands together when it is their turn, and return their answers.

        :param source: for whom; None if it is for the process itself, whose commands may always wait.
        :raise QueueFull: too many wait for this source.
        :raise RedisProblem: one of them has failed, or the connection is lost.
        """
        return self.ask_for(connection, lambda: commands, source)

    def ask_for(
        self,
        connection: RedisConnection,
        commands: Callable[[], Sequence[Sequence[str | bytes | int]]],
        source: Source | None = None,
    ) -> Deferred[list[Any]]:
        """As `ask`, but `commands` is called to make them when they are sent, in the order of the calls."""
        if self._in_flight < IN_FLIGHT and not self._waiting:
            self._in_flight += 1
            return self._send(connection, commands)
        try:
            waiting = self._wait(source)
        except QueueFull as full:
            return fail(full)
        return waiting.addCallback(lambda _: self._send(connection, commands))

    def _send(
        self, connection: RedisConnection, commands: Callable[[], Sequence[Sequence[str | bytes | int]]]
    ) -> Deferred[list[Any]]:
        try:
            answered = connection.ask(*commands())
        except Exception:  # whatever the caller's function raises, which the caller gets back
            answered = fail()
        return answered.addBoth(self._next, connection)

    def _next(self, result: T, connection: RedisConnection) -> T:
        """Commands were answered, or have failed: send the next ones."""
        self._in_flight -= 1
        if not connection.open or connection.given_up:
            # All that wait fail now. What is done about that may fill the queue, and displace some of them
            for number in list(self._waiting):
                if number in self._waiting:
                    self._take(number).errback(RedisProblem("its connection is lost"))
        if not self._sending:
            # Commands that fail at once come back here: not each within the failure of the one before it.
            self._sending = True
            while self._waiting and self._in_flight < IN_FLIGHT:
                self._in_flight += 1
                self._take(next(iter(self._waiting))).callback(None)
            self._sending = False
        return result

    def _wait(self, source: Source | None) -> Deferred[None]:
        number = next(self._numbers)
        displaced = None
        if source is not None:
            try:
                newest = self._places.room(source)
            except NoRoom as error:
                raise self._full() from error
            if newest is not None:
                displaced = self._take(newest)
            self._places.enter(source, number)

        def cancelled(_: Deferred[None]) -> None:
            self._take(number)

        waiting = self._waiting[number] = Deferred(cancelled)
        if displaced is not None:
            # Last, since it may lead to other calls for this queue
            displaced.errback(self._full())
        return waiting

    def _take(self, number: int) -> Deferred[None]:
        self._places.leave(number)
        return self._waiting.pop(number)

    def _full(self) -> QueueFull:
        """Return the error for a call that can't wait, and log that at most once a minute."""
        now = self._monotonic()
        if now >= self._logged + _LOG_PAUSE:
            self._logged = now
            self._log.warn("Redis answers more slowly than calls come: some of them fail.")
        return QueueFull("it answers more slowly than calls come")


class UndeliveredMessages:
    """
    Messages that are to be sent again, in order, because Redis was away or their process may still be
    connecting to it. A message may have been received nevertheless, if the connection to Redis was lost
    before its answer came.

    All times are monotonic seconds. A message that has waited for `KEPT_TIME` is dropped. When there is no
    room, the source with the most messages loses its oldest one; a source that has used up its share loses
    its own oldest one.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._messages: dict[str, dict[int, tuple[PeerRequest | PeerReply | PeerLost, Source]]] = {}
        """By process and number."""
        self._kept: dict[int, tuple[str, float]] = {}
        """By number, the oldest first: the process, and since when."""
        self._places: SourceTable[int] = SourceTable(MOST_KEPT, Shares.growing(MOST_KEPT // 2))

    def __contains__(self, process: object) -> bool:
        """Whether there are messages for a process."""
        return process in self._messages

    @property
    def processes(self) -> list[str]:
        """The processes for which there are messages."""
        return list(self._messages)

    def add(
        self, process: str, message: PeerRequest | PeerReply | PeerLost, source: Source, now: float
    ) -> None:
        """Add a message after those for the same process; it is dropped if other sources have all places."""
        self._drop_old(now)
        try:
            newest = self._places.room(source)
            leaving = None if newest is None else self._places.oldest(self._places.source(newest))
        except NoRoom:
            leaving = self._places.oldest(source)
            if leaving is None:
                return
        if leaving is not None:
            self.forget(leaving)
        number = next(self._numbers)
        self._places.enter(source, number)
        self._kept[number] = process, now
        self._messages.setdefault(process, {})[number] = message, source

    def first(
        self, process: str, now: float
    ) -> tuple[int, PeerRequest | PeerReply | PeerLost, Source] | None:
        """Return the first message for a process, with its number and source; None if there is none."""
        self._drop_old(now)
        for number, (message, source) in self._messages.get(process, {}).items():
            return number, message, source
        return None

    def forget(self, number: int) -> None:
        """Remove a message, if it is still there."""
        if number not in self._kept:
            return
        self._places.leave(number)
        process, _ = self._kept.pop(number)
        del self._messages[process][number]
        if not self._messages[process]:
            del self._messages[process]

    def forget_all(self, process: str) -> None:
        """Remove all messages for a process."""
        for number in list(self._messages.get(process, ())):
            self.forget(number)

    def _drop_old(self, now: float) -> None:
        while self._kept:
            number, (_, since) = next(iter(self._kept.items()))
            if now < since + KEPT_TIME:
                return
            self.forget(number)


def in_background(connection: RedisConnection, work: Coroutine[Any, Any, object] | Deferred[Any]) -> None:
    """
    Let something run of which nobody awaits the end. It may fail because Redis goes away: everything is
    written anew once Redis is back.

    :param connection: it is given up if Redis refuses something. Otherwise, what was refused would be
        missing, and nobody would notice.
    """
    ensureDeferred(work).addErrback(_refused, connection)


def _refused(failure: Failure, connection: RedisConnection) -> None:
    failure.trap(RedisProblem)  # type: ignore[no-untyped-call]
    if isinstance(failure.value, RedisProblem) and not isinstance(failure.value, QueueFull):
        connection.give_up(failure.value)


def ignore(failure: Failure, kind: type[Exception]) -> None:
    """Let a failure of one kind have no effect, as errback."""
    failure.trap(kind)  # type: ignore[no-untyped-call]

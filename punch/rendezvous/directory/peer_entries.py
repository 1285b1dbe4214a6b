"""
The entries of the directory in Redis: at which process each peer is, and who waits for it. An entry is
written when a peer registers, refreshed while it is registered, and written again if it has been removed or
replaced by another one. `ClockOffset` estimates the clock of Redis, by which registrations are ordered.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from punch.identity import PeerID
from punch.net.sources import Source
from punch.rendezvous.directory.command_queue import CommandQueue, ignore, in_background
from punch.rendezvous.directory.messages import Message, PeerAwaited, PeerClaimed, ReturnMessage, derive
from punch.rendezvous.directory.redis_client import RedisConnection

_KEPT = 30
"""How many of the newest answers are kept; the quickest of them counts."""
_DRIFT = 0.005
"""Seconds by which two clocks may drift apart while that many answers come."""


class ClockOffset:
    """
    What to add to own seconds to get those of the other clock.

    An answer shows the other clock at some time between question and answer. The middle is taken, so the
    offset is wrong by half the round-trip time at most. The quickest of the newest answers counts, as in
    NTP's clock filter (RFC 5905, section 10): a slow one would put all that happens until the next one in a
    wrong order. If two answers contradict each other, the other clock was set, and only the newer one counts.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._answers: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """By how much each may be wrong, and the offset that it tells; the newest last."""

    def answered(self, there: float, asked: float, answered: float) -> None:
        """
        Take an answer.

        :param there: what the other clock showed, in seconds.
        :param asked: when the question was sent, in own seconds.
        :param answered: when the answer came.
        """
        error, offset = (answered - asked) / 2, there - (asked + answered) / 2
        if any(abs(offset - each) > error + wrong + _DRIFT for wrong, each in self._answers):
            self._answers.clear()
        self._answers.append((error, offset))
        self.seconds = min(reversed(self._answers), key=lambda each: each[0])[1]


ENTRY_LIFE = 600
"""Seconds for which the entry of a peer is kept without a refresh."""
REFRESH = 200.0
"""Seconds within which all entries are refreshed."""
AWAIT_LIFE = 3600
"""Seconds for which a process is told that a peer is back."""
_CHUNK = 100
"""Entries that are written or removed at once, for example after Redis was away or flushed…"""
_PAUSE = 0.05
"""…and seconds until the next ones."""

_RELEASE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
"""The compare-and-delete of Redis' documentation (SET, patterns)."""

Send = Callable[[RedisConnection, str, Message], Awaitable[object]]


@dataclass
class _LocalPeer:
    """
    The registration of a peer at this process.

    :ivar since: when it registered, in monotonic seconds.
    :ivar value: what this process has written for it.
    """

    since: float
    value: bytes | None = None


class PeerEntries:
    """
    The entries of the peers of one process, and what it reads of others.

    :param name: the name of this process.
    :param key: a secret with which the keys of Redis are made of peer IDs.
    :param queue: sends the commands.
    :param monotonic: monotonic seconds.
    :param offset: what to add to these to get the time that Redis shows.
    :param awaited: returns the peers that somebody here waits for.
    :param send: sends a message to another process.
    """

    def __init__(
        self,
        name: str,
        key: bytes,
        queue: CommandQueue,
        *,
        reactor: IReactorTime,
        monotonic: Callable[[], float],
        offset: Callable[[], float],
        awaited: Callable[[], Collection[PeerID]],
        send: Send,
    ) -> None:
        self._name = name
        self._key = key
        self._queue = queue
        self._reactor = reactor
        self._monotonic = monotonic
        self._offset = offset
        self._wanted = awaited
        self._send = send
        self._entries: OrderedDict[PeerID, _LocalPeer] = OrderedDict()
        """The one that is to be refreshed next is the first."""
        self._awaited: set[PeerID] = set()
        """The peers in whose set of waiting processes this one may be."""
        self._pending: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._syncing: Deferred[None] | None = None

    def claim(self, peer: PeerID, commands: RedisConnection | None) -> None:
        """A peer has registered here just now."""
        self._entries[peer] = _LocalPeer(self._monotonic())
        self._entries.move_to_end(peer)
        if commands is not None:
            in_background(commands, self.write(commands, peer))

    def release(self, peer: PeerID, commands: RedisConnection | None) -> None:
        """A peer is no longer registered here."""
        entry = self._entries.pop(peer, None)
        if entry is not None and entry.value is not None and commands is not None:
            in_background(
                commands, self._queue.ask(commands, ("EVAL", _RELEASE, 1, self._key_of(peer), entry.value))
            )

    def registered_at(self, peer: PeerID) -> int | None:
        """When a peer registered here, by the clock of Redis, in microseconds; None if it is not here."""
        entry = self._entries.get(peer)
        return None if entry is None else self._time_of(entry)

    def write_all(self, commands: RedisConnection) -> None:
        """Write all entries, and for whom this process waits, a part at a time."""
        self._pending = deque(partial(self._synchronize, commands, peer) for peer in self._entries)
        self._pending.extend(partial(self.await_return, commands, peer) for peer in self._wanted())
        if self._syncing is None:
            self._syncing = Deferred.fromCoroutine(self._write_pending(commands))
            self._syncing.addErrback(ignore, CancelledError)
            self._syncing.addBoth(self._written)

    def stop(self) -> None:
        """Stop what `write_all` began."""
        if self._syncing is not None:
            self._syncing.cancel()

    def _written(self, _: object) -> None:
        self._syncing = None

    async def _write_pending(self, commands: RedisConnection) -> None:
        while self._pending:
            for _ in range(min(_CHUNK, len(self._pending))):
                in_background(commands, self._pending.popleft()())
            await deferLater(self._reactor, _PAUSE, lambda: None)

    def refresh_some(self, commands: RedisConnection, interval: float) -> None:
        """
        Refresh the entries that have waited longest: so many that all are refreshed in `REFRESH`.

        :param interval: the seconds between two calls.
        """
        for _ in range(math.ceil(len(self._entries) * interval / REFRESH)):
            peer = next(iter(self._entries))
            self._entries.move_to_end(peer)
            in_background(commands, self._synchronize(commands, peer))

    async def _synchronize(self, commands: RedisConnection, peer: PeerID) -> None:
        """
        Refresh the entry of a peer, or write it again if it has been removed or replaced by another one.
        """
        key = self._key_of(peer)
        (found,) = await self._queue.ask(commands, ("GET", key))
        entry = self._entries.get(peer)
        if entry is not None and found is not None and found == entry.value:
            await self._queue.ask(commands, ("EXPIRE", key, ENTRY_LIFE))
        else:
            await self.write(commands, peer)

    async def write(self, commands: RedisConnection, peer: PeerID) -> None:
        """
        Write the entry of a peer, if it is here, and tell the process that the entry named before. Only that
        process can say that its registration is newer, since others may write to Redis.
        """
        entry = self._entries.get(peer)
        if entry is None:
            return
        key, since = self._key_of(peer), self._time_of(entry)
        entry.value = f"{self._name} {since}".encode()
        before, _, waiting = await self._queue.ask(
            commands,
            ("GETSET", key, entry.value),
            ("EXPIRE", key, ENTRY_LIFE),
            ("SMEMBERS", self._key_of(peer, "await")),
        )
        process, _ = _read_entry(before)
        if process not in (None, self._name):
            await self._send(commands, str(process), PeerClaimed(peer, since))
        if waiting:
            # Not all that is there now: another process may have begun to wait meanwhile
            await self._queue.ask(commands, ("SREM", self._key_of(peer, "await"), *waiting))
        for name in map(_read_name, waiting):
            if name not in (None, self._name):
                await self._send(commands, str(name), ReturnMessage(peer))

    async def await_return(
        self, commands: RedisConnection, peer: PeerID, source: Source | None = None
    ) -> None:
        """Have this process told when a peer has registered at another one."""
        self._awaited.add(peer)
        key = self._key_of(peer, "await")
        _, _, found = await self._queue.ask(
            commands,
            ("SADD", key, self._name),
            ("EXPIRE", key, AWAIT_LIFE),
            ("GET", self._key_of(peer)),
            source=source,
        )
        # It may have registered meanwhile, which only the process that the entry names can say.
        process, _ = _read_entry(found)
        if process not in (None, self._name):
            await self._send(commands, str(process), PeerAwaited(peer))

    def stop_awaiting(self, commands: RedisConnection) -> None:
        """
        Leave the sets of peers that nobody here waits for any more. Otherwise calls to ever new IDs would
        fill Redis.
        """
        wanted = self._wanted()
        if len(self._awaited) < 2 * len(wanted) + _CHUNK:
            return
        gone = self._awaited.difference(wanted)
        self._awaited -= gone
        leave = [("SREM", self._key_of(peer, "await"), self._name) for peer in gone]
        for first in range(0, len(leave), _CHUNK):
            in_background(commands, self._queue.ask(commands, *leave[first : first + _CHUNK]))

    async def locate(self, commands: RedisConnection, peer: PeerID, source: Source) -> str | None:
        """
        Return the process at which a peer is, as far as Redis knows.

        :raise RedisProblem: it does not answer.
        """
        (found,) = await self._queue.ask(commands, ("GET", self._key_of(peer)), source=source)
        return _read_entry(found)[0]

    def _time_of(self, entry: _LocalPeer) -> int:
        if entry.value is not None:
            return _read_entry(entry.value)[1]
        return int((entry.since + self._offset()) * 1e6)

    def _key_of(self, peer: PeerID, kind: str = "peer") -> str:
        return f"punch:{kind}:{derive(self._key, str(peer)).hex()[:32]}"


def _read_name(value: object) -> str | None:
    """The name of a process, None for anything else."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else ""
    return text if re.fullmatch("[0-9a-f]{32}", text) is not None else None


def _read_entry(value: bytes | None) -> tuple[str | None, int]:
    """The process and the time of an entry; None and 0 for none, or one that is none of ours."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else ""
    if re.fullmatch("[0-9a-f]{32} [0-9]{1,18}", text) is None:
        return None, 0
    process, since = text.split()
    return process, int(since)

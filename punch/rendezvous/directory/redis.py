"""
The directory in Redis.

    punch:owner           which service uses this Redis: a hash of its key
    punch:process:NAME    a process that lives; expires if it does not say so again
    punch:peer:HASH       the process at which a peer is, and since when
    punch:await:HASH      the processes that want to be told when a peer is back
    punch:to:NAME         a channel: messages to a process
    punch:members         see `punch.rendezvous.directory.shared_members`
    punch:counts          see `punch.rendezvous.directory.shared_counts`
    punch:relayed:DAY     see `punch.rendezvous.relay.shared_quotas`

An entry of a peer is only a hint: the process that it names knows whether the peer is there. So entries of a
process that died do no harm, and expire later. Nothing here needs a wall clock: registrations are ordered by
the clock of Redis, which each process estimates.

**Why channels, and no streams.** Redis says at once how many processes got a message: none, if the process
has died. Nothing is stored, so nothing old is delivered, nothing has to be trimmed, and a full disk does not
matter. What is lost when the connection to Redis ends would be too late anyway: calls fail, and are placed
again.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import PeerID, RandomBytes
from punch.net.rate_limits import Source
from punch.rendezvous.directory.command_queue import CommandQueue, QueueFull
from punch.rendezvous.directory.interface import UNKNOWN, DirectoryUnavailable, DirectoryUser
from punch.rendezvous.directory.messages import (
    Message,
    MessageError,
    PeerAwaited,
    PeerClaimed,
    PeerLost,
    PeerReply,
    PeerRequest,
    PeerReturned,
    Sealer,
    derive,
)
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.directory.redis_client import (
    OLDEST,
    RedisConnection,
    RedisProblem,
    primary_of,
)
from punch.rendezvous.directory.shared_state import SharedState, SharedStates

BEAT = 1.0
"""Seconds between two signs of life."""
LIFE = 3
"""Seconds for which one is good. Another process is taken for dead after two beats without one."""
ENTRY_LIFE = 600
"""Seconds for which the entry of a peer is kept without a refresh."""
REFRESH = 200.0
"""Seconds within which all entries are refreshed."""
AWAIT_LIFE = 3600
"""Seconds for which a process is told that a peer is back."""
OWNER_LIFE = 10
"""Seconds after which a Redis that a service has left may be used by another one."""
MAX_CLOCK_ERROR = 60.0
"""Seconds by which the wall clocks of this machine and of Redis may differ before the operator is told."""
LAST_TIME = 0.5
"""Seconds that Redis has, when this process stops, to take what was said last."""
_CHUNK = 100
"""Entries that are written or removed at once, for example after Redis was away or flushed…"""
_PAUSE = 0.05
"""…and seconds until the next ones."""
_FIRST_DELAY, _LAST_DELAY = 0.25, 2.0
"""Mean seconds until Redis is tried again, times 0.5 to 1.5."""
_LOG_PAUSE = 60.0
"""Seconds between two lines of the log about messages that can't be read, and about reasons that change."""

_RELEASE = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
"""The compare-and-delete of Redis' documentation (SET, patterns)."""


@dataclass
class _LocalPeer:
    """
    The registration of a peer at this process.

    :ivar since: when it registered, in monotonic seconds.
    :ivar value: what this process has written for it.
    """

    since: float
    value: bytes | None = None


class RedisDirectory:
    """
    A `Directory` in Redis. It connects, and connects again, by itself.

    :param secret: the service's private key.
    :param monotonic: monotonic seconds.
    :param report: called with `problem` when Redis begins to work, stops to, or has another reason not to.
    :param wall: Unix seconds. Nothing but the check of the clock depends on it.
    """

    _log = Logger()

    def __init__(
        self,
        address: RedisAddress,
        *,
        secret: bytes,
        reactor: Any,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        random: RandomBytes,
        report: Callable[[str | None], None] = lambda problem: None,
    ) -> None:
        self._address = address
        self._wall = wall
        self._report = report
        self._reactor = reactor
        self._monotonic = monotonic
        self._random = random
        self._sealer = Sealer(secret, random)
        self._owner = derive(secret, "owner").hex()[:32]
        self._hash = derive(secret, "peers")
        self._user: DirectoryUser | None = None
        self._running: Deferred[None] | None = None
        self._stopped = False
        self._commands: RedisConnection | None = None
        self._subscriber: RedisConnection | None = None
        self._entries: OrderedDict[PeerID, _LocalPeer] = OrderedDict()
        """The one that is to be refreshed next is the first."""
        self._awaited: set[PeerID] = set()
        """The peers in whose set of waiting processes this one may be."""
        self._pending: deque[Callable[[], Coroutine[Any, Any, None]]] = deque()
        self._syncing: Deferred[None] | None = None
        self._queue = CommandQueue(monotonic)
        self._shared = SharedStates(monotonic)
        self._missing: set[str] = set()
        self._offset = 0.0
        """Add it to monotonic seconds to get the time that Redis shows."""
        self._clock_error = 0.0
        self._failures = 0
        self._reason: str | None = "it is being connected to"
        self._told, self._told_at = "", 0.0
        self._unread_logged = -math.inf

    @property
    def name(self) -> str:
        """The name of this process."""
        return self._sealer.name

    @property
    def problem(self) -> str | None:
        """A sentence that says why the directory does not work now; None if it does."""
        redis = f"Redis at {self._address.location}"
        if self._reason is not None:
            return f"{redis}: {self._reason}. Only peers of this server can call each other."
        if abs(self._clock_error) > MAX_CLOCK_ERROR:
            return (
                f"The clock of this machine and that of {redis} differ by {abs(self._clock_error):.0f} s: "
                "set them right, since credentials for relays expire by these clocks."
            )
        return None if self._shared.problem is None else f"{redis}: {self._shared.problem}."

    # -- Directory --

    def start(self, user: DirectoryUser) -> None:
        """Connect, and stay connected."""
        self._user = user
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(_ignore, CancelledError)
        self._running.addErrback(lambda failure: self._log.failure("The directory has failed.", failure))

    def stop(self) -> Deferred[None]:
        """
        Disconnect when Redis has what was said until now, such as which peers and calls are gone, or after
        `LAST_TIME`. What this process has written expires, and its entries are no use to anyone before.
        """
        self._stopped = True
        if self._commands is None:
            self._disconnect(None)
            return succeed(None)
        if self._subscriber is not None:
            # Others learn at their next message that this process has gone
            self._subscriber.abort()
        said = Deferred.fromCoroutine(self._wait_until_said(self._commands))
        said.addTimeout(LAST_TIME, self._reactor)
        return said.addCallback(self._disconnect)

    async def _wait_until_said(self, commands: RedisConnection) -> None:
        # Commands are sent in order, and so are the answers of Redis
        with suppress(RedisProblem, CancelledError):
            await self._queue.ask(commands, ("TIME",))

    def _disconnect(self, _: object) -> None:
        if self._running is not None:
            self._running.cancel()

    def share(self, state: SharedState) -> None:
        """Keep something else in step with the other processes, too."""
        self._shared.add(state)

    def claim(self, peer: PeerID) -> None:
        """A peer has registered here just now."""
        entry = self._entries[peer] = _LocalPeer(self._monotonic())
        self._entries.move_to_end(peer)
        if self._commands is not None:
            self._in_background(self._write(self._commands, peer, entry))

    def release(self, peer: PeerID) -> None:
        """A peer is no longer registered here."""
        entry = self._entries.pop(peer, None)
        if entry is not None and entry.value is not None and self._commands is not None:
            command = ("EVAL", _RELEASE, 1, self._key_of(peer), entry.value)
            self._in_background(self._queue.ask(self._commands, command))

    def locate(self, peer: PeerID, source: Source = UNKNOWN) -> Deferred[str | None]:
        """Return the other process at which a peer is."""
        return Deferred.fromCoroutine(self._locate(peer, source))

    def await_return(self, peer: PeerID, source: Source = UNKNOWN) -> None:
        """Tell this process when a peer has registered at another one."""
        if self._commands is not None:
            self._in_background(self._await_return(self._commands, peer, source))

    def send(
        self, process: str, message: PeerRequest | PeerReply | PeerLost, source: Source = UNKNOWN
    ) -> None:
        """Send a message to another process."""
        if self._commands is None or not self._commands.open:
            self._process_lost(process)
            return
        self._in_background(self._send(self._commands, process, message, source))

    # -- the connection --

    async def _run(self) -> None:
        while not self._stopped:
            commands = RedisConnection(self._reactor, self._address)
            subscriber = self._subscriber = RedisConnection(self._reactor, self._address, self._received)
            try:
                await self._connect(commands, subscriber)
                while True:
                    await self._beat(commands, subscriber)
                    await self._sleep(BEAT)
            except RedisProblem as problem:
                self._lost(str(problem))
            except (TypeError, ValueError, LookupError) as error:
                self._lost(f"it answers as Redis does not ({error})"[:150])
            finally:
                self._commands = self._subscriber = None
                self._shared.stop()
                if self._syncing is not None:
                    self._syncing.cancel()
                commands.abort()
                subscriber.abort()
            if self._stopped:
                return
            self._failures += 1
            delay = min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures - 1, 10))
            await self._sleep(delay * (0.5 + int.from_bytes(self._random(4), "big") / 2**32))

    async def _connect(self, commands: RedisConnection, subscriber: RedisConnection) -> None:
        host, port = await primary_of(self._reactor, self._address)
        await commands.connect(host, port)
        version = await commands.version()
        if version is not None and version < OLDEST:
            found, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
            raise RedisProblem(f"its version is {found}, and {oldest} is the oldest that works; update it")
        await subscriber.connect(host, port)
        await subscriber.subscribe(f"punch:to:{self.name}")

    async def _beat(self, commands: RedisConnection, subscriber: RedisConnection) -> None:
        """Say that this process lives, and see which others do."""
        process = f"punch:process:{self.name}"
        others = sorted(self._user.depends_on()) if self._user is not None else []
        asked_at = self._monotonic()
        _, owner, lived, _, receivers, time, *alive = await commands.ask(
            ("SET", "punch:owner", self._owner, "NX", "EX", OWNER_LIFE),
            ("GET", "punch:owner"),
            ("EXISTS", process),
            ("SET", process, "1", "EX", LIFE),
            ("PUBLISH", f"punch:to:{self.name}", b""),
            ("TIME",),
            *(("EXISTS", f"punch:process:{other}") for other in others),
        )
        if bytes(owner or b"") != self._owner.encode():
            raise RedisProblem(
                "a rendezvous with another key uses it; if both are one service, copy identity.key of that "
                "one to the state directory of this one, else choose another database"
            )
        await commands.ask(("EXPIRE", "punch:owner", OWNER_LIFE))
        if not receivers or not subscriber.open:
            raise RedisProblem("it has closed the subscription")
        answered_at = self._monotonic()
        there = int(time[0]) + int(time[1]) / 1e6
        self._offset = there - (asked_at + answered_at) / 2
        self._clock_error = self._wall() - there
        if self._commands is None:
            self._found(commands)
        elif not lived:
            # It was flushed, or this process has slept: others may have its peers now.
            self._write_all(commands)
        else:
            self._refresh_some(commands)
        self._stop_awaiting(commands)
        missing = {other for other, lives in zip(others, alive, strict=True) if not lives}
        for other in missing & self._missing:
            self._process_lost(other)
        self._missing = missing
        self._shared.synchronize(partial(self._queue.ask, commands), self._monotonic() + self._offset)

    def _found(self, commands: RedisConnection) -> None:
        self._log.info("Redis works: {address}", address=self._address.location)
        self._commands = commands
        self._reason, self._told, self._failures = None, "", 0
        self._write_all(commands)
        self._report(None)

    def _lost(self, reason: str) -> None:
        self._reason = reason
        now = self._monotonic()
        if reason == self._told or (self._failures and now < self._told_at + _LOG_PAUSE):
            return
        self._told, self._told_at = reason, now
        self._log.warn(
            "Redis at {address} does not work: {reason}", address=self._address.location, reason=reason
        )
        self._report(self.problem)

    def _sleep(self, seconds: float) -> Deferred[None]:
        waiting: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._reactor.callLater(seconds, waiting.callback, None)
        return waiting

    # -- the entries --

    def _write_all(self, commands: RedisConnection) -> None:
        awaited = [] if self._user is None else self._user.awaited_peers()
        self._pending = deque(partial(self._synchronize, commands, peer) for peer in self._entries)
        self._pending.extend(partial(self._await_return, commands, peer) for peer in awaited)
        if self._syncing is None:
            self._syncing = Deferred.fromCoroutine(self._write_pending())
            self._syncing.addErrback(_ignore, CancelledError)
            self._syncing.addBoth(self._written)

    def _written(self, _: object) -> None:
        self._syncing = None

    async def _write_pending(self) -> None:
        while self._pending:
            for _ in range(min(_CHUNK, len(self._pending))):
                self._in_background(self._pending.popleft()())
            await self._sleep(_PAUSE)

    def _refresh_some(self, commands: RedisConnection) -> None:
        for _ in range(math.ceil(len(self._entries) * BEAT / REFRESH)):
            peer = next(iter(self._entries))
            self._entries.move_to_end(peer)
            self._in_background(self._synchronize(commands, peer))

    async def _synchronize(self, commands: RedisConnection, peer: PeerID) -> None:
        """Keep the entry of a peer, or write it again if it is gone or another one stands there."""
        key = self._key_of(peer)
        (found,) = await self._queue.ask(commands, ("GET", key))
        entry = self._entries.get(peer)
        if entry is None:
            return
        if found is not None and found == entry.value:
            await self._queue.ask(commands, ("EXPIRE", key, ENTRY_LIFE))
            return
        await self._write(commands, peer, entry)

    async def _write(self, commands: RedisConnection, peer: PeerID, entry: _LocalPeer) -> None:
        """
        Write the entry of a peer, and tell the process that stood there. Only that process can say that its
        registration is newer, since others may write to Redis.
        """
        key, since = self._key_of(peer), self._time_of(entry)
        entry.value = f"{self.name} {since}".encode()
        before, _, waiting = await self._queue.ask(
            commands,
            ("GETSET", key, entry.value),
            ("EXPIRE", key, ENTRY_LIFE),
            ("SMEMBERS", self._key_of(peer, "await")),
        )
        process, _ = _read_entry(before)
        if process not in (None, self.name):
            await self._send(commands, str(process), PeerClaimed(peer, since))
        if waiting:
            await self._queue.ask(commands, ("DEL", self._key_of(peer, "await")))
        for name in map(_read_name, waiting):
            if name not in (None, self.name):
                await self._send(commands, str(name), PeerReturned(peer))

    async def _await_return(
        self, commands: RedisConnection, peer: PeerID, source: Source | None = None
    ) -> None:
        self._awaited.add(peer)
        key = self._key_of(peer, "await")
        _, _, found = await self._queue.ask(
            commands,
            ("SADD", key, self.name),
            ("EXPIRE", key, AWAIT_LIFE),
            ("GET", self._key_of(peer)),
            source=source,
        )
        # It may have registered meanwhile, which only the process that the entry names can say.
        process, _ = _read_entry(found)
        if process not in (None, self.name):
            await self._send(commands, str(process), PeerAwaited(peer))

    def _stop_awaiting(self, commands: RedisConnection) -> None:
        """
        Leave the sets of peers that nobody here waits for any more, else calls to ever new IDs would fill
        Redis.
        """
        waiting = [] if self._user is None else self._user.awaited_peers()
        if len(self._awaited) < 2 * len(waiting) + _CHUNK:
            return
        gone = self._awaited.difference(waiting)
        self._awaited -= gone
        leave = [("SREM", self._key_of(peer, "await"), self.name) for peer in gone]
        for first in range(0, len(leave), _CHUNK):
            self._in_background(self._queue.ask(commands, *leave[first : first + _CHUNK]))

    def _time_of(self, entry: _LocalPeer) -> int:
        """When a peer registered here, by the clock of Redis, in microseconds."""
        if entry.value is not None:
            return _read_entry(entry.value)[1]
        return int((entry.since + self._offset) * 1e6)

    async def _locate(self, peer: PeerID, source: Source) -> str | None:
        if self._commands is None or not self._commands.open:
            raise DirectoryUnavailable(self.problem or "Redis is not connected.")
        try:
            (found,) = await self._queue.ask(self._commands, ("GET", self._key_of(peer)), source=source)
        except RedisProblem as problem:
            raise DirectoryUnavailable(str(problem)) from problem
        process, _ = _read_entry(found)
        return None if process == self.name else process

    def _key_of(self, peer: PeerID, kind: str = "peer") -> str:
        return f"punch:{kind}:{derive(self._hash, str(peer)).hex()[:32]}"

    # -- messages --

    async def _send(
        self, commands: RedisConnection, process: str, message: Message, source: Source | None = None
    ) -> None:
        # A message gets its number when it is sent.
        def publish() -> list[tuple[str, str, bytes]]:
            return [("PUBLISH", f"punch:to:{process}", self._sealer.seal(process, message))]

        try:
            (receivers,) = await self._queue.ask_for(commands, publish, source)
        except QueueFull:
            return
        except RedisProblem:
            receivers = 0
        if not receivers:
            self._process_lost(process)

    def _process_lost(self, process: str) -> None:
        if self._user is not None:
            self._user.process_lost(process)

    def _received(self, data: bytes) -> None:
        if not data or self._user is None:
            return  # This process has sent it, to see that the subscription works.
        try:
            sender, message = self._sealer.open(data)
        except MessageError as problem:
            if self._monotonic() >= self._unread_logged + _LOG_PAUSE:
                self._unread_logged = self._monotonic()
                self._log.warn("A message came through Redis that is ignored: {why}", why=str(problem))
            return
        entry = self._entries.get(message.peer)
        if isinstance(message, PeerReturned):
            self._user.peer_returned(message.peer)
        elif not isinstance(message, (PeerAwaited, PeerClaimed)):
            self._user.message_received(sender, message)
        elif entry is None:
            return
        elif isinstance(message, PeerAwaited):
            if self._commands is not None:
                self._in_background(self._send(self._commands, sender, PeerReturned(message.peer)))
        else:
            self._claimed(message, entry)

    def _claimed(self, message: PeerClaimed, entry: _LocalPeer) -> None:
        """A peer of this process has registered at another one, too."""
        if self._user is None:
            return
        if self._time_of(entry) < message.since:
            self._user.peer_replaced(message.peer)
        elif self._time_of(entry) > message.since and self._commands is not None:
            # The sender has an older registration, and has written over the entry.
            self._in_background(self._write(self._commands, message.peer, entry))

    def _in_background(self, work: Any) -> None:
        """Do what may fail when Redis goes away; then everything is written anew once it is back."""
        doing: Deferred[Any] = Deferred.fromCoroutine(work)
        doing.addErrback(_ignore, RedisProblem)


def _ignore(failure: Failure, kind: type[Exception]) -> None:
    failure.trap(kind)  # type: ignore[no-untyped-call]


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

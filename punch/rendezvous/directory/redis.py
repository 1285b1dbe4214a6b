"""
The directory in Redis.

    punch:owner           which service uses this Redis: a hash of its key
    punch:process:NAME    a process that lives; expires if it does not say so again
    punch:peer:HASH       the process at which a peer is, and since when
    punch:await:HASH      the processes that want to be told when a peer is back
    punch:to:NAME         a channel: messages to a process
    punch:members         see `punch.rendezvous.directory.shared_members`
    punch:counts, punch:rates, punch:relayed:DAY    see `punch.rendezvous.directory.shared_state`

An entry of a peer is only a hint: the process that it names knows whether the peer is there. So entries of a
process that died do no harm, and expire later. Nothing here needs a wall clock: registrations are ordered by
the clock of Redis, which each process estimates.

**Why channels, and no streams.** Redis says at once how many processes got a message: none, if the process
has died. Redis stores nothing, so nothing has to be trimmed there, and a full disk does not matter. What was
lost with the connection to Redis is sent again by its sender (`UndeliveredMessages`), except `establish`:
such a call fails, and is placed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import PeerID, RandomBytes
from punch.net.sources import Source
from punch.rendezvous.directory.command_queue import (
    CommandQueue,
    QueueFull,
    UndeliveredMessages,
    ignore,
    in_background,
)
from punch.rendezvous.directory.connector import DirectoryUnavailable, DirectoryUser
from punch.rendezvous.directory.messages import (
    SIGN_SIZE,
    UNKNOWN,
    Message,
    PeerAwaited,
    PeerClaimed,
    PeerLost,
    PeerReply,
    PeerRequest,
    ProcessMessageError,
    ReturnMessage,
    Sealer,
    TwinDetector,
    derive,
)
from punch.rendezvous.directory.peer_entries import ClockOffset, PeerEntries
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.directory.redis_client import (
    NOT_REDIS,
    OLDEST,
    RedisConnection,
    RedisProblem,
    primary_of,
)
from punch.rendezvous.directory.shared_state import SharedState, SharedStates
from punch.wire.control import Establish

BEAT = 1.0
"""Seconds between two signs of life."""
LIFE = 3
"""
Seconds for which one is valid. Another process is taken for dead after two beats without one, but not within
`REWRITE_TIME`.
"""
OWNER_LIFE = 10
"""Seconds after which a Redis that a service has left may be used by another one."""
MAX_CLOCK_ERROR = 60.0
"""Seconds by which the wall clocks of this machine and of Redis may differ before the operator is told."""
LAST_TIME = 0.5
"""Seconds that Redis has to receive the last commands when this process stops."""
STEADY = 1.5
"""
If Redis failed within this many seconds after it had begun to work, it has to work for as long before the
operator is told that it does.
"""
REWRITE_TIME = 10.0
"""
Seconds for which other processes may still be connecting again, or writing their entries, after Redis was
away or flushed.
"""
_FIRST_DELAY, _LAST_DELAY = 0.25, 2.0
"""Mean seconds until Redis is tried again, at first and at most; multiplied by 0.5 to 1.5 at random."""
_LOG_PAUSE = 60.0
"""Seconds between two lines of the log about messages that can't be read, and about reasons that change."""


class RedisDirectory:
    """
    A `Directory` in Redis. It connects, and connects again, by itself.

    :param secret: the service's private key.
    :param monotonic: monotonic seconds.
    :param report: called with `problem` when Redis begins to work, stops, or fails for another reason.
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
        self._user: DirectoryUser | None = None
        self._running: Deferred[None] | None = None
        self._stopped = False
        self._commands: RedisConnection | None = None
        self._subscriber: RedisConnection | None = None
        self._queue = CommandQueue(monotonic)
        self._entries = PeerEntries(
            self.name,
            derive(secret, "peers"),
            self._queue,
            reactor=reactor,
            monotonic=monotonic,
            offset=lambda: self._offset.seconds,
            awaited=lambda: [] if self._user is None else self._user.awaited_peers(),
            send=self._send,
        )
        self._shared = SharedStates(monotonic)
        self._twins = TwinDetector(BEAT)
        self._missing: set[str] = set()
        """Of the processes that this one depends on, those that gave no sign of life at the last beat."""
        self._undelivered = UndeliveredMessages()
        self._resending: set[str] = set()
        """The processes to which kept messages are being sent now."""
        self._offset = ClockOffset()
        """Of the clock of Redis, from monotonic seconds."""
        self._clock_error = 0.0
        self._failures = 0
        self._found_at = self._incomplete_until = -math.inf
        self._unsteady = False
        """Whether it failed a moment after it had begun to work, and has not worked for longer since then."""
        self._repeated = False
        """Whether the last failure was an answer for which it was given up within the last minute, too."""
        self._warned = False
        """Whether the operator was told of a failure, and not yet that it is over."""
        self._refused, self._refused_until = "", -math.inf
        """The last such answer that was told, and until when the same one is not told again."""
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
        if self._twins.found(self._monotonic()):
            return (
                f"{redis}: another process has the same name as this one, as a copy of a running machine "
                "has; restart one of them, since calls between the two fail."
            )
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
        self._running.addErrback(ignore, CancelledError)
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
        self._entries.claim(peer, self._commands)

    def release(self, peer: PeerID) -> None:
        """A peer is no longer registered here."""
        self._entries.release(peer, self._commands)

    def locate(self, peer: PeerID, source: Source = UNKNOWN) -> Deferred[str | None]:
        """Return the other process at which a peer is."""
        return Deferred.fromCoroutine(self._locate(peer, source))

    def await_return(self, peer: PeerID, source: Source = UNKNOWN) -> None:
        """Tell this process when a peer has registered at another one."""
        if self._commands is not None:
            in_background(self._commands, self._entries.await_return(self._commands, peer, source))

    def send(
        self, process: str, message: PeerRequest | PeerReply | PeerLost, source: Source = UNKNOWN
    ) -> None:
        """Send a message to another process."""
        commands = self._commands
        if commands is None or not commands.open or process in self._undelivered:
            self._keep(True, process, message, source)
        else:
            self._send(commands, process, message, source).addCallback(self._keep, process, message, source)

    # -- the connection --

    async def _run(self) -> None:
        while not self._stopped:
            commands = RedisConnection(self._reactor, self._address)
            subscriber = self._subscriber = RedisConnection(self._reactor, self._address, self._received)
            try:
                await self._connect(commands, subscriber)
                while True:
                    await self._beat(commands, subscriber)
                    await deferLater(self._reactor, BEAT, lambda: None)
            except RedisProblem as problem:
                self._lost(str(problem))
            except (TypeError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
                self._lost(f"{NOT_REDIS} ({error})"[:150])
            finally:
                self._commands = self._subscriber = None
                self._shared.stop()
                self._entries.stop()
                commands.abort()
                subscriber.abort()
            if self._stopped:
                return
            self._failures += 1
            delay = min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures - 1, 10))
            await deferLater(
                self._reactor, delay * (0.5 + int.from_bytes(self._random(4), "big") / 2**32), lambda: None
            )

    async def _connect(self, commands: RedisConnection, subscriber: RedisConnection) -> None:
        host, port = await primary_of(self._reactor, self._address)
        await commands.connect(host, port)
        version = await commands.version()
        if version is not None and version < OLDEST:
            found, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
            raise RedisProblem(f"its version is {found}, and {oldest} is the oldest that works; update it")
        self._twins.sign = self._random(SIGN_SIZE)
        await subscriber.connect(host, port)
        await subscriber.subscribe(f"punch:to:{self.name}")

    async def _beat(self, commands: RedisConnection, subscriber: RedisConnection) -> None:
        """Report that this process is alive, and see which others are."""
        process = f"punch:process:{self.name}"
        others = sorted(self._user.depends_on()) if self._user is not None else []
        asked_at = self._monotonic()
        _, owner, lived, _, receivers, time, *alive = await commands.ask(
            ("SET", "punch:owner", self._owner, "NX", "EX", OWNER_LIFE),
            ("GET", "punch:owner"),
            ("EXISTS", process),
            ("SET", process, "1", "EX", LIFE),
            ("PUBLISH", f"punch:to:{self.name}", self._twins.sign),
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
        self._offset.answered(there, asked_at, answered_at)
        self._clock_error = self._wall() - there
        if self._commands is not None and self._unsteady and answered_at >= self._found_at + STEADY:
            self._works()
        if self._commands is None:
            self._found(commands)
        elif not lived:
            # It was flushed, or this process has slept: others may have its peers now.
            self._incomplete_until = answered_at + REWRITE_TIME
            self._entries.write_all(commands)
        else:
            self._entries.refresh_some(commands, BEAT)
        self._entries.stop_awaiting(commands)
        missing = {other for other, lives in zip(others, alive, strict=True) if not lives}
        if not self._incomplete:
            for other in missing & self._missing:
                self._process_lost(other)
        self._missing = missing
        for process in self._undelivered.processes:
            if process not in self._resending:
                self._resending.add(process)
                in_background(commands, self._resend(commands, process))
        self._shared.synchronize(partial(self._queue.ask, commands), self._monotonic() + self._offset.seconds)

    def _found(self, commands: RedisConnection) -> None:
        self._commands = commands
        now, again = self._monotonic(), self._found_at > -math.inf
        self._found_at = now
        if again:
            self._incomplete_until = now + REWRITE_TIME
        self._entries.write_all(commands)
        if not self._unsteady:
            self._works()

    def _works(self) -> None:
        """Redis works. If it had failed within a moment before, it has now worked for longer than that."""
        self._unsteady = False
        self._reason, self._told, self._failures = None, "", 0
        if self._warned or not self._repeated:
            self._log.info("Redis works: {address}", address=self._address.location)
            self._report(None)
        self._warned = False

    def _lost(self, reason: str) -> None:
        if self._stopped:
            return
        now, commands = self._monotonic(), self._commands
        if commands is not None:
            # If it fails in the same way a moment after each new connection, the operator hears of it once…
            self._unsteady = now < self._found_at + STEADY
            # …and so if it refuses the same command now and then.
            same = _same_refusal(reason, self._refused)
            self._repeated = commands.given_up and same and now < self._refused_until
            if commands.given_up and not self._repeated:
                self._refused, self._refused_until = reason, now + _LOG_PAUSE
        self._reason = reason
        if self._repeated or reason == self._told or (self._failures and now < self._told_at + _LOG_PAUSE):
            return
        self._told, self._told_at = reason, now
        self._warned = True
        self._log.warn(
            "Redis at {address} does not work: {reason}", address=self._address.location, reason=reason
        )
        self._report(self.problem)

    async def _locate(self, peer: PeerID, source: Source) -> str | None:
        commands = self._commands
        if commands is None or not commands.open:
            raise DirectoryUnavailable(self.problem or "Redis is not connected.")
        try:
            process = await self._entries.locate(commands, peer, source)
        except RedisProblem as problem:
            if not isinstance(problem, QueueFull):
                commands.give_up(problem)
            raise DirectoryUnavailable(str(problem)) from problem
        if process is None and self._incomplete:
            raise DirectoryUnavailable("Other processes have not written all their entries again.")
        return None if process == self.name else process

    @property
    def _incomplete(self) -> bool:
        return self._monotonic() < self._incomplete_until

    # -- messages --

    def _send(
        self, commands: RedisConnection, process: str, message: Message, source: Source | None = None
    ) -> Deferred[bool]:
        # A message gets its number when it is sent.
        def publish() -> list[tuple[str, str, bytes]]:
            return [("PUBLISH", f"punch:to:{process}", self._sealer.seal(process, message))]

        # No coroutine, which costs as much as all this: each introduction between processes has three.
        return self._queue.ask_for(commands, publish, source).addCallbacks(
            self._sent, self._not_sent, callbackArgs=(process,), errbackArgs=(commands, process)
        )

    def _sent(self, answers: list[Any], process: str) -> bool:
        """Return whether the process has not received the message yet, and may be connecting again."""
        (receivers,) = answers
        if receivers:
            return False
        if not self._incomplete:
            self._process_lost(process)
        return self._incomplete

    async def _resend(self, commands: RedisConnection, process: str) -> None:
        """Send what was kept for a process, one message after the other, as long as it receives them."""
        try:
            while (first := self._undelivered.first(process, self._monotonic())) is not None:
                number, message, source = first
                if await self._send(commands, process, message, source):
                    return
                self._undelivered.forget(number)
        finally:
            self._resending.discard(process)

    def _keep(
        self, undelivered: bool, process: str, message: PeerRequest | PeerReply | PeerLost, source: Source
    ) -> None:
        """Keep a message if it is `undelivered`, to send it again; the user is told of a lost `Establish`."""
        if not undelivered or self._user is None:
            return
        if isinstance(message, PeerRequest) and isinstance(message.request, Establish):
            # The caller is told at once, and calls again.
            self._user.request_lost(message)
        else:
            self._undelivered.add(process, message, source, self._monotonic())

    def _not_sent(self, failure: Failure, commands: RedisConnection, process: str) -> bool:
        """Return whether the message is to be sent again; it is lost if too many commands wait."""
        failure.trap(RedisProblem)  # type: ignore[no-untyped-call]
        if isinstance(failure.value, RedisProblem) and not isinstance(failure.value, QueueFull):
            commands.give_up(failure.value)
            return True
        return False

    def _process_lost(self, process: str) -> None:
        self._undelivered.forget_all(process)
        if self._user is not None:
            self._user.process_lost(process)

    def _received(self, data: bytes) -> None:
        if len(data) == SIGN_SIZE:
            self._twins.received(data, self._monotonic())
            return
        if self._user is None:
            return
        try:
            sender, message = self._sealer.open(data)
        except ProcessMessageError as problem:
            if self._monotonic() >= self._unread_logged + _LOG_PAUSE:
                self._unread_logged = self._monotonic()
                self._log.warn("A message came through Redis that is ignored: {why}", why=str(problem))
            return
        since = self._entries.registered_at(message.peer)
        if isinstance(message, ReturnMessage):
            self._user.peer_returned(message.peer)
        elif not isinstance(message, (PeerAwaited, PeerClaimed)):
            self._user.message_received(sender, message)
        elif since is None:
            return
        elif isinstance(message, PeerAwaited):
            if self._commands is not None:
                self._send(self._commands, sender, ReturnMessage(message.peer))
        elif since < message.since:
            # The peer has registered at another process, too
            self._user.peer_replaced(message.peer)
        elif since > message.since and self._commands is not None:
            # The sender has an older registration, and has written over the entry
            in_background(self._commands, self._entries.write(self._commands, message.peer))


def _same_refusal(one: str, other: str) -> bool:
    """
    Whether two reasons are of one cause: an answer that is cut short is noticed as the answer to a command,
    or when the next one completes it.
    """
    return one == other or (
        NOT_REDIS in (one, other) and one.startswith(NOT_REDIS) == other.startswith(NOT_REDIS)
    )

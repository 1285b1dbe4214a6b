"""
Connections to Redis, by txredisapi's protocols.

Only its protocols are used. Its connection functions and pools use the global reactor, and so do the delayed
calls of its protocols, which get this reactor's `callLater` here.

Each answer is checked (`is_answer`): one that Redis does not give to this command is not from Redis, or
belongs to another command.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, NoReturn

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from punch.net.driver import Timer
from punch.rendezvous.directory.redis_address import RedisAddress

MOST_BYTES = 64 << 20
"""
The longest answer, in bytes: far more than all processes tell each other. A longer one would only fill the
memory.
"""


def _ok(answer: Any) -> bool:
    return answer in ("OK", b"OK")


def _ok_or_nothing(answer: Any) -> bool:
    return answer is None or _ok(answer)


def _text(answer: Any) -> bool:
    return isinstance(answer, bytes)


def _text_or_nothing(answer: Any) -> bool:
    return answer is None or isinstance(answer, bytes)


def _count(answer: Any) -> bool:
    return isinstance(answer, int) and 0 <= answer < 1 << 63


def _texts(answer: Any) -> bool:
    return isinstance(answer, list) and all(isinstance(each, bytes) for each in answer)


def _pairs(answer: Any) -> bool:
    return _texts(answer) and len(answer) % 2 == 0


def _time(answer: Any) -> bool:
    return (
        _texts(answer)
        and len(answer) == 2
        and all(re.fullmatch(rb"[0-9]{1,12}", each) is not None for each in answer)
    )


def _host_and_port(answer: Any) -> bool:
    if answer is None:
        return True
    return _texts(answer) and len(answer) == 2 and re.fullmatch(rb"[0-9]{1,5}", answer[1]) is not None


def _subscribed(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) == 3 and answer[0] in ("subscribe", b"subscribe")


_ANSWERS: dict[str, Callable[[Any], bool]] = {
    "INFO": _text,
    "SET": _ok_or_nothing,
    "GET": _text_or_nothing,
    "GETSET": _text_or_nothing,
    "LRANGE": _texts,
    "SMEMBERS": _texts,
    "HGETALL": _pairs,
    "TIME": _time,
    "SENTINEL": _host_and_port,
    "SUBSCRIBE": _subscribed,
    **dict.fromkeys(("EVAL", "EXISTS", "EXPIRE", "HDEL", "HSET", "PUBLISH", "RPUSH", "SADD", "SREM"), _count),
}
"""By command: whether an answer can be one to it."""


def is_answer(command: Sequence[str | bytes | int], answer: Any) -> bool:
    """
    Whether Redis can have given this answer.

    :param command: one of the commands that docs/deployment.md names, with its arguments.
    :param answer: no error; text is bytes, as it came.
    """
    return _ANSWERS[str(command[0])](answer)


REPLY_TIME = 3.0
"""Seconds within which Redis has to answer, or its connection is closed."""
CONNECT_TIME = 3.0
"""Seconds for a TCP connection."""
OLDEST = (5, 0)
"""The oldest version of Redis that works."""

NOT_REDIS = "it answers as Redis does not"
_ADVICE = {
    "WRONGPASS": "it refuses the user name or password; correct them in --registry",
    "NOAUTH": "it wants a password; write it in --registry, as redis://:password@host",
    "READONLY": "it is a read-only replica; give the address of the primary, or those of its Sentinels",
    "MISCONF": "it refuses writes because it can't save to its disk; see its log, and the space on its disk",
    "OOM": "it refuses writes because its memory is full; raise its maxmemory",
    "NOPERM": "its user may not do what is needed; see docs/deployment.md for the commands",
    "WRONGTYPE": "something else has written to its keys punch:*; remove them, or choose another database",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "it has lost its primary",
}


class RedisProblem(Exception):
    """Redis can't be used now; `str()` says why, in words that follow "Redis at …: "."""


class RedisRefusal(Exception):
    """Redis has refused AUTH or SELECT."""


def problem_of(error: BaseException, tls: bool = False, first: bool = False) -> RedisProblem:
    """
    Return why Redis can't be used, for whatever a connection or command has failed with.

    :param tls: whether TLS is used.
    :param first: whether nothing has been answered on this connection.
    """
    if isinstance(error, RedisProblem):
        return error
    text = str(error) or type(error).__name__
    if type(error).__name__ == "InvalidResponse":  # of the library, which is not imported before it is needed
        return RedisProblem(f"{NOT_REDIS} ({text[:100]})")
    if "without any password configured" in text:
        return RedisProblem("it has no password, and --registry gives one; leave it out")
    for code, advice in _ADVICE.items():
        if code in text:
            return RedisProblem(f"{advice} ({text[:100]})")
    if tls and first:
        return RedisProblem(
            f"TLS has failed ({text[:100]}); if this port has no TLS, write redis:// in place of rediss://, "
            "and if its certificate is of an authority of your own, name that with SSL_CERT_FILE"
        )
    if first and (isinstance(error, (ConnectionDone, ConnectionLost)) or "Lost connection" in text):
        return RedisProblem(
            "it closes the connection at once; if this port wants TLS, write rediss:// in place of redis://"
        )
    return RedisProblem(text[:150])


class _Factory(Factory):
    """What txredisapi's protocols ask of their factory."""

    noisy = False
    isLazy = False

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.problem: str | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the protocol of a connection."""
        protocol = self._make()
        protocol.factory = self
        return protocol

    def stopTrying(self) -> None:
        """The protocol is about to close its connection; it is not made again here anyway."""

    def connectionError(self, why: str) -> None:
        """AUTH or SELECT has failed."""
        self.problem = why


class _CommandBatch:
    """
    Commands that were sent together.

    :ivar asked_at: in seconds of the clock.
    :ivar answered: fires with the answers, or fails with the first that is an error, when all are there.
    """

    __slots__ = ("_answers", "_size", "answered", "asked_at")

    def __init__(self, size: int, asked_at: float) -> None:
        self.asked_at = asked_at
        self.answered: Deferred[list[Any]] = Deferred()
        self._answers: list[Any] = []
        self._size = size

    def add(self, answer: Any) -> None:
        """Add the next answer."""
        self._answers.append(answer)
        if len(self._answers) < self._size or self.answered.called:
            return
        for each in self._answers:
            if isinstance(each, Exception):
                self.answered.errback(each)
                return
        self.answered.callback(self._answers)


class RedisConnection:
    """
    One connection.

    :param messages: called with each message of the channels that are subscribed to; None for a connection
        that carries commands.
    """

    def __init__(
        self, reactor: Any, address: RedisAddress, messages: Callable[[bytes], None] | None = None
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._messages = messages
        self._protocol: Any = None
        self._lost = self._answered = self._aborted = False
        self._problem: RedisProblem | None = None

    @property
    def open(self) -> bool:
        """Whether the connection can be used."""
        return self._protocol is not None and not self._lost

    @property
    def given_up(self) -> bool:
        """Whether it was closed because of what was received on it (`give_up`)."""
        return self._problem is not None

    async def connect(self, host: str, port: int) -> None:
        """
        Connect.

        :raise RedisProblem: it can't be made, or Redis refuses us.
        :raise CancelledError: it was cancelled.
        """
        factory = _Factory(self._make)
        try:
            self._protocol = await _endpoint(self._reactor, host, port, self._address.tls).connect(factory)
            ready: Deferred[None] = Deferred()
            self._protocol.whenConnected().addCallback(lambda _: _fire(ready))
            self._protocol.closed.addCallback(lambda reason: self._closed(reason, factory, ready))
            ready.addTimeout(REPLY_TIME, self._reactor)
            await ready
        except (CancelledError, ConnectingCancelledError) as error:
            self.abort()
            raise CancelledError from error
        except Exception as error:  # connecting, TLS and the library fail in many ways, all reported alike
            self.abort()
            raise problem_of(error, self._address.tls, True) from error

    def ask(self, *commands: Sequence[str | bytes | int]) -> Deferred[list[Any]]:
        """
        Send commands, all at once, and return their answers.

        :raise RedisProblem: one of them has failed.
        """
        if self._problem is not None:
            return fail(self._problem)
        try:
            answered: Deferred[list[Any]] = self._protocol.ask(commands)
        except Exception as error:  # the library's errors have no common base beside Exception
            return fail(problem_of(error, self._address.tls, not self._answered))
        return answered.addCallbacks(self._check, self._has_failed, callbackArgs=(commands,))

    def _check(self, answers: list[Any], commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        if self._problem is not None:
            raise self._problem
        self._answered = True
        for command, answer in zip(commands, answers, strict=True):
            if not is_answer(command, answer):
                problem = RedisProblem(f"{NOT_REDIS} (to {command[0]!s})")
                self.give_up(problem)
                raise problem
        return answers

    def _has_failed(self, failure: Failure) -> NoReturn:
        error = failure.value
        assert error is not None
        if isinstance(error, CancelledError):
            raise error
        raise self._problem or problem_of(error, self._address.tls, not self._answered) from error

    def give_up(self, problem: RedisProblem) -> None:
        """
        Close the connection because of what was received on it; commands fail with this problem from now on.
        """
        if self._problem is None:
            self._problem = problem
        self.abort()

    async def subscribe(self, channel: str) -> None:
        """:raise RedisProblem: it has failed."""
        try:
            answer = await self._protocol.subscribe(channel).addTimeout(REPLY_TIME, self._reactor)
        except CancelledError:
            raise
        except Exception as error:  # as above
            raise problem_of(error) from error
        if not is_answer(("SUBSCRIBE",), answer):
            raise RedisProblem(f"{NOT_REDIS} (to SUBSCRIBE)")

    async def version(self) -> tuple[int, ...] | None:
        """The version of Redis; None if it does not tell."""
        try:
            (info,) = await self.ask(("INFO", "server"))
        except RedisProblem as problem:
            if "NOPERM" in str(problem) or "unknown command" in str(problem):
                return None
            raise
        for line in bytes(info).decode("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key == "redis_version":
                return tuple(int(part) for part in value.split(".")[:2] if part.isdigit())
        return None

    def abort(self) -> None:
        """Close the connection at once. What has come on it and was not read yet is dropped."""
        self._aborted = True
        if self.open:
            self._protocol.transport.abortConnection()

    def _closed(self, reason: BaseException, factory: _Factory, ready: Deferred[None]) -> None:
        self._lost = True
        if ready.called:
            return
        if factory.problem is not None and "Lost connection" not in factory.problem:
            ready.errback(RedisRefusal(factory.problem))
        else:
            ready.errback(reason)

    def _make(self) -> Any:
        # The module can't be imported before there is a reactor, and only with --registry is it needed.
        import txredisapi

        messages, clock, give_up = self._messages, self._reactor, self.give_up
        base: Any = txredisapi.RedisProtocol if messages is None else txredisapi.SubscriberProtocol

        def ended() -> bool:
            return self._aborted

        class _Protocol(base):  # type: ignore[misc]
            callLater = clock.callLater

            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.closed: Deferred[BaseException] = Deferred()
                self._unfinished = 0
                """Bytes that came since the last answer was complete."""
                self._rest = b""
                self._asked: deque[_CommandBatch] = deque()
                """The batch to which each of the next answers belongs."""
                self._chunks = 0
                """How often something has come."""
                self._late = Timer(clock)

            def ask(self, commands: Sequence[Sequence[str | bytes | int]]) -> Deferred[list[Any]]:
                # The library makes four Deferreds and a delayed call of each command
                if not self.connected:
                    raise txredisapi.ConnectionError("Not connected")
                # First of all: if this fails, nothing is asked
                data = b"".join(self._build_command(*command) for command in commands)
                batch = _CommandBatch(len(commands), clock.seconds())
                self._asked.extend(repeat(batch, len(commands)))
                self.transport.write(data)
                if not self._late.running:
                    self._late.start(REPLY_TIME, self._check_time)
                return batch.answered

            def _check_time(self, chunks: int | None = None) -> None:
                if not self._asked:
                    return
                left = self._asked[0].asked_at + REPLY_TIME - clock.seconds()
                if left > 0.0:
                    self._late.start(left, self._check_time)
                elif chunks != self._chunks:
                    # If this process was stopped for so long, the answer may have come: a reactor calls what
                    # is due before it reads
                    self._late.start(0.0, self._check_time, self._chunks)
                else:
                    give_up(RedisProblem(f"it has not answered for {REPLY_TIME:g} s"))

            def dataReceived(self, data: bytes) -> None:
                self._chunks += 1
                self._unfinished += len(data)
                try:
                    while data and not self.transport.disconnecting and not ended():
                        super().dataReceived(data)
                        data, self._rest = self._rest, b""
                except Exception:  # this is not Redis, and the library raises whatever comes
                    give_up(RedisProblem(NOT_REDIS))
                if self._unfinished > MOST_BYTES:
                    give_up(RedisProblem(f"an answer of it has more than {MOST_BYTES >> 20} MiB"))

            def setLineMode(self, extra: bytes = b"") -> None:
                # The library would stop reading and go on in the next turn of the reactor, after each text
                self.line_mode = 1
                self._rest = extra

            def rawDataReceived(self, data: bytes) -> None:
                # What the library does not check: else any bytes become the text of an answer.
                rest = self.bulk_length
                if rest < 2 and not self.bulk_buffer:
                    raise ValueError("a text of a negative length")
                end = bytes(self.bulk_buffer[-1:]) + data[:rest]
                if rest <= len(data) and not end.endswith(b"\r\n"):
                    raise ValueError("a text without an end")
                super().rawDataReceived(data)

            def lineLengthExceeded(self, line: bytes) -> None:
                give_up(RedisProblem(NOT_REDIS))

            def replyReceived(self, reply: object) -> None:
                self._unfinished = 0
                if ended() and self.connected:
                    # Twisted closes the connection in the next turn of the reactor; the rest of what it has
                    # read may be answers to other commands.
                    return
                if self._asked:
                    self._asked.popleft().add(reply)
                elif messages is None and not self.replyQueue.waiting:
                    # It would be taken for the answer to the next command
                    give_up(RedisProblem("it answers what was not asked"))
                else:
                    super().replyReceived(reply)

            def messageReceived(self, pattern: object, channel: object, message: object) -> None:
                if messages is not None and isinstance(message, bytes):
                    messages(message)

            def connectionLost(self, why: Failure) -> None:
                # First, so that what waits for answers finds the connection closed, and asks nothing on it.
                self.connected = 0
                self.closed.callback(why.value or ConnectionError("The connection is lost"))
                self._late.cancel()
                while self._asked:
                    self._asked.popleft().add(txredisapi.ConnectionError("Lost connection"))
                super().connectionLost(why)

        address = self._address
        return _Protocol(
            charset=None,
            convertNumbers=False,
            replyTimeout=REPLY_TIME,
            username=address.username,
            password=address.password,
            dbid=address.database or None,
        )


def _fire(ready: Deferred[None]) -> None:
    if not ready.called:
        ready.callback(None)


def _endpoint(reactor: Any, host: str, port: int, tls: bool) -> IStreamClientEndpoint:
    endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, host, port, timeout=CONNECT_TIME)
    return wrapClientTLS(optionsForClientTLS(host), endpoint, clock=reactor) if tls else endpoint


async def primary_of(reactor: Any, address: RedisAddress) -> tuple[str, int]:
    """
    Return the host and port of the primary, as told by the first Sentinel that answers.

    :raise RedisProblem: none does.
    """
    if address.name is None:
        return address.hosts[0]
    problem = RedisProblem("no Sentinel is given")
    for host, port in address.hosts:
        sentinel = RedisConnection(reactor, RedisAddress(((host, port),), tls=address.tls))
        try:
            await sentinel.connect(host, port)
            (found,) = await sentinel.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.name))
        except RedisProblem as reason:
            problem = reason
            continue
        finally:
            sentinel.abort()
        if found:
            return bytes(found[0]).decode(), int(found[1])
        problem = RedisProblem(f"Sentinel knows no primary of the name {address.name[:50]!a}")
    raise problem

"""
A Redis on the simulated internet: the protocol (RESP2) and the commands that a rendezvous uses, with what
goes wrong with a real one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.rendezvous.directory.shared_state import ADD
from punch.test.internet import Host, Internet

_RELEASE = b"if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
_ADD = ADD.encode()
_WRITES = {b"SET", b"GETSET", b"EXPIRE", b"EVAL", b"SADD", b"SREM", b"DEL", b"RPUSH", b"HSET", b"HDEL"}


class RedisError(Exception):
    """The error of a command: `str()` is its line."""


class _Connection(Protocol):
    def __init__(self, redis: SimulatedRedis) -> None:
        self.redis = redis
        self.channels: set[bytes] = set()
        self.admitted = redis.password is None
        self._buffer = b""
        self._free_at = 0.0

    def connectionMade(self) -> None:
        self.redis.connections.append(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.redis.connections.remove(self)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while (command := self._next()) is not None:
            self.redis.count += 1
            # In the order of the commands, also when it has become faster
            now = self.redis.net.now
            client: Any = cast(ITransport, self.transport).getPeer()
            delay = self.redis.delays.get(client.host, self.redis.delay)
            self._free_at = max(self._free_at, now + delay)
            if self._free_at > now:
                self.redis.host.reactor.callLater(self._free_at - now, self._answer, command)
            else:
                self._answer(command)

    def _next(self) -> list[bytes] | None:
        if self._buffer[:1] not in b"*":
            # A line is an inline command, for people who type; a TLS handshake may have line feeds too.
            line, found, rest = self._buffer.partition(b"\n")
            if not found:
                return None
            self._buffer = rest
            return [line]
        head, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            return None
        parts = []
        for _ in range(int(head[1:])):
            size, found, rest = rest.partition(b"\r\n")
            length = int(size[1:] or b"0") if found else 0
            if not found or len(rest) < length + 2:
                return None
            parts.append(rest[:length])
            rest = rest[length + 2 :]
        self._buffer = rest
        return parts

    def _answer(self, command: list[bytes]) -> None:
        if not getattr(self.transport, "connected", True):
            return
        try:
            answer = encode(self.redis.run(self, command[0].upper(), command[1:]))
        except RedisError as error:
            answer = b"-%b\r\n" % str(error).encode()
        self.write(self.redis.spoil(command[0].upper(), answer))

    def end(self) -> None:
        """Close the connection at once."""
        self.transport.abortConnection()  # type: ignore[union-attr]

    def write(self, data: bytes) -> None:
        """Send an answer or a message."""
        assert self.transport is not None
        self.transport.write(data)


def encode(value: Any) -> bytes:
    """A value as RESP2."""
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, str):
        return b"+%b\r\n" % value.encode()
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(encode, value))


class SimulatedRedis:
    """
    :ivar count: commands so far.
    :ivar delay: seconds that each answer takes.
    :ivar delays: the same for the clients at some hosts.
    :ivar primary: what it tells as a Sentinel; None if it knows no primary.
    :ivar broken: the error of every command that writes; None if they work.
    :ivar spoil: takes a command and its answer as bytes, and returns the bytes that are sent instead.
    """

    def __init__(self, net: Internet, host: Host, port: int = 6379, password: str | None = None) -> None:
        self.net = net
        self.host = host
        self.port = port
        self.password = password
        self.version = "7.0.15"
        self.delay = 0.0
        self.delays: dict[str, float] = {}
        self.clock_error = 0.0
        self.broken: str | None = None
        self.spoil: Callable[[bytes, bytes], bytes] = lambda command, answer: answer
        self.primary: tuple[str, int] | None = None
        self.count = 0
        self.connections: list[_Connection] = []
        self.data: dict[bytes, tuple[bytes, float]] = {}
        self.published: deque[tuple[bytes, bytes]] = deque(maxlen=1000)
        self._listening: Any = None
        self.start()

    def start(self) -> None:
        """Listen."""
        endpoint = TCP4ServerEndpoint(self.host.reactor, self.port)
        self._listening = self.net.wait(endpoint.listen(Factory.forProtocol(lambda: _Connection(self))), 1)

    def stop(self) -> None:
        """End, and forget everything."""
        self.net.wait(self._listening.stopListening(), 1)
        for connection in list(self.connections):
            connection.end()
        self.data.clear()

    def age(self, prefix: bytes, seconds: float) -> None:
        """Let keys that begin so expire sooner, as if time had passed for them."""
        for key, (value, expires) in self.data.items():
            if key.startswith(prefix):
                self.data[key] = value, expires - seconds

    def get(self, key: bytes) -> bytes | None:
        """The value of a key that has not expired."""
        value, expires = self.data.get(key, (b"", 0.0))
        return value if expires > self.net.now else None

    def run(self, connection: _Connection | None, name: bytes, arguments: list[bytes]) -> Any:
        """Do one command; without a connection that of a stranger who may do everything."""
        if name == b"AUTH":
            if self.password is None:
                raise RedisError(
                    "ERR AUTH <password> called without any password configured for the default user."
                )
            if arguments[-1] != self.password.encode():
                raise RedisError("WRONGPASS invalid username-password pair or user is disabled.")
            assert connection is not None
            connection.admitted = True
            return "OK"
        if connection is not None and not connection.admitted:
            raise RedisError("NOAUTH Authentication required.")
        if self.broken is not None and name in _WRITES:
            raise RedisError(self.broken)
        commands: dict[bytes, Callable[..., Any]] = {
            b"SELECT": lambda *_: "OK",
            b"INFO": lambda *_: f"# Server\r\nredis_version:{self.version}\r\n".encode(),
            b"GET": self.get,
            b"SET": self._set,
            b"GETSET": self._getset,
            b"DEL": lambda key: int(self.data.pop(key, None) is not None),
            b"SADD": self._sadd,
            b"SREM": self._srem,
            b"SMEMBERS": lambda key: sorted(filter(None, (self.get(key) or b"").split(b" "))),
            b"RPUSH": self._rpush,
            b"LRANGE": lambda key, first, last: self._range(key, int(first), int(last)),
            b"HSET": self._hset,
            b"HDEL": self._hdel,
            b"HGETALL": lambda key: [part for field in self._fields(key).items() for part in field],
            b"EXISTS": lambda key: int(self.get(key) is not None),
            b"EXPIRE": self._expire,
            b"EVAL": self._eval,
            b"TIME": self._time,
            b"SENTINEL": self._sentinel,
            b"PUBLISH": self._publish,
            b"SUBSCRIBE": lambda channel: self._subscribe(connection, channel),
        }
        if name not in commands:
            raise RedisError(f"ERR unknown command '{name.decode(errors='replace')}'")
        return commands[name](*arguments)

    def _set(self, key: bytes, value: bytes, *options: bytes) -> str | None:
        if b"NX" in options and self.get(key) is not None:
            return None
        life = float(options[options.index(b"EX") + 1]) if b"EX" in options else float("inf")
        self.data[key] = value, self.net.now + life
        return "OK"

    def _getset(self, key: bytes, value: bytes) -> bytes | None:
        before = self.get(key)
        self._set(key, value)
        return before

    def _rpush(self, key: bytes, *values: bytes) -> int:
        entries = [*self._range(key, 0, 10**9), *values]
        self._set(key, b" ".join(each.hex().encode() for each in entries))
        return len(entries)

    def _range(self, key: bytes, first: int, last: int) -> list[bytes]:
        entries = (self.get(key) or b"").split()
        try:
            return [bytes.fromhex(each.decode()) for each in entries[first : last + 1]]
        except ValueError:
            text = "WRONGTYPE Operation against a key holding the wrong kind of value"
            raise RedisError(text) from None

    def _fields(self, key: bytes) -> dict[bytes, bytes]:
        fields = (each.partition(b"=") for each in (self.get(key) or b"").split())
        return {bytes.fromhex(field.decode()): bytes.fromhex(value.decode()) for field, _, value in fields}

    def _set_fields(self, key: bytes, fields: dict[bytes, bytes]) -> None:
        pairs = (f"{field.hex()}={value.hex()}".encode() for field, value in fields.items())
        self.data[key] = b" ".join(pairs), self.data.get(key, (b"", float("inf")))[1]

    def _hset(self, key: bytes, field: bytes, value: bytes) -> int:
        fields = self._fields(key)
        self._set_fields(key, fields | {field: value})
        return int(field not in fields)

    def _hdel(self, key: bytes, *gone: bytes) -> int:
        fields = self._fields(key)
        self._set_fields(key, {field: value for field, value in fields.items() if field not in gone})
        return len(fields.keys() & set(gone))

    def _sadd(self, key: bytes, member: bytes) -> int:
        members = set(filter(None, (self.get(key) or b"").split(b" ")))
        self._set(key, b" ".join(sorted({*members, member})))
        return int(member not in members)

    def _srem(self, key: bytes, *gone: bytes) -> int:
        value, expires = self.data.pop(key, (b"", 0.0))
        members = set(value.split())
        if members.difference(gone):
            self.data[key] = b" ".join(sorted(members.difference(gone))), expires
        return len(members.intersection(gone))

    def _expire(self, key: bytes, life: bytes) -> int:
        value = self.get(key)
        if value is None:
            return 0
        self.data[key] = value, self.net.now + float(life)
        return 1

    def _add(self, key: bytes, field: bytes, more: bytes, known: bytes, life: bytes) -> int:
        fields = dict(each.split(b"=") for each in (self.get(key) or b"").split())
        total = max(int(fields.get(field, 0)) + int(more), int(known))
        fields[field] = b"%d" % total
        self._set(key, b" ".join(b"%b=%b" % each for each in fields.items()), b"EX", life)
        return total

    def _eval(self, script: bytes, _count: bytes, key: bytes, value: bytes, *more: bytes) -> int:
        if script == _ADD:
            return self._add(key, value, *more)
        assert script == _RELEASE
        if self.get(key) != value:
            return 0
        del self.data[key]
        return 1

    def _sentinel(self, command: bytes, name: bytes) -> list[bytes] | None:
        assert (command, name) == (b"GET-MASTER-ADDR-BY-NAME", b"main")
        return self.primary and [self.primary[0].encode(), b"%d" % self.primary[1]]

    def _time(self) -> list[bytes]:
        now = 1_700_000_000.0 + self.net.now + self.clock_error
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]

    def _publish(self, channel: bytes, message: bytes) -> int:
        if message:
            self.published.append((channel, message))
        receivers = [each for each in self.connections if channel in each.channels]
        for receiver in receivers:
            receiver.write(encode([b"message", channel, message]))
        return len(receivers)

    def _subscribe(self, connection: _Connection | None, channel: bytes) -> list[Any]:
        assert connection is not None
        connection.channels.add(channel)
        return [b"subscribe", channel, len(connection.channels)]

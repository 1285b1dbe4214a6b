"""
A connection to the socket of a node: what an attached program is answered (docs/json.md).

Everything is bounded, and nothing here waits for a program. The connection ends if a line is too long, if too
many events are not read, or if a command for a stream fails: what follows such a command are bytes of the
stream, which may look like commands. No commands are read while answers are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import PeerID
from punch.link.transport import PunchAddress
from punch.local.access import Allow, TransferReport, number
from punch.local.join import Join, LocalEnd, UnixTransport
from punch.local.protocol import JSON, MAX_LINE, CommandError, line, read_fields, request_fields, too_long
from punch.net.driver import Timer

if TYPE_CHECKING:
    from punch.local.server import LocalServer

MAX_COMMANDS = 16
"""Commands under way at once on a connection; no more lines are read meanwhile."""
MAX_UNREAD = 1 << 20
"""Bytes of events that a program may leave unread before its connection is closed."""
MAX_WAITING = 2048
"""
Streams of one program that wait to be accepted at once, twice as many as one peer may have open; further ones
are closed.
"""
ACCEPT_TIME = 20.0
"""Seconds in which a program has to accept a stream."""

OtherCommands = Callable[[str, JSON], "Deferred[JSON | None]"]
"""Does a command that is not of this module, and answers as a view of the chat would."""

_started = time.monotonic()


class WaitingStream(Join):
    """A stream of a peer that no program has accepted yet: nothing is read from it."""

    def __init__(self, server: LocalServer, program: LocalConnection, address: PunchAddress) -> None:
        super().__init__()
        self.address = address
        self._server = server
        self._program = program
        self._number = 0
        self._timeout = Timer(server.reactor)

    def connectionMade(self) -> None:
        """Tell the program."""
        self._timeout.start(ACCEPT_TIME, self.refuse)
        self.stream.pauseProducing()
        self._number = self._server.wait(self)
        self._program.stream_waits(self._number, self)

    def accepted(self, end: LocalEnd) -> None:
        """Join the stream and the connection of a program."""
        self._over()
        self.join(end)
        self.stream.resumeProducing()

    def refuse(self) -> None:
        """Nobody accepts it."""
        self.stream.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The peer has closed it, or it was refused."""
        self._over()
        super().connectionLost(reason)

    def _over(self) -> None:
        self._timeout.cancel()
        self._server.waits_no_more(self._number)
        self._program.stream_over(self)


class _ServiceFactory(Factory):
    """The streams of one service that a program serves."""

    noisy = False

    def __init__(self, server: LocalServer, program: LocalConnection) -> None:
        self._server = server
        self._program = program

    def buildProtocol(self, addr: IAddress | None) -> WaitingStream | None:
        """A peer opens a stream; None: it is refused."""
        assert isinstance(addr, PunchAddress)
        if self._server.crowded(addr.peer, MAX_WAITING - self._program.waiting_count):
            return None
        return WaitingStream(self._server, self._program, addr)


@implementer(IHalfCloseableProtocol)
class LocalConnection(LineReceiver):
    """A connection of an attached program: lines, until it becomes a stream."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE
    _log = Logger()

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._services: dict[str, Callable[[], None]] = {}
        self._waiting: set[WaitingStream] = set()
        self._commands = 0
        self._unread: int | None = None
        """Bytes of events since the program stopped reading; None while it reads."""
        self._end: LocalEnd | None = None
        """This connection as one end of a stream."""
        self._opening: Deferred[Any] | None = None
        self._ended = False
        """The program gives no more commands; it may still read answers."""
        self._over = False

    @property
    def waiting_count(self) -> int:
        """How many streams wait for this program."""
        return len(self._waiting)

    def connectionMade(self) -> None:
        """Greet the program, or send it away."""
        try:
            self._server.add(self)
        except CommandError as error:
            self._tell({"event": "failed", "reason": error.reason, "text": str(error)})
            self._close()
            return
        node = self._server.node
        self._transport.registerProducer(self, True)
        self._tell(
            {"event": "ready", "id": str(node.peer_id), "name": node.name(), "rendezvous": node.rendezvous}
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The program has gone: its services end, and so does its stream."""
        self._over = True
        self._server.remove(self)
        services, self._services = self._services, {}
        for stop in services.values():
            stop()
        self._server.node.reports.forget(self)
        for waiting in list(self._waiting):
            waiting.refuse()
        if self._opening is not None:
            self._opening.cancel()
        if self._end is not None:
            self._end.connection_lost()

    def end(self) -> None:
        """The node ends."""
        if self._end is None:
            # A producer that is paused would keep the connection open
            self._transport.unregisterProducer()
        self._transport.loseConnection()

    # Commands

    def lineReceived(self, line: bytes) -> None:
        """Do a command."""
        if self._over or not line.strip():
            return
        fields: JSON = {}
        for_stream = False
        try:
            fields = read_fields(line)
            name = fields.get("command")
            for_stream = name in ("open", "accept-stream")
            if for_stream:
                self._become_stream(name, fields)
                return
            answer = self._perform(name, fields)
        except CommandError as error:
            self._error(fields, error)
            if for_stream:
                self._close()
            return
        self._commands += 1
        if self._commands >= MAX_COMMANDS:
            self._read_lines(False)
        answer.addCallbacks(self._answered, self._failed, (fields,), errbackArgs=(fields,))
        answer.addBoth(lambda _: self._done())

    def lineLengthExceeded(self, line: bytes) -> None:
        """End the connection: what follows can't be told from the rest of the line."""
        self._error({}, too_long())
        self._close()

    def rawDataReceived(self, data: bytes) -> None:
        """Bytes of the stream."""
        assert self._end is not None
        self._end.received(data)

    def readConnectionLost(self) -> None:
        """The program writes no more."""
        self._ended = True
        if self._end is not None:
            self._end.read_ended()
        elif self._commands == 0:
            self._close()

    def writeConnectionLost(self) -> None:
        """Nothing to do: this side has ended its direction."""

    def _perform(self, name: object, fields: JSON) -> Deferred[JSON | None]:
        if name == "status":
            return self._status()
        if name == "connect":
            return self._connect(fields)
        if name == "serve":
            return self._serve(fields)
        if name == "refuse-stream":
            self._stream(fields).refuse()
            return succeed(None)
        if name == "report-transfer":
            self._report(fields)
            return succeed(None)
        if self._server.other is not None and isinstance(name, str):
            return self._server.other(name, fields)
        raise CommandError(
            "unknown-command",
            f"There is no command {str(name)[:64]!a}: use one of status, connect, open, serve, "
            "accept-stream, refuse-stream, report-transfer.",
        )

    def _status(self) -> Deferred[JSON | None]:
        async def status() -> JSON:
            others = await self._server.other("status", {}) if self._server.other is not None else None
            return {**(others or {}), **await self._server.node.status(), "connections": self._server.count}

        return Deferred.fromCoroutine(status())

    def _connect(self, fields: JSON) -> Deferred[JSON | None]:
        peer = self._peer(fields)

        async def connect() -> JSON:
            await self._server.node.connect(peer)
            status = await self._server.node.status()
            return next((link for link in status["links"] if link["peer"] == str(peer)), {"peer": str(peer)})

        return Deferred.fromCoroutine(connect())

    def _serve(self, fields: JSON) -> Deferred[JSON | None]:
        service, allow = self._text(fields, "service"), self._allow(fields)

        async def serve() -> JSON:
            factory = _ServiceFactory(self._server, self)
            stop = await self._server.node.serve(service, factory, allow)
            if self._over:
                stop()
            else:
                self._services[service] = stop
            return {"service": service}

        return Deferred.fromCoroutine(serve())

    def _report(self, fields: JSON) -> None:
        report = None if fields.get("over") is True else TransferReport.read(fields)
        self._server.node.reports.put(self, number(fields, "transfer"), report)

    def _peer(self, fields: JSON) -> PeerID:
        return self._server.node.find(self._text(fields, "peer"))

    def _text(self, fields: JSON, name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str):
            raise CommandError("malformed", f'The command needs a field "{name}", which is text.')
        return value

    def _allow(self, fields: JSON) -> Allow:
        allow = fields.get("allow")
        if allow is None:
            return Allow()
        if allow == "anyone":
            return Allow(anyone=True)
        if not isinstance(allow, list) or not allow or not all(isinstance(each, str) for each in allow):
            raise CommandError("malformed", 'The field "allow" is "anyone", or an array of names or IDs.')
        return Allow(frozenset(self._server.node.find(each) for each in allow))

    def _stream(self, fields: JSON) -> WaitingStream:
        number = fields.get("stream")
        waiting = self._server.waiting.get(number) if isinstance(number, int) else None
        if waiting is None:
            raise CommandError("no-stream", "No stream of this number waits to be accepted (any more).")
        return waiting

    # Answers and events

    def _answered(self, answer: JSON | None, fields: JSON) -> None:
        self._tell({"event": "result", **(answer or {}), **_repeated(fields)})

    def _failed(self, failure: Failure, fields: JSON) -> None:
        error = failure.value
        if not isinstance(error, CommandError):
            self._log.failure("A command of an attached program failed.", failure)
            error = CommandError("internal", f"The command failed: {error}.")
        self._error(fields, error)

    def _error(self, fields: JSON, error: CommandError) -> None:
        self._tell({"event": "error", "reason": error.reason, "text": str(error), **_repeated(fields)})

    def _done(self) -> None:
        self._commands -= 1
        self._read_lines(True)
        if self._ended and self._commands == 0 and self._end is None:
            self._close()

    def stream_waits(self, number: int, waiting: WaitingStream) -> None:
        """A peer has opened a stream to a service of this program."""
        if self._over:
            waiting.refuse()
            return
        self._waiting.add(waiting)
        address = waiting.address
        self._tell_event(
            {"event": "stream", "stream": number, "service": address.service, "peer": str(address.peer)}
        )

    def stream_over(self, waiting: WaitingStream) -> None:
        """A stream that waited was accepted, or has ended."""
        self._waiting.discard(waiting)

    def _tell_event(self, fields: JSON) -> None:
        if self._unread is not None:
            self._unread += len(line(fields))
            if self._unread > MAX_UNREAD:
                self._over = True
                self._transport.abortConnection()
                return
        self._tell(fields)

    def _tell(self, fields: JSON) -> None:
        if not self._over and self._end is None:
            told = {"event": fields["event"], "time": round(time.monotonic() - _started, 6), **fields}
            self._transport.write(line(told))

    # This connection as a producer of commands: the transport of its answers pauses it

    def pauseProducing(self) -> None:
        """The program does not read: read no more commands. This is called with each event meanwhile."""
        if self._unread is None:
            self._unread = 0
        self._read_lines(False)

    def resumeProducing(self) -> None:
        """The program reads again."""
        self._unread = None
        self._read_lines(True)

    def stopProducing(self) -> None:
        """The connection is over."""

    def _read_lines(self, on: bool) -> None:
        if self._end is not None or self._over:
            return
        if not on:
            LineReceiver.pauseProducing(self)  # type: ignore[no-untyped-call]
        elif self._unread is None and self._commands < MAX_COMMANDS and self.paused:
            LineReceiver.resumeProducing(self)  # type: ignore[no-untyped-call]

    # Streams

    def _become_stream(self, name: object, fields: JSON) -> None:
        framed = fields.get("framed") is True
        if self._services:
            raise CommandError(
                "malformed", "This connection serves: open streams on connections of their own."
            )
        if name == "accept-stream":
            waiting = self._stream(fields)
            address = waiting.address
            answer = {"peer": str(address.peer), "service": address.service}
            end = self._turn(fields, answer, framed)
            end.begin()
            waiting.accepted(end)
            return
        peer, service = self._peer(fields), self._text(fields, "service")
        end = self._turn(fields, {"peer": str(peer), "service": service}, framed)
        join = Join(end)
        opening = self._opening = self._server.node.open(peer, service, Factory.forProtocol(lambda: join))
        opening.addCallbacks(lambda _: end.begin(), self._not_opened, errbackArgs=(fields,))

    def _turn(self, fields: JSON, answer: JSON, framed: bool) -> LocalEnd:
        """Make this connection a stream; `LocalEnd.begin` writes the result of the command."""
        self._transport.unregisterProducer()
        result = {"event": "result", "time": round(time.monotonic() - _started, 6), **answer}
        end = LocalEnd(self._transport, framed, line({**result, **_repeated(fields)}))
        self._end = end
        self.setRawMode()  # type: ignore[no-untyped-call]
        return end

    def _not_opened(self, failure: Failure, fields: JSON) -> None:
        self._end, self._opening = None, None
        if not self._over and not isinstance(failure.value, CancelledError):
            self._failed(failure, fields)
            self._close()

    def _close(self) -> None:
        """End the connection when all that was written is read."""
        self._over = True
        # A producer that is paused would keep the connection open
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    @property
    def _transport(self) -> UnixTransport:
        return cast(UnixTransport, self.transport)


def _repeated(fields: JSON) -> JSON:
    name = fields.get("command")
    return {**request_fields(fields), **({"command": name[:64]} if isinstance(name, str) else {})}

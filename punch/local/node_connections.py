"""Connections to the socket of a node in another process: one for commands, and one for each stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import PeerID
from punch.link.events import FIRST_APPLICATION_CODE
from punch.link.transport import PunchAddress, StreamTransport, as_failure
from punch.local.access import DELIVERY_TIME
from punch.local.join import UnixTransport
from punch.local.protocol import (
    JSON,
    NODE_TIME,
    Abort,
    CommandError,
    Mark,
    StreamFrameReader,
    frames,
    line,
    node_timeout,
    read_fields,
)
from punch.net.driver import Timer

WINDOW = 256 * 1024
"""Bytes of a stream that may have arrived and not yet been consumed."""
Admitted = Callable[[Any], bool]
"""Returns whether the process at the other end of a transport belongs to this user, or to root."""
MAX_ANSWER = 64 * 1024 * 1024
"""The longest line of a node in bytes: messages of the history are answered in one."""

_GONE = (
    "The node's process, to which this program was attached, has ended. Start this again: it attaches to the "
    "next one, or becomes the node."
)


class NodeGone(CommandError):
    """The process of the node has ended."""

    def __init__(self) -> None:
        super().__init__("node-lost", _GONE)


class NodeConnection(LineReceiver):
    """A connection to the socket of a node: its greeting, and events after it."""

    delimiter = b"\n"
    MAX_LENGTH = MAX_ANSWER

    def __init__(self, clock: IReactorTime, admitted: Admitted) -> None:
        self.greeted: Deferred[JSON] = Deferred()
        self._timeout = Timer(clock)
        self._admitted = admitted

    def connectionMade(self) -> None:
        """Wait for the greeting."""
        if self._admitted(self.transport):
            self._timeout.start(NODE_TIME, self._silent)
            return
        self.channel.abortConnection()
        self.greeted.errback(
            CommandError("denied", "The process that listens there belongs to another user.")
        )

    def lineReceived(self, line: bytes) -> None:
        """Take an event."""
        try:
            fields = read_fields(line, MAX_ANSWER)
        except CommandError:
            self.channel.abortConnection()
            return
        if self.greeted.called:
            self.event_received(fields)
            return
        self._timeout.cancel()
        if fields.get("event") == "ready":
            self.greeted.callback(fields)
        else:
            reason, text = str(fields.get("reason", "internal")), str(fields.get("text", fields))
            self.greeted.errback(CommandError(reason, text))
            self.channel.loseConnection()

    def event_received(self, fields: JSON) -> None:
        """Take an event after the greeting."""

    @property
    def channel(self) -> UnixTransport:
        """The transport."""
        return cast(UnixTransport, self.transport)

    def over(self) -> None:
        """Take note that the connection is over."""
        self._timeout.cancel()
        if not self.greeted.called:
            self.greeted.errback(NodeGone())

    def _silent(self) -> None:
        self.greeted.errback(node_timeout())
        self.channel.abortConnection()


class CommandConnection(NodeConnection):
    """The connection on which commands are given."""

    def __init__(self, clock: IReactorTime, admitted: Admitted) -> None:
        super().__init__(clock, admitted)
        self._asked: dict[int, Deferred[JSON]] = {}
        self._requests = 0
        self._closed = False
        self.on_stream: Callable[[JSON], None] = lambda fields: None
        self.on_lost: Callable[[], None] = lambda: None

    def ask(self, fields: JSON) -> Deferred[JSON]:
        """Give a command."""
        if self._closed:
            return fail(NodeGone())
        self._requests += 1
        answer = self._asked[self._requests] = Deferred()
        self.channel.write(line({**fields, "request": self._requests}))
        return answer

    def event_received(self, fields: JSON) -> None:
        """Take an answer, or hear of a stream."""
        if fields.get("event") == "stream":
            self.on_stream(fields)
            return
        request = fields.get("request")
        waiter = self._asked.pop(request, None) if isinstance(request, int) else None
        if waiter is None:
            return
        if fields.get("event") == "result":
            waiter.callback(fields)
        else:
            waiter.errback(CommandError(str(fields.get("reason")), str(fields.get("text"))))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The node has ended."""
        self._closed = True
        self.over()
        asked, self._asked = self._asked, {}
        for waiter in asked.values():
            waiter.errback(NodeGone())
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class StreamConnection(NodeConnection):
    """
    A connection that becomes a stream. It carries the bytes of one `StreamTransport` in frames, as a link
    does in its own way (`StreamOwner`, `StreamCarrier`).
    """

    def __init__(
        self,
        clock: IReactorTime,
        admitted: Admitted,
        local: PeerID,
        remote: PeerID,
        service: str,
        command: JSON,
        ending: set[StreamConnection],
    ) -> None:
        super().__init__(clock, admitted)
        self.local = local
        self.remote = remote
        self._clock = clock
        self._command = command
        self._ending = ending
        self._taken: list[Deferred[bool]] = []
        self._reader = StreamFrameReader()
        self._full = False
        self._unused = 0
        self._reading = True
        self._over = False
        self._ended = False
        """This side has ended its direction."""
        self._peer_ended = False
        self._done = False
        """The node has said that the stream ended in order."""
        self._stream = StreamTransport(self, 0, service)

    def begin(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Give the command, and connect a protocol.

        :return: fires when the stream is accepted, or fails with `CommandError`.
        """
        self.channel.registerProducer(self, True)
        self.channel.write(line(self._command))
        try:
            protocol = factory.buildProtocol(self._stream.getPeer())
        except Exception:  # of any kind, as the factory is the application's
            self.channel.abortConnection()
            return fail()
        if protocol is None:
            self.channel.abortConnection()
            return fail(CommandError("not-allowed", "The factory built no protocol."))
        return self._stream.open(protocol)

    def event_received(self, fields: JSON) -> None:
        """Take the answer to the command."""
        if fields.get("event") == "result":
            self.setRawMode()  # type: ignore[no-untyped-call]
            self._stream.accepted()
            return
        reason, text = str(fields.get("reason")), str(fields.get("text"))
        self._stream.lost(as_failure(CommandError(reason, text)))

    def rawDataReceived(self, data: bytes) -> None:
        """Bytes of the stream."""
        for part in self._reader.receive(data):
            if isinstance(part, bytes):
                self._unused += len(part)
                self._stream.data_received(part, False)
            elif part is Mark.END:
                self._peer_ended = True
                self._stream.data_received(b"", True)
            elif isinstance(part, Abort):
                self._done = True
                self._stream.stream_reset(part.code)
            else:
                self._done = True
                # A stream both of whose directions have ended is over when its protocol has read all. Nodes
                # of older releases also say so of one that was cut off
                if not (self._ended and self._peer_ended):
                    self._stream.lost(as_failure(ConnectionLost("The link was closed.")))
        self._check_reading()

    def readConnectionLost(self) -> None:
        """The node has closed the connection."""
        self.channel.abortConnection()

    def writeConnectionLost(self) -> None:
        """Never happens: directions end by marks."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over; that of the stream, too, unless a mark said so before."""
        self._over = True
        self.over()
        self._ending.discard(self)
        taken, self._taken = self._taken, []
        for waiter in taken:
            if not waiter.called:
                waiter.callback(isinstance(reason.value, ConnectionDone))
        if not self._done:
            self._stream.lost(as_failure(ConnectionLost("The stream, or the node's process, has ended.")))

    def when_taken(self) -> Deferred[bool]:
        """Fires when the connection is closed: with whether the node had taken all before, or can't say."""
        waiter: Deferred[bool] = Deferred()
        self._taken.append(waiter)
        return waiter.addTimeout(DELIVERY_TIME, self._clock, onTimeoutCancel=lambda result, timeout: False)

    # StreamOwner

    @property
    def carrier(self) -> StreamConnection:
        """What carries the bytes."""
        return self

    def address(self, peer: PeerID, service: str) -> PunchAddress:
        """Return the address of one end of the stream."""
        return PunchAddress(peer, service)

    def schedule_flush(self) -> None:
        """Nothing to do: the reactor sends."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call a function in the next turn."""
        self._clock.callLater(0, call)

    def stream_over(self, stream_id: int) -> None:
        """The stream has ended."""
        if not self._over:
            self._over = True
            self._ending.add(self)
            self.channel.unregisterProducer()
            self.channel.loseConnection()

    # StreamCarrier

    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool = False) -> None:
        """Send bytes, and with `fin` the mark."""
        self._ended = self._ended or fin
        if not self._over:
            marks: Sequence[bytes] = [Mark.END.value] if fin else []
            self.channel.writeSequence([*frames(data), *marks])

    def is_full(self, stream_id: int) -> bool:
        """Whether the node does not read now."""
        return self._full

    def consumed(self, stream_id: int, size: int) -> None:
        """The protocol has used bytes."""
        self._unused -= size
        self._check_reading()

    def accept(self, stream_id: int) -> None:
        """Nothing to do: the command has accepted it."""

    def reset(self, stream_id: int, code: int) -> None:
        """Give the stream up. A code of the application goes behind what was written before."""
        self._over = True
        if code < FIRST_APPLICATION_CODE:
            self.channel.abortConnection()
            return
        self.channel.unregisterProducer()
        self.channel.write(Abort(code).encode())
        self.channel.loseConnection()

    # What the transport of the connection does to its producer, the stream

    def pauseProducing(self) -> None:
        """Enough is queued."""
        self._full = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self._full = False
        self._stream.sendable()

    def stopProducing(self) -> None:
        """The connection is over; `connectionLost` follows."""

    def _check_reading(self) -> None:
        reading = self._unused < WINDOW
        if reading is not self._reading and not self._over:
            self._reading = reading
            if reading:
                self.channel.resumeProducing()
            else:
                self.channel.pauseProducing()

"""Joins a stream of a link with the socket connection of an attached program: bytes and ends go both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.link.events import FIRST_APPLICATION_CODE
from punch.link.transport import StreamAborted, StreamTransport
from punch.local.protocol import Abort, Mark, StreamFrameReader, frames

MAX_EARLY = 64 * 1024
"""Bytes that a program may send before its stream is open; it is not read from beyond them."""


class UnixTransport(Interface):
    """What this package uses of the transport of a UNIX socket."""

    def write(self, data: bytes, /) -> object: ...
    def writeSequence(self, data: Iterable[bytes], /) -> object: ...
    def loseWriteConnection(self) -> object: ...
    def loseConnection(self) -> object: ...
    def abortConnection(self) -> object: ...
    def pauseProducing(self) -> object: ...
    def resumeProducing(self) -> object: ...
    def registerProducer(self, producer: Any, streaming: bool, /) -> object: ...
    def unregisterProducer(self) -> object: ...


@implementer(IPushProducer)
class _PausedSide:
    """Lets one side be paused by the other, and nothing else."""

    def __init__(self, side: UnixTransport | StreamTransport) -> None:
        self._side = side

    def pauseProducing(self) -> None:
        self._side.pauseProducing()

    def resumeProducing(self) -> None:
        self._side.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the join decides how a side ends."""


class LocalEnd:
    """
    The connection of a program as one end of a stream.

    :param framed: whether the bytes are in frames.
    :param result: what is written when the stream is accepted, before its first byte.
    """

    def __init__(self, transport: UnixTransport, framed: bool, result: bytes) -> None:
        self._transport = transport
        self._reader = StreamFrameReader() if framed else None
        self._result = result
        self._begun = False
        self._early: list[bytes] = []
        self._early_size = 0
        self._stream: StreamTransport | None = None
        self._program_done = False
        self._over = False

    def begin(self) -> None:
        """The stream is accepted: tell the program, before the first byte."""
        if not self._over:
            self._begun = True
            self._transport.write(self._result)

    # What the program does

    def received(self, data: bytes) -> None:
        """The program has written."""
        if self._reader is None:
            self._write(data)
            return
        for part in self._reader.receive(data):
            if isinstance(part, bytes):
                self._write(part)
            elif part is Mark.END:
                self._end_writing()
            elif isinstance(part, Abort):
                self._abort(part.code)

    def read_ended(self) -> None:
        """The program has closed its direction of the connection."""
        if self._reader is None:
            self._end_writing()
        elif not self._program_done:
            # Without the mark, the program has ended, or given the stream up
            self._transport.abortConnection()

    def connection_lost(self) -> None:
        """The connection is over."""
        self._over = True
        if self._stream is not None:
            self._stream.abortConnection()

    # What the stream does

    def joined(self, stream: StreamTransport) -> None:
        """The stream is there, accepted or not."""
        if self._over:
            stream.abortConnection()
            return
        self._stream = stream
        stream.registerProducer(_PausedSide(self._transport), True)
        self._transport.registerProducer(_PausedSide(stream), True)
        early, self._early = self._early, []
        self._transport.resumeProducing()
        for data in early:
            stream.write(data)
        if self._program_done:
            stream.loseWriteConnection()

    def write(self, data: bytes) -> None:
        """The peer has written."""
        if self._reader is None:
            self._transport.write(data)
        else:
            self._transport.writeSequence(list(frames(data)))

    def end_writing(self) -> None:
        """The peer has ended its direction."""
        if self._reader is None:
            self._transport.loseWriteConnection()
        else:
            self._transport.write(Mark.END.value)

    def stream_lost(self, reason: Failure) -> None:
        """The stream is over. If it was not accepted, `LocalConnection` says why."""
        self._stream = None
        if self._over:
            return
        self._transport.unregisterProducer()
        if not self._begun:
            return
        self._over = True
        error = reason.value
        if isinstance(error, StreamAborted) and self._reader is not None:
            self._transport.write(Abort(error.code).encode())
        elif not isinstance(error, ConnectionDone):
            self._transport.abortConnection()
            return
        elif self._reader is not None:
            self._transport.write(Mark.OVER.value)
        self._transport.loseConnection()

    # Inside

    def _write(self, data: bytes) -> None:
        if self._program_done:
            return
        if self._stream is not None:
            self._stream.write(data)
        else:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size > MAX_EARLY:
                self._transport.pauseProducing()

    def _abort(self, code: int) -> None:
        stream, self._stream, self._over = self._stream, None, True
        self._transport.unregisterProducer()
        self._transport.abortConnection()
        if stream is not None and code >= FIRST_APPLICATION_CODE:
            stream.abort_with(code)
        elif stream is not None:
            stream.abortConnection()

    def _end_writing(self) -> None:
        if not self._program_done:
            self._program_done = True
            if self._stream is not None:
                self._stream.loseWriteConnection()


@implementer(IHalfCloseableProtocol)
class Join(Protocol):
    """The protocol of the stream; `join` gives it the other end if that comes later."""

    def __init__(self, end: LocalEnd | None = None) -> None:
        self._end = end

    @property
    def stream(self) -> StreamTransport:
        """The stream of the link."""
        return cast(StreamTransport, self.transport)

    def join(self, end: LocalEnd) -> None:
        """Join the stream with a connection."""
        self._end = end
        end.joined(self.stream)

    def connectionMade(self) -> None:
        """The stream is there."""
        if self._end is not None:
            self._end.joined(self.stream)

    def dataReceived(self, data: bytes) -> None:
        """Hand on bytes of the peer."""
        if self._end is not None:
            self._end.write(data)

    def readConnectionLost(self) -> None:
        """Hand on that the peer writes no more."""
        if self._end is not None:
            self._end.end_writing()

    def writeConnectionLost(self) -> None:
        """Nothing to do: the program has ended its direction."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hand on that the stream is over."""
        if self._end is not None:
            self._end.stream_lost(reason)

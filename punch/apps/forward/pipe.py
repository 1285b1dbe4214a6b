"""
Pipes: a stream that is joined with the program's input and output, and how two peers who both run
`punch pipe` get one stream: the one that starts first waits for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.forward.messages import (
    HELLO,
    SERVICE,
    End,
    PipeError,
    PipeReader,
    PipeStatus,
    encode_end,
    encode_piece,
    encode_status,
)
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.net.driver import Timer

CLOSE_TIME = 5.0
"""Seconds in which the other side has to end the stream when it was told that this side failed."""


class OutputLost(Exception):
    """Nobody reads the output of this side any more, or it can't be written."""


class OtherSideFailed(Exception):
    """
    The other side ended with a status other than 0.

    :ivar status: that status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class StandardInputOutput(Interface):
    """What a pipe uses of the program's input and output."""

    def write(self, data: bytes, /) -> None:
        """Write to the output, in order, without blocking."""

    def written(self) -> Deferred[None]:
        """Fires when all that was written has left this process."""

    def end_output(self) -> Deferred[None]:
        """Close the output when all is written; fires then."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read on."""


class _Joined:
    """
    A stream that is joined with an input and an output. Each is paused while the other takes no more.

    Nothing is read from the stream before `start`.

    :ivar finished: fires when the stream is over; fails with `OutputLost`, `OtherSideFailed`, `PipeError`, or
        with the reason why the connection was lost.
    :ivar failure: why it fails, from when that is known.
    """

    def __init__(self) -> None:
        self.finished: Deferred[None] = Deferred()
        self.failure: Failure | None = None
        self.local: StandardInputOutput | None = None
        self._stream: Any = None
        self._writing = False
        self._lost: tuple[Failure, bool] | None = None

    def connected(self, stream: Any) -> None:
        """The stream is there."""
        self._stream = stream
        stream.pauseProducing()

    def start(self, local: StandardInputOutput) -> None:
        """Join the stream with an input and an output."""
        self.local = local
        if self._lost is not None:
            self._finish(*self._lost)
            return
        self._stream.registerProducer(_Input(local), True)
        self._stream.resumeProducing()

    def write(self, data: bytes) -> None:
        """Write to the output, and read no more from the stream until it has left."""
        assert self.local is not None
        self.local.write(data)
        if self._writing:
            return
        written = self.local.written()
        if not written.called:
            self._writing = True
            self._stream.pauseProducing()
            written.addCallback(lambda _: self._written())

    def end_output(self) -> Deferred[None]:
        """Close the output when all is written; fires then."""
        assert self.local is not None
        return self.local.end_output()

    def fail(self, error: Exception) -> None:
        """Note why it fails; what is noted later does not count."""
        if self.failure is None:
            self.failure = Failure(error)  # type: ignore[no-untyped-call]

    def lost(self, reason: Failure, complete: bool) -> None:
        """The stream is over; `complete`: all was sent and received."""
        self._lost = (reason, complete)
        if self.local is not None and not self.finished.called:
            self._finish(reason, complete)

    def _written(self) -> None:
        self._writing = False
        self._stream.resumeProducing()

    def _finish(self, reason: Failure, complete: bool) -> None:
        if self.failure is None and not complete:
            self.failure = reason
        self.finished.callback(self.failure)


@implementer(IPushProducer)
class _Input:
    """The input, as what is paused and resumed by the stream."""

    def __init__(self, local: StandardInputOutput) -> None:
        self._local = local

    def pauseProducing(self) -> None:
        """The stream takes no more for now."""
        self._local.pause()

    def resumeProducing(self) -> None:
        """The stream takes more."""
        self._local.resume()

    def stopProducing(self) -> None:
        """The stream is over; its protocol is told so."""


@implementer(IHalfCloseableProtocol)
class ServicePipe(Protocol):
    """A stream to any service: its bytes are those of the input and of the output."""

    transport: Any
    """An `ITransport` that is a producer and a consumer, too."""

    def __init__(self) -> None:
        self.joined = _Joined()
        self._input_ended = False
        self._output_ended: Deferred[None] | None = None
        self._lost: Failure | None = None

    def connectionMade(self) -> None:
        """Wait for the input and the output."""
        self.joined.connected(self.transport)

    def input_received(self, data: bytes) -> None:
        """Send bytes of the input."""
        self.transport.write(data)

    def input_ended(self) -> None:
        """End this direction."""
        self._input_ended = True
        self.transport.loseWriteConnection()

    def output_lost(self) -> None:
        """Give the stream up."""
        self.joined.fail(OutputLost())
        if self._lost is None:
            self.transport.abortConnection()
        else:
            self.joined.lost(self._lost, False)

    def dataReceived(self, data: bytes) -> None:
        """Write bytes of the service to the output."""
        self.joined.write(data)

    def readConnectionLost(self) -> None:
        """The service has ended its direction: so does the output."""
        self._output_ended = self.joined.end_output()

    def writeConnectionLost(self) -> None:
        """Nothing to do: the input has ended."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is over."""
        self._lost = reason
        if self.joined.failure is None and self._input_ended and self._output_ended is not None:
            self._output_ended.addCallback(lambda _: self.joined.lost(reason, True))
        else:
            self.joined.lost(reason, False)


class Pipe(Protocol):
    """
    One end of a pipe between two peers.

    Each side sends its input, its end, and at last its status, when all that it was sent is written. A status
    other than 0 ends the pipe at once. A side that has sent its status and has that of the other side ends
    the stream.

    :ivar ready: fires when the other side is there; fails with the reason why the stream was lost before.
    """

    transport: Any
    """An `ITransport` that is a producer and a consumer, too."""

    def __init__(self, clock: IReactorTime) -> None:
        self.joined = _Joined()
        self.ready: Deferred[None] = Deferred()
        self._reader = PipeReader()
        self._input_ended = False
        self._output_ended = False
        self._status: int | None = None
        self._other_status: int | None = None
        self._timeout = Timer(clock)

    def connectionMade(self) -> None:
        """Greet the other side."""
        self.transport.write(HELLO)

    def input_received(self, data: bytes) -> None:
        """Send bytes of the input."""
        if self._status is None:
            self.transport.writeSequence(encode_piece(data))

    def input_ended(self) -> None:
        """Send the end of the input."""
        if self._status is None:
            self._input_ended = True
            self.transport.write(encode_end())
            self._check()

    def output_lost(self) -> None:
        """End the pipe."""
        self._fail(OutputLost())

    def dataReceived(self, data: bytes) -> None:
        """Do what the other side says."""
        if not self.ready.called:
            if not data.startswith(HELLO):
                self.transport.abortConnection()
                return
            data = data[1:]
            self.joined.connected(self.transport)
            self.ready.callback(None)
        try:
            for message in self._reader.receive(data):
                self._received(message)
        except PipeError as error:
            self._fail(error)

    def _received(self, message: bytes | End | PipeStatus) -> None:
        if isinstance(message, PipeStatus):
            self._other_status = message.code
            if message.code:
                self.joined.fail(OtherSideFailed(message.code))
                self._send_status(message.code)
            elif not self._input_ended:
                raise PipeError("it ends before it has everything")
            self._check()
        elif self._status is not None:
            pass  # This side ends, and takes no more
        elif isinstance(message, End):
            self.joined.end_output().addCallback(lambda _: self._has_ended_output())
        else:
            self.joined.write(message)

    def _has_ended_output(self) -> None:
        self._output_ended = True
        self._check()

    def _check(self) -> None:
        if self._input_ended and self._output_ended:
            self._send_status(0)
        if self._status is not None and self._other_status is not None:
            self.transport.loseConnection()
            self._timeout.start(CLOSE_TIME, self.transport.abortConnection)

    def _fail(self, error: Exception) -> None:
        self.joined.fail(error)
        if self._status is None:
            self._timeout.start(CLOSE_TIME, self.transport.abortConnection)
            self._send_status(1)
            self._check()

    def _send_status(self, code: int) -> None:
        if self._status is None:
            self._status = code
            self.transport.unregisterProducer()
            self.transport.write(encode_status(code))
            # What the other side has sent meanwhile is dropped, until its status comes
            self.transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is over."""
        self._timeout.cancel()
        if not self.ready.called:
            self.ready.errback(reason)
        self.joined.lost(reason, self._status is not None and self._other_status is not None)


RETRY = 2.0
"""Seconds until a peer is asked again that has the service, but does not let this side open it now."""
LATE_RETRY = 30.0
"""
Seconds until a peer is asked again that is not there, or lacks the service: it may have asked while this side
could not be reached, as when the rendezvous starts again.
"""
_RETRIES = {
    "not-allowed": RETRY,
    "no-service": LATE_RETRY,
    "not-registered": LATE_RETRY,
    "gone": LATE_RETRY,
}
"""
Seconds until a peer is asked again, by the reason why the stream was not opened. After other reasons, such as
that its user said no or did not answer, this side only waits.
"""


class Meeting(Factory):
    """
    Serves the pipe for one peer, and opens it at this peer, until there is one stream.

    Each side first serves, and then opens. So whoever comes later finds the other. If both open at the same
    time, the stream of the side with the smaller ID counts: that side refuses the other's while its own is
    not answered.

    :param waits: whether the peer is to be waited for after this error; it may tell the user.
    """

    noisy = False

    def __init__(
        self, node: NodeAccess, peer: PeerID, clock: IReactorTime, waits: Callable[[CommandError], bool]
    ) -> None:
        self._node = node
        self._peer = peer
        self._clock = clock
        self._waits = waits
        self._met: Deferred[Pipe] = Deferred()
        self._chosen = False
        self._opening: Deferred[Any] | None = None
        self._retry = Timer(clock)

    async def meet(self) -> Pipe:
        """
        Wait for the other side, and return this end of the stream.

        :raise CommandError: there can't be one.
        """
        stop = await self._node.serve(SERVICE, self, Allow(frozenset([self._peer])))
        try:
            self._open()
            return await self._met
        finally:
            self._retry.cancel()
            stop()

    def buildProtocol(self, addr: Any) -> Pipe | None:
        """The peer opens a stream."""
        if self._chosen or (self._opening is not None and self._node.peer_id < self._peer):
            return None
        pipe = Pipe(self._clock)
        self._chosen = True
        self._retry.cancel()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        pipe.ready.addCallbacks(lambda _: self._met.callback(pipe), self._not_ready)
        return pipe

    def _open(self) -> None:
        self._opening = Deferred.fromCoroutine(self._try())
        self._opening.addCallbacks(self._opened, self._not_opened)

    async def _try(self) -> Pipe:
        pipe = Pipe(self._clock)
        try:
            await self._node.open(self._peer, SERVICE, Factory.forProtocol(lambda: pipe))
        except BaseException:
            pipe.ready.addErrback(lambda _: None)
            raise
        try:
            await pipe.ready
        except CancelledError:
            pipe.transport.abortConnection()
            raise
        return pipe

    def _opened(self, pipe: Pipe) -> None:
        self._chosen = True
        self._met.callback(pipe)

    def _not_opened(self, failure: Failure) -> None:
        if self._chosen:
            return
        self._opening = None
        error = failure.value
        retry: float | None = RETRY
        if isinstance(error, CommandError):
            retry, waits = _RETRIES.get(error.reason), self._waits(error)
        else:
            # A program that is attached to its node refuses a stream only after the node has accepted it
            waits = isinstance(error, (ConnectionDone, ConnectionLost))
        if not waits:
            self._met.errback(failure)
        elif retry is not None:
            self._retry.start(retry, self._open)

    def _not_ready(self, failure: Failure) -> None:
        """The stream that the peer opened was lost before it was used."""
        self._chosen = False
        self._retry.start(RETRY, self._open)

"""
A transfer as a Twisted protocol on a stream of the service "files/1": what both ends have in common, and the
sending end. `receiver.py` has the receiving one.

The disk is read and written in threads, one call of a transfer at a time. A slow disk pauses the stream, and
a slow stream pauses the reading, so a transfer needs a few megabytes of memory, whatever its size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.files.codec import (
    DataMessage,
    Message,
    MessageReader,
    decode_accept,
    decode_failed,
    decode_have,
    encode_entries,
    encode_failed,
    encode_offer,
    frames,
    message_type,
)
from punch.apps.files.messages import FailureCode, FilesMessageError, MessageType, TransferFailed
from punch.apps.files.source import Source
from punch.apps.files.source_reader import SourceReader, check_have

T = TypeVar("T")


class Run(Interface):
    """Makes a call that waits for the disk, in a thread."""

    def __call__(self, call: Callable[[], T], /) -> Deferred[T]:
        """Fires with what the call returns or raises."""


class TransferState(Enum):
    """How far a transfer is."""

    OFFERED = "offered"
    """The receiving user has not answered yet."""
    CHECKING = "checking"
    """The receiving side looks at what it has of it."""
    RUNNING = "running"
    """Files are sent."""
    OVER = "over"
    """It is complete, or has failed."""


class TransferProtocol(Protocol, ABC):
    """
    One end of a transfer: its messages, its state, and how it ends.

    :ivar state: how far the transfer is.
    """

    transport: Any
    """An `ITransport` that is a producer and a consumer, too."""
    log = Logger()

    def __init__(self, run: Run) -> None:
        self.state = TransferState.OFFERED
        self._result: list[Path] | Failure | None = None
        self._waiting: list[Deferred[list[Path]]] = []
        self._closed: list[Deferred[None]] = []
        self._run = run
        self._messages = MessageReader()

    @property
    def over(self) -> bool:
        """Whether it is complete, or has failed."""
        return self.state is TransferState.OVER

    def when_finished(self) -> Deferred[list[Path]]:
        """
        Wait until the transfer is complete.

        :return: fires with the final paths, for a receiver. It fails with `TransferFailed`, or with the
            reason why the connection was lost.
        """
        done: Deferred[list[Path]] = Deferred()
        self._waiting.append(done)
        if self.over:
            self._tell()
        return done

    def when_closed(self) -> Deferred[None]:
        """
        Wait until the connection has ended. If it ended in good order, the other side has what was sent last.

        :return: fires when the connection ends; never, if it has ended before.
        """
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        return closed

    def _finish(self, result: list[Path] | Failure) -> None:
        self.state = TransferState.OVER
        self._result = result
        self._tell()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(self._result)  # type: ignore[arg-type]  # or a Failure, as for any Deferred

    def send(self, *messages: Message) -> None:
        """Send messages."""
        for piece in frames(messages):
            self.transport.write(piece)

    def cancel(self) -> None:
        """End the transfer. What the receiving side has of it is kept, and continued the next time."""
        self.fail(TransferFailed(FailureCode.CANCELLED))

    def fail(self, failed: TransferFailed) -> None:
        """End the transfer, and tell the other side why unless it said so."""
        if self.over:
            return
        if not failed.by_peer:
            self.send(encode_failed(failed))
        self.transport.loseConnection()
        self._finish(Failure(failed))  # type: ignore[no-untyped-call]

    def complete(self, paths: list[Path]) -> None:
        """The transfer is complete."""
        if not self.over:
            self.transport.loseConnection()
            self._finish(paths)

    def run_steps(self, steps: Coroutine[Deferred[Any], Any, None]) -> None:
        """Run a coroutine. If it fails, so does the transfer."""
        Deferred.fromCoroutine(steps).addErrback(self._steps_failed)

    def _steps_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            # The transfer has ended while the user was asked.
            return
        if not isinstance(error, TransferFailed):
            self.log.failure("A transfer ended by an error of this program.", failure)
            error = TransferFailed(FailureCode.INTERNAL)
        self.fail(error)

    def dataReceived(self, data: bytes) -> None:
        """Handle the messages that are complete now."""
        if self.over:
            return
        try:
            for message in self._messages.receive(data):
                if isinstance(message, bytes) and message_type(message) is MessageType.FAILED:
                    self.fail(decode_failed(message))
                else:
                    self.message_received(message)
                if self.over:
                    return
        except TransferFailed as failed:
            self.fail(failed)

    @abstractmethod
    def message_received(self, message: Message) -> None:
        """
        Handle any message but FAILED.

        :raise TransferFailed: it ends the transfer.
        """

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the transfer, if it was not complete."""
        if not self.over:
            self._finish(reason)
        waiting, self._closed = self._closed, []
        for closed in waiting:
            closed.callback(None)


@implementer(IPushProducer)
class FileSender(TransferProtocol):
    """Offers files to the other side, and sends them when it accepts."""

    def __init__(self, source: Source, run: Run) -> None:
        super().__init__(run)
        self._source = source
        self._hash_name = ""
        self._have: dict[int, bytearray] = {}
        self._reader: SourceReader | None = None
        self._paused = False
        self._resumed: Deferred[None] | None = None
        self._accepting: list[Deferred[None]] = []

    def when_accepted(self) -> Deferred[None]:
        """Fires when the other side accepts the offer; never, if it does not."""
        accepted: Deferred[None] = Deferred()
        self._accepting.append(accepted)
        return accepted

    @property
    def position(self) -> int:
        """Bytes that were read so far."""
        return 0 if self._reader is None else self._reader.position

    @property
    def accepted(self) -> bool:
        """Whether the other side has accepted the offer."""
        return bool(self._hash_name)

    @property
    def reading(self) -> bool:
        """Whether it has begun to read the files, or the pipe."""
        return self._reader is not None

    @property
    def sent(self) -> int:
        """Bytes of files that were sent so far; fewer than `position` if the other side had some."""
        return 0 if self._reader is None else self._reader.sent

    def connectionMade(self) -> None:
        """Send the offer."""
        self.transport.registerProducer(self, True)
        self.send(encode_offer(self._source.offer))

    def message_received(self, message: Message) -> None:
        """Handle an answer of the receiving side."""
        if isinstance(message, DataMessage):
            raise FilesMessageError("a message that the receiving side does not send")
        kind = message_type(message)
        if kind is MessageType.ACCEPT and not self._hash_name:
            self._hash_name = decode_accept(message, self._source.offer.hashes)
            self.state = TransferState.CHECKING
            for accepted in self._accepting:
                accepted.callback(None)
            self.run_steps(self._send_entries())
        elif kind is MessageType.HAVE and self.state is TransferState.CHECKING:
            index, blocks = decode_have(message, len(self._source.entries))
            check_have(self._source, self._have, index, blocks)
        elif kind is MessageType.HAVE_END and self.state is TransferState.CHECKING:
            self.state = TransferState.RUNNING
            self._reader = SourceReader(self._source, self._hash_name, self._have)
            self.run_steps(self._send_files(self._reader))
        elif (
            kind is MessageType.DONE and self.state is TransferState.OFFERED and self._source.text is not None
        ):
            self.complete([])
        elif kind is MessageType.DONE and self._reader is not None:
            if self._reader.files < self._source.offer.files:
                raise FilesMessageError("the end, before all files were sent")
            self.complete([])
        else:
            raise FilesMessageError("a message out of order")

    async def _send_entries(self) -> None:
        for message in encode_entries(self._source.entries):
            await self._writable()
            if self.over:
                return
            self.send(message)

    async def _send_files(self, reader: SourceReader) -> None:
        reading = self._run(reader.batch)
        try:
            while messages := await reading:
                await self._writable()
                if self.over:
                    return
                # While these messages are sent, the next ones are read
                reading = self._run(reader.batch)
                self.send(*messages)
        finally:
            # If the transfer is over, nobody wants what a thread still reads, nor why it can't be read
            reading.addErrback(lambda _: None).addBoth(lambda _: reader.close())

    async def _writable(self) -> None:
        if self._paused and not self.over:
            self._resumed = Deferred()
            await self._resumed

    # IPushProducer

    def pauseProducing(self) -> None:
        """Stop reading files until `resumeProducing`."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Read on."""
        self._paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """The connection is over."""
        self.resumeProducing()

    def fail(self, failed: TransferFailed) -> None:
        """End the transfer."""
        super().fail(failed)
        self._release()

    def complete(self, paths: list[Path]) -> None:
        """The transfer is complete."""
        super().complete(paths)
        self._release()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the transfer."""
        super().connectionLost(reason)
        self._stop()

    def _release(self) -> None:
        # A producer that is registered would keep the stream from ending.
        self.transport.unregisterProducer()
        self._stop()

    def _stop(self) -> None:
        if self._reader is not None:
            self._reader.stop()
        self.resumeProducing()

"""A stream of a link as a Twisted transport, with back-pressure in both directions, and its address."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import PeerID
from punch.link.events import FIRST_APPLICATION_CODE, LinkClosed, RefusalCode, ServiceRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from punch.link.link import Link

ABORTED = 2
"""
The code with which an application gives up a stream without a reason; refusals have other codes
(`RefusalCode`).
"""


class StreamAborted(ConnectionLost):
    """
    The other side gave up the stream.

    :ivar code: why. From `FIRST_APPLICATION_CODE` on, it is the application's.
    """

    def __init__(self, code: int) -> None:
        super().__init__("The other side gave up the stream.")
        self.code = code


def _is_constant(data: bytes | bytearray | memoryview) -> bool:
    """Whether data can't change: it is bytes, or a plain view of bytes."""
    if isinstance(data, memoryview):
        return type(data.obj) is bytes and data.format == "B" and data.c_contiguous and data.ndim == 1
    return type(data) is bytes


def as_failure(error: BaseException | None = None) -> Failure:
    """An exception, or the one being handled, as Twisted passes it on."""
    return Failure(error)  # type: ignore[no-untyped-call]  # Twisted has no types there


@implementer(IAddress)
@dataclass(frozen=True, eq=False)
class PunchAddress:
    """
    One end of a stream. Its path may change at any time and is not part of the address.

    :ivar peer: who is at this end.
    :ivar service: the name of the service that the stream was opened to.
    """

    peer: PeerID
    service: str

    def __eq__(self, other: object) -> bool:
        """Whether it is the same end, whichever process has the link."""
        if not isinstance(other, PunchAddress):
            return NotImplemented
        return (self.peer, self.service) == (other.peer, other.service)

    def __hash__(self) -> int:
        return hash((self.peer, self.service))

    def __str__(self) -> str:
        return str(self.peer)


@dataclass(frozen=True, eq=False)
class LinkAddress(PunchAddress):
    """
    One end of a stream of a link in this process.

    :ivar link: the link that the stream is on.
    """

    link: Link = field(repr=False)


class StreamCarrier(Protocol):
    """What carries the bytes of streams, each of which it knows by a number."""

    def send(self, stream_id: int, data: bytes | bytearray | memoryview, fin: bool = False) -> None:
        """Queue bytes that do not change; with `fin`, they are the last."""

    def is_full(self, stream_id: int) -> bool:
        """Whether enough is queued. `StreamTransport.sendable` is called when there is room."""

    def consumed(self, stream_id: int, size: int) -> None:
        """So many received bytes were used: as many more may come."""

    def accept(self, stream_id: int) -> None:
        """Tell the other side that a service answers the stream."""

    def reset(self, stream_id: int, code: int) -> None:
        """Abort the stream in both directions."""


class StreamOwner(Protocol):
    """What a stream is part of: a `Link`, or the connection to a program that has the link."""

    @property
    def carrier(self) -> StreamCarrier:
        """What carries the bytes."""

    @property
    def remote(self) -> PeerID:
        """The other side."""

    @property
    def local(self) -> PeerID:
        """This side."""

    def address(self, peer: PeerID, service: str) -> PunchAddress:
        """Return the address of one end of a stream."""

    def schedule_flush(self) -> None:
        """Send, at the end of this turn, what was queued."""

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call a function at the end of this turn."""

    def stream_over(self, stream_id: int) -> None:
        """The stream has ended, and its protocol is told so next."""


@implementer(ITransport, IPushProducer, IConsumer)
class StreamTransport:
    """
    One stream, for one protocol.

    What the protocol writes is sent at the end of the reactor's turn. While it has paused this transport, the
    other side is granted nothing, so at most one window of data gathers here. An exception from the protocol
    is logged and ends its stream, nothing else.
    """

    _log = Logger()

    def __init__(self, link: StreamOwner, stream_id: int, name: str) -> None:
        self.link = link
        self.stream_id = stream_id
        self.name = name
        self.protocol: IProtocol | None = None
        """None until a service answers."""
        self.disconnecting = False
        """The protocol asked to disconnect (Twisted's own protocols look at this)."""
        self.connected = True
        self._opening: Deferred[IProtocol] | None = None
        self._unread: deque[bytes] = deque()
        self._read_paused = False
        self._write_closed = False
        self._peer_done = False
        self._told_peer_done = False
        self._producer: IPushProducer | None = None
        self._pull_producer: _PullProducer | None = None
        """The producer, if it is a pull producer."""
        self._producer_paused = False

    # ITransport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """
        Queue bytes; after `loseConnection` they are dropped, as any transport does. Buffers that may
        change are copied; bytes and views of bytes are not.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a transport's data must be bytes, not {type(data).__name__}")
        if not self.connected or self._write_closed or not data:
            return
        self.link.carrier.send(self.stream_id, data if _is_constant(data) else bytes(data))
        self.link.schedule_flush()
        self._pause_producer_if_full()
        if self._pull_producer is not None:
            self._pull_producer.wrote()

    @property
    def unread(self) -> int:
        """How many bytes have arrived that the protocol has not been given yet, because it has paused."""
        return sum(map(len, self._unread))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Send what is queued, then the end; `connectionLost` follows when the other side has ended too."""
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = True
        # What still comes is dropped and counts as read, so that the other side can send all that it has
        self._drop_unread()
        if self._producer is None:
            self._end_writing()

    def loseWriteConnection(self) -> None:
        """Send what is queued, then the end of this direction; the other one stays open."""
        if self.connected and not self._write_closed:
            self._end_writing()
            half_closeable = IHalfCloseableProtocol(self.protocol, None)
            if half_closeable is not None and not self.disconnecting:
                self._guard(half_closeable.writeConnectionLost)

    def abortConnection(self) -> None:
        """Reset the stream at once; what is queued is lost."""
        if self.connected:
            self._abort(as_failure(ConnectionAborted()), ABORTED)

    def abort_with(self, code: int) -> None:
        """
        As `abortConnection`, and tell the other side why, whose protocol gets `StreamAborted`.

        :param code: a code of the application, `FIRST_APPLICATION_CODE` or more.
        """
        if not FIRST_APPLICATION_CODE <= code < 2**32:
            raise ValueError(f"an application has codes from {FIRST_APPLICATION_CODE} on, not {code}")
        self._abort(as_failure(ConnectionAborted()), code)

    def getPeer(self) -> PunchAddress:
        return self.link.address(self.link.remote, self.name)

    def getHost(self) -> PunchAddress:
        return self.link.address(self.link.local, self.name)

    # Of ITCPTransport, options of TCP, so that protocols for TCP can set them. They change nothing: what is
    # written within a turn is sent at its end, and links have their own keepalives.

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""

    def getTcpKeepAlive(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing."""

    # IPushProducer: what the protocol does to reading

    def pauseProducing(self) -> None:
        self._read_paused = True

    def resumeProducing(self) -> None:
        if self._read_paused:
            self._read_paused = False
            # Not at once, because the protocol may be within `dataReceived`
            self.link.call_soon(self._deliver_unread)

    def stopProducing(self) -> None:
        self.loseConnection()

    # IConsumer: a producer that writes

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        :param streaming: whether it is a push producer, which is paused and resumed. A pull producer is asked
            for more whenever it has written and the stream has room.
        :raise RuntimeError: there is a producer already.
        """
        if self._producer is not None:
            raise RuntimeError("this stream has a producer already: unregister it first")
        if not self.connected or self.disconnecting:
            producer.stopProducing()
            return
        self._producer_paused = False
        if streaming:
            self._producer = IPushProducer(producer, producer)
        else:
            self._producer = self._pull_producer = _PullProducer(producer, self._guard, self.link.call_soon)
            self._producer.resumeProducing()
        self._pause_producer_if_full()

    def unregisterProducer(self) -> None:
        if self._pull_producer is not None:
            self._pull_producer.pauseProducing()
        self._producer = self._pull_producer = None
        if self.connected and self.disconnecting and not self._write_closed:
            self._end_writing()

    # What the link tells

    def open(self, protocol: IProtocol) -> Deferred[IProtocol]:
        """
        Connect the protocol of a stream that this side opened.

        :return: as `Link.connect`.
        """
        opening = self._opening = Deferred(lambda _: self._cancel())
        self.protocol = protocol
        self._guard(protocol.makeConnection, self)
        return opening

    def _cancel(self) -> None:
        self._opening = None
        self.abortConnection()

    def accepted(self) -> None:
        """The other side has accepted the stream that this side opened."""
        if self.connected and self._opening is not None and self.protocol is not None:
            opening, self._opening = self._opening, None
            opening.callback(self.protocol)

    def accept(self, protocol: IProtocol) -> None:
        """Connect the protocol that answers a stream of the other side."""
        if self.connected:
            self.protocol = protocol
            self.link.carrier.accept(self.stream_id)
            self._guard(protocol.makeConnection, self)
            self._deliver_unread()
            self.link.schedule_flush()

    def refuse(self, code: RefusalCode) -> None:
        """Refuse a stream of the other side."""
        self._abort(as_failure(ConnectionAborted()), code)

    def data_received(self, data: bytes, fin: bool) -> None:
        """The next bytes of the other side have come; with `fin`, they are the last."""
        if data:
            if self.disconnecting:
                self.link.carrier.consumed(self.stream_id, len(data))
            else:
                self._unread.append(data)
        self._peer_done = self._peer_done or fin
        self._deliver_unread()

    def sendable(self) -> None:
        """The stream was full and has room again."""
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._guard(self._producer.resumeProducing)

    def stream_reset(self, code: int) -> None:
        """The other side has reset the stream, or refused it."""
        if self._opening is not None and code in RefusalCode.__members__.values():
            self.lost(as_failure(ServiceRefused(self.name, RefusalCode(code))))
            return
        if code >= FIRST_APPLICATION_CODE:
            # Only a service has such codes, so it has accepted the stream before
            self.accepted()
        self.lost(as_failure(StreamAborted(code)))

    def link_closed(self, closed: LinkClosed) -> None:
        """The link has ended. A stream that has not is cut off, also if the link was closed in order."""
        if self._peer_done and self._write_closed and not self._unread:
            self.lost(as_failure(ConnectionDone()))
        else:
            self.lost(as_failure(ConnectionLost(closed.reason or closed.code.name.lower())))

    def lost(self, failure: Failure) -> None:
        """The stream is over; `failure` says why."""
        if self.connected:
            self.connected = False
            self._finish(failure)

    # Inside

    def _deliver_unread(self) -> None:
        if self.protocol is None:
            return
        while self._unread and not self._read_paused and self.connected:
            data = self._unread.popleft()
            self._guard(self.protocol.dataReceived, data)
            self.link.carrier.consumed(self.stream_id, len(data))
        paused = self._read_paused and not self.disconnecting
        if self._peer_done and not self._unread and self.connected and not paused:
            self._deliver_end()

    def _deliver_end(self) -> None:
        if not self._told_peer_done:
            self._told_peer_done = True
            half_closeable = IHalfCloseableProtocol(self.protocol, None)
            if half_closeable is None or self.disconnecting:
                self.loseConnection()
            else:
                self._guard(half_closeable.readConnectionLost)
        if self._write_closed:
            self.lost(as_failure(ConnectionDone()))

    def _end_writing(self) -> None:
        self._write_closed = True
        self.link.carrier.send(self.stream_id, b"", fin=True)
        self.link.schedule_flush()
        if self._peer_done and not self._unread and self._told_peer_done:
            self.link.call_soon(self._deliver_end)

    def _drop_unread(self) -> None:
        size = self.unread
        self._unread.clear()
        if size:
            self.link.carrier.consumed(self.stream_id, size)
        if self._peer_done:
            self.link.call_soon(self._deliver_unread)

    def _pause_producer_if_full(self) -> None:
        if (
            self._producer is not None
            and not self._producer_paused
            and self.link.carrier.is_full(self.stream_id)
        ):
            self._producer_paused = True
            self._guard(self._producer.pauseProducing)

    def _guard(self, call: Callable[..., object], *args: object) -> None:
        """Call the application's code. An exception of any kind is logged and ends this stream alone."""
        try:
            call(*args)
        except Exception:
            failure = as_failure()
            self._log.failure(
                "The application of stream {name!r} failed; its stream is closed.", failure, name=self.name
            )
            self._abort(failure, RefusalCode.FAILED)

    def _abort(self, failure: Failure, code: int) -> None:
        if self.connected:
            self.link.carrier.reset(self.stream_id, code)
            self.link.schedule_flush()
            self.connected = False
            self.link.call_soon(lambda: self._finish(failure))

    def _finish(self, failure: Failure) -> None:
        self.disconnecting = True
        self._unread.clear()
        self.link.stream_over(self.stream_id)
        producer, self._producer, self._pull_producer = self._producer, None, None
        if producer is not None:
            self._guard(producer.stopProducing)
        if self.protocol is not None:
            self._guard(self.protocol.connectionLost, failure)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.errback(failure)


@implementer(IPushProducer)
class _PullProducer:
    """
    A pull producer as a push producer: it is asked for more after each write, while it is not paused.

    :param guard: calls the application's code.
    :param call_soon: calls a function at the end of this turn.
    """

    def __init__(
        self,
        producer: IProducer,
        guard: Callable[..., None],
        call_soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._producer = IPullProducer(producer, producer)
        self._guard = guard
        self._call_soon = call_soon
        self._active = False
        self._asked = False

    def resumeProducing(self) -> None:
        self._active = True
        self.wrote()

    def pauseProducing(self) -> None:
        self._active = False

    def stopProducing(self) -> None:
        self._active = False
        self._producer.stopProducing()

    def wrote(self) -> None:
        """Something was written: ask for more, soon."""
        if self._active and not self._asked:
            self._asked = True
            self._call_soon(self._ask)

    def _ask(self) -> None:
        self._asked = False
        if self._active:
            self._guard(self._producer.resumeProducing)

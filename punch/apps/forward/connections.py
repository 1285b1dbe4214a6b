"""
TCP connections of this machine that are joined with streams: those to a port that is exposed to peers, and
those from a port here that leads to a service of a peer.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    UnknownHostError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.forward.messages import ForwardFailure, failure_of
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.net.driver import Timer

MAX_CONNECTIONS = 4096
"""Connections of all peers at once to one exposed port."""
MAX_CONNECTIONS_OF_PEER = 1024
"""Of these, how many may be of one peer."""
CONNECT_TIME = 10.0
"""Seconds in which the port has to accept a connection."""
MAX_FORWARDED = 2048
"""Connections at once that a port of this machine forwards; further ones are closed."""
MAX_OPENING = 64
"""Streams that are being opened at once."""
FIRST_RETRY, LAST_RETRY = 0.05, 1.0
"""
Seconds after which a stream is opened again when too many were open, and the longest such time. When a
connection ends, it is tried at once.
"""

READ_SIZE = 256 * 1024
"""
Bytes that are read at once from a connection of this machine that brings much, four times as many as Twisted
reads: each read is a turn of the link, with system calls of its own.
"""

T = TypeVar("T")


@implementer(IHalfCloseableProtocol, IPushProducer)
class Joined(Protocol):
    """
    One of two connections. It reads nothing before it is joined with the other.

    Each direction ends by itself. A connection that is lost before both have ended resets the other one.

    :param stream: whether it is a stream of a link; else it is a connection of this machine.
    :param on_lost: is told why the connection ended.
    """

    transport: Any
    """An `ITransport` that is a producer and a consumer, too."""

    def __init__(self, *, stream: bool, on_lost: Callable[[Failure], object] = lambda reason: None) -> None:
        self._is_stream = stream
        self._on_lost = on_lost
        self._other: Joined | None = None
        self._lost = False
        self._read_ended = False
        self._write_ended = False

    def connectionMade(self) -> None:
        """Wait for the other one."""
        if ITCPTransport.providedBy(self.transport):
            # Otherwise, a program's second small write would wait for the acknowledgement of the first
            self.transport.setTcpNoDelay(True)
        self.transport.pauseProducing()

    def join(self, other: Joined) -> None:
        """Join two connections, each of which is there, or is lost already."""
        self._other, other._other = other, self
        for one, another in ((self, other), (other, self)):
            if one._lost:
                another.other_lost(complete=False)
                return
        for one, another in ((self, other), (other, self)):
            one.transport.registerProducer(another, True)
            one.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Hand on bytes."""
        if not self._is_stream and hasattr(self.transport, "bufferSize"):
            # Twisted lets as much wait to be written before it pauses the other one. So the larger size lasts
            # only while the program sends a lot, and a peer can't bring it about
            full = len(data) >= self.transport.bufferSize
            self.transport.bufferSize = READ_SIZE if full else FileDescriptor.bufferSize
        if self._other is not None:
            self._other.transport.write(data)

    def readConnectionLost(self) -> None:
        """This direction has ended: end it at the other connection, too."""
        self._read_ended = True
        if self._other is not None:
            self._other.end_writing()
        self._close_if_ended()

    def writeConnectionLost(self) -> None:
        """This side has ended the other direction."""

    def end_writing(self) -> None:
        """The other connection brings nothing more."""
        self._write_ended = True
        # A producer that is paused would keep TCP from ending the direction
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        self._close_if_ended()

    def _close_if_ended(self) -> None:
        if self._read_ended and self._write_ended and not self._is_stream:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hand on how the connection ended."""
        self._lost = True
        self._on_lost(reason)
        other, self._other = self._other, None
        if other is not None:
            ended = self._read_ended and self._write_ended
            other.other_lost(complete=ended and isinstance(reason.value, ConnectionDone))

    def other_lost(self, *, complete: bool) -> None:
        """The other connection is over; `complete`: both of its directions had ended."""
        self._other = None
        if self._lost:
            return
        self.transport.unregisterProducer()
        if complete:
            self.transport.loseConnection()
        elif self._is_stream:
            self.transport.abort_with(ForwardFailure.RESET)
        else:
            self.transport.abortConnection()

    # What the transport of the other one does to this one

    def pauseProducing(self) -> None:
        """The other connection takes no more for now."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The other connection takes more."""
        if not self._read_ended:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """The other connection is over; it is told so."""


class Exposed(Factory):
    """
    Answers the streams of a service: connects each with the port.

    :param endpoint: leads to the port.
    :param failed: is told for which peer the port could not be reached, and why.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self, endpoint: IStreamClientEndpoint, failed: Callable[[PeerID, ForwardFailure, Exception], object]
    ) -> None:
        self._endpoint = endpoint
        self._failed = failed
        self._count: Counter[PeerID] = Counter()

    def buildProtocol(self, addr: Any) -> _ExposedStream:
        """A peer opens a stream."""
        return _ExposedStream(self, addr.peer)

    def take(self, peer: PeerID) -> bool:
        """Count a connection of a peer; False: there are too many."""
        if self._count[peer] >= MAX_CONNECTIONS_OF_PEER or self._count.total() >= MAX_CONNECTIONS:
            return False
        self._count[peer] += 1
        return True

    def give_back(self, peer: PeerID) -> None:
        """A connection of a peer is over."""
        self._count[peer] -= 1
        if not self._count[peer]:
            del self._count[peer]

    def connect(self, factory: Factory) -> Deferred[Any]:
        """Connect with the port."""
        return self._endpoint.connect(factory)

    def connect_failed(self, peer: PeerID, failure: Failure) -> ForwardFailure:
        """Return why the port can't be reached, and tell it here, too."""
        error: Any = failure.value
        code = _failure_code(error)
        if code is ForwardFailure.FAILED and not isinstance(error, (ConnectError, OSError)):
            self._log.failure("An exposed port could not be connected.", failure)
        self._failed(peer, code, error)
        return code


class _ExposedStream(Joined):
    """A stream of a peer, while the port is connected and then joined with it."""

    def __init__(self, exposed: Exposed, peer: PeerID) -> None:
        super().__init__(stream=True, on_lost=self._ended)
        self._exposed = exposed
        self._peer = peer
        self._counted = False
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        """Connect with the port."""
        super().connectionMade()
        self._counted = self._exposed.take(self._peer)
        if not self._counted:
            self.transport.abort_with(ForwardFailure.BUSY)
            return
        connecting = self._connecting = self._exposed.connect(
            Factory.forProtocol(lambda: Joined(stream=False))
        )
        connecting.addCallbacks(self.join, self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if not isinstance(failure.value, CancelledError):
            self.transport.abort_with(self._exposed.connect_failed(self._peer, failure))

    def _ended(self, reason: Failure) -> None:
        if self._counted:
            self._counted = False
            self._exposed.give_back(self._peer)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()


def _failure_code(error: Exception) -> ForwardFailure:
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return ForwardFailure.CONNECTION_REFUSED
    if isinstance(error, (DNSLookupError, UnknownHostError)):
        return ForwardFailure.NO_HOST
    if isinstance(error, ConnectError):
        number = error.osError
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return ForwardFailure.CONNECTION_REFUSED
        if number in (errno.EACCES, errno.EPERM):
            return ForwardFailure.NOT_PERMITTED
        return ForwardFailure.UNREACHABLE
    return ForwardFailure.FAILED


class Forwarder(Factory):
    """
    Answers the connections to the port: opens a stream for each.

    As many streams are opened as the link takes; further connections wait, unread, until others end.

    :param failed: is told why a connection could not be forwarded.
    """

    noisy = False

    def __init__(
        self,
        node: NodeAccess,
        peer: PeerID,
        service: str,
        clock: IReactorTime,
        failed: Callable[[Exception], object],
    ) -> None:
        self._node = node
        self._peer = peer
        self._service = service
        self._failed = failed
        self._count = 0
        self._waiting: deque[_Accepted] = deque()
        self._opening = 0
        self._is_opening = False
        self._delay = FIRST_RETRY
        self._retry = Timer(clock)

    @property
    def count(self) -> int:
        """How many connections there are."""
        return self._count

    def buildProtocol(self, addr: Any) -> Joined | None:
        """A program of this machine connects."""
        if self._count >= MAX_FORWARDED:
            return None
        self._count += 1
        return _Accepted(self)

    def connected(self, connection: _Accepted) -> None:
        """Open a stream for a connection, behind those that wait already."""
        self._waiting.append(connection)
        if not self._retry.running:
            self._open_all()

    def ended(self, connection: _Accepted) -> None:
        """A connection is over."""
        self._count -= 1
        if connection in self._waiting:
            self._waiting.remove(connection)
        elif self._retry.running:
            self._retry.start(FIRST_RETRY, self._open_all)

    def _open_all(self) -> None:
        if self._is_opening:
            return  # A stream has failed at once
        self._is_opening = True
        while self._waiting and self._opening < MAX_OPENING and not self._retry.running:
            self._open(self._waiting.popleft())
        self._is_opening = False

    def _open(self, connection: _Accepted) -> None:
        self._opening += 1
        stream = Joined(stream=True, on_lost=connection.stream_lost)
        opening = self._node.open(self._peer, self._service, Factory.forProtocol(lambda: stream))
        opening.addBoth(self._tried)
        opening.addCallbacks(partial(self._opened, connection), partial(self._not_opened, connection))
        opening.addBoth(lambda _: self._open_all())

    def _tried(self, result: T) -> T:
        self._opening -= 1
        return result

    def _opened(self, connection: _Accepted, stream: Any) -> None:
        self._delay = FIRST_RETRY
        connection.join(stream)

    def _not_opened(self, connection: _Accepted, failure: Failure) -> None:
        error: Any = failure.value
        if not isinstance(error, CommandError) or error.reason != "too-many":
            self._failed(error)
            connection.reset()
            return
        if not connection.over:
            self._waiting.appendleft(connection)
        if not self._retry.running:
            self._retry.start(self._delay, self._open_all)
            self._delay = min(2 * self._delay, LAST_RETRY)

    def stream_lost(self, reason: Failure) -> None:
        """A stream is over, maybe because the port of the peer can't be reached."""
        error = reason.value
        if not isinstance(error, ConnectionLost) or isinstance(error, ConnectionAborted):
            return  # In order, or given up here
        if failure_of(error) is not ForwardFailure.RESET:
            self._failed(error)


class _Accepted(Joined):
    """A connection of a program of this machine."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__(stream=False, on_lost=lambda reason: self._ended())
        self._forwarder = forwarder
        self.over = False

    def connectionMade(self) -> None:
        """Open a stream for it."""
        super().connectionMade()
        self._forwarder.connected(self)

    def stream_lost(self, reason: Failure) -> None:
        """Its stream is over, in good order or not."""
        self._forwarder.stream_lost(reason)

    def reset(self) -> None:
        """It can't be forwarded: let the program see that it was refused."""
        self.transport.abortConnection()

    def _ended(self) -> None:
        self.over = True
        self._forwarder.ended(self)

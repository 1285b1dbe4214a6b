"""Two connections that are one: what comes on either goes out on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.forward.failures import ForwardFailure


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

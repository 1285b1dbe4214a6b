"""A TCP connection that carries messages. A message that can't be sent soon is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol as TypingProtocol
from typing import cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IPushProducer, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Timer
from punch.wire.address import Address, TCPAddress, canonical
from punch.wire.framing import FramingError

_PIECE = 16 * 1024
"""Bytes written to a stream at once. Between two pieces the transport may pause its producer."""

CLOSE_TIME = 1.0
"""Seconds that a connection may take to close before it is aborted."""


class Splitter(TypingProtocol):
    """Splits a byte stream into messages."""

    def feed(self, data: bytes) -> list[bytes]:
        """
        Process bytes; returns the messages that are complete now.

        :raise FramingError: the stream is malformed.
        """


class MessageStreamOwner(TypingProtocol):
    """Is told what happens to a connection. `disconnected` is not called after `MessageStream.close`."""

    def connected(self, stream: MessageStream) -> None: ...

    def received(self, messages: list[bytes]) -> None: ...

    def disconnected(self) -> None: ...


@implementer(IPushProducer)
class MessageStream(Protocol):
    """
    The protocol of one connection. A malformed stream is aborted.

    :param drained: called when so much waited that messages were dropped, and all of it has been sent.
    :ivar full: whether so much waits to be sent that messages are dropped, since they would arrive late.
    """

    def __init__(
        self,
        owner: MessageStreamOwner,
        splitter: Splitter,
        clock: IReactorTime,
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._owner: MessageStreamOwner | None = owner
        self._late = Timer(clock)
        self._splitter = splitter
        self._drained = drained
        self.full = False

    def connectionMade(self) -> None:
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        self._transport.registerProducer(self, True)
        if self._owner is not None:
            self._owner.connected(self)

    def dataReceived(self, data: bytes) -> None:
        if self._owner is None:
            return
        try:
            messages = self._splitter.feed(data)
        except FramingError:
            self._transport.abortConnection()
            return
        self._owner.received(messages)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._late.cancel()
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.disconnected()

    @property
    def host(self) -> str:
        """The IP address that the connection goes to."""
        return self.remote.host

    @property
    def local(self) -> Address:
        """The address of this end."""
        here = self._transport.getHost()
        return TCPAddress(*canonical(here.host, here.port))

    @property
    def remote(self) -> Address:
        """The address of the other end."""
        peer = self._transport.getPeer()
        return TCPAddress(*canonical(peer.host, peer.port))

    def write(self, messages: Sequence[bytes]) -> None:
        """Send messages until the transport pauses its producer, at 64 KiB that wait to be sent."""
        piece: list[bytes] = []
        size = 0
        for message in messages:
            piece.append(message)
            size += len(message)
            if size >= _PIECE:
                self._transport.write(b"".join(piece))
                piece, size = [], 0
                if self.full:
                    return
        if piece:
            self._transport.write(b"".join(piece))

    def close(self) -> None:
        """Close the connection once all is sent, or after `CLOSE_TIME`, without telling its owner."""
        self._owner = None
        if self.connected:
            self._transport.unregisterProducer()
            self._transport.loseConnection()
            self._late.start(CLOSE_TIME, self._transport.abortConnection)

    @property
    def _transport(self) -> _Transport:
        return cast(_Transport, self.transport)

    def pauseProducing(self) -> None:
        """More than 64 KiB wait to be sent."""
        self.full = True

    def resumeProducing(self) -> None:
        """All that waited has been sent."""
        self.full = False
        self._drained()

    def stopProducing(self) -> None:
        """The connection has ended."""
        self.full = True


class _Transport(TypingProtocol):
    """What is used of a TCP or TLS transport."""

    def write(self, data: bytes) -> None: ...

    def getHost(self) -> IPv4Address | IPv6Address: ...

    def getPeer(self) -> IPv4Address | IPv6Address: ...

    def loseConnection(self) -> None: ...

    def abortConnection(self) -> None: ...

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

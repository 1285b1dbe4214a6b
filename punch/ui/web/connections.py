"""
The connections to the server of the page, and their limits: every user of this machine can open some.

A connection is a plain one unless its request has become a WebSocket, or brings a file of a page. Plain
connections last a short time and send little. When there are too many, the oldest is closed, so that a
stranger who opens many does not lock the user out. Only browsers that were admitted have the others; their
limits are against mistakes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Timer

#: Plain connections at a time.
MAX_PLAIN = 64

#: Seconds that a plain connection may last, and bytes that it may send.
PLAIN_TIME = 30.0
PLAIN_BYTES = 128 * 1024

#: Files of pages that come at a time. Each lasts as long as it needs, and has the size that is announced.
MAX_UPLOADING = 16

#: WebSockets at a time: tabs, of all browsers.
MAX_SOCKETS = 32

#: Bytes that a WebSocket may send before a message of its is complete.
MAX_MESSAGE = 256 * 1024

#: Seconds without reading, and unread bytes, after which a WebSocket is dropped.
UNREAD_TIME = 30.0
UNREAD_BYTES = 8 * 1024 * 1024


@implementer(IPushProducer)
class PageConnection(ProtocolWrapper):
    """One connection, between its transport and the HTTP server."""

    _log = Logger()

    factory: PageConnections
    transport: Any

    def __init__(self, factory: PageConnections, wrapped: IProtocol) -> None:
        super().__init__(factory, wrapped)
        self.is_socket = False
        self._limit = PLAIN_BYTES
        self._received = 0
        self._unread = 0
        self._congested = False
        self._deadline = Timer(factory.clock)
        self._deadline.start(PLAIN_TIME, self.drop)

    def drop(self) -> None:
        """End the connection now, whatever still waits to be sent."""
        self._deadline.cancel()
        self.transport.abortConnection()

    def become_socket(self) -> None:
        """The request was accepted as one for a WebSocket."""
        self.factory.take_socket(self)
        self.is_socket = True
        self._limit = MAX_MESSAGE
        self._received = 0
        self._deadline.cancel()
        # Until now the HTTP server was the producer, to hold back its responses. It has written its last one.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)

    def begin_upload(self, size: int) -> bool:
        """
        The request is one of a page, and brings a file.

        :param size: its bytes.
        :return: False if too many come already.
        """
        if not self.factory.take_upload(self):
            return False
        self._limit = size + PLAIN_BYTES
        self._received = 0
        self._deadline.cancel()
        return True

    def end_upload(self) -> None:
        """
        The file has come, or will not. Further requests on this connection are plain.

        The disk may be done with the file when the connection is over: nothing is left to do then.
        """
        if self not in self.factory.protocols:
            return
        self._limit = PLAIN_BYTES
        self._received = 0
        self._deadline.start(PLAIN_TIME, self.drop)
        self.factory.return_upload(self)

    def pause_reading(self) -> None:
        """Read nothing for a while: the disk is slower than the page."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read on."""
        self.transport.resumeProducing()

    def message_complete(self) -> None:
        """All that was received until now belongs to complete messages."""
        self._received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            self.drop()
            return
        try:
            super().dataReceived(data)
        except Exception:
            # Only an attacker sends what the WebSocket library can't parse.
            self._log.failure("A connection to the page was dropped for what it sent.")
            self.drop()

    def write(self, data: bytes) -> None:
        if self._congested:
            self._unread += len(data)
            if self._unread > UNREAD_BYTES:
                self.drop()
                return
        super().write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._deadline.cancel()
        super().connectionLost(reason)

    # IPushProducer, to the transport of a WebSocket: whether the browser reads

    def pauseProducing(self) -> None:
        """The browser does not read as fast as this side writes. Called again at every write."""
        if not self._congested:
            self._congested = True
            self._unread = 0
        if not self._deadline.running:
            self._deadline.start(UNREAD_TIME, self.drop)

    def resumeProducing(self) -> None:
        """The browser has read all."""
        self._congested = False
        self._deadline.cancel()

    def stopProducing(self) -> None:
        """The connection is over."""
        self._deadline.cancel()


class PageConnections(WrappingFactory[PageConnection]):
    """
    All connections to the server of the page.

    :param site: makes the protocol of the HTTP server for each.
    :ivar sockets: those that are WebSockets.
    """

    protocol: Callable[..., PageConnection] = PageConnection
    noisy = False

    def __init__(self, site: Factory[Any], clock: IReactorTime) -> None:
        super().__init__(site)
        self.clock = clock
        self._plain: dict[PageConnection, None] = {}
        self.sockets: set[PageConnection] = set()
        self._uploading: set[PageConnection] = set()

    def buildProtocol(self, address: IAddress | None) -> PageConnection:
        connection = super().buildProtocol(address)
        self._plain[connection] = None
        return connection

    def registerProtocol(self, connection: Any) -> None:
        super().registerProtocol(connection)
        while len(self._plain) > MAX_PLAIN:
            oldest = next(iter(self._plain))
            del self._plain[oldest]
            oldest.drop()

    @property
    def plain_count(self) -> int:
        """How many plain connections there are."""
        return len(self._plain)

    @property
    def has_room(self) -> bool:
        """Whether one more WebSocket may be opened."""
        return len(self.sockets) < MAX_SOCKETS

    def take_socket(self, connection: PageConnection) -> None:
        """A plain connection has become a WebSocket."""
        self._plain.pop(connection, None)
        self.sockets.add(connection)

    def take_upload(self, connection: PageConnection) -> bool:
        """A file comes on a plain connection; whether there is room for it."""
        if len(self._uploading) >= MAX_UPLOADING:
            return False
        self._plain.pop(connection, None)
        self._uploading.add(connection)
        return True

    def return_upload(self, connection: PageConnection) -> None:
        """The file has come: the connection is a plain one again."""
        self._uploading.discard(connection)
        self._plain[connection] = None

    def unregisterProtocol(self, connection: Any) -> None:
        super().unregisterProtocol(connection)
        self._uploading.discard(connection)
        self._plain.pop(connection, None)
        self.sockets.discard(connection)

    def drop_all(self) -> None:
        """End every connection."""
        for connection in list(self.protocols):
            connection.drop()

"""
The connections to the server of the page, and their limits, since every user of this machine can open some.

There are three kinds: WebSockets, uploads (a page sends a file), and *plain* connections, which are all
others. A plain connection may only last a short time and receive little. When there are too many, the oldest
is closed, so that a stranger who opens many can't lock the user out. WebSockets and uploads belong to
browsers that were admitted; their limits are only a protection against mistakes.
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

#: Seconds that a plain connection may last, and bytes that the browser may send on it.
PLAIN_TIME = 30.0
PLAIN_BYTES = 128 * 1024

#: Uploads at a time. Each may last as long as it needs, and have the size that was announced.
MAX_UPLOADING = 16

#: WebSockets at a time. Each open tab of each browser has one.
MAX_SOCKETS = 32

#: Bytes that a page may send on its WebSocket before a message is complete.
MAX_MESSAGE = 256 * 1024

#: A WebSocket is dropped if its browser reads nothing for so many seconds, or leaves so many bytes unread.
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
        """Close the connection at once, without sending what still waits."""
        self._deadline.cancel()
        self.transport.abortConnection()

    def become_socket(self) -> None:
        """Make this a WebSocket: its request was accepted."""
        self.factory.take_socket(self)
        self.is_socket = True
        self._limit = MAX_MESSAGE
        self._received = 0
        self._deadline.cancel()
        # Until now the HTTP server was the producer, to pause its responses; it has written the last one.
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)

    def begin_upload(self, size: int) -> bool:
        """
        Make this an upload: the request is from a page, and its body is a file.

        :param size: the bytes of the file.
        :return: False if there are too many uploads already; then the connection stays as it is.
        """
        if not self.factory.take_upload(self):
            return False
        self._limit = size + PLAIN_BYTES
        self._received = 0
        self._deadline.cancel()
        return True

    def end_upload(self) -> None:
        """
        Make this a plain connection again: the file has come, or failed.

        It does nothing if the connection was lost before the file was written to the disk.
        """
        if self not in self.factory.protocols:
            return
        self._limit = PLAIN_BYTES
        self._received = 0
        self._deadline.start(PLAIN_TIME, self.drop)
        self.factory.return_upload(self)

    def pause_reading(self) -> None:
        """Stop reading, as the disk is slower than the page."""
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def message_complete(self) -> None:
        """Note that all bytes that were received belong to complete messages: count them from 0 again."""
        self._received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit:
            self.drop()
            return
        try:
            super().dataReceived(data)
        except Exception:
            # The WebSocket library could not parse the data. Browsers send none such, so it is an attack.
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

    # IPushProducer, for the transport of a WebSocket, which tells by it whether the browser reads

    def pauseProducing(self) -> None:
        """The browser reads more slowly than this side writes. Twisted calls it again at every write."""
        if not self._congested:
            self._congested = True
            self._unread = 0
        if not self._deadline.running:
            self._deadline.start(UNREAD_TIME, self.drop)

    def resumeProducing(self) -> None:
        """The browser has read everything."""
        self._congested = False
        self._deadline.cancel()

    def stopProducing(self) -> None:
        """The connection was closed."""
        self._deadline.cancel()


class PageConnections(WrappingFactory[PageConnection]):
    """
    All connections to the server of the page.

    :param site: makes the protocol of the HTTP server for each connection.
    :ivar sockets: the connections that are WebSockets.
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
        """Count a plain connection as a WebSocket from now on."""
        self._plain.pop(connection, None)
        self.sockets.add(connection)

    def take_upload(self, connection: PageConnection) -> bool:
        """Count a plain connection as an upload from now on. Returns False if there are too many."""
        if len(self._uploading) >= MAX_UPLOADING:
            return False
        self._plain.pop(connection, None)
        self._uploading.add(connection)
        return True

    def return_upload(self, connection: PageConnection) -> None:
        """Count an upload as a plain connection again."""
        self._uploading.discard(connection)
        self._plain[connection] = None

    def unregisterProtocol(self, connection: Any) -> None:
        super().unregisterProtocol(connection)
        self._uploading.discard(connection)
        self._plain.pop(connection, None)
        self.sockets.discard(connection)

    def drop_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self.protocols):
            connection.drop()

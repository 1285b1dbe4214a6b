"""Twisted's own TCP transports, on simulated sockets."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from punch.test.internet.tcp import TCPSocket

if TYPE_CHECKING:
    from punch.test.internet.reactor import HostReactor


class SimulatedClient(tcp.Client):
    """An outgoing connection."""

    def createInternetSocket(self) -> TCPSocket:
        reactor: HostReactor = self.connector.reactor
        return TCPSocket(reactor.host, self.addressFamily)


class SimulatedConnector(tcp.Connector):
    """Makes outgoing connections."""

    reactor: Any

    def _makeTransport(self) -> tcp.Client:
        return SimulatedClient(self.host, self.port, self.bindAddress, self, self.reactor)


class SimulatedPort(tcp.Port):
    """A listening port."""

    factory: Factory

    def createInternetSocket(self) -> Any:
        reactor: Any = self.reactor
        created = TCPSocket(reactor.host, self.addressFamily)
        # What `makeBinding` was given
        created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, getattr(self, "_reusePort", False))
        return created

    def doRead(self) -> None:
        """Accept pending connections. Exceptions are raised, not logged as by Twisted's own port."""
        listening: Any = self.socket
        while True:
            try:
                accepted, address = listening.accept()
            except OSError as cause:
                if cause.errno == errno.EAGAIN:
                    return
                raise
            protocol = self.factory.buildProtocol(self._buildAddr(address))
            if protocol is None:
                accepted.close()
                continue
            self.sessionno += 1
            transport = self.transport(accepted, protocol, address, self, self.sessionno, self.reactor)
            protocol.makeConnection(transport)

    def connectionLost(self, reason: Failure) -> None:
        reactor: Any = self.reactor
        reactor.closed(self)
        super().connectionLost(reason)

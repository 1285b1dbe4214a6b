"""
The TLS connection of a `ControlCore`.

While a rendezvous does not read what it is sent, nothing is read from it, since most of what is sent answers
its own messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as TypingProtocol
from typing import cast

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Driver
from punch.node.causes import ControlProblem
from punch.node.control.core import ControlCore
from punch.node.control.tls import ALPN, ControlConnectionCreator
from punch.wire.control import Register, Reply, Request
from punch.wire.invitation import BINDING_LABEL, BINDING_SIZE
from punch.wire.rendezvous_address import RendezvousAddress


class _TLSTransport(TypingProtocol):
    """What is used of Twisted's TLS transport."""

    negotiatedProtocol: bytes | None

    def getHandle(self) -> SSL.Connection: ...

    def getPeer(self) -> IPv4Address | IPv6Address: ...

    def getHost(self) -> IPv4Address | IPv6Address: ...

    def write(self, data: bytes) -> None: ...

    def abortConnection(self) -> None: ...

    def registerProducer(self, producer: object, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class ControlClientProtocol(Protocol):
    """
    One control connection.

    It is a producer to its own transport: while the rendezvous does not read what it is sent, nothing is read
    from it.

    :param vouch: makes a voucher from the channel binding of the connection (`punch.wire.invitation`); None:
        none is sent.
    :param received: called with each message of the rendezvous.
    :param lost: called with why the connection has ended.
    """

    def __init__(
        self,
        address: RendezvousAddress,
        register: Register,
        creator: ControlConnectionCreator,
        clock: IReactorTime,
        received: Callable[[ControlClientProtocol, Reply], object],
        lost: Callable[[ControlProblem], object],
        vouch: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._vouch = vouch
        self._creator = creator
        self._received = received
        self._lost = lost
        self._core = core = ControlCore(address, register, clock.seconds())
        self._driver = Driver(clock, clock.seconds, self._step, lambda: (core,))
        self._connection: SSL.Connection | None = None
        self._unread = False
        self._paused = False

    @property
    def _tls(self) -> _TLSTransport:
        return cast(_TLSTransport, self.transport)

    @property
    def host(self) -> str:
        """The IP address of the rendezvous."""
        return self._tls.getPeer().host

    @property
    def local_host(self) -> str:
        """The local IP address of the connection."""
        return self._tls.getHost().host

    @property
    def post_quantum(self) -> bool:
        """
        Whether the keys were agreed with X25519MLKEM768, as OpenSSL calls it. Both sides leave the choice of
        the group to OpenSSL, which prefers this one from version 3.5 on.
        """
        return self._connection is not None and self._connection.get_group_name() == "X25519MLKEM768"

    def send(self, request: Request) -> None:
        """Send one control message."""
        self._core.send(request)
        self._write(self._driver.now())

    def check(self, timeout: float) -> None:
        """Ping; the connection is lost if nothing is received within so many seconds."""
        self._core.check(timeout, self._driver.now())
        self._driver.run()

    def lose(self) -> None:
        """Abort the connection, which is known to be dead, and report it as silent."""
        self._core.silent()
        self._driver.run()

    def abort(self) -> None:
        """Abort the connection."""
        if self.transport is not None:
            self._tls.abortConnection()

    def finish(self) -> None:
        """Prepare an orderly close, which would wait for a registered producer."""
        self._tls.unregisterProducer()

    def connectionMade(self) -> None:
        """TCP is up; TLS follows."""
        self._connection = self._tls.getHandle()
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._driver.run()

    def handshakeCompleted(self) -> None:
        """TLS is up on this side. The server may still refuse the client certificate."""
        if self._tls.negotiatedProtocol == ALPN:
            self._tls.registerProducer(self, True)
            voucher = b""
            if self._vouch is not None:
                voucher = self._vouch(
                    self._tls.getHandle().export_keying_material(BINDING_LABEL, BINDING_SIZE)
                )
            self._core.secured(voucher)
        else:
            self._core.not_a_rendezvous()
        self._driver.run()

    def dataReceived(self, data: bytes) -> None:
        """Take what the rendezvous sent."""
        self._core.receive_data(data, self._driver.now())
        self._driver.run()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended: report why."""
        self._driver.stop()
        problem = None if self._connection is None else self._creator.problem(self._connection)
        tls_failed = isinstance(reason.value, SSL.Error)
        self._lost(problem or self._core.cause_of_loss(tls_failed=tls_failed))

    # IPushProducer, to its own transport

    def pauseProducing(self) -> None:
        """The rendezvous does not read what it is sent: stop reading from it."""
        self._unread = True
        self._pause_or_resume()

    def resumeProducing(self) -> None:
        """The rendezvous has read what it was sent."""
        self._unread = False
        self._driver.run()

    def stopProducing(self) -> None:
        """The transport is closing; `connectionLost` follows."""

    # Inside

    def _step(self, now: float) -> bool:
        self._write(now)
        reply = None if self._unread else self._core.next_event()
        if reply is not None:
            self._received(self, reply)
            return True
        if self._core.problem is not None:
            self._driver.stop()
            self._tls.abortConnection()
        else:
            self._pause_or_resume()
        return False

    def _write(self, now: float) -> None:
        data = self._core.data_to_send(now)
        if data:
            self._tls.write(data)

    def _pause_or_resume(self) -> None:
        paused = self._unread or self._core.held
        if paused != self._paused:
            self._paused = paused
            if paused:
                self._tls.pauseProducing()
            else:
                self._tls.resumeProducing()

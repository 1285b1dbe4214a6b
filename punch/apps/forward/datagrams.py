"""Ports of UDP: the datagrams of all flows of one port go over one stream of a link."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ISystemHandle,
)
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.forward.addresses import ForwardAddress
from punch.apps.forward.messages import (
    MAX_DATAGRAM,
    MAX_FLOWS,
    DatagramReader,
    FlowTable,
    ForwardFailure,
    encode_datagram,
    failure_of,
)
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.net.driver import Driver, Timer
from punch.net.reactor import look_up
from punch.net.udp.sockets import SEND_ERRORS

MAX_FLOWS_OF_ALL = 2048
"""Flows of all peers at once at one exposed port; datagrams of further ones are lost."""
MAX_WAITING = 64
"""Datagrams that wait for a stream to be opened; further ones are lost."""
RETRY = 1.0
"""Seconds in which datagrams are lost when a stream could not be opened, or was given up."""
_FAILURES = {
    errno.ECONNREFUSED: ForwardFailure.CONNECTION_REFUSED,
    errno.EHOSTDOWN: ForwardFailure.UNREACHABLE,
    errno.EHOSTUNREACH: ForwardFailure.UNREACHABLE,
    errno.ENETDOWN: ForwardFailure.UNREACHABLE,
    errno.ENETUNREACH: ForwardFailure.UNREACHABLE,
}
"""
Errors of the system that say that the exposed port can't be reached. After any other one, as for a datagram
that was too long for the path, the next datagram may arrive.
"""


@implementer(IHalfCloseableProtocol, IPushProducer)
class DatagramStream(Protocol):
    """
    A stream of datagrams.

    What it has no room for is lost: a datagram that comes late is worth less than the next one.

    :param received: is called with each datagram and its flow.
    :param on_lost: is told why the stream ended.
    :ivar over: whether it has ended.
    """

    transport: Any

    def __init__(
        self, received: Callable[[int, bytes], object], on_lost: Callable[[Failure], object]
    ) -> None:
        self._received = received
        self._on_lost = on_lost
        self._reader = DatagramReader()
        self._full = False
        self.over = False

    def connectionMade(self) -> None:
        """Be told when the stream is full."""
        self.transport.registerProducer(self, True)

    def send(self, flow: int, data: bytes) -> None:
        """Send a datagram, if there is room."""
        if not self._full:
            self.transport.write(encode_datagram(flow, data))

    def end(self) -> None:
        """Nothing more is sent."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Hand on what is complete."""
        for flow, datagram in self._reader.receive(data):
            self._received(flow, datagram)

    def readConnectionLost(self) -> None:
        """The other side sends nothing more, and needs nothing more."""
        self.end()

    def writeConnectionLost(self) -> None:
        """This side sends nothing more."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is over."""
        self.over = True
        self._on_lost(reason)

    def pauseProducing(self) -> None:
        """The stream is full."""
        self._full = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self._full = False

    def stopProducing(self) -> None:
        """The stream is over; `connectionLost` follows."""


class DatagramForwarder(DatagramProtocol):
    """
    Answers the datagrams to a port of this machine: all of them go over one stream, which is open while there
    are flows.

    :param failed: is told why datagrams could not be forwarded.
    """

    noisy = False
    transport: Any

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
        self._flows: FlowTable[tuple[str, int], int] = FlowTable(self._flow_ended)
        self._sources: dict[int, tuple[str, int]] = {}
        self._last = 0
        self._stream: DatagramStream | None = None
        self._opening = False
        self._stopped = False
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._pause = Timer(clock)
        self._driver = Driver(clock, clock.seconds, lambda now: False, lambda: (self._flows,))

    @property
    def flow_count(self) -> int:
        """How many flows there are."""
        return len(self._flows)

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        """A program of this machine sends something."""
        if self._pause.running:
            return
        source = (addr[0], addr[1])
        now = self._driver.now()
        flow = self._flows.use(source, now)
        if flow is None:
            flow = self._number()
            self._flows.add(source, flow, now)
            self._sources[flow] = source
        self._driver.run()
        if self._stream is not None:
            self._stream.send(flow, data)
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((flow, data))
            self._open()

    def connectionRefused(self) -> None:
        """A program of this machine is gone that was sent an answer; its flow will expire."""

    def stopProtocol(self) -> None:
        """The port is closed: so are the flows and their stream. What still comes from the peer is lost."""
        self._stopped = True
        self._waiting.clear()
        self._pause.cancel()
        self._flows.end_all()
        self._driver.stop()

    def _number(self) -> int:
        self._last = (self._last + 1) % 2**32
        while self._last in self._sources:
            self._last = (self._last + 1) % 2**32
        return self._last

    def _flow_ended(self, source: tuple[str, int], flow: int) -> None:
        del self._sources[flow]
        if not self._sources and self._stream is not None:
            stream, self._stream = self._stream, None
            stream.end()

    def _open(self) -> None:
        if self._opening:
            return
        self._opening = True
        stream = DatagramStream(self._answered, lambda reason: self._lost(stream, reason))
        opening = self._node.open(self._peer, self._service, Factory.forProtocol(lambda: stream))
        opening.addCallbacks(lambda _: self._opened(stream), self._not_opened)

    def _opened(self, stream: DatagramStream) -> None:
        self._opening = False
        if stream.over:
            self._waiting.clear()
            return
        if self._stopped:
            stream.end()
            return
        self._stream = stream
        while self._waiting:
            stream.send(*self._waiting.popleft())

    def _not_opened(self, failure: Failure) -> None:
        self._opening = False
        error: Any = failure.value
        self._give_up(error)

    def _lost(self, stream: DatagramStream, reason: Failure) -> None:
        if stream is self._stream:
            self._stream = None
        error: Any = reason.value
        if failure_of(error) is not None:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._stopped:
            return
        self._waiting.clear()
        self._pause.start(RETRY, lambda: None)
        self._failed(error)

    def _answered(self, flow: int, data: bytes) -> None:
        """The other side sends something. What belongs to no flow, or can't be sent, is lost."""
        source = self._sources.get(flow)
        if source is None or self._flows.use(source, self._driver.now()) is None:
            return
        with suppress(*SEND_ERRORS):
            self.transport.write(data, source)


class ExposedDatagrams(Factory):
    """
    Answers the streams of a service that takes datagrams: each flow has a port of this machine of its own,
    from which its datagrams go to the exposed one.

    :param reactor: has UDP, and looks names up.
    :param address: the exposed port.
    :param failed: is told for which peer the port could not be reached, and why.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        address: ForwardAddress,
        failed: Callable[[PeerID, ForwardFailure, Exception], object],
    ) -> None:
        self.reactor = reactor
        self.address = address
        self.failed = failed
        self._count: Counter[PeerID] = Counter()

    def buildProtocol(self, addr: Any) -> DatagramStream:
        """A peer opens a stream."""
        return _ExposedFlows(self, addr.peer)

    def has_place(self, peer: PeerID) -> bool:
        """Whether a peer may have one flow more."""
        return self._count[peer] < MAX_FLOWS and self._count.total() < MAX_FLOWS_OF_ALL

    def count(self, peer: PeerID, change: int) -> None:
        """A peer has so many flows more."""
        self._count[peer] += change
        if not self._count[peer]:
            del self._count[peer]


class _ExposedFlows(DatagramStream):
    """A stream of a peer, and the ports of its flows."""

    def __init__(self, exposed: ExposedDatagrams, peer: PeerID) -> None:
        super().__init__(self._sent, lambda reason: self._end())
        self._exposed = exposed
        self._peer = peer
        self._host = ""
        self._flows: FlowTable[int, _ExposedFlow] = FlowTable(self._flow_ended)
        reactor = exposed.reactor
        self._driver = Driver(reactor, reactor.seconds, lambda now: False, lambda: (self._flows,))

    def connectionMade(self) -> None:
        """Look the host up before anything is read."""
        super().connectionMade()
        self.transport.pauseProducing()
        look_up(self._exposed.reactor, self._exposed.address.single_host, self._looked_up)

    def _looked_up(self, hosts: list[str]) -> None:
        if self.over:
            return
        if not hosts:
            self.give_up(ForwardFailure.NO_HOST, LookupError("the name is not known"))
            return
        self._host = hosts[0]
        self.transport.resumeProducing()

    def _sent(self, flow: int, data: bytes) -> None:
        """The peer sends something."""
        now = self._driver.now()
        port = self._flows.use(flow, now) or self._open(flow, now)
        self._driver.run()
        if port is not None:
            port.send(data)

    def _open(self, flow: int, now: float) -> _ExposedFlow | None:
        if self.over or not (self._exposed.has_place(self._peer) or self._flows.end_oldest()):
            return None
        port = _ExposedFlow(partial(self._answered, flow), partial(self._failed, flow))
        try:
            port.open(self._exposed.reactor, self._host, self._exposed.address.port)
        except CannotListenError as error:
            self._exposed.failed(self._peer, ForwardFailure.FAILED, error)
            return None
        except OSError as error:
            self.give_up(ForwardFailure.UNREACHABLE, error)
            return None
        self._exposed.count(self._peer, 1)
        self._flows.add(flow, port, now)
        return port

    def _answered(self, flow: int, data: bytes) -> None:
        """The exposed port sends something."""
        if self._flows.use(flow, self._driver.now()) is not None:
            self.send(flow, data)

    def _failed(self, flow: int, error: OSError) -> None:
        """The port of a flow has failed: that of its next datagram may not."""
        failure = _FAILURES.get(error.errno or 0)
        if failure is None:
            self._flows.end(flow)
        else:
            self.give_up(failure, error)

    def _flow_ended(self, flow: int, port: _ExposedFlow) -> None:
        self._exposed.count(self._peer, -1)
        port.close()

    def give_up(self, failure: ForwardFailure, error: Exception) -> None:
        """Nothing can be sent to the exposed port: say so on both sides."""
        if not self.over:
            self.over = True
            self._exposed.failed(self._peer, failure, error)
            self.transport.abort_with(failure)

    def _end(self) -> None:
        self._flows.end_all()
        self._driver.run()


class _ExposedFlow(DatagramProtocol):
    """
    The port of one flow. Only what the exposed port sends is received.

    :param received: is called with each answer.
    :param failed: is told why the port can't be used any more; it may still be closed then.
    """

    noisy = False

    def __init__(self, received: Callable[[bytes], object], failed: Callable[[OSError], object]) -> None:
        self._received = received
        self._failed = failed
        self._port: Any = None
        self._over = False

    def open(self, reactor: Any, host: str, port: int) -> None:
        """
        Open a port that sends to one address, and receives from nobody else.

        :raise CannotListenError: there is none.
        :raise OSError: there is no way to the address.
        """
        interface = "::" if isIPv6Address(host) else "0.0.0.0"
        self._port = reactor.listenUDP(0, self, interface=interface, maxPacketSize=MAX_DATAGRAM)
        try:
            self._port.connect(host, port)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Nothing is sent and received any more."""
        if not self._over:
            self._over = True
            self._port.stopListening()

    def send(self, data: bytes) -> None:
        """Send a datagram. What can't be sent is lost."""
        if self._over:
            return
        try:
            self._port.write(data)
        except OSError as error:
            # Maybe that of an earlier datagram
            if error.errno in _FAILURES:
                self._failed(error)
        except (ValueError, MessageLengthError):
            pass

    def datagramReceived(self, data: bytes, addr: Any) -> None:
        """Hand an answer on."""
        self._received(data)

    def connectionRefused(self) -> None:
        """Nobody has the exposed port, says its machine."""
        self._failed(_system_error(errno.ECONNREFUSED))

    def stopProtocol(self) -> None:
        """
        The port is closed, and its socket will be.

        The reactor closes a port by itself where the system has an error for its socket and nothing to read:
        on Linux, when a datagram was refused and no further one was sent since.
        """
        if self._over:
            return
        self._over = True
        system: Any = ISystemHandle(self._port, None)
        pending = 0 if system is None else system.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._failed(_system_error(pending))


def _system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))

"""What the system says about the port of a flow, and which address an exposed port of UDP has."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from punch.apps.forward.addresses import parse_address
from punch.apps.forward.datagrams import ExposedDatagrams
from punch.apps.forward.messages import MAX_FLOWS, DatagramReader, ForwardFailure, encode_datagram
from punch.identity import Identity, PeerID


@implementer(ISystemHandle)
class Port:
    """As Twisted's: it closes itself when its socket has an error, and then its protocol has no transport."""

    def __init__(self, protocol: DatagramProtocol) -> None:
        self.protocol = protocol
        self.connected: tuple[str, int] | None = None
        self.error = 0
        self.listening = True
        self.written: list[bytes] = []
        self.write_error: Exception | None = None
        protocol.makeConnection(self)  # type: ignore[arg-type]

    def connect(self, host: str, port: int) -> None:
        self.connected = (host, port)

    def write(self, data: bytes) -> None:
        if self.write_error is not None:
            raise self.write_error
        self.written.append(data)

    def getHandle(self) -> Any:
        assert self.listening
        return self

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.error

    def fail(self, error: int) -> None:
        """What the reactor does when a port has an error and nothing to read."""
        self.error = error
        self.protocol.doStop()
        self.listening = False

    def stopListening(self) -> None:
        if self.listening:
            self.protocol.doStop()
            self.listening = False


class Reactor(Clock):
    """Has ports, and calls `localhost` ::1 first, as some systems do."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []
        self.nameResolver = self

    def listenUDP(self, port: int, protocol: DatagramProtocol, interface: str, maxPacketSize: int) -> Port:
        self.ports.append(Port(protocol))
        return self.ports[-1]

    def resolveHostName(self, receiver: Any, name: str, port: int, kinds: Any) -> None:
        receiver.resolutionBegan(None)
        if name == "localhost":
            receiver.addressResolved(IPv6Address("UDP", "::1", port))
            name = "127.0.0.1"
        receiver.addressResolved(IPv4Address("UDP", name, port))
        receiver.resolutionComplete()


class Transport(StringTransport):
    """Of a stream."""

    code: int | None = None

    def abort_with(self, code: int) -> None:
        self.code = code


class ExposedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.told: list[ForwardFailure] = []
        self.peer = Identity.generate().peer_id
        self.exposed = ExposedDatagrams(self.reactor, parse_address("53", udp=True), self.failed)
        self.transport, self.stream = self.open()

    def failed(self, peer: PeerID, failure: ForwardFailure, error: Exception) -> None:
        self.told.append(failure)

    def open(self) -> tuple[Transport, Any]:
        address: Any = type("Address", (), {"peer": self.peer})
        stream = self.exposed.buildProtocol(address)
        transport = Transport()
        stream.makeConnection(transport)
        return transport, stream

    def send(self, flow: int, data: bytes = b"x") -> None:
        self.stream.dataReceived(encode_datagram(flow, data))

    def is_empty(self) -> bool:
        """Whether the peer has no flow."""
        self.exposed.count(self.peer, MAX_FLOWS - 1)
        try:
            return self.exposed.has_place(self.peer)
        finally:
            self.exposed.count(self.peer, 1 - MAX_FLOWS)

    def test_localhost_has_one_address(self) -> None:
        self.send(1)
        self.assertEqual(self.reactor.ports[0].connected, ("127.0.0.1", 53))

    def test_a_port_that_the_reactor_closes(self) -> None:
        """The refusal of one datagram is told on both sides, and the places of all flows are free."""
        for error, failure in (
            (errno.ECONNREFUSED, ForwardFailure.CONNECTION_REFUSED),
            (errno.EHOSTUNREACH, ForwardFailure.UNREACHABLE),
        ):
            self.send(1)
            self.send(2)
            first, second = self.reactor.ports[-2:]
            first.fail(error)
            self.assertEqual((self.told.pop(), self.transport.code), (failure, failure))
            self.send(1, b"too late")
            self.stream.connectionLost()
            self.assertFalse(second.listening)
            self.assertTrue(self.is_empty())
            self.assertEqual((self.told, len(self.reactor.getDelayedCalls())), ([], 0))
            self.transport, self.stream = self.open()

    def test_an_error_of_one_datagram(self) -> None:
        """The others arrive, from another port where the reactor has closed that of the flow."""
        self.send(1)
        self.reactor.ports[0].fail(errno.EMSGSIZE)
        self.assertEqual((self.told, self.transport.code), ([], None))
        self.send(1, b"again")
        port = self.reactor.ports[1]
        port.write_error = OSError(errno.EMSGSIZE, "too long")
        self.send(1, b"too long")
        port.write_error = None
        self.send(1, b"short")
        self.assertEqual(port.written, [b"again", b"short"])
        port.protocol.datagramReceived(b"answer", ("127.0.0.1", 53))
        self.assertEqual(list(DatagramReader().receive(self.transport.value())), [(1, b"answer")])
        self.stream.connectionLost()
        self.assertTrue(self.is_empty())

    def test_an_error_that_a_write_reports(self) -> None:
        self.send(1)
        self.reactor.ports[0].write_error = OSError(errno.EHOSTUNREACH, "no route")
        self.send(1)
        unreachable = ForwardFailure.UNREACHABLE
        self.assertEqual((self.told, self.transport.code), ([unreachable], unreachable))
        self.stream.connectionLost()
        self.assertFalse(self.reactor.ports[0].listening)

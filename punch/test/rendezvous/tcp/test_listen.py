"""Listening on machines that lack an address family, or where one of the ports is taken."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Literal

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.protocol import DatagramProtocol, ServerFactory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer_only

from punch.net.udp.server import UDPPort, open_ports
from punch.rendezvous.tcp.listen import BACKLOG, listen_on_all_addresses, parse_endpoints
from punch.wire.address import Address

Kind = Literal["TCP", "UDP"]


class Port:
    """A listening port."""

    def __init__(self, reactor: Reactor, kind: Kind, host: str, port: int) -> None:
        self._reactor = reactor
        self.key = (kind, host, port)

    def getHost(self) -> IPv4Address | IPv6Address:
        kind, host, port = self.key
        return (IPv6Address if ":" in host else IPv4Address)(kind, host, port)

    def stopListening(self) -> Deferred[None]:
        self._reactor.listening.remove(self.key)
        return succeed(None)


class Reactor:
    """
    One whose system refuses what a test wants.

    :ivar refusals: error numbers by host and port.
    """

    def __init__(self, refusals: dict[tuple[str, int], int]) -> None:
        self.refusals = refusals
        self.listening: list[tuple[Kind, str, int]] = []
        self.free = 50_000

    def listenTCP(self, port: int, factory: ServerFactory, backlog: int, interface: str) -> Port:
        return self._listen("TCP", interface, port)

    def listenUDP(self, port: int, protocol: DatagramProtocol, interface: str, maxPacketSize: int) -> Port:
        return self._listen("UDP", interface, port)

    def _listen(self, kind: Kind, host: str, port: int) -> Port:
        if port == 0:
            self.free += 1
            port = self.free
        refusal = self.refusals.get((host, port), self.refusals.get((host, 0)))
        if refusal is not None:
            problem: Exception = CannotListenError(host, port, OSError(refusal, os.strerror(refusal)))
            raise problem
        self.listening.append((kind, host, port))
        return Port(self, kind, host, port)


@implementer_only(IReactorTCP)
class TCPReactor(MemoryReactor):
    """One that adopts no sockets, for which real ones would be made."""


class EndpointTests(SynchronousTestCase):
    """Endpoint strings."""

    def test_backlog(self) -> None:
        """
        The system queues as many connections at any TCP endpoint as at the default one. Twisted's default is
        50, beyond which a flood keeps out everybody.
        """
        for description, backlog in (
            ("tcp:7001", BACKLOG),
            ("tcp:7001:interface=192.0.2.1", BACKLOG),
            (r"tcp:7001:interface=2001\:db8\:\:1", BACKLOG),
            ("tcp6:7001:interface=\\:\\:1", BACKLOG),
            ("tcp:7001:192.0.2.1:5", 5),
            ("tcp:7001:interface=192.0.2.1:backlog=5", 5),
            ("haproxy:tcp:7001:interface=192.0.2.1", BACKLOG),
        ):
            reactor = TCPReactor()
            (endpoint,) = parse_endpoints(reactor, [description])
            endpoint.server.listen(ServerFactory())
            self.assertEqual({each[2] for each in reactor.tcpServers}, {backlog}, description)


class UnusedServer:
    """A server that nobody asks."""

    short_request = b""
    short_size = 0

    def answer(self, request: bytes, host: bytes, port: int) -> bytes | None:
        raise AssertionError("nothing was sent")

    def received(self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort) -> None:
        raise AssertionError("nothing was sent")

    def turn_ended(self) -> None:
        raise AssertionError("nothing was sent")


def refuse(host: str, number: int, port: int = 0) -> dict[tuple[str, int], int]:
    """A refusal, of one port or (0) of all."""
    return {(host, port): number}


class FamilyTests(SynchronousTestCase):
    """TCP and UDP behave the same."""

    def open(self, port: int, refusals: dict[tuple[str, int], int]) -> tuple[Reactor, Reactor]:
        tcp, udp = Reactor(refusals), Reactor(refusals)
        listen_on_all_addresses(self.as_any(tcp), port, ServerFactory())
        open_ports(self.as_any(udp), None, port, UnusedServer())
        return tcp, udp

    def refused(self, port: int, refusals: dict[tuple[str, int], int]) -> None:
        for kind in ("TCP", "UDP"):
            reactor = Reactor(refusals)
            if kind == "TCP":
                self.assertRaises(
                    CannotListenError, listen_on_all_addresses, self.as_any(reactor), port, ServerFactory()
                )
            else:
                self.assertRaises(
                    CannotListenError, open_ports, self.as_any(reactor), None, port, UnusedServer()
                )

    def as_any(self, reactor: Reactor) -> Any:
        return reactor

    def hosts(self, reactor: Reactor) -> list[str]:
        return [host for _, host, _ in reactor.listening]

    def test_both(self) -> None:
        for reactor in self.open(7001, {}):
            self.assertEqual(self.hosts(reactor), ["::", "0.0.0.0"])

    def test_no_ipv6(self) -> None:
        for number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPERM, errno.EACCES, errno.ENOSYS):
            for reactor in self.open(7001, refuse("::", number)):
                self.assertEqual(self.hosts(reactor), ["0.0.0.0"])

    def test_ipv6_has_taken_the_ipv4_addresses(self) -> None:
        for reactor in self.open(7001, refuse("0.0.0.0", errno.EADDRINUSE)):
            self.assertEqual(self.hosts(reactor), ["::"])

    def test_port_in_use(self) -> None:
        self.refused(7001, refuse("::", errno.EADDRINUSE))
        self.refused(7001, refuse("::", errno.EAFNOSUPPORT) | refuse("0.0.0.0", errno.EADDRINUSE))

    def test_port_not_allowed(self) -> None:
        self.refused(80, refuse("::", errno.EACCES))
        self.refused(80, refuse("0.0.0.0", errno.EACCES))

    def test_no_ipv4(self) -> None:
        for number in (errno.EAFNOSUPPORT, errno.EPERM):
            for reactor in self.open(7001, refuse("0.0.0.0", number)):
                self.assertEqual(self.hosts(reactor), ["::"])

    def test_neither(self) -> None:
        self.refused(7001, refuse("::", errno.EPERM) | refuse("0.0.0.0", errno.EAFNOSUPPORT))

    def test_a_process_without_descriptors(self) -> None:
        """It does not go on with half of its ports."""
        self.refused(7001, refuse("::", errno.EMFILE))
        self.refused(7001, refuse("0.0.0.0", errno.EMFILE))

    def test_free_port_is_the_same_in_both(self) -> None:
        for reactor in self.open(0, {}):
            [(_, _, first), (_, _, second)] = reactor.listening
            self.assertEqual(first, second)

    def test_one_address(self) -> None:
        reactor = Reactor({})
        [port] = open_ports(self.as_any(reactor), "192.0.2.1", 3478, UnusedServer())
        self.assertEqual((port.port, self.hosts(reactor)), (3478, ["192.0.2.1"]))
        port.close()
        self.assertEqual(reactor.listening, [])

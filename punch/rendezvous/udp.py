"""
A UDP port on all addresses of a host that answers from the address it was asked at.

A plain wildcard socket answers from whichever address the routing table prefers; on a host with several, that
is another one, and NATs and clients drop such answers. Where the system tells where a datagram came in
(IP_PKTINFO, IPV6_PKTINFO; RFC 3542, section 6.2), the answer leaves from there. Elsewhere, a plain port
has to do.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP, IReadDescriptor
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

_READS = 256
"""Datagrams that are answered before others get their turn."""
_READ_BYTES = 4096
"""No question to a reflector is longer; what is gets cut, and so refused."""
_TRIES = 16

# Linux's number; the socket module has no name for it before Python 3.14.
_IP_PKTINFO = 8
_PKTINFO4 = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")


class UDPPort(Protocol):
    """Something that listens."""

    port: int

    def close(self) -> Deferred[None]:
        """Stop listening."""


@implementer(IReadDescriptor)
class PacketInfoPort:
    """
    One wildcard socket. It is the transport of `protocol`, which may call `write` within `datagramReceived`,
    to answer the datagram it was given.

    :raise OSError: the address family does not exist here, or the port is in use.
    """

    def __init__(
        self, reactor: IReactorFDSet, family: socket.AddressFamily, port: int, protocol: DatagramProtocol
    ) -> None:
        self._reactor = reactor
        self._family = family
        self._protocol = protocol
        self._origin: tuple[int, int, bytes] | None = None
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self.socket.bind(("::", port))
            else:
                self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                self.socket.bind(("0.0.0.0", port))
        except OSError:
            self.socket.close()
            raise
        self.port = int(self.socket.getsockname()[1])
        protocol.makeConnection(cast(Any, self))
        reactor.addReader(self)

    def fileno(self) -> int:
        """For the reactor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "reflector"

    def doRead(self) -> None:
        """Datagrams are there."""
        for _ in range(_READS):
            try:
                data, ancillary, flags, remote = self.socket.recvmsg(_READ_BYTES, 128)
            except BlockingIOError:
                return
            except OSError:
                continue  # An earlier answer was not wanted (ICMP): that datagram is lost.
            if flags & socket.MSG_TRUNC:
                continue
            self._origin = self._answer_from(ancillary)
            self._protocol.datagramReceived(data, remote[:2])
            self._origin = None

    def write(self, data: bytes, address: tuple[str, int]) -> None:
        """
        Answer, from where the question came in.

        :raise OSError: the datagram is lost.
        """
        self.socket.sendmsg([data], [] if self._origin is None else [self._origin], 0, address)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the socket up, or `close` was called."""
        self.socket.close()

    def close(self) -> Deferred[None]:
        """Stop listening."""
        self._reactor.removeReader(self)
        self.socket.close()
        return succeed(None)

    def _answer_from(self, ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, bytes] | None:
        for level, kind, content in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                _interface, _local, destination = _PKTINFO4.unpack_from(content)
                # The routing table chooses the interface, we choose the source address.
                return level, kind, _PKTINFO4.pack(0, destination, bytes(4))
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination, interface = _PKTINFO6.unpack_from(content)
                link_local = destination[0] == 0xFE and destination[1] & 0xC0 == 0x80
                return level, kind, _PKTINFO6.pack(destination, interface if link_local else 0)
        return None


class PlainPort:
    """
    A port of `listenUDP`, for reactors without file descriptors, systems without packet information, and a
    single address.

    :raise CannotListenError: the address does not exist here, or the port is in use.
    """

    def __init__(self, reactor: IReactorUDP, host: str, port: int, protocol: DatagramProtocol) -> None:
        self._listening = reactor.listenUDP(port, protocol, interface=host, maxPacketSize=_READ_BYTES)
        self.port = int(cast(IPv4Address, self._listening.getHost()).port)

    def close(self) -> Deferred[None]:
        """Stop listening."""
        return succeed(None).addCallback(lambda _: self._listening.stopListening())


def open_ports(
    reactor: IReactorUDP, host: str | None, port: int, make_protocol: Callable[[], DatagramProtocol]
) -> list[UDPPort]:
    """
    Listen on `port` of `host`, or of all addresses of both families as far as they exist here.

    :param port: 0 takes one that is free in both families.
    :raise OSError: the port is in use, or not allowed.
    :raise CannotListenError: the same.
    """
    if host is not None:
        return [PlainPort(reactor, host, port, make_protocol())]
    if not (IReactorFDSet.providedBy(reactor) and sys.platform == "linux"):
        return _open_plain(reactor, port, make_protocol)
    for attempt in range(_TRIES):
        opened: list[UDPPort] = []
        try:
            for family in (socket.AF_INET6, socket.AF_INET):
                try:
                    opened.append(
                        PacketInfoPort(
                            cast(IReactorFDSet, reactor),
                            family,
                            opened[0].port if opened else port,
                            make_protocol(),
                        )
                    )
                except OSError as problem:
                    if problem.errno not in NO_FAMILY:
                        raise
            if opened:
                return opened
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        except OSError as problem:
            for each in opened:
                each.close()
            # A free port of one family may be taken in the other.
            if port != 0 or problem.errno != errno.EADDRINUSE or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _open_plain(
    reactor: IReactorUDP, port: int, make_protocol: Callable[[], DatagramProtocol]
) -> list[UDPPort]:
    opened: list[UDPPort] = []
    try:
        opened.append(PlainPort(reactor, "::", port, make_protocol()))
        port = opened[0].port
    except CannotListenError as problem:
        if errno_of(problem) not in NO_FAMILY:
            raise
    try:
        opened.append(PlainPort(reactor, "0.0.0.0", port, make_protocol()))
    except CannotListenError as problem:
        # Many systems give an IPv6 wildcard the IPv4 addresses too.
        if not opened or errno_of(problem) != errno.EADDRINUSE:
            raise
    return opened


NO_FAMILY = frozenset(
    {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, getattr(errno, "EPFNOSUPPORT", -1)}
)
"""What a system says that does not have an address family."""


def errno_of(problem: Exception) -> int | None:
    """The system's reason for not listening."""
    cause = problem.socketError if isinstance(problem, CannotListenError) else problem
    return cause.errno if isinstance(cause, OSError) else None

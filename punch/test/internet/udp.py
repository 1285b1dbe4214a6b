"""UDP sockets, as `reactor.listenUDP` opens them."""

from __future__ import annotations

import errno
import socket
from functools import lru_cache
from typing import TYPE_CHECKING

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IUDPTransport
from twisted.internet.protocol import AbstractDatagramProtocol
from zope.interface import implementer

from punch.test.internet.packet import (
    IPV4_ANY,
    IPV6_ANY,
    Endpoint,
    Packet,
    canonical_host,
    is_ipv6,
    local_form,
    mapped,
    os_error,
    unmapped,
)

if TYPE_CHECKING:
    from punch.test.internet.host import Host

_MAX_PAYLOAD = 65507
_USUAL_TTL = 64
_TTL = ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS))


@lru_cache(maxsize=65536)
def _is_address(host: str) -> bool:
    """Whether a text is an IP address."""
    return isIPAddress(host) or isIPv6Address(host)


@lru_cache(maxsize=65536)
def _receiver(host: str) -> str:
    """The address, in canonical form, to which a socket sends what is for `host`, an IP address."""
    return unmapped(canonical_host(host))


class SocketOptions:
    """
    What `setsockopt` sets: the TTL, and the timestamp option of IPv4. Other options are taken and do nothing.

    :ivar ttl: None if it is the usual one.
    :ivar routers: how many routers may take a packet until the overflow count of its timestamp option
        overflows; None without the option.
    """

    def __init__(self) -> None:
        self.ttl: int | None = None
        self.routers: int | None = None

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option."""
        if isinstance(value, bytes):
            if (level, option) == (socket.IPPROTO_IP, socket.IP_OPTIONS):
                self.routers = 15 - (value[3] >> 4) if value[:3] == b"\x44\x04\x05" else None
        elif (level, option) in _TTL:
            self.ttl = value if 0 < value < _USUAL_TTL else None


@implementer(IListeningPort, IUDPTransport)
class SimulatedUDPPort:
    """
    A UDP socket. Unlike Twisted's own, it lets exceptions of `datagramReceived` through: a test fails there.

    `::` takes IPv4, too, and shows it as IPv4-mapped, as on Linux.
    """

    def __init__(
        self, host: Host, port: int, protocol: AbstractDatagramProtocol, interface: str, max_packet_size: int
    ) -> None:
        if interface and not _is_address(interface):
            raise InvalidAddressError(interface, "not an IPv4 or IPv6 address.")
        self._host = host
        self._requested = (interface, port)
        self._protocol = protocol
        self._max_packet_size = max_packet_size
        self._ipv6 = isIPv6Address(interface)
        self._local: Endpoint = ("", 0)
        self._connected: Endpoint | None = None
        self._listening = False
        self._broadcast = False
        self.socket = SocketOptions()

    def startListening(self) -> None:
        interface, port = self._requested
        try:
            self._local = self._host.udp.bind(local_form(interface), port, self)
        except OSError as cause:
            raise CannotListenError(interface, port, cause) from cause
        self._listening = True
        self._host.reactor.opened(self)
        self._protocol.makeConnection(self)

    def stopListening(self) -> Deferred[None] | None:
        if not self._listening:
            return None
        self._listening = False
        self._host.udp.unbind(self._local)
        done: Deferred[None] = Deferred()
        self._host.reactor.callLater(0, self._stopped, done)
        return done

    def loseConnection(self) -> None:
        self.stopListening()

    def _stopped(self, done: Deferred[None]) -> None:
        self._host.reactor.closed(self)
        self._protocol.doStop()
        done.callback(None)

    def getHost(self) -> IPv4Address | IPv6Address:
        return (IPv6Address if self._ipv6 else IPv4Address)("UDP", *self._local)

    def connect(self, host: str, port: int) -> None:
        if self._connected:
            raise RuntimeError("already connected, reconnecting is not currently supported")
        if not _is_address(host):
            raise InvalidAddressError(host, "not an IPv4 or IPv6 address.")
        self._connected = (canonical_host(host), port)

    def getBroadcastAllowed(self) -> bool:
        return self._broadcast

    def setBroadcastAllowed(self, enabled: bool) -> None:
        self._broadcast = enabled

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        """
        Send a datagram.

        :raise OSError: as the system call does: ENETUNREACH, EINVAL, EADDRNOTAVAIL, EBADF.
        :raise MessageLengthError: it is longer than 65,507 bytes.
        :raise InvalidAddressError: `addr` is a name, or of the other address family.
        """
        if addr is None:
            addr = self._connected
        if addr is None:
            raise ValueError("an address is needed: this socket is not connected")
        host = addr[0]
        if host == "<broadcast>":
            return
        if not _is_address(host):
            raise InvalidAddressError(host, "write() only accepts IP addresses, not hostnames")
        if is_ipv6(host) != self._ipv6:
            raise InvalidAddressError(host, "the socket is of the other address family")
        if not self._listening:
            raise os_error(errno.EBADF)
        if not 0 < addr[1] <= 65535:
            raise os_error(errno.EINVAL)
        if len(packet) > _MAX_PAYLOAD:
            raise MessageLengthError("message too long")
        remote = (_receiver(host), addr[1])
        local = self._local[0]
        if local in (IPV4_ANY, IPV6_ANY):
            local = self._host.source_for(remote[0])
        options = self.socket
        source = (local, self._local[1])
        self._host.send("udp", source, remote, bytes(packet), len(packet), options.ttl, options.routers)

    def writeSequence(self, seq: list[bytes], addr: tuple[str, int]) -> None:
        self.write(b"".join(seq), addr)

    def receive(self, packet: Packet) -> None:
        """Take a packet from the network."""
        if self._connected is not None and packet.source != self._connected:
            return
        host, port = packet.source
        if self._ipv6 and not is_ipv6(host):
            host = mapped(host)
        self._protocol.datagramReceived(packet.payload[: self._max_packet_size], (host, port))

    def logPrefix(self) -> str:
        return f"{self._protocol.__class__.__name__} (UDP)"

"""
The sockets behind relayed addresses: batched where the reactor watches descriptors, else of `listenUDP`.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol, cast

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP, IReadDescriptor, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.batch_sender import (
    ANCILLARY_SIZE,
    BUFFERS,
    MAX_UDP,
    BatchSender,
    coalesce,
    take,
)
from punch.net.segmentation import allow_fragments
from punch.net.server_udp import SEND_ERRORS
from punch.turn.server.allocations import Allocation, RelayedPort
from punch.wire.address import Address, canonical

_READS = 16
"""Calls to `recvmsg` on one relayed address before others get their turn."""
_RECEIVE_BUFFER = 1024 * 1024
"""Bytes asked of the kernel, which takes them only when they are used."""


class Receiver(Protocol):
    """Is given what arrives at relayed addresses. It never raises."""

    def relayed_received(
        self, allocation: Allocation, batches: Sequence[tuple[Address, Sequence[bytes]]]
    ) -> None:
        """Datagrams, by the peer that they came from."""


@implementer(IReadDescriptor)
class BatchedRelayedPort:
    """A bound socket, read and written many datagrams at a time."""

    __slots__ = ("_fileno", "_reactor", "_receiver", "_sender", "_socket", "allocation")

    def __init__(self, reactor: IReactorFDSet, sock: socket.socket, receiver: Receiver) -> None:
        self.allocation: Allocation | None = None
        self._reactor = reactor
        self._receiver = receiver
        self._socket = sock
        self._fileno = sock.fileno()
        self._sender = BatchSender(sock)
        allow_fragments(sock, sock.family == socket.AF_INET6)
        coalesce(sock)
        reactor.addReader(self)

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send them to a peer; whatever goes wrong, they are lost."""
        self._sender.send(datagrams, peer)

    def close(self) -> None:
        """Stop."""
        if self._fileno >= 0:
            self._reactor.removeReader(self)
            self._fileno = -1
            self._socket.close()

    # -- the reactor's side --

    def fileno(self) -> int:
        return self._fileno

    def logPrefix(self) -> str:
        return "relay"

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def doRead(self) -> None:
        """Read what waits, and hand it over by sender."""
        waiting: dict[tuple[str, int], list[bytes]] = {}
        read = self._socket.recvmsg_into
        for _ in range(_READS):
            try:
                size, ancillary, _, remote = read(BUFFERS, ANCILLARY_SIZE)
            except OSError:
                # Nothing left; or an error of an earlier datagram, which was a loss.
                break
            datagrams = waiting.get(remote)
            if datagrams is None:
                datagrams = waiting[remote] = []
            take(datagrams, size, ancillary)
        if self.allocation is not None and waiting:
            batches = [(Address._make(remote[:2]), each) for remote, each in waiting.items()]
            self._receiver.relayed_received(self.allocation, batches)


class PlainRelayedPort(DatagramProtocol):
    """A port of `listenUDP`."""

    noisy = False

    def __init__(self, receiver: Receiver) -> None:
        self.allocation: Allocation | None = None
        self._receiver = receiver

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send them to a peer; whatever goes wrong, they are lost."""
        transport = cast(IUDPTransport, self.transport)
        for data in datagrams:
            try:
                transport.write(data, peer)
            except SEND_ERRORS:
                continue

    def close(self) -> None:
        """Stop."""
        cast(IUDPTransport, self.transport).stopListening()

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        """One datagram of a peer."""
        if self.allocation is not None:
            peer = canonical(addr[0].partition("%")[0], addr[1])
            self._receiver.relayed_received(self.allocation, [(peer, (datagram,))])


class RelayedPorts:
    """
    Opens sockets for allocations.

    :param reactor: provides `IReactorUDP`; if it watches descriptors, sockets are batched.
    """

    def __init__(self, reactor: IReactorUDP, receiver: Receiver) -> None:
        self._reactor = reactor
        self._receiver = receiver
        self._watching = IReactorFDSet(reactor, None) if hasattr(socket.socket, "recvmsg_into") else None

    def open(self, host: str, port: int) -> RelayedPort | None:
        """A socket bound to `host` and `port`, or None: it is in use, or there are no descriptors left."""
        if self._watching is None:
            plain = PlainRelayedPort(self._receiver)
            try:
                self._reactor.listenUDP(port, plain, interface=host, maxPacketSize=MAX_UDP)
            except CannotListenError:
                return None
            return plain
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        except OSError:
            return None
        try:
            sock.setblocking(False)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind((host, port))
        except OSError:
            sock.close()
            return None
        return BatchedRelayedPort(self._watching, sock, self._receiver)


def is_own_address(host: str) -> bool:
    """Whether an address is one of this machine's: then the system would send to it from itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0]) == host
    except OSError:
        return False

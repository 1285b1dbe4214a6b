"""
UDP sockets as the peer uses them, and the portable one: on any reactor with `listenUDP`, simulated ones
included.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.error import MessageLengthError
from twisted.internet.interfaces import IReactorTime, IReactorUDP, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from punch.net.segmentation import forbid_fragments, set_option
from punch.wire.address import Address, canonical

MAX_UDP = 65535
RECEIVE_BUFFER = 4 * 1024 * 1024
"""
Bytes asked of the kernel: a burst that arrives while the process is busy should find room. It may give less.
"""


class DatagramSocket(Protocol):
    """A bound UDP socket."""

    @property
    def local(self) -> Address:
        """What it is bound to."""

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Send datagrams to one address. Whatever goes wrong, they are lost datagrams and nothing more."""

    def close(self) -> None:
        """Stop; nothing is received afterwards."""


Receiver = Callable[[Sequence[bytes], Address, DatagramSocket], None]
"""Called with all datagrams that were read from one address in a turn of the reactor, in order."""

_log = Logger()

# What a portable socket raises on sending: the system's errors (ValueError covers Twisted's for an address
# that isn't one of the socket's family), and a datagram too long for it.
_SEND_ERRORS = (OSError, ValueError, MessageLengthError)


def datagram_address(address: object) -> Address | None:
    """The sender of a datagram, as the operating system gives it; None if it is no IP address and port."""
    if not isinstance(address, tuple) or len(address) < 2:
        return None
    try:
        return canonical(str(address[0]).partition("%")[0], int(address[1]))
    except ValueError:
        return None


def hand_over(receiver: Receiver, datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
    """
    Call the receiver. An exception of it is logged, and neither ends the socket nor keeps others' datagrams.
    """
    try:
        receiver(datagrams, remote, sock)
    except Exception:
        _log.failure("Datagrams from {remote} could not be handled.", remote=remote)


class PortableSocket(DatagramProtocol):
    """A socket by `listenUDP`: one call of the system for each datagram."""

    transport: IUDPTransport

    def __init__(self, clock: IReactorTime, receiver: Receiver) -> None:
        self._clock = clock
        self._receiver = receiver
        self._waiting: dict[Address, list[bytes]] = {}
        self._local = Address("", 0)
        self._open = True

    @property
    def local(self) -> Address:
        return self._local

    def startProtocol(self) -> None:
        host = self.transport.getHost()
        self._local = canonical(host.host.partition("%")[0], host.port)

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        if not self._open:
            return
        for data in datagrams:
            try:
                self.transport.write(data, (remote.host, remote.port))
            except _SEND_ERRORS:
                continue

    def close(self) -> None:
        if self._open:
            self._open = False
            self._waiting.clear()
            self.transport.stopListening()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        # The reactor hands over one datagram at a time, and reads many in a turn: they are gathered until its
        # end, so that whoever answers answers once.
        remote = datagram_address(addr)
        if remote is None or not self._open:
            return
        if not self._waiting:
            self._clock.callLater(0, self._deliver)
        self._waiting.setdefault(remote, []).append(datagram)

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for remote, datagrams in waiting.items():
            if self._open:
                hand_over(self._receiver, datagrams, remote, self)


def open_portable(reactor: IReactorUDP, host: str, port: int, receiver: Receiver) -> DatagramSocket:
    """
    A portable socket bound to an IP address and a port (0: any free one).

    :param reactor: provides `IReactorUDP` and `IReactorTime`.
    :raise twisted.internet.error.CannotListenError: the address or port can't be had.
    """
    opened = PortableSocket(IReactorTime(reactor), receiver)
    listening = reactor.listenUDP(port, opened, interface=host, maxPacketSize=MAX_UDP)
    sock: socket.socket | None = getattr(listening, "socket", None)
    if sock is not None:
        forbid_fragments(sock, ":" in host)
        enlarge_buffer(sock)
    return opened


def enlarge_buffer(sock: socket.socket) -> None:
    """Ask for a large receive buffer, if the system lets it be set."""
    set_option(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

"""
UDP sockets that are bound to one address: a node's, and those behind the relayed addresses of a relay.

`BatchedSocket` hands the kernel many datagrams in one call (`punch.net.udp.segmentation`). `PortableSocket`
works on any reactor with `listenUDP`, simulated ones included. `open_socket` opens the better one that there
is. The service's sockets on wildcard addresses are in `punch.net.udp.server`.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import (
    IReactorFDSet,
    IReactorTime,
    IReactorUDP,
    IReadDescriptor,
    IUDPTransport,
    IWriteDescriptor,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.udp.segmentation import (
    ANCILLARY_SIZE,
    BUFFERS,
    MAX_UDP,
    SOL_UDP,
    UDP_SEGMENT,
    BatchSender,
    coalesce,
    forbid_fragments,
    limit_routers,
    set_option,
    set_ttl,
    take,
)
from punch.wire.address import Address, canonical

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

READS_A_TURN = 24
"""Calls of `recvmsg` on one socket before the others of the reactor have their turn."""
SEND_QUEUE = 4096
"""Datagrams that wait while the kernel's buffer is full; further ones are lost."""
RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes asked of the kernel, for bursts that arrive while the process is busy. It may give less."""

_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")


class DatagramSocket(Protocol):
    """A bound UDP socket."""

    @property
    def local(self) -> Address:
        """The address that it is bound to."""

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Send datagrams to one address. It raises nothing: what can't be sent is lost."""

    def send_limited(self, data: bytes, remote: Address, reach: Reach) -> bool:
        """
        Send one datagram with a limited reach, as far as the system can limit it. Returns False if there is
        no room for the datagram now. It is never queued, since datagrams of the queue have the usual reach.
        """

    def close(self) -> None:
        """Close it. Nothing is received afterwards."""


class Reach(NamedTuple):
    """
    How far a datagram may get.

    :ivar ttl: how many routers may pass it on (IPv6: the hop limit).
    :ivar routers: how many routers may take it, to pass it on or because it is for them (IPv4 only); None:
        any number.
    """

    ttl: int
    routers: int | None = None


Receiver = Callable[[Sequence[bytes], Address, DatagramSocket], None]
"""Called with the datagrams that were read from one address in one turn of the reactor, in order."""

_log = Logger()

SEND_ERRORS = (OSError, ValueError, MessageLengthError)
"""
What sending on a port of `listenUDP` raises: the system's errors, a `ValueError` (Twisted's for an address of
another family is one), and the error for a datagram that is too long.
"""


def datagram_address(address: object) -> Address | None:
    """The sender of a datagram from what the system calls it; None if that is no IP address and port."""
    if not isinstance(address, tuple) or len(address) < 2:
        return None
    try:
        return canonical(str(address[0]).partition("%")[0], int(address[1]))
    except ValueError:
        return None


def hand_over(receiver: Receiver, datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
    """Call the receiver. Its exceptions, of any kind, are logged, so that they affect no other datagrams."""
    try:
        receiver(datagrams, remote, sock)
    except Exception:
        _log.failure("Datagrams could not be handled.")


def _ignore(datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
    """The receiver of a socket that is closed."""


@implementer(IReadDescriptor, IWriteDescriptor)
class BatchedSocket:
    """
    A non-blocking socket that the reactor watches. It reads and writes many datagrams in one call.

    :param sock: the bound socket, which this object closes.
    :param receiver: is called once for each sender of what was read in one turn.
    :param queue: datagrams that wait while the kernel has no room for them; further ones are lost.
    :param after: called when all that was read in one turn was handed to `receiver`.
    """

    __slots__ = (
        "_after",
        "_fileno",
        "_limit",
        "_local",
        "_queue",
        "_reactor",
        "_receiver",
        "_sender",
        "_socket",
    )

    def __init__(
        self,
        reactor: IReactorFDSet,
        sock: socket.socket,
        receiver: Receiver,
        *,
        queue: int = SEND_QUEUE,
        after: Callable[[], None] | None = None,
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._receiver = receiver
        self._after = after
        self._limit = queue
        self._fileno = sock.fileno()
        self._sender = BatchSender(sock)
        self._queue: deque[tuple[bytes, Address]] | None = None
        name = sock.getsockname()
        self._local = canonical(name[0], name[1])
        reactor.addReader(self)

    @property
    def local(self) -> Address:
        return self._local

    @property
    def segments(self) -> bool:
        """Whether several datagrams go in one call now."""
        return self._sender.segments

    @property
    def queued(self) -> int:
        """How many datagrams wait until the kernel has room."""
        return len(self._queue or ())

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        if self._fileno < 0:
            return
        done = 0 if self._queue else self._sender.send(datagrams, remote)
        if done < len(datagrams) and self._limit:
            if self._queue is None:
                self._queue = deque()
            if not self._queue:
                self._reactor.addWriter(self)
            room = self._limit - len(self._queue)
            self._queue.extend((data, remote) for data in datagrams[done : done + room])

    def send_limited(self, data: bytes, remote: Address, reach: Reach) -> bool:
        if self._fileno < 0 or self._queue:
            return False
        _limit(self._socket, remote, reach)
        done = self._sender.send([data], remote)
        _limit(self._socket, remote, None)
        return done == 1

    def close(self) -> None:
        if self._fileno >= 0:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._fileno = -1
            self._queue = None
            # They may refer to the owner, which refers to this
            self._receiver, self._after = _ignore, None
            self._socket.close()

    # What the reactor calls

    def fileno(self) -> int:
        return self._fileno

    def logPrefix(self) -> str:
        return "UDP"

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def doWrite(self) -> None:
        """Send what waits, as the kernel has room now."""
        while self._queue:
            remote = self._queue[0][1]
            run = []
            for data, other in self._queue:
                if other != remote:
                    break
                run.append(data)
            done = self._sender.send(run, remote)
            for _ in range(done):
                self._queue.popleft()
            if done < len(run):
                return
        self._reactor.removeWriter(self)

    def doRead(self) -> None:
        """Read what waits, and hand it to the receiver by sender, so that it can answer each sender once."""
        waiting: dict[object, list[bytes]] = {}
        after = self._after
        read = self._socket.recvmsg_into
        for _ in range(READS_A_TURN):
            try:
                size, ancillary, _, address = read(BUFFERS, ANCILLARY_SIZE)
            except OSError:
                # Nothing is left, or the error of an earlier datagram, which is lost, is reported here.
                break
            datagrams = waiting.get(address)
            if datagrams is None:
                datagrams = waiting[address] = []
            take(datagrams, size, ancillary)
        for address, datagrams in waiting.items():
            remote = datagram_address(address)
            if remote is not None and self._fileno >= 0:
                hand_over(self._receiver, datagrams, remote, self)
        if after is not None:
            after()


class PortableSocket(DatagramProtocol):
    """
    A socket by `listenUDP`: one system call for each datagram.

    :param after: called when all that was read in one turn was handed to `receiver`.
    """

    noisy = False
    transport: IUDPTransport

    def __init__(
        self, clock: IReactorTime, receiver: Receiver, after: Callable[[], None] | None = None
    ) -> None:
        self._clock = clock
        self._receiver = receiver
        self._after = after
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
        if self._open:
            write_each(self.transport, datagrams, remote)

    def send_limited(self, data: bytes, remote: Address, reach: Reach) -> bool:
        if not self._open:
            return False
        sock: socket.socket | None = getattr(self.transport, "socket", None)
        if sock is not None:
            _limit(sock, remote, reach)
        self.send([data], remote)
        if sock is not None:
            _limit(sock, remote, None)
        return True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._waiting.clear()
            # They may refer to the owner, which refers to this
            self._receiver, self._after = _ignore, None
            self.transport.stopListening()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        # The reactor hands over one datagram at a time, and may read many in a turn. They are gathered until
        # its end, so that the receiver can answer each sender once.
        remote = datagram_address(addr)
        if remote is None or not self._open:
            return
        if not self._waiting:
            self._clock.callLater(0, self._deliver)
        self._waiting.setdefault(remote, []).append(datagram)

    def _deliver(self) -> None:
        waiting, self._waiting = self._waiting, {}
        after = self._after
        for remote, datagrams in waiting.items():
            if self._open:
                hand_over(self._receiver, datagrams, remote, self)
        if after is not None:
            after()


def _limit(sock: socket.socket, remote: Address, reach: Reach | None) -> None:
    set_ttl(sock, remote.is_ipv6, None if reach is None else reach.ttl)
    if not remote.is_ipv6:
        limit_routers(sock, None if reach is None else reach.routers)


def write_each(transport: IUDPTransport, datagrams: Sequence[bytes], remote: Address) -> None:
    """Send datagrams on a port of `listenUDP`, one by one; those that are refused are lost."""
    for data in datagrams:
        try:
            transport.write(data, (remote.host, remote.port))
        except SEND_ERRORS:
            continue


def open_portable(
    reactor: IReactorUDP,
    host: str,
    port: int,
    receiver: Receiver,
    *,
    after: Callable[[], None] | None = None,
) -> DatagramSocket:
    """
    A portable socket bound to an IP address and a port (0: any free one).

    :param reactor: provides `IReactorUDP` and `IReactorTime`.
    :raise twisted.internet.error.CannotListenError: the address or port can't be had.
    """
    opened = PortableSocket(IReactorTime(reactor), receiver, after)
    listening = reactor.listenUDP(port, opened, interface=host, maxPacketSize=MAX_UDP)
    sock: socket.socket | None = getattr(listening, "socket", None)
    if sock is not None:
        forbid_fragments(sock, ":" in host)
        enlarge_buffer(sock)
    return opened


def open_batched(reactor: IReactorFDSet, host: str, port: int, receiver: Receiver) -> DatagramSocket:
    """
    A batched socket bound to an IP address and a port (0: any free one). It works without those of its
    options that the kernel refuses.

    :raise twisted.internet.error.CannotListenError: the address or port can't be had.
    """
    try:
        sock = bound_socket(host, port, RECEIVE_BUFFER)
    except OSError as error:
        raise CannotListenError(host, port, error) from error  # type: ignore[no-untyped-call]
    forbid_fragments(sock, ":" in host)
    return BatchedSocket(reactor, sock, receiver)


def bound_socket(host: str, port: int, buffer: int) -> socket.socket:
    """
    A non-blocking socket that is bound to one address, of its family alone.

    :param buffer: bytes of the receive buffer that the kernel is asked for.
    :raise OSError: the address or port can't be had, or there are no descriptors left.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            set_option(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_option(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.bind((host, port))
        coalesce(sock)
    except OSError:
        sock.close()
        raise
    return sock


def has_segmentation() -> bool:
    """Whether this system knows UDP_SEGMENT."""
    if not hasattr(socket.socket, "sendmsg") or not hasattr(socket.socket, "recvmsg_into"):
        return False
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


def open_socket(reactor: IReactorUDP, host: str, port: int, receiver: Receiver) -> DatagramSocket:
    """
    The best socket that there is here: batched if the reactor watches descriptors and the system has
    segmentation, else portable (other systems, and simulated reactors).

    :raise twisted.internet.error.CannotListenError: the address or port can't be had.
    """
    watching = IReactorFDSet(reactor, None)
    if watching is not None and has_segmentation():
        return open_batched(watching, host, port, receiver)
    return open_portable(reactor, host, port, receiver)


def enlarge_buffer(sock: socket.socket) -> None:
    """Ask for a large receive buffer. If the system refuses it, the usual one is used."""
    set_option(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


def free_descriptors() -> int:
    """Return how many more descriptors the limit of the process allows; 0 if that is not known."""
    if resource is None:
        return 0
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for folder in _DESCRIPTORS:
        try:
            used = len(os.listdir(folder))
        except OSError:
            continue
        return 1 << 16 if limit == resource.RLIM_INFINITY else max(0, limit - used)
    return 0

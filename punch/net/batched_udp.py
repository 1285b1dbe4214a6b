"""
UDP sockets that hand the kernel many datagrams in one call, where it has UDP_SEGMENT and UDP_GRO (Linux 4.18
and 5.0).

Most of what a datagram costs is the system call. With segmentation offload one `sendmsg` carries up to 64
datagrams of one size, and one `recvmsg` returns as many: five times less CPU for a bulk transfer than
`sendto` and `recvfrom`.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP, IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.segmentation import (
    MAX_SEGMENTS,
    SEGMENT_SIZE,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    WOULD_BLOCK,
    Segmentation,
    batch_end,
    forbid_fragments,
    segment_size,
    set_option,
)
from punch.net.udp import (
    MAX_UDP,
    DatagramSocket,
    Receiver,
    datagram_address,
    enlarge_buffer,
    hand_over,
    open_portable,
)
from punch.wire.address import Address, canonical

READS_A_TURN: Final = 24
"""Calls to `recvmsg` before others in the reactor get their turn."""
SEND_QUEUE: Final = 4096
"""Datagrams that wait while the kernel's buffer is full; what comes then is lost, as on any path."""

_ANCILLARY: Final = 64


@implementer(IReadDescriptor, IWriteDescriptor)
class BatchedSocket:
    """
    A non-blocking UDP socket in the reactor.

    :param segment: whether to send with UDP_SEGMENT, as long as that is not refused.
    """

    def __init__(
        self, reactor: IReactorFDSet, sock: socket.socket, receiver: Receiver, *, segment: bool = True
    ) -> None:
        self._segmentation = Segmentation(segment)
        self._reactor = reactor
        self._socket = sock
        self._receiver = receiver
        self._fileno = sock.fileno()
        self._buffer = bytearray(MAX_UDP + 1)
        self._view = memoryview(self._buffer)
        self._queue: deque[tuple[bytes, Address]] = deque()
        name = sock.getsockname()
        self._local = canonical(name[0], name[1])
        self._open = True
        reactor.addReader(self)

    @property
    def local(self) -> Address:
        return self._local

    @property
    def segments(self) -> bool:
        """Whether several datagrams go in one call now."""
        return self._segmentation.together

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        if not self._open:
            return
        start = 0
        sizes = list(map(len, datagrams))
        while start < len(datagrams) and not self._queue:
            end = batch_end(sizes, start)
            start += self._send_batch(datagrams[start:end], remote)
            if start < end:
                break
        if start < len(datagrams):
            self._enqueue(datagrams[start:], remote)

    def close(self) -> None:
        if self._open:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._open = False
            self._queue.clear()
            self._socket.close()

    def _send_batch(self, datagrams: Sequence[bytes], remote: Address) -> int:
        """
        Send datagrams that may go in one call.

        :return: how many are sent or lost; for the others the kernel has no room now.
        """
        if len(datagrams) == 1 or not self._segmentation.use():
            return self._send_singly(datagrams, remote)[0]
        size = SEGMENT_SIZE.pack(len(datagrams[0]))
        try:
            self._socket.sendmsg(datagrams, [(SOL_UDP, UDP_SEGMENT, size)], 0, tuple(remote))
        except OSError as error:
            if error.errno in WOULD_BLOCK:
                return 0
            done, sent = self._send_singly(datagrams, remote)
            self._segmentation.refused(error.errno, sent > 0)
            return done
        self._segmentation.accepted()
        return len(datagrams)

    def _send_singly(self, datagrams: Sequence[bytes], remote: Address) -> tuple[int, int]:
        """How many are sent or lost, and how many of these are sent."""
        sent = 0
        for done, data in enumerate(datagrams):
            try:
                self._socket.sendto(data, tuple(remote))
            except OSError as error:
                if error.errno in WOULD_BLOCK:
                    return done, sent
            else:
                sent += 1
        return len(datagrams), sent

    def _enqueue(self, datagrams: Sequence[bytes], remote: Address) -> None:
        room = SEND_QUEUE - len(self._queue)
        if not self._queue and room > 0:
            self._reactor.addWriter(self)
        self._queue.extend((data, remote) for data in datagrams[:room])

    # The reactor's side

    def fileno(self) -> int:
        return self._fileno if self._open else -1

    def logPrefix(self) -> str:
        return "BatchedSocket"

    def connectionLost(self, reason: Failure) -> None:
        self.close()

    def doWrite(self) -> None:
        """There is room: send what waits, batched again by destination."""
        queue = self._queue
        while queue and self._open:
            remote = queue[0][1]
            run: list[bytes] = []
            while len(run) < len(queue) and len(run) < MAX_SEGMENTS and queue[len(run)][1] == remote:
                run.append(queue[len(run)][0])
            end = batch_end(list(map(len, run)), 0)
            done = self._send_batch(run[:end], remote)
            for _ in range(done):
                queue.popleft()
            if done < end:
                return
        if self._open:
            self._reactor.removeWriter(self)

    def doRead(self) -> None:
        """Read what waits, and hand it over by sender, so that whoever answers answers once."""
        waiting: dict[object, list[bytes]] = {}
        for _ in range(READS_A_TURN):
            try:
                size, ancillary, _, address = self._socket.recvmsg_into([self._buffer], _ANCILLARY)
            except OSError:
                # Nothing left; or an error of an earlier datagram, which is reported here and was a loss.
                break
            datagrams = waiting.setdefault(address, [])
            segment = segment_size(ancillary)
            if 0 < segment < size:
                view = self._view[:size]
                datagrams += [bytes(view[at : at + segment]) for at in range(0, size, segment)]
            else:
                datagrams.append(bytes(self._view[:size]))
        for address, datagrams in waiting.items():
            remote = datagram_address(address)
            if remote is not None and self._open:
                hand_over(self._receiver, datagrams, remote, self)


def open_batched(reactor: IReactorFDSet, host: str, port: int, receiver: Receiver) -> DatagramSocket:
    """
    A batched socket bound to an IP address and a port (0: any free one). What the kernel refuses of its
    options, it does without.

    :raise twisted.internet.error.CannotListenError: the address or port can't be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        segment = set_option(sock, SOL_UDP, UDP_SEGMENT, 0)
        if family == socket.AF_INET6:
            set_option(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise CannotListenError(host, port, error) from error  # type: ignore[no-untyped-call]
        forbid_fragments(sock, family == socket.AF_INET6)
        enlarge_buffer(sock)
        set_option(sock, SOL_UDP, UDP_GRO, 1)
        return BatchedSocket(reactor, sock, receiver, segment=segment)
    except BaseException:
        sock.close()
        raise


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

"""TCP sockets, with the methods that Twisted's transports call, and each host's table of them."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any

from punch.test.internet.connection import SEND_BUFFER, Connection, Segment, State
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
from punch.test.internet.ports import PortTable

if TYPE_CHECKING:
    from punch.test.internet.host import Host

_HARD_CLOSE = struct.pack("ii", 1, 0)
_ANY = (IPV4_ANY, IPV6_ANY)


class TCPStack:
    """The TCP sockets of one host."""

    def __init__(self, host: Host, random: Random) -> None:
        self.host = host
        self.bound: PortTable[TCPSocket] = PortTable(host.owns, random)
        self.flows: dict[tuple[Endpoint, Endpoint], Connection] = {}
        self.sockets: dict[Connection, None] = {}

    def receive(self, packet: Packet) -> None:
        """Take a packet from the network."""
        segment: Segment = packet.payload
        flow = self.flows.get((packet.destination, packet.source))
        if flow is not None:
            flow.receive(segment)
            return
        listening = self.bound.find(packet.destination)
        is_first = segment.syn and segment.ack is None and not segment.rst
        if is_first and listening is not None and listening.state is State.LISTENING:
            listening.take_syn(packet)
            return
        reset = segment.reset_for()
        if reset is not None:
            self.send(packet.destination, packet.source, reset)

    def send(self, local: Endpoint, remote: Endpoint, segment: Segment) -> None:
        """Send a segment; if the network can't be reached now, it is lost, as in a real kernel."""
        try:
            self.host.send("tcp", local, remote, segment, len(segment.data))
        except OSError as cause:
            if cause.errno not in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL):
                raise

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is over."""
        self.sockets.pop(connection, None)
        flow = (connection.local, connection.remote)
        if self.flows.get(flow) is connection:
            del self.flows[flow]

    def close_all(self) -> None:
        """Close all sockets, as the kernel does when a process ends."""
        for each in list(self.sockets):
            if isinstance(each, TCPSocket):
                each.close()

    def vanish(self) -> None:
        """Remove all sockets without sending anything, as a loss of power does."""
        for each in list(self.sockets):
            each.on_ready = _nobody
            each.die(0)


def _nobody() -> None:
    """Called when a socket is ready and no reactor watches it; does nothing."""


class TCPSocket(Connection):
    """A non-blocking stream socket: the methods of `socket.socket` that Twisted's transports call."""

    def __init__(self, host: Host, family: int = socket.AF_INET) -> None:
        super().__init__(host)
        self.family = family
        self.local = (IPV6_ANY if family == socket.AF_INET6 else IPV4_ANY, 0)
        self._bound: Endpoint | None = None
        self._listener: TCPSocket | None = None
        self._backlog = 0
        self._accepted: deque[TCPSocket] = deque()
        self._options: dict[tuple[int, int], Any] = {}
        self.stack.sockets[self] = None

    def setblocking(self, flag: bool) -> None:
        """Nothing to do: it never blocks."""

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int) -> Any:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            code, self.error = self.error, 0
            return code
        return self._options.get((level, option), 0)

    def bind(self, address: tuple[Any, ...]) -> None:
        local = local_form(address[0]), int(address[1])
        holder = self.stack.bound.holder(local) if local[1] else None
        if holder is not None and holder.shares_port and self.shares_port:
            # The port stays the other socket's: a listening one gets what belongs to no connection
            self.local = local
        else:
            self._bound = self.local = self.stack.bound.bind(*local, self)

    @property
    def shares_port(self) -> bool:
        """Whether others of this kind may be bound to the same address and port (SO_REUSEPORT)."""
        return bool(self.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))

    def listen(self, backlog: int) -> None:
        self.state = State.LISTENING
        self._backlog = backlog

    def accept(self) -> tuple[TCPSocket, tuple[Any, ...]]:
        if not self._accepted:
            raise os_error(errno.EAGAIN)
        child = self._accepted.popleft()
        return child, child.getpeername()

    def connect_ex(self, address: tuple[Any, ...]) -> int:
        if self.state is State.OPEN:
            return errno.EISCONN
        if self.state is State.SYN_SENT:
            return errno.EALREADY
        if self.state is not State.NEW:
            return errno.ECONNABORTED
        self.remote = (unmapped(canonical_host(address[0])), address[1])
        try:
            self._choose_source()
        except OSError as cause:
            return cause.errno or errno.EINVAL
        if (self.local, self.remote) in self.stack.flows:
            return errno.EADDRNOTAVAIL
        self.state = State.SYN_SENT
        self.open()
        return errno.EINPROGRESS

    def _choose_source(self) -> None:
        if self.local[0] in _ANY:
            source = self.host.source_for(self.remote[0])
            if self._bound is None:
                self.bind((source, 0))
            self.local = (source, self.local[1])
        elif not self.host.owns(self.remote[0]) and self.host.route(self.remote[0], self.local[0]) is None:
            raise os_error(errno.ENETUNREACH)

    def send(self, data: bytes) -> int:
        if self.error:
            raise os_error(self.error)
        if self.state is not State.OPEN or self._fin is not None:
            raise os_error(errno.EPIPE)
        room = SEND_BUFFER - len(self.outgoing)
        if room <= 0:
            raise os_error(errno.EAGAIN)
        taken = bytes(data[:room])
        self.outgoing += taken
        self.transmit()
        return len(taken)

    def recv(self, size: int) -> bytes:
        if self.incoming:
            data = bytes(self.incoming[:size])
            del self.incoming[:size]
            self.window_grew()
            return data
        if self.error:
            raise os_error(self.error)
        if self.ended or self.state is State.DEAD:
            return b""
        raise os_error(errno.EAGAIN)

    def shutdown(self, how: int) -> None:
        if self.state is not State.OPEN:
            raise os_error(errno.ENOTCONN)
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self.finish()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.on_ready = _nobody
        hard = self._options.get((socket.SOL_SOCKET, socket.SO_LINGER)) == _HARD_CLOSE
        if self.state is not State.OPEN:
            for child in self._accepted:
                child.reset()
            self.die(0)
        elif hard or self.incoming:
            # Linux resets a connection that is closed with unread data (RFC 2525 §2.17).
            self.reset()
        else:
            self.finish()
            self._forget_if_over()

    def die(self, error: int) -> None:
        if self._bound is not None:
            self.stack.bound.unbind(self._bound)
            self._bound = None
        super().die(error)

    def getsockname(self) -> tuple[Any, ...]:
        return self._shown(self.local)

    def getpeername(self) -> tuple[Any, ...]:
        return self._shown(self.remote)

    def _shown(self, endpoint: Endpoint) -> tuple[Any, ...]:
        if self.family != socket.AF_INET6:
            return endpoint
        host = endpoint[0] if is_ipv6(endpoint[0]) else mapped(endpoint[0])
        return (host, endpoint[1], 0, 0)

    @property
    def is_readable(self) -> bool:
        """Whether `recv` or `accept` would return something or raise an error other than EAGAIN."""
        if self.state is State.LISTENING:
            return bool(self._accepted)
        return bool(self.incoming or self.ended or self.error) or self.state is State.DEAD

    @property
    def is_writable(self) -> bool:
        """Whether `send` would accept data, or `connect_ex` return the result of the connection attempt."""
        if self.state is State.OPEN:
            return len(self.outgoing) < SEND_BUFFER
        return self.state is State.DEAD

    def take_syn(self, packet: Packet) -> None:
        """Begin a connection on a listening socket."""
        if len(self._accepted) >= max(1, self._backlog):
            return
        child = TCPSocket(self.host, self.family)
        child._listener = self
        child.answer(packet)

    def opened(self) -> None:
        listener = self._listener
        if listener is None:
            return
        if listener.state is not State.LISTENING:
            self.reset()
            return
        listener._accepted.append(self)
        listener.on_ready()

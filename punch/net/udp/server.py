"""
The service's UDP port, on all addresses of a host: it answers from the address that it was asked at.

A socket on a wildcard address answers from the address that the routing table prefers. On a host with several
addresses that may be another one than the client asked at, and NATs and clients drop such answers. Where the
system tells to which address a datagram was sent (IP_PKTINFO, IPV6_PKTINFO; RFC 3542, section 6.2),
`PacketInfoPort` answers from that address. Elsewhere `PlainPort` leaves the choice to the system.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Protocol, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorUDP, IReadDescriptor, IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.udp.message_batch import (
    HAS_BATCHES,
    IPV4_NAME,
    IPV4_NAME_SIZE,
    NAME_SIZE,
    SIZE,
    AnswerSender,
    control_messages,
    one_control_message,
    sender_of,
    shared_receiver,
)
from punch.net.udp.segmentation import (
    MAX_UDP,
    BatchSender,
    ControlMessage,
    allow_fragments,
    coalesce,
    set_option,
    split,
)
from punch.net.udp.sockets import enlarge_buffer, write_each
from punch.wire.address import Address, canonical

_DATAGRAMS = 256
"""Datagrams that are read before others get their turn. There may be more, as they are read together."""
_FEW = 4
"""Messages that one call receives. In each of them, the kernel hands over up to 64 datagrams."""
_TRIES = 16

# Linux's number; the socket module has no name for it before Python 3.14.
_IP_PKTINFO = 8
_PKTINFO4 = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_ORIGINS = 1024
"""How many addresses of this host are remembered: loopback alone has 16 million."""


class UDPPort(Protocol):
    """
    A UDP port that a `DatagramServer` answers at.

    :ivar host: the address that it is bound to.
    """

    host: str
    port: int

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Send datagrams from `local`, an address of this host. What can't be sent is lost."""

    def close(self) -> Deferred[None]:
        """Stop listening."""


class DatagramServer(Protocol):
    """
    Takes the datagrams of a port. Its methods raise nothing, since the reactor closes a port that does.

    :ivar short_request: the first bytes of the requests that `answer` may be asked about.
    :ivar short_size: the size of these requests in bytes.
    """

    short_request: bytes
    short_size: int

    def answer(self, request: bytes, host: bytes, port: int) -> bytes | None:
        """
        The answer to a short request, which goes to its sender; None: there is none. Ports may pass such
        requests to `received` instead.

        :param host: the sender's IPv4 address.
        :return: at most `ANSWER_SIZE` bytes.
        """

    def received(self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort) -> None:
        """Take datagrams that `remote` sent to `local`, an address of this host."""

    def turn_ended(self) -> None:
        """All datagrams of this turn of the reactor have been handed over."""


@implementer(IReadDescriptor)
class PacketInfoPort:
    """
    A socket that is told to which address of this host each datagram was sent.

    :param host: the address to listen on, or the wildcard of its family.
    :raise OSError: the address or its family does not exist here, or the port is in use.
    """

    def __init__(self, reactor: IReactorFDSet, host: str, port: int, server: DatagramServer) -> None:
        self.host = host
        self._reactor = reactor
        self._server = server
        self._ipv6 = ":" in host
        # Addresses of this host by the content of IP_PKTINFO, and the control message for each.
        self._locals: dict[bytes, Address] = {}
        self._origins: dict[Address, Sequence[ControlMessage]] = {}
        self._reply_controls: dict[bytes, bytes] = {}
        self._receiver = shared_receiver()
        self._most = SIZE
        self._answers = AnswerSender()
        self.socket = socket.socket(socket.AF_INET6 if self._ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self.socket.setblocking(False)
            if self._ipv6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                option = (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
            else:
                option = (socket.IPPROTO_IP, _IP_PKTINFO)
            # Without it, the system chooses the address that answers come from.
            self._informed = set_option(self.socket, *option, 1)
            self.socket.bind((host, port))
            # What is relayed may be fragmented on its way, as no client asks for DF (RFC 8656, section 16).
            allow_fragments(self.socket, self._ipv6)
            enlarge_buffer(self.socket)
            coalesce(self.socket)
        except OSError:
            self.socket.close()
            raise
        self._sender = BatchSender(self.socket)
        self.port = int(self.socket.getsockname()[1])
        reactor.addReader(self)

    def fileno(self) -> int:
        """For the reactor."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "reflector"

    def doRead(self) -> None:
        """Read what waits, answer short requests, and hand over the rest by sender and local address."""
        read = 0
        while read < _DATAGRAMS and self.socket.fileno() >= 0:
            most = self._most
            count = self._receiver.receive(self.socket.fileno(), most)
            if not count:
                break
            datagrams = self._handle(count)
            read += datagrams
            self._most = _FEW if datagrams > 2 * count else SIZE
            if count < most:
                break
        self._server.turn_ended()

    def _handle(self, count: int) -> int:
        """Handle the messages of one call; return the number of datagrams."""
        receiver, server, answers = self._receiver, self._server, self._answers
        sizes, contents, names = receiver.sizes, receiver.contents, receiver.names
        replies = self._reply_controls
        name_size = NAME_SIZE if self._ipv6 else IPV4_NAME_SIZE
        # No message has -1 bytes.
        short_size = -1 if self._ipv6 else server.short_size
        short_request, short = server.short_request, struct.Struct(f"{server.short_size}s").unpack_from
        waiting: dict[tuple[bytes, bytes], list[bytes]] = {}
        for number in range(count):
            control = receiver.control(number)
            if sizes[number] == short_size and contents.startswith(short_request, number * MAX_UDP):
                at = number * NAME_SIZE
                port, host = IPV4_NAME.unpack_from(names, at)
                answer = server.answer(short(contents, number * MAX_UDP)[0], host, port)
                if answer is not None:
                    reply = replies.get(control)
                    if reply is None:
                        reply = self._reply_control(control)
                    answers.add(answer, names[at : at + NAME_SIZE], reply)
                continue
            name = receiver.name(number, name_size)
            ancillary = control_messages(control)
            # The kernel's order: first the segment size, last the local address.
            information = ancillary[-1][2] if ancillary and self._informed else b""
            datagrams = waiting.get((name, information))
            if datagrams is None:
                datagrams = waiting[name, information] = []
            split(datagrams, receiver.content(number), ancillary)
        answers.send(self.socket.fileno())
        read = count
        for (name, information), datagrams in waiting.items():
            read += len(datagrams)
            remote = Address._make(sender_of(name, self._ipv6))
            server.received(datagrams, remote, self._local(information), self)
        return read

    def _reply_control(self, control: bytes) -> bytes:
        """Return the control messages of an answer to a datagram that came with these control messages."""
        ancillary = control_messages(control) if self._informed else []
        local = self._local(ancillary[-1][2] if ancillary else b"")
        origin = b"".join(map(one_control_message, self._origins.get(local, ())))
        self._reply_controls[control] = origin
        return origin

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Send datagrams from `local`, an address of this host."""
        origin = self._origins.get(local)
        self._sender.send(datagrams, remote, self._origin(local.host) if origin is None else origin)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave the socket up, or `close` was called."""
        self.socket.close()

    def close(self) -> Deferred[None]:
        """Stop listening."""
        self._reactor.removeReader(self)
        self.socket.close()
        return succeed(None)

    def _origin(self, host: str) -> Sequence[ControlMessage]:
        """The control message for sending from an address at which nothing has been received yet."""
        if host == self.host:
            return ()
        if self._ipv6:
            content = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, host), 0)
            return ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, content),)
        content = _PKTINFO4.pack(0, socket.inet_aton(host), bytes(4))
        return ((socket.IPPROTO_IP, _IP_PKTINFO, content),)

    def _local(self, information: bytes) -> Address:
        """The address of this host that the content of IP_PKTINFO or IPV6_PKTINFO names."""
        known = self._locals.get(information)
        if known is not None:
            return known
        if not information:
            return Address(self.host, self.port)
        if len(self._locals) >= _ORIGINS:
            self._locals.clear()
            self._origins.clear()
            self._reply_controls.clear()
        origin: ControlMessage
        if self._ipv6:
            destination, interface = _PKTINFO6.unpack_from(information)
            link_local = destination[0] == 0xFE and destination[1] & 0xC0 == 0x80
            content = _PKTINFO6.pack(destination, interface if link_local else 0)
            origin = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, content)
            host = socket.inet_ntop(socket.AF_INET6, destination)
        else:
            _interface, _local, destination = _PKTINFO4.unpack_from(information)
            # Interface 0: the routing table chooses it. The source address is given.
            origin = (socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, destination, bytes(4)))
            host = socket.inet_ntop(socket.AF_INET, destination)
        local = self._locals[information] = Address(host, self.port)
        self._origins[local] = (origin,)
        return local


class PlainPort:
    """
    A port by `listenUDP`, for reactors without file descriptors and systems without packet information.

    :raise CannotListenError: the address does not exist here, or the port is in use.
    """

    def __init__(self, reactor: IReactorUDP, host: str, port: int, server: DatagramServer) -> None:
        self.host = host
        self._protocol = _PlainProtocol(self, server)
        self._listening = reactor.listenUDP(port, self._protocol, interface=host, maxPacketSize=MAX_UDP)
        self.port = int(cast(IPv4Address, self._listening.getHost()).port)
        sock: socket.socket | None = getattr(self._listening, "socket", None)
        if sock is not None:
            allow_fragments(sock, ":" in host)

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Send datagrams; the system chooses the local address."""
        write_each(cast(IUDPTransport, self._listening), datagrams, remote)

    def close(self) -> Deferred[None]:
        """Stop listening."""
        return succeed(None).addCallback(lambda _: self._listening.stopListening())


class _PlainProtocol(DatagramProtocol):
    noisy = False

    def __init__(self, port: PlainPort, server: DatagramServer) -> None:
        self._port = port
        self._server = server
        self._local = Address("", 0)

    def startProtocol(self) -> None:
        assert self.transport is not None
        own = self.transport.getHost()
        self._local = canonical(own.host.partition("%")[0], own.port)

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self._server.received((datagram,), Address(*addr[:2]), self._local, self._port)
        self._server.turn_ended()


def open_ports(reactor: IReactorUDP, host: str | None, port: int, server: DatagramServer) -> list[UDPPort]:
    """
    Listen on `port` of `host`, or of all addresses of both families as far as they exist here.

    :param port: 0 takes one that is free in both families.
    :raise OSError: the port is in use, or not allowed.
    :raise CannotListenError: the same.
    """
    watching = IReactorFDSet(reactor, None) if HAS_BATCHES else None
    if watching is None:
        return [PlainPort(reactor, host, port, server)] if host else _open_plain(reactor, port, server)
    if host is not None:
        try:
            return [PacketInfoPort(watching, host, port, server)]
        except OSError as problem:
            raise CannotListenError(host, port, problem) from problem  # type: ignore[no-untyped-call]
    for attempt in range(_TRIES):
        opened: list[UDPPort] = []
        try:
            for wildcard in ("::", "0.0.0.0"):
                try:
                    number = opened[0].port if opened else port
                    opened.append(PacketInfoPort(watching, wildcard, number, server))
                except OSError as problem:
                    last = wildcard == "0.0.0.0" and not opened
                    if last or concerns_both_families(problem.errno, port):
                        raise
            return opened
        except OSError as problem:
            for each in opened:
                each.close()
            # A free port of one family may be taken in the other.
            if port != 0 or problem.errno != errno.EADDRINUSE or attempt == _TRIES - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _open_plain(reactor: IReactorUDP, port: int, server: DatagramServer) -> list[UDPPort]:
    opened: list[UDPPort] = []
    try:
        opened.append(PlainPort(reactor, "::", port, server))
        port = opened[0].port
    except CannotListenError as problem:
        if concerns_both_families(errno_of(problem), port):
            raise
    try:
        opened.append(PlainPort(reactor, "0.0.0.0", port, server))
    except CannotListenError as problem:
        # Many systems give an IPv6 wildcard the IPv4 addresses too.
        number = errno_of(problem)
        if not opened or (number != errno.EADDRINUSE and concerns_both_families(number, port)):
            for each in opened:
                each.close()
            raise
    return opened


_OF_BOTH_FAMILIES = frozenset({errno.EADDRINUSE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


def concerns_both_families(number: int | None, port: int) -> bool:
    """
    Whether an error of listening is about the port or this process, so that it occurs with the other address
    family, too. Any other error means that the system lacks a family, or that a sandbox refuses it.
    """
    return number in _OF_BOTH_FAMILIES or (number == errno.EACCES and 0 < port < 1024)


def errno_of(problem: Exception) -> int | None:
    """The error number of the system in a failure to listen, or None."""
    cause = problem.socketError if isinstance(problem, CannotListenError) else problem
    return cause.errno if isinstance(cause, OSError) else None

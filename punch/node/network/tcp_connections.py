"""
TCP connections to peers, for direct paths where no UDP gets out (RFC 6544; Ford 2005, section 4).

Connections are made from, and accepted at, one port of each local address (SO_REUSEPORT). So a NAT with
endpoint-independent mapping shows all of them at the same external port. On a connection, connectivity
checks and QUIC datagrams are framed as in RFC 4571. Nothing else is needed to protect them: checks are
authenticated by the credentials of the call, and QUIC is TLS 1.3, in which both sides prove their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IReactorTime
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.tcp import makeBinding

from punch.identity import RandomBytes
from punch.net.message_stream import MessageStream
from punch.wire.address import Address, TCPAddress, canonical
from punch.wire.framing import DatagramSplitter, encode_frames
from punch.wire.stun import STUNError, binding_request, mapped_address, parse
from punch.wire.turn import StreamSplitter

BACKLOG = 8
"""Connections that wait to be accepted; further ones are not answered."""
MAX_UNPROVED = 32
"""Connections on which no authenticated check has come yet, at all links of a node together…"""
MAX_UNPROVED_OF_ONE = 4
"""…and of one IP address."""

Received = Callable[[Sequence[bytes], Address, Address], None]
"""Takes datagrams, the address of the peer's end of the connection, and that of our end."""


class TCPConnection:
    """
    A connection that was made or accepted, and carries datagrams. While 64 KiB wait to be sent, further ones
    are lost.

    :param made: called when it is made.
    :param lost: called when it has ended, unless we have closed it.
    :ivar accepted: the other end has connected, perhaps a stranger.
    :ivar local: the address of our end, once it is made.
    :ivar remote: that of the other end.
    """

    def __init__(
        self,
        connections: TCPConnections,
        made: Callable[[TCPConnection], None],
        lost: Callable[[TCPConnection], None],
        *,
        accepted: bool = False,
    ) -> None:
        self.accepted = accepted
        self.local = self.remote = Address("", 0)
        self.proved = False
        """Whether an authenticated check has come or was answered on it."""
        self._connections = connections
        self._made = made
        self._lost = lost
        self._stream: MessageStream | None = None

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Send datagrams to the other end, which is `remote`."""
        stream = self._stream
        if stream is not None and not stream.full:
            stream.write([encode_frames((data,)) for data in datagrams])

    def close(self) -> None:
        """Close it."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._connections.remove(self)
            stream.close()

    # Calls of the stream (MessageStream)

    def connected(self, stream: MessageStream) -> None:
        """It is made."""
        self._stream, self.local, self.remote = stream, stream.local, stream.remote
        self._connections.add(self)
        self._made(self)

    def received(self, messages: list[bytes]) -> None:
        """Datagrams have arrived."""
        self._connections.received(messages, self.remote, self.local)

    def disconnected(self) -> None:
        """It has ended."""
        if self._stream is not None:
            self._stream = None
            self._connections.remove(self)
            self._lost(self)


class TCPConnections:
    """
    The connections of all links of a node.

    :param received: takes what arrives on them.
    :param allowed: whether any may be made or accepted: not beside a proxy.
    :ivar reflectors: the STUN servers: the TCP port of the rendezvous, at its address of each family that is
        known; none before the registration.
    """

    def __init__(self, reactor: Any, received: Received, *, allowed: bool) -> None:
        self.received = received
        self.allowed = allowed
        self.reflectors: list[Address] = []
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._open: dict[tuple[Address, Address], TCPConnection] = {}

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def find(self, local: Address, remote: Address) -> TCPConnection | None:
        """Return the connection between these addresses, if there is one."""
        return self._open.get((local, remote))

    def admits(self, host: str) -> bool:
        """Whether another connection of this IP address may be accepted."""
        unproved = [each.remote.host for each in self._open.values() if not each.proved]
        return len(unproved) < MAX_UNPROVED and unproved.count(host) < MAX_UNPROVED_OF_ONE

    def add(self, connection: TCPConnection) -> None:
        """A connection is made."""
        self._open[connection.local, connection.remote] = connection

    def remove(self, connection: TCPConnection) -> None:
        """A connection has ended."""
        if self._open.get((connection.local, connection.remote)) is connection:
            del self._open[connection.local, connection.remote]

    def listen(
        self, host: str, connection: Callable[[], TCPConnection]
    ) -> tuple[Address, IListeningPort] | None:
        """
        Listen at a local IP address, at any free port.

        :param connection: makes each connection that is accepted.
        :return: the address, and the port to close; None if that is not possible.
        """
        factory = _Accepting(self, connection, self._clock)
        binding = makeBinding(host, 0, reuseAddress=True, reusePort=True)
        try:
            port = self._reactor.listenTCP(binding, factory, BACKLOG, host)
        except (OSError, CannotListenError):
            return None
        return TCPAddress(*canonical(host, port.getHost().port)), port

    def connect(
        self, local: Address, remote: Address, connection: TCPConnection, timeout: float
    ) -> Deferred[IProtocol]:
        """
        Connect from a local address, at which this node may listen.

        :param timeout: seconds. Below a second, the system sends one SYN.
        """
        return self._connect(local, remote, lambda: self._stream_of(connection), timeout)

    def ask(self, local: Address, timeout: float, random: RandomBytes) -> TCPReflection | None:
        """Ask a reflector for the mapped address of a local one; None if there is none of this family."""
        reflector = next((each for each in self.reflectors if each.is_ipv6 == local.is_ipv6), None)
        if reflector is None:
            return None
        reflection = TCPReflection(random)
        make = partial(MessageStream, reflection, StreamSplitter(), self._clock)
        reflection.connecting = self._connect(local, reflector, make, timeout)
        reflection.connecting.addCallbacks(lambda _: None, lambda _: reflection.disconnected())
        return reflection

    def _stream_of(self, connection: TCPConnection) -> MessageStream:
        return MessageStream(connection, DatagramSplitter(), self._clock)

    def _connect(
        self, local: Address, remote: Address, make: Callable[[], MessageStream], timeout: float
    ) -> Deferred[IProtocol]:
        kind: Any = TCP6ClientEndpoint if remote.is_ipv6 else TCP4ClientEndpoint
        binding = makeBinding(local.host, local.port, reuseAddress=True, reusePort=True)
        endpoint = kind(self._reactor, remote.host, remote.port, timeout, binding)
        connecting: Deferred[IProtocol] = endpoint.connect(Factory.forProtocol(make))
        return connecting


class _Accepting(ServerFactory):
    """Makes the connections that strangers and peers open to a listening port, within the limits."""

    noisy = False

    def __init__(
        self, connections: TCPConnections, make: Callable[[], TCPConnection], clock: IReactorTime
    ) -> None:
        self._connections = connections
        self._make = make
        self._clock = clock

    def buildProtocol(self, addr: IAddress | None) -> MessageStream | None:
        """Return the protocol of a connection, or None to have it closed at once."""
        host = canonical(getattr(addr, "host", ""), 0).host
        if not self._connections.admits(host):
            return None
        return MessageStream(self._make(), DatagramSplitter(), self._clock)


class TCPReflection:
    """
    One Binding request over TCP (RFC 8489, section 6.2.2). The connection stays open until `close`, so that
    the mapping stays (Ford 2005, section 4).

    :ivar local: the address of our end, once the connection is made.
    :ivar mapped: fires with the mapped address, or None.
    """

    def __init__(self, random: RandomBytes) -> None:
        self.local = Address("", 0)
        self.mapped: Deferred[Address | None] = Deferred()
        self.connecting: Deferred[IProtocol] | None = None
        self._transaction = random(12)
        self._stream: MessageStream | None = None

    def connected(self, stream: MessageStream) -> None:
        """Send the request."""
        self._stream, self.local = stream, stream.local
        stream.write([binding_request(self._transaction)])

    def received(self, messages: list[bytes]) -> None:
        """Take the answer."""
        for message in messages:
            try:
                answer = parse(message)
            except STUNError:
                continue
            mapped = mapped_address(answer)
            if answer.transaction_id == self._transaction and mapped is not None:
                self._tell(TCPAddress(*mapped))

    def disconnected(self) -> None:
        """There is no connection, or it has ended."""
        self._stream = None
        self._tell(None)

    def close(self) -> None:
        """Close the connection."""
        if self.connecting is not None:
            self.connecting.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._tell(None)

    def _tell(self, mapped: Address | None) -> None:
        if not self.mapped.called:
            self.mapped.callback(mapped)

"""
The relay on a reactor: a TURN server (RFC 8656) for peers that have no direct path. Connects its core
(`punch.turn.server.core.RelayCore`) with UDP ports, with TCP and TLS connections (section 3.1), and with the
sockets of relayed addresses.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any, cast

from twisted.internet import protocol
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IPushProducer,
    IReactorFDSet,
    IReactorTime,
    IReactorUDP,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import RandomBytes
from punch.net.driver import Driver, Timer
from punch.net.token_bucket import TokenBucket
from punch.net.udp.segmentation import allow_fragments
from punch.net.udp.server import UDPPort
from punch.net.udp.sockets import BatchedSocket, DatagramSocket, Receiver, bound_socket, open_portable
from punch.rendezvous.reflector import Reflector, answer_on_stream
from punch.rendezvous.tcp.protocol_sniffer import Established
from punch.turn.server.allocation import Allocation, FiveTuple, RelayEvent
from punch.turn.server.core import RelayCore
from punch.turn.server.settings import Destinations, RelaySettings
from punch.wire.address import Address, canonical
from punch.wire.framing import FramingError
from punch.wire.turn import MAX_REQUEST, StreamSplitter

TURN_BYTES = 60 * 1024
"""
Bytes that are written in one turn of the reactor; the rest is dropped. The transport reports when more than
64 KiB are queued, and nothing is written then: so there are never more than 128 KiB, TLS's own buffer
included, and answers to Binding requests, which are small.
"""

MESSAGES_WITHOUT_ALLOCATION = 64
"""Messages that a connection without an allocation may send; a client needs two."""

BINDING_RATE = 100.0
"""
Plain Binding requests of one connection that are answered in a second. Peers use them to learn what has
arrived.
"""
BINDING_BURST = 200.0
"""The same at once, after a pause. Peers have up to 64 under way."""
BINDINGS_WAITING = 64
"""
Answers to them that are kept while the transport is full. A later answer also tells what earlier ones would
have told.
"""


@implementer(IPushProducer)
class RelayStream(protocol.Protocol):
    """
    One connection of a client. It is a producer to its own transport, to learn when that is full: messages
    are dropped then, except for answers to plain Binding requests, which wait.

    :param established: called when the client has an allocation.
    """

    def __init__(self, relay: Relay, established: Established) -> None:
        self._relay = relay
        self._established: Established | None = established
        self._client: FiveTuple | None = None
        self._splitter = StreamSplitter()
        self._messages = 0
        self._answers: deque[bytes] = deque(maxlen=BINDINGS_WAITING)
        self._bindings = TokenBucket(BINDING_RATE, BINDING_BURST, relay.clock.seconds())
        self._full = False
        self._written = 0
        self._reset = Timer(relay.clock)
        self._idle = Timer(relay.clock)
        self._held = Timer(relay.clock)

    @property
    def host(self) -> str:
        """The client's IP address; empty if the connection is closed."""
        return "" if self._client is None else self._client.remote.host

    def connectionMade(self) -> None:
        """Begin. The client has some seconds to make an allocation."""
        assert self.transport is not None
        cast(IConsumer, self.transport).registerProducer(self, True)
        try:
            remote, local = _address(self.transport.getPeer()), _address(self.transport.getHost())
        except ValueError:
            # A UNIX socket has no address to relay from.
            self.abort()
            return
        self._client = self._relay.stream_opened(self, remote, local)
        self._check_later()

    def dataReceived(self, data: bytes) -> None:
        """Cut the stream into messages and handle them."""
        if self._client is None:
            return
        # A client without an allocation has nothing to send but requests.
        longest = None if self._relay.has_allocation(self._client) else MAX_REQUEST
        try:
            messages = self._splitter.feed(data, longest=longest, longest_request=MAX_REQUEST)
        except FramingError:
            self.abort()
            return
        if longest is not None:
            self._messages += len(messages)
            if self._messages > MESSAGES_WITHOUT_ALLOCATION:
                self.abort()
                return
        if messages:
            wait = self._relay.stream_received(self._client, messages)
            if wait > 0.0:
                self._hold(wait)
            if self._established is not None and self._relay.has_allocation(self._client):
                established, self._established = self._established, None
                if established(metered=False) is not None:
                    self.abort()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """The connection is gone, and its allocation with it."""
        client, self._client = self._client, None
        for timer in (self._reset, self._idle, self._held):
            timer.cancel()
        # The transport refers to its producer, which refers to it
        cast(IConsumer, self.transport).unregisterProducer()
        if client is not None:
            self._relay.stream_closed(client)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages, and drop those for which there is no room."""
        if self._client is None:
            return
        batch: list[bytes] = []
        for message in messages:
            if self._full or self._written + len(message) > TURN_BYTES:
                continue
            if not self._written:
                self._reset.start(0.0, self._turn_ended)
            self._written += len(message)
            batch.append(message)
        if batch:
            assert self.transport is not None
            self.transport.write(b"".join(batch))

    def answer(self, question: bytes, remote: Address) -> bool:
        """Answer a plain Binding request unless there are too many; return False if it isn't plain."""
        answer = answer_on_stream(question, remote)
        if answer is not None and self._bindings.available(self._relay.clock.seconds()) >= 1.0:
            self._bindings.spend(1.0)
            self._answers.append(answer)
            self._send_answers()
        return answer is not None

    def abort(self) -> None:
        """Close at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    # -- IPushProducer --

    def pauseProducing(self) -> None:
        """The transport is full: drop what comes."""
        self._full = True

    def resumeProducing(self) -> None:
        """The transport has room again."""
        self._full = False
        self._send_answers()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- within --

    def _send_answers(self) -> None:
        if self._answers and not self._full:
            assert self.transport is not None
            self.transport.write(b"".join(self._answers))
            self._answers.clear()

    def _hold(self, seconds: float) -> None:
        """Read nothing for a while: the client has exceeded its share of requests."""
        if not self._held.running:
            cast(IPushProducer, self.transport).pauseProducing()
        self._held.start(seconds, self._read_on)

    def _read_on(self) -> None:
        cast(IPushProducer, self.transport).resumeProducing()

    def _turn_ended(self) -> None:
        self._written = 0

    def _check_later(self) -> None:
        self._idle.start(self._relay.idle_time, self._check)

    def _check(self) -> None:
        if self._client is not None and self._relay.has_allocation(self._client):
            self._check_later()
        else:
            self.abort()


def _address(end: IAddress) -> Address:
    """:raise ValueError: it is no IP address and port."""
    return canonical(str(getattr(end, "host", "")).partition("%")[0], int(getattr(end, "port", -1)))


_RECEIVE_BUFFER = 1024 * 1024
"""Bytes asked of the kernel, which uses them only for datagrams that wait."""


class RelayedSocket:
    """
    A socket that is bound to a relayed address.

    :ivar allocation: what arrives is for this allocation; None: it is dropped.
    """

    __slots__ = ("_relay", "_socket", "allocation")

    def __init__(self, relay: Relay, opened: Callable[[Receiver], DatagramSocket]) -> None:
        """
        :param opened: opens the socket.
        :raise OSError: it can't be opened.
        :raise twisted.internet.error.CannotListenError: the same.
        """
        self.allocation: Allocation | None = None
        self._relay = relay
        self._socket = opened(self._received)

    def send(self, datagrams: Sequence[bytes], peer: Address) -> None:
        """Send datagrams to a peer. What can't be sent is lost."""
        self._socket.send(datagrams, peer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _received(self, datagrams: Sequence[bytes], peer: Address, _: DatagramSocket) -> None:
        if self.allocation is not None:
            self._relay.relayed_received(self.allocation, datagrams, peer)


class RelayedPorts:
    """
    Opens sockets for allocations.

    :param reactor: provides `IReactorUDP`; if it watches descriptors, the sockets are batched.
    """

    def __init__(self, reactor: IReactorUDP, relay: Relay) -> None:
        self._reactor = reactor
        self._relay = relay
        self._watching = IReactorFDSet(reactor, None) if hasattr(socket.socket, "recvmsg_into") else None

    def open(self, host: str, port: int) -> RelayedSocket | None:
        """A socket bound to `host` and `port`, or None: it is in use, or there are no descriptors left."""

        def opened(receiver: Receiver) -> DatagramSocket:
            if self._watching is None:
                return open_portable(self._reactor, host, port, receiver, after=self._relay.flush)
            sock = bound_socket(host, port, _RECEIVE_BUFFER)
            allow_fragments(sock, ":" in host)
            # What waited for room in the kernel would only arrive late.
            return BatchedSocket(self._watching, sock, receiver, queue=0, after=self._relay.flush)

        try:
            return RelayedSocket(self._relay, opened)
        except (OSError, CannotListenError):
            return None


_BINDING_REQUEST = b"\x00\x01"


class Relay:
    """
    A TURN server. Its callers open the UDP ports and accept the TCP connections; it opens a socket for each
    relayed address.

    :param reactor: provides `IReactorUDP` and `IReactorTime`.
    :param monotonic: monotonic seconds.
    :param wall: Unix seconds, by which credentials expire.
    :param reflector: answers Binding requests with attributes that come on streams.
    :param idle_time: seconds that a connection without an allocation stays.
    :param happened: called when an allocation is made, refused or ended, and before anything is relayed for
        it.
    """

    def __init__(
        self,
        settings: RelaySettings,
        destinations: Destinations,
        *,
        reactor: Any,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        random: RandomBytes,
        reflector: Reflector,
        idle_time: float,
        happened: Callable[[RelayEvent], None] = lambda event: None,
    ) -> None:
        self.clock: IReactorTime = reactor
        self.idle_time = idle_time
        self._happened = happened
        self._monotonic = monotonic
        self._wall = wall
        self._reflector = reflector
        self._destinations = destinations
        now = monotonic()
        self.core = RelayCore(
            settings,
            RelayedPorts(reactor, self),
            destinations,
            random=random,
            now=now,
            epoch=wall() - now,
        )
        # The port for IPv4 (False) and for IPv6 (True).
        self._ports: dict[bool, UDPPort] = {}
        self._streams: dict[int, RelayStream] = {}
        self._connections = count(1)
        self._driver = Driver(reactor, monotonic, self._step, lambda: (self.core,))

    @property
    def streams(self) -> Collection[RelayStream]:
        """The TCP connections that are open."""
        return self._streams.values()

    # -- UDP --

    def datagrams_received(
        self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort
    ) -> None:
        """Handle datagrams of one client on a port of the service. Call `flush` at the end of the turn."""
        self._ports[local.is_ipv6] = port
        self.core.receive(datagrams, remote, local, self._now())

    # -- streams --

    def route(self, address: IAddress, established: Established) -> IProtocol:
        """The route for STUN over TCP, plain or beneath TLS."""
        return RelayStream(self, established)

    def stream_opened(self, stream: RelayStream, remote: Address, local: Address) -> FiveTuple:
        """A connection is open. Return the five-tuple for it."""
        number = next(self._connections)
        self._streams[number] = stream
        return FiveTuple(remote, local, number)

    def stream_received(self, client: FiveTuple, messages: Sequence[bytes]) -> float:
        """Handle messages of a connection. Return the seconds for which it should not be read from."""
        now, stream = self._now(), self._streams[client.connection]
        for message in messages:
            if not message.startswith(_BINDING_REQUEST) or stream.answer(message, client.remote):
                continue
            answer = self._reflector.handle(message, client.remote, now)
            if answer is not None:
                stream.send((answer,))
        wait = self.core.receive(messages, client.remote, client.local, now, client.connection)
        self.flush()
        return wait

    def stream_closed(self, client: FiveTuple) -> None:
        """A connection is closed."""
        self._streams.pop(client.connection, None)
        self.core.disconnected(client, self._monotonic())
        self._driver.run()

    def has_allocation(self, client: FiveTuple) -> bool:
        """Whether a client has an allocation that relays."""
        return client in self.core.allocations.by_client

    # -- relayed addresses --

    def relayed_received(self, allocation: Allocation, datagrams: Sequence[bytes], peer: Address) -> None:
        """Take datagrams that a peer sent to a relayed address. Call `flush` at the end of the turn."""
        self.core.receive_from_peers(allocation, datagrams, peer)

    # -- sending and time --

    def flush(self) -> None:
        """Send what is queued."""
        self._driver.run()

    def _step(self, now: float) -> None:
        to_clients, to_peers = self.core.outputs(now)
        # Before anything is sent, so that the log has the line of each relayed address that sends.
        events = self.core.allocations.events
        while events:
            self._happened(events.popleft())
        for port, datagrams, peer in to_peers:
            port.send(datagrams, peer)
        for (remote, local, connection), messages in to_clients:
            if connection:
                stream = self._streams.get(connection)
                if stream is not None:
                    stream.send(messages)
            else:
                self._ports[local.is_ipv6].send(messages, remote, local)

    def deny(self, users: frozenset[str], has_host: Callable[[str], bool]) -> None:
        """
        Refuse allocations to these users from now on, and end theirs and those of clients at refused hosts.
        Nothing is relayed to or from refused hosts.
        """
        self.core.allocations.denied = users
        self._destinations.denied = has_host
        self._end(users, has_host)
        for allocation in self.core.allocations.all():
            allocation.forbid(self._destinations.denies)
        # Connections without an allocation too, because the host is checked only when a connection comes.
        for stream in list(self._streams.values()):
            if has_host(stream.host):
                stream.abort()
        self._driver.run()

    def change_denied(self, denied: frozenset[str], allowed: frozenset[str]) -> None:
        """
        Refuse allocations to the users in `denied`, too, and end those that they have; refuse them no longer
        to those in `allowed`.
        """
        allocations = self.core.allocations
        if not denied <= allocations.denied or allowed & allocations.denied:
            allocations.denied = (allocations.denied - allowed) | denied
        self._end(denied, lambda host: False)
        self._driver.run()

    def _end(self, users: frozenset[str], has_host: Callable[[str], bool]) -> None:
        now, allocations = self._monotonic(), self.core.allocations
        for allocation in allocations.all():
            if allocation.user.name in users or has_host(allocation.client.remote.host):
                allocations.close(allocation, now)
                stream = self._streams.get(allocation.client.connection)
                if stream is not None:
                    stream.abort()

    def stop(self) -> None:
        """End all allocations and all connections that had one."""
        for stream in list(self._streams.values()):
            stream.abort()
        self.core.allocations.close_all(self._monotonic())
        self._driver.run()

    def _now(self) -> float:
        """Monotonic seconds. Also updates the core's offset to wall time, which may have been set."""
        now = self._monotonic()
        self.core.epoch = self._wall() - now
        return now

"""
One allocation at a relay, used like a UDP socket whose local address is the relayed address. What it sends
goes through the relay: over UDP from one of the node's own sockets, or over a TCP connection, with or without
TLS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as TypingProtocol

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import RandomBytes
from punch.net.driver import Driver, Timed, Timer
from punch.net.message_stream import MessageStream
from punch.node.control.tcp import tcp_endpoint
from punch.node.control.tls import RelayConnectionCreator
from punch.turn.client.core import ClientState, TurnClient
from punch.turn.client.requests import (
    Allocated,
    AllocationFailed,
    AllocationProblem,
    RateLimited,
    RelayCredentials,
)
from punch.turn.client.stream_queue import StreamQueue
from punch.wire.address import Address
from punch.wire.proxy import ProxySettings
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer, StreamSplitter, TurnTransport

_CHECK = b"\x00\x01"
"""How a connectivity check begins: a Binding request."""

Received = Callable[[Sequence[bytes], Address, Address], None]
"""Takes datagrams, the peer that they came from, and the relayed address that they came to."""


class RelayClientOwner(TypingProtocol):
    """
    Is told what happens to an allocation: the relays of a node, or the trial of a relay in netcheck. Each
    method but `relay_limited` is called at most once, `relay_failed` possibly after `relay_allocated`.
    """

    def relay_allocated(self, relay: RelayClient) -> None: ...

    def relay_failed(self, relay: RelayClient, problem: AllocationProblem, text: str) -> None: ...

    def relay_limited(self, relay: RelayClient, limit: RelayLimit) -> None: ...


@dataclass(frozen=True)
class RelayContext:
    """
    What the relay clients of one owner share.

    :ivar owner: is told what happens to allocations.
    :ivar received: takes what peers send to relayed addresses.
    :ivar clock: schedules timers.
    :ivar monotonic: returns the time in seconds.
    :ivar random: draws random bytes.
    """

    owner: RelayClientOwner
    received: Received
    clock: IReactorTime
    monotonic: Callable[[], float]
    random: RandomBytes


class RelayClient(ABC):
    """
    An allocation, from the request for it to its deletion. Subclasses carry its messages.

    :param reliable: its messages are not lost on their way to the relay.
    :ivar server: the relay, as the rendezvous named it.
    :ivar base: the local address of the socket that it is used from; None over a stream.
    """

    base: Address | None = None

    _log = Logger()

    def __init__(self, server: RelayServer, context: RelayContext, *, reliable: bool) -> None:
        self.server = server
        self._context = context
        self._owner = context.owner
        self._monotonic = context.monotonic
        self._relayed: Address | None = None
        self._client = TurnClient(credentials_of(server), context.random, reliable=reliable)
        self._driver = Driver(context.clock, context.monotonic, self._step, self._cores)

    @property
    def local(self) -> Address:
        """
        The relayed address.

        :raise RuntimeError: nothing is allocated yet.
        """
        if self._relayed is None:
            raise RuntimeError("nothing is allocated yet")
        return self._relayed

    @property
    @abstractmethod
    def host(self) -> str | None:
        """The IP address at which the relay answers; None if there is no connection."""

    @property
    def over(self) -> bool:
        """Whether the allocation has ended and no request is under way."""
        return self._client.state is ClientState.OVER

    @property
    def full_at(self) -> float:
        """When the relay last showed that the largest datagrams reach it, in monotonic seconds."""
        return self._client.full_at

    @property
    def rtt(self) -> float | None:
        """The newest round-trip time to the relay in seconds, with queues; None: it is not measured."""
        return None

    @property
    def mapped(self) -> Address | None:
        """The address of this client as the relay sees it, if it said so."""
        return self._client.mapped

    @property
    def source(self) -> str:
        """The URL of the relay."""
        return str(self.server.url)

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Relay datagrams to a peer. What cannot be relayed is lost."""
        now = self._monotonic()
        for data in datagrams:
            self._client.send(data, remote, now)
        self._driver.run()

    def permit(self, peers: Iterable[Address]) -> None:
        """Request permissions for the IP addresses of these peers."""
        now = self._monotonic()
        for peer in peers:
            self._client.permit(peer, now)
        self._driver.run()

    def renew(self, server: RelayServer) -> None:
        """Use new credentials once the old ones have expired."""
        self._client.renew(credentials_of(server))

    def probe(self) -> None:
        """Ask whether the allocation still exists. `relay_failed` follows if it does not."""
        self._client.probe(self._monotonic())
        self._driver.run()

    def woke(self) -> None:
        """The machine has slept: renew what may have expired at the relay meanwhile."""
        self._client.woke(self._monotonic())
        self._driver.run()

    def check_size(self) -> None:
        """Ask whether the largest datagrams reach the relay: `full_at` is set when it answers."""
        self._client.check_size(self._monotonic())
        self._driver.run()

    def close(self) -> None:
        """Delete the allocation."""
        self._client.close(self._monotonic())
        self._driver.run()

    def abandon(self) -> None:
        """Stop at once, without telling the relay."""
        self._driver.stop()

    # For subclasses

    def _start(self) -> None:
        self._client.allocate(self._monotonic())
        self._driver.run()

    def _take(self, messages: Sequence[bytes]) -> None:
        """Take messages that the relay sent."""
        now = self._monotonic()
        batch: list[bytes] = []
        sender: Address | None = None
        for message in messages:
            data = self._client.receive(message, now)
            if data is None:
                continue
            if data.peer != sender:
                self._hand_over(batch, sender)
                batch, sender = [], data.peer
            batch.append(data.data)
        self._hand_over(batch, sender)
        self._driver.run()

    def _hand_over(self, datagrams: list[bytes], sender: Address | None) -> None:
        if datagrams and sender is not None and self._relayed is not None:
            self._context.received(datagrams, sender, self._relayed)

    def _cores(self) -> Sequence[Timed]:
        return (self._client,)

    def _messages(self, now: float) -> list[bytes]:
        return self._client.data_to_send()

    def _step(self, now: float) -> bool:
        messages = self._messages(now)
        if messages:
            self._write(messages)
        event = self._client.next_event()
        if isinstance(event, Allocated):
            self._relayed = event.relayed
            self._owner.relay_allocated(self)
        elif isinstance(event, AllocationFailed):
            self._owner.relay_failed(self, event.problem, event.text)
        elif isinstance(event, RateLimited):
            self._owner.relay_limited(self, event.limit)
        elif event is not None:
            # The relay refused a permission: the peer's candidate is wrong, or the relay allows too little.
            self._log.info("{source} does not relay to {peer}", source=self.source, peer=str(event.peer))
        elif self._client.state is ClientState.OVER:
            self._over()
        return event is not None

    @abstractmethod
    def _write(self, messages: list[bytes]) -> None:
        """Send messages to the relay."""

    @abstractmethod
    def _over(self) -> None:
        """The allocation has ended for good: release what carried its messages."""


class DatagramRelayClient(RelayClient):
    """An allocation that is used over UDP, from a socket that calls use too."""

    def __init__(
        self,
        server: RelayServer,
        context: RelayContext,
        *,
        base: Address,
        address: Address,
        send: Callable[[Sequence[bytes], Address, Address], None],
    ) -> None:
        """
        :param base: the local address of the socket.
        :param address: the address of the relay.
        :param send: sends datagrams to an address, from a local address.
        """
        super().__init__(server, context, reliable=False)
        self.base = self._base = base
        self.address = address
        self._send = send

    @property
    def host(self) -> str:
        return self.address.host

    def start(self) -> None:
        """Request the allocation."""
        self._start()

    def receive(self, datagrams: Sequence[bytes]) -> list[bytes]:
        """Take datagrams from the address and port of the relay. Returns those that are not TURN messages."""
        ours = [data for data in datagrams if self._client.owns(data)]
        self._take(ours)
        return (
            [] if len(ours) == len(datagrams) else [data for data in datagrams if not self._client.owns(data)]
        )

    def _write(self, messages: list[bytes]) -> None:
        self._send(messages, self.address, self._base)

    def _over(self) -> None:
        """Nothing to release: the socket belongs to the node."""


class RoomUser(TypingProtocol):
    """The path of a link that waits for room on a connection which several links share."""

    def room_made(self) -> None:
        """It is this link's turn: send what waits, as far as there is room, or wait again."""


class StreamRelayClient(RelayClient):
    """
    An allocation that is used over a TCP or TLS connection of its own.

    All links over it share what may be on the way (`StreamQueue`): they ask for `room` before they send bulk
    data, and `wait` for their turn when there is none. What is not bulk is sent at once.
    """

    def __init__(self, server: RelayServer, context: RelayContext, endpoint: IStreamClientEndpoint) -> None:
        """
        :param endpoint: connects to the relay, TLS included.
        """
        super().__init__(server, context, reliable=True)
        self._endpoint = endpoint
        self._connecting: Deferred[IProtocol] | None = None
        self._stream: MessageStream | None = None
        self._queue = StreamQueue(context.random)
        self._waiting: dict[RoomUser, None] = {}
        self._turn_of: RoomUser | None = None
        self._next_turn = Timer(context.clock)

    @property
    def host(self) -> str | None:
        return None if self._stream is None else self._stream.host

    @property
    def rtt(self) -> float | None:
        return self._queue.rtt

    def start(self) -> None:
        """Connect, then request the allocation."""
        self._connecting = self._endpoint.connect(Factory.forProtocol(self._build))
        self._connecting.addCallbacks(lambda _: None, self._unconnected)

    def abandon(self) -> None:
        """Stop at once and close the connection, at which the relay ends the allocation."""
        super().abandon()
        self._over()

    def connected(self, stream: MessageStream) -> None:
        """The connection has been made."""
        self._stream = stream
        if self._client.state is ClientState.NEW:
            self._start()
        else:
            stream.close()

    def received(self, messages: list[bytes]) -> None:
        """Take messages that the relay sent."""
        now = self._monotonic()
        self._take([message for message in messages if not self._queue.receive(message, now)])

    def room(self, user: RoomUser) -> int | None:
        """Return how many bytes of bulk data this link may send now; None for any number."""
        room = self._room
        if room is None or not self._waiting:
            return room
        return min(room, self._queue.turn) if user is self._turn_of else 0

    def wait(self, user: RoomUser) -> None:
        """Call `room_made` of this link once when there is room and it is its turn."""
        self._waiting.setdefault(user)

    def forget(self, user: RoomUser) -> None:
        """This link waits no longer: it has another path, or none."""
        self._waiting.pop(user, None)

    @property
    def _room(self) -> int | None:
        if self._stream is None:
            return None
        room = self._queue.room
        return 0 if room is not None and self._stream.full else room

    def _take_turns(self) -> None:
        while self._waiting and self._room != 0:
            self._turn_of = next(iter(self._waiting))
            del self._waiting[self._turn_of]
            self._turn_of.room_made()
        self._turn_of = None

    def disconnected(self) -> None:
        """The connection has ended."""
        self._stream = None
        self._fail()

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Relay datagrams to a peer. They are lost while too much waits to be sent."""
        if self._stream is not None and not self._stream.full:
            super().send([data for data in datagrams if not self._is_repeated(data)], remote)

    def _is_repeated(self, data: bytes) -> bool:
        return data[:2] == _CHECK and self._queue.holds(data)

    def _cores(self) -> Sequence[Timed]:
        return (self._client, self._queue)

    def _messages(self, now: float) -> list[bytes]:
        messages = super()._messages(now)
        messages += self._queue.requests(sum(map(len, messages)), now)
        if self._waiting and self._room != 0 and not self._next_turn.running:
            self._next_turn.start(0, self._take_turns)
        return messages

    def _build(self) -> MessageStream:
        # When all has been sent, links that wait may have their turns
        return MessageStream(self, StreamSplitter(), self._context.clock, drained=self._driver.run)

    def _unconnected(self, failure: Failure) -> None:
        if self._connecting is not None:  # None: it was given up, and the owner is not told.
            self._connecting = None
            self._fail()

    def _fail(self) -> None:
        if self._client.state is ClientState.NEW:
            # Nothing has been requested over the connection.
            self._client.close(self._monotonic())
            self._owner.relay_failed(self, AllocationProblem.DISCONNECTED, "")
        else:
            self._client.disconnected()
            self._driver.run()

    def _write(self, messages: list[bytes]) -> None:
        if self._stream is not None:
            self._stream.write(messages)

    def _over(self) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._next_turn.cancel()
        waiting, self._waiting = self._waiting, {}
        for user in waiting:
            user.room_made()


def credentials_of(server: RelayServer) -> RelayCredentials:
    """Return the credentials for the TURN client."""
    return RelayCredentials(server.username, server.password, server.realm, server.nonce)


def relay_endpoint(
    reactor: Any,
    server: RelayServer,
    name: str,
    roots: Sequence[x509.Certificate] | None,
    proxy: ProxySettings | None,
    clock: Any,
    *,
    vetted: bool,
) -> IStreamClientEndpoint | None:
    """
    Return the endpoint of a relay over TCP or TLS; None if it may not be reached.

    :param name: the host of the rendezvous, for its own relay.
    :param roots: the authorities for relays without a pin; None for the platform's.
    :param proxy: the proxy to connect through, if there is one, and the reactor `clock` to connect to it.
    :param vetted: whether addresses of the relay are known here, and allowed. A proxy looks names up itself,
        in its own network, so it is told of no other relays but the rendezvous' own.
    """
    url = server.url
    host = url.host or name
    if proxy is not None and not vetted and host != name:
        if proxy.required:
            return None
        proxy = None
    tcp = tcp_endpoint(reactor, host, url.port, proxy, clock)
    if url.transport is TurnTransport.TCP:
        return tcp
    return wrapClientTLS(RelayConnectionCreator(host, url.port, server.pin, roots), tcp, clock=reactor)

"""A rendezvous with its relay on the simulated internet, and clients of the relay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.identity import Identity
from punch.rendezvous.relay import Relay
from punch.test.internet import Host
from punch.test.rendezvous.control_client import ClientCreator
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.test.turn.server.turn_server import UDP, code_of
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    long_term_key,
    parse,
)
from punch.wire.turn import (
    RelayServer,
    StreamSplitter,
    TurnTransport,
    encode_channel_data,
    parse_channel_data,
)


class Datagrams(DatagramProtocol):
    """A UDP socket that keeps what comes."""

    def __init__(self, host: Host, interface: str) -> None:
        self.received: list[tuple[bytes, Address]] = []
        host.reactor.listenUDP(0, self, interface=interface)

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.received.append((datagram, Address(*addr[:2])))

    @property
    def address(self) -> Address:
        """Where it is."""
        assert self.transport is not None
        own = self.transport.getHost()
        return Address(own.host, own.port)

    def send(self, data: bytes, remote: Address) -> None:
        assert self.transport is not None
        self.transport.write(data, remote)


class StreamClient(Protocol):
    """A connection that keeps the messages that come."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ended: Failure | None = None
        self._splitter = StreamSplitter()

    def dataReceived(self, data: bytes) -> None:
        self.messages += self._splitter.feed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended = reason


class TURNClient:
    """
    A TURN client made by hand.

    :param send: sends a message to the server.
    :param received: all messages that came.
    """

    def __init__(
        self,
        case: RelayServiceCase,
        server: RelayServer,
        send: Callable[[bytes], None],
        received: Callable[[], list[bytes]],
        padded: bool,
    ) -> None:
        self.server = server
        self.key = long_term_key(server.username, server.realm, server.password)
        self.nonce = server.nonce
        self.send = send
        self.padded = padded
        self._case = case
        self._received = received
        self._asked = 0

    def ask(self, method: int, *attributes: tuple[int, Any]) -> StunMessage:
        """The answer to a request."""
        login = (
            (Attribute.USERNAME, self.server.username),
            (Attribute.REALM, self.server.realm),
            (Attribute.NONCE, self.nonce),
        )
        self._asked += 1
        transaction = self._case.net.random_bytes(f"{id(self)} {self._asked}")(12)
        self.send(
            encode(StunMessage(method, MessageClass.REQUEST, transaction, (*attributes, *login)), self.key)
        )
        self._case.net.advance(0.2)
        answers = [parse(data) for data in self._received() if data[8:20] == transaction]
        self._case.assertEqual(len(answers), 1)
        self.nonce = answers[0].get(Attribute.NONCE) or self.nonce
        return answers[0]

    def allocate(self) -> Address:
        """A relayed address."""
        answer = self.ask(Method.ALLOCATE, UDP)
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address), answer
        self._case.assertTrue(answer.check_integrity(self.key))
        return relayed

    def bind(self, peer: Address) -> None:
        """Channel 0x4000."""
        answer = self.ask(
            Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, peer)
        )
        self._case.assertEqual(code_of(answer), 0)

    def relay(self, data: bytes) -> None:
        """Send by channel."""
        self.send(encode_channel_data(0x4000, data, padded=self.padded))

    @property
    def messages(self) -> list[bytes]:
        """All that came."""
        return self._received()

    @property
    def relayed(self) -> list[bytes]:
        """What came by channel."""
        found = [parse_channel_data(data) for data in self._received() if data[0] >= 0x40]
        return [each.data for each in found if each is not None]


class RelayServiceCase(RendezvousCase):
    """A service, and clients of its relay."""

    @property
    def relay(self) -> Relay:
        """The service's own."""
        relay = self.service.relay
        assert relay is not None
        return relay

    def servers(self, identity: Identity | None = None) -> tuple[RelayServer, ...]:
        """What a peer is told."""
        client = self.register(identity or self.alice)
        servers = tuple(map(RelayServer.from_json, client.lines[0].get("relays", ())))
        client.abort()
        self.net.advance(0.5)
        return servers

    def client(
        self, transport: TurnTransport, *, alpn: list[bytes] | None = None, host: Host | None = None
    ) -> TURNClient:
        """A client of the service's own relay."""
        (server,) = [each for each in self.servers() if each.url.transport is transport]
        host = host or self.home
        if transport is TurnTransport.UDP:
            socket = Datagrams(host, host.addresses[0])
            return TURNClient(
                self,
                server,
                lambda data: socket.send(data, Address(SERVICE, server.url.port)),
                lambda: [data for data, _ in socket.received],
                False,
            )
        stream = self.stream(transport, server.url.port, alpn, host)
        return TURNClient(self, server, self.writer(stream), lambda: stream.messages, True)

    def stream(
        self, transport: TurnTransport, port: int, alpn: list[bytes] | None = None, host: Host | None = None
    ) -> StreamClient:
        """A connection to the relay."""
        reactor = (host or self.home).reactor
        stream = StreamClient()
        endpoint: Any = HostnameEndpoint(reactor, SERVICE, port)
        if transport is TurnTransport.TLS:
            endpoint = wrapClientTLS(ClientCreator(None, alpn), endpoint, clock=reactor)
        endpoint.connect(Factory.forProtocol(lambda: stream))
        self.net.advance(0.5)
        return stream

    def writer(self, stream: StreamClient) -> Callable[[bytes], None]:
        """How to send on it."""
        assert stream.transport is not None
        return stream.transport.write

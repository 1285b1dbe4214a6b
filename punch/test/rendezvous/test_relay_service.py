"""The relay within the rendezvous, on the simulated internet: UDP, TCP and TLS, and what peers are told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity, PeerID
from punch.rendezvous.config import RendezvousConfig, RendezvousLimits
from punch.rendezvous.operator_log import OperatorLog
from punch.rendezvous.reflector import BURST, Reflector
from punch.rendezvous.relay import BINDING_BURST, BINDING_RATE, BINDINGS_WAITING
from punch.rendezvous.relay_service import RelayService
from punch.test.rendezvous.relay_service_case import Datagrams, RelayServiceCase, TURNClient
from punch.test.rendezvous.test_service import SERVICE
from punch.test.turn.server.turn_server import UDP, code_of
from punch.wire.address import Address
from punch.wire.control import RenewRelays
from punch.wire.rendezvous_address import pin_of
from punch.wire.stun import (
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    parse,
)
from punch.wire.turn import RelayServer, TurnTransport, TurnURI


class TransportTests(RelayServiceCase):
    """The same over all three."""

    def exchange(self, client: TURNClient) -> None:
        """Data, there and back."""
        peer = Datagrams(self.office, self.office.addresses[0])
        relayed = client.allocate()
        self.assertEqual(relayed.host, SERVICE)
        client.bind(peer.address)
        for data in (b"one", b"", b"three"):
            client.relay(data)
        self.net.advance(0.2)
        self.assertEqual(peer.received, [(data, relayed) for data in (b"one", b"", b"three")])
        for data in (b"four", b"five!"):
            peer.send(data, relayed)
        stranger = Datagrams(self.net.host("stranger", "203.0.113.66"), "203.0.113.66")
        stranger.send(b"hello", relayed)
        self.net.advance(0.2)
        self.assertEqual(client.relayed, [b"four", b"five!"])
        answer = client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.assertEqual(code_of(answer), 0)
        self.assertEqual(len(self.relay.core.allocations), 0)

    def test_udp(self) -> None:
        self.exchange(self.client(TurnTransport.UDP))

    def test_tcp(self) -> None:
        self.exchange(self.client(TurnTransport.TCP))

    def test_tls(self) -> None:
        """TLS to the relay needs no client certificate and no ALPN."""
        self.exchange(self.client(TurnTransport.TLS))

    def test_tls_with_its_protocol(self) -> None:
        """RFC 7443."""
        self.exchange(self.client(TurnTransport.TLS, alpn=[b"h2", b"stun.turn"]))

    def test_binding_on_a_stream(self) -> None:
        """STUN over TCP (RFC 8489, section 6.2.2)."""
        stream = self.stream(TurnTransport.TCP, 7001)
        self.writer(stream)(encode(StunMessage(Method.BINDING, MessageClass.REQUEST, b"transaction.")))
        self.net.advance(0.2)
        (answer,) = map(parse, stream.messages)
        mapped = answer.get(Attribute.XOR_MAPPED_ADDRESS)
        assert isinstance(mapped, Address)
        self.assertEqual(mapped.host, "203.0.113.1")


class StreamTests(RelayServiceCase):
    """Connections that are wrong, slow or gone."""

    def test_no_stun(self) -> None:
        """Bytes that are neither STUN nor ChannelData end the connection."""
        for data in (
            b"\x00\x01\x00\x03" + bytes(20),
            b"\x00\x01\x00\x00" + bytes(20),
            b"\x01" + b"\xff" * 30,
        ):
            stream = self.stream(TurnTransport.TCP, 7001)
            self.writer(stream)(data)
            self.net.advance(0.5)
            self.assertIsNotNone(stream.ended)

    def test_half_a_message(self) -> None:
        """
        Of 64 KiB that begin and never end, nothing is kept: the header says how long a message will be. Who
        has an allocation may send data of that length, and no requests.
        """
        request = b"\x00\x03\xff\xfc\x21\x12\xa4\x42" + bytes(5000)
        beginning = b"\x40\x00\xff\xff" + bytes(5000)
        for transport in (TurnTransport.TCP, TurnTransport.TLS):
            short = b"\x00\x03\x07\xec" + request[4:2000]
            for data, kept in ((short, True), (request[:4], False), (beginning[:4], False)):
                stream = self.stream(transport, 7001)
                self.writer(stream)(data)
                self.net.advance(0.5)
                self.assertEqual(stream.ended is None, kept)
            client = self.client(transport)
            client.allocate()
            client.send(beginning)
            client.send(bytes(65_535 + 1 - 5000))
            self.assertEqual(code_of(client.ask(Method.REFRESH)), 0)
            allocations = len(self.relay.core.allocations)
            client.send(request[:4])
            self.net.advance(0.5)
            self.assertEqual(len(self.relay.core.allocations), allocations - 1)

    def test_many_messages(self) -> None:
        """A connection is for an allocation: without one, it is closed after a few messages."""
        request = encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, b"transaction."))
        stream = self.stream(TurnTransport.TCP, 7001)
        for _ in range(64):
            self.writer(stream)(request)
        self.net.advance(0.5)
        self.assertEqual((len(stream.messages), stream.ended), (64, None))
        self.writer(stream)(request)
        self.net.advance(0.5)
        self.assertIsNotNone(stream.ended)

    def test_bindings_in_a_busy_network(self) -> None:
        """
        Peers ask with Binding requests on a stream what has arrived at the relay. Other requests from their
        network, whose source may be forged, don't use up the answers; each connection has its own limit.
        """
        clients = [self.client(TurnTransport.TCP) for _ in range(2)]
        for client in clients:
            client.allocate()
        before = [len(client.messages) for client in clients]
        question = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)), fingerprint=False)
        stranger = Datagrams(self.home, self.home.addresses[0])
        for _ in range(int(2 * BURST)):
            stranger.send(question, Address(SERVICE, clients[0].server.url.port))
        self.net.advance(0.2)
        self.assertLess(len(stranger.received), 2 * BURST)
        clients[0].send(question * int(2 * BINDING_BURST))
        clients[1].send(question * 64)
        self.net.advance(0.2)
        first, second = (len(client.messages) - count for client, count in zip(clients, before, strict=True))
        self.assertEqual((first, second), (BINDING_BURST, 64))
        self.net.advance(0.5)
        clients[0].send(question * 100)
        self.net.advance(0.2)
        self.assertLess(abs(len(clients[0].messages) - before[0] - first - 0.6 * BINDING_RATE), 15)

    def test_drop_by_drop(self) -> None:
        """A byte a second is too slow, in a request and in a TLS handshake."""
        request = encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, b"transaction."))
        for data in (request, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20)):
            stream = self.stream(TurnTransport.TCP, 7001)
            for number in range(9):
                self.writer(stream)(data[number : number + 1])
                self.net.advance(1.0)
            self.assertIsNone(stream.ended)
            self.net.advance(1.5)
            self.assertIsNotNone(stream.ended)

    def test_idle(self) -> None:
        """Ten seconds without an allocation, whatever is said."""
        for transport in (TurnTransport.TCP, TurnTransport.TLS):
            stream = self.stream(transport, 7001)
            for _ in range(4):
                self.writer(stream)(
                    encode(StunMessage(Method.ALLOCATE, MessageClass.REQUEST, b"transaction."))
                )
                self.net.advance(2.0)
            self.assertIsNone(stream.ended)
            self.assertEqual([code_of(parse(data)) for data in stream.messages], [401] * 4)
            self.net.advance(3.0)
            self.assertIsNotNone(stream.ended)

    def test_no_longer_of_use(self) -> None:
        """A connection whose allocation ended does not stay."""
        client = self.client(TurnTransport.TCP)
        client.allocate()
        self.net.advance(60)
        self.assertEqual(len(self.relay.core.allocations), 1)
        client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.net.advance(21)
        self.assertEqual(self.service.open_connections, 0)

    def test_disconnected(self) -> None:
        """The allocation goes with the connection."""
        client = self.client(TurnTransport.TCP)
        client.allocate()
        self.home.kill()
        self.net.advance(1)
        self.assertEqual(len(self.relay.core.allocations), 0)

    def test_a_client_that_does_not_read(self) -> None:
        """Never more than 128 KiB wait for it; what comes beyond is lost, and later it goes on."""
        for transport in (TurnTransport.TCP, TurnTransport.TLS):
            (server,) = [each for each in self.servers() if each.url.transport is transport]
            stream = self.stream(transport, 7001)
            client = TURNClient(self, server, self.writer(stream), partial(getattr, stream, "messages"), True)
            relayed = client.allocate()
            peer = Datagrams(self.office, self.office.addresses[0])
            client.bind(peer.address)
            assert stream.transport is not None
            stream.transport.pauseProducing()  # type: ignore[attr-defined]
            (inside,) = self.relay.streams
            for _ in range(60):
                for _ in range(100):
                    peer.send(bytes(1000), relayed)
                self.net.advance(0.05)
                self.assertLessEqual(waiting(inside.transport), 128 * 1024)
            self.assertGreater(waiting(inside.transport), 32 * 1024)
            # What asks how much has arrived is answered all the same, and not without bound
            question = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12)), fingerprint=False)
            client.send(question * int(2 * BINDING_BURST))
            self.net.advance(0.2)
            self.assertLessEqual(waiting(inside.transport), 128 * 1024)
            stream.transport.resumeProducing()  # type: ignore[attr-defined]
            self.net.advance(5)
            self.assertEqual(waiting(inside.transport), 0)
            self.assertLess(len(client.relayed), 6000)
            answers = [data for data in client.messages if data.startswith(b"\x01\x01")]
            self.assertEqual(len(answers), BINDINGS_WAITING)
            peer.send(b"afterwards", relayed)
            self.net.advance(0.5)
            self.assertEqual(client.relayed[-1], b"afterwards")
            client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
            stream.transport.loseConnection()
            self.net.advance(1)


def waiting(transport: Any) -> int:
    """Bytes that wait in a transport, TLS's own included."""
    below = getattr(transport, "transport", None)
    own = 0
    if hasattr(transport, "_aggregator"):
        # Twisted tells nobody how much its TLS transport holds back.
        own = sum(map(len, vars(transport._aggregator).get("_buffer", ())))
    if below is not None:
        return own + waiting(below)
    return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)


class IssuedCredentialsTests(RelayServiceCase):
    """What peers are told."""

    def test_own_relay(self) -> None:
        servers = self.servers()
        urls = [
            TurnURI(None, 3478, TurnTransport.UDP),
            TurnURI(None, 7001, TurnTransport.TCP),
            TurnURI(None, 7001, TurnTransport.TLS),
        ]
        self.assertEqual([server.url for server in servers], urls)
        pin = pin_of(self.identity.private_key.public_key())
        self.assertEqual([server.pin for server in servers], [None, None, pin])
        self.assertNotIn(str(self.alice.peer_id), servers[0].username)
        self.assertEqual(servers[0].lifetime, 1800.0)

    def test_a_peer_that_has_left(self) -> None:
        """What it was given is good for half an hour, for what it has and for what it asks for."""
        client = self.client(TurnTransport.UDP)
        client.allocate()
        answer = client.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))
        self.assertIn(answer.get(Attribute.LIFETIME), range(1790, 1801))
        self.net.advance(1805)
        self.assertEqual(len(self.relay.core.allocations), 0)
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 401)

    def test_renewed(self) -> None:
        """The user stays the same, all else is new; before registering there is nothing."""
        client = self.register(self.alice)
        first = RelayServer.from_json(client.lines[0]["relays"][0])
        self.net.advance(15)
        client.send(RenewRelays())
        self.net.advance(0.5)
        second = RelayServer.from_json(client.last["relays"][0])
        self.assertNotEqual((first.username, first.nonce), (second.username, second.nonce))
        self.assertEqual(first.username.partition(":")[2], second.username.partition(":")[2])
        early = self.connect(self.bob, self.office)
        early.send(RenewRelays())
        self.net.advance(0.5)
        self.assertEqual(early.last["code"], "forbidden")

    def test_credentials_outlive_a_restart(self) -> None:
        client = self.client(TurnTransport.UDP)
        client.allocate()
        self.restart()
        self.assertEqual(code_of(client.ask(Method.REFRESH)), 437)
        client.allocate()

    def test_credentials_are_the_peers(self) -> None:
        """Two peers are two users, with a quota each."""
        alice, bob = (self.servers(each)[0] for each in (self.alice, self.bob))
        self.assertNotEqual(alice.username.partition(":")[2], bob.username.partition(":")[2])
        client = self.client(TurnTransport.UDP)
        client.server = replace(client.server, username=bob.username)
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 438)

    def test_switched_off(self) -> None:
        """No relay: nothing handed out, nothing answered, no TCP."""
        self.restart(relay=False)
        client = self.register(self.alice)
        self.assertNotIn("relays", client.lines[0])
        socket = Datagrams(self.home, "203.0.113.1")
        question = StunMessage(Method.ALLOCATE, MessageClass.REQUEST, b"transaction.")
        socket.send(encode(question), Address(SERVICE, 3478))
        stream = self.stream(TurnTransport.TCP, 7001)
        self.writer(stream)(encode(question))
        self.net.advance(0.5)
        self.assertEqual((socket.received, stream.messages), ([], []))
        self.assertIsNotNone(stream.ended)

    def test_others(self) -> None:
        """coturn beside our own, or instead."""
        url = TurnURI("turn.example.org", 3478, TurnTransport.UDP)
        self.restart(turn=(url,), turn_secret=b"shared")
        self.assertEqual([server.url.host for server in self.servers()], [None, None, None, url.host])
        self.restart(turn=(url,), turn_secret=b"shared", relay=False)
        (server,) = self.servers()
        self.assertEqual((server.url, server.nonce, server.pin), (url, "", None))


class RememberedTests(SynchronousTestCase):
    """Whose credentials the service knows to be whose, for its log, the deny list and quotas."""

    def test_new_identities_of_one_network(self) -> None:
        """However many come from there, the peers of others are not forgotten."""
        clock = Clock()
        service = RelayService(
            RendezvousConfig(Identity.generate(bytes), limits=RendezvousLimits(registrations=100)),
            Reflector(),
            reactor=clock,
            monotonic=clock.seconds,
            wall=clock.seconds,
            random=Random(1).randbytes,
            log=OperatorLog(clock=clock, monotonic=clock.seconds),
        )
        honest = [PeerID(bytes([number] * 32)) for number in (1, 2)]
        for peer, address in zip(honest, ("192.0.2.1", "2001:db8:2::1"), strict=True):
            service.servers(peer, address)
        for number in range(250):
            service.servers(PeerID(number.to_bytes(32, "big")), f"2001:db8:1:{number << 8:x}::1")
        self.assertLessEqual(set(honest), set(service.peers))
        self.assertEqual(len(service.peers), len(honest) + 4 * 13)


class BoundTests(RelayServiceCase):
    """The limits of the command line reach the relay."""

    limits = RendezvousLimits(
        relay_allocations_per_peer=1, relay_rate_per_peer=10_000.0, relay_lifetime=700.0
    )

    def test_allocations(self) -> None:
        client = self.client(TurnTransport.UDP)
        client.allocate()
        other = self.client(TurnTransport.UDP)
        self.assertEqual(code_of(other.ask(Method.ALLOCATE, UDP)), 486)
        answer = client.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))
        self.assertEqual(answer.get(Attribute.LIFETIME), 700)

    def test_a_client_that_never_refreshes(self) -> None:
        client = self.client(TurnTransport.UDP)
        client.allocate()
        self.net.advance(601)
        self.assertEqual(len(self.relay.core.allocations), 0)
        self.assertEqual(code_of(client.ask(Method.REFRESH)), 437)

    def test_flood(self) -> None:
        """A flood is thinned out, and the service answers everybody else."""
        client = self.client(TurnTransport.UDP)
        client.allocate()
        peer = Datagrams(self.office, self.office.addresses[0])
        client.bind(peer.address)
        for _ in range(100):
            for _ in range(10):
                client.relay(bytes(972))
            self.net.advance(0.1)
        self.assertLess(abs(len(peer.received) - 105), 5)
        self.register(self.bob, self.office)

    def test_own_addresses(self) -> None:
        """The service's machine is out of bounds, at all its addresses."""
        client = self.client(TurnTransport.UDP)
        client.allocate()
        for port in (22, 3478, 7001):
            answer = client.ask(
                Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, Address(SERVICE, port))
            )
            self.assertEqual(code_of(answer), 403)

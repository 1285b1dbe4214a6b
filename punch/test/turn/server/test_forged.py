"""
What somebody gets who has credentials and forges the source of his packets: nothing relayed for addresses at
which he does not receive, and no rings of relays.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.config import RendezvousConfig
from punch.rendezvous.service import RendezvousService
from punch.test.internet import Packet, Seen
from punch.test.rendezvous.relay_service_case import Datagrams, RelayServiceCase, TURNClient
from punch.test.rendezvous.test_service import SERVICE
from punch.test.turn.server.turn_server import (
    ALICE,
    BOB,
    HERE,
    SECRET,
    UDP,
    FiveTupleClient,
    TurnServer,
    code_of,
)
from punch.turn.server.allocation import AllocationOwner, AllocationRefused
from punch.turn.server.authentication import issue
from punch.wire.address import Address
from punch.wire.stun import (
    MAGIC_COOKIE,
    Attribute,
    MessageClass,
    Method,
    StunMessage,
    encode,
    long_term_key,
    parse,
)
from punch.wire.turn import (
    TURN_BEGIN,
    TURN_END,
    RelayServer,
    TurnTransport,
    TurnURI,
    encode_channel_data,
    is_turn,
)

OTHER_SERVICE = "198.51.100.2"
VICTIM = Address("203.0.113.50", 40_000)
CAROL = Address("203.0.113.3", 7000)
RESERVED = (Attribute.EVEN_PORT, True)


class ForgerCase(SynchronousTestCase):
    """Mallory has credentials, and writes any address as the source of her datagrams."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.mallory = self.server.client(BOB, "mallory")

    def forged(self, remote: Address = VICTIM, user: str = "mallory") -> FiveTupleClient:
        """Datagrams that seem to come from `remote`; with what is known without receiving there."""
        client = self.server.client(remote, user)
        client.nonce = client.handed_out
        return client

    def victim(self) -> FiveTupleClient:
        """An honest client, at the address that Mallory forges."""
        return self.forged(user="victim")

    def prove(self, client: FiveTupleClient) -> None:
        """Allocate as Punch's clients do, and use the nonce that comes with the answer."""
        answer = client.ask(Method.ALLOCATE, UDP)
        client.nonce = str(answer.get(Attribute.NONCE))


class ProofTests(ForgerCase):
    """An allocation relays when its client has proved that it receives."""

    def test_no_round_trip_more(self) -> None:
        """With the nonce of the Allocate response, the next request is served without another round trip."""
        client = self.forged()
        self.prove(client)
        permission = client.request(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, CAROL))
        data = ((Attribute.XOR_PEER_ADDRESS, CAROL), (Attribute.DATA, b"check"))
        indication = encode(StunMessage(Method.SEND, MessageClass.INDICATION, bytes(12), data))
        (answer,) = client.send(permission, indication)
        self.assertEqual(code_of(parse(answer)), 0)
        self.assertEqual(client.relayed, [(b"check", CAROL)])

    def test_the_handed_out_nonce_is_for_allocate_only(self) -> None:
        """All else is stale, and hears the right nonce, by UDP and on a stream."""
        for connection in (0, 1):
            client = self.server.client(VICTIM, f"user{connection}", connection=connection)
            client.nonce = client.handed_out
            client.allocate()
            for refused in (
                client.permit(CAROL),
                client.bind(0x4000, CAROL),
                client.ask(Method.REFRESH),
                client.ask(Method.REFRESH, (Attribute.LIFETIME, 0)),
            ):
                self.assertEqual(code_of(refused), 438)
            client.nonce = str(refused.get(Attribute.NONCE))
            self.assertEqual(code_of(client.permit(CAROL)), 0)

    def test_nonces_of_elsewhere(self) -> None:
        """The nonce of an Allocate answer is good at its address only."""
        client = self.forged(BOB)
        self.prove(client)
        client.remote = VICTIM
        self.assertEqual(code_of(client.permit(CAROL)), 438)

    def test_a_client_that_no_longer_receives(self) -> None:
        """It keeps its allocation by what it knows for an hour, and for as long as its last refresh says."""
        client = self.forged()
        self.prove(client)
        client.permit(CAROL)
        for minutes in (0, 25, 50, 59):
            self.server.advance(60 * minutes + 100.0 - self.server.now)
            client.username, client.password = issue(SECRET, "mallory", self.server.unix + 1800)
            answer = client.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))
            self.assertEqual(answer.get(Attribute.LIFETIME), 1800)
        self.server.advance(61.0)
        client.username, client.password = issue(SECRET, "mallory", self.server.unix + 1800)
        self.assertEqual(code_of(client.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))), 438)
        self.server.advance(1700.0)
        self.assertEqual(len(self.server.core.allocations), 1)
        self.server.advance(40.0)
        self.assertEqual(len(self.server.core.allocations), 0)

    def test_nothing_passes_before(self) -> None:
        """Before the address is proved, nothing is relayed to the client or from it."""
        client = self.forged()
        relayed = client.allocate()
        client.permit(CAROL)
        client.bind(0x4000, CAROL)
        client.indicate(CAROL, b"data")
        self.assertEqual(client.relayed, [])
        client.send(encode_channel_data(0x4000, b"data", padded=False))
        self.assertEqual(client.relayed, [])
        for size in (0, 1, 1000):
            self.server.from_peer(relayed, bytes(size), peer=CAROL)
        self.assertEqual(client.collect(), [])

    def test_answers_are_no_longer_than_questions(self) -> None:
        """No answer is longer than the request, as its source may be forged."""
        client = self.forged()
        for method, attributes in (
            (Method.ALLOCATE, (UDP,)),
            (Method.ALLOCATE, (UDP, RESERVED)),
            (Method.REFRESH, ()),
            (Method.CREATE_PERMISSION, ((Attribute.XOR_PEER_ADDRESS, CAROL),)),
            (Method.CHANNEL_BIND, ((Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, CAROL))),
        ):
            question = client.request(method, *attributes)
            for answer in client.send(question):
                self.assertLessEqual(len(answer), len(question))

    def test_the_owner_of_the_address(self) -> None:
        """It gets its own allocation, whether Mallory asked before or after it."""
        self.forged().allocate()
        victim = self.victim()
        self.prove(victim)
        self.forged(user="mallory2").allocate()
        self.assertEqual(code_of(victim.permit(CAROL)), 0)
        # From now on it is the allocation of this five-tuple
        self.assertEqual(code_of(self.forged().ask(Method.ALLOCATE, UDP)), 441)
        self.assertEqual(code_of(victim.bind(0x4000, CAROL)), 0)

    def test_it_can_be_deleted_only_from_there(self) -> None:
        victim = self.victim()
        self.prove(victim)
        self.assertEqual(
            code_of(self.forged(user="victim").ask(Method.REFRESH, (Attribute.LIFETIME, 0))), 438
        )
        self.assertEqual(code_of(victim.ask(Method.REFRESH, (Attribute.LIFETIME, 0))), 0)
        self.assertEqual(len(self.server.core.allocations), 0)

    def test_other_clients(self) -> None:
        """A client that first asks without a nonce, as in RFC 8656, has proved its address by then."""
        client = self.server.client()
        relayed = client.allocate()
        client.permit(BOB)
        self.server.from_peer(relayed, b"data")
        self.assertEqual(len(client.collect()), 1)


class RoomTests(ForgerCase):
    """What forged requests take up."""

    def test_they_are_few(self) -> None:
        """There are few unproved allocations; those of the user with the most are replaced first."""
        self.server = TurnServer(allocations=80)
        for number in range(9):
            self.forged(Address("192.0.2.1", number + 1)).allocate()
        self.assertEqual(len(self.server.core.allocations), 10 - 1)
        victim = self.victim()
        self.prove(victim)
        for number in range(20):
            self.forged(Address("192.0.2.2", number + 1)).ask(Method.ALLOCATE, UDP)
        self.assertEqual(len(self.server.core.allocations), 10)
        self.assertEqual(code_of(victim.permit(CAROL)), 0)

    def test_a_full_relay(self) -> None:
        """Room is made by the newest of the largest source; what is in use for long stays."""
        self.server = TurnServer(allocations=8, allocations_per_address=8)
        clients = [self.server.client(Address(BOB.host, number + 1), f"user{number}") for number in range(8)]
        for client in clients:
            client.allocate()
        alice = self.server.client()
        alice.allocate()
        codes = [code_of(client.ask(Method.REFRESH)) for client in clients]
        self.assertEqual(codes, [0] * 7 + [437])
        self.assertEqual(
            code_of(self.server.client(Address(BOB.host, 99), "more").ask(Method.ALLOCATE, UDP)), 508
        )
        self.assertEqual(code_of(alice.ask(Method.REFRESH)), 0)
        self.server.advance(601)
        self.assertEqual((len(self.server.core.allocations), self.server.ports.open_ports), (0, {}))

    def test_no_room_when_proved(self) -> None:
        """437, and it is gone; to ask again brings the reason."""
        self.server = TurnServer(allocations_per_address=1)
        first, second = self.forged(BOB, "a"), self.forged(Address(BOB.host, 1), "b")
        self.prove(first)
        self.prove(second)
        self.assertEqual(code_of(first.permit(CAROL)), 0)
        self.server.core.allocations.events.clear()
        self.assertEqual(code_of(second.permit(CAROL)), 437)
        # The operator learns of the limit.
        owner = AllocationOwner("b", Address(BOB.host, 1), is_stream=False)
        self.assertEqual(list(self.server.core.allocations.events), [AllocationRefused(owner, 486)])
        self.assertEqual(code_of(second.ask(Method.ALLOCATE, UDP)), 486)
        self.assertEqual(len(self.server.core.allocations), 1)


class RingTests(ForgerCase):
    """No relayed address is anybody's client."""

    def test_relayed_ports_are_no_clients(self) -> None:
        """Whether one is in use, reserved or free; nor the reserved one when it has been taken."""
        relayed = self.mallory.ask(Method.ALLOCATE, UDP, RESERVED).get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address)
        low, high = self.server.settings.ports
        for port in (relayed.port, relayed.port + 1, low, high):
            for make in (self.forged, self.server.client):
                client = make(Address(relayed.host, port), "mallory")
                self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        self.server.client(Address(relayed.host, low - 1), "neighbour").allocate()

    def test_behind_a_nat(self) -> None:
        """The same for the address that peers are shown, and a port that is only reserved."""
        self.server = TurnServer(shown=("192.0.2.99",))
        self.mallory = self.server.client(BOB, "mallory")
        relayed = self.mallory.ask(Method.ALLOCATE, UDP, RESERVED).get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address)
        for host in ("192.0.2.99", HERE.host):
            client = self.server.client(Address(host, relayed.port + 1), "mallory")
            self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)

    def test_tokens_are_for_those_who_receive(self) -> None:
        """A token tells a relayed address before its allocation is announced: 438 for the others."""
        self.assertEqual(code_of(self.forged().ask(Method.ALLOCATE, UDP, RESERVED)), 438)
        answer = self.mallory.ask(Method.ALLOCATE, UDP, RESERVED)
        token = (Attribute.RESERVATION_TOKEN, answer.get(Attribute.RESERVATION_TOKEN))
        self.assertEqual(code_of(self.forged().ask(Method.ALLOCATE, UDP, token)), 438)
        second = self.server.client(Address(BOB.host, 1), "mallory")
        self.assertEqual(code_of(second.ask(Method.ALLOCATE, UDP, token)), 0)

    def test_bounds_of_turn(self) -> None:
        """The bounds of the quick comparison include all TURN messages."""
        for kind in range(0x0200):
            message = kind.to_bytes(2, "big") + b"\xff\xff" + MAGIC_COOKIE.to_bytes(4, "big") + bytes(12)
            for data in (message, message + b"\xff" * 16):
                self.assertEqual(is_turn(data), kind < 0x0120 and kind & 0xE0 == 0 and kind & 0xF > 1)
                if is_turn(data):
                    self.assertTrue(TURN_BEGIN <= data < TURN_END)

    def test_turn_is_not_relayed(self) -> None:
        """TURN requests by which a relayed address would be a client are not relayed, nor their answers."""
        client = self.server.client(ALICE)
        relayed = client.allocate()
        client.permit(CAROL)
        client.bind(0x4000, CAROL)
        for message_class in MessageClass:
            for method in (*Method, 0x0A, 0x0B, 0x0C):
                message = encode(StunMessage(method, message_class, bytes(12), ()))
                passes = method == Method.BINDING
                self.assertEqual(is_turn(message), not passes)
                client.send(encode_channel_data(0x4000, message, padded=False))
                self.assertEqual(client.relayed, [(message, CAROL)] if passes else [])
                client.indicate(CAROL, message)
                self.assertEqual(client.relayed, [(message, CAROL)] if passes else [])
                self.server.from_peer(relayed, message, peer=CAROL)
                self.assertEqual(len(client.collect()), int(passes))
        for data in (b"", b"\0", b"\x00\x03", bytes(20), b"\x00\x03" + bytes(18), b"\x40" * 30):
            client.send(encode_channel_data(0x4000, data, padded=False))
            self.assertEqual(client.relayed, [(data, CAROL)])


class TwoServicesCase(RelayServiceCase):
    """Two services, whose relays take credentials that are made with one secret."""

    def setUp(self) -> None:
        super().setUp()
        self.other_host = self.net.host("other rendezvous", OTHER_SERVICE)
        secret = b"a secret that Mallory's credentials are made with"
        self.secret = secret
        config = RendezvousConfig(
            identity=self.key("other rendezvous"), control="tcp:7001", host=OTHER_SERVICE, turn_secret=secret
        )
        self.other = RendezvousService(
            config,
            reactor=self.other_host.reactor,
            monotonic=self.net.monotonic,
            random=self.net.random_bytes("other service"),
            report=lambda event, **fields: None,
        )
        self.other.startService()
        self.addCleanup(lambda: self.net.wait(self.other.stopService(), 2.0))
        self.restart(turn_secret=secret)


class TwoServicesTests(TwoServicesCase):
    """An attacker with credentials at both services wants to have their relays talk to each other."""

    def setUp(self) -> None:
        super().setUp()
        self.mallory = self.net.host("mallory", "203.0.113.66")

    def as_handed_out(self, host: str, user: str) -> RelayServer:
        """What a registered peer has in hand."""
        service = self.service if host == SERVICE else self.other
        relay = service.relay
        assert relay is not None
        unix = self.net.monotonic()
        nonce = relay.core.authenticator.nonces.for_user(user, unix)
        username, password = issue(self.secret, user, unix + 3600)
        url = TurnURI(host, service.reflector_port, TurnTransport.UDP)
        return RelayServer(url, username, password, "punch", nonce, 3600.0)

    def client_of(self, host: str, user: str) -> TURNClient:
        """Mallory with a socket of her own."""
        socket = Datagrams(self.mallory, self.mallory.addresses[0])
        server = self.as_handed_out(host, user)
        return TURNClient(
            self,
            server,
            lambda data: socket.send(data, Address(host, server.url.port)),
            lambda: [data for data, _ in socket.received],
            False,
        )

    def forge(self, source: Address, host: str, *messages: bytes) -> None:
        """Datagrams to a service's port, with a source that is not Mallory's."""
        (wire,) = self.mallory.interfaces
        for data in messages:
            wire.send(Packet("udp", source, (host, 3478), data, 28 + len(data)))
            self.net.advance(0.1)

    def request(self, server: RelayServer, method: int, *attributes: tuple[int, Any]) -> bytes:
        """Signed, with the nonce that was handed out."""
        login = (
            (Attribute.USERNAME, server.username),
            (Attribute.REALM, server.realm),
            (Attribute.NONCE, server.nonce),
        )
        key = long_term_key(server.username, server.realm, server.password)
        transaction = self.net.random_bytes(f"{method} {attributes}")(12)
        return encode(StunMessage(method, MessageClass.REQUEST, transaction, (*attributes, *login)), key)

    def test_each_the_others_client(self) -> None:
        """
        One byte to a channel of a client that is the other service, bound to a relayed address of the other,
        whose client is this service. Before, it went round for as long as the allocations lived.
        """
        services = {SERVICE: OTHER_SERVICE, OTHER_SERVICE: SERVICE}
        following: dict[str, Address] = {}
        token: dict[str, object] = {}
        for host in services:
            pair = self.client_of(host, "mallory")
            answer = pair.ask(Method.ALLOCATE, UDP, RESERVED)
            if code_of(answer) == 438:
                answer = pair.ask(Method.ALLOCATE, UDP, RESERVED)
            relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
            assert isinstance(relayed, Address)
            following[host] = Address(relayed.host, relayed.port + 1)
            token[host] = answer.get(Attribute.RESERVATION_TOKEN)
        for host, other in services.items():
            server = self.as_handed_out(host, "mallory")
            self.forge(
                Address(other, 3478),
                host,
                self.request(server, Method.ALLOCATE, UDP, (Attribute.RESERVATION_TOKEN, token[host])),
                self.request(
                    server,
                    Method.CHANNEL_BIND,
                    (Attribute.CHANNEL_NUMBER, 0x4000),
                    (Attribute.XOR_PEER_ADDRESS, following[other]),
                ),
            )
        trace: list[Seen] = []
        self.net.trace = trace
        self.forge(Address(OTHER_SERVICE, 3478), SERVICE, encode_channel_data(0x4000, b"x", padded=False))
        self.net.advance(2.0)
        self.net.trace = None
        sent = [each for each in trace if each.link in ("rendezvous up", "other rendezvous up")]
        self.assertEqual(sum(each.size for each in sent), 0, len(sent))

    def test_a_relayed_address_as_client(self) -> None:
        """Mallory sends from her relayed address, and hears what comes there: no request, and no answer."""
        inner = self.client_of(SERVICE, "mallory")
        relayed = inner.allocate()
        outer = Address(OTHER_SERVICE, 3478)
        inner.bind(outer)
        server = self.as_handed_out(OTHER_SERVICE, "mallory")
        inner.relay(self.request(server, Method.ALLOCATE, UDP))
        self.net.advance(0.2)
        relay = self.other.relay
        assert relay is not None
        self.assertEqual(len(relay.core.allocations), 0)
        # Forged, the request arrives; the answer with the nonce does not come back
        self.forge(relayed, OTHER_SERVICE, self.request(server, Method.ALLOCATE, UDP))
        self.assertEqual(len(relay.core.allocations), 1)
        self.assertEqual(inner.relayed, [])
        self.assertEqual(dict(relay.core.allocations.by_client), {})

    def test_a_victim(self) -> None:
        """It gets nothing but the answer to the one request in its name, and is a client when it likes."""
        victim = self.net.host("victim", VICTIM.host)
        socket = Datagrams(victim, VICTIM.host)
        pair = self.client_of(SERVICE, "mallory")
        answer = pair.ask(Method.ALLOCATE, UDP, RESERVED)
        if code_of(answer) == 438:
            answer = pair.ask(Method.ALLOCATE, UDP, RESERVED)
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Address)
        token = (Attribute.RESERVATION_TOKEN, answer.get(Attribute.RESERVATION_TOKEN))
        server = self.as_handed_out(SERVICE, "mallory")
        own = Datagrams(self.mallory, self.mallory.addresses[0])
        questions = [
            self.request(server, Method.ALLOCATE, UDP, token),
            self.request(server, Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, own.address)),
        ]
        self.forge(socket.address, SERVICE, *questions)
        asked = sum(map(len, questions))
        heard = sum(len(data) for data, _ in socket.received)
        self.assertLessEqual(heard, asked)
        for _ in range(100):
            own.send(b"", Address(relayed.host, relayed.port + 1))
        self.net.advance(0.5)
        self.assertEqual(sum(len(data) for data, _ in socket.received), heard)
        honest = self.as_handed_out(SERVICE, "victim")
        client = TURNClient(
            self,
            honest,
            lambda data: socket.send(data, Address(SERVICE, 3478)),
            lambda: [data for data, _ in socket.received],
            False,
        )
        client.allocate()

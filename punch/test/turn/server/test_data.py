"""What the relay passes on, to whom, and how much of it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.net.token_bucket import HEADERS
from punch.test.turn.server.turn_server import ALICE, BOB, EPOCH, HERE, HERE6, TurnServer, code_of
from punch.turn.server.allocation import FirstPermission
from punch.wire.address import Address
from punch.wire.stun import Attribute, Method, STUNError, parse
from punch.wire.stun_attributes import IPV6
from punch.wire.turn import encode_channel_data, parse_channel_data

CAROL = Address("203.0.113.3", 7000)


def channel_data(data: bytes, number: int = 0x4000) -> bytes:
    """As in a datagram."""
    return encode_channel_data(number, data, padded=False)


class DataCase(SynchronousTestCase):
    """Alice has an allocation."""

    def setUp(self) -> None:
        self.server = TurnServer()
        self.alice = self.server.client()
        self.relayed = self.alice.allocate()


class ChannelTests(DataCase):
    """By channel."""

    def setUp(self) -> None:
        super().setUp()
        self.alice.bind(0x4000, BOB)

    def test_to_peer(self) -> None:
        """Several in one turn are one batch."""
        self.assertEqual(self.alice.send(*map(channel_data, (b"one", b"", b"three"))), [])
        ((port, datagrams, peer),) = self.alice.to_peers
        self.assertIs(port, self.server.ports.open_ports[self.relayed])
        self.assertEqual((list(datagrams), peer), ([b"one", b"", b"three"], BOB))

    def test_from_peer(self) -> None:
        self.server.from_peer(self.relayed, b"one", b"", b"three")
        messages = [parse_channel_data(data) for data in self.alice.collect()]
        self.assertEqual(messages, [(0x4000, b"one"), (0x4000, b""), (0x4000, b"three")])

    def test_event_before_the_first_datagram(self) -> None:
        """The log is told of an allocation with its first permission, once, however that is made."""
        events = self.server.core.allocations.events

        def permitted() -> list[Address]:
            found = [each.relayed for each in events if isinstance(each, FirstPermission)]
            events.clear()
            return found

        self.assertEqual(permitted(), [self.relayed])
        other = self.server.client(Address(ALICE.host, 5))
        relayed = other.allocate()
        self.server.from_peer(relayed, b"too early")
        self.assertEqual((other.collect(), permitted()), ([], []))
        other.permit(BOB)
        self.assertEqual(permitted(), [relayed])
        other.permit(CAROL)
        other.bind(0x4000, BOB)
        self.server.from_peer(relayed, b"data")
        self.assertEqual((len(other.collect()), permitted()), (1, []))

    def test_padding(self) -> None:
        """On UDP, bytes after the length are ignored; on a stream, the padding must be there."""
        self.alice.send(encode_channel_data(0x4000, b"one", padded=True))
        self.assertEqual(self.alice.relayed, [(b"one", BOB)])
        stream = self.server.client(Address(ALICE.host, 5), connection=7)
        relayed = stream.allocate()
        stream.bind(0x4000, BOB)
        self.server.from_peer(relayed, b"one", b"four")
        padded = [encode_channel_data(0x4000, data, padded=True) for data in (b"one", b"four")]
        self.assertEqual(stream.collect(), padded)

    def test_cut_short(self) -> None:
        """A length beyond the datagram is no message."""
        whole = channel_data(b"data")
        for size in range(len(whole)):
            self.alice.send(whole[:size])
            self.assertEqual(self.alice.relayed, [])

    def test_other_channels(self) -> None:
        """Data for channels that are not bound or out of range is dropped."""
        for number in (0x4001, 0x4FFF, 0x5000, 0x7FFF):
            self.alice.send(channel_data(b"data", number))
            self.assertEqual(self.alice.relayed, [])

    def test_other_five_tuples(self) -> None:
        """The channel is that of one address and port, of ours too."""
        for stranger in (
            self.server.client(Address(ALICE.host, ALICE.port + 1)),
            self.server.client(Address("203.0.113.9", ALICE.port)),
            self.server.client(ALICE, local=Address("198.51.100.2", 3478)),
            self.server.client(ALICE, connection=1),
        ):
            stranger.send(channel_data(b"data"))
            self.assertEqual(stranger.relayed, [])

    def test_end_of_the_permission(self) -> None:
        """It is over after five minutes, the channel's after ten; refreshing the channel renews both."""
        self.server.advance(299)
        self.alice.send(channel_data(b"data"))
        self.assertEqual(len(self.alice.relayed), 1)
        self.server.advance(2)
        self.alice.send(channel_data(b"data"))
        self.assertEqual(self.alice.relayed, [])
        self.server.from_peer(self.relayed, b"data")
        self.assertEqual(self.alice.collect(), [])
        self.alice.permit(BOB)
        self.alice.send(channel_data(b"data"))
        self.assertEqual(len(self.alice.relayed), 1)
        self.alice.bind(0x4000, BOB)
        self.server.advance(250)
        self.alice.ask(Method.REFRESH)
        self.server.from_peer(self.relayed, b"data")
        self.assertEqual(len(self.alice.collect()), 1)

    def test_end_of_the_channel(self) -> None:
        """When a channel has ended, data comes in Data indications while there is a permission."""
        self.alice.ask(Method.REFRESH, (Attribute.LIFETIME, 3600))
        self.server.advance(290)
        self.alice.permit(BOB)
        self.server.advance(290)
        self.alice.permit(BOB)
        self.server.advance(30)
        self.alice.send(channel_data(b"data"))
        self.assertEqual(self.alice.relayed, [])
        self.server.from_peer(self.relayed, b"data")
        (message,) = map(parse, self.alice.collect())
        self.assertEqual(message.method, Method.DATA)

    def test_end_of_the_allocation(self) -> None:
        """When the allocation ends, data that was queued is dropped."""
        self.server.core.receive([channel_data(b"data")], ALICE, HERE, self.server.now)
        self.server.from_peer(self.relayed, b"data")
        answers = self.alice.send(self.alice.request(Method.REFRESH, (Attribute.LIFETIME, 0)))
        self.assertEqual((len(answers), self.alice.relayed), (1, []))

    def test_in_order(self) -> None:
        """Binding and using a channel in one turn."""
        bind = self.alice.request(
            Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4005), (Attribute.XOR_PEER_ADDRESS, CAROL)
        )
        answers = self.alice.send(channel_data(b"early", 0x4005), bind, channel_data(b"late", 0x4005))
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.alice.relayed, [(b"late", CAROL)])


class IndicationTests(DataCase):
    """By Send and Data indication."""

    def setUp(self) -> None:
        super().setUp()
        self.alice.permit(BOB)

    def test_to_peer(self) -> None:
        """A Send indication reaches any port of a permitted address."""
        elsewhere = Address(BOB.host, 9)
        self.assertEqual(self.alice.indicate(BOB, b"one"), [])
        self.assertEqual(self.alice.relayed, [(b"one", BOB)])
        self.alice.indicate(elsewhere, b"")
        self.assertEqual(self.alice.relayed, [(b"", elsewhere)])
        self.alice.indicate(CAROL, b"one")
        self.assertEqual(self.alice.relayed, [])

    def test_from_peer(self) -> None:
        """Datagrams from any port of a permitted address become Data indications, and no others."""
        elsewhere = Address(BOB.host, 9)
        self.server.from_peer(self.relayed, b"one", peer=elsewhere)
        self.server.from_peer(self.relayed, b"two", peer=CAROL)
        (message,) = map(parse, self.alice.collect())
        self.assertEqual(message.get(Attribute.XOR_PEER_ADDRESS), elsewhere)
        self.assertEqual(message.get(Attribute.DATA), b"one")

    def test_ipv6(self) -> None:
        six = self.server.client(Address("2001:db8::a", 5), local=HERE6)
        relayed = six.allocate((Attribute.REQUESTED_ADDRESS_FAMILY, IPV6))
        peer = Address("2001:db8::b", 7)
        six.permit(peer)
        six.indicate(peer, b"one")
        self.assertEqual(six.relayed, [(b"one", peer)])
        self.server.from_peer(relayed, b"two", peer=peer)
        (message,) = map(parse, six.collect())
        self.assertEqual(message.get(Attribute.XOR_PEER_ADDRESS), peer)

    def test_sizes(self) -> None:
        """The longest datagrams that IPv4 and IPv6 have fit no message, and do no harm."""
        for size in (65_480, 65_481, 65_507, 65_527):
            self.server.from_peer(self.relayed, bytes(size))
        self.assertEqual([parse(data).get(Attribute.DATA) for data in self.alice.collect()], [bytes(65_480)])
        self.alice.bind(0x4000, BOB)
        self.server.from_peer(self.relayed, bytes(65_527))
        self.assertEqual([len(data) for data in self.alice.collect()], [65_531])

    def test_what_is_dropped(self) -> None:
        """Send indications with DONT-FRAGMENT or an unknown required attribute are dropped."""
        self.alice.indicate(BOB, b"one", (Attribute.DONT_FRAGMENT, True))
        self.assertEqual(self.alice.relayed, [])
        self.alice.indicate(BOB, b"one", (0x7001, b""))
        self.assertEqual(self.alice.relayed, [])

    def test_expiry(self) -> None:
        """A permission lasts five minutes."""
        self.server.advance(301)
        self.alice.indicate(BOB, b"one")
        self.server.from_peer(self.relayed, b"one")
        self.assertEqual((self.alice.relayed, self.alice.collect()), ([], []))


class RelayToRelayTests(DataCase):
    """Two peers whose networks pass nothing else meet at one relay."""

    def test_both_ways(self) -> None:
        bob = self.server.client(BOB, "bob", connection=3)
        other = bob.allocate()
        self.assertEqual(code_of(self.alice.bind(0x4000, other)), 0)
        self.assertEqual(code_of(bob.permit(self.relayed)), 0)
        self.alice.send(channel_data(b"hello"))
        self.assertEqual(self.alice.relayed, [])
        self.alice.send(channel_data(b"hello"))
        # The same turn that takes it from one brings it to the other.
        self.server.core.receive([channel_data(b"hello")], ALICE, HERE, self.server.now)
        (message,) = map(parse, bob.collect())
        self.assertEqual(message.get(Attribute.XOR_PEER_ADDRESS), self.relayed)
        self.assertEqual(message.get(Attribute.DATA), b"hello")
        bob.indicate(self.relayed, b"and back")
        bob.indicate(self.relayed, b"and back")
        self.assertEqual(bob.relayed, [])

    def test_only_with_permission(self) -> None:
        """Between relayed addresses, permissions are needed as for other addresses."""
        bob = self.server.client(BOB, "bob")
        self.alice.bind(0x4000, bob.allocate())
        self.server.core.receive([channel_data(b"hello")], ALICE, HERE, self.server.now)
        self.assertEqual(bob.collect(), [])

    def test_nothing_else_of_ours(self) -> None:
        """A port of ours that is no relayed address is as closed as ever, and stays so when one ends."""
        self.assertEqual(code_of(self.alice.permit(Address(HERE.host, 22))), 403)
        bob = self.server.client(BOB, "bob")
        other = bob.allocate()
        self.alice.bind(0x4000, other)
        bob.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        self.alice.send(channel_data(b"hello"))
        self.assertEqual(self.alice.relayed, [])
        self.alice.indicate(Address(HERE.host, 22), b"hello")
        self.assertEqual(self.alice.relayed, [])

    def test_to_itself(self) -> None:
        """Once, and no more."""
        self.alice.bind(0x4000, self.relayed)
        self.assertEqual(self.alice.send(channel_data(b"hello")), [channel_data(b"hello")])
        self.assertEqual((self.alice.relayed, self.alice.collect()), ([], []))

    def test_the_service_itself(self) -> None:
        """Its own ports are closed to what it relays, by the address that a NAT in front gives it, too."""
        server = TurnServer(shown=("192.0.2.99",), own=["192.0.2.99"])
        alice = server.client()
        self.assertEqual(alice.allocate().host, "192.0.2.99")
        for host in (HERE.host, "192.0.2.99"):
            for port in (3478, 7001):
                self.assertEqual(code_of(alice.permit(Address(host, port))), 403)


class LimitTests(SynchronousTestCase):
    """Bytes a second."""

    def flood(self, server: TurnServer, seconds: int) -> dict[str, int]:
        """Two users send as much as they can; bytes that came out of each, headers included."""
        passed = {}
        clients = []
        for number, name in enumerate(("alice", "bob")):
            client = server.client(Address(ALICE.host, number), name)
            client.allocate()
            client.bind(0x4000, CAROL)
            clients.append(client)
            passed[name] = 0
        data = channel_data(bytes(1000))
        for _ in range(seconds * 10):
            for client in clients:
                client.send(*[data] * 100)
                passed[client.user] += sum(len(each) + HEADERS for each, _ in client.relayed)
            server.advance(0.1)
        return passed

    def test_per_peer(self) -> None:
        """Each has its own."""
        passed = self.flood(TurnServer(rate_per_user=100_000.0, burst_time=0.5), 10)
        for amount in passed.values():
            self.assertLess(abs(amount - 1_040_000), 20_000)

    def test_in_all(self) -> None:
        """Together they have no more than there is."""
        passed = self.flood(TurnServer(rate=150_000.0, burst_time=0.5), 10)
        self.assertLess(abs(sum(passed.values()) - 1_560_000), 30_000)

    def test_both_directions_count(self) -> None:
        server = TurnServer(rate_per_user=10_000.0, burst_time=1.0)
        alice = server.client()
        relayed = alice.allocate()
        alice.bind(0x4000, BOB)
        alice.send(*[channel_data(bytes(1000))] * 9)
        self.assertEqual(len(alice.relayed), 9)
        server.from_peer(relayed, *[bytes(1000)] * 9)
        self.assertEqual(len(alice.collect()), 0)
        server.advance(0.5)
        server.from_peer(relayed, *[bytes(1000)] * 9)
        self.assertEqual(len(alice.collect()), 5)

    def test_a_flood_of_nothing(self) -> None:
        """Empty datagrams cost their headers."""
        server = TurnServer(rate_per_user=10_000.0, burst_time=1.0)
        alice = server.client()
        alice.allocate()
        alice.bind(0x4000, BOB)
        alice.send(*[channel_data(b"")] * 10_000)
        self.assertLess(len(alice.relayed), 10_000 // HEADERS + 1)

    def test_allocating_anew_does_not_help(self) -> None:
        """The bucket is the peer's, not the allocation's."""
        server = TurnServer(rate_per_user=10_000.0, burst_time=1.0)
        alice = server.client()
        total = 0
        for _ in range(20):
            alice.allocate()
            alice.bind(0x4000, BOB)
            alice.send(*[channel_data(bytes(972))] * 20)
            total += len(alice.relayed)
            alice.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
            server.advance(0.01)
        self.assertLess(total, 13)
        self.assertEqual(len(server.core.allocations.users), 1)
        server.advance(2)
        self.assertEqual(len(server.core.allocations.users), 0)

    def test_the_rest_of_the_service_goes_on(self) -> None:
        """Requests are answered during a flood."""
        server = TurnServer(rate=1000.0)
        alice = server.client()
        alice.allocate()
        alice.bind(0x4000, BOB)
        answers = alice.send(*[channel_data(bytes(1000))] * 1000, alice.request(Method.REFRESH))
        self.assertEqual(len(answers), 1)
        self.assertEqual(alice.relayed, [])


class NoiseTests(SynchronousTestCase):
    """Whatever comes, nothing breaks."""

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.lists(st.binary(max_size=64), max_size=8), st.integers(0, 3), st.binary(max_size=8))
    def test_noise(self, datagrams: list[bytes], first: int, tail: bytes) -> None:
        server = TurnServer()
        alice = server.client()
        relayed = alice.allocate()
        alice.bind(0x4000, BOB)
        request = bytearray(alice.request(Method.REFRESH))
        for position, byte in enumerate(tail):
            request[(byte * 7 + position) % len(request)] ^= byte
        noise = [*datagrams, *(bytes([first]) + data for data in datagrams), bytes(request), b"\x40" + tail]
        for client in (alice, server.client(BOB, "bob")):
            client.send(*noise)
        server.from_peer(relayed, *noise)
        for data in alice.collect():
            try:
                parse(data)
            except STUNError:
                self.assertIsNotNone(parse_channel_data(data))
        self.assertEqual(len(server.core.allocations), 1)
        self.assertEqual(server.core.epoch, EPOCH)

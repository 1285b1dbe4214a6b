"""How many requests with credentials the relay answers each source."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.net.sources import NETWORK_GROWTH
from punch.test.turn.server.turn_server import ALICE, BOB, UDP, FiveTupleClient, TurnServer, code_of
from punch.turn.server.allocation import RelayLimitHit
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    Method,
)

RATE, BURST = 10, 50


class MeteringTests(SynchronousTestCase):
    """Limits that are small enough for a test."""

    def setUp(self) -> None:
        self.server = TurnServer(requests_rate=RATE, requests_burst=BURST, channels=128)

    def permissions(self, client: FiveTupleClient, count: int) -> int:
        """Ask for this many permissions at once; how many requests were answered."""
        permission = (Attribute.XOR_PEER_ADDRESS, BOB)
        requests = [client.request(Method.CREATE_PERMISSION, permission) for _ in range(count)]
        return sum(len(client.send(each)) for each in requests)

    def limit_hits(self) -> list[RelayLimitHit]:
        """What the operator is told."""
        events = self.server.core.allocations.events
        return [each for each in events if isinstance(each, RelayLimitHit)]

    def test_flood(self) -> None:
        """Beyond its burst a client gets its rate, and the operator one line a second."""
        client = self.server.client()
        client.allocate()
        self.assertLessEqual(self.permissions(client, 150), BURST + 1)
        answered = 0
        for _ in range(50):
            self.server.advance(0.1)
            answered += self.permissions(client, 20)
        self.assertLessEqual(answered, 5 * RATE + BURST)
        self.assertGreaterEqual(answered, 3 * RATE)
        self.assertEqual(self.limit_hits()[0], RelayLimitHit(ALICE.host, "relay-requests"))
        self.assertLessEqual(len(self.limit_hits()), 12)

    def test_neighbour(self) -> None:
        """Another client at the address of a flood has its answers."""
        flood, neighbour = self.server.client(), self.server.client(Address(ALICE.host, 15001), "neighbour")
        flood.allocate()
        self.permissions(flood, 150)
        neighbour.allocate()
        for number in range(10):
            self.permissions(flood, 20)
            self.assertEqual(code_of(neighbour.bind(0x4000 + number, Address(BOB.host, 1 + number))), 0)
            self.server.advance(0.2)

    def test_network(self) -> None:
        """
        The addresses of one /24 share four times as much as one has: the more there are, the less is left for
        each. Another network has its own.
        """
        answered, last = 0, 0
        for number in range(20):
            client = self.server.client(Address(f"203.0.113.{number + 10}", 5000), str(number))
            last = self.permissions(client, BURST)
            answered += last
        self.assertLessEqual(answered, 2 * NETWORK_GROWTH * BURST)
        self.assertLessEqual(last, BURST // 5)
        elsewhere = self.server.client(Address("192.0.2.1", 5000), "elsewhere")
        self.assertEqual(self.permissions(elsewhere, 20), 20)

    def test_relayed_meanwhile(self) -> None:
        """If too many requests are sent, only requests wait, not data."""
        client = self.server.client()
        client.allocate()
        client.permit(BOB)
        self.permissions(client, 150)
        client.indicate(BOB, b"data")
        self.assertEqual(client.relayed, [(b"data", BOB)])

    def test_forged(self) -> None:
        """Requests from a forged address use nothing of the limit of that address."""
        victim = self.server.client()
        victim.allocate()
        forger = self.server.client(ALICE, "mallory")
        for nonce in (forger.handed_out, "AAAAAAAAAAAAAAAA"):
            forger.nonce = nonce
            self.permissions(forger, 150)
            for _ in range(60):
                forger.send(forger.request(Method.ALLOCATE, UDP))
        self.assertEqual(self.permissions(victim, 20), 20)

    def test_from_anywhere(self) -> None:
        """
        Who has used up what it may ask for with the nonce that came with credentials is told one for its
        address, with which it has its answer.
        """
        forger = self.server.client(Address("203.0.113.9", 1), "mallory")
        forger.nonce = forger.handed_out
        codes = [code_of(forger.ask(Method.ALLOCATE, UDP)) for _ in range(NETWORK_GROWTH * BURST + 5)]
        self.assertEqual(codes[-1], 438)
        client = self.server.client(Address("192.0.2.1", 1), "alice")
        client.nonce = client.handed_out
        client.allocate()

    def test_connection(self) -> None:
        """Each request on a connection is answered, and it is to be read from more slowly."""
        client = self.server.client(connection=7)
        client.allocate()
        permission = (Attribute.XOR_PEER_ADDRESS, BOB)
        receive, wait = self.server.core.receive, 0.0
        for _ in range(3 * BURST):
            request = client.request(Method.CREATE_PERMISSION, permission)
            wait = receive([request], client.remote, client.local, self.server.now, client.connection)
        self.assertEqual(len(client.collect()), 3 * BURST)
        self.assertGreater(wait, 1.0)
        other = self.server.client(Address(ALICE.host, 2), "other", connection=8)
        data = [other.request(Method.ALLOCATE, UDP)]
        self.assertEqual(receive(data, other.remote, other.local, self.server.now, other.connection), 0.0)


class OrdinaryTests(SynchronousTestCase):
    """What ordinary clients ask for is far from the limits."""

    def test_storm(self) -> None:
        """Ten clients at one address can restart their links to 20 peers each at once."""
        server = TurnServer(permissions=256)
        for number in range(10):
            client = server.client(Address(ALICE.host, 40000 + number), str(number))
            client.nonce = client.handed_out
            answer = client.ask(Method.ALLOCATE, UDP)
            client.nonce = str(answer.get(Attribute.NONCE))
            for peer in range(20):
                address = Address(f"192.0.2.{peer + 1}", 7000)
                self.assertEqual(code_of(client.permit(address)), 0)
                self.assertEqual(code_of(client.bind(0x4000 + peer, address)), 0)
        self.assertEqual(
            [each for each in server.core.allocations.events if isinstance(each, RelayLimitHit)], []
        )

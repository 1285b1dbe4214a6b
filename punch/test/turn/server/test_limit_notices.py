"""What a client is told whose datagrams the relay drops because of a rate."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.test.turn.server.test_data import CAROL, channel_data
from punch.test.turn.server.turn_server import ALICE, BOB, SECRET, FiveTupleClient, TurnServer
from punch.turn.server.allocation import RelayLimitHit
from punch.turn.server.authentication import issue
from punch.turn.server.core import LIMIT_NOTICE_AFTER, LIMIT_NOTICE_GAP
from punch.wire.address import Address
from punch.wire.stun import Attribute, MessageClass, Method, parse
from punch.wire.stun_attributes import RelayLimit, RelayLimitValue

KB = channel_data(bytes(1000))


def notices(messages: list[bytes], key: bytes) -> list[RelayLimitValue]:
    """The notices among what a client received, each authentic."""
    found = []
    for each in messages:
        if each[0] < 0x40:
            message = parse(each)
            assert (message.method, message.message_class) == (Method.REFRESH, MessageClass.INDICATION)
            assert message.check_integrity(key)
            value = message.get(Attribute.RELAY_LIMIT)
            assert isinstance(value, RelayLimitValue)
            found.append(value)
    return found


class LimitNoticeTests(SynchronousTestCase):
    def client(self, server: TurnServer, remote: Address = ALICE, **options: Any) -> FiveTupleClient:
        client = server.client(remote, f"user at {remote}", **options)
        client.allocate()
        client.bind(0x4000, CAROL)
        return client

    def tell(self, client: FiveTupleClient, kilobytes: int) -> list[RelayLimitValue]:
        """Send so much at once; what the client is told."""
        return notices(client.send(*[KB] * kilobytes), client.key)

    def flood(self, client: FiveTupleClient, kilobytes: int = 50) -> list[RelayLimitValue]:
        """Send so much at once, and again a second later; what the client is told."""
        self.assertEqual(self.tell(client, kilobytes), [])
        client.server.advance(LIMIT_NOTICE_AFTER)
        return self.tell(client, kilobytes)

    def test_which_limit(self) -> None:
        """The one that is exceeded is named, with the bytes that were dropped."""
        for server, limit in (
            (TurnServer(rate_per_user=20_000.0, burst_time=1.0), RelayLimit.PEER),
            (TurnServer(rate_per_address=20_000.0, burst_time=1.0), RelayLimit.ADDRESS),
            (TurnServer(rate=20_000.0, burst_time=1.0), RelayLimit.RELAY),
        ):
            client = self.client(server)
            (notice,) = self.flood(client)
            self.assertEqual(notice.limit, limit)
            # 1,028 bytes each with headers, for 20,000 at once and 20,000 a second
            self.assertEqual(len(client.relayed), 19)
            self.assertEqual(notice.dropped, 2 * 31_000)

    def test_a_network(self) -> None:
        """Many addresses of one network together."""
        server = TurnServer(rate_per_address=20_000.0, burst_time=1.0)
        clients = [self.client(server, Address(f"203.0.113.{number}", 1)) for number in range(8)]
        told = []
        for _ in range(2):
            told = [each.limit for client in clients for each in self.tell(client, 19)]
            server.advance(LIMIT_NOTICE_AFTER)
        self.assertEqual(set(told), {RelayLimit.NETWORK})

    def test_nothing_is_said_below_the_limit(self) -> None:
        """Clients below the limit are told nothing, nor those with one burst above it."""
        client = self.client(TurnServer(rate_per_user=20_000.0, burst_time=1.0))
        self.assertEqual(self.flood(client, 19), [])
        for _ in range(3):
            client.server.advance(LIMIT_NOTICE_GAP)
            self.assertEqual(self.tell(client, 50), [])
            self.assertEqual(len(client.relayed), 19)

    def test_how_often(self) -> None:
        """A client that sends too much for five minutes hears it every ten seconds, as does the operator."""
        server = TurnServer(rate_per_user=20_000.0, burst_time=1.0)
        client = self.client(server)
        server.core.allocations.events.clear()
        told = []
        for _ in range(600):
            told += self.tell(client, 50)
            server.advance(0.5)
        self.assertEqual(len(told), 300 / LIMIT_NOTICE_GAP)
        self.assertEqual([each.dropped for each in told], sorted({each.dropped for each in told}))
        self.assertEqual(
            list(server.core.allocations.events),
            [RelayLimitHit(ALICE.host, "relay-rate", client.user)] * len(told),
        )

    def test_no_more_than_was_dropped(self) -> None:
        """Tiny datagrams that are dropped do not make a notice that is larger than they are together."""
        server = TurnServer(rate_per_user=500.0, burst_time=1.0)
        client = self.client(server)
        sent, size = 0, 0
        for _ in range(100):
            client.send(*[channel_data(b"")] * 50)
            size = sum(map(len, client.send(channel_data(b"x"))))
            sent += 1
            if size:
                break
            server.advance(0.1)
        self.assertEqual((sent, size), (56, 56))

    def test_what_comes_from_peers(self) -> None:
        """It is dropped, and told, in the same way: on streams, too."""
        server = TurnServer(rate_per_user=20_000.0, burst_time=1.0)
        for connection in (0, 3):
            client = server.client(ALICE, f"user {connection}", connection=connection)
            relayed = client.allocate()
            client.bind(0x4000, BOB)
            dropped, told = 0, []
            for _ in range(2):
                server.from_peer(relayed, *[bytes(1000)] * 50)
                received = client.collect()
                told = notices(received, client.key)
                # With the headers of ChannelData
                dropped += 1004 * (50 + len(told) - len(received))
                server.advance(LIMIT_NOTICE_AFTER)
            self.assertEqual(told, [(RelayLimit.PEER, dropped)])

    def test_newer_credentials(self) -> None:
        """The notice is protected with the credentials of the client's last request."""
        server = TurnServer(rate_per_user=20_000.0, burst_time=1.0)
        client = self.client(server)
        server.advance(60.0)
        client.username, client.password = issue(SECRET, client.user, server.unix + 86_400)
        client.ask(Method.REFRESH)
        self.assertEqual(len(self.flood(client)), 1)

    def test_not_before_the_client_has_proved_its_address(self) -> None:
        """An allocation with a forged source relays nothing, so nothing is dropped."""
        server = TurnServer(rate_per_user=2_000.0)
        client = server.client()
        client.nonce = client.handed_out
        client.allocate()
        self.assertEqual(self.flood(client), [])

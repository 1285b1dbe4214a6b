"""How much the relay carries in a day, for a user and for the clients at an address."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from punch.net.token_bucket import HEADERS
from punch.test.turn.server.test_data import CAROL, channel_data
from punch.test.turn.server.turn_server import ALICE, BOB, UDP, FiveTupleClient, TurnServer, code_of
from punch.turn.server.allocation import AllocationRefused, RelayLimitHit
from punch.turn.server.quotas import DAY
from punch.wire.address import Address
from punch.wire.stun import Method

KB = channel_data(bytes(1000))


class QuotaCase(SynchronousTestCase):
    """Clients that send through channels."""

    def client(self, server: TurnServer, host: str, user: str) -> FiveTupleClient:
        client = server.client(Address(host, 4000 + len(user)), user)
        client.allocate()
        client.bind(0x4000, CAROL)
        return client

    def passed(self, client: FiveTupleClient, kilobytes: int) -> int:
        """How many of so many datagrams were relayed."""
        client.send(*[KB] * kilobytes)
        return len(client.relayed)

    def limits(self, server: TurnServer) -> Sequence[RelayLimitHit]:
        return [event for event in server.core.allocations.events if isinstance(event, RelayLimitHit)]


class UserTests(QuotaCase):
    """Bytes a day of one user."""

    def test_used_up(self) -> None:
        """The allocation ends, another one is refused with 486, and others are not affected."""
        server = TurnServer(quota_per_user=10_000)
        alice = self.client(server, ALICE.host, "alice")
        bob = self.client(server, BOB.host, "bob")
        self.assertEqual(self.passed(alice, 9), 9)
        self.assertEqual(self.passed(alice, 1), 1)
        self.assertEqual(self.limits(server), [RelayLimitHit(ALICE.host, "relay-quota", "alice")])
        self.assertEqual(self.passed(alice, 1), 0)
        self.assertEqual(code_of(alice.ask(Method.ALLOCATE, UDP)), 486)
        elsewhere = server.client(Address("192.0.2.77", 1), "alice")
        self.assertEqual(code_of(elsewhere.ask(Method.ALLOCATE, UDP)), 486)
        self.assertEqual(self.passed(bob, 5), 5)

    def test_what_comes_from_peers_counts_too(self) -> None:
        server = TurnServer(quota_per_user=10_000)
        alice = server.client()
        relayed = alice.allocate()
        alice.bind(0x4000, BOB)
        server.from_peer(relayed, *[bytes(1000)] * 10)
        self.assertEqual(len(alice.collect()), 10)
        self.assertEqual(code_of(alice.ask(Method.REFRESH)), 437)

    def test_the_next_day(self) -> None:
        server = TurnServer(quota_per_user=10_000)
        alice = self.client(server, ALICE.host, "alice")
        self.passed(alice, 10)
        server.advance(DAY - server.unix % DAY + 1)
        again = self.client(server, ALICE.host, "alice")
        self.assertEqual(self.passed(again, 9), 9)
        self.assertEqual(server.core.allocations.quotas.of_user("alice").used, 9_000)

    def test_a_limit_of_its_own(self) -> None:
        """An own limit is larger or smaller than that of others, and may change."""
        server = TurnServer(quota_per_user=10_000)
        quotas = server.core.allocations.quotas
        quotas.own_limit = lambda user: 2_000 if user == "alice" else None
        alice = self.client(server, ALICE.host, "alice")
        self.passed(alice, 2)
        self.assertEqual(code_of(alice.ask(Method.ALLOCATE, UDP)), 486)
        quotas.own_limit = lambda user: 5_000
        quotas.update_limit("alice")
        self.assertEqual(self.passed(self.client(server, ALICE.host, "alice"), 2), 2)

    def test_over_a_restart(self) -> None:
        server = TurnServer(quota_per_user=10_000)
        quotas = server.core.allocations.quotas
        quotas.begin_day(server.unix)
        quotas.restore("alice", 9_000)
        alice = self.client(server, ALICE.host, "alice")
        self.assertEqual(self.passed(alice, 1), 1)
        self.assertEqual(code_of(alice.ask(Method.ALLOCATE, UDP)), 486)

    def test_no_limit(self) -> None:
        server = TurnServer()
        alice = self.client(server, ALICE.host, "alice")
        self.assertEqual(self.passed(alice, 1000), 1000)
        self.assertEqual(server.core.allocations.quotas.of_user("alice").used, 1_000_000)


class AddressTests(QuotaCase):
    """The same for all users at one address."""

    def test_used_up_together(self) -> None:
        """New identities get no more, at another address they do."""
        server = TurnServer(quota_per_address=10_000)
        alice = self.client(server, ALICE.host, "alice")
        other = self.client(server, ALICE.host, "another")
        elsewhere = self.client(server, BOB.host, "alice")
        self.assertEqual((self.passed(alice, 5), self.passed(other, 5)), (5, 5))
        third = server.client(Address(ALICE.host, 9), "third")
        self.assertEqual(code_of(third.ask(Method.ALLOCATE, UDP)), 486)
        # The other allocation at this address ends with the next datagram.
        self.passed(alice, 1)
        self.assertEqual(code_of(alice.ask(Method.REFRESH)), 437)
        self.assertEqual(self.passed(elsewhere, 5), 5)

    def test_who_comes_back_gets_no_more(self) -> None:
        """Neither with the nonce that came with the credentials, nor with an allocation made before."""
        server = TurnServer(quota_per_address=10_000)
        alice = self.client(server, ALICE.host, "alice")
        waiting = server.client(Address(ALICE.host, 1000), "waiting")
        waiting.nonce, own_nonce = waiting.handed_out, waiting.nonce
        waiting.allocate()
        waiting.nonce = own_nonce
        self.assertEqual(self.passed(alice, 10), 10)
        server.core.allocations.events.clear()
        self.assertEqual(code_of(waiting.bind(0x4000, CAROL)), 437)
        self.assertEqual(self.passed(waiting, 5), 0)
        for number in range(5):
            again = server.client(Address(ALICE.host, 5000 + number), f"user {number}")
            again.nonce, own_nonce = again.handed_out, again.nonce
            self.assertEqual(code_of(again.ask(Method.ALLOCATE, UDP)), 486)
            again.nonce = own_nonce
            again.bind(0x4000, CAROL)
            self.assertEqual(self.passed(again, 5), 0)
        refused = [each for each in server.core.allocations.events if isinstance(each, AllocationRefused)]
        self.assertEqual([(each.code, each.limit) for each in refused], [(486, "relay-quota")] * 6)

    def test_forged_addresses_use_no_meters(self) -> None:
        """An address is counted once its client has proved that it receives there."""
        server = TurnServer(quota_per_address=10_000)
        for number in range(20):
            client = server.client(Address(f"203.0.113.{number}", 5000), f"user {number}")
            client.nonce = client.handed_out
            client.allocate()
        alice = self.client(server, ALICE.host, "alice")
        self.assertEqual(len(alice.server.core.allocations.by_client), 1)
        self.assertEqual(server.core.allocations.quotas.hosts, 1)

    def carried(self, server: TurnServer, hosts: Sequence[str]) -> int:
        """The kilobytes that are relayed for clients at these hosts, which each want five."""
        total = 0
        for number, host in enumerate(hosts):
            client = server.client(Address(host, 4000), f"{host} {number}")
            if code_of(client.ask(Method.ALLOCATE, UDP)) == 0:
                client.bind(0x4000, CAROL)
                total += self.passed(client, 5)
        return total

    def test_networks(self) -> None:
        """A machine with many addresses has a few times as much as one with one."""
        for hosts, expected in (
            ([f"2001:db8:7:1::{number:x}" for number in range(1, 30)], 10),
            ([f"2001:db8:7:{number:x}::1" for number in range(30)], 20),
            ([f"2001:db8:7:{number:x}00::1" for number in range(30)], 40),
            ([f"203.0.113.{number}" for number in range(30)], 40),
            ([f"2001:db8:{number:x}::1" for number in range(30)], 150),
            ([f"203.0.{number}.1" for number in range(30)], 150),
        ):
            server = TurnServer(quota_per_address=10_000)
            self.assertEqual(self.carried(server, hosts), expected, hosts[1])
            server.advance(DAY)
            self.assertEqual(self.carried(server, hosts[:1]), 5)
        self.assertEqual(self.carried(TurnServer(), [f"203.0.113.{number}" for number in range(30)]), 150)

    def test_rate(self) -> None:
        server = TurnServer(rate_per_address=100_000.0, burst_time=1.0)
        clients = [self.client(server, ALICE.host, name) for name in ("alice", "another")]
        elsewhere = self.client(server, BOB.host, "bob")
        passed = 0
        for _ in range(10):
            passed += sum(self.passed(client, 100) for client in clients)
            server.advance(0.1)
        # A burst of one second, and nine tenths of a second.
        self.assertLess(abs(passed - 190_000 / (1000 + HEADERS)), 10)
        self.assertEqual(self.passed(elsewhere, 90), 90)

    def test_rate_of_networks(self) -> None:
        """A machine with many addresses has a few times as much as one with one, here 5 kB at once."""
        for hosts, expected in (
            ([f"2001:db8:7:1::{number:x}" for number in range(1, 30)], 5),
            ([f"2001:db8:7:{number:x}::1" for number in range(30)], 10),
            ([f"2001:db8:7:{number:x}00::1" for number in range(30)], 20),
            ([f"203.0.113.{number}" for number in range(30)], 20),
            ([f"2001:db8:{number:x}::1" for number in range(8)], 40),
        ):
            server = TurnServer(rate_per_address=5 * (1000.0 + HEADERS), burst_time=1.0)
            self.assertEqual(self.carried(server, hosts), expected, hosts[1])

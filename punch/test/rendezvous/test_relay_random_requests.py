"""Requests by the thousand: of clients in any order, after which all counts are right, and of strangers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.turn.server.turn_server import BOB, UDP, FiveTupleClient, TurnServer, code_of
from punch.turn.server.allocations import Allocations
from punch.wire.address import Address
from punch.wire.stun import (
    Attribute,
    Method,
    parse,
)

USERS, TUPLES = 3, 6
PER_USER, PER_ADDRESS, IN_ALL = 3, 4, 6

Step = tuple[str, int, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["allocate", "claim", "pair", "take", "refresh", "delete", "permit", "bind", "send", "wait"]
        ),
        st.integers(0, USERS - 1),
        st.integers(0, TUPLES - 1),
    ),
    max_size=60,
)


class RelayUsers:
    """Three users at two addresses, with three five-tuples at each; the descriptors run out now and then."""

    def __init__(self) -> None:
        self.server = TurnServer(
            allocations_per_user=PER_USER,
            allocations_per_address=PER_ADDRESS,
            allocations=IN_ALL,
            ports=(50000, 50009),
            permissions=4,
            channels=3,
        )
        self.server.ports.descriptors = IN_ALL - 1
        self.tokens: list[bytes] = []

    @property
    def table(self) -> Allocations:
        """The relay's."""
        return self.server.core.allocations

    def client(self, user: int, number: int) -> FiveTupleClient:
        """A user at one of the five-tuples."""
        return self.server.client(Address(f"203.0.113.{1 + number % 2}", 1000 + number), f"user{user}")

    def do(self, step: Step) -> None:
        """One thing that a client does."""
        what, user, number = step
        client = self.client(user, number)
        peer = Address(f"192.0.2.{number}", 1 + user)
        if what == "allocate":
            client.ask(Method.ALLOCATE, UDP)
        elif what == "claim":
            client.nonce = client.handed_out
            client.ask(Method.ALLOCATE, UDP)
        elif what == "pair":
            answer = client.ask(Method.ALLOCATE, UDP, (Attribute.EVEN_PORT, True))
            token = answer.get(Attribute.RESERVATION_TOKEN)
            self.tokens += [token] if isinstance(token, bytes) else []
        elif what == "take" and self.tokens:
            client.ask(Method.ALLOCATE, UDP, (Attribute.RESERVATION_TOKEN, self.tokens[-1 - user % 2 :][0]))
        elif what == "refresh":
            client.ask(Method.REFRESH, (Attribute.LIFETIME, 600 * (1 + user)))
        elif what == "delete":
            client.ask(Method.REFRESH, (Attribute.LIFETIME, 0))
        elif what == "permit":
            client.permit(peer, *self.table.by_relayed)
        elif what == "bind":
            client.bind(0x4000 + user, peer)
        elif what == "send":
            client.indicate(peer, b"hello")
            client.send(b"\x40\x00\x00\x02hi")
        elif what == "wait":
            self.server.advance(15.0 + 100 * user + 40 * number)


class RandomRequestTests(SynchronousTestCase):
    """Random requests."""

    def check(self, relay: RelayUsers) -> None:
        """What is counted is what there is, and within its bounds."""
        table, open_ports = relay.table, relay.server.ports.open_ports
        unproved = list(table.unproved.values())
        live = [*table.by_client.values(), *unproved]
        reserved = list(table.reservations.values())
        self.assertEqual(len(table), len(open_ports))
        self.assertEqual(len(table), len(live) + len(reserved))
        self.assertLessEqual(len(table), IN_ALL + 1)
        self.assertLessEqual(len(unproved), 1)
        self.assertEqual(len(table.unproved_places), len(unproved))
        users = Counter(each.user.name for each in live) + Counter(each.user.name for each in reserved)
        self.assertEqual({name: user.ports for name, user in table.users.items() if user.ports}, users)
        holders = [each.place for each in live if each.place is not None]
        holders += [each.place for each in reserved]
        self.assertEqual(len(holders), len(table) - len(unproved))
        self.assertEqual(len(table.places), len(holders))
        places = Counter(each.source for each in holders)
        for source, count in places.items():
            self.assertEqual(table.places.count(source), count)
        self.assertLessEqual(max(users.values(), default=0), PER_USER)
        self.assertLessEqual(max(places.values(), default=0), PER_ADDRESS)
        self.assertEqual({each.relayed for each in live}, set(table.by_relayed))
        for allocation in live:
            self.assertLessEqual(len(allocation.permissions), 4)
            self.assertLessEqual(len(allocation.bindings), 3)
            self.assertIs(allocation.port.allocation, allocation)

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(steps)
    def test_counts(self, chosen: list[Step]) -> None:
        """After every step; and when all have gone, nothing is left."""
        relay = RelayUsers()
        for step in chosen:
            relay.do(step)
            self.check(relay)
        relay.server.advance(4000.0)
        self.assertEqual((len(relay.table), relay.server.ports.open_ports, relay.table.users), (0, {}, {}))
        self.assertEqual(len(relay.table.places), 0)
        self.assertIsNone(relay.server.core.get_timer())

    def test_two_thousand_requests(self) -> None:
        """Requests from 2,000 ports of one peer make a few allocations, and no state for the others."""
        server = TurnServer(requests_burst=2_000)
        codes: Counter[int] = Counter()
        client = server.client()
        for port in range(2_000):
            client.remote = Address(BOB.host, 1 + port)
            client.nonce = client.handed_out
            (answer,) = client.send(client.request(Method.ALLOCATE, UDP))
            codes[code_of(parse(answer))] += 1
        self.assertEqual(codes, {0: 64, 486: 2_000 - 64})
        self.assertEqual((len(server.core.allocations), len(server.core.allocations.users)), (64, 1))
        self.assertEqual(server.core.authenticator.remembered, 64)

"""The relay for members: whom it serves, and what it counts for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from punch.identity import PeerID
from punch.rendezvous.members.database import MAX_PEERS_A_DAY, MemberDatabase
from punch.rendezvous.members.membership import AdmitPolicy, Membership, MemberStoreError
from punch.test.rendezvous.relay.service_case import RelayServiceCase
from punch.test.turn_server import UDP, code_of
from punch.turn.server.quotas import DAY
from punch.wire.address import Address
from punch.wire.control import Accept, Register, Revoke
from punch.wire.invitation import AdmissionRefusal, Invitation, service_tag
from punch.wire.stun import Method
from punch.wire.turn_uri import TurnTransport

SERVICE_TAG = service_tag(bytes(32))
FOR_EVER = 1e12


class MemberTests(RelayServiceCase):
    """An open rendezvous whose relay is for invited peers."""

    def setUp(self) -> None:
        super().setUp()
        self.store = MemberDatabase(None)
        self.addCleanup(self.store.close)
        self.members = Membership(AdmitPolicy.OPEN, self.store, service=SERVICE_TAG, relay_for_invited=True)
        self.membership = self.members
        self.restart()
        self.invitation = Invitation.new(SERVICE_TAG, lambda size: bytes(size))
        self.store.invite(self.invitation, 1, FOR_EVER, 1_000)

    @property
    def usage(self) -> dict[PeerID, int]:
        """The bytes of each peer that are stored."""
        return {peer: used for _, peer, used in self.store.usage(0)}

    def redeem(self) -> None:
        """Alice comes with the invitation."""
        client = self.connect(self.alice)
        client.send(Register("alice", Accept.ASK, str(self.invitation)))
        self.net.advance(0.5)
        self.assertTrue(client.last["relays"])
        client.abort()

    def test_for_invited(self) -> None:
        """Others register, too, and are offered no relay."""
        self.assertEqual(self.servers(self.bob), ())
        self.redeem()
        self.assertEqual(len(self.servers(self.alice)), 3)
        self.members.listed = frozenset([self.bob.peer_id])
        self.assertEqual(len(self.servers(self.bob)), 3)

    def test_who_is_no_longer_listed_relays_no_more(self) -> None:
        """Though it has left and has good credentials, and whatever is refused afterwards."""
        alice, bob = self.alice.peer_id, self.bob.peer_id
        self.members = Membership(
            AdmitPolicy.LISTED, self.store, service=SERVICE_TAG, listed=frozenset([alice, bob])
        )
        self.membership = self.members
        self.restart()
        client = self.client(TurnTransport.UDP)
        client.allocate()
        client.bind(Address("203.0.113.2", 4000))
        self.members.listed = frozenset([bob])
        self.service.end_refused()
        self.assertEqual(self.relay.core.allocations.all(), [])
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        other = self.register(self.bob)
        other.send(Revoke.by(self.alice))
        self.net.advance(0.5)
        self.assertEqual(other.last["code"], "forbidden")
        self.service.end_refused()
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        self.members.listed = frozenset([alice, bob])
        self.service.end_refused()
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 0)

    def test_a_bad_invitation_is_not_ignored(self) -> None:
        """A peer that asks for relays with a bad invitation is told why it gets none."""
        self.redeem()
        client = self.connect(self.bob)
        client.send(Register("bob", Accept.ASK, str(self.invitation)))
        self.net.advance(0.5)
        self.assertEqual(client.last["refusal"], AdmissionRefusal.INVITATION_USED.value)

    def test_the_quota_of_the_invitation(self) -> None:
        self.redeem()
        client = self.client(TurnTransport.UDP)
        client.allocate()
        quotas = self.relay.core.allocations.quotas
        meter = quotas.of_user(next(iter(self.relay.core.allocations.users)))
        self.assertEqual(meter.limit, 1_000)
        meter.used = 1_000
        self.assertEqual(code_of(self.client(TurnTransport.TCP).ask(Method.ALLOCATE, UDP)), 486)
        self.assertEqual(self.service.totals.refusals["relay-quota"], 1)
        self.service.relay_service.store_usage(self.store.add_usage)
        self.assertEqual(self.usage, {self.alice.peer_id: 1_000})

    def test_usage_over_a_restart(self) -> None:
        self.redeem()
        self.restart()
        self.service.relay_service.restore_usage(self.net.monotonic(), {self.alice.peer_id: 1_000})
        self.assertEqual(code_of(self.client(TurnTransport.UDP).ask(Method.ALLOCATE, UDP)), 486)
        self.service.relay_service.store_usage(self.store.add_usage)
        self.assertEqual(self.usage, {}, "it is stored already")

    def test_each_byte_is_stored_once(self) -> None:
        self.redeem()
        self.client(TurnTransport.UDP).allocate()
        quotas = self.relay.core.allocations.quotas
        meter = quotas.of_user(next(iter(self.relay.core.allocations.users)))
        relay, alice = self.service.relay_service, self.alice.peer_id
        meter.used = 10

        def fail(day: int, usage: Mapping[PeerID, int]) -> None:
            raise MemberStoreError("The disk is full.")

        self.assertRaises(MemberStoreError, relay.store_usage, fail)
        for used in (10, 10, 25):
            meter.used = used
            relay.store_usage(self.store.add_usage)
            self.assertEqual(self.usage, {alice: used})
        quotas.begin_day(self.net.monotonic() + DAY)
        relay.store_usage(self.store.add_usage)
        self.assertEqual(self.usage, {alice: 25}, "nothing was relayed on the new day")

    def test_usage_is_kept(self) -> None:
        alice, bob = self.alice.peer_id, self.bob.peer_id
        self.store.add_usage(100, {alice: 5})
        self.store.add_usage(101, {alice: 7, bob: 9})
        self.store.add_usage(101, {alice: 1})
        self.assertEqual(self.store.usage(100), [(101, bob, 9), (101, alice, 8), (100, alice, 5)])
        self.store.add_usage(162, {bob: 1})
        self.assertEqual(self.store.usage(0), [(162, bob, 1), (101, bob, 9), (101, alice, 8)])

    def test_usage_of_two_processes(self) -> None:
        """Processes with one state directory add up."""
        path = Path(self.mktemp()) / "members.sqlite"
        one, two = MemberDatabase(path), MemberDatabase(path)
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        alice, bob = self.alice.peer_id, self.bob.peer_id
        one.add_usage(100, {alice: 5})
        two.add_usage(100, {alice: 7, bob: 1})
        one.add_usage(100, {alice: 2})
        self.assertEqual(one.usage(100), [(100, alice, 14), (100, bob, 1)])

    def test_usage_is_bounded(self) -> None:
        """New identities do not fill the disk; those that are known are counted further."""
        peers = [PeerID(number.to_bytes(32, "big")) for number in range(MAX_PEERS_A_DAY + 2)]
        self.store.add_usage(100, dict.fromkeys(peers[:-1], 1))
        self.store.add_usage(100, {peers[0]: 2, peers[-1]: 1})
        usage = self.store.usage(100)
        self.assertEqual((len(usage), usage[0]), (MAX_PEERS_A_DAY, (100, peers[0], 3)))
        self.store.add_usage(101, {peers[-1]: 1})
        self.assertEqual(self.store.usage(101), [(101, peers[-1], 1)])

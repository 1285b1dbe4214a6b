"""The relay for members: whom it serves, and what it counts for them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from punch.cli.rendezvous.reloading import MemberWatch
from punch.identity import PeerID
from punch.net.sources import source_of
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import AdmitPolicy, Membership, MemberStoreError
from punch.test.rendezvous.relay_service_case import RelayServiceCase
from punch.test.turn.server.turn_server import UDP, code_of
from punch.turn.server.quotas import DAY, MAX_METERS, Quotas
from punch.wire.address import Address
from punch.wire.control import Accept, Register, Revoke
from punch.wire.invitation import AdmissionRefusal, Invitation, service_tag
from punch.wire.stun import Method
from punch.wire.turn import TurnTransport

SERVICE_TAG = service_tag(bytes(32))
FOR_EVER = 1e12


class MemberCase(RelayServiceCase):
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


class MemberTests(MemberCase):
    """Who is relayed, and how much of it is counted."""

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

    def test_who_was_revoked_and_admitted_again(self) -> None:
        """Its relays end, and it gets others when the revocation is undone. Others keep theirs."""
        alice, bob = self.alice.peer_id, self.bob.peer_id
        self.members.listed = frozenset([alice, bob])
        client = self.client(TurnTransport.UDP)
        client.allocate()
        self.store.revoke(alice, AdmissionRefusal.REVOKED, 0.0)
        self.service.end_changed({bob})
        client.bind(Address("203.0.113.2", 4000))
        self.service.end_changed({alice})
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        self.store.restore(alice, 1.0)
        self.service.end_changed({alice})
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 0)

    def start_with_file(self, policy: AdmitPolicy, listed: Collection[PeerID] = ()) -> Path:
        """Start again, with the members in a file, as `punch.cli.rendezvous` does; return its path."""
        path = Path(self.mktemp()) / "members.sqlite"
        store = MemberDatabase(path)
        self.addCleanup(store.close)
        self.members = Membership(policy, store, service=SERVICE_TAG, listed=frozenset(listed))
        self.membership = self.members
        self.restart_with(store)
        return path

    def restart_with(self, store: MemberDatabase) -> None:
        """Start the service again, and watch its members as `punch.cli.rendezvous.reloading` does."""
        self.restart()
        watch = MemberWatch(store, self.service)
        watch.clock = self.office.reactor
        watch.startService()
        self.addCleanup(watch.stopService)

    def test_revoked_while_the_members_cannot_be_read(self) -> None:
        """Who is registered stays so until they can be, and no longer; who was refused a relay gets none."""
        path = self.start_with_file(AdmitPolicy.OPEN)
        command = MemberDatabase(path)
        self.addCleanup(command.close)
        client = self.client(TurnTransport.UDP)
        command.revoke(self.alice.peer_id, AdmissionRefusal.REVOKED, 0.0)
        self.net.advance(1.5)
        bob = self.register(self.bob)
        for peer in (self.alice, self.bob):
            command.revoke(peer.peer_id, AdmissionRefusal.ID_REVOKED, 1.0)
        view = self._drop_view(path)
        self.net.advance(3.0)
        self.assertIsNone(bob.ended)
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        self._execute(path, view)
        self.net.advance(1.5)
        self.assertEqual((bob.last["refusal"], bob.ended is None), ("id-revoked", False))
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)

    def test_lists_read_again_while_the_members_cannot_be_read(self) -> None:
        """Who was revoked gets no relay, and who is listed no more leaves when they can be read."""
        alice, bob = self.alice.peer_id, self.bob.peer_id
        path = self.start_with_file(AdmitPolicy.LISTED, [alice, bob])
        client = self.client(TurnTransport.UDP)
        with closing(MemberDatabase(path)) as command:
            command.revoke(alice, AdmissionRefusal.REVOKED, 0.0)
        self.net.advance(1.5)
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        other = self.register(self.bob)
        view = self._drop_view(path)
        self.service.deny(DenyList())
        self.members.listed = frozenset([alice])
        self.service.end_refused()
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)
        self.net.advance(6.0)
        self.assertIsNone(other.ended)
        self._execute(path, view)
        self.net.advance(6.0)
        self.assertEqual((other.last["refusal"], other.ended is None), ("not-listed", False))
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)

    def test_revocations_that_cannot_be_read_at_the_start(self) -> None:
        """The relay refuses these peers as soon as the revocations can be read."""
        path = self.start_with_file(AdmitPolicy.OPEN)
        client = self.client(TurnTransport.UDP)
        with closing(MemberDatabase(path)) as command:
            command.revoke(self.alice.peer_id, AdmissionRefusal.REVOKED, 0.0)
        view = self._drop_view(path)
        store = MemberDatabase(path)
        self.addCleanup(store.close)
        self.restart_with(store)
        self._execute(path, view)
        self.net.advance(6.0)
        self.assertEqual(code_of(client.ask(Method.ALLOCATE, UDP)), 403)

    def test_a_list_that_was_read_before_other_changes(self) -> None:
        """A peer that is no longer listed is told that it is revoked, not that others used its invitation."""
        path = self.start_with_file(AdmitPolicy.INVITED, [self.bob.peer_id])
        other = self.register(self.bob)
        view = self._drop_view(path)
        self.members.listed = frozenset()
        self.service.end_refused()
        self._execute(path, view)
        self.service.end_refused(list_changed=False)
        self.net.advance(0.5)
        self.assertEqual((other.last["refusal"], other.ended is None), ("revoked", False))

    def _drop_view(self, path: Path) -> str:
        """Make the revocations unreadable, and return the SQL statement that makes them readable again."""
        ((view,),) = self._execute(path, "SELECT sql FROM sqlite_master WHERE name = 'revoked'")
        self._execute(path, "DROP VIEW revoked")
        return view

    def _execute(self, path: Path, statement: str) -> list[tuple[str, ...]]:
        with sqlite3.connect(path) as connection:
            rows = connection.execute(statement).fetchall()
        connection.close()
        return rows

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
        self.service.relay_service.restore_usage(self.net.monotonic(), {self.alice.peer_id: 1_000}, {})
        self.assertEqual(code_of(self.client(TurnTransport.UDP).ask(Method.ALLOCATE, UDP)), 486)
        self.service.relay_service.store_usage(self.store.add_usage)
        self.assertEqual(self.usage, {}, "it is stored already")

    def again(self) -> None:
        """The service starts again, with what was stored (`take_stored`)."""
        self.service.relay_service.store_usage(self.store.add_usage)
        self.restart()
        self.take_stored()

    def take_stored(self) -> None:
        """Restore what was stored today, as `punch.cli.rendezvous.reloading` does when the service starts."""
        today = {peer: used for day, peer, used in self.store.usage(0) if day == self.quotas.day}
        relay = self.service.relay_service
        relay.restore_usage(self.net.monotonic(), today, self.store.relayed(self.quotas.day))
        relay.stored_bytes = self.store.relayed_for

    @property
    def quotas(self) -> Quotas:
        return self.relay.core.allocations.quotas

    def test_a_forgotten_peer_over_a_restart(self) -> None:
        """
        Many others get credentials, so that the service forgets which peer is behind the user: the peer's
        bytes are stored all the same, and it has used up its quota after a restart.
        """
        self.redeem()
        client = self.client(TurnTransport.UDP)
        client.allocate()
        client.bind(Address("203.0.113.2", 4000))
        (user,) = self.relay.core.allocations.users
        self.quotas.of_user(user).used = 400
        relay, here = self.service.relay_service, self.home.addresses[0]
        self.members.listed = frozenset(PeerID(number.to_bytes(32, "big")) for number in range(2_000))
        for peer in self.members.listed:
            relay.servers(peer, here)
        self.assertNotIn(self.alice.peer_id, relay.peers)
        relay.store_usage(self.store.add_usage)
        self.assertEqual(self.usage, {self.alice.peer_id: 400})
        self.quotas.of_user(user).used = 1_000
        self.again()
        self.assertEqual(self.usage, {self.alice.peer_id: 1_000})
        self.assertEqual(code_of(self.client(TurnTransport.UDP).ask(Method.ALLOCATE, UDP)), 486)

    def test_unknown_users_over_a_restart(self) -> None:
        """Quotas go by the names of users, whoever they are: those of other programs have no peer."""
        self.quotas.begin_day(self.net.monotonic())
        self.quotas.of_user("of another program").used = 700
        self.again()
        self.assertEqual(self.quotas.of_user("of another program").used, 700)
        self.again()
        self.assertEqual((self.quotas.of_user("of another program").used, self.usage), (700, {}))

    def test_a_database_that_cannot_be_read(self) -> None:
        """It isn't asked for users without a limit, and the log has one line a minute of the others."""
        path = Path(self.mktemp()) / "members.sqlite"
        store = MemberDatabase(path)
        self.addCleanup(store.close)
        watch = MemberWatch(store, self.service)
        watch.clock = self.office.reactor
        watch.startService()
        self.addCleanup(watch.stopService)
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE relayed")
        connection.close()
        problems = self._lines_logged()
        for number in range(10):
            self.assertFalse(self.quotas.is_spent(f"without a limit {number}"))
        self.assertEqual(problems, [])
        self.quotas.own_limit = lambda user: 1_000
        for number in range(100):
            self.assertFalse(self.quotas.is_spent(f"with a limit {number}"))
        self.assertEqual(len(problems), 1)
        self.assertIn("relayed", problems[0])
        self.net.advance(61.0)
        for number in range(100):
            self.assertFalse(self.quotas.is_spent(f"with a limit {number}"))
        self.assertLessEqual(len(problems), 3)

    def _lines_logged(self) -> list[str]:
        """The errors that are logged from now on."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"] is LogLevel.error:
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines

    def test_usage_that_an_earlier_release_has_stored(self) -> None:
        """It stored that of peers only."""
        self.redeem()
        self.quotas.begin_day(self.net.monotonic())
        self.store.add_usage(self.quotas.day, {self.alice.peer_id: 1_000}, {})
        self.take_stored()
        self.assertEqual(code_of(self.client(TurnTransport.UDP).ask(Method.ALLOCATE, UDP)), 486)
        self.again()
        self.assertEqual(self.usage, {self.alice.peer_id: 1_000})

    def test_more_users_than_there_are_meters(self) -> None:
        """
        Who comes with ever new identities has its own meters forgotten, and finds them as they were: those
        that are in use, those that are not stored yet, and those that are.
        """
        self.take_stored()
        quotas, source = self.quotas, source_of("203.0.113.1")
        quotas.begin_day(self.net.monotonic())
        in_use = quotas.of_user("in use", source)
        in_use.used = 5
        quotas.of_user("stored", source).used = 6
        self.service.relay_service.store_usage(self.store.add_usage)
        quotas.of_user("not stored", source).used = 7
        for number in range(2 * MAX_METERS // 64):
            quotas.of_user(str(number), source)
        in_use.used = 8
        self.assertEqual(set(quotas.not_stored), {"in use", "not stored"})
        self.assertTrue(quotas.meter("stored") is None)
        found = {name: quotas.of_user(name, source).used for name in ("in use", "stored", "not stored")}
        self.assertEqual(found, {"in use": 8, "stored": 6, "not stored": 7})
        self.again()
        self.assertEqual({name: self.quotas.of_user(name).used for name in found}, found)

    def test_each_byte_is_stored_once(self) -> None:
        self.redeem()
        self.client(TurnTransport.UDP).allocate()
        quotas = self.relay.core.allocations.quotas
        meter = quotas.of_user(next(iter(self.relay.core.allocations.users)))
        relay, alice = self.service.relay_service, self.alice.peer_id
        meter.used = 10

        def fail(day: int, peers: Mapping[PeerID, int], users: Mapping[str, int]) -> None:
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
        self.store.add_usage(100, {alice: 5}, {})
        self.store.add_usage(101, {alice: 7, bob: 9}, {})
        self.store.add_usage(101, {alice: 1}, {})
        self.assertEqual(self.store.usage(100), [(101, bob, 9), (101, alice, 8), (100, alice, 5)])
        self.store.add_usage(162, {bob: 1}, {})
        self.assertEqual(self.store.usage(0), [(162, bob, 1), (101, bob, 9), (101, alice, 8)])

    def test_usage_of_two_processes(self) -> None:
        """Processes with one state directory add up."""
        path = Path(self.mktemp()) / "members.sqlite"
        one, two = MemberDatabase(path), MemberDatabase(path)
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        alice, bob = self.alice.peer_id, self.bob.peer_id
        one.add_usage(100, {alice: 5}, {})
        two.add_usage(100, {alice: 7, bob: 1}, {})
        one.add_usage(100, {alice: 2}, {})
        self.assertEqual(one.usage(100), [(100, alice, 14), (100, bob, 1)])

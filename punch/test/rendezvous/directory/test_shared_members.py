"""Members, invitations and revocations of processes with different state directories."""

from __future__ import annotations

import sqlite3
from itertools import permutations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.directory.shared_members import SharedMembers
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.membership import MemberStoreError, Redemption
from punch.rendezvous.members.records import (
    InvitationMade,
    InvitationRedeemed,
    InvitationRevoked,
    PeerRevoked,
    Record,
    RecordError,
    RevocationUndone,
    decode,
    encode,
)
from punch.test.internet.testcase import InternetTestCase
from punch.test.rendezvous.directory.directory_processes import REDIS, Process
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.strategies import IDENTITIES, SETTINGS
from punch.wire.invitation import AdmissionRefusal, Invitation

ALICE, BOB, CAROL = (identity.peer_id for identity in IDENTITIES[:3])
WALL = 1_700_000_000.0
LATER = WALL + 86_400.0


def token(number: int = 0) -> Invitation:
    return Invitation(b"serv", bytes([number]) * 6, b"s" * 16)


MADE = InvitationMade(token().number, token().digest, 1, LATER, 1000)
RECORDS: list[Record] = [
    MADE,
    InvitationRedeemed(MADE.number, ALICE, "alice", WALL),
    PeerRevoked(BOB, AdmissionRefusal.REVOKED, WALL),
    PeerRevoked(CAROL, AdmissionRefusal.ID_REVOKED, WALL, b"signature"),
    RevocationUndone(BOB, WALL + 1.0),
    InvitationRevoked(MADE.number),
]


class RecordTests(SynchronousTestCase):
    """The records, and that their order does not matter."""

    def store(self, *records: Record) -> MemberDatabase:
        store = MemberDatabase(None)
        self.addCleanup(store.close)
        store.add_records(records)
        return store

    def test_all_kinds(self) -> None:
        for record in RECORDS:
            self.assertEqual(decode(encode(record)), record)

    def test_bad_bytes(self) -> None:
        for data in (b"", b"null", b"{}", b'{"type":"more"}', b'{"type":"undone","peer":"x","time":1}'):
            self.assertRaises(RecordError, decode, data)
        good = encode(RECORDS[4])
        for bad in (good.replace(b"1700000001.0", b"true"), good + b" " * 5000, good[:-1]):
            self.assertRaises(RecordError, decode, bad)
        made = encode(MADE)
        for uses in (b"1.0", b"1e100", b"-1", b"true", b'"1"', b"null"):
            self.assertRaises(RecordError, decode, made.replace(b'"uses":1', b'"uses":' + uses))
        for quota in (b"1e100", b"-1", b"true", b'"1"'):
            self.assertRaises(
                RecordError, decode, made.replace(b'"relay_quota":1000', b'"relay_quota":' + quota)
            )

    def test_one_invitation_at_two_processes_at_once(self) -> None:
        """Those that were first stay, in whatever order it becomes known."""
        made = InvitationMade(MADE.number, MADE.digest, 2, LATER, None)
        redeemed = [
            InvitationRedeemed(made.number, peer, "x", WALL + seconds)
            for peer, seconds in ((ALICE, 2.0), (BOB, 1.0), (CAROL, 3.0))
        ]
        for order in permutations(redeemed):
            store = self.store(made, *order)
            self.assertEqual([each.peer for each in store.members()], [BOB, ALICE])
            self.assertIs(store.redeem(token(), CAROL, "x", WALL), Redemption.USED)

    def test_which_peers_are_concerned(self) -> None:
        """Those that were admitted or revoked since the last time; None stands for any of them."""
        store = self.store(MADE)
        self.assertIsNone(store.peers_changed())
        self.assertEqual(store.peers_changed(), frozenset())
        made = InvitationMade(token(2).number, token(2).digest, 1, LATER, None)
        revoked = [PeerRevoked(peer, AdmissionRefusal.REVOKED, WALL) for peer in (BOB, CAROL)]
        store.add_records([made, InvitationRedeemed(made.number, ALICE, "x", WALL + 5.0), *revoked])
        self.assertEqual(store.peers_changed(), {ALICE, BOB, CAROL})
        store.restore(BOB, WALL + 1.0)
        store.revoke_invitation(MADE.number)
        self.assertEqual(store.peers_changed(), {BOB})
        # One of the two has to go, whoever that is.
        store.add_records([InvitationRedeemed(made.number, BOB, "x", WALL + 4.0)])
        self.assertIsNone(store.peers_changed())
        self.assertFalse(store.is_member(ALICE))
        many = [PeerID(number.to_bytes(32, "big")) for number in range(300)]
        store.add_records([PeerRevoked(peer, AdmissionRefusal.REVOKED, WALL) for peer in many])
        self.assertIsNone(store.peers_changed())
        self.assertEqual(store.peers_changed(), frozenset())

    def test_one_peer_redeems_at_two_processes(self) -> None:
        """It uses the invitation once."""
        made = InvitationMade(MADE.number, MADE.digest, 2, LATER, None)
        twice = [InvitationRedeemed(made.number, ALICE, "x", WALL + seconds) for seconds in (1.0, 2.0)]
        store = self.store(made, *twice)
        self.assertIs(store.redeem(token(), BOB, "x", WALL), Redemption.ACCEPTED)
        self.assertEqual(len(store.members()), 2)

    def test_a_revoked_invitation(self) -> None:
        """
        Whoever has used it is a member, also if that becomes known later, and nobody else, by whatever clock.
        """
        redeemed = InvitationRedeemed(MADE.number, ALICE, "x", WALL + 5.0)
        records: list[Record] = [redeemed, InvitationRevoked(MADE.number)]
        for order in permutations(records):
            store = self.store(MADE, *order)
            self.assertTrue(store.is_member(ALICE))
            self.assertIs(store.redeem(token(), BOB, "x", 0.0), Redemption.EXPIRED)

    def test_the_latest_word_about_a_peer_counts(self) -> None:
        revoked = PeerRevoked(BOB, AdmissionRefusal.REVOKED, WALL)
        records: list[Record] = [revoked, RevocationUndone(BOB, WALL + 1.0)]
        for order in permutations(records):
            self.assertIsNone(self.store(*order).revocation(BOB))
        records.append(PeerRevoked(BOB, AdmissionRefusal.ID_REVOKED, WALL - 10.0))
        for order in permutations(records):
            self.assertIs(self.store(*order).revocation(BOB), AdmissionRefusal.ID_REVOKED)

    def test_what_an_operator_does_now_is_the_latest(self) -> None:
        """Though its clock is an hour behind that of the process that knew it before."""
        store = self.store(PeerRevoked(BOB, AdmissionRefusal.REVOKED, WALL))
        self.assertTrue(store.restore(BOB, WALL - 3600.0))
        self.assertIsNone(store.revocation(BOB))
        store.revoke(BOB, AdmissionRefusal.REVOKED, WALL - 3600.0)
        self.assertIs(store.revocation(BOB), AdmissionRefusal.REVOKED)
        other = self.store(*(decode(data) for _, data in store.records_after(0, 100)))
        self.assertIs(other.revocation(BOB), AdmissionRefusal.REVOKED)

    @given(st.lists(st.sampled_from(RECORDS[1:]), max_size=12))
    @SETTINGS
    def test_any_order(self, records: list[Record]) -> None:
        """A store that gets all records, again and in any order, is the same as one that gets each once."""
        one = self.store(MADE, *records, *RECORDS[1:])
        self.assertEqual(one.members(), self.store(*RECORDS).members())
        self.assertEqual(one.invitations(), self.store(*RECORDS).invitations())

    def test_a_file_of_before(self) -> None:
        """A file of version 1 gets a journal, from which another process gets the same members."""
        path = Path(self.mktemp()) / "members.sqlite"
        old = MemberDatabase(path)
        old.add_records(RECORDS[:4])
        old.close()
        with sqlite3.connect(path) as connection:
            connection.executescript(
                "DROP VIEW revoked; DROP TABLE journal; DROP INDEX members_of_invitation;"
                "UPDATE invitations SET uses = 3, used = 2; PRAGMA user_version = 1;"
            )
        connection.close()
        new = MemberDatabase(path)
        self.addCleanup(new.close)
        self.assertIs(new.revocation(CAROL), AdmissionRefusal.ID_REVOKED)
        other = self.store(*(decode(data) for _, data in new.records_after(0, 100)))
        self.assertEqual(other.members(), new.members())
        for store in (new, other):
            self.assertIs(store.redeem(token(), BOB, "x", WALL), Redemption.ACCEPTED)
            self.assertIs(store.redeem(token(), CAROL, "x", WALL), Redemption.USED)


class SharedMembersTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes: list[Process] = []
        self.stores: list[MemberDatabase] = []
        for _ in range(3):
            self.start(MemberDatabase(None))
        self.net.advance(1.5)

    def start(self, store: MemberDatabase, key: bytes = b"key") -> None:
        """Start one more process."""
        number = len(self.processes) + 1
        self.addCleanup(store.close)
        self.processes.append(Process(self.net, number))
        self.stores.append(store)
        random = self.net.random_bytes(f"members {number}")
        self.processes[-1].directory.share(SharedMembers(store, secret=key, random=random))

    def tearDown(self) -> None:
        for process in self.processes:
            process.directory.stop()
        self.net.advance(0.5)
        self.assertEqual(self.redis.connections, [])

    def revoked(self, peer: PeerID) -> list[bool]:
        """At which processes a peer is revoked."""
        return [store.revocation(peer) is not None for store in self.stores]

    def test_an_invitation_counts_everywhere(self) -> None:
        one, two, three = self.stores
        one.invite(token(), 1, LATER, 1000)
        self.net.advance(3.0)
        self.assertIs(two.redeem(token(), ALICE, "alice", WALL), Redemption.ACCEPTED)
        self.net.advance(3.0)
        self.assertEqual((three.is_member(ALICE), three.relay_quota(ALICE)), (True, 1000))
        for store in (one, three):
            self.assertTrue(store.changed())
            self.assertFalse(store.changed())
            self.assertIs(store.redeem(token(), BOB, "bob", WALL), Redemption.USED)

    def test_a_revoked_invitation_is_revoked_everywhere(self) -> None:
        """Also at a process whose clock is an hour behind."""
        one, two, three = self.stores
        one.invite(token(), 100, LATER, None)
        self.net.advance(3.0)
        self.assertTrue(two.revoke_invitation(token().number))
        self.net.advance(3.0)
        self.assertIs(one.redeem(token(), ALICE, "alice", WALL), Redemption.EXPIRED)
        self.assertIs(three.redeem(token(), ALICE, "alice", WALL - 3600.0), Redemption.EXPIRED)
        self.assertEqual([store.invitations()[0].revoked for store in self.stores], [True] * 3)

    def test_redeemed_twice_while_redis_is_away(self) -> None:
        """One of both is a member when it is back, the same at all processes."""
        one, two, _ = self.stores
        one.invite(token(), 1, LATER, None)
        self.net.advance(3.0)
        self.redis.stop()
        self.net.advance(1.0)
        one.redeem(token(), ALICE, "alice", WALL + 1.0)
        two.redeem(token(), BOB, "bob", WALL)
        self.redis.start()
        self.net.advance(10.0)
        self.assertEqual([[each.peer for each in store.members()] for store in self.stores], [[BOB]] * 3)

    def test_revocations_reach_every_process(self) -> None:
        """While Redis works, after it was away, after it was flushed, and those that start later."""
        self.stores[0].revoke(ALICE, AdmissionRefusal.ID_REVOKED, WALL, b"statement")
        self.net.advance(3.0)
        self.assertEqual(self.revoked(ALICE), [True] * 3)
        self.redis.data.clear()
        self.stores[1].revoke(BOB, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(5.0)
        self.assertEqual(self.revoked(BOB), [True] * 3)
        self.redis.stop()
        self.stores[2].revoke(CAROL, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(1.0)
        self.redis.start()
        self.start(MemberDatabase(None))
        self.net.advance(10.0)
        self.assertEqual([self.revoked(peer) for peer in (ALICE, BOB, CAROL)], [[True] * 4] * 3)
        self.stores[0].restore(BOB, WALL + 1.0)
        self.net.advance(3.0)
        self.assertEqual(self.revoked(BOB), [False] * 4)

    def test_a_replica_takes_over(self) -> None:
        """It lacks the latest entries. Nothing is missing at any process, neither then nor afterwards."""
        self.stores[0].revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(3.0)
        before = self.redis.data[b"punch:members"]
        self.stores[1].revoke(BOB, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(3.0)
        self.redis.data[b"punch:members"] = before
        self.stores[2].revoke(CAROL, AdmissionRefusal.REVOKED, WALL)
        self.start(MemberDatabase(None))
        self.net.advance(5.0)
        self.assertEqual([self.revoked(peer) for peer in (ALICE, BOB, CAROL)], [[True] * 4] * 3)

    def test_many_records(self) -> None:
        """More than are read at once; afterwards nothing is written again."""
        for number in range(250):
            self.stores[0].invite(token(number), 1, LATER, None)
        self.net.advance(8.0)
        for store in self.stores[1:]:
            self.assertEqual(len(store.records_after(0, 1000)), 250)
        entries = self.redis.get(b"punch:members")
        self.net.advance(10.0)
        self.assertEqual(self.redis.get(b"punch:members"), entries)

    def test_strangers_in_redis(self) -> None:
        """Entries of others, of another key, or copies, change nothing."""
        self.stores[0].revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(3.0)
        self.start(MemberDatabase(None), b"another key")
        self.stores[3].revoke(BOB, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(3.0)
        (first,) = self.redis.run(None, b"LRANGE", [b"punch:members", b"0", b"0"])
        self.stores[0].restore(ALICE, WALL)
        self.redis.run(None, b"RPUSH", [b"punch:members", b"", b"x" * 100, first])
        self.net.advance(3.0)
        self.assertEqual(self.revoked(BOB), [False, False, False, True])
        self.assertEqual(self.revoked(ALICE), [False] * 4)
        self.assertIsNone(self.processes[0].directory.problem)

    def test_redis_refuses_the_list(self) -> None:
        """The operator is told what is not in step, and why; the directory goes on."""
        self.redis.data[b"punch:members"] = b"zz", float("inf")
        self.net.advance(2.0)
        problem = self.processes[0].directory.problem
        self.assertIn("members and revocations are not in step", problem or "")
        self.redis.data.clear()
        self.net.advance(3.0)
        self.assertIsNone(self.processes[0].directory.problem)

    def test_a_full_disk(self) -> None:
        """What can't be stored now is stored later."""

        class Full(MemberDatabase):
            full = True

            def add_records(self, records: object) -> None:
                if self.full:
                    raise MemberStoreError("The disk is full.")
                super().add_records(records)  # type: ignore[arg-type]

        full = Full(None)
        self.start(full)
        self.stores[0].revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.net.advance(5.0)
        self.assertEqual(self.revoked(ALICE), [True, True, True, False])
        full.full = False
        self.net.advance(3.0)
        self.assertEqual(self.revoked(ALICE), [True] * 4)

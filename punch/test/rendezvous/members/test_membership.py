"""Who may use a rendezvous: invitations, lists, revocations."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.identity import PeerID
from punch.rendezvous.members import members_file
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.lists import ListFileError, parse_members
from punch.rendezvous.members.membership import (
    INVITATION_BURST,
    REVOCATION_BURST,
    AdmitPolicy,
    Membership,
    MemberStoreError,
)
from punch.rendezvous.members.records import InvitationRedeemed
from punch.test.rendezvous.registry.test_registry import ALICE, BOB, CAROL
from punch.test.rendezvous.test_service import RendezvousCase
from punch.wire.control import Accept, Error, ErrorCode, Register, Revoke
from punch.wire.invitation import AdmissionRefusal, Invitation, InvitationError, service_tag

DAY = 86400.0
SERVICE = service_tag(bytes(32))
WALL = 1_800_000_000.0


def token(seed: int = 1, service: bytes = SERVICE) -> Invitation:
    """The same one for the same seed."""
    return Invitation.new(service, lambda size: bytes([seed]) * size)


class TokenTests(SynchronousTestCase):
    """The text of an invitation."""

    def test_round_trip(self) -> None:
        text = str(token())
        self.assertEqual(Invitation.parse(text), token())
        self.assertEqual(Invitation.parse(f" {text[:20].upper()}-{text[20:]}\u200b\n"), token())
        self.assertNotIn(text, repr(token()))

    def test_every_typo_is_found(self) -> None:
        text = str(token())
        for place in range(len(text)):
            wrong = text[:place] + ("b" if text[place] == "a" else "a") + text[place + 1 :]
            self.assertRaises(InvitationError, Invitation.parse, wrong)

    def test_what_is_wrong_is_said(self) -> None:
        text = str(token())
        for wrong, said in (
            (text[:-3], "characters are missing"),
            (text + "a", "too much"),
            ("", "characters are missing"),
            (text[:-1] + "1", "letters a to z"),
            ("é" * 48, "letters a to z"),
            ("a" * 10_000, "too much"),
        ):
            problem = self.assertRaises(InvitationError, Invitation.parse, wrong)
            self.assertIn(said, str(problem))


class MembershipCase(SynchronousTestCase):
    """A membership with a store in memory."""

    policy = AdmitPolicy.INVITED

    def setUp(self) -> None:
        self.now, self.wall = 1000.0, WALL
        self.store = MemberDatabase(None)
        self.addCleanup(self.store.close)
        self.membership = Membership(self.policy, self.store, service=SERVICE, contact="ask Ann")

    def admit(self, peer: object = ALICE, invitation: object = "", host: str = "192.0.2.1") -> Error | None:
        assert peer is ALICE or peer is BOB or peer is CAROL
        return self.membership.admit(peer, "x", str(invitation), host, self.now, self.wall)

    def assert_refused(self, refusal: AdmissionRefusal, error: Error | None) -> Error:
        assert error is not None
        self.assertEqual((error.code, error.refusal), (ErrorCode.DENIED, refusal))
        return error


class InvitedTests(MembershipCase):
    """`--admit invited`."""

    def test_without_an_invitation(self) -> None:
        error = self.assert_refused(AdmissionRefusal.NOT_INVITED, self.admit())
        self.assertEqual(error.contact, "ask Ann")

    def test_redeemed_once_for_each_peer(self) -> None:
        self.store.invite(token(), 2, WALL + DAY, None)
        for peer in (ALICE, ALICE, BOB):
            self.assertIsNone(self.admit(peer, token()))
        self.assertIsNone(self.admit(ALICE))
        self.assert_refused(AdmissionRefusal.INVITATION_USED, self.admit(CAROL, token()))
        self.assertEqual([member.peer for member in self.store.members()], sorted([ALICE, BOB]))

    def test_expired(self) -> None:
        self.store.invite(token(), 1, WALL + DAY, None)
        self.wall = WALL + DAY
        self.assert_refused(AdmissionRefusal.INVITATION_EXPIRED, self.admit(ALICE, token()))

    def test_a_member_stays_when_the_invitation_has_expired(self) -> None:
        self.store.invite(token(), 1, WALL + DAY, None)
        self.assertIsNone(self.admit(ALICE, token()))
        self.wall = WALL + 2 * DAY
        self.assertIsNone(self.admit(ALICE, token()))

    def test_unknown(self) -> None:
        self.assert_refused(AdmissionRefusal.INVITATION_UNKNOWN, self.admit(ALICE, token()))

    def test_truncated(self) -> None:
        self.store.invite(token(), 1, WALL + DAY, None)
        error = self.assert_refused(AdmissionRefusal.INVITATION_UNKNOWN, self.admit(ALICE, str(token())[:-1]))
        self.assertIn("characters are missing", error.text)

    def test_for_another_service(self) -> None:
        other = token(service=service_tag(bytes([1]) * 32))
        self.assert_refused(AdmissionRefusal.INVITATION_ELSEWHERE, self.admit(ALICE, other))

    def test_a_wrong_secret_tells_nothing(self) -> None:
        """With only the number of an invitation, nobody learns whether it exists or was used."""
        real = token()
        self.store.invite(real, 1, WALL + DAY, None)
        self.assertIsNone(self.admit(ALICE, real))
        guess = Invitation(SERVICE, real.number, bytes(16))
        self.assert_refused(AdmissionRefusal.INVITATION_UNKNOWN, self.admit(BOB, guess))

    def test_guesses_are_limited_by_source(self) -> None:
        for number in range(INVITATION_BURST):
            guess = token(number % 256)
            self.assert_refused(AdmissionRefusal.INVITATION_UNKNOWN, self.admit(ALICE, guess))
        error = self.admit(ALICE, token(99))
        assert error is not None
        self.assertEqual((error.code, error.refusal), (ErrorCode.RATE, None))
        self.store.invite(token(), 1, WALL + DAY, None)
        self.assertIsNone(self.admit(BOB, token(), "198.51.100.1"))
        # A member from there comes in as before.
        self.assertIsNone(self.admit(BOB))

    def test_guesses_keep_no_neighbour_out(self) -> None:
        """Whoever has an invitation comes in, however many guesses come from the same address."""
        self.store.invite(token(), 1, WALL + DAY, None)
        for number in range(2 * INVITATION_BURST):
            self.assertIsNotNone(self.admit(ALICE, token(2 + number % 250)))
        self.assertIsNone(self.admit(BOB, token()))
        # Nor does one that keeps showing an invitation that was used.
        self.store.invite(token(200), 1, WALL + DAY, None)
        for _ in range(2 * INVITATION_BURST):
            self.assertIsNotNone(self.admit(ALICE, token()))
        self.assertIsNone(self.admit(CAROL, token(200)))

    def test_a_list_besides(self) -> None:
        self.membership.listed = frozenset([CAROL])
        self.assertIsNone(self.admit(CAROL))
        self.assert_refused(AdmissionRefusal.NOT_INVITED, self.admit(ALICE))

    def test_revoked(self) -> None:
        self.store.invite(token(), 9, WALL + DAY, None)
        self.assertIsNone(self.admit(ALICE, token()))
        self.store.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.assert_refused(AdmissionRefusal.REVOKED, self.admit(ALICE, token()))
        refused = self.membership.refused([ALICE])
        self.assert_refused(AdmissionRefusal.REVOKED, refused[ALICE])
        self.assertTrue(self.store.restore(ALICE, self.wall))
        self.assertIsNone(self.admit(ALICE))

    def test_the_owner_s_word_is_final(self) -> None:
        self.store.revoke(ALICE, AdmissionRefusal.ID_REVOKED, WALL, b"signed")
        self.store.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.assertFalse(self.store.restore(ALICE, self.wall))
        self.assert_refused(AdmissionRefusal.ID_REVOKED, self.admit(ALICE))


class OpenTests(MembershipCase):
    """`--admit open`."""

    policy = AdmitPolicy.OPEN

    def test_anyone(self) -> None:
        self.assertIsNone(self.admit())
        self.assertIsNone(self.admit(BOB, "not a token"))
        self.assertEqual(self.membership.refused([ALICE, BOB]), {})

    def test_but_not_who_was_revoked(self) -> None:
        self.store.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.assert_refused(AdmissionRefusal.REVOKED, self.admit())


class ListedTests(MembershipCase):
    """`--admit listed`."""

    policy = AdmitPolicy.LISTED

    def test_list(self) -> None:
        self.membership.listed = parse_members(f"# friends\n{ALICE}  # Alice\n\n{str(BOB).upper()}\n")
        self.assertIsNone(self.admit(ALICE))
        self.store.invite(token(), 1, WALL + DAY, None)
        self.assert_refused(AdmissionRefusal.NOT_LISTED, self.admit(CAROL, token()))
        self.membership.listed = frozenset([BOB])
        self.assertEqual(list(self.membership.refused([ALICE, BOB])), [ALICE])

    def test_mistakes_are_named_with_line_and_column(self) -> None:
        typo = ("b" if str(ALICE)[0] != "b" else "c") + str(ALICE)[1:]
        for text, place in (
            (f"{BOB}\n  {typo}", "line 2, column 3: "),
            ("192.0.2.0/24", "line 1, column 1: "),
            (f"{ALICE} {BOB}", f"line 1, column {len(str(ALICE)) + 2}: "),
        ):
            problem = self.assertRaises(ListFileError, parse_members, text)
            self.assertIn(place, str(problem))


class DatabaseTests(SynchronousTestCase):
    """The file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "members.sqlite"

    def open(self) -> MemberDatabase:
        database = MemberDatabase(self.path)
        self.addCleanup(database.close)
        return database

    def test_kept(self) -> None:
        first = self.open()
        first.invite(token(), 1, WALL + DAY, 10**10)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        second = self.open()
        self.assertEqual(second.redeem(token(), ALICE, "alice", WALL).value, "accepted")
        self.assertTrue(first.is_member(ALICE))
        (member,) = first.members()
        self.assertEqual((member.name, member.since, member.relay_quota), ("alice", WALL, 10**10))
        self.assertNotIn(token().secret, self.path.read_bytes())

    def test_changes_of_others_are_seen(self) -> None:
        service, command = self.open(), self.open()
        self.assertFalse(service.changed())
        service.invite(token(), 1, WALL + DAY, None)
        self.assertFalse(service.changed())
        command.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        self.assertTrue(service.changed())
        self.assertFalse(service.changed())

    def test_closed_and_opened_again(self) -> None:
        database = self.open()
        database.close()
        database.invite(token(), 1, WALL + DAY, None)
        self.assertEqual(database.redeem(token(), ALICE, "", WALL).value, "accepted")

    def test_what_is_no_list_of_members(self) -> None:
        def directory() -> None:
            self.path.mkdir()

        def pipe() -> None:
            os.mkfifo(self.path)

        def garbage() -> None:
            self.path.write_bytes(b"x" * 4096)

        def foreign() -> None:
            with sqlite3.connect(self.path) as connection:
                connection.execute("CREATE TABLE x (y)")
            connection.close()

        self.path.parent.mkdir()
        for make, said in (
            (directory, "a directory"),
            (pipe, "a named pipe"),
            (garbage, "not a database"),
            (foreign, "not a list of members"),
        ):
            make()
            problem = self.assertRaises(MemberStoreError, MemberDatabase, self.path)
            self.assertIn(said, str(problem))
            if self.path.is_dir():
                self.path.rmdir()
            else:
                self.path.unlink()

    def test_one_wait_for_another_process(self) -> None:
        """All peers of the service wait with it."""
        database = self.open()
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.patch(members_file, "BUSY_TIME", 0.01)
        self.assertTrue(database.waits)
        for _ in range(3):
            self.assertRaises(MemberStoreError, database.revoke, ALICE, AdmissionRefusal.REVOKED, WALL)
            self.assertFalse(database.waits)
            self.assertRaises(MemberStoreError, database.check)
            self.assertFalse(database.waits)
            database.close()
        other.execute("ROLLBACK")
        self.assertIsNotNone(database.problem)
        database.check()
        self.assertIsNone(database.problem)

    def test_what_could_not_be_read(self) -> None:
        """It is a problem until it can be, however well everything else is read."""
        database = self.open()
        database.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("UPDATE revocations SET refusal = 'x'")
        self.assertRaises(MemberStoreError, database.revocation, ALICE)
        self.assertIsNone(database.revocation(BOB))
        self.assertRaises(MemberStoreError, database.check)
        self.assertIn("not what was written", str(database.problem))
        other.execute("UPDATE revocations SET refusal = 'revoked'")
        database.check()
        self.assertIsNone(database.problem)

    def test_entries_that_nobody_wrote(self) -> None:
        """A damaged file is named, whatever is wrong with it."""
        database = self.open()
        database.invite(token(), 1, WALL + DAY, None)
        database.revoke(ALICE, AdmissionRefusal.REVOKED, WALL)
        with sqlite3.connect(self.path) as connection:
            connection.execute("UPDATE revocations SET refusal = 'x'")
            connection.execute("UPDATE invitations SET digest = 5")
        self.assertRaises(MemberStoreError, database.revocation, ALICE)
        self.assertRaises(MemberStoreError, database.members)
        self.assertRaises(MemberStoreError, database.redeem, token(), ALICE, "", WALL)
        connection.execute("UPDATE revocations SET peer = 'x'")
        connection.commit()
        self.assertRaises(MemberStoreError, database.revoked)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        database.close()
        content = self.path.read_bytes()
        self.path.write_bytes(
            content.replace(b"CREATE TABLE revocations", b"CREATE \xff\xfe\xfdLE revocations")
        )
        self.assertRaises(MemberStoreError, MemberDatabase, self.path)


class _CountedReads(MemberDatabase):
    """
    A database that counts how often all revocations are read, of which there may be 100,000.

    :ivar reads: how often they were.
    """

    def __init__(self, path: Path | None) -> None:
        self.reads = 0
        super().__init__(path)

    def revoked(self) -> frozenset[PeerID]:
        self.reads += 1
        return super().revoked()


class ServiceTests(RendezvousCase):
    """What a service does with it."""

    def setUp(self) -> None:
        super().setUp()
        self.store = MemberDatabase(None)
        self.addCleanup(self.store.close)
        self.members = Membership(AdmitPolicy.INVITED, self.store, service=SERVICE, contact="ask Ann")
        self.membership = self.members
        self.restart()

    def test_a_new_user(self) -> None:
        """The refusal is the last line; with an invitation the same peer comes in, and again without."""
        client = self.connect(self.alice)
        client.send(Register("alice", Accept.ASK))
        self.net.advance(0.5)
        told = client.last
        self.assertEqual(
            (told["code"], told["refusal"], told["contact"]), ("denied", "not-invited", "ask Ann")
        )
        self.assertIsNotNone(client.ended)
        self.store.invite(token(), 1, self.home.monotonic() + 1e12, None)
        for invitation in (str(token()), ""):
            client = self.connect(self.alice)
            client.send(Register("alice", Accept.ASK, invitation))
            self.net.advance(0.5)
            self.assertEqual(client.last["type"], "welcome")

    def test_the_owner_revokes_its_id(self) -> None:
        """The connection ends with the reason, and the ID can't register again, nor can a thief."""
        self.members.listed = frozenset([self.alice.peer_id, self.bob.peer_id])
        alice, bob = self.register(self.alice), self.register(self.bob)
        bob.send(Revoke.by(self.alice))
        self.net.advance(0.5)
        self.assertEqual(bob.last["code"], "forbidden")
        alice.send(Revoke.by(self.alice))
        self.net.advance(0.5)
        self.assertEqual(alice.last["refusal"], "id-revoked")
        self.assertIsNotNone(alice.ended)
        again = self.connect(self.alice)
        again.send(Register("thief", Accept.ASK))
        self.net.advance(0.5)
        self.assertEqual(again.last["refusal"], "id-revoked")

    def test_revocations_are_limited_by_source(self) -> None:
        """Identities are free, so that their revocations could fill the disk."""
        keys = [self.key(str(number)) for number in range(REVOCATION_BURST + 1)]
        errors = [self.members.revoke(key.peer_id, Revoke.by(key), "192.0.2.9", 0.0, 0.0) for key in keys]
        self.assertEqual({error.code for error in errors[:-1]}, {ErrorCode.DENIED})
        self.assertEqual(errors[-1].code, ErrorCode.RATE)
        self.assertEqual(len(self.store.revoked()), REVOCATION_BURST)

    def test_revocations_in_all(self) -> None:
        """Also those from everywhere have an end; whoever is revoked stays so."""
        members = Membership(AdmitPolicy.OPEN, self.store, service=SERVICE, most_revocations=3)
        keys = [self.key(str(number)) for number in range(5)]
        errors = [
            members.revoke(key.peer_id, Revoke.by(key), f"192.0.{number}.1", 0.0, 0.0)
            for number, key in enumerate(keys)
        ]
        self.assertEqual([error.code for error in errors], [ErrorCode.DENIED] * 3 + [ErrorCode.RATE] * 2)
        self.assertEqual(set(self.store.revoked()), {key.peer_id for key in keys[:3]})

    def test_a_refused_revocation_reads_no_list(self) -> None:
        """However many were revoked before, a stranger's message is refused without reading them."""
        store = _CountedReads(None)
        self.addCleanup(store.close)
        self.members = self.membership = Membership(AdmitPolicy.OPEN, store, service=SERVICE)
        self.restart()
        before = store.reads
        for _ in range(3):
            alice = self.register(self.alice)
            alice.send(Revoke.by(self.bob))
            self.net.advance(0.5)
            self.assertEqual(alice.last["code"], "forbidden")
        for number in range(REVOCATION_BURST + 3):
            key = self.key(f"revoked {number}")
            client = self.register(key)
            client.send(Revoke.by(key))
            self.net.advance(0.5)
        self.assertEqual(client.last["code"], "rate")
        self.assertEqual(store.reads, before)

    def test_changes_concern_few(self) -> None:
        """Only peers that were admitted or revoked are looked at, and all that belongs to them ends."""
        store = _CountedReads(None)
        self.addCleanup(store.close)
        self.members = self.membership = Membership(AdmitPolicy.OPEN, store, service=SERVICE)
        self.restart()
        alice, bob = self.register(self.alice), self.register(self.bob)
        before = store.reads
        store.revoke(self.alice.peer_id, AdmissionRefusal.REVOKED, 0.0)
        store.revoke(self.bob.peer_id, AdmissionRefusal.REVOKED, 0.0)
        self.assertEqual(self.service.end_changed({self.alice.peer_id, self.key("nobody").peer_id}), 1)
        self.net.advance(0.5)
        self.assertEqual((alice.last["refusal"], bob.ended), ("revoked", None))
        self.assertEqual(store.reads, before)

    def test_who_was_admitted_too_late(self) -> None:
        """Others have redeemed its invitation earlier: nobody has revoked it."""
        invitation = Invitation.new(SERVICE, lambda size: bytes(size))
        self.members = self.membership = Membership(AdmitPolicy.INVITED, self.store, service=SERVICE)
        self.restart()
        self.store.invite(invitation, 1, 1e12, None)
        late = self.connect(self.alice)
        late.send(Register("x", Accept.ASK, str(invitation)))
        self.net.advance(0.5)
        self.assertEqual(late.last["type"], "welcome")
        self.store.add_records([InvitationRedeemed(invitation.number, self.bob.peer_id, "x", -1.0)])
        self.assertEqual(self.service.end_refused(list_changed=False), 1)
        self.net.advance(0.5)
        self.assertEqual(late.last["refusal"], "invitation-used")

    def test_revoked_while_registered(self) -> None:
        self.members.listed = frozenset([self.alice.peer_id, self.bob.peer_id])
        alice, bob = self.register(self.alice), self.register(self.bob)
        self.store.revoke(self.alice.peer_id, AdmissionRefusal.REVOKED, 0.0)
        self.members.listed = frozenset([self.alice.peer_id])
        self.assertEqual(self.service.end_refused(), 2)
        self.net.advance(0.5)
        self.assertEqual((alice.last["refusal"], bob.last["refusal"]), ("revoked", "revoked"))
        self.assertIsNotNone(bob.ended)

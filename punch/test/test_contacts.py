"""The address book: petnames, blocked peers, versions of its file, several processes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.contact_entries import Contact, LearnedPath
from punch.contacts import (
    LOCK_TIME,
    MAX_PENDING,
    MAX_PENDING_OF_PEERS,
    AddressBook,
    AddressBookError,
)
from punch.files import try_lock
from punch.names import MAX_CLAIMED, check_petname, petname_from
from punch.node.policies import Decision, decide
from punch.sentences import sentence_of
from punch.test.apps.chat.chat_network import peer_id
from punch.wire.control import Accept

ALICE, BOB, EVE = peer_id(1), peer_id(2), peer_id(3)


class BookTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "known.json"
        self.book = AddressBook(self.path)

    def refused(self, code: str, *arguments: object) -> str:
        error = self.assertRaises(AddressBookError, self.book.rename, *arguments)
        self.assertEqual(error.code, code)
        return sentence_of(error)


class NameTests(BookTestCase):
    """What this side calls others."""

    def test_given_at_the_first_meeting(self) -> None:
        self.assertTrue(self.book.add(BOB, "Bob"))
        self.assertEqual(self.book.entry(BOB), Contact("Bob", "Bob", known=True, named=True))
        self.assertEqual((self.book.find("bob"), self.book.find(" BOB ")), (BOB, BOB))

    def test_never_changed_by_the_peer(self) -> None:
        self.book.add(BOB, "Bob")
        self.book.add(BOB, "Alice")
        self.assertEqual(self.book.entry(BOB), Contact("Alice", "Bob", known=True, named=True))

    def test_called_before_its_name_is_known(self) -> None:
        self.book.add(BOB, "")
        self.assertIsNone(self.book.name_of(BOB))
        self.book.add(BOB, "Bob")
        self.assertEqual(self.book.name_of(BOB), "Bob")
        self.book.add(BOB, "")
        self.assertEqual(self.book.entry(BOB).claimed, "Bob")

    def test_taken(self) -> None:
        """The second Bob gets no name of ours, and is not called Bob when the first one is forgotten."""
        self.book.add(BOB, "Bob")
        self.book.add(EVE, "BOB")
        self.assertEqual(self.book.entry(EVE), Contact("BOB", None, known=True, named=True))
        self.book.forget(BOB)
        self.book.add(EVE, "Bob")
        self.assertIsNone(self.book.name_of(EVE))

    def test_taken_away(self) -> None:
        self.book.add(BOB, "Bob")
        self.book.rename(BOB, None)
        self.book.add(BOB, "Bobby")
        self.assertIsNone(self.book.name_of(BOB))
        self.assertIsNone(self.book.find("Bob"))

    def test_words_that_mean_something_else(self) -> None:
        """Nobody is called as this side is in front of its own lines, nor as all are."""
        for name in ("you", "You", "ＹＯＵ", "all", "everything"):
            self.book.add(BOB, name)
            self.assertIsNone(self.book.name_of(BOB))
            self.assertIn("means something else", self.refused("bad-name", EVE, name))
            self.book.forget(BOB)

    def test_alike_never_automatically(self) -> None:
        """A peer gets no petname by itself if its name looks like one that is taken, or is invisible."""
        self.book.add(BOB, "alice")
        for claimed in (
            "alice",
            "ali\u034fce",
            "\u0430lice",
            "aIice",
            "\u2066alice\u2069",
            "ALlCE",
            "a\u0301lice",
            BOB.short,
        ):
            self.book.add(EVE, claimed)
            self.assertIsNone(self.book.name_of(EVE), ascii(claimed))
            self.assertEqual(self.book.alike(EVE, claimed), [BOB], ascii(claimed))
            self.book.forget(EVE)
        for claimed in (
            "\u3164",
            "\u034f",
            "\u200b\u2060",
            "\u0301\u0302",
            "\U00013441",
            "y\u043eu",
            "He1p",
            "\ufeff",
        ):
            self.book.add(EVE, claimed)
            self.assertIsNone(self.book.name_of(EVE), ascii(claimed))
            self.book.forget(EVE)
        self.book.add(EVE, "e\u200bve\u2060")
        self.assertEqual((self.book.name_of(EVE), self.book.find("Ev\xade")), ("eve", EVE))

    def test_the_id_of_somebody_else_in_a_name(self) -> None:
        """As it is shown beside names that look alike: such a name is nobody's, but the user may give it."""
        self.book.add(BOB, "bob")
        for claimed in (
            f"alice ({BOB.short})",
            f"bob ({BOB.short.upper()})",
            f"bob({BOB.short[:4]}-{BOB.short[4:]})",
            f"{BOB.short}\u200b, bob",
        ):
            self.book.add(EVE, claimed)
            self.assertIsNone(self.book.name_of(EVE), ascii(claimed))
            self.assertEqual(self.book.alike(EVE, claimed), [BOB], ascii(claimed))
            self.book.forget(EVE)
        self.book.add(EVE, f"eve ({EVE.short})")
        self.assertEqual(self.book.name_of(EVE), f"eve--{EVE.short}")
        self.book.rename(EVE, f"bob-{BOB.short}")
        self.assertEqual(self.book.alike(EVE, f"bob-{BOB.short}", given=True), [BOB])

    def test_mixed_scripts_never_automatically(self) -> None:
        """A peer gets no petname by itself if its name mixes scripts, even if it comes first."""
        self.book.add(EVE, "\u0430lice")
        self.assertIsNone(self.book.name_of(EVE))
        self.book.add(BOB, "\u041e\u043b\u044c\u0433\u0430")
        self.assertEqual(self.book.name_of(BOB), "\u041e\u043b\u044c\u0433\u0430")

    def test_alike_by_the_user(self) -> None:
        """He may: both are shown with their IDs then. What is not seen makes no difference."""
        self.book.rename(BOB, "alice")
        self.book.rename(EVE, "a1ice")
        self.assertEqual(self.book.alike(BOB, "alice", given=True), [EVE])
        self.assertEqual(self.book.alike(EVE, "a1ice", given=True), [BOB])
        self.refused("name-taken", EVE, "ali\u034fce")
        self.refused("bad-name", EVE, "\u3164")
        self.refused("bad-name", EVE, "help")
        self.book.add(ALICE, "Alice")
        self.assertEqual(self.book.alike(BOB, "alice", given=True), [EVE])
        self.book.forget(EVE)
        self.assertEqual(self.book.alike(BOB, "alice", given=True), [])
        self.assertEqual(self.book.alike(BOB, "alice"), [ALICE])

    def test_given_by_the_user(self) -> None:
        self.book.rename(BOB, "  Robert ")
        self.assertEqual(self.book.entry(BOB), Contact(name="Robert", named=True))
        self.assertNotIn(BOB, self.book)
        self.assertIn("2", self.refused("name-taken", EVE, "ROBERT") + "2")
        self.book.rename(BOB, "robert")
        self.assertEqual(self.book.name_of(BOB), "robert")

    def test_what_looks_the_same_is_the_same(self) -> None:
        self.book.rename(BOB, "Straße")
        self.refused("name-taken", EVE, "STRASSE")
        self.book.rename(BOB, "ﬁnn")
        self.refused("name-taken", EVE, "finn")
        self.assertEqual(self.book.find("FINN"), BOB)

    def test_what_is_no_name(self) -> None:
        bad = [
            "",
            " ",
            "two words",
            "a" * 65,
            "-dash",
            ".dot",
            "/call",
            "a\nb",
            "\u202eevil",
            "a\x1b[31m",
            "<b>",
            "@x",
        ]
        for name in bad:
            self.refused("bad-name", BOB, name)
        for name in (
            str(ALICE),
            str(ALICE).upper(),
            str(ALICE)[:30],
            "-".join(str(ALICE)[i : i + 8] for i in (0, 8, 16)),
        ):
            self.assertIn("peer ID", self.refused("bad-name", BOB, name))
        for name in ("a", "Zoë", "日本", "bob.2", "a_b-c", "0x0"):
            self.assertEqual(check_petname(name), name)

    def test_what_a_stranger_may_call_himself(self) -> None:
        cases = {
            "Anna Maria": "Anna-Maria",
            "\u202eevil\x1b[31m": "evil--31m",
            "é" * 10_000: "é" * MAX_CLAIMED,
            "<script>": "script",
            "   ": None,
            "😀": None,
            str(ALICE): None,
            "..": None,
        }
        for claimed, name in cases.items():
            self.assertEqual(petname_from(claimed), name, claimed[:20])

    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(st.text(max_size=100))
    def test_whatever_a_stranger_calls_himself(self, claimed: str) -> None:
        """The name that it gets is one that the user could have given."""
        name = petname_from(claimed)
        if name is not None:
            self.assertEqual(check_petname(name), name)

    def test_a_name_of_10000_characters(self) -> None:
        self.book.add(BOB, "b" * 10_000)
        self.assertEqual(len(self.book.entry(BOB).claimed), MAX_CLAIMED)
        self.assertLess(self.path.stat().st_size, 1000)


class BlockTests(BookTestCase):
    """Whose calls ring no bell."""

    def test_kept(self) -> None:
        self.book.add(BOB, "Bob")
        self.book.block(BOB)
        again = AddressBook(self.path)
        self.assertTrue(again.blocked(BOB))
        self.assertIn(BOB, again)
        again.block(BOB, False)
        self.assertFalse(self.book.blocked(BOB))

    def test_before_everything_else(self) -> None:
        for accept in Accept:
            for known in (True, False):
                self.assertIs(decide(accept, known, blocked=True), Decision.REFUSE)

    def test_strangers_can_be_blocked(self) -> None:
        self.book.block(EVE)
        self.assertNotIn(EVE, self.book)
        self.assertTrue(AddressBook(self.path).blocked(EVE))
        self.book.forget(EVE)
        self.assertFalse(AddressBook(self.path).blocked(EVE))
        self.assertEqual(len(AddressBook(self.path)), 0)


class FileTests(BookTestCase):
    """What is on the disk."""

    def test_kept(self) -> None:
        self.book.add(ALICE, "Alice")
        self.book.add(BOB, "B\u00f6b \U0001f600")
        again = AddressBook(self.path)
        self.assertEqual(list(again), sorted([ALICE, BOB]))
        self.assertEqual(
            (again.entry(ALICE), again.entry(BOB)), (self.book.entry(ALICE), self.book.entry(BOB))
        )
        self.assertEqual(self.path.stat().st_mode & 0o077, 0)
        self.assertEqual(json.loads(self.path.read_bytes())["version"], 2)

    def test_the_first_version(self) -> None:
        """Peers of the first file format stay known, with their names if these are free and usable."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = {ALICE: "Bob", BOB: "bob", EVE: ""}
        peers = {str(peer): {"name": name} for peer, name in names.items()}
        for content in ({"version": 1, "peers": peers}, {"peers": peers}):
            self.path.write_text(json.dumps(content))
            book = AddressBook(self.path)
            self.assertTrue(all(peer in book for peer in names))
            self.assertEqual([book.name_of(peer) for peer in names], ["Bob", None, None])
            book.add(EVE, "Eve")
            self.assertEqual(json.loads(self.path.read_bytes())["version"], 2)
            self.assertEqual(AddressBook(self.path).find("eve"), EVE)

    def test_a_claimed_name_with_what_is_not_seen(self) -> None:
        """A damaged book puts nothing on a terminal: the name is forgotten, until the next call tells it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for claimed, kept in (
            ("Bob \x1b[2J", ""),
            ("B\nob", ""),
            ("Bo\u202eb", ""),
            ("Zo\u00eb K", "Zo\u00eb K"),
        ):
            entry = {"claimed": claimed, "known": True, "blocked": False, "name": None}
            self.path.write_text(json.dumps({"version": 2, "peers": {str(BOB): entry}}))
            self.assertEqual(AddressBook(self.path).entry(BOB).claimed, kept)
            self.path.write_text(json.dumps({"peers": {str(BOB): {"name": claimed}}}))
            self.assertEqual(AddressBook(self.path).entry(BOB).claimed, kept)

    def test_names_of_earlier_versions(self) -> None:
        """Books with names that nobody would get today load; who can't be told from another has no name."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mallory = peer_id(4)
        entry = {"claimed": "x", "known": True, "blocked": False}
        for names, found in (
            (("ali\u034fce", "alice", "\u0430lice", "eve"), (None, "alice", "\u0430lice", "eve")),
            (("ali\u034fce", "alice\u3164", "bob", None), (None, "alice", "bob", None)),
            (("\u3164", "me", f"{ALICE!s:.20}_{ALICE!s:.20}", "peers"), (None, "me", None, "peers")),
        ):
            peers = dict(zip((ALICE, BOB, EVE, mallory), names, strict=True))
            book = {"version": 2, "peers": {str(p): {**entry, "name": n} for p, n in peers.items()}}
            self.path.write_text(json.dumps(book))
            loaded = AddressBook(self.path)
            got = sorted(str(loaded.name_of(peer)) for peer in peers)
            self.assertEqual(got, sorted(map(str, found)))
            self.assertTrue(all(peer in loaded for peer in peers))
            self.assertTrue(loaded.block(ALICE))
            self.assertEqual(sorted(str(AddressBook(self.path).name_of(peer)) for peer in peers), got)

    def test_in_memory(self) -> None:
        book = AddressBook(None)
        book.add(ALICE, "Alice")
        self.assertEqual((list(book), book.find("alice")), ([ALICE], ALICE))

    def test_unchanged(self) -> None:
        self.book.add(ALICE, "Alice")
        before = self.path.stat().st_ino
        self.assertFalse(self.book.add(ALICE, "Alice"))
        self.assertFalse(self.book.rename(ALICE, "Alice"))
        self.assertEqual(self.path.stat().st_ino, before)

    def test_damaged(self) -> None:
        """A file that can't be read is named, and stays as it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"claimed": "Alice", "known": True, "blocked": False}
        good = {"version": 2, "peers": {str(ALICE): entry}}
        for content in (
            b"",
            b"{",
            b"\xff",
            b"[]",
            b"{}",
            b'{"version":2,"peers":[]}',
            b'{"version":"2","peers":{}}',
            b'{"peers":{"x":{"name":"X"}}}',
            json.dumps(good).encode()[:-3],
            json.dumps({"version": 2, "peers": {str(ALICE): {}}}).encode(),
            json.dumps({"version": 2, "peers": {str(ALICE): {**entry, "name": 1}}}).encode(),
            json.dumps({"version": 2, "peers": {str(ALICE): {**entry, "name": str(BOB)}}}).encode(),
            json.dumps({"version": 2, "peers": {str(ALICE): {**entry, "known": "yes"}}}).encode(),
            json.dumps(
                {"version": 2, "peers": {str(p): {**entry, "name": "x"} for p in (ALICE, BOB)}}
            ).encode(),
            json.dumps({"peers": {str(ALICE): {"name": 1}}}).encode(),
            json.dumps({"peers": {str(ALICE): "Alice"}}).encode(),
            b"[" * 100_000,
        ):
            self.path.write_bytes(content)
            message = sentence_of(self.assertRaises(AddressBookError, AddressBook, self.path))
            self.assertIn(str(self.path), message)
            self.assertIn("damaged", message)
            self.assertEqual(self.path.read_bytes(), content)
        self.path.write_text(json.dumps(good))
        self.assertEqual(list(AddressBook(self.path)), [ALICE])

    def test_newer(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text('{"version": 3, "peers": {"new": 1}}')
        self.assertIn(
            "newer version", sentence_of(self.assertRaises(AddressBookError, AddressBook, self.path))
        )

    def test_interrupted(self) -> None:
        """When writing fails, the old file is whole, nothing else is left, and the change holds for now."""
        self.book.add(ALICE, "Alice")
        before = self.path.read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        message = sentence_of(self.assertRaises(AddressBookError, self.book.add, BOB, "Bob"))
        self.assertIn("No space left on device", message)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(sorted(os.listdir(self.path.parent)), [".known.json.lock", "known.json"])
        self.assertIn(BOB, self.book)

    def test_written_later(self) -> None:
        """A change that could not be written stays in effect when others change the file."""
        other = AddressBook(self.path)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        disk = self.patch(os, "fsync", full)
        self.assertRaises(AddressBookError, self.book.block, EVE)
        self.assertRaises(AddressBookError, self.book.close, self.fail)
        disk.restore()
        other.add(ALICE, "Alice")
        self.assertEqual((self.book.blocked(EVE), ALICE in self.book), (True, True))
        self.assertFalse(AddressBook(self.path).blocked(EVE))
        self.book.add(BOB, "Bob")
        self.assertTrue(AddressBook(self.path).blocked(EVE))

    def refused_by_disk(self, change: Callable[..., object], *arguments: object) -> None:
        self.assertIn("No space left", sentence_of(self.assertRaises(AddressBookError, change, *arguments)))

    def test_all_that_waits_is_written(self) -> None:
        """In the order in which it was changed, on what the file has then."""
        disk = self.patch(os, "fsync", full_disk)
        for change in (
            lambda: self.book.add(BOB, "Bob"),
            lambda: self.book.rename(BOB, "Bobby"),
            lambda: self.book.block(BOB),
            lambda: self.book.grant(BOB, "files"),
            lambda: self.book.rename(ALICE, "Bob"),
            lambda: self.book.block(BOB, False),
            lambda: self.book.block(EVE),
            lambda: self.book.forget(EVE),
            lambda: self.book.block(EVE),
            lambda: self.book.forget(EVE),
        ):
            self.refused_by_disk(change)
        disk.restore()
        self.book.close(self.fail)
        again = AddressBook(self.path)
        self.assertEqual(list(again), sorted([ALICE, BOB]))
        self.assertEqual((again.find("bobby"), again.find("bob")), (BOB, ALICE))
        self.assertEqual(again.entry(BOB), self.book.entry(BOB))
        self.assertFalse(again.blocked(BOB))

    def written_later(self, *changes: Callable[[], object]) -> AddressBook:
        """Return what the file has if these changes could only be written after one of another process."""
        disk = self.patch(os, "fsync", full_disk)
        for change in changes:
            self.refused_by_disk(change)
        disk.restore()
        AddressBook(self.path).block(EVE)
        self.book.close(self.fail)
        return AddressBook(self.path)

    def test_a_peer_that_renames_itself_before_its_first_name_is_written(self) -> None:
        """It keeps its petname, and what was learned of it in between is kept."""
        again = self.written_later(
            lambda: self.book.add(BOB, "Bob"),
            lambda: self.book.learn(BOB, LearnedPath("network", "192.0.2.1", "srflx", "ice", 1)),
            lambda: self.book.add(BOB, "Bobby"),
        )
        entry = again.entry(BOB)
        self.assertEqual((entry.name, entry.claimed, len(entry.paths)), ("Bob", "Bobby", 1))

    def test_a_name_that_another_peer_had(self) -> None:
        """It is free by the time that it is given, also if the other peer loses its next name too."""
        self.book.rename(ALICE, "x")
        again = self.written_later(
            lambda: self.book.rename(ALICE, None),
            lambda: self.book.rename(BOB, "x"),
            lambda: self.book.rename(ALICE, "z"),
            lambda: self.book.rename(ALICE, None),
        )
        self.assertEqual((again.name_of(ALICE), again.name_of(BOB)), (None, "x"))

    def test_a_name_that_a_forgotten_peer_had(self) -> None:
        self.book.rename(ALICE, "x")
        again = self.written_later(
            lambda: self.book.forget(ALICE),
            lambda: self.book.rename(BOB, "x"),
            lambda: self.book.add(ALICE, "Alice"),
            lambda: self.book.forget(ALICE),
        )
        self.assertEqual((list(again), again.name_of(BOB)), (sorted([BOB, EVE]), "x"))


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


class TwoProcessesTests(BookTestCase):
    """`punch peers` beside a running peer."""

    def test_both_change_it(self) -> None:
        other = AddressBook(self.path)
        self.book.add(ALICE, "Alice")
        other.add(BOB, "Bob")
        self.book.rename(EVE, "Eve")
        for book in (self.book, other, AddressBook(self.path)):
            self.assertEqual([book.find(name) for name in ("alice", "bob", "eve")], [ALICE, BOB, EVE])

    def test_one_name_for_both(self) -> None:
        other = AddressBook(self.path)
        self.book.rename(ALICE, "Al")
        error = self.assertRaises(AddressBookError, other.rename, BOB, "al")
        self.assertEqual(error.code, "name-taken")

    def lock(self) -> int:
        """Another process changes the book, until this is closed."""
        descriptor = os.open(self.path.with_name(".known.json.lock"), os.O_RDWR)
        self.assertTrue(try_lock(descriptor))
        return descriptor

    def test_a_lock_that_stays(self) -> None:
        self.book.add(ALICE, "Alice")
        self.addCleanup(os.close, self.lock())
        waits: list[float] = []
        self.book.sleep = waits.append
        error = self.assertRaises(AddressBookError, self.book.add, BOB, "Bob")
        self.assertIn("another process", sentence_of(error))
        self.assertAlmostEqual(sum(waits), LOCK_TIME)
        self.assertEqual(list(AddressBook(self.path)), [ALICE])

    def test_what_waits_is_bounded(self) -> None:
        """
        Where the lock stays another's, a later change takes the place of an earlier one of the same. When too
        many wait, others are refused, until they are written: first those that peers make, then all but
        blocks.
        """
        self.book.add(BOB, "Bob")
        lock = self.lock()
        for number in range(MAX_PENDING):
            self.book.learn(BOB, LearnedPath("network", "192.0.2.1", "srflx", "ice", number))
            self.book.block(BOB, number % 2 == 0)
        for number in range(MAX_PENDING_OF_PEERS - 2):
            self.assertTrue(self.book.add(BOB, f"Bob {number}"))
        elsewhere = LearnedPath("network", "192.0.2.2", "srflx", "ice", 1)
        self.assert_held(self.book.learn, BOB, elsewhere)
        self.assert_held(self.book.add, BOB, "Bob again")
        self.assertTrue(
            self.book.learn(BOB, LearnedPath("network", "192.0.2.1", "srflx", "ice", MAX_PENDING))
        )
        for number in range(MAX_PENDING - MAX_PENDING_OF_PEERS):
            self.assertTrue(self.book.grant(BOB, f"service{number}"))
        self.assert_held(self.book.rename, EVE, "Eve")
        self.assert_held(self.book.grant, BOB, "another")
        self.assertTrue(self.book.grant(BOB, "service0", False))
        self.assertTrue(self.book.block(EVE))
        self.assertTrue(self.book.blocked(EVE))
        self.assertFalse(AddressBook(self.path).blocked(EVE))
        os.close(lock)
        self.assertTrue(self.book.learn(BOB, elsewhere))
        again = AddressBook(self.path)
        self.assertEqual(again.entry(BOB), self.book.entry(BOB))
        entry = again.entry(BOB)
        self.assertEqual(entry.claimed, f"Bob {MAX_PENDING_OF_PEERS - 3}")
        self.assertEqual((len(entry.services), len(entry.paths)), (MAX_PENDING - MAX_PENDING_OF_PEERS - 1, 2))
        self.assertTrue(again.blocked(EVE))

    def assert_held(self, change: Callable[..., object], *arguments: object) -> None:
        before = [self.book.entry(peer) for peer in (BOB, EVE)]
        error = self.assertRaises(AddressBookError, change, *arguments)
        self.assertIn("held by another process", sentence_of(error))
        self.assertEqual([self.book.entry(peer) for peer in (BOB, EVE)], before)

    def test_services_are_granted(self) -> None:
        """The field is optional: a book without it is as it was."""
        self.book.add(BOB, "Bob")
        before = self.path.read_bytes()
        self.assertNotIn(b"services", before)
        self.assertFalse(self.book.granted(BOB, "echo/1"))
        self.assertTrue(self.book.grant(BOB, "echo/1"))
        self.assertFalse(self.book.grant(BOB, "echo/1"))
        again = AddressBook(self.path)
        self.assertTrue(again.granted(BOB, "echo/1"))
        self.assertFalse(again.granted(BOB, "echo/2"))
        self.assertFalse(again.granted(EVE, "echo/1"))
        self.assertTrue(again.grant(BOB, "echo/1", False))
        self.assertEqual(self.path.read_bytes(), before)
        for wrong in ({"echo/1": True}, ["echo/1", 1], "echo/1"):
            content = json.loads(before)
            content["peers"][str(BOB)]["services"] = wrong
            self.path.write_text(json.dumps(content))
            self.assertRaises(AddressBookError, AddressBook, self.path)

    def test_a_lock_that_goes(self) -> None:
        self.book.add(ALICE, "Alice")
        descriptor = self.lock()
        self.book.sleep = lambda delay: os.close(descriptor)
        self.assertTrue(self.book.add(BOB, "Bob"))
        self.assertIn(BOB, AddressBook(self.path))

    def test_nothing_waits_in_a_reactor(self) -> None:
        """A change while another process holds the lock takes effect at once, and is written later."""
        self.book.add(ALICE, "Alice")
        other = AddressBook(self.path)
        descriptor = self.lock()
        self.assertTrue(self.book.add(BOB, "Bob"))
        self.assertTrue(self.book.block(EVE))
        self.assertFalse(self.book.block(EVE))
        self.assertEqual([self.book.find("bob"), self.book.blocked(EVE)], [BOB, True])
        self.assertEqual(list(AddressBook(self.path)), [ALICE])
        os.close(descriptor)
        other.rename(ALICE, "Al")
        descriptor = self.lock()
        self.assertEqual([self.book.name_of(ALICE), self.book.name_of(BOB)], ["Al", "Bob"])
        self.assertEqual(list(AddressBook(self.path)), [ALICE])
        os.close(descriptor)
        self.assertIn(BOB, self.book)
        found = AddressBook(self.path)
        self.assertEqual([found.find(name) for name in ("al", "bob")], [ALICE, BOB])
        self.assertTrue(found.blocked(EVE))

    def test_the_end_while_another_process_changes_something(self) -> None:
        """A process that ends waits for the lock, so that its changes are written."""
        self.book.add(ALICE, "Alice")
        descriptor = self.lock()
        self.book.block(EVE)
        self.book.close(lambda delay: os.close(descriptor))
        self.assertTrue(AddressBook(self.path).blocked(EVE))

    def test_a_name_that_another_process_gives_first(self) -> None:
        self.book.add(ALICE, "Alice")
        other = AddressBook(self.path)
        descriptor = self.lock()
        self.book.rename(BOB, "al")
        os.close(descriptor)
        other.rename(ALICE, "Al")
        self.assertEqual((self.book.find("al"), self.book.name_of(BOB)), (ALICE, None))
        self.assertEqual(AddressBook(self.path).find("al"), ALICE)

    def test_damaged_meanwhile(self) -> None:
        """A running peer keeps what it knows, and does not write over what it can't read."""
        self.book.add(ALICE, "Alice")
        self.path.write_bytes(b"oops, an editor")
        self.assertEqual(self.book.find("alice"), ALICE)
        self.assertRaises(AddressBookError, self.book.add, BOB, "Bob")
        self.assertEqual(self.path.read_bytes(), b"oops, an editor")
        self.assertIn(BOB, self.book)

"""The history on the disk: what is kept, found and erased, and files that can't be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import schema
from punch.apps.chat.age import DAY
from punch.apps.chat.database import StoreError
from punch.apps.chat.model import ChatMessage, MessageState
from punch.apps.chat.protocol import MAX_KNOWN, Known, MessageReceived
from punch.apps.chat.store import (
    PAGE,
    Store,
    folded,
)
from punch.test.chat_network import peer_id

BOB, EVE = peer_id(2), peer_id(3)
OURS, THEIRS = b"ours" * 2, b"them" * 2


def texts(messages: Sequence[ChatMessage]) -> list[str]:
    return [message.text for message in messages]


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "below" / "history.sqlite"
        self.store = self.open()
        self.addCleanup(lambda: self.store.close())

    def open(self) -> Store:
        """The file, without the wait for the disk that keeps it through a power failure."""
        store = Store(self.path)
        store.database.rows("PRAGMA synchronous = OFF")
        return store

    def reopen(self) -> Store:
        """As after a restart."""
        self.store.close()
        self.store = self.open()
        return self.store

    def say(self, text: str, peer: object = None, time: float = 1.0) -> ChatMessage:
        return self.store.add(BOB if peer is None else EVE, OURS, text, time)

    def hear(self, *messages: tuple[int, str], epoch: bytes = THEIRS, time: float = 1.0) -> list[str]:
        self.store.record(BOB, OURS)
        incoming = [MessageReceived(identity, text) for identity, text in messages]
        return texts(self.store.receive(BOB, epoch, incoming, time))


class KeepingTests(StoreTestCase):
    """One side's part of the protocol."""

    def test_ids_go_on_after_a_restart(self) -> None:
        first = self.store.add(BOB, OURS, "one", 1.5, "mine")
        self.assertEqual((first.id, first.state, first.client_id), (1, MessageState.WAITING, "mine"))
        self.reopen()
        self.assertEqual(self.say("two").id, 2)
        record = self.store.record(BOB, b"another!")
        self.assertEqual((record.epoch, record.sent, record.known), (OURS, 2, []))
        self.assertEqual(
            [(m.id, m.text, m.client_id) for m in record.waiting], [(1, "one", "mine"), (2, "two", None)]
        )

    def test_once_and_in_order(self) -> None:
        self.assertEqual(self.hear((1, "a"), (2, "b")), ["a", "b"])
        self.assertEqual(self.hear((2, "b again"), (3, "c"), (1, "a again")), ["c"])
        self.reopen()
        self.assertEqual(self.hear((1, "a"), (2, "b"), (3, "c")), [])
        self.assertEqual(texts(self.store.history(BOB)), ["a", "b", "c"])

    def test_a_new_epoch_counts_anew(self) -> None:
        self.hear((7, "old"))
        self.store.delivered_here(BOB, THEIRS, 7)
        self.assertEqual(self.hear((1, "new"), epoch=b"restored"), ["new"])
        newest, _ = self.store.record(BOB, OURS).known
        self.assertEqual((newest.epoch, newest.delivered, newest.read), (b"restored", 0, 0))
        self.store.delivered_here(BOB, THEIRS, 9)
        self.assertEqual(self.store.record(BOB, OURS).known[0].delivered, 0)

    def test_back_in_an_earlier_epoch(self) -> None:
        self.hear((7, "old"))
        self.store.delivered_here(BOB, THEIRS, 7)
        self.hear((1, "new"), epoch=b"restored")
        self.reopen()
        self.assertEqual(self.hear((7, "old"), (8, "older")), ["older"])
        self.assertEqual(self.hear((1, "new"), (2, "newer"), epoch=b"restored"), ["newer"])
        known = self.store.record(BOB, OURS).known
        self.assertEqual(
            [(k.epoch, k.delivered, k.stored) for k in known], [(b"restored", 0, 2), (THEIRS, 7, 8)]
        )
        self.assertEqual(
            [(epoch, m.text) for epoch, m in self.store.undelivered_here()],
            [(b"restored", "new"), (THEIRS, "older"), (b"restored", "newer")],
        )

    def test_ever_more_epochs(self) -> None:
        """A peer with ever new epochs makes no table grow, and no epoch of another peer is forgotten."""
        self.store.record(EVE, OURS)
        self.store.receive(EVE, THEIRS, [MessageReceived(1, "eve")], 1.0)
        epochs = [b"epoch%3d" % number for number in range(3 * MAX_KNOWN)]
        for epoch in epochs:
            self.assertEqual(self.hear((1, "a"), epoch=epoch), ["a"])
        known = [k.epoch for k in self.store.record(BOB, OURS).known]
        self.assertEqual(known, epochs[: -MAX_KNOWN - 1 : -1])
        self.assertEqual(self.hear((1, "a"), epoch=epochs[-MAX_KNOWN]), [])
        self.assertEqual(self.hear((1, "a"), epoch=epochs[0]), ["a"])
        self.assertEqual(self.store.database.row("SELECT count(*) FROM epoch"), (MAX_KNOWN + 1,))
        self.assertEqual([k.epoch for k in self.store.record(EVE, OURS).known], [THEIRS])

    def test_what_no_view_had(self) -> None:
        self.hear((1, "a"), (2, "b"))
        self.store.delivered_here(BOB, THEIRS, 1)
        self.reopen()
        self.assertEqual([(epoch, m.text) for epoch, m in self.store.undelivered_here()], [(THEIRS, "b")])
        self.store.delivered_here(BOB, THEIRS, 2)
        self.assertEqual(self.store.undelivered_here(), [])

    def test_marks(self) -> None:
        for number in range(1, PAGE + 3):
            self.say(str(number))
        self.assertEqual(len(self.store.delivered_there(BOB, PAGE + 1)), PAGE)
        self.assertEqual(texts(self.store.delivered_there(BOB, PAGE + 1)), [str(PAGE + 1)])
        self.assertEqual(self.store.delivered_there(BOB, PAGE + 1), [])
        self.assertEqual(
            [(m.text, m.state) for m in self.store.read_there(BOB, 2)],
            [("1", MessageState.READ), ("2", MessageState.READ)],
        )
        self.assertEqual(self.store.waiting()[BOB][0], 1)
        self.assertEqual(texts(self.store.waiting_for(BOB)), [str(PAGE + 2)])
        self.assertEqual(self.store.read_there(BOB, PAGE + 9)[-1].text, str(PAGE + 1))

    def test_reading_here(self) -> None:
        self.hear((5, "a"), (6, "b"), (9, "c"))
        second = self.store.history(BOB)[1]
        changed, seen = self.store.read_here(BOB, second.number)
        self.assertEqual(
            (texts(changed), seen, changed[0].state), (["a", "b"], {THEIRS: 6}, MessageState.READ)
        )
        self.assertEqual(self.store.overviews()[0].unread, 1)
        self.assertEqual(self.store.record(BOB, OURS).known[0].read, 6)
        self.assertEqual(self.store.read_here(BOB, None)[1], {THEIRS: 9})
        self.assertEqual(self.store.read_here(BOB, None), ([], {}))

    def test_reading_what_came_in_an_older_epoch(self) -> None:
        """Its ids mean nothing to the peer of today, but may to that of tomorrow."""
        self.hear((70, "old"))
        self.hear((1, "new"), epoch=b"restored")
        self.assertEqual(self.store.read_here(BOB, None)[1], {THEIRS: 70, b"restored": 1})
        self.assertEqual([k.read for k in self.store.record(BOB, OURS).known], [1, 70])

    def test_all_or_nothing(self) -> None:
        """A batch of which one can't be kept leaves nothing behind."""
        self.store.record(BOB, OURS)
        bad = [MessageReceived(1, "a"), MessageReceived(2, "\ud800")]
        self.assertRaises(UnicodeEncodeError, self.store.receive, BOB, THEIRS, bad, 1.0)
        self.assertEqual(self.hear((1, "a"), (2, "b")), ["a", "b"])

    def test_a_group(self) -> None:
        """Each call of a group succeeds or fails by itself."""
        with self.store.group():
            self.say("one")
            self.assertRaises(UnicodeEncodeError, self.say, "\ud800")
            self.assertEqual(self.say("two").id, 2)
        self.assertEqual(texts(self.reopen().history(BOB)), ["one", "two"])

    def test_a_crash_in_a_group(self) -> None:
        self.say("before")
        group = self.store.group()
        group.__enter__()
        self.say("never on the disk")
        disk = sqlite3.connect(self.path)
        self.addCleanup(disk.close)
        self.assertEqual(disk.execute("SELECT text FROM message").fetchall(), [("before",)])
        group.__exit__(None, None, None)
        self.assertEqual(len(disk.execute("SELECT text FROM message").fetchall()), 2)


class LookingTests(StoreTestCase):
    """History, search, export."""

    def test_pages(self) -> None:
        numbers = [self.say(str(n)).number for n in range(10)]
        self.say("to eve", EVE)
        self.assertEqual(texts(self.store.history(BOB, limit=3)), ["7", "8", "9"])
        self.assertEqual(texts(self.store.history(BOB, before=numbers[7], limit=2)), ["5", "6"])
        self.assertEqual(texts(self.store.history(BOB, after=numbers[1], limit=2)), ["2", "3"])
        self.assertEqual(texts(self.store.history(BOB, after=numbers[1], before=numbers[3])), ["2"])
        self.assertEqual(self.store.history(peer_id(9)), [])
        self.assertEqual(texts(self.store.history(None, after=numbers[8])), ["9", "to eve"])
        self.assertEqual(texts(self.store.history(BOB, after=0, limit=1)), ["0"])

    def test_search(self) -> None:
        for text in ("Hello World", "ΣΊΣΥΦΟΣ", "cafe\u0301", "100% _sure_", "it's", "Straße", "hello again"):
            self.say(text)
        self.say("hello eve", EVE)
        cases = {
            "hello": ["hello eve", "hello again", "Hello World"],
            "O W": ["Hello World"],
            "σίσυφοσ": ["ΣΊΣΥΦΟΣ"],
            "CAFÉ": ["cafe\u0301"],
            "%": ["100% _sure_"],
            "'s": ["it's"],
            "STRASSE": ["Straße"],
            "": [],
            "nothing": [],
            '" OR 1=1': [],
        }
        for wanted, found in cases.items():
            self.assertEqual(texts(self.store.search(wanted)), found, wanted)
        self.assertEqual(texts(self.store.search("hello", BOB)), ["hello again", "Hello World"])
        newest = self.store.search("hello", limit=1)[0]
        self.assertEqual(texts(self.store.search("hello", before=newest.number, limit=1)), ["hello again"])

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        st.text(st.characters(codec="utf-8"), max_size=10),
    )
    def test_everything_finds_itself(self, wanted: str, around: str) -> None:
        self.assertIn(folded(wanted), folded(wanted) + folded(around))
        store = Store(None)
        self.addCleanup(store.close)
        store.add(BOB, OURS, wanted, 1.0)
        found = texts(store.search(wanted))
        self.assertEqual(found, [wanted] if folded(wanted) else [])

    def test_overviews(self) -> None:
        self.say("mine")
        self.hear((1, "a"), (2, "b"))
        self.say("eve's", EVE)
        found = {overview.peer: overview for overview in self.store.overviews()}
        self.assertEqual(
            (found[BOB].unread, found[BOB].waiting, found[BOB].last), (2, 1, self.store.history(BOB)[-1])
        )
        self.assertEqual((found[EVE].unread, found[EVE].waiting), (0, 1))
        self.assertEqual(self.store.overviews(peer_id(9)), [])


class ErasingTests(StoreTestCase):
    """What is not kept."""

    def on_disk(self) -> bytes:
        """All that is in the file and beside it."""
        return b"".join(file.read_bytes() for file in self.path.parent.iterdir())

    def test_nothing_stays_in_the_file(self) -> None:
        for number in range(300):
            self.say(f"Secret-{number} " + "x" * 500)
        self.assertIn(b"Secret-7 ", self.on_disk())
        size = self.path.stat().st_size
        self.assertEqual(self.store.erase(BOB), 300)
        self.assertNotIn(b"ecret-", self.on_disk())
        self.assertLess(self.path.stat().st_size, size // 3)

    def test_ids_are_not_used_again(self) -> None:
        self.say("one")
        self.hear((1, "a"))
        self.store.erase()
        self.assertEqual(self.say("two").id, 2)
        self.assertEqual(self.hear((1, "a again")), [])
        self.assertEqual(self.store.undelivered_here(), [])

    def test_one_or_all(self) -> None:
        self.say("one")
        number = self.say("two", EVE).number
        self.assertEqual(self.store.erase(BOB), 1)
        self.assertEqual(texts(self.store.history(None)), ["two"])
        self.assertEqual(self.store.erase(), 1)
        self.assertGreater(self.say("three").number, number)

    def test_retention(self) -> None:
        self.assertIsNone(self.store.retention())
        self.store.set_retention(30)
        self.assertEqual(self.reopen().retention(), 30.0)
        self.store.set_retention(None)
        self.assertIsNone(self.store.retention())
        self.hear(*((n, str(n)) for n in range(1, PAGE + 2)), time=10.0)
        self.store.delivered_here(BOB, THEIRS, PAGE + 1)
        self.say("waits", time=10.0)
        self.say("new", time=20.0)
        self.assertEqual([self.store.expire(15.0) for _ in range(3)], [PAGE, 1, 0])
        self.assertEqual(texts(self.store.history(BOB)), ["waits", "new"])

    def test_wrong_clocks_erase_nothing(self) -> None:
        """A jump forward is believed when the clock has gone on for a day, also over restarts."""
        start, year = 1_000_000.0, 365 * DAY
        self.say("new", time=start)
        self.assertEqual(self.store.believed(start + 60.0), start + 60.0)
        self.assertEqual(self.store.believed(start + year), start + 60.0)
        self.assertEqual(self.reopen().believed(start + year + 3600.0), start + 60.0)
        self.assertEqual(self.store.believed(start + 7200.0), start + 7200.0)
        self.assertEqual(self.store.believed(start + year), start + 7200.0)
        self.assertEqual(self.reopen().believed(start + year + DAY), start + year + DAY)
        self.assertEqual(self.store.believed(start), start)

    def test_first_look_at_an_old_file(self) -> None:
        self.say("new", time=1_000_000.0)
        self.assertEqual(self.store.believed(1_000_000.0 + 365 * DAY), 1_000_000.0)

    def test_a_machine_that_is_used_once_a_week(self) -> None:
        """On a machine that is used once a week, old messages are erased a week later."""
        times = [1_000_000.0 + week * 7 * DAY for week in range(4)]
        self.assertEqual([self.store.believed(time) for time in times], [times[0], *times[:3]])

    def test_what_no_view_had_is_kept(self) -> None:
        """Else it would never be had, and its sender would wait for the mark for ever."""
        self.hear((1, "had"), (2, "not had"), time=10.0)
        self.store.delivered_here(BOB, THEIRS, 1)
        self.hear((1, "not had either"), epoch=b"restored", time=10.0)
        self.assertEqual(self.store.expire(15.0), 1)
        self.assertEqual(
            [message.text for _, message in self.store.undelivered_here()], ["not had", "not had either"]
        )
        self.store.delivered_here(BOB, b"restored", 1)
        self.store.delivered_here(BOB, THEIRS, 2)
        self.assertEqual(self.store.expire(15.0), 2)


class FileTests(StoreTestCase):
    """Files that can't be used are left as they are, and the sentence says what to do."""

    def refused(self, *words: str) -> None:
        self.store.close()
        before = self.path.read_bytes()
        error = self.assertRaises(StoreError, Store, self.path)
        self.assertEqual(error.code, "state")
        for word in (str(self.path), "--no-history", *words):
            self.assertIn(word, str(error))
        self.assertEqual(self.path.read_bytes(), before)
        self.store = Store(None)

    def test_private(self) -> None:
        self.say("private")
        for file in self.path.parent.iterdir():
            self.assertEqual(file.stat().st_mode & 0o077, 0, file)
        self.assertEqual(self.path.parent.stat().st_mode & 0o077, 0)

    def test_corrupt(self) -> None:
        self.store.close()
        self.path.write_bytes(b"not a database at all, but something else" * 100)
        self.refused("damaged", "Move it away")

    def test_cut_off(self) -> None:
        self.say("a" * 9000)
        self.store.close()
        content = self.path.read_bytes()
        self.path.write_bytes(content[:5000])
        self.refused("damaged")

    def test_table_of_no_text(self) -> None:
        """What SQLite says of it quotes it."""
        self.store.close()
        content = self.path.read_bytes()
        self.path.write_bytes(content.replace(b"CREATE TABLE message", b"CREATE \xff\xfe\xfdLE message"))
        self.refused("damaged")

    def test_entries_that_nobody_wrote(self) -> None:
        """A peer that is no key, a state that there is not, a client's ID that is no JSON."""
        message = self.say("hello")
        for statement, value in (
            ("UPDATE message SET client = ?", "{"),
            ("UPDATE message SET state = ?", 99),
            ("UPDATE conversation SET peer = ?", b"short"),
        ):
            before = self.store.history(None)
            self.assertEqual(before, [message])
            self.store.database.rows("SAVEPOINT damage")
            self.store.database.rows(statement, value)
            error = self.assertRaises(StoreError, self.store.history, None)
            self.assertIn("damaged", str(error))
            self.store.database.rows("ROLLBACK TO damage")
            self.store.database.rows("RELEASE damage")

    def test_a_row_that_is_not_found_again(self) -> None:
        """As with a damaged index."""
        message = "no such row"
        with self.assertRaisesRegex(StoreError, "damaged"):
            self.store.database.row("SELECT 1 FROM message WHERE text = ?", message)

    def test_newer(self) -> None:
        self.store.close()
        with sqlite3.connect(self.path) as database:
            database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        database.close()
        self.refused("newer version")

    def test_other_tables_than_its_version_has(self) -> None:
        """Room on the disk would not help."""
        self.store.close()
        with sqlite3.connect(self.path) as database:
            database.execute("PRAGMA user_version = 1")
        database.close()
        self.refused("epoch already exists", "Move it away")

    def test_somebody_elses(self) -> None:
        self.store.close()
        self.path.unlink()
        with sqlite3.connect(self.path) as database:
            database.execute("CREATE TABLE letters (text)")
        database.close()
        self.refused("not a chat's history")

    def test_a_directory_in_its_place(self) -> None:
        path = self.path.parent / "directory"
        path.mkdir()
        error = self.assertRaises(StoreError, Store, path)
        self.assertIn(str(path), str(error))

    def test_below_a_file(self) -> None:
        error = self.assertRaises(StoreError, Store, self.path / "x.sqlite")
        self.assertIn("Not a directory", str(error))

    def test_older_versions_become_todays(self) -> None:
        """Every version there ever was is brought up to date, and what was in it is still there."""
        for version in range(schema.VERSION):
            path = self.path.with_name(f"old{version}.sqlite")
            with sqlite3.connect(path) as database:
                for migration in schema.MIGRATIONS[:version]:
                    database.executescript(migration)
                if version:
                    database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                    database.execute(f"PRAGMA user_version = {version}")
            database.close()
            store = Store(path)
            self.assertEqual(store.add(BOB, OURS, "hi", 1.0).id, 1)
            self.assertEqual(store.database.row("PRAGMA user_version"), (schema.VERSION,))
            store.close()

    def test_a_history_of_version_1(self) -> None:
        """It remembered only the newest epoch of each peer: nothing that came in that one comes twice."""
        path = self.path.with_name("old.sqlite")
        with sqlite3.connect(path) as database:
            database.executescript(schema.MIGRATIONS[0])
            database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            database.execute("PRAGMA user_version = 1")
            conversations = [
                (1, BOB.key, OURS, 4, 2, THEIRS, 9, 7, 5),
                (2, EVE.key, OURS, 0, 0, None, 0, 0, 0),
            ]
            database.executemany(f"INSERT INTO conversation VALUES ({'?, ' * 8}?)", conversations)
            messages = [
                (3, 1, 9, 1, 4, 9.0, 99.0, None, "of an older epoch", None),
                (4, 1, 4, 0, 0, 10.0, None, '"mine"', "waits", None),
                (5, 1, 8, 2, 3, 11.0, 110.0, None, "not yet shown", None),
                (6, 1, 9, 2, 3, 12.0, 120.5, None, "neither", None),
            ]
            database.executemany(f"INSERT INTO message VALUES ({'?, ' * 9}?)", messages)
        database.close()
        store = Store(path)
        self.addCleanup(store.close)
        record = store.record(BOB, b"another!")
        self.assertEqual((record.epoch, record.sent, texts(record.waiting)), (OURS, 4, ["waits"]))
        self.assertEqual(record.known, [Known(THEIRS, delivered=7, read=5, stored=9, time=120.5)])
        self.assertEqual(
            [(e, m.text) for e, m in store.undelivered_here()],
            [(THEIRS, "not yet shown"), (THEIRS, "neither")],
        )
        self.assertEqual(
            texts(
                store.receive(BOB, THEIRS, [MessageReceived(9, "neither"), MessageReceived(10, "new")], 13.0)
            ),
            ["new"],
        )
        self.assertEqual(store.record(EVE, b"another!").known, [])
        self.assertEqual(len(store.history(BOB)), 5)
        self.assertEqual(store.database.rows("PRAGMA foreign_key_check"), [])
        self.assertEqual(store.database.row("PRAGMA foreign_keys"), (1,))

    def test_full_disk(self) -> None:
        """The call fails as a whole, and works again when there is room."""
        self.say("fits")
        pages = self.store.database.row("PRAGMA page_count")[0]
        self.store.database.rows(f"PRAGMA max_page_count = {pages}")
        error = self.assertRaises(StoreError, self.say, "x" * 16_000)
        self.assertIn("full", str(error))
        self.store.database.rows("PRAGMA max_page_count = 100000")
        self.assertEqual(self.say("fits again").id, 2)

    def test_full_disk_in_a_group(self) -> None:
        """Nobody is told that something is safe which isn't."""
        self.say("before")
        pages = self.store.database.row("PRAGMA page_count")[0]
        self.store.database.rows(f"PRAGMA max_page_count = {pages}")
        kept: list[str] = []

        def all_calls() -> None:
            with self.store.group():
                for text in ("small", "x" * 16_000, "after"):
                    with contextlib.suppress(StoreError):
                        kept.append(self.say(text).text)

        try:
            all_calls()
        except StoreError:
            kept.clear()
        self.store.database.rows("PRAGMA max_page_count = 100000")
        self.assertEqual(texts(self.reopen().history(BOB)), ["before", *kept])

    def test_read_only(self) -> None:
        self.store.database.rows("PRAGMA query_only = ON")
        error = self.assertRaises(StoreError, self.say, "no")
        self.assertIn("readonly", str(error))
        self.assertEqual(self.store.history(BOB), [])
        self.store.database.rows("PRAGMA query_only = OFF")
        self.assertEqual(self.say("yes").id, 1)

    def test_in_memory(self) -> None:
        """Without a path, no file is written."""
        before = set(os.listdir())
        store = Store(None)
        store.add(BOB, OURS, "hi", 1.0)
        self.assertEqual(texts(store.history(BOB)), ["hi"])
        store.close()
        self.assertEqual(set(os.listdir()), before)


class MessageTests(SynchronousTestCase):
    def test_what_the_store_gives_is_what_it_was_given(self) -> None:
        store = Store(None)
        self.addCleanup(store.close)
        said = store.add(BOB, OURS, "\u202eevil \x1b[31m <b>\0", 12.5, 7)
        self.assertEqual(store.history(BOB), [said])
        (heard,) = store.receive(BOB, THEIRS, [MessageReceived(1, "x", 3.5)], 4.0)
        self.assertEqual(store.history(BOB), [said, heard])
        self.assertEqual(replace(heard, state=MessageState.READ), store.read_here(BOB, None)[0][0])

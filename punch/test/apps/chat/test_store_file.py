"""The file of the history: damaged, foreign, of another version, or on a disk that takes nothing."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from punch.apps.chat.database import APPLICATION_ID, MIGRATIONS, VERSION
from punch.apps.chat.model import StoreError
from punch.apps.chat.protocol import Known, MessageReceived
from punch.apps.chat.store import (
    Store,
)
from punch.test.apps.chat.test_store import BOB, EVE, OURS, THEIRS, StoreTestCase, texts
from punch.ui.text.chat import chat_error_sentence


class FileTests(StoreTestCase):
    """Files that can't be used are left as they are, and the sentence says what to do."""

    def refused(self, *words: str) -> None:
        self.store.close()
        before = self.path.read_bytes()
        error = self.assertRaises(StoreError, Store, self.path)
        self.assertEqual(error.code, "state")
        for word in (str(self.path), "--no-history", *words):
            self.assertIn(word, chat_error_sentence(error))
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
            self.assertIn("damaged", chat_error_sentence(error))
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
            database.execute(f"PRAGMA user_version = {VERSION + 1}")
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
        self.assertIn(str(path), chat_error_sentence(error))

    def test_below_a_file(self) -> None:
        error = self.assertRaises(StoreError, Store, self.path / "x.sqlite")
        self.assertIn("Not a directory", str(error))

    def test_older_versions_become_todays(self) -> None:
        """Every version there ever was is brought up to date, and what was in it is still there."""
        for version in range(VERSION):
            path = self.path.with_name(f"old{version}.sqlite")
            with sqlite3.connect(path) as database:
                for migration in MIGRATIONS[:version]:
                    database.executescript(migration)
                if version:
                    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    database.execute(f"PRAGMA user_version = {version}")
            database.close()
            store = Store(path)
            self.assertEqual(store.add(BOB, OURS, "hi", 1.0).id, 1)
            self.assertEqual(store.database.row("PRAGMA user_version"), (VERSION,))
            store.close()

    def test_a_history_of_version_1(self) -> None:
        """It remembered only the newest epoch of each peer: nothing that came in that one comes twice."""
        path = self.path.with_name("old.sqlite")
        with sqlite3.connect(path) as database:
            database.executescript(MIGRATIONS[0])
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
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

"""
The file of a chat's history: its tables, opening and migrating it, transactions, and what can go wrong with
them. SQLite itself makes sure that a crash leaves the whole of a transaction or nothing.

`PRAGMA user_version` is the version of a file's tables; `MIGRATIONS[n]` makes version n + 1 out of version n,
while foreign keys are not enforced, so that a table can take another's place. A file is never changed by a
version of Punch that is older than the one which wrote it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from punch.apps.chat.model import ChatProblem, StoreError
from punch.files import NotRegular, check_regular, create_private, make_private_directory, sqlite_files

APPLICATION_ID = 0x506E6368
"""Marks a file as ours ("Pnch")."""
MIGRATIONS = [
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

    -- The state of the protocol with one peer. It outlives its messages, so that no id is used twice.
    CREATE TABLE conversation (
        key INTEGER PRIMARY KEY,
        peer BLOB NOT NULL UNIQUE,
        epoch BLOB NOT NULL,                    -- ours
        sent INTEGER NOT NULL DEFAULT 0,        -- the last id that we used
        generation INTEGER NOT NULL DEFAULT 0,  -- counts the epochs of theirs that we met
        remote_epoch BLOB,                      -- the newest of those
        received INTEGER NOT NULL DEFAULT 0,    -- in that epoch: the last id that is stored,
        shown INTEGER NOT NULL DEFAULT 0,       -- ... that a view has had,
        seen INTEGER NOT NULL DEFAULT 0         -- ... that somebody has read
    );

    -- state: 0 waits for its ack, 1 delivered, 2 read there; 3 unread here, 4 read here
    CREATE TABLE message (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation,
        id INTEGER NOT NULL,
        generation INTEGER NOT NULL,            -- of the sender's epochs; 0 for ours
        state INTEGER NOT NULL,
        time REAL NOT NULL,
        time_sent REAL,
        client TEXT,                            -- a script's id, as JSON
        text TEXT NOT NULL,
        folded TEXT                             -- what a search compares, if it is not the text itself
    );
    CREATE INDEX message_of ON message (conversation, number);
    CREATE INDEX message_waiting ON message (conversation, id) WHERE state = 0;
    CREATE INDEX message_unfinished ON message (conversation, id) WHERE state = 1;
    CREATE INDEX message_unread ON message (conversation, number) WHERE state = 3;
    CREATE INDEX message_time ON message (time);
    """,
    """
    -- What came in an epoch of theirs; of each peer the last few are remembered.
    CREATE TABLE epoch (
        conversation INTEGER NOT NULL REFERENCES conversation,
        epoch BLOB NOT NULL,
        generation INTEGER NOT NULL,
        number INTEGER NOT NULL,                -- of the last message that came in it
        received INTEGER NOT NULL,              -- that one's id
        time_sent REAL,                         -- ... and what its sender told of its time
        shown INTEGER NOT NULL DEFAULT 0,       -- the last id that a view has had
        seen INTEGER NOT NULL DEFAULT 0,        -- ... that somebody has read
        PRIMARY KEY (conversation, epoch)
    ) WITHOUT ROWID;

    INSERT INTO epoch
        SELECT c.key, c.remote_epoch, c.generation, coalesce(m.number, 0), c.received, m.time_sent,
            c.shown, c.seen
        FROM conversation c LEFT JOIN message m
        ON m.conversation = c.key AND m.id = c.received AND m.generation = c.generation
        WHERE c.received > 0;

    CREATE TABLE newer (
        key INTEGER PRIMARY KEY,
        peer BLOB NOT NULL UNIQUE,
        epoch BLOB NOT NULL,
        sent INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO newer SELECT key, peer, epoch, sent, generation FROM conversation;
    DROP TABLE conversation;
    ALTER TABLE newer RENAME TO conversation;
    """,
    """
    -- The last ids of ours of which views have had that they were delivered, and read.
    ALTER TABLE conversation ADD COLUMN told_delivered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE conversation ADD COLUMN told_read INTEGER NOT NULL DEFAULT 0;
    UPDATE conversation SET
        told_delivered = (SELECT coalesce(max(m.id), 0) FROM message m
            WHERE m.conversation = conversation.key AND m.state IN (1, 2)),
        told_read = (SELECT coalesce(max(m.id), 0) FROM message m
            WHERE m.conversation = conversation.key AND m.state = 2);
    CREATE INDEX message_read_there ON message (conversation, id) WHERE state = 2;
    """,
]
VERSION = len(MIGRATIONS)


def statements(script: str) -> list[str]:
    """The statements of a script: `executescript` would end the transaction that protects them."""
    lines = [line.split("--")[0] for line in script.splitlines()]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


_AUTO_VACUUM = "PRAGMA auto_vacuum = INCREMENTAL"
"""Takes effect only in a file without tables."""


class Database:
    """
    An SQLite file with the tables of today.

    :param path: the file; None keeps everything in memory.
    :raise StoreError: the file can't be used. It is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            try:
                make_private_directory(path.parent)
                for each in sqlite_files(path):
                    # SQLite opens whatever has these names, and would wait for the other end of a pipe.
                    check_regular(each)
                create_private(path, b"")
            except NotRegular as error:
                file = Path(error.filename)
                problem = ChatProblem.HISTORY_NOT_A_FILE
                raise StoreError(problem, path=file, text=str(error.strerror)) from error
            except OSError as error:
                raise self._unusable(error.strerror or str(error)) from error
        self.untidy = False
        """Whether something was erased in this transaction."""
        self._in_group = False
        self._lost: StoreError | None = None
        with self._errors():
            self.connection = sqlite3.connect(
                ":memory:" if path is None else path, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors():
                if path is None:
                    _empty_history().backup(self.connection)
                self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextmanager
    def group(self) -> Iterator[None]:
        """
        Put several calls into one transaction: each succeeds or fails by itself, and all are written at the
        end.

        :raise StoreError: at the end, if none of them was written.
        """
        self._lost = None
        self._in_group = True
        try:
            with self._errors():
                # Not IMMEDIATE: what can't be written may still be read.
                self.connection.execute("BEGIN")
            yield
            if self._lost is not None:
                raise self._lost
            with self._errors():
                self.connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._in_group = False
        self._tidy()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction, or a part of the `group` that succeeds or fails as a whole."""
        inner = self.connection.in_transaction
        if self._in_group and not inner:
            raise self._lost or self._unusable("the transaction was lost")
        begin, end = ("SAVEPOINT call", "RELEASE call") if inner else ("BEGIN IMMEDIATE", "COMMIT")
        try:
            with self._errors():
                self.connection.execute(begin)
                yield
                self.connection.execute(end)
        except BaseException as error:
            if not inner:
                self._roll_back()
            elif self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO call")
                self.connection.execute("RELEASE call")
            elif isinstance(error, StoreError):
                # When the disk is full, SQLite may roll the whole transaction back, with other calls in it.
                self._lost = error
            raise
        if not inner:
            self._tidy()

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            with self._errors():
                self.connection.execute("ROLLBACK")

    def _tidy(self) -> None:
        """Remove what was erased from the file and from its write-ahead log."""
        if self.untidy and self._path is not None:
            try:
                # `execute` would free one page only.
                self.connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error:
                # The transaction itself is written; this is tried again after the next one.
                return
        self.untidy = False

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise (self._damaged if _is_damage(error) else self._unusable)(str(error)) from error
        except UnicodeDecodeError as error:
            # The message of SQLite's error quotes what is in the file.
            raise self._damaged("its tables can't be read") from error

    @contextmanager
    def values(self) -> Iterator[None]:
        """
        Make values of what stands in the file.

        :raise StoreError: it is not what was written there.
        """
        try:
            yield
        except StoreError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise self._damaged("an entry is not what was written") from error

    def _damaged(self, cause: str) -> StoreError:
        return StoreError(ChatProblem.HISTORY_DAMAGED, path=self._path, text=cause)

    def _unusable(self, cause: str) -> StoreError:
        return StoreError(ChatProblem.HISTORY_UNUSABLE, path=self._path, text=cause)

    def run(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        """Execute a statement, within a `transaction`."""
        return self.connection.execute(statement, arguments)

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """All rows that a query finds."""
        with self._errors():
            return self.connection.execute(statement, arguments).fetchall()

    def row(self, statement: str, *arguments: Any) -> tuple[Any, ...]:
        """The one row that a query finds."""
        rows = self.rows(statement, *arguments)
        with self.values():
            (row,) = rows
        return row

    def _prepare(self) -> None:
        one = self.connection.execute
        one("PRAGMA secure_delete = ON").fetchall()
        one("PRAGMA cache_size = -4096")
        one("PRAGMA temp_store = MEMORY")
        (version,) = one("PRAGMA user_version").fetchone()
        (application,) = one("PRAGMA application_id").fetchone()
        (tables,) = one("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise StoreError(ChatProblem.HISTORY_FOREIGN, path=self._path)
        if version > VERSION:
            raise StoreError(ChatProblem.HISTORY_NEWER, path=self._path)
        if not tables:
            one(_AUTO_VACUUM)
        if self._path is not None:
            if not tables:
                # A power failure now leaves an empty file: there is nothing to wait for the disk for.
                one("PRAGMA synchronous = OFF")
            one("PRAGMA journal_mode = WAL").fetchall()
        # Also finds out whether it can be written.
        with self.transaction():
            _migrate(self.connection, version)
        # Not before the migrations: while foreign keys are enforced, a table can't take another's place.
        one("PRAGMA foreign_keys = ON")
        # What is committed from now on is safe even if the power fails.
        one("PRAGMA synchronous = FULL")


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables of today out of those of this version."""
    for migration in MIGRATIONS[version:]:
        for statement in statements(migration):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


@cache
def _empty_history() -> sqlite3.Connection:
    """
    A history in memory with nothing in it. A process that makes many, as the tests do, copies it: to make the
    tables anew takes twenty times as long.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.execute(_AUTO_VACUUM)
    _migrate(connection, 0)
    return connection


def _is_damage(error: sqlite3.Error) -> bool:
    text = str(error)
    # The last three: its tables are not those of the version that it says it has.
    signs = ("malformed", "not a database", "no such table", "no such column", "already exists")
    return any(sign in text for sign in signs)

"""
The SQLite file of the members of a rendezvous, which several processes may use at the same time: its tables,
their versions, and its transactions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from punch.files import check_regular, create_private, make_private_directory, sqlite_files, unusable_sentence
from punch.identity import PeerID
from punch.rendezvous.members.membership import MemberStoreError
from punch.rendezvous.members.records import InvitationMade, InvitationRedeemed, PeerRevoked, Record, encode
from punch.wire.invitation import AdmissionRefusal

APPLICATION_ID = 0x50554D62  # "PUMb"
VERSION = 2

TABLES = (
    """
    CREATE TABLE invitations (
        number BLOB PRIMARY KEY, digest BLOB NOT NULL, uses INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0,
        expires REAL NOT NULL, relay_quota INTEGER
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE members (
        peer BLOB PRIMARY KEY, name TEXT NOT NULL, invitation BLOB NOT NULL, since REAL NOT NULL,
        relay_quota INTEGER
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE revocations (
        peer BLOB PRIMARY KEY, refusal TEXT NOT NULL, time REAL NOT NULL, statement BLOB
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE usage (
        day INTEGER NOT NULL, peer BLOB NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (day, peer)
    ) WITHOUT ROWID
    """,
)
"""Version 1. In `revocations`, the refusal is empty if the operator has taken the revocation back."""
JOURNAL = (
    "CREATE TABLE journal (number INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB UNIQUE, record BLOB)",
    "CREATE INDEX members_of_invitation ON members (invitation, since, peer)",
    "CREATE VIEW revoked AS SELECT * FROM revocations WHERE refusal != ''",
)
"""What version 2 has in addition."""
RELAYED = (
    "CREATE TABLE IF NOT EXISTS relayed (day INTEGER NOT NULL, user TEXT NOT NULL, bytes INTEGER NOT NULL, "
    "PRIMARY KEY (day, user)) WITHOUT ROWID"
)
"""What the relay has carried today for each of its users. Earlier releases ignore it."""

NOTE = "INSERT OR IGNORE INTO journal (digest, record) VALUES (?, ?)"
"""Adds a `journal_entry`, unless it is there already."""


def journal_entry(record: Record) -> tuple[bytes, bytes]:
    """The digest and the bytes of a record, for `NOTE`."""
    data = encode(record)
    return sha256(data).digest(), data


def records_of_version_1(connection: sqlite3.Connection) -> Iterator[Record]:
    """The records of what a file without a journal contains."""
    invitations = connection.execute(
        "SELECT number, digest, uses, expires, relay_quota, used - "
        "(SELECT count(*) FROM members WHERE invitation = number) FROM invitations"
    )
    for number, digest, uses, expires, quota, used in invitations.fetchall():
        yield InvitationMade(number, digest, uses, expires, quota, max(0, used))
    members = connection.execute("SELECT invitation, peer, name, since FROM members ORDER BY since, peer")
    for number, peer, name, since in members.fetchall():
        yield InvitationRedeemed(number, PeerID(peer), name, since)
    revocations = connection.execute("SELECT peer, refusal, time, statement FROM revocations")
    for peer, refusal, time, statement in revocations.fetchall():
        yield PeerRevoked(PeerID(peer), AdmissionRefusal(refusal), time, statement or b"")


BUSY_TIME = 2.0
"""
Seconds that a process waits for the transaction of another one. All of its peers wait meanwhile, so if that
was in vain, it does not wait again before it has had a transaction.
"""

T = TypeVar("T")


class MembersFile:
    """
    The file. It is opened when it is used, and its tables are made if it is new. All methods but `close` may
    raise `MemberStoreError`: the file can't be used, and is left as it is.

    :param path: None keeps everything in memory.
    :ivar problem: a sentence if the file could not be used; None: it could.
    :ivar waits: whether the next transaction waits for that of another process.
    """

    def __init__(self, path: Path | None) -> None:
        self.problem: str | None = None
        self._path = path
        self._where = "in memory" if path is None else str(path)
        self._open: sqlite3.Connection | None = None
        self.waits = True
        self._not_read: Callable[[], object] | None = None
        """What `values` has failed to read last."""

    def close(self) -> None:
        """Close the file. It is opened again when it is used again, for example after a fork."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._check_files()
            with self._errors():
                connection = sqlite3.connect(
                    ":memory:" if self._path is None else self._path,
                    timeout=self._busy_time,
                    isolation_level=None,
                )
                try:
                    self.waits = False
                    self._prepare(connection)
                    self.waits = True
                except BaseException:
                    connection.close()
                    raise
            self._open = connection
        return self._open

    @property
    def _busy_time(self) -> float:
        return BUSY_TIME if self.waits else 0.0

    def _check_files(self) -> None:
        path = self._path
        if path is None:
            return
        try:
            make_private_directory(path.parent)
            for each in sqlite_files(path):
                # SQLite opens whatever has these names, and would wait for the other end of a pipe.
                check_regular(each)
            create_private(path, b"")
        except OSError as error:
            what = f"The list of members {error.filename or path}"
            advice = "choose another directory with --state-dir"
            self.problem = unusable_sentence(what, error, advice)
            raise MemberStoreError(self.problem) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        one = connection.execute
        (application,) = one("PRAGMA application_id").fetchone()
        (version,) = one("PRAGMA user_version").fetchone()
        (tables,) = one("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise MemberStoreError(
                f"The file {self._where} is a database, but not a list of members. Move it away, or choose "
                "another directory with --state-dir."
            )
        if version > VERSION:
            raise MemberStoreError(
                f"The list of members {self._where} was written by a newer version of Punch: use that one."
            )
        one("PRAGMA journal_mode = WAL").fetchall()
        one("PRAGMA synchronous = FULL")
        one("BEGIN IMMEDIATE")
        # Another process may have made the tables meanwhile.
        (version,) = one("PRAGMA user_version").fetchone()
        if not one("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for table in TABLES:
                one(table)
            one(f"PRAGMA application_id = {APPLICATION_ID}")
        if version < VERSION:
            for statement in JOURNAL:
                one(statement)
            for record in records_of_version_1(connection):
                one(NOTE, journal_entry(record))
            one(f"PRAGMA user_version = {VERSION}")
        one(RELAYED)
        one("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """
        A transaction: the statements that are run within it are on the disk afterwards, or none of them if an
        exception is raised.
        """
        with self._errors():
            connection = self._connection
            connection.execute(f"PRAGMA busy_timeout = {int(self._busy_time * 1000)}")
            self.waits = False
            connection.execute("BEGIN IMMEDIATE")
            self.waits = True
        try:
            yield
            with self._errors():
                self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error
        except UnicodeDecodeError as error:
            # The message of SQLite's error quotes what is in the file.
            raise self._unusable("its tables can't be read") from error

    def values(self, read: Callable[[], T]) -> T:
        """
        Return what `read` makes of rows of the file.

        :raise MemberStoreError: they are not what was written.
        """
        try:
            return read()
        except (ValueError, TypeError) as error:
            self._not_read = read
            raise self._unusable("an entry is not what was written") from error

    def read_again(self) -> None:
        """
        Read again what `values` has failed to read last, if it has.

        :raise MemberStoreError: it is still not what was written.
        """
        if self._not_read is not None:
            self.values(self._not_read)
            self._not_read = None

    def _unusable(self, cause: str) -> MemberStoreError:
        self.problem = (
            f"The list of members {self._where} can't be used: {cause}. Make room or make it writable; "
            "if it is damaged, move it away with the files beside it that begin with its name."
        )
        return MemberStoreError(self.problem)

    def run(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement."""
        with self._errors():
            return self._connection.execute(statement, arguments)

    def run_many(self, statement: str, arguments: Iterable[Sequence[Any]]) -> None:
        """Run a statement with each of these arguments."""
        with self._errors():
            self._connection.executemany(statement, arguments)

    def rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with self._errors():
            return self._connection.execute(query, arguments).fetchall()

    def pragma(self, name: str) -> int:
        """The number that a pragma returns."""
        return int(self.rows(f"PRAGMA {name}")[0][0])

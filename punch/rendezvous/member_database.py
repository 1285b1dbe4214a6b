"""
Invitations, members and revocations of a rendezvous in an SQLite file, which the service and the commands of
the operator (`punch rendezvous invite`, …) use at the same time.

A transaction is on the disk when a method returns (`synchronous = FULL`), so a process may be killed at any
moment. The commands need no way to the service: `changed` tells it that another process has written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any

from punch.files import check_regular, create_private, make_private_directory, sqlite_files, unusable
from punch.identity import PeerID
from punch.rendezvous.membership import MemberStoreError, Redemption
from punch.wire.invitation import AdmissionRefusal, Invitation

FILE_NAME = "members.sqlite"

_APPLICATION_ID = 0x50554D62  # "PUMb"
_VERSION = 1
USAGE_DAYS = 62
"""Days for which usage is kept."""
MAX_PEERS_A_DAY = 50_000
"""Peers whose usage is kept for a day."""
_BUSY_TIME = 2.0
"""Seconds that a process waits for the transaction of another one."""

_TABLES = (
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


@dataclass(frozen=True)
class Member:
    """
    A peer that has redeemed an invitation, or was revoked.

    :ivar since: Unix seconds of the redemption; None for a peer that was never a member.
    :ivar relay_quota: bytes a day that the relay carries for it; None: the service's own limit.
    """

    peer: PeerID
    name: str
    since: float | None
    relay_quota: int | None
    refusal: AdmissionRefusal | None


class MemberDatabase:
    """
    Implements `MemberStore`.

    :param path: the file; None keeps everything in memory.
    :raise MemberStoreError: the file can't be used. It is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._where = "in memory" if path is None else str(path)
        self._open: sqlite3.Connection | None = None
        self._data_version = self._pragma("data_version")

    def close(self) -> None:
        """Close the file. It is opened again when it is used again, for example after a fork."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def changed(self) -> bool:
        """Whether another process has written since the last call."""
        before, self._data_version = self._data_version, self._pragma("data_version")
        return before != self._data_version

    # -- MemberStore --

    def is_member(self, peer: PeerID) -> bool:
        """Whether a peer has redeemed an invitation."""
        return bool(self._rows("SELECT 1 FROM members WHERE peer = ?", peer.key))

    def redeem(self, invitation: Invitation, peer: PeerID, name: str, wall: float) -> Redemption:
        """Make a peer a member by an invitation."""
        outcome, _ = self._look_up(invitation, wall)
        if outcome is not Redemption.ACCEPTED:
            # Who has nothing valid keeps no other process waiting for a transaction.
            return outcome
        with self._transaction():
            outcome, quota = self._look_up(invitation, wall)
            if outcome is not Redemption.ACCEPTED:
                return outcome
            self._run("UPDATE invitations SET used = used + 1 WHERE number = ?", invitation.number)
            self._run(
                "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
                *(peer.key, name, invitation.number, wall, quota),
            )
        return Redemption.ACCEPTED

    def _look_up(self, invitation: Invitation, wall: float) -> tuple[Redemption, int | None]:
        """Whether an invitation can be redeemed now, and the quota that comes with it."""
        found = self._rows(
            "SELECT digest, uses, used, expires, relay_quota FROM invitations WHERE number = ?",
            invitation.number,
        )
        digest, uses, used, expires, quota = found[0] if found else (bytes(32), 0, 0, 0.0, None)
        if not compare_digest(digest, invitation.digest):
            return Redemption.UNKNOWN, None
        if wall >= expires:
            return Redemption.EXPIRED, None
        return (Redemption.USED if used >= uses else Redemption.ACCEPTED), quota

    def relay_quota(self, peer: PeerID) -> int | None:
        """The bytes a day of a member's own quota; None if it has none of its own."""
        found = self._rows("SELECT relay_quota FROM members WHERE peer = ?", peer.key)
        return found[0][0] if found else None

    def revocation(self, peer: PeerID) -> AdmissionRefusal | None:
        """`REVOKED` or `ID_REVOKED` if that has happened to a peer."""
        found = self._rows("SELECT refusal FROM revocations WHERE peer = ?", peer.key)
        return AdmissionRefusal(found[0][0]) if found else None

    def revoked(self) -> frozenset[PeerID]:
        """All peers that are refused for ever."""
        return frozenset(PeerID(key) for (key,) in self._rows("SELECT peer FROM revocations"))

    def count_revoked(self) -> int:
        """How many there are."""
        return int(self._rows("SELECT count(*) FROM revocations")[0][0])

    # -- what the relay has carried --

    def add_usage(self, day: int, usage: Mapping[PeerID, int]) -> None:
        """
        Add the bytes that a relay has carried for each peer on a day (since 1970). They are kept for
        `USAGE_DAYS`.

        New identities cost nothing, so of a day there are at most `MAX_PEERS_A_DAY`; others are left out.
        """
        with self._transaction():
            self._run("DELETE FROM usage WHERE day <= ?", day - USAGE_DAYS)
            ((peers,),) = self._rows("SELECT count(*) FROM usage WHERE day = ?", day)
            for peer, more in usage.items():
                changed = self._run(
                    "UPDATE usage SET bytes = bytes + ? WHERE day = ? AND peer = ?", more, day, peer.key
                )
                if not changed.rowcount and peers < MAX_PEERS_A_DAY:
                    self._run("INSERT INTO usage VALUES (?, ?, ?)", day, peer.key, more)
                    peers += 1

    def usage(self, first_day: int) -> list[tuple[int, PeerID, int]]:
        """What was counted from a day on: day, peer and bytes, the latest day and the most bytes first."""
        rows = self._rows(
            "SELECT day, peer, bytes FROM usage WHERE day >= ? ORDER BY day DESC, bytes DESC", first_day
        )
        return [(day, PeerID(key), used) for day, key, used in rows]

    # -- for the operator --

    def invite(self, invitation: Invitation, uses: int, expires: float, relay_quota: int | None) -> None:
        """
        Accept an invitation from `uses` peers.

        :param expires: Unix seconds.
        :param relay_quota: see `Member`.
        """
        with self._transaction():
            self._run(
                "INSERT INTO invitations (number, digest, uses, expires, relay_quota) VALUES (?, ?, ?, ?, ?)",
                *(invitation.number, invitation.digest, uses, expires, relay_quota),
            )

    def revoke(self, peer: PeerID, refusal: AdmissionRefusal, wall: float, statement: bytes = b"") -> None:
        """
        Refuse a peer from now on.

        :param statement: what its owner has signed; empty: the operator does it.
        """
        with self._transaction():
            # A revocation by the owner is never replaced.
            self._run(
                "INSERT OR REPLACE INTO revocations SELECT ?, ?, ?, ? WHERE NOT EXISTS "
                "(SELECT 1 FROM revocations WHERE peer = ? AND refusal = ?)",
                *(peer.key, refusal.value, wall, statement or None, peer.key),
                AdmissionRefusal.ID_REVOKED.value,
            )

    def restore(self, peer: PeerID) -> bool:
        """
        Take back what the operator has revoked.

        :return: whether there was something; not what the owner has revoked.
        """
        with self._transaction():
            done = self._run(
                "DELETE FROM revocations WHERE peer = ? AND refusal = ?",
                *(peer.key, AdmissionRefusal.REVOKED.value),
            )
        return done.rowcount > 0

    def members(self) -> list[Member]:
        """All members and all revoked peers, the oldest members first."""
        rows = self._rows(
            """
            SELECT m.peer, m.name, m.since AS since, m.relay_quota, r.refusal
              FROM members m LEFT JOIN revocations r ON m.peer = r.peer
            UNION ALL
            SELECT r.peer, '', NULL, NULL, r.refusal FROM revocations r
              WHERE r.peer NOT IN (SELECT peer FROM members)
            """
        )
        rows.sort(key=lambda row: (row[2] is None, row[2], row[0]))
        return [
            Member(PeerID(key), name, since, quota, refusal and AdmissionRefusal(refusal))
            for key, name, since, quota, refusal in rows
        ]

    # -- within --

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._check_files()
            with self._errors():
                connection = sqlite3.connect(
                    ":memory:" if self._path is None else self._path,
                    timeout=_BUSY_TIME,
                    isolation_level=None,
                )
                try:
                    self._prepare(connection)
                except BaseException:
                    connection.close()
                    raise
            self._open = connection
        return self._open

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
            raise MemberStoreError(unusable(what, error, advice)) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        one = connection.execute
        (application,) = one("PRAGMA application_id").fetchone()
        (version,) = one("PRAGMA user_version").fetchone()
        (tables,) = one("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != _APPLICATION_ID:
            raise MemberStoreError(
                f"The file {self._where} is a database, but not a list of members. Move it away, or choose "
                "another directory with --state-dir."
            )
        if version > _VERSION:
            raise MemberStoreError(
                f"The list of members {self._where} was written by a newer version of Punch: use that one."
            )
        one("PRAGMA journal_mode = WAL").fetchall()
        one("PRAGMA synchronous = FULL")
        one("BEGIN IMMEDIATE")
        # Another process may have made the tables meanwhile.
        if not one("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for table in _TABLES:
                one(table)
            one(f"PRAGMA application_id = {_APPLICATION_ID}")
            one(f"PRAGMA user_version = {_VERSION}")
        one("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
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
            raise MemberStoreError(
                f"The list of members {self._where} can't be used: {error}. Make room or make it writable; "
                "if it is damaged, move it away with the files beside it that begin with its name."
            ) from error

    def _run(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        with self._errors():
            return self._connection.execute(statement, arguments)

    def _rows(self, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(query, arguments).fetchall()

    def _pragma(self, name: str) -> int:
        return int(self._rows(f"PRAGMA {name}")[0][0])

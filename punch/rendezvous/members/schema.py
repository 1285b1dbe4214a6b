"""
The tables of the file of members (`punch.rendezvous.members.members_file`), and what a file of an earlier
version contains.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import sha256

from punch.identity import PeerID
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

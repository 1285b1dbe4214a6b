"""
Invitations, members and revocations of a rendezvous in an SQLite file, which the service and the commands of
the operator (`punch rendezvous invite`, …) use at the same time.

What changes is also kept as records in a journal (`punch.rendezvous.members.records`), which processes with
other state directories exchange.

A transaction is on the disk when a method returns (`synchronous = FULL`), so a process may be killed at any
moment. The commands need no way to the service: `changed` tells it that another process has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Any

from punch.identity import PeerID
from punch.rendezvous.members.members_file import NOTE, VERSION, MembersFile, journal_entry
from punch.rendezvous.members.membership import Redemption
from punch.rendezvous.members.records import (
    InvitationMade,
    InvitationRedeemed,
    InvitationRevoked,
    PeerRevoked,
    Record,
    RevocationUndone,
    decode,
)
from punch.wire.invitation import AdmissionRefusal, Invitation

FILE_NAME = "members.sqlite"

USAGE_DAYS = 62
"""Days for which usage is kept."""
MAX_PEERS_A_DAY = 50_000
"""Peers whose usage is kept for a day, and users of the relay: those with the most bytes."""
_FEW_CHANGES = 200
"""The most new records that are looked at one by one."""


@dataclass(frozen=True)
class Member:
    """
    A peer that has redeemed an invitation, or was revoked.

    :ivar since: Unix seconds of the redemption; None for a peer that was never a member.
    :ivar relay_quota: bytes a day that the relay carries for it; None: the service's own limit.
    :ivar invitation: the number of the invitation; None for a peer that was never a member.
    """

    peer: PeerID
    name: str
    since: float | None
    relay_quota: int | None
    refusal: AdmissionRefusal | None
    invitation: bytes | None


@dataclass(frozen=True)
class KeptInvitation:
    """
    An invitation that was made.

    :ivar uses: for how many peers it is.
    :ivar used: how many have redeemed it.
    :ivar expires: Unix seconds; 0 if it was revoked.
    :ivar relay_quota: see `Member`.
    """

    number: bytes
    uses: int
    used: int
    expires: float
    relay_quota: int | None

    @property
    def revoked(self) -> bool:
        """Whether the operator has revoked it."""
        return self.expires <= 0.0

    def usable(self, wall: float) -> bool:
        """Whether one more peer can redeem it."""
        return wall < self.expires and self.used < self.uses


class MemberDatabase:
    """
    Implements `MemberStore`.

    :param path: the file; None keeps everything in memory.
    :raise MemberStoreError: the file can't be used. It is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = MembersFile(path)
        self._added = False
        self._data_version = self._file.pragma("data_version")
        self._looked = -1
        """The number of the last record that `peers_changed` has seen."""

    @property
    def problem(self) -> str | None:
        """A sentence if the file could not be used, until `check` finds that it can be; None: it could."""
        return self._file.problem

    @property
    def waits(self) -> bool:
        """Whether the next transaction waits for that of another process: not if the last one did in vain."""
        return self._file.waits

    def close(self) -> None:
        """Close the file. It is opened again when it is used again, for example after a fork."""
        self._file.close()

    def changed(self) -> bool:
        """Whether records of another process were added since the last call, here or in the file."""
        before, self._data_version = self._data_version, self._file.pragma("data_version")
        added, self._added = self._added, False
        return added or before != self._data_version

    def peers_changed(self) -> frozenset[PeerID] | None:
        """
        The peers that were admitted or revoked since the last call, here or elsewhere. None if they are not
        known one by one, so that it may have happened to any of them: at the first call, after many changes,
        if there are fewer records than before, or if an invitation was redeemed too often.
        """
        looked = self._looked
        ((last,),) = self._file.rows("SELECT coalesce(max(number), 0) FROM journal")
        peers: set[PeerID] | None = None
        if looked >= 0 and 0 <= last - looked <= _FEW_CHANGES:
            peers = self._file.values(lambda: self._peers_of(self.records_after(looked, last - looked)))
        self._looked = last
        return None if peers is None else frozenset(peers)

    def _peers_of(self, records: Sequence[tuple[int, bytes]]) -> set[PeerID] | None:
        peers = set()
        for _, data in records:
            record = decode(data)
            if isinstance(record, InvitationRedeemed) and self._was_redeemed_too_often(record.number):
                return None
            if isinstance(record, (InvitationRedeemed, PeerRevoked, RevocationUndone)):
                peers.add(record.peer)
        return peers

    def _was_redeemed_too_often(self, number: bytes) -> bool:
        return bool(self._file.rows("SELECT 1 FROM invitations WHERE number = ? AND used > uses", number))

    def check(self) -> None:
        """
        Try whether the file can be read and written now, also what could not be read last. If so, there is no
        `problem` any more.

        :raise MemberStoreError: it can't.
        """
        with self._file.transaction():
            for table in ("invitations", "members", "revocations", "usage", "journal", "relayed"):
                self._file.run(f"SELECT 1 FROM {table} LIMIT 1")
            # Sets the version that it has already, which writes a page.
            self._file.run(f"PRAGMA user_version = {VERSION}")
        self._file.read_again()
        self._file.problem = None

    # -- MemberStore --

    def is_member(self, peer: PeerID) -> bool:
        """Whether a peer has redeemed an invitation."""
        return bool(self._file.rows("SELECT 1 FROM members WHERE peer = ?", peer.key))

    def redeem(self, invitation: Invitation, peer: PeerID, name: str, wall: float) -> Redemption:
        """Make a peer a member by an invitation."""
        outcome = self._look_up(invitation, wall)
        if outcome is not Redemption.ACCEPTED:
            # Strangers can cause this, so there is no transaction: other processes would wait for its end.
            return outcome
        with self._file.transaction():
            outcome = self._look_up(invitation, wall)
            if outcome is Redemption.ACCEPTED:
                self._add(InvitationRedeemed(invitation.number, peer, name, wall))
        return outcome

    def _look_up(self, invitation: Invitation, wall: float) -> Redemption:
        """Whether an invitation can be redeemed now."""

        def read() -> Redemption:
            found = self._file.rows(
                "SELECT digest, uses, used, expires FROM invitations WHERE number = ?", invitation.number
            )
            digest, uses, used, expires = found[0] if found else (bytes(32), 0, 0, 0.0)
            if not compare_digest(digest, invitation.digest):
                return Redemption.UNKNOWN
            if wall >= expires:
                return Redemption.EXPIRED
            return Redemption.USED if used >= uses else Redemption.ACCEPTED

        return self._file.values(read)

    def relay_quota(self, peer: PeerID) -> int | None:
        """The bytes a day of a member's own quota; None if it has none of its own."""
        found = self._file.rows("SELECT relay_quota FROM members WHERE peer = ?", peer.key)
        return found[0][0] if found else None

    def revocation(self, peer: PeerID) -> AdmissionRefusal | None:
        """`REVOKED` or `ID_REVOKED` if that has happened to a peer."""

        def read() -> AdmissionRefusal | None:
            found = self._file.rows("SELECT refusal FROM revoked WHERE peer = ?", peer.key)
            return AdmissionRefusal(found[0][0]) if found else None

        return self._file.values(read)

    def revoked(self) -> frozenset[PeerID]:
        """All peers that are refused for ever."""

        def read() -> frozenset[PeerID]:
            return frozenset(PeerID(key) for (key,) in self._file.rows("SELECT peer FROM revoked"))

        return self._file.values(read)

    def count_revoked(self) -> int:
        """How many there are."""
        return int(self._file.rows("SELECT count(*) FROM revoked")[0][0])

    # -- what the relay has carried --

    def add_usage(self, day: int, peers: Mapping[PeerID, int], users: Mapping[str, int]) -> None:
        """
        Add the bytes that a relay has carried on a day (since 1970), for each peer, which are kept for
        `USAGE_DAYS`, and for each of its users, which are kept on this day.

        New identities cost nothing, so of a day there are at most `MAX_PEERS_A_DAY`. Then one with more bytes
        takes the place of the one with the fewest, and others are left out.
        """
        with self._file.transaction():
            self._file.run("DELETE FROM usage WHERE day <= ?", day - USAGE_DAYS)
            self._file.run("DELETE FROM relayed WHERE day < ?", day)
            self._add_bytes("usage", "peer", day, {peer.key: size for peer, size in peers.items()})
            self._add_bytes("relayed", "user", day, users)

    def _add_bytes(self, table: str, column: str, day: int, sizes: Mapping[Any, int]) -> None:
        ((rows,),) = self._file.rows(f"SELECT count(*) FROM {table} WHERE day = ?", day)
        if rows + len(sizes) <= MAX_PEERS_A_DAY:
            # One statement for all, since the process serves nobody meanwhile
            self._file.run_many(
                f"INSERT INTO {table} VALUES (?, ?, ?) "
                f"ON CONFLICT (day, {column}) DO UPDATE SET bytes = bytes + excluded.bytes",
                ((day, key, size) for key, size in sizes.items()),
            )
            return
        new = {}
        for key, size in sizes.items():
            changed = self._file.run(
                f"UPDATE {table} SET bytes = bytes + ? WHERE day = ? AND {column} = ?", size, day, key
            )
            if not changed.rowcount:
                new[key] = size
        room = MAX_PEERS_A_DAY - rows
        fewest = self._file.rows(
            f"SELECT {column}, bytes FROM {table} WHERE day = ? ORDER BY bytes LIMIT ?",
            *(day, max(0, len(new) - room)),
        )
        leaving = iter(fewest)
        for number, (key, size) in enumerate(sorted(new.items(), key=lambda each: -each[1])):
            if number >= room:
                least = next(leaving, None)
                if least is None or least[1] >= size:
                    return
                self._file.run(f"DELETE FROM {table} WHERE day = ? AND {column} = ?", day, least[0])
            self._file.run(f"INSERT INTO {table} VALUES (?, ?, ?)", day, key, size)

    def relayed(self, day: int) -> dict[str, int]:
        """What was counted on a day for each user of the relay."""
        return dict(self._file.rows("SELECT user, bytes FROM relayed WHERE day = ?", day))

    def relayed_for(self, day: int, user: str) -> int:
        """What was counted on a day for one user of the relay."""
        found = self._file.rows("SELECT bytes FROM relayed WHERE day = ? AND user = ?", day, user)
        return int(found[0][0]) if found else 0

    def usage(self, first_day: int) -> list[tuple[int, PeerID, int]]:
        """What was counted from a day on: day, peer and bytes, the latest day and the most bytes first."""

        def read() -> list[tuple[int, PeerID, int]]:
            rows = self._file.rows(
                "SELECT day, peer, bytes FROM usage WHERE day >= ? ORDER BY day DESC, bytes DESC", first_day
            )
            return [(day, PeerID(key), used) for day, key, used in rows]

        return self._file.values(read)

    # -- for the operator --

    def invite(self, invitation: Invitation, uses: int, expires: float, relay_quota: int | None) -> None:
        """
        Accept an invitation from `uses` peers.

        :param expires: Unix seconds.
        :param relay_quota: see `Member`.
        """
        with self._file.transaction():
            self._add(InvitationMade(invitation.number, invitation.digest, uses, expires, relay_quota))

    def invitations(self) -> list[KeptInvitation]:
        """All invitations that were made, the first to expire first."""
        rows = self._file.rows(
            "SELECT number, uses, used, expires, relay_quota FROM invitations ORDER BY expires, number"
        )
        return [KeptInvitation(*row) for row in rows]

    def revoke_invitation(self, number: bytes) -> bool:
        """
        Accept an invitation from no further peer. Those that have redeemed it stay members.

        :return: whether there is such an invitation.
        """
        with self._file.transaction():
            if not self._file.rows("SELECT 1 FROM invitations WHERE number = ?", number):
                return False
            self._add(InvitationRevoked(number))
        return True

    def revoke(self, peer: PeerID, refusal: AdmissionRefusal, wall: float, statement: bytes = b"") -> None:
        """
        Refuse a peer from now on.

        :param statement: what its owner has signed; empty if the operator revokes it.
        """
        with self._file.transaction():
            if self.revocation(peer) not in (refusal, AdmissionRefusal.ID_REVOKED):
                self._add(PeerRevoked(peer, refusal, self._later(peer, wall), statement))

    def restore(self, peer: PeerID, wall: float) -> bool:
        """
        Take back what the operator has revoked.

        :return: whether there was something; not what the owner has revoked.
        """
        with self._file.transaction():
            if self.revocation(peer) is not AdmissionRefusal.REVOKED:
                return False
            self._add(RevocationUndone(peer, self._later(peer, wall)))
        return True

    def _later(self, peer: PeerID, wall: float) -> float:
        """Unix seconds that are later than what is known about a peer, whatever the clocks say."""
        found = self._file.rows("SELECT time FROM revocations WHERE peer = ?", peer.key)
        return max(wall, found[0][0] + 0.001) if found else wall

    def members(self) -> list[Member]:
        """All members and all revoked peers, the oldest members first."""

        def read() -> list[Member]:
            rows = self._file.rows(
                """
                SELECT m.peer, m.name, m.since AS since, m.relay_quota, r.refusal, m.invitation
                  FROM members m LEFT JOIN revoked r ON m.peer = r.peer
                UNION ALL
                SELECT r.peer, '', NULL, NULL, r.refusal, NULL FROM revoked r
                  WHERE r.peer NOT IN (SELECT peer FROM members)
                """
            )
            rows.sort(key=lambda row: (row[2] is None, row[2], row[0]))
            return [
                Member(PeerID(key), name, since, quota, refusal and AdmissionRefusal(refusal), invitation)
                for key, name, since, quota, refusal, invitation in rows
            ]

        return self._file.values(read)

    # -- records --

    def records_after(self, number: int, most: int) -> list[tuple[int, bytes]]:
        """The records of the journal after the one with this number, the oldest first, with their numbers."""
        return self._file.rows("SELECT number, record FROM journal WHERE number > ? LIMIT ?", number, most)

    def add_records(self, records: Iterable[Record]) -> None:
        """Add records of other processes. Those that are there already change nothing."""
        with self._file.transaction():
            for record in records:
                self._added |= self._add(record)

    def _add(self, record: Record) -> bool:
        """
        Add a record to the journal, and change the tables.

        :return: whether it is new.
        """
        if not self._note(record):
            return False
        if isinstance(record, InvitationMade):
            self._file.run(
                "INSERT OR IGNORE INTO invitations (number, digest, uses, used, expires, relay_quota) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                *(record.number, record.digest, record.uses, record.used, record.expires),
                record.relay_quota,
            )
        elif isinstance(record, InvitationRedeemed):
            self._redeemed(record)
        elif isinstance(record, InvitationRevoked):
            # Expired by the clock of every process.
            self._file.run("UPDATE invitations SET expires = 0 WHERE number = ?", record.number)
        elif isinstance(record, PeerRevoked):
            self._revocation_changed(record.peer, record.refusal.value, record.time, record.statement)
        else:
            self._revocation_changed(record.peer, "", record.time, b"")
        return True

    def _note(self, record: Record) -> bool:
        return self._file.run(NOTE, *journal_entry(record)).rowcount > 0

    def _redeemed(self, record: InvitationRedeemed) -> None:
        found = self._file.rows(
            "SELECT uses, used, relay_quota FROM invitations WHERE number = ?", record.number
        )
        if not found:
            return
        ((uses, used, quota),) = found
        ((invitation, since),) = self._file.rows(
            "SELECT invitation, since FROM members WHERE peer = ?", record.peer.key
        ) or [(None, None)]
        if invitation == record.number:
            # At two processes at once.
            earlier = min(since, record.since)
            self._file.run("UPDATE members SET since = ? WHERE peer = ?", earlier, record.peer.key)
            return
        self._file.run("UPDATE invitations SET used = used + 1 WHERE number = ?", record.number)
        if since is not None and since >= record.since:
            return
        self._file.run(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?)",
            *(record.peer.key, record.name, record.number, record.since, quota),
        )
        if used >= uses:
            self._file.run(
                "DELETE FROM members WHERE peer = (SELECT peer FROM members WHERE invitation = ? "
                "ORDER BY since DESC, peer DESC LIMIT 1)",
                record.number,
            )

    def _revocation_changed(self, peer: PeerID, refusal: str, time: float, statement: bytes) -> None:
        owner = AdmissionRefusal.ID_REVOKED.value
        found = self._file.rows("SELECT refusal, time FROM revocations WHERE peer = ?", peer.key)
        if found and refusal != owner and (found[0][0] == owner or found[0][1] >= time):
            return
        self._file.run(
            "INSERT OR REPLACE INTO revocations VALUES (?, ?, ?, ?)",
            *(peer.key, refusal, time, statement or None),
        )

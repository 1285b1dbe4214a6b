"""
The history of all chats, in SQLite.

Each call is one transaction or, in a `group`, a part of one: a crash leaves all of its effects or none. Calls
wait for the disk, so `punch.apps.chat.storage` makes them in a thread.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from punch.apps.chat.database import Database
from punch.apps.chat.model import ChatMessage, ClientID, MessageState
from punch.apps.chat.protocol import MAX_KNOWN, Known, MessageReceived
from punch.identity import PeerID

PAGE = 500
"""How many messages one call changes at most; a caller that wants more calls again."""

_WAITING, _DELIVERED, _READ_THERE, _UNREAD, _READ_HERE = range(5)
_STATES = {
    _WAITING: MessageState.WAITING,
    _DELIVERED: MessageState.DELIVERED,
    _READ_THERE: MessageState.READ,
    _UNREAD: MessageState.UNREAD,
    _READ_HERE: MessageState.READ,
}
_COLUMNS = "m.number, c.peer, m.id, m.state, m.text, m.time, m.time_sent, m.client"
_FROM = "FROM message m JOIN conversation c ON c.key = m.conversation"


@dataclass(frozen=True)
class Record:
    """
    The state of the protocol with one peer.

    :ivar sent: the last id that we used in our `epoch`.
    :ivar known: what came in the other side's epochs, the newest first.
    :ivar waiting: our messages without an ack, oldest first.
    """

    epoch: bytes
    sent: int
    known: Sequence[Known]
    waiting: Sequence[ChatMessage]


@dataclass(frozen=True)
class Overview:
    """What a list of conversations shows of one."""

    peer: PeerID
    unread: int
    waiting: int
    last: ChatMessage | None


class Store:
    """
    The history in one file. Every call raises `StoreError` if the file can't be read or written.

    :param path: the file; None keeps everything in memory.
    :raise StoreError: the file can't be used. It is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self.database = Database(path)
        self._run = self.database.run
        self._rows = self.database.rows
        self._row = self.database.row
        self._transaction = self.database.transaction
        self._values = self.database.values

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def group(self) -> AbstractContextManager[None]:
        """Several calls in one transaction: `Database.group`."""
        return self.database.group()

    # -- the state of the protocol --

    def record(self, peer: PeerID, epoch: bytes) -> Record:
        """
        The state of the protocol with `peer`.

        :param epoch: becomes our epoch if there is none yet.
        """
        with self._transaction():
            key = self._key(peer)
            if key is None:
                self._run("INSERT INTO conversation (peer, epoch) VALUES (?, ?)", peer.key, epoch)
                key = self._key(peer)
            ours, sent = self._row("SELECT epoch, sent FROM conversation WHERE key = ?", key)
            known = self._rows(
                "SELECT epoch, shown, seen, received, time_sent FROM epoch WHERE conversation = ? "
                "ORDER BY number DESC",
                key,
            )
            waiting = self._messages("WHERE m.conversation = ? AND m.state = 0 ORDER BY m.id", key)
        return Record(ours, sent, [Known(*row) for row in known], waiting)

    def renew(self, peer: PeerID, epoch: bytes) -> None:
        """Replace our epoch, as the other side remembers more of it than we do. Ids continue."""
        with self._transaction():
            self._run("UPDATE conversation SET epoch = ? WHERE peer = ?", epoch, peer.key)

    def add(
        self, peer: PeerID, epoch: bytes, text: str, time: float, client_id: ClientID | None = None
    ) -> ChatMessage:
        """
        Store a message of ours under the next id.

        :param epoch: as in `record`.
        """
        with self._transaction():
            self._run(
                "INSERT INTO conversation (peer, epoch) VALUES (?, ?) ON CONFLICT (peer) DO NOTHING",
                peer.key,
                epoch,
            )
            key, sent = self._row("SELECT key, sent + 1 FROM conversation WHERE peer = ?", peer.key)
            self._run("UPDATE conversation SET sent = ? WHERE key = ?", sent, key)
            client = None if client_id is None else json.dumps(client_id)
            number = self._insert(key, sent, 0, _WAITING, text, time, None, client)
        return ChatMessage(number, peer, sent, True, text, time, MessageState.WAITING, None, client_id)

    def add_all(
        self,
        peer: PeerID,
        epoch: bytes,
        texts: Sequence[str],
        time: float,
        client_id: ClientID | None = None,
    ) -> list[ChatMessage]:
        """Store several messages of ours as `add` does, all or none. One message may have a `client_id`."""
        with self._transaction():
            return [self.add(peer, epoch, text, time, client_id) for text in texts]

    def receive(
        self, peer: PeerID, remote_epoch: bytes, messages: Iterable[MessageReceived], time: float
    ) -> list[ChatMessage]:
        """
        Store messages of the other side, all or none, without those that are stored already. Repetitions are
        recognized in the last `MAX_KNOWN` epochs in which something came.

        :return: those that are new, oldest first.
        """
        with self._transaction():
            key, generation, received = self._row(
                "SELECT c.key, coalesce(e.generation, c.generation + 1), coalesce(e.received, 0) "
                "FROM conversation c LEFT JOIN epoch e ON e.conversation = c.key AND e.epoch = ? "
                "WHERE c.peer = ?",
                remote_epoch,
                peer.key,
            )
            added = []
            for message in messages:
                if message.id <= received:
                    continue
                received, text, sent = message.id, message.text, message.time
                number = self._insert(key, received, generation, _UNREAD, text, time, sent, None)
                new = ChatMessage(number, peer, received, False, text, time, MessageState.UNREAD, sent)
                added.append(new)
            if added:
                self._set_last(key, remote_epoch, generation, added[-1])
        return added

    def _set_last(self, key: int, epoch: bytes, generation: int, last: ChatMessage) -> None:
        """Note the last message that came in an epoch of theirs; the oldest of too many is forgotten."""
        self._run("UPDATE conversation SET generation = max(generation, ?) WHERE key = ?", generation, key)
        self._run(
            "INSERT INTO epoch (conversation, epoch, generation, number, received, time_sent) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (conversation, epoch) DO UPDATE SET "
            "number = excluded.number, received = excluded.received, time_sent = excluded.time_sent",
            key,
            epoch,
            generation,
            last.number,
            last.id,
            last.time_sent,
        )
        self._run(
            "DELETE FROM epoch WHERE conversation = ?1 AND epoch NOT IN "
            "(SELECT epoch FROM epoch WHERE conversation = ?1 ORDER BY number DESC LIMIT ?2)",
            key,
            MAX_KNOWN,
        )

    def delivered_here(self, peer: PeerID, remote_epoch: bytes, up_to: int) -> None:
        """Note that the views have the other side's messages up to this id."""
        with self._transaction():
            self._run(
                "UPDATE epoch SET shown = max(shown, ?) WHERE conversation = ? AND epoch = ?",
                up_to,
                self._key(peer),
                remote_epoch,
            )

    def undelivered_here(self) -> list[tuple[bytes, ChatMessage]]:
        """Messages of others that no view may have, oldest first, each with its sender's epoch."""
        found = []
        for key, epoch, generation, shown in self._rows(
            "SELECT conversation, epoch, generation, shown FROM epoch WHERE received > shown"
        ):
            messages = self._messages(
                "WHERE m.conversation = ? AND m.state > 2 AND m.generation = ? AND m.id > ?",
                key,
                generation,
                shown,
            )
            found += [(epoch, message) for message in messages]
        return sorted(found, key=lambda item: item[1].number)

    def delivered_there(self, peer: PeerID, up_to: int) -> list[ChatMessage]:
        """
        Note that the other side has our messages up to this id.

        :return: those of which that is new, at most `PAGE`.
        """
        return self._advance(peer, 0, "id", up_to, _DELIVERED)

    def read_there(self, peer: PeerID, up_to: int) -> list[ChatMessage]:
        """Note that the other side has read our messages up to this id. Returns as `delivered_there`."""
        return self._advance(peer, 1, "id", up_to, _READ_THERE)

    def state_told(self, peer: PeerID, state: MessageState, up_to: int) -> None:
        """Note that the views were told that our messages up to this id are delivered, or read."""
        column = "told_delivered" if state is MessageState.DELIVERED else "told_read"
        with self._transaction():
            self._run(f"UPDATE conversation SET {column} = max({column}, ?) WHERE peer = ?", up_to, peer.key)

    def untold_states(self) -> list[ChatMessage]:
        """
        Messages of ours that are delivered or read, which no view may have been told: first all that are
        delivered, then all that are read, each oldest first.
        """
        found = []
        for told, states in (("told_delivered", (_DELIVERED, _READ_THERE)), ("told_read", (_READ_THERE,))):
            messages = []
            for state in states:
                # The state is part of the statement, so that SQLite can choose a partial index.
                messages += self._messages(f"WHERE m.state = {state} AND m.id > c.{told}")
            messages.sort(key=lambda message: message.number)
            found += [replace(message, state=_STATES[states[0]]) for message in messages]
        return found

    def read_here(self, peer: PeerID, up_to: int | None) -> tuple[list[ChatMessage], dict[bytes, int]]:
        """
        Note that the user has read the messages up to this number (None: all).

        :return: those of which that is new, at most `PAGE`, and what the other side is to be told: for each
            epoch of theirs, the last id.
        """
        with self._transaction():
            last = 2**63 - 1 if up_to is None else up_to
            changed = self._advance(peer, 3, "number", last, _READ_HERE)
            seen: dict[bytes, int] = {}
            if changed:
                key = self._key(peer)
                seen = dict(
                    self._rows(
                        "SELECT e.epoch, max(m.id) FROM message m "
                        "JOIN epoch e ON e.conversation = m.conversation AND e.generation = m.generation "
                        "WHERE m.conversation = ? AND m.number BETWEEN ? AND ? AND m.state = 4 "
                        "GROUP BY e.epoch",
                        key,
                        changed[0].number,
                        changed[-1].number,
                    )
                )
            for epoch, number in seen.items():
                self._run(
                    "UPDATE epoch SET seen = max(seen, ?) WHERE conversation = ? AND epoch = ?",
                    number,
                    key,
                    epoch,
                )
        return changed, seen

    # -- what views ask --

    def waiting(self) -> dict[PeerID, tuple[int, int]]:
        """For each peer for whom messages wait, how many these are, and how many characters they have."""
        rows = self._rows(
            f"SELECT c.peer, count(*), total(length(m.text)) {_FROM} WHERE m.state = 0 GROUP BY c.key"
        )
        with self._values():
            return {PeerID(peer): (count, int(size)) for peer, count, size in rows}

    def waiting_for(self, peer: PeerID) -> list[ChatMessage]:
        """Our messages that `peer` has not acknowledged, oldest first."""
        return self._messages("WHERE m.conversation = ? AND m.state = 0 ORDER BY m.id", self._key(peer))

    def overviews(self, peer: PeerID | None = None) -> list[Overview]:
        """All conversations that have messages, or the one with a peer."""
        found = []
        where = "" if peer is None else "WHERE peer = ?"
        arguments = () if peer is None else (peer.key,)
        for key, owner in self._rows(f"SELECT key, peer FROM conversation {where}", *arguments):
            last = self._messages("WHERE m.conversation = ? ORDER BY m.number DESC LIMIT 1", key)
            if last:
                (unread,) = self._row(
                    "SELECT count(*) FROM message WHERE conversation = ? AND state = 3", key
                )
                (waiting,) = self._row(
                    "SELECT count(*) FROM message WHERE conversation = ? AND state = 0", key
                )
                with self._values():
                    found.append(Overview(PeerID(owner), unread, waiting, last[0]))
        return found

    def history(
        self,
        peer: PeerID | None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> list[ChatMessage]:
        """
        Messages with one peer or all, oldest first.

        :return: the first ones after the number `after`; without, the last ones before the number `before`,
            or of all; with both, the last ones between them.
        """
        order = "ASC" if after is not None and before is None else "DESC"
        found = self._find(peer, {"m.number < ?": before, "m.number > ?": after}, order, limit)
        return found if order == "ASC" else found[::-1]

    def search(
        self, text: str, peer: PeerID | None = None, before: int | None = None, limit: int = 50
    ) -> list[ChatMessage]:
        """Messages that contain a text, ignoring case, newest first."""
        # The texts are compared one by one: there is no index to keep, and nothing to erase twice. A hundred
        # thousand messages take some ten milliseconds.
        wanted = folded(text)
        if not wanted:
            return []
        contains = {"instr(coalesce(m.folded, m.text), ?)": wanted, "m.number < ?": before}
        return self._find(peer, contains, "DESC", limit)

    def _find(
        self, peer: PeerID | None, conditions: dict[str, Any], order: str, limit: int
    ) -> list[ChatMessage]:
        """Messages in the order of their numbers that meet the conditions; those of None are left out."""
        given = {condition: value for condition, value in conditions.items() if value is not None}
        if peer is not None:
            given["m.conversation = ?"] = self._key(peer)
        where = " AND ".join(given) or "true"
        return self._messages(f"WHERE {where} ORDER BY m.number {order} LIMIT ?", *given.values(), limit)

    # -- erasing --

    def erase(self, peer: PeerID | None = None) -> int:
        """
        Erase all messages, or all with one peer, also those that wait.

        :return: how many were erased.
        """
        with self._transaction():
            where, arguments = ("", ()) if peer is None else (" WHERE conversation = ?", (self._key(peer),))
            count = self._run(f"DELETE FROM message{where}", *arguments).rowcount
            # What was not delivered to a view can't be any more.
            self._run(f"UPDATE epoch SET shown = received{where}", *arguments)
            self.database.untidy = True
        return count

    def retention(self) -> float | None:
        """For how many days messages are kept; None: until they are erased."""
        return self.setting("retention")

    def set_retention(self, days: float | None) -> None:
        """Keep messages for so many days."""
        self.set_settings(retention=days)

    def newest_time(self) -> float | None:
        """The time of the newest message, in seconds since 1970; None if there is no message."""
        [[newest]] = self._rows("SELECT max(time) FROM message")
        with self._values():
            return None if newest is None else float(newest)

    def setting(self, name: str) -> float | None:
        """The number that is kept under a name; None if there is none."""
        rows = self._rows("SELECT value FROM setting WHERE name = ?", name)
        with self._values():
            return None if not rows or rows[0][0] is None else float(rows[0][0])

    def set_settings(self, **values: float | None) -> None:
        """Keep numbers under these names, all or none."""
        with self._transaction():
            for name, value in values.items():
                self._run("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, value)

    def expire(self, before: float) -> int:
        """
        Erase at most `PAGE` messages that are older than a time, but none that is still to be delivered, to
        the other side or to a view.

        :return: how many were erased.
        """
        with self._transaction():
            count = self._run(
                "DELETE FROM message WHERE number IN "
                "(SELECT number FROM message m WHERE time < ? AND state != 0 AND NOT EXISTS "
                "(SELECT * FROM epoch e WHERE e.conversation = m.conversation "
                "AND e.generation = m.generation AND e.shown < m.id) ORDER BY time LIMIT ?)",
                before,
                PAGE,
            ).rowcount
            self.database.untidy |= count > 0
        return count

    # -- inside --

    def _key(self, peer: PeerID) -> int | None:
        rows = self._rows("SELECT key FROM conversation WHERE peer = ?", peer.key)
        return rows[0][0] if rows else None

    def _messages(self, rest: str, *arguments: Any) -> list[ChatMessage]:
        with self._values():
            return [_message(row) for row in self._rows(f"SELECT {_COLUMNS} {_FROM} {rest}", *arguments)]

    def _insert(
        self,
        key: int,
        number: int,
        generation: int,
        state: int,
        text: str,
        time: float,
        time_sent: float | None,
        client: str | None,
    ) -> int:
        searched = folded(text)
        inserted = self._run(
            "INSERT INTO message "
            "(conversation, id, generation, state, text, time, time_sent, client, folded) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            key,
            number,
            generation,
            state,
            text,
            time,
            time_sent,
            client,
            None if searched == text else searched,
        )
        assert inserted.lastrowid is not None
        return inserted.lastrowid

    def _advance(self, peer: PeerID, state: int, column: str, up_to: int, to: int) -> list[ChatMessage]:
        """
        Give at most `PAGE` messages in one state another one: those up to an id or number, oldest first. The
        state is part of the statements, so that SQLite can choose a partial index.
        """
        with self._transaction():
            key = self._key(peer)
            which = f"m.conversation = ? AND m.state = {state} AND m.{column} <= ?"
            changed = self._messages(f"WHERE {which} ORDER BY m.{column} LIMIT ?", key, up_to, PAGE)
            if changed:
                last = changed[-1].id if column == "id" else changed[-1].number
                self._run(f"UPDATE message AS m SET state = {to} WHERE {which}", key, last)
        return [replace(message, state=_STATES[to]) for message in changed]


def folded(text: str) -> str:
    """A text as a search compares it: without case, and each character in one form only (NFKC)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _message(row: tuple[Any, ...]) -> ChatMessage:
    number, peer, sender_id, state, text, time, time_sent, client = row
    return ChatMessage(
        number,
        PeerID(peer),
        sender_id,
        state <= _READ_THERE,
        text,
        time,
        _STATES[state],
        time_sent,
        None if client is None else json.loads(client),
    )

"""
Keeps the members of processes with different state directories in step.

Each process has all records in its own database (`punch.rendezvous.members.records`), which is what it
decides by; Redis has them in a list, to which each process adds its own. A process reads the list from where
it read last. If the list was replaced, because Redis was flushed or a replica without the latest entries has
taken over, the process reads it from the beginning, and adds the records of its own that the list lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from twisted.logger import Logger

from punch.identity import RandomBytes
from punch.rendezvous.directory.messages import derive
from punch.rendezvous.directory.shared_state import Ask
from punch.rendezvous.members.membership import MemberStoreError
from punch.rendezvous.members.records import Record, RecordError, decode

KEY = "punch:members"
_BATCH = 100
"""Records that are read or written at once…"""
_BATCHES = 20
"""…and how often that is done in a second."""
_NONCE_SIZE = 12


class RecordStore(Protocol):
    """Keeps records. All methods may raise `MemberStoreError`."""

    def records_after(self, number: int, most: int) -> list[tuple[int, bytes]]:
        """The records after the one with this number, the oldest first, with their numbers."""

    def add_records(self, records: Iterable[Record]) -> None:
        """Add records of other processes. Those that are there already change nothing."""


class RecordSealer:
    """
    Encrypts and authenticates the entries of the list.

    :param secret: the service's private key.
    """

    def __init__(self, secret: bytes, random: RandomBytes) -> None:
        self._key = ChaCha20Poly1305(derive(secret, "value members"))
        self._random = random

    def seal(self, record: bytes) -> bytes:
        """Return the entry for a record."""
        nonce = self._random(_NONCE_SIZE)
        return nonce + self._key.encrypt(nonce, record, b"")

    def open(self, entry: bytes) -> bytes | None:
        """Return the record in an entry; None if it was not made by a process of this service."""
        if len(entry) < _NONCE_SIZE:
            return None
        try:
            return self._key.decrypt(entry[:_NONCE_SIZE], entry[_NONCE_SIZE:], b"")
        except InvalidTag:
            return None


class SharedMembers:
    """
    The records of one process.

    :param secret: the service's private key.
    """

    what = "invitations, members and revocations"
    _log = Logger()

    def __init__(self, store: RecordStore, *, secret: bytes, random: RandomBytes) -> None:
        self._store = store
        self._sealer = RecordSealer(secret, random)
        self._read = 0
        """So many entries of the list are read…"""
        self._last = b""
        """…and this was the last of them. No other entry is the same: another list has another one there."""
        self._written = 0
        """The records up to this number are in the list."""
        self._there: set[bytes] = set()
        """The digests of the records in it."""
        self._told: str | None = None

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Read what others have written, and then write what is only here."""
        for _ in range(_BATCHES):
            again = int(self._read > 0)
            (entries,) = await ask(("LRANGE", KEY, self._read - again, self._read + _BATCH - 1))
            if again and entries[:1] != [self._last]:
                self._read = self._written = 0
                self._there.clear()
                continue
            del entries[:again]
            try:
                self._take(entries)
                if len(entries) == _BATCH:
                    continue
                own = self._store.records_after(self._written, _BATCH)
            except MemberStoreError as problem:
                self._tell(str(problem))
                return
            self._told = None
            if not own:
                return
            digests = [sha256(record).digest() for _, record in own]
            new = [
                self._sealer.seal(record)
                for (_, record), digest in zip(own, digests, strict=True)
                if digest not in self._there
            ]
            if new:
                # Then they are read: only what is there counts as written.
                await ask(("RPUSH", KEY, *new))
            else:
                self._written = own[-1][0]

    def disconnected(self) -> None:
        """The database has what others have written."""

    def _take(self, entries: list[bytes]) -> None:
        """:raise MemberStoreError: they can't be stored, and will be read again."""
        records, digests = [], set()
        for entry in entries:
            data = self._sealer.open(entry)
            if data is None:
                self._tell("A member's record in Redis is not of this service.")
                continue
            digests.add(sha256(data).digest())
            try:
                records.append(decode(data))
            except RecordError as problem:
                self._tell(f"A member's record is ignored: {problem}; all processes run one version.")
        if records:
            self._store.add_records(records)
        self._there |= digests
        self._read += len(entries)
        self._last = entries[-1] if entries else self._last

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._log.error("{text}", text=text)

"""
Counts what a source has at all processes of a service against the same shares.

Each process writes into a hash in Redis, about once a second, which prefixes have a large part of their share
at this process (`SourceTable.large`), and reads what the others have written. So a source has its share of
all processes together, and a little more: what it gets within a second or two, and at each process less than
`PART` of its share. What a process has written counts for `LIFE` seconds: if it dies, its peers are not
counted twice when they come back elsewhere. While Redis is away, each process goes by what it has itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceTable
from punch.rendezvous.directory.messages import NAME_SIZE, derive
from punch.rendezvous.directory.shared_state import Ask
from punch.wire import strict_json

KEY = "punch:counts"
PART = 1 / 8
"""Others are told of a prefix that has so much of its share here."""
LIFE = 2.5
"""Seconds for which the counts of a process are good."""
_KEPT = 60.0
"""Seconds after which the counts of a process that is gone are removed."""
_MOST = 500
"""Prefixes of a table of which others are told, those with most entries."""
_MOST_BYTES = 1 << 18
_NONCE_SIZE = 12

Counts = dict[str, dict[Hashable, int]]
"""The entries of each prefix, by the name of the table."""


class SharedCounts:
    """
    The tables of one process.

    :param tables: by names that are the same at all processes.
    :param secret: the service's private key.
    """

    what = "limits"

    def __init__(self, tables: Mapping[str, SourceTable[Any]], *, secret: bytes, random: RandomBytes) -> None:
        self._tables = tables
        self._random = random
        self._key = ChaCha20Poly1305(derive(secret, "value counts"))
        self._name = random(NAME_SIZE).hex()

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Tell what sources have here, and learn what they have elsewhere."""
        counts = {name: _largest(table.large(PART)) for name, table in self._tables.items()}
        _, _, found = await ask(
            ("HSET", KEY, self._name, self._seal(counts, now)),
            ("EXPIRE", KEY, int(_KEPT)),
            ("HGETALL", KEY),
        )
        elsewhere: Counts = {name: {} for name in self._tables}
        gone = []
        for process, value in _pairs(found):
            if process == self._name.encode():
                continue
            written, others = self._open(process, value)
            if abs(now - written) > _KEPT:
                gone.append(process)
            elif abs(now - written) <= LIFE:
                for name, table in elsewhere.items():
                    for prefix, count in others.get(name, {}).items():
                        table[prefix] = table.get(prefix, 0) + count
        for name, each in self._tables.items():
            each.elsewhere = elsewhere[name]
        if gone:
            await ask(("HDEL", KEY, *gone))

    def disconnected(self) -> None:
        """Go by what is here alone."""
        for table in self._tables.values():
            table.elsewhere = {}

    def _seal(self, counts: Counts, now: float) -> bytes:
        tables = {
            name: {prefix.hex(): count for prefix, count in each.items() if isinstance(prefix, bytes)}
            for name, each in counts.items()
        }
        nonce = self._random(_NONCE_SIZE)
        text = strict_json.dumps({"time": now, "counts": tables})
        return nonce + self._key.encrypt(nonce, text, self._name.encode())

    def _open(self, process: bytes, value: bytes) -> tuple[float, Counts]:
        """The time and the counts of another process; a time long ago if these are not of this service."""
        try:
            if len(value) > _MOST_BYTES:
                return 0.0, {}
            text = self._key.decrypt(value[:_NONCE_SIZE], value[_NONCE_SIZE:], process)
            told = strict_json.loads(text)
            counts: Counts = {
                str(name): {bytes.fromhex(prefix): int(count) for prefix, count in each.items()}
                for name, each in told["counts"].items()
            }
            return float(told["time"]), counts
        except (InvalidTag, ValueError, KeyError, TypeError, AttributeError):
            return 0.0, {}


def _largest(counts: dict[Hashable, int]) -> dict[Hashable, int]:
    return dict(sorted(counts.items(), key=lambda each: -each[1])[:_MOST])


def _pairs(found: Any) -> Sequence[tuple[bytes, bytes]]:
    """The fields and values of a hash, which txredisapi returns as a dict or as a list."""
    if isinstance(found, dict):
        return [(_bytes(field), value) for field, value in found.items()]
    return list(zip(map(_bytes, found[::2]), found[1::2], strict=True))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text

"""
Who was here before. Pure, and of a fixed size.

A stranger can't claim to have been here before: a peer has proved its key, and of two peers the called one
has answered. All of this is forgotten when the service ends.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import sha256
from typing import Generic, TypeVar

from punch.identity import PeerID
from punch.net.rate_limits import (
    NoRoom,
    Shares,
    Source,
    SourceTable,
)

K = TypeVar("K", bound=Hashable)

_DIGEST_SIZE = 16


class EarlierSources(Generic[K]):
    """
    Keys that were seen before, each of them counted for the source that it came from.

    When there is no room, the source with the most keys loses its newest one; a source that has its share
    loses its own oldest one.

    :param capacity: keys in all.
    :param shares: keys of one source.
    """

    def __init__(self, capacity: int, shares: Shares) -> None:
        self._table: SourceTable[K] = SourceTable(capacity, shares)

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        """Whether this key is remembered."""
        return key in self._table

    def add(self, source: Source, key: K) -> None:
        """Remember `key`, which was seen just now. It may be forgotten at once if others have all places."""
        table = self._table
        table.leave(key)
        try:
            forgotten = table.room(source)
        except NoRoom:
            forgotten = table.oldest(source)
            if forgotten is None:
                return
        if forgotten is not None:
            table.leave(forgotten)
        table.enter(source, key)


def pair_key(one: PeerID, other: PeerID) -> bytes:
    """Two peers as one key, whichever of them is named first."""
    return sha256(min(one, other).key + max(one, other).key).digest()[:_DIGEST_SIZE]

"""
Counts what a source has at all processes of a service against the same shares: places in tables, and tokens
that it has taken from buckets.

Each process tells the others, about once a second, which prefixes have a large part of their share at this
process (`SourceTable.large`, `SourceBuckets.missing`). So a source has its share of all processes together,
and a little more: what it gets within a second or two, and at each process less than `PART` of its share.
While Redis is away, each process goes by what it has itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceBuckets, SourceTable
from punch.rendezvous.directory.reports import LIFE, Reports, added_up, largest
from punch.rendezvous.directory.shared_state import Ask

PART = 1 / 8
"""Others are told of a prefix that has so much of its share here."""
_MOST = 500
"""Prefixes of a table of which others are told, those with most entries."""


class SharedCounts:
    """
    The tables and buckets of one process.

    :param tables: by names that are the same at all processes.
    :param buckets: the same for buckets; no table has the name of one.
    :param monotonic: monotonic seconds.
    :param secret: the service's private key.
    """

    what = "limits"

    def __init__(
        self,
        tables: Mapping[str, SourceTable[Any]],
        buckets: Mapping[str, SourceBuckets],
        monotonic: Callable[[], float],
        *,
        secret: bytes,
        random: RandomBytes,
    ) -> None:
        self._tables = tables
        self._buckets = buckets
        self._monotonic = monotonic
        self._learnt_at = monotonic()
        self._reports = Reports("counts", secret=secret, random=random)

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Tell what sources have here, and learn what they have elsewhere."""
        own = {name: _told(table.large(PART)) for name, table in self._tables.items()}
        for name, buckets in self._buckets.items():
            own[name] = _told(buckets.missing(PART, self._monotonic()))
        others = await self._reports.exchange(ask, now, own)
        elsewhere: dict[str, dict[Any, int]] = {
            name: {_prefix(key): count for key, count in added_up(others, name).items()} for name in own
        }
        since, self._learnt_at = self._learnt_at, self._monotonic()
        # What others report was so for as long as a report counts, and not while Redis was away
        seconds = min(self._learnt_at - since, LIFE)
        for name, table in self._tables.items():
            table.elsewhere = elsewhere[name]
        for name, buckets in self._buckets.items():
            buckets.set_elsewhere(elsewhere[name], seconds, self._learnt_at)

    def disconnected(self) -> None:
        """Go by what is here alone."""
        for table in self._tables.values():
            table.elsewhere = {}
        self._learnt_at = self._monotonic()
        for buckets in self._buckets.values():
            buckets.set_elsewhere({}, 0.0, self._learnt_at)


def _told(large: Mapping[Hashable, float]) -> dict[str, int]:
    """What others are told. What is no prefix of an IP address is counted at this process only."""
    return largest({key.hex(): round(count) for key, count in large.items() if isinstance(key, bytes)}, _MOST)


def _prefix(text: str) -> bytes | str:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text

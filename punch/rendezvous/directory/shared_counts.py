"""
Counts what a source has at all processes of a service against the same shares.

Each process tells the others, about once a second, which prefixes have a large part of their share at this
process (`SourceTable.large`). So a source has its share of all processes together, and a little more: what it
gets within a second or two, and at each process less than `PART` of its share. While Redis is away, each
process goes by what it has itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceTable
from punch.rendezvous.directory.reports import Reports, added_up, largest
from punch.rendezvous.directory.shared_state import Ask

PART = 1 / 8
"""Others are told of a prefix that has so much of its share here."""
_MOST = 500
"""Prefixes of a table of which others are told, those with most entries."""


class SharedCounts:
    """
    The tables of one process.

    :param tables: by names that are the same at all processes.
    :param secret: the service's private key.
    """

    what = "limits"

    def __init__(self, tables: Mapping[str, SourceTable[Any]], *, secret: bytes, random: RandomBytes) -> None:
        self._tables = tables
        self._reports = Reports("counts", secret=secret, random=random)

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Tell what sources have here, and learn what they have elsewhere."""
        own = {}
        for name, table in self._tables.items():
            large = table.large(PART).items()
            # What is no prefix of an IP address is counted at this process only
            own[name] = largest({key.hex(): count for key, count in large if isinstance(key, bytes)}, _MOST)
        others = await self._reports.exchange(ask, now, own)
        for name, table in self._tables.items():
            table.elsewhere = {_prefix(key): count for key, count in added_up(others, name).items()}

    def disconnected(self) -> None:
        """Go by what is here alone."""
        for table in self._tables.values():
            table.elsewhere = {}


def _prefix(text: str) -> bytes | str:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text

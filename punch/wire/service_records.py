"""SRV records (RFC 2782), by which DNS names the hosts and ports of a service, and their order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SERVICE = "_punch._tcp"
MAX_RECORDS = 16
"""SRV records of one name that are used."""


@dataclass(frozen=True)
class ServiceRecord:
    """An SRV record: `host` and `port` of a service. The host is empty if there is no such service."""

    priority: int
    weight: int
    host: str
    port: int


def in_order(records: Sequence[ServiceRecord], random: Callable[[int], bytes]) -> list[ServiceRecord]:
    """Order SRV records as RFC 2782 says: by priority, and at random by weight where that is the same."""
    ordered: list[ServiceRecord] = []
    for priority in sorted({record.priority for record in records}):
        # Records of weight 0 come first, so that they have a small chance beside others.
        left = sorted((each for each in records if each.priority == priority), key=lambda each: each.weight)
        while left:
            chosen = int.from_bytes(random(8), "big") % (sum(each.weight for each in left) + 1)
            for record in left:
                chosen -= record.weight
                if chosen <= 0:
                    break
            left.remove(record)
            ordered.append(record)
    return ordered

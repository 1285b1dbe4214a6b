"""
Limits that count at all processes of a service together: what a source has, and what is relayed in a second.

Each process reports the sources that use a large part of a limit at it: in a sealed field of its own in a
hash of Redis, which all processes read. A report counts for `LIFE` seconds, so that a process that has died
does not count for long. While Redis is away, each process goes by what it has itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceBuckets
from punch.rendezvous.directory.messages import NAME_SIZE, derive
from punch.rendezvous.directory.shared_state import Ask
from punch.turn.server.allocations import Allocations
from punch.wire import strict_json

LIFE = 2.5
"""Seconds for which a report is good."""
_KEPT = 60.0
"""Seconds after which the report of a process that is gone is removed."""
_MOST_BYTES = 1 << 18
_NONCE_SIZE = 12
PART = 1 / 8
"""
Others are told which sources have at least this part of their share, or use this part of their rate, here.
"""
_MOST = 500
"""How many are reported of each table, bucket and rate: those that have or use most."""

Report = dict[str, dict[str, int]]
"""Numbers by what is counted, by kind."""


class Reports:
    """
    The reports of all processes, of one sort.

    :param sort: what they are about, which names the hash `punch:SORT`.
    :param secret: the service's private key.
    """

    def __init__(self, sort: str, *, secret: bytes, random: RandomBytes) -> None:
        self._hash = f"punch:{sort}"
        self._random = random
        self._key = ChaCha20Poly1305(derive(secret, f"value {sort}"))
        self._name = random(NAME_SIZE).hex()

    async def exchange(self, ask: Ask, now: float, own: Report) -> Sequence[Report]:
        """
        Write the report of this process, and return those of the others.

        :param now: seconds by the clock of Redis.
        """
        _, _, found = await ask(
            ("HSET", self._hash, self._name, self._seal(own, now)),
            ("EXPIRE", self._hash, int(_KEPT)),
            ("HGETALL", self._hash),
        )
        good, gone = [], []
        for process, value in zip(found[::2], found[1::2], strict=True):
            if process == self._name.encode():
                continue
            age, report = self._open(process, value, now)
            if age > _KEPT:
                gone.append(process)
            elif age <= LIFE:
                good.append(report)
        if gone:
            await ask(("HDEL", self._hash, *gone))
        return good

    def _seal(self, report: Report, now: float) -> bytes:
        nonce = self._random(_NONCE_SIZE)
        text = strict_json.dumps({"time": now, "counts": report})
        return nonce + self._key.encrypt(nonce, text, self._name.encode())

    def _open(self, process: bytes, value: bytes, now: float) -> tuple[float, Report]:
        """
        The age and the report of another process. The age is large if the report is not of this service.
        """
        try:
            if len(value) > _MOST_BYTES:
                return _KEPT + 1.0, {}
            told: Any = strict_json.loads(
                self._key.decrypt(value[:_NONCE_SIZE], value[_NONCE_SIZE:], process)
            )
            report = {
                str(kind): {str(name): int(number) for name, number in each.items()}
                for kind, each in told["counts"].items()
            }
            return abs(now - float(told["time"])), report
        except (InvalidTag, ValueError, KeyError, TypeError, AttributeError):
            return _KEPT + 1.0, {}


def largest(counts: dict[str, int], most: int) -> dict[str, int]:
    """The largest of these counts, so many at the most."""
    return dict(sorted(counts.items(), key=lambda each: -each[1])[:most])


def added_up(reports: Sequence[Report], kind: str) -> dict[str, int]:
    """The sums of the numbers of one kind."""
    sums: dict[str, int] = {}
    for report in reports:
        for name, number in report.get(kind, {}).items():
            sums[name] = sums.get(name, 0) + number
    return sums


class SharedTable(Protocol):
    """A table whose counts are shared: a `SourceTable` or a `SegmentedTable`."""

    elsewhere: Mapping[Hashable, int]

    def large(self, part: float) -> dict[Hashable, int]:
        """The prefixes that have at least this part of their share, and how many entries they have."""


class SharedCounts:
    """
    Counts what a source has at all processes of a service against the same shares: places in tables, and
    tokens that it has taken from buckets. This has the tables and buckets of one process.

    Each process tells the others, about once a second, which prefixes have a large part of their share at
    this process (`SourceTable.large`, `SourceBuckets.missing`). So a source has its share of all processes
    together, and a little more: what it gets within a second or two, and at each process less than `PART` of
    its share.

    :param tables: by names that are the same at all processes.
    :param buckets: the same for buckets; no table has the name of one.
    :param monotonic: monotonic seconds.
    :param secret: the service's private key.
    """

    what = "limits"

    def __init__(
        self,
        tables: Mapping[str, SharedTable],
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
    """
    What others are told, by the hexadecimal form of keys that are bytes: prefixes of IP addresses and, of the
    bucket `vouchers`, the keys of members. Whatever has another key is counted at this process only.
    """
    return largest({key.hex(): round(count) for key, count in large.items() if isinstance(key, bytes)}, _MOST)


def _prefix(text: str) -> bytes | str:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return text


class SharedRates:
    """
    Limits what a user, an address or a network relays in a second at all processes of a service together.
    This has the rates at one process.

    Each process tells the others what it relays for those that use a large part of their rate, and takes what
    they tell from what it allows itself. It always allows an equal part, so that all processes together come
    to the whole rate within some seconds, whoever began. While Redis is away, each process allows the whole
    rate.

    :param monotonic: monotonic seconds.
    :param secret: the service's private key.
    """

    what = "the relay's rates"

    def __init__(
        self, allocations: Allocations, monotonic: Callable[[], float], *, secret: bytes, random: RandomBytes
    ) -> None:
        self._allocations = allocations
        self._monotonic = monotonic
        self._reports = Reports("rates", secret=secret, random=random)
        self._carried: dict[str, int] = {}
        self._counted_at = monotonic()

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Tell what this process relays, and leave room for what the others relay."""
        since, self._counted_at = self._counted_at, self._monotonic()
        seconds = max(self._counted_at - since, 0.1)
        limited = self._allocations.limited()
        carried = {name: each.meter.used - each.meter.elsewhere for name, each in limited.items()}
        rates = {
            name: int((count - self._carried.get(name, count)) / seconds) for name, count in carried.items()
        }
        self._carried = carried
        large = {name: rate for name, rate in rates.items() if rate >= PART * limited[name].rate}
        others = await self._reports.exchange(ask, now, {"rates": largest(large, _MOST)})
        elsewhere = added_up(others, "rates")
        for name, each in limited.items():
            least = each.rate / (1 + len(others))
            each.bandwidth.set_rate(max(least, each.rate - elsewhere.get(name, 0)), self._monotonic())

    def disconnected(self) -> None:
        """Allow the whole rate."""
        for each in self._allocations.limited().values():
            each.bandwidth.set_rate(each.rate, self._monotonic())

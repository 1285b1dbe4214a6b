"""
What the processes of a service keep in step through Redis, apart from the directory itself: what a source has
at all of them (`SharedCounts`), and what all relay in a second (`SharedRates`) and in a day (`SharedQuotas`).
`shared_members` has the members.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import RandomBytes
from punch.net.rate_limits import SourceBuckets
from punch.rendezvous.directory.messages import NAME_SIZE, derive
from punch.rendezvous.directory.redis_client import RedisProblem
from punch.turn.server.allocations import Allocations
from punch.turn.server.quotas import Quotas
from punch.wire import strict_json

_LOG_PAUSE = 60.0
"""Seconds between two lines of the log about one state."""
LIFE = 2.5
"""Seconds for which a report counts (`Reports`)."""
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
_RELAYED = "punch:relayed"
_QUOTA_LIFE = 2 * 86_400
"""Seconds for which Redis keeps what was carried on a day (`SharedQuotas`)."""
_EVERY = 5.0
"""Seconds between two exchanges of what was carried."""
ADD = (
    "local t=redis.call('hincrby',KEYS[1],ARGV[1],ARGV[2]) "
    "if t<tonumber(ARGV[3]) then redis.call('hset',KEYS[1],ARGV[1],ARGV[3]) t=tonumber(ARGV[3]) end "
    "redis.call('expire',KEYS[1],ARGV[4]) return t"
)
"""
A script that adds what a process has carried since the last time. The sum becomes at least what the process
knows of, and is the answer.
"""


class Ask(Protocol):
    """Send commands to Redis, all at once, and return their answers."""

    def __call__(self, *commands: Sequence[str | bytes | int]) -> Awaitable[list[Any]]:
        """:raise RedisProblem: one of them has failed."""


class SharedState(Protocol):
    """Something that processes keep in step."""

    what: str
    """What it is, for messages to the operator."""

    async def synchronize(self, ask: Ask, now: float) -> None:
        """
        Give the other processes what is new here, and take what is new there. Called about once a second, not
        again before it has ended.

        :param now: seconds by the clock of Redis.
        :raise RedisProblem: Redis does not work. It is called again when it does.
        """

    def disconnected(self) -> None:
        """Redis can't be asked from now on, and what others say is not known."""


class SharedStates:
    """
    All that is kept in step.

    :param monotonic: monotonic seconds.
    """

    _log = Logger()

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._states: list[SharedState] = []
        self._running: dict[int, Deferred[None]] = {}
        self._problems: dict[int, str] = {}
        self._logged: dict[int, float] = {}

    def add(self, state: SharedState) -> None:
        """Keep one more in step."""
        self._states.append(state)

    @property
    def problem(self) -> str | None:
        """What is not in step and why, in words that follow "Redis at …: "; None if all is."""
        return next(iter(self._problems.values()), None)

    def synchronize(self, ask: Ask, now: float) -> None:
        """Redis works now: synchronize everything that is not being synchronized already."""
        for number, state in enumerate(self._states):
            if number not in self._running:
                running = Deferred.fromCoroutine(state.synchronize(ask, now))
                self._running[number] = running
                running.addCallback(self._done, number)
                running.addErrback(self._failed, number)
                running.addBoth(self._ended, number)

    def stop(self) -> None:
        """End what is under way."""
        for running in list(self._running.values()):
            running.cancel()
        for state in self._states:
            state.disconnected()

    def _done(self, _: None, number: int) -> None:
        self._problems.pop(number, None)

    def _failed(self, failure: Failure, number: int) -> None:
        if failure.check(CancelledError):  # type: ignore[no-untyped-call]
            return
        what, now = self._states[number].what, self._monotonic()
        due = now >= self._logged.get(number, -math.inf) + _LOG_PAUSE
        if due:
            self._logged[number] = now
        if failure.check(RedisProblem):  # type: ignore[no-untyped-call]
            self._problems[number] = f"{failure.value}; {what} are not in step"
            if due:
                self._log.warn("Redis: {problem}.", problem=self._problems[number])
            return
        # A bug: the service continues without this state, and says so.
        self._problems[number] = f"{what} are not in step ({type(failure.value).__name__})"
        if due:
            self._log.failure("What processes share is not in step.", failure)

    def _ended(self, _: None, number: int) -> None:
        self._running.pop(number, None)


Report = dict[str, dict[str, int]]
"""By kind, such as the name of a table: the number of each source, user or network."""


class Reports:
    """
    The reports of all processes, of one sort.

    Each process reports the sources that use a large part of a limit at it: in a sealed field of its own in a
    hash of Redis, which all processes read. A report counts for `LIFE` seconds, so that a process that has
    died does not count for long. While Redis is away, each process goes by what it has itself.

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
        # What others report is taken to have been so since the last exchange, but for no longer than a report
        # counts, and not while Redis was away
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

    Each process tells the others what it relays for those that use a large part of their rate, and subtracts
    what the others tell from the rate that it allows itself. It always allows at least the rate divided by
    the number of processes, so within some seconds all of them together come to the whole rate, whichever was
    first to use it. While Redis is away, each process allows the whole rate.

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


class SharedQuotas:
    """
    Counts what the relays of all processes of a service carry in a day against the same quotas. This has the
    quotas of one process.

    Redis adds up: a field for each user, address and network that has used a part of its quota. Each process
    adds what it has carried, and learns the sum. If a process knows of more than Redis, because Redis was
    flushed, it says so. Users and addresses are stored as keyed hashes.

    :param secret: the service's private key.
    """

    what = "the relay's quotas"

    def __init__(self, quotas: Quotas, secret: bytes) -> None:
        self._quotas = quotas
        self._key = derive(secret, "relayed")
        self._due = 0.0

    async def synchronize(self, ask: Ask, now: float) -> None:
        """Tell what this process has carried, and learn what all have."""
        # The clock of Redis may be set back.
        if self._due - _EVERY <= now < self._due:
            return
        self._due = now + _EVERY
        day = self._quotas.day
        told = [(name, meter, meter.used) for name, meter in self._quotas.to_tell(_MOST)]
        if not told:
            return
        totals = await ask(
            *(
                ("EVAL", ADD, 1, f"{_RELAYED}:{day}", self._field(name), used - meter.told, used, _QUOTA_LIFE)
                for name, meter, used in told
            )
        )
        if self._quotas.day == day:
            for (_, meter, used), total in zip(told, totals, strict=True):
                meter.learn(int(total), used)

    def disconnected(self) -> None:
        """Do nothing: what others have carried today still counts."""

    def _field(self, name: str) -> str:
        return hmac.digest(self._key, name.encode(), "sha256").hex()[:32]

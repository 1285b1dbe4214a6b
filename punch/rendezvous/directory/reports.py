"""
What each process of a service writes for all others into a hash in Redis: one field for each process, sealed.

A report counts for `LIFE` seconds, so that a process that has died does not count for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from punch.identity import RandomBytes
from punch.rendezvous.directory.messages import NAME_SIZE, derive
from punch.rendezvous.directory.shared_state import Ask
from punch.wire import strict_json

LIFE = 2.5
"""Seconds for which a report is good."""
_KEPT = 60.0
"""Seconds after which the report of a process that is gone is removed."""
_MOST_BYTES = 1 << 18
_NONCE_SIZE = 12

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
        """The age and the report of another process; a large age if it is not of this service."""
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

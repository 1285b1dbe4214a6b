"""
Limits what a user, an address or a network relays in a second at all processes of a service together.

Each process tells the others what it relays for those that use a large part of their rate, and takes what
they tell from what it allows itself. It always allows an equal part, so that all processes together come to
the whole rate within some seconds, whoever began. While Redis is away, each process allows the whole rate.
"""

from __future__ import annotations

from collections.abc import Callable

from punch.identity import RandomBytes
from punch.rendezvous.directory.reports import Reports, added_up, largest
from punch.rendezvous.directory.shared_state import Ask
from punch.turn.server.allocations import Allocations

PART = 1 / 8
"""Others are told of who uses so much of its rate here."""
_MOST = 500
"""Of so many others are told, those that use most."""


class SharedRates:
    """
    The rates at one process.

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
        """Tell what this process relays, and leave the others what they do."""
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

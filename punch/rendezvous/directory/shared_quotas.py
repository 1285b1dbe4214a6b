"""
Counts what the relays of all processes of a service carry in a day against the same quotas.

Redis adds up: a field for each user, address and network that has used a part of its quota. Each process adds
what it has carried, and learns the sum. If a process knows of more than Redis, because Redis was flushed, it
says so. Users and addresses are stored as keyed hashes.
"""

from __future__ import annotations

import hmac

from punch.rendezvous.directory.messages import derive
from punch.rendezvous.directory.shared_state import Ask
from punch.turn.server.quotas import Quotas

KEY = "punch:relayed"
LIFE = 2 * 86_400
"""Seconds for which the figures of a day are kept."""
_EVERY = 5.0
"""Seconds after which others are told again…"""
_MOST = 500
"""…and of how many meters at the most."""
ADD = (
    "local t=redis.call('hincrby',KEYS[1],ARGV[1],ARGV[2]) "
    "if t<tonumber(ARGV[3]) then redis.call('hset',KEYS[1],ARGV[1],ARGV[3]) t=tonumber(ARGV[3]) end "
    "redis.call('expire',KEYS[1],ARGV[4]) return t"
)
"""Add what is new, so that the sum is at least what the process knows of; the answer is the sum."""


class SharedQuotas:
    """
    The quotas of one process.

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
                ("EVAL", ADD, 1, f"{KEY}:{day}", self._field(name), used - meter.told, used, LIFE)
                for name, meter, used in told
            )
        )
        if self._quotas.day == day:
            for (_, meter, used), total in zip(told, totals, strict=True):
                meter.learn(int(total), used)

    def disconnected(self) -> None:
        """What others have carried today remains carried."""

    def _field(self, name: str) -> str:
        return hmac.digest(self._key, name.encode(), "sha256").hex()[:32]

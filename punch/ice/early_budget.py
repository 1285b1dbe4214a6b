"""
What may be sent of a link's handshake to addresses of a peer that have not answered yet, at IP addresses
where it answered on an earlier link (`punch.node.paths.path`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from punch.ice.target_limits import HEADERS, WINDOW
from punch.wire.address import Address

MAX_EARLY = 6
"""How many packets of handshakes with one peer may be sent there in `WINDOW`."""
MAX_EARLY_BYTES = 6_500
"""How many bytes they may have, with IP and UDP headers."""


class EarlyBudget:
    """What may be sent of handshakes to addresses that have not answered, over all calls with a peer."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, Address, int]] = deque()

    def has(self, remote: Address, sizes: Sequence[int], now: float) -> bool:
        """Whether datagrams of these sizes may be sent now."""
        while self._sent and now >= self._sent[0][0] + WINDOW:
            self._sent.popleft()
        wanted = sum(sizes) + len(sizes) * HEADERS[remote.is_ipv6]
        size = sum(each for _, _, each in self._sent) + wanted
        return len(self._sent) + len(sizes) <= MAX_EARLY and size <= MAX_EARLY_BYTES

    def charge(self, remote: Address, size: int, now: float) -> None:
        """Count a datagram that is sent."""
        self._sent.append((now, remote, size + HEADERS[remote.is_ipv6]))

    def answered(self, remote: Address) -> None:
        """A check was answered from there: what was sent there no longer counts."""
        self._sent = deque(each for each in self._sent if each[1] != remote)

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return all(now >= time + WINDOW for time, _, _ in self._sent)

"""
What may be sent to ports that a peer names for attempts at a direct path, and to ports that are guessed.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from punch.ice.target_limits import HEADERS, WINDOW, TargetLimits
from punch.wire.address import Address

MAX_OPENINGS: Final = 60
"""How many packets may go to ports that a peer names for attempts, in `WINDOW`."""
MAX_OPENING_BYTES: Final = 9_000
"""How many bytes they may have, with IP and UDP headers."""
MAX_SPRAYED: Final = 3600
"""How many packets may be sent to one peer for spraying, in `WINDOW`: those of two attempts."""
MAX_SPRAYED_BYTES: Final = 540_000
"""How many bytes they may have, with IP and UDP headers."""


class OpeningBudget:
    """
    What may be sent, over all calls, to ports that a peer names for an attempt
    (`punch.ice.punching.prediction`, `punch.ice.punching.simultaneous_open`), or to ports that are guessed
    (`punch.ice.punching.spraying`).

    It is separate from the limits for checks: such packets go only to IP addresses at which the peer has
    answered checks, over a link that works, and each port gets few of them. Checks and answers that follow
    at the same sockets count among those to named ports, and so do TCP connections to such IP addresses
    (`punch.node.punching.tcp`).

    :param most: how many packets may be sent in `WINDOW`.
    :param size: how many bytes they may have, with IP and UDP headers.
    :param limits: what all peers together can make us send; None: no limit.
    """

    def __init__(
        self, most: int = MAX_OPENINGS, size: int = MAX_OPENING_BYTES, limits: TargetLimits | None = None
    ) -> None:
        self._most = most
        self._size = size
        self._limits = limits
        self._sent: deque[tuple[float, int, str]] = deque()
        self._counted = 0

    def use(self, limits: TargetLimits) -> None:
        """Count what is sent from now on among what is sent for these peers together."""
        self._limits = limits

    def left(self, now: float) -> int:
        """Return how many packets may be sent now, as far as their number is concerned."""
        while self._sent and now >= self._sent[0][0] + WINDOW:
            self._counted -= self._sent.popleft()[1]
        return self._most - len(self._sent)

    def may_begin(self, packets: int, host: str, now: float) -> bool:
        """Whether so many packets may be sent to this IP address now, as far as their number is concerned."""
        return self.left(now) >= packets and (self._limits is None or self._limits.has(packets, host, now))

    def may_begin_at(self, packets: int, host: str, now: float) -> float:
        """Return when `may_begin` holds if nothing else is sent until then."""
        over = packets - self.left(now)
        at = self._sent[over - 1][0] + WINDOW if over > 0 else now
        return at if self._limits is None else max(at, self._limits.has_at(packets, host, now))

    def has(self, packets: int, size: int, remote: Address, now: float) -> bool:
        """Whether so many datagrams of `size` bytes may be sent now."""
        wanted = packets * (size + HEADERS[remote.is_ipv6])
        return self.may_begin(packets, remote.host, now) and self._counted + wanted <= self._size

    def path_found(self, host: str) -> None:
        """A path to a port of this IP address is used: what was sent there no longer counts."""
        before = len(self._sent)
        self._sent = deque(each for each in self._sent if each[2] != host)
        if self._limits is not None:
            self._limits.give_back(before - len(self._sent), host)
        self._counted = sum(size for _, size, _ in self._sent)

    def is_idle(self, now: float) -> bool:
        """Whether nothing counts any more."""
        return self.left(now) == self._most

    def charge(self, remote: Address, size: int, now: float) -> None:
        """Count a datagram that is sent, to the peer or for the same purpose."""
        size += HEADERS[remote.is_ipv6]
        self._sent.append((now, size, remote.host))
        self._counted += size
        if self._limits is not None:
            self._limits.charge(remote.host, now)

    def allows(self, remote: Address, size: int, now: float) -> bool:
        """Whether a datagram of `size` bytes may be sent now. If so, it is counted as sent."""
        if not self.has(1, size, remote, now):
            return False
        self.charge(remote, size, now)
        return True

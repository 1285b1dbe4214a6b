"""
Credits: how much a sender may have on the way to an application that has not read it.

Both QUIC libraries renew their flow control when bytes arrive, not when they are read, so a paused reader
would gather everything in memory. Above them, each direction of each stream has a limit of its own, in bytes
since its beginning: it starts at the initial credit, the receiver raises it as its application consumes, and
a sender never exceeds it.
"""

from __future__ import annotations

from typing import Final

from punch.link.events import INITIAL_CREDIT

FALLBACK_RTT: Final = 0.1
"""Seconds, while the round-trip time is not known."""
SHORTEST_RTT: Final = 0.025
"""Below it a round trip is no measure of how fast an application reads: its process has to get its turn."""


class WindowBudget:
    """
    What the windows of all streams of a link may grow by, in bytes, beyond the initial credit of each.

    :ivar left: how many of these bytes no window has taken.
    """

    def __init__(self, total: int) -> None:
        self.left = total

    def take(self, size: int) -> int:
        """As much of `size` as there is."""
        granted = min(size, self.left)
        self.left -= granted
        return granted

    def give_back(self, size: int) -> None:
        self.left += size


class ReceiveWindow:
    """
    The receiver's side of one direction of a stream.

    The window doubles whenever half of it was read in less than two round trips (it, not the reader, was then
    what limited the transfer), up to `maximum` and as far as the link's budget goes.
    """

    def __init__(self, budget: WindowBudget, maximum: int, now: float) -> None:
        self.limit = INITIAL_CREDIT
        self.received = 0
        self.consumed = 0
        self.window = INITIAL_CREDIT
        self._budget = budget
        self._maximum = maximum
        self._granted_at = now

    @property
    def exceeded(self) -> bool:
        """The sender has sent more than it was allowed."""
        return self.received > self.limit

    @property
    def due(self) -> bool:
        """Enough has been read for a new limit to be worth a frame."""
        return self.limit - self.consumed <= self.window // 2

    def grant(self, now: float, rtt: float | None) -> int:
        """The new limit, to be sent to the other side at once."""
        reference = max(FALLBACK_RTT if rtt is None else rtt, SHORTEST_RTT)
        if now - self._granted_at < 2 * reference and self.window < self._maximum:
            self.window += self._budget.take(min(self.window, self._maximum - self.window))
        self._granted_at = now
        self.limit = self.consumed + self.window
        return self.limit

    def accept(self) -> int:
        """The limit that says that the stream was accepted: it grows by the name, which is used now."""
        self.limit = self.consumed + self.window
        return self.limit

    def close(self) -> None:
        """No more is expected; what the window grew by goes to other streams."""
        self._budget.give_back(self.window - INITIAL_CREDIT)
        self.window = INITIAL_CREDIT


class SendAllowance:
    """
    How many control frames the other side may send: a burst, then a steady rate, plus one for every 4 KiB
    that we sent it (an honest receiver grants credit at most once for every 8 KiB). Past it, it is not
    granting but flooding.
    """

    BURST: Final = 4096.0
    PER_SECOND: Final = 100.0
    BYTES_PER_FRAME: Final = 4096

    def __init__(self, now: float) -> None:
        self._left = self.BURST
        self._at = now

    def sent(self, size: int) -> None:
        """We sent so many bytes on streams, which the other side may answer with credit."""
        self._left += size / self.BYTES_PER_FRAME

    def opened(self) -> None:
        """We opened a stream, which the other side accepts with one frame."""
        self._left += 1

    def spend(self, now: float) -> bool:
        """Account for one frame; False if it is one too many."""
        if now > self._at:
            if self._left < self.BURST:
                self._left = min(self.BURST, self._left + (now - self._at) * self.PER_SECOND)
            self._at = now
        self._left -= 1
        return self._left >= 0

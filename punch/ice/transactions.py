"""STUN client transactions: a request is retransmitted until it is answered or fails (RFC 8489, 6.2.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf

from punch.wire.address import Address, Transmit

RTO = 0.5
"""The least time before a retransmission, in seconds (RFC 8445, section 14.3)."""
REQUESTS = 7
"""How often a request is sent at most (Rc of RFC 8489)."""
LAST_WAIT = 16
"""How many times the first RTO to wait after the last request (Rm of RFC 8489)."""


class Purpose(Enum):
    """The purpose of a transaction."""

    CHECK = "check"
    CONSENT = "consent"
    SIZE = "size"
    """To learn whether the largest datagrams arrive."""
    REFLECTION = "reflection"


@dataclass(eq=False)
class Transaction:
    """
    One transaction. Times are in monotonic seconds.

    :param key: the key of the answer's MESSAGE-INTEGRITY; None if answers have none.
    :param requests: how often the request is sent at most.
    :param last_wait: how many RTOs to wait after the last request.
    :param longest_wait: the longest time between two requests, in seconds. The wait after the last one has no
        such limit.
    """

    purpose: Purpose
    transaction_id: bytes
    request: bytes
    remote: Address
    local: Address
    started: float
    key: bytes | None = None
    controlling: bool = False
    """The role that the request states."""
    nomination: int | None = None
    """The nomination that the request carries."""
    rto: float = RTO
    requests: int = REQUESTS
    last_wait: float = LAST_WAIT
    longest_wait: float = inf
    sent: int = field(default=0, init=False)
    next_at: float = field(init=False)
    """When to call `handle_timer`."""
    retransmitting: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        self.next_at = self.started

    def handle_timer(self, now: float) -> Transmit | None:
        """Return the request if it is to be sent now; the first call always does."""
        if not self.retransmitting or now < self.next_at:
            return None
        if self.sent == self.requests:
            self.retransmitting = False
            return None
        self.sent += 1
        if self.sent == self.requests:
            self.next_at = now + self.rto * self.last_wait
        else:
            self.next_at = now + min(self.rto * 2 ** min(self.sent - 1, 16), self.longest_wait)
        return Transmit(self.request, self.remote, self.local)

    def expired(self, now: float) -> bool:
        """Whether the transaction has failed."""
        return now >= self.next_at and (not self.retransmitting or self.sent == self.requests)

    def stop_retransmitting(self, now: float) -> None:
        """Stop retransmitting, but still accept an answer for a while (RFC 8445, section 7.3.1.4)."""
        if self.retransmitting:
            self.retransmitting = False
            self.next_at = now + self.rto * self.last_wait

    def rtt(self, now: float) -> tuple[float, bool]:
        """
        The round-trip time of an answer that came at `now`, in seconds, and whether it is exact.

        If the request was retransmitted, the answer may be to any of the requests (Karn's algorithm), and the
        time is an upper bound.
        """
        return now - self.started, self.sent == 1

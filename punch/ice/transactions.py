"""STUN transactions of a client: sent again until answered or given up (RFC 8489, section 6.2.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf

from punch.wire.address import Address, Transmit

RTO = 0.5
"""The least time before a request is sent again, in seconds (RFC 8445, section 14.3)."""
REQUESTS = 7
"""How often a request is sent in all (Rc of RFC 8489)."""
LAST_WAIT = 16
"""After the last request, how many times the first RTO an answer is waited for (Rm of RFC 8489)."""


class Purpose(Enum):
    """What an answer will be used for."""

    CHECK = "check"
    CONSENT = "consent"
    SIZE = "size"
    """Whether the largest datagrams get through."""
    REFLECTION = "reflection"


@dataclass(eq=False)
class Transaction:
    """
    One request on its way. Times are in seconds.

    :param key: what the answer must be protected with, None if answers are not.
    :param requests: how often it is sent at most.
    :param last_wait: how many RTOs to wait after that.
    :param longest_wait: seconds to wait at most between two of them.
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
        """What to send now, if anything; the first call sends the request for the first time."""
        if not self.retransmitting or now < self.next_at:
            return None
        if self.sent == self.requests:
            self.retransmitting = False
            return None
        self.sent += 1
        last = self.sent == self.requests
        wait = self.rto * self.last_wait if last else self.rto * 2 ** min(self.sent - 1, 16)
        self.next_at = now + min(wait, self.longest_wait)
        return Transmit(self.request, self.remote, self.local)

    def expired(self, now: float) -> bool:
        """Whether no answer is waited for any more."""
        return now >= self.next_at and (not self.retransmitting or self.sent == self.requests)

    def stop_retransmitting(self, now: float) -> None:
        """Send it no more, but take an answer for a while (RFC 8445, section 7.3.1.4)."""
        if self.retransmitting:
            self.retransmitting = False
            self.next_at = now + self.rto * self.last_wait

    def rtt(self, now: float) -> tuple[float, bool]:
        """
        The round-trip time of an answer that came now, in seconds, and whether that is exact.

        Of a request that was sent more than once, nobody knows which one was answered (Karn's algorithm): the
        time is then an upper bound.
        """
        return now - self.started, self.sent == 1

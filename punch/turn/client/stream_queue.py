"""
How much of what was written to a stream has not reached the relay yet, and how much more may be written.

A TCP connection takes as many bytes as its congestion control and the routers' queues have room for. On a
slow line these are queues of many seconds, which all links over the relay share, and no link can measure the
others' part of it. So Binding requests (RFC 8489) are written among the data. The answer to one says that all
that was written before it has arrived, and its round trip how long that took. This works alike on TLS,
through proxies, and with every relay that answers Binding requests; with others, or while a relay that works
has not answered for long, there is no limit.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final, NamedTuple

from punch.identity import RandomBytes
from punch.net.send_window import PAYLOAD, Flight, SendWindow
from punch.wire.address import FULL_SIZE
from punch.wire.stun import HEADER_SIZE, binding_request

FIRST: Final = 10 * FULL_SIZE
"""Bytes that are allowed when the relay has answered first; a QUIC connection begins with as many."""
UNBOUNDED: Final = 64 * 1024
"""When the limit has grown to so many bytes, and all of them arrive in time, there is no limit any more."""
GAP: Final = 0.1
"""Seconds between two requests at least, while there is no limit."""
PARTS: Final = 4
"""How many requests are written among as many bytes as the limit."""
TRIES: Final = 3
"""How many requests are made of a relay that has answered none."""
MOST_ASKED: Final = 64
"""How many requests may be unanswered."""
MOST_CHECKS: Final = 64
"""How many checks that are on the way are remembered."""
AGAIN: Final = 1.0, 10.0
"""
Seconds after which another request is made while there is a limit: four round trips, but no less and no more
than this.
"""
SILENT_AFTER: Final = 30.0
"""
Seconds without an answer after which there is no limit until the next one, if something else comes meanwhile.
"""
_ANYTHING: Final = 1 << 40
_RESPONSES: Final = (b"\x01\x01", b"\x01\x11")


class _Asked(NamedTuple):
    """
    A request that was written to the stream.

    :ivar written: how many bytes were written up to its end.
    :ivar at: when, in monotonic seconds.
    """

    transaction_id: bytes
    written: int
    at: float


class StreamQueue:
    """
    What waits on a stream to a relay.

    :param random: makes the transaction IDs.
    """

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._window = SendWindow()
        self._asked: deque[_Asked] = deque(maxlen=MOST_ASKED)
        self._written = self._delivered = 0
        self._rtt: float | None = None
        self._asked_at = -inf
        self._asked_written = 0
        self._checks: deque[tuple[bytes, int]] = deque(maxlen=MOST_CHECKS)
        self._began = self._unbounded = False
        self._ask_again = False
        self._awaited_since = 0.0
        self._silent = False

    @property
    def _limit(self) -> int | None:
        """How many bytes may be on the way; None for any number."""
        return None if self._silent else self._window.limit

    @property
    def room(self) -> int | None:
        """How many bytes of bulk data may be written now; None for any number, and at least 0."""
        return None if self._limit is None else max(0, self._window.room(self._flight()))

    @property
    def rtt(self) -> float | None:
        """The latest round trip to the relay in seconds, with the time in queues; None before the first."""
        return self._rtt

    @property
    def turn(self) -> int:
        """How many bytes one link may write while others wait."""
        limit = self._limit
        return _ANYTHING if limit is None else max(2 * PAYLOAD, limit // PARTS)

    def holds(self, check: bytes) -> bool:
        """
        Return whether this request is known to wait on the stream still, so that it is of no use to repeat
        it. Otherwise remember that it is written now. To be called with each STUN request that is relayed.
        """
        transaction_id = check[8:HEADER_SIZE]
        known = next((written for each, written in self._checks if each == transaction_id), None)
        if known is None:
            self._checks.append((transaction_id, self._written))
            return False
        return self._delivered <= known < self._asked_written and bool(self._asked)

    def requests(self, size: int, now: float) -> list[bytes]:
        """
        Take note that `size` bytes are written.

        :return: what is to be written behind them.
        """
        self._written += size
        limit, unasked = self._limit, self._written - self._asked_written
        if self._rtt is None:
            due = len(self._asked) < TRIES and (size > 0 and now >= self._asked_at + GAP)
        elif limit is None:
            due = unasked >= FULL_SIZE and now >= self._asked_at + GAP
        else:
            due = unasked >= max(FULL_SIZE, limit // PARTS) or (unasked > 0 and self.room == 0)
        if len(self._asked) == MOST_ASKED:
            # Those that were made first are answered first
            due = due and now >= self._asked_at + AGAIN[1]
        out: list[bytes] = []
        if due or self._ask_again:
            self._ask_again = False
            transaction_id = self._random(12)
            out.append(binding_request(transaction_id))
            self._written += HEADER_SIZE
            if not self._asked:
                self._awaited_since = now
            self._asked_at, self._asked_written = now, self._written
            self._asked.append(_Asked(transaction_id, self._written, now))
        if self._written > self._delivered:
            self._window.sent(self._written - self._delivered)
        return out

    def receive(self, message: bytes, now: float) -> bool:
        """
        Return whether a message of the relay answers one of the requests, an error included. To be called
        with each message.
        """
        asked = self._request_of(message)
        if asked is None:
            self._silent = self._silent or bool(self._asked and now >= self._awaited_since + SILENT_AFTER)
            return False
        self._awaited_since, self._silent = now, False
        while self._asked.popleft() is not asked:
            pass  # its answer was lost, or is late
        while self._checks and self._checks[0][1] < asked.written:
            self._checks.popleft()
        self._delivered, self._rtt = asked.written, now - asked.at
        if not self._began:
            self._began, self._window.limit = True, FIRST
        self._window.received(now, self._flight())
        self._unbounded = self._unbounded or self._window.limit is None
        return True

    def _request_of(self, message: bytes) -> _Asked | None:
        if not message.startswith(_RESPONSES) or len(message) < HEADER_SIZE:
            return None
        transaction_id = message[8:HEADER_SIZE]
        return next((each for each in self._asked if each.transaction_id == transaction_id), None)

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, in monotonic seconds; None: not needed."""
        if self._limit is None or not self._asked or self._rtt is None:
            return None
        return self._asked_at + min(max(AGAIN[0], 4 * self._rtt), AGAIN[1])

    def handle_timer(self, now: float) -> None:
        """Ask again, in case that an answer was lost: call `requests` next."""
        timer = self.get_timer()
        self._ask_again = timer is not None and now >= timer

    def _flight(self) -> Flight:
        window = _ANYTHING if self._unbounded else UNBOUNDED
        return Flight(self._written - self._delivered, window, 0, self._rtt)

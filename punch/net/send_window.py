"""
How many bytes of streams may be in flight, so that what is urgent waits behind little.

The congestion controller of the QUIC library fills whatever queue the path has before it slows down, and many
slow lines have queues of seconds. Everything that is sent later on the same line waits behind it: other
streams, control frames, and the connection to the rendezvous. So a link hands no more to the library than
what keeps its own part of that queue short. The library's congestion control remains in force.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from punch.wire.address import FULL_SIZE

AHEAD: Final = 2 * FULL_SIZE
"""Bytes of streams handed to the QUIC library beyond what its congestion controller allows."""
PAYLOAD: Final = FULL_SIZE - 60
"""Bytes of a stream that fit into a datagram beside headers and a small frame."""
QUEUE: Final = 0.3
"""Seconds that a link's own bytes may wait in queues; a round trip of the path, if that is longer."""
LEAST: Final = 4 * FULL_SIZE
"""Bytes that are always allowed: the loss of one datagram shows by three later ones (RFC 9002, 6.1.1)."""
PROBE: Final = 2 * FULL_SIZE
"""Bytes that are allowed while the round trip of the path itself is measured again."""
TURN: Final = 16 * 1024
"""The most bytes of one stream that are sent before it is the next one's turn."""
SHORTEST_RTT: Final = 0.001
"""Seconds; a shorter round trip doesn't tell how much is sent in a longer time."""
BASE_AGE: Final = 10.0
"""
After so many seconds, the path's own round trip is measured again before a longer one is taken for a queue.
"""


class Flight(NamedTuple):
    """What a connection has in flight, in bytes of whole packets, and what still waits in the library."""

    in_flight: int
    """Bytes sent that are neither acknowledged nor lost."""
    window: int
    """Bytes that the congestion controller allows in flight."""
    unsent: int
    """Bytes of all streams that have not been sent for the first time."""
    rtt: float | None
    """The latest round-trip time in seconds, once known."""


class SendWindow:
    """
    The bytes that may be in flight, as the round trips of a link suggest.

    The shortest round trip seen is the path's own; what is above it is time in queues. Once in a round trip,
    if even the fastest acknowledgement came too late, the limit becomes what the path, at the rate of the
    last acknowledgements, delivers in time. Otherwise a limit that was reached may grow to that, and is
    lifted when it is above what the congestion controller allows. A longer round trip may also mean another
    path, or a queue that others fill. So the path's own is measured again from time to time, with little in
    flight, so that this link adds nothing to a queue.

    :ivar limit: bytes, or None while the congestion controller alone decides.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self._base = inf
        self._base_at = 0.0
        self._in_flight = 0
        self._most = 0
        self._least = inf
        self._delivered = 0
        self._round_began: float | None = None
        self._round_ends = 0.0
        self._probe_rounds = 0
        self._rate_before = 0.0

    def remeasure(self) -> None:
        """The path may be another one: measure its round trip again."""
        if self.limit is None:
            self._base = inf
        elif not self._probe_rounds:
            self._begin_probe(self.limit / self._longest)

    def room(self, flight: Flight) -> int:
        """Return how many bytes of streams the QUIC library may be handed now; none if not positive."""
        room = flight.window + AHEAD - flight.in_flight - flight.unsent
        if self.limit is not None:
            # In whole datagrams, or many small ones would take the place of few.
            datagrams = (self.limit - flight.in_flight) // FULL_SIZE
            room = min(room, datagrams * PAYLOAD - flight.unsent)
        return room

    def ahead(self, flight: Flight) -> int:
        """Return how many bytes of a stream to have ready: what is sent within `QUEUE` seconds."""
        allowed = self._allowed(flight)
        if flight.rtt is not None and flight.rtt > QUEUE:
            allowed = int(allowed * QUEUE / flight.rtt)
        return max(allowed, LEAST)

    def turn(self, flight: Flight, streams: int) -> int:
        """
        Return how many bytes of a stream to send before the turn of the next one. With so many streams, each
        has a turn every `QUEUE` seconds, if a turn is then at least a datagram and at most `TURN` bytes.
        """
        if flight.rtt is None:
            return TURN
        sent = self._allowed(flight) * QUEUE / max(flight.rtt, SHORTEST_RTT)
        return max(min(int(sent / streams), TURN), PAYLOAD)

    def _allowed(self, flight: Flight) -> int:
        return flight.window if self.limit is None else min(self.limit, flight.window)

    def sent(self, in_flight: int) -> None:
        """So many bytes are in flight after sending."""
        self._in_flight = in_flight
        self._most = max(self._most, in_flight)

    def received(self, now: float, flight: Flight) -> None:
        """Take note, before sending, of what was acknowledged meanwhile."""
        gone = self._in_flight - flight.in_flight
        self._in_flight = flight.in_flight
        if gone <= 0 or flight.rtt is None:
            return
        self._delivered += gone
        self._least = min(self._least, flight.rtt)
        if self._round_began is None:
            self._base, self._base_at = flight.rtt, now
            self._begin_round(now, flight.rtt)
        elif now >= self._round_ends and now > self._round_began:
            self._end_round(now, now - self._round_began, flight.window)
            self._begin_round(now, flight.rtt)

    @property
    def _longest(self) -> float:
        """A round trip that is short enough, in seconds."""
        return self._base + max(QUEUE, self._base)

    def _begin_round(self, now: float, rtt: float) -> None:
        self._round_began = now
        self._round_ends = now + (rtt if self._probe_rounds else min(rtt, self._longest))
        self._least, self._most, self._delivered = inf, self._in_flight, 0

    def _end_round(self, now: float, seconds: float, window: int) -> None:
        least = self._least
        if self._probe_rounds:
            self._probe_rounds -= 1
            if not self._probe_rounds:
                self._base, self._base_at = least, now
                self.limit = max(LEAST, int(self._rate_before * self._longest))
            return
        if least <= self._base:
            self._base, self._base_at = least, now
        in_time = int(self._delivered / seconds * self._longest)
        if least > self._longest:
            self.limit = max(LEAST, in_time)
            if now - self._base_at > BASE_AGE:
                self._begin_probe(self._delivered / seconds)
        elif self.limit is not None:
            if self._most > self.limit - FULL_SIZE:
                self.limit = max(self.limit, min(2 * self.limit, in_time))
            if self.limit > window:
                self.limit = None

    def _begin_probe(self, rate: float) -> None:
        # One round trip until what was sent before is through, and one to measure.
        self._probe_rounds = 2
        self._rate_before = rate
        self.limit = PROBE

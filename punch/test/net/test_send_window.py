"""How much of streams may be on the way: a path with a rate and a queue takes the QUIC connection's place."""

from __future__ import annotations

from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from punch.link.quic.interface import DATAGRAM_SIZE
from punch.net.send_window import LEAST, QUEUE, Flight, SendWindow

HUGE = 1 << 24


class SimulatedPath:
    """
    Datagrams of one size that wait in a queue without end, and their acknowledgements.

    :param rate: bytes a second.
    :param delay: seconds of a round trip while the queue is empty.
    :param window: what the congestion controller allows, in bytes.
    """

    def __init__(self, rate: float, delay: float, window: int = HUGE) -> None:
        self.rate = rate
        self.delay = delay
        self.cwnd = window
        self.now = 0.0
        self.window = SendWindow()
        self.others = 0.0
        """Seconds of queue that others keep filled."""
        self.sent = 0
        self._free_at = 0.0
        self._acks: deque[tuple[float, float]] = deque()
        self._in_flight = 0
        self._rtt: float | None = None

    def flight(self) -> Flight:
        return Flight(self._in_flight, self.cwnd, 0, self._rtt)

    def run(self, seconds: float) -> float:
        """Send all that may be sent, for a while; the longest round trip in that time is returned."""
        end, longest = self.now + seconds, 0.0
        while self.now < end:
            self._send()
            if self._acks:
                acked_at, sent_at = self._acks.popleft()
                self.now = max(self.now, acked_at)
                self._in_flight -= DATAGRAM_SIZE
                self._rtt = self.now - sent_at
                longest = max(longest, self._rtt)
            self.window.received(self.now, self.flight())
        return longest

    def _send(self) -> None:
        # As slow start does, at most two datagrams for each that was acknowledged.
        for _ in range(10 if self._rtt is None else 2):
            if self.window.room(self.flight()) > 0:
                self._free_at = max(self._free_at, self.now) + DATAGRAM_SIZE / self.rate
                self._acks.append((self._free_at + self.delay + self.others, self.now))
                self._in_flight += DATAGRAM_SIZE
                self.sent += DATAGRAM_SIZE
        self.window.sent(self._in_flight)


class SendWindowTests(SynchronousTestCase):
    def test_the_queue_of_a_slow_line_stays_short(self) -> None:
        path = SimulatedPath(8000.0, 0.06)
        path.run(10.0)
        self.assertLess(path.run(60.0), 1.0)
        self.assertGreater(path.sent, 0.95 * 70 * 8000)

    def test_a_long_queue_of_a_fast_line(self) -> None:
        path = SimulatedPath(1e6, 0.04)
        path.run(10.0)
        before = path.sent
        self.assertLess(path.run(10.0), 0.04 + 2 * QUEUE)
        self.assertGreater(path.sent - before, 0.93 * 10 * 1e6)

    def test_a_path_without_a_queue_is_left_to_the_congestion_controller(self) -> None:
        for delay in (0.0005, 0.04, 0.6):
            path = SimulatedPath(1e6, delay, window=int(1e6 * delay) + 30_000)
            path.run(5.0)
            self.assertIsNone(path.window.limit, delay)

    def test_a_longer_path(self) -> None:
        """If a longer path makes round trips longer, not a queue, the limit ends."""
        path = SimulatedPath(1e6, 0.04, window=1_000_000)
        path.run(3.0)
        path.cwnd, path.delay = 200_000, 0.8
        path.run(30.0)
        before = path.sent
        path.run(10.0)
        self.assertGreater(path.sent - before, 0.7 * 10 * 200_000 / 0.8)

    def test_a_queue_of_others(self) -> None:
        """If other traffic fills the queue, the link does not send less, which would not help."""
        path = SimulatedPath(100_000.0, 0.04, window=200_000)
        path.run(3.0)
        path.others = 1.0
        path.run(15.0)
        before = path.sent
        path.run(20.0)
        self.assertGreater(path.sent - before, 0.6 * 20 * 100_000)

    def test_a_faster_path(self) -> None:
        path = SimulatedPath(8000.0, 0.06)
        path.run(10.0)
        self.assertIsNotNone(path.window.limit)
        path.rate, path.delay, path.cwnd = 1e6, 0.02, 60_000
        path.window.remeasure()
        path.run(3.0)
        self.assertIsNone(path.window.limit)

    def test_what_is_worth_having_ready(self) -> None:
        window = SendWindow()
        self.assertEqual(window.ahead(Flight(0, 100_000, 0, 0.05)), 100_000)
        self.assertEqual(window.ahead(Flight(0, 100_000, 0, 3.0)), 10_000)
        self.assertEqual(window.ahead(Flight(0, 2_400, 0, 3.0)), LEAST)

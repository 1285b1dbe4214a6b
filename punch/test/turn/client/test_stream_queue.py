"""How much may be written to a stream to a relay, with simulated lines that have a rate and a queue."""

from __future__ import annotations

from collections import deque
from math import inf
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.turn.client.stream_queue import AGAIN, FIRST, SILENT_AFTER, TRIES, StreamQueue
from punch.wire.address import Address
from punch.wire.stun import Attribute, MessageClass, Method, StunMessage, encode, error, parse, success

DATAGRAM = 1204
"""Bytes of the largest datagram of a link in ChannelData."""
MOST = 256 * 1024
"""Bytes that links write at most, when there is no limit."""
MAPPED = Address("203.0.113.1", 5000)


class SimulatedLine:
    """
    A relay behind a line whose queue has no end; it answers each Binding request when that arrives.

    :param rate: bytes a second.
    :param delay: seconds of a round trip while the queue is empty.
    :ivar silent: whether the relay answers nothing now.
    """

    def __init__(self, rate: float, delay: float, *, silent: bool = False) -> None:
        self.queue = StreamQueue(Random(1).randbytes)
        self.rate = rate
        self.delay = delay
        self.now = 0.0
        self.silent = silent
        self.sent = 0
        self.asked = 0
        self._free_at = 0.0
        self._answers: deque[tuple[float, bytes]] = deque()
        self.write(132)  # the Allocate request; links come when it is answered
        while self._answers:
            self.step()

    @property
    def waiting(self) -> float:
        """Seconds for which bytes that are written now wait on the line."""
        return max(0.0, self._free_at - self.now)

    def write(self, size: int) -> None:
        """Write so many bytes, and the requests of the queue."""
        requests = self.queue.requests(size, self.now)
        self.sent += size
        self._free_at = max(self._free_at, self.now) + (size + sum(map(len, requests))) / self.rate
        for request in requests:
            self.asked += 1
            message = parse(request)
            assert (message.method, message.message_class) == (Method.BINDING, MessageClass.REQUEST)
            answer = encode(success(message, (Attribute.XOR_MAPPED_ADDRESS, MAPPED)), fingerprint=False)
            if not self.silent:
                self._answers.append((self._free_at + self.delay, answer))

    def step(self) -> None:
        """Go on to the next answer or timer, for at most 10 ms."""
        timer = self.queue.get_timer()
        due = min(self._answers[0][0] if self._answers else inf, inf if timer is None else timer)
        if due > self.now + 0.01:
            self.now += 0.01
            return
        self.now = max(self.now, due)
        if self._answers and self._answers[0][0] == due:
            self.queue.receive(self._answers.popleft()[1], self.now)
        else:
            self.queue.handle_timer(self.now)
        self.write(0)

    def run(self, seconds: float) -> float:
        """Write all that may be written, for a while; return the longest wait."""
        end, longest = self.now + seconds, 0.0
        while self.now < end:
            while self.queue.room != 0 and self.waiting * self.rate < MOST:
                self.write(DATAGRAM)
                longest = max(longest, self.waiting)
            self.step()
        return longest


class LimitTests(SynchronousTestCase):
    def test_a_slow_line(self) -> None:
        """Little waits on the line, which is never idle."""
        line = SimulatedLine(8000.0, 0.06)
        line.run(5.0)
        before = line.sent
        self.assertLess(line.run(60.0), 0.7)
        self.assertGreater(line.sent - before, 0.94 * 60 * 8000)

    def test_the_first_data(self) -> None:
        """Before anything is known of the line, no more is written than one connection begins with."""
        line = SimulatedLine(8000.0, 0.06)
        self.assertLess(line.run(0.1) * line.rate, FIRST + DATAGRAM)

    def test_a_fast_line(self) -> None:
        """A line without a queue has no limit within a few round trips, and is asked little afterwards."""
        line = SimulatedLine(1e9, 0.02)
        line.run(0.2)
        self.assertIsNone(line.queue.room)
        before = line.asked
        for _ in range(1000):
            line.write(DATAGRAM)
            line.now += 0.001
        self.assertLess(line.asked - before, 12)

    def test_a_line_that_becomes_slow(self) -> None:
        line = SimulatedLine(1e6, 0.02)
        line.run(5.0)
        line.rate = 8000.0
        line.run(40.0)  # what was written before has to leave first
        self.assertLess(line.run(30.0), 1.0)

    def test_a_line_that_becomes_fast(self) -> None:
        line = SimulatedLine(8000.0, 0.06)
        line.run(10.0)
        line.rate = 1e6
        line.run(5.0)
        before = line.sent
        line.run(5.0)
        self.assertGreater(line.sent - before, 0.9 * 5 * 1e6)


class AnswerTests(SynchronousTestCase):
    def test_a_relay_that_answers_nothing(self) -> None:
        """It is asked a few times, and there is no limit."""
        line = SimulatedLine(8000.0, 0.06, silent=True)
        for _ in range(200):
            line.write(DATAGRAM)
            line.now += 0.1
        self.assertIsNone(line.queue.room)
        # The first request was made with the allocation
        self.assertLessEqual(line.asked, TRIES)

    def test_a_lost_answer(self) -> None:
        """Another request is made after a while, and its answer counts for all that was written before."""
        line = SimulatedLine(8000.0, 0.06)
        line.run(10.0)
        line.silent = True
        while line.queue.room:
            line.write(DATAGRAM)
        while line._answers:
            line.step()
        asked, line.silent = line.asked, False
        while line.queue.room:
            line.write(DATAGRAM)
        began = line.now
        while not line.queue.room:
            line.step()
        self.assertGreater(line.asked, asked)
        self.assertLess(line.now - began, AGAIN[1])

    def test_no_answers_any_more(self) -> None:
        """If the relay still relays, but has answered nothing for long, there is no limit until it does."""
        line = SimulatedLine(8000.0, 0.06)
        line.run(10.0)
        line.silent = True
        while line.queue.room:
            line.write(DATAGRAM)
        while line._answers:
            line.step()
        while line.queue.room:
            line.write(DATAGRAM)
        began = line.now
        while line.now < began + SILENT_AFTER + AGAIN[1]:
            line.step()
        # Perhaps nothing arrives at all: what is on the way is as much as ever
        self.assertEqual(line.queue.room, 0)
        self.assertFalse(line.queue.receive(b"\x40\x00\x00\x00", line.now))
        self.assertIsNone(line.queue.room)
        asked = line.asked
        for _ in range(10):
            line.write(DATAGRAM)
            line.now += 1.0
        self.assertGreater(line.asked, asked)
        line.silent = False
        line.write(DATAGRAM)
        while line._answers:
            line.step()
        self.assertIsNotNone(line.queue.room)
        self.assertLess(line.run(60.0), 5.0)
        self.assertLess(line.run(30.0), 0.7)

    def test_messages_before_an_answer(self) -> None:
        """As long as answers come now and then, other messages end no limit."""
        line = SimulatedLine(8000.0, 0.06)
        end = line.now + 2 * SILENT_AFTER
        line.run(10.0)
        while line.now < end:
            line.queue.receive(b"\x40\x00\x00\x00", line.now)
            self.assertIsNotNone(line.queue.room)
            line.run(0.1)

    def test_what_counts_as_an_answer(self) -> None:
        """An error is an answer, too; what nobody asked for is none."""
        queue = StreamQueue(Random(1).randbytes)
        (request,) = queue.requests(100, 0.0)
        asked = parse(request)
        other = StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(12))
        for message in (
            b"",
            b"\x01\x01",
            request,
            encode(success(other), fingerprint=False),
            encode(success(StunMessage(Method.REFRESH, MessageClass.REQUEST, asked.transaction_id))),
        ):
            self.assertFalse(queue.receive(message, 0.1), message)
        self.assertIsNone(queue.rtt)
        answer = encode(error(asked, 420, ""), fingerprint=False)
        self.assertTrue(queue.receive(answer, 0.3))
        self.assertEqual(queue.rtt, 0.3)
        self.assertFalse(queue.receive(answer, 0.4))


class CheckTests(SynchronousTestCase):
    def test_a_repeated_check(self) -> None:
        """It is of no use while the first one is known to be on its way, and of use afterwards."""
        line = SimulatedLine(8000.0, 0.06)
        line.run(10.0)
        check = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(11) + b"\x01"))
        while line.queue.room:
            line.write(DATAGRAM)
        self.assertFalse(line.queue.holds(check))
        line.write(len(check) + DATAGRAM)
        self.assertTrue(line.queue.holds(check))
        while line.waiting:
            line.step()
        line.run(0.2)
        self.assertFalse(line.queue.holds(check))

    def test_nothing_is_known(self) -> None:
        """Where no request follows a check, it may have arrived long ago."""
        line = SimulatedLine(1e9, 0.02)
        line.run(1.0)
        check = encode(StunMessage(Method.BINDING, MessageClass.REQUEST, bytes(11) + b"\x01"))
        self.assertFalse(line.queue.holds(check))
        line.write(100)
        self.assertFalse(line.queue.holds(check))

"""The Initial that leaves before a path is known to exist, on link cores that are joined by a pipe."""

from __future__ import annotations

from typing import cast

from punch.link.core import MAX_EARLY_DATAGRAMS
from punch.link.events import CloseCode, LinkRole, LinkState
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import QuicConnection, QuicError
from punch.test.link.link_pair import DELAY, AioquicMixin, LinkTestCase, Pipe

LATE = 0.5
"""Seconds after which a path is found."""


class EarlyTests(LinkTestCase):
    """A caller that sends its Initial early, and a callee."""

    def make_world(self) -> None:
        super().make_world()
        self.caller, self.callee = self.make_caller(), self.make_callee()
        self.pipe = Pipe(self.caller, self.callee)
        self.early = self.caller.core.start_early(0.0)

    def proved(self) -> bool:
        return self.caller.proved and self.callee.proved

    def deliver(self, datagrams: list[bytes]) -> None:
        """Carry datagrams to the callee."""
        self.pipe.in_flight.append((self.pipe.now + DELAY, 1, datagrams))

    def start(self, wait: float = 0.0) -> None:
        """A path was found."""
        for end in (self.caller, self.callee):
            end.core.start(self.pipe.now, wait if end is self.caller else 0.0)

    def check_one_link(self) -> None:
        """Both ends have one connection each, the same one, and data flows."""
        self.pipe.run(1.0)
        stream = self.caller.core.streams.open_stream("test")
        self.caller.core.streams.send(stream, b"hello", True)
        self.assertTrue(self.pipe.run(1.0, lambda: bytes(self.callee.received.get(stream, b"")) == b"hello"))
        self.assertEqual((self.caller.core.connection_count, self.callee.core.connection_count), (1, 1))
        self.assertEqual((self.caller.closed, self.callee.closed), (None, None))

    def test_answered(self) -> None:
        """The link is proved one round trip after the Initial left, before `start` is called."""
        self.assertTrue(0 < len(self.early) <= MAX_EARLY_DATAGRAMS)
        self.assertEqual({len(data) for data in self.early}, {1200})
        self.deliver(self.early)
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, 3 * DELAY, 3)
        self.start()
        self.check_one_link()

    def test_lost(self) -> None:
        """
        The handshake that follows takes as long as if nothing had been sent, repeats nothing of it, and
        measures the round trip of its own packets.
        """
        self.pipe.run(LATE)
        self.assertEqual(self.pipe.sent, [])
        self.start()
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, LATE + 3 * DELAY, 3)
        self.assertEqual(self.callee.core.connection_count, 1)
        rtt = self.caller.core.rtt
        assert rtt is not None
        self.assertLess(rtt, 3 * DELAY)
        self.check_one_link()

    def test_late(self) -> None:
        """The early Initial arrives when another connection is being made, or has been proved."""
        for delay in (DELAY / 2, 2.5 * DELAY, 10 * DELAY):
            self.make_world()
            self.pipe.run(LATE)
            self.start()
            self.pipe.in_flight.append((self.pipe.now + delay, 1, self.early))
            self.assertTrue(self.pipe.run(1.0, self.proved), delay)
            self.assertLessEqual(self.pipe.now, LATE + 3 * DELAY + 0.001, delay)
            self.check_one_link()

    def test_the_answer_is_awaited(self) -> None:
        """While the answer is awaited, no other Initial is sent; if no answer comes, one is."""
        self.deliver(self.early)
        self.start(wait=3 * DELAY)
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, 3 * DELAY, 3)
        self.assertEqual(self.callee.core.connection_count, 1)
        self.check_one_link()
        self.make_world()
        self.start(wait=DELAY)
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, 4 * DELAY, 3)
        self.check_one_link()

    def test_an_answer_of_somebody_else(self) -> None:
        """An answer with another certificate ends that connection, and another one begins."""
        other = self.make_callee(certificate=LinkCertificate.generate(self.random.randbytes))
        other.receive(self.early, DELAY)
        self.pipe.in_flight.append((2 * DELAY, 0, other.send(DELAY)))
        self.pipe.run(LATE)
        self.assertEqual((self.caller.closed, self.caller.proved), (None, False))
        self.start(wait=10.0)
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, LATE + 3 * DELAY, 3)
        self.check_one_link()

    def test_garbage_is_no_answer(self) -> None:
        """A large datagram with the right connection ID that acknowledges nothing delays no other one."""
        other = self.make_callee()
        other.receive(self.early, 0.0)
        answer = other.send(0.0)[0]
        self.assertGreaterEqual(len(answer), 1200)
        self.caller.receive([answer[:60] + b"garbled" + answer[67:]], DELAY)
        self.pipe.lose = lambda data, target: True
        self.pipe.run(LATE)
        self.pipe.lose = lambda data, target: False
        self.start()
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.assertAlmostEqual(self.pipe.now, LATE + 3 * DELAY, 3)

    def test_the_library_fails(self) -> None:
        """If the library makes no early Initial, the link begins as it would without one."""
        inner = self.backend
        fails = True

        class Unable:
            """A connection that sends nothing."""

            def __init__(self, connection: QuicConnection) -> None:
                self._connection = connection

            def __getattr__(self, name: str) -> object:
                return getattr(self._connection, name)

            def datagrams_to_send(self, now: float) -> list[bytes]:
                raise QuicError("no")

        class Failing:
            """A QUIC library that makes such connections for a while."""

            name = inner.name
            server = inner.server

            def client(self, now: float) -> QuicConnection:
                connection = inner.client(now)
                return cast(QuicConnection, Unable(connection)) if fails else connection

        self.caller = self.make_caller(backend=Failing())
        self.pipe = Pipe(self.caller, self.callee)
        self.assertEqual(self.caller.core.start_early(0.0), [])
        self.caller.take()
        self.assertEqual((self.caller.closed, self.caller.core.connection_count), (None, 0))
        fails = False
        self.start(wait=10.0)
        self.assertTrue(self.pipe.run(1.0, self.proved))
        self.check_one_link()

    def test_another_one_fails(self) -> None:
        """
        The second connection ends, and the early one, which was answered, goes on: it becomes the link, or
        ends it as well.
        """
        for lost in (False, True):
            self.make_world()
            self.callee.receive(self.early, 0.0)
            answer = self.callee.send(0.0)
            self.start()
            second = self.caller.send(0.0)
            self.pipe.now = DELAY
            self.caller.receive([answer[0][:60] + b"garbled" + answer[0][67:]], DELAY)
            other = self.make_callee(certificate=LinkCertificate.generate(self.random.randbytes))
            other.receive(second, DELAY)
            self.caller.receive(other.send(DELAY), DELAY)
            self.assertIsNone(self.caller.closed)
            if lost:
                self.pipe.lose = lambda data, target: True
                self.assertTrue(self.pipe.run(30.0, lambda: self.caller.closed is not None))
            else:
                self.caller.receive(answer, self.pipe.now)
                self.assertTrue(self.pipe.run(1.0, self.proved))
                self.pipe.run(1.0)
                self.assertEqual((self.caller.closed, self.callee.closed), (None, None))

    def test_given_up(self) -> None:
        """The call ends before there is a path: nothing more is sent."""
        self.caller.core.fail(CloseCode.LOST, "", 0.1)
        self.pipe.run(1.0)
        self.assertEqual(self.pipe.sent, [])
        assert self.caller.closed is not None
        self.assertIs(self.caller.closed.code, CloseCode.LOST)
        self.assertEqual(self.caller.core.connection_count, 0)

    def test_once_and_by_the_caller(self) -> None:
        """There is no second early Initial, none from a callee, and none once the link has begun or ended."""
        self.assertEqual(self.caller.core.start_early(0.0), [])
        self.assertEqual(self.callee.core.start_early(0.0), [])
        begun, over = self.make_caller(), self.make_caller()
        begun.core.start(0.0)
        over.core.fail(CloseCode.LOST, "", 0.0)
        for end in (begun, over):
            self.assertEqual(end.core.start_early(0.0), [])
        self.assertIs(over.core.state, LinkState.CLOSED)
        self.assertIs(self.callee.core.role, LinkRole.CALLEE)


class AioquicEarlyTests(AioquicMixin, EarlyTests):
    """The same with aioquic."""

    __test__ = True

"""Monotonic time for a reactor, and name look-ups that end in any case."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IAddress, IHostResolution, IResolutionReceiver
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from punch.net.reactor import (
    KEPT,
    MAX_THREADS,
    TIMEOUT,
    Answer,
    DaemonThreadResolver,
    use_monotonic_time,
)

DAY = 86_400.0


class TimeOnly(ReactorBase):
    """What all reactors of Twisted have in common, which is time, and no sockets."""

    wall = 0.0

    def seconds(self) -> float:
        return self.wall

    def installWaker(self) -> None:
        """Do nothing: no other thread wakes this reactor."""


class MonotonicTests(SynchronousTestCase):
    def reactor(self, wall: float) -> TimeOnly:
        reactor = TimeOnly()
        reactor.wall = wall
        return reactor

    def close(self, one: float, other: float) -> None:
        """Check that two times differ by less than a minute, which a slow machine may take."""
        self.assertLess(abs(one - other), 60.0)

    def test_what_waited_before(self) -> None:
        """Calls that were scheduled before keep their delays, whatever the two clocks show."""
        for wall in (0.0, time.time()):
            called: list[str] = []
            reactor = self.reactor(wall)
            reactor.callLater(0, called.append, "at once")
            reactor.callLater(0, called.append, "cancelled").cancel()
            # Some of them are in the heap by now, some are not.
            reactor.timeout()
            times = [5.0 * DAY, DAY, 3.0 * DAY, 2.0 * DAY, 4.0 * DAY]
            calls = [reactor.callLater(when, called.append, str(when)) for when in times]
            calls[0].delay(DAY)
            use_monotonic_time(reactor)
            times[0] += DAY
            for call, when in zip(calls, times, strict=True):
                self.close(call.getTime() - time.monotonic(), when)
            self.assertEqual(reactor.timeout(), 0)
            reactor.runUntilCurrent()
            self.assertEqual(called, ["at once"])
            timeout = reactor.timeout()
            assert timeout is not None
            self.close(timeout, DAY)

    def test_from_then_on(self) -> None:
        """From then on nothing reads the wall clock, not even calls that were scheduled before."""
        reactor = self.reactor(1e9)
        earlier = reactor.callLater(10.0, list)
        use_monotonic_time(reactor)
        use_monotonic_time(reactor)
        self.close(reactor.seconds(), time.monotonic())
        later = reactor.callLater(10.0, list)
        for wall in (1e9 - 3600.0, 1e9 + 365 * DAY, 0.0):
            reactor.wall = wall
            for call in (earlier, later):
                call.reset(DAY)
                self.close(call.getTime() - time.monotonic(), DAY)
                call.delay(-2 * DAY)
            self.assertEqual(reactor.timeout(), 0)


FOUND: Answer = [
    (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
]


class Reactor(Clock):
    """A clock to which other threads may hand calls; there are no other threads here."""

    def callFromThread(self, function: Callable[..., Any], *arguments: object) -> None:
        self.callLater(0, function, *arguments)


@implementer(IResolutionReceiver)
class AddressReceiver:
    """Who wants to know an address; `answers` has one entry when the look-up is over."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.addresses: list[IAddress] = []
        self.answers: list[list[str]] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self.began.append(resolutionInProgress.name)

    def addressResolved(self, address: IAddress) -> None:
        self.addresses.append(address)

    def resolutionComplete(self) -> None:
        self.answers.append([address.host for address in self.addresses])  # type: ignore[attr-defined]


class ResolverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.threads: list[Callable[[], None]] = []
        self.asked: list[tuple[str, int]] = []
        self.answer: Answer | Exception = FOUND
        self.resolver = DaemonThreadResolver(self.reactor, self.getaddrinfo, self.threads.append)

    def getaddrinfo(self, name: str, port: int, family: int, kind: int) -> Answer:
        self.asked.append((name, family))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def look_up(
        self, name: str = "punch.example", types: Sequence[type[IAddress]] | None = None
    ) -> AddressReceiver:
        receiver = AddressReceiver()
        self.resolution = self.resolver.resolveHostName(receiver, name, 7001, types)
        return receiver

    def answer_comes(self) -> None:
        """The thread that was started first comes back."""
        self.threads.pop(0)()
        self.reactor.advance(0)

    def test_an_answer(self) -> None:
        """Both families in the system's order, with the port; nothing is left on the clock."""
        receiver = self.look_up()
        self.assertEqual((receiver.began, receiver.answers), (["punch.example"], []))
        self.answer_comes()
        self.assertEqual(
            receiver.addresses,
            [IPv6Address("TCP", "2001:db8::1", 7001), IPv4Address("TCP", "192.0.2.1", 7001)],
        )
        self.assertEqual(receiver.answers, [["2001:db8::1", "192.0.2.1"]])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_one_family(self) -> None:
        for types, family in (
            ([IPv4Address], socket.AF_INET),
            ([IPv6Address], socket.AF_INET6),
            ([IPv4Address, IPv6Address], socket.AF_UNSPEC),
            (None, socket.AF_UNSPEC),
        ):
            self.look_up("punch.example", types)
            self.answer_comes()
            self.assertEqual(self.asked.pop(), ("punch.example", family))

    def test_a_name_that_is_not_known(self) -> None:
        """Whatever exception the system raises, the name counts as not known."""
        for problem in (socket.gaierror(-2, "not known"), UnicodeError("label too long"), OSError("no")):
            self.answer = problem
            receiver = self.look_up()
            self.answer_comes()
            self.assertEqual(receiver.answers, [[]])

    def test_silence(self) -> None:
        """A look-up without an answer fails in time, and once; a late answer is not delivered."""
        receiver = self.look_up()
        self.reactor.advance(TIMEOUT - 0.1)
        self.assertEqual(receiver.answers, [])
        self.reactor.advance(0.1)
        self.assertEqual(receiver.answers, [[]])
        self.answer_comes()
        self.assertEqual(receiver.answers, [[]])

    def test_a_late_answer_is_for_the_next_attempt(self) -> None:
        """A late answer is kept for the next attempt, for a while."""
        self.look_up()
        self.reactor.advance(TIMEOUT)
        self.answer_comes()
        self.assertEqual(self.look_up().answers, [["2001:db8::1", "192.0.2.1"]])
        self.look_up()
        self.assertEqual(len(self.threads), 1)
        self.reactor.advance(TIMEOUT)
        self.answer_comes()
        self.reactor.advance(KEPT)
        self.assertEqual(self.look_up().answers, [])
        self.assertEqual(len(self.threads), 1)

    def test_attempts_share_a_look_up(self) -> None:
        """One thread for a name, however many want it, and however long it takes."""
        receivers = [self.look_up() for _ in range(3)]
        self.reactor.advance(TIMEOUT)
        receivers += [self.look_up() for _ in range(3)]
        self.assertEqual(len(self.threads), 1)
        self.answer_comes()
        self.assertEqual([len(receiver.answers[0]) for receiver in receivers], [0, 0, 0, 2, 2, 2])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_threads_are_bounded(self) -> None:
        for number in range(MAX_THREADS):
            self.look_up(f"host{number}.example")
        self.assertEqual(self.look_up("another.example").answers, [[]])
        self.assertEqual(len(self.threads), MAX_THREADS)
        self.answer_comes()
        self.assertEqual(self.look_up("another.example").answers, [])

    def test_cancelled(self) -> None:
        """A cancelled look-up delivers nothing, and leaves no timer."""
        receiver = self.look_up()
        self.resolution.cancel()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.answer_comes()
        self.assertEqual(receiver.answers, [])

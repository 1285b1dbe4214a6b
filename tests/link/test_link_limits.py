"""The limits of a link: many streams and control frames, and errors of the library at each call."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from punch.link.core import LinkCore
from punch.link.events import CloseCode, StreamData, StreamLimitError, StreamOpened
from punch.link.quic.interface import MAX_STREAMS, QuicConnection
from punch.link.quic.packet import Frame, QuicFrameType
from punch.link.quic.receive_limits import ReceiveLimits
from punch.test.internet.links import LinkSpec
from punch.test.link.link_pair import CoreEnd, LinkTestCase, Pipe, open_stream
from punch.test.link.test_internet import TracedLinkCase
from punch.test.link.test_limits import FloodCase


class FailingBackend:
    """A backend whose connections fail when one name of the library is used, from some time on."""

    def __init__(self, inner: Any, failing: str = "") -> None:
        self.name = inner.name
        self._inner = inner
        self._failing = failing
        self.armed = False
        self.used: set[str] = set()

    def client(self, now: float) -> QuicConnection:
        return self._broken(self._inner.client(now))

    def server(self, certificate: Any, original_destination_connection_id: bytes) -> QuicConnection:
        return self._broken(self._inner.server(certificate, original_destination_connection_id))

    def _broken(self, connection: Any) -> QuicConnection:
        connection.library = FailingLibrary(connection.library, self)
        broken: QuicConnection = connection
        return broken

    @property
    def failing(self) -> bool:
        """Whether a name was chosen."""
        return bool(self._failing)

    def use(self, name: str) -> None:
        if self.armed:
            self.used.add(name)
            if name == self._failing:
                raise BaseException("a panic")  # as those of Rust are


class FailingLibrary:
    """The library of one connection, or a part of it: the edge of our code."""

    PARTS = ("_core", "tls")

    def __init__(self, library: Any, backend: FailingBackend, prefix: str = "") -> None:
        self._library = library
        self._backend = backend
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:
        path = self._prefix + name
        value = getattr(self._library, name)
        if name in self.PARTS and value is not None:
            return FailingLibrary(value, self._backend, f"{path}.")
        if not callable(value):
            self._backend.use(path)
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            self._backend.use(path)
            return value(*arguments, **named)

        return call


class StreamTests(LinkTestCase):
    """As many streams as a link has."""

    def test_streams_are_replaced_at_the_limit(self) -> None:
        """Neither side ever takes the other's honest use for too much, also where datagrams are lost."""
        caller, callee, pipe = self.connect()
        loss = Random(5)
        pipe.lose = lambda data, target: loss.random() < 0.02
        callee.on_event = lambda event: (
            callee.core.streams.send(event.stream_id, b"", fin=True)
            if isinstance(event, StreamData) and event.fin
            else None
        )
        refused = 0
        for _ in range(30):
            try:
                while True:
                    stream_id = caller.core.streams.open_stream("x")
                    caller.core.streams.send(stream_id, bytes(100), fin=True)
            except StreamLimitError:
                refused += 1
            pipe.run(0.5)
        self.assertGreater(refused, 20)
        self.assertIsNone(callee.closed)
        self.assertIsNone(caller.closed)
        self.assertGreater(len(callee.of(StreamOpened)), 3 * MAX_STREAMS)


class FloodTests(FloodCase):
    """Floods of frames."""

    def test_control_frames(self) -> None:
        for name in ("PING", "STOP_SENDING", "MAX_DATA", "MAX_STREAM_DATA", "MAX_STREAMS", "DATA_BLOCKED"):
            self.flood(name, "too many control frames|too many small pieces", most=320)
        for name in ("STREAM_DATA_BLOCKED", "STREAMS_BLOCKED", "STREAM, empty", "STREAM, again"):
            self.flood(name, "too many control frames|too many small pieces", most=320)

    def test_from_a_callee(self) -> None:
        self.flood("NEW_TOKEN", "NEW_TOKEN", is_caller=False, most=64)
        self.flood("HANDSHAKE_DONE", "HANDSHAKE_DONE|too many small pieces", is_caller=False, most=160)


class LibraryErrorTests(LinkTestCase):
    """Whatever a library raises, in whatever it is asked: the link ends with a code, and nothing gets out."""

    expected: Sequence[str] = (
        "_core.poll_transmit",
        "_core.receive_many_datagrams",
        "_core.smoothed_rtt",
        "_core.loss_total",
        "_core.bytes_in_flight",
        "_drain_core",
        "get_timer",
        "handle_timer",
        "next_event",
        "send_stream_data",
        "send_datagram_frame",
        "send_ping",
        "reset_stream",
        "stop_stream",
        "get_next_available_stream_id",
    )

    def test_while_the_link_is_used(self) -> None:
        """At the caller and at the callee."""
        for caller_fails in (True, False):
            names = self.use(FailingBackend(self.backend), caller_fails, handshake=False)[0].used
            self.assertLessEqual(set(self.expected), names)
            for name in sorted(names):
                backend, end = self.use(FailingBackend(self.backend, name), caller_fails, handshake=False)
                self.assertIn(name, backend.used)
                self.assert_failed(end, name)

    def test_in_the_handshake(self) -> None:
        """
        What fails when streams are opened may look as if the other side allowed none, and what fails when
        the certificate is read as if the other side had another one. A connection that fails before it is
        proved may be anybody's, so the link waits for another one for a while.
        """
        codes = (CloseCode.INTERNAL, CloseCode.PROTOCOL, CloseCode.PROOF, CloseCode.TIMEOUT)
        for caller_fails in (True, False):
            names = self.use(FailingBackend(self.backend), caller_fails, handshake=True)[0].used
            for name in sorted(names):
                _, end = self.use(FailingBackend(self.backend, name), caller_fails, handshake=True)
                assert end.closed is not None, name
                self.assertIn(end.closed.code, codes, name)

    def assert_failed(self, end: CoreEnd, name: str) -> None:
        assert end.closed is not None, name
        failed = (CloseCode.INTERNAL, "The QUIC library failed: BaseException: a panic.")
        self.assertEqual((end.closed.code, end.closed.reason), failed, name)

    def use(
        self, backend: FailingBackend, caller_fails: bool, handshake: bool
    ) -> tuple[FailingBackend, CoreEnd]:
        """A handshake, and, unless only that is tried, everything that a link is asked for."""
        caller = self.make_caller(**({"backend": backend} if caller_fails else {}))
        callee = self.make_callee(**({} if caller_fails else {"backend": backend}))
        failing = caller if caller_fails else callee
        pipe = Pipe(caller, callee)
        backend.armed = handshake
        caller.core.start(0.0)
        callee.core.start(0.0)
        pipe.run(0.5)
        if not handshake:
            self.assertTrue(caller.proved and callee.proved)
            core = failing.core
            stream_id, other = core.streams.open_stream("x"), core.streams.open_stream("z")
            core.streams.send(stream_id, b"x")
            backend.armed = True
            self._ask_for_everything(core, stream_id, pipe.now)
            core.streams.reset(other, 1)
        pipe.run(60.0 if handshake and backend.failing else 2.0, lambda: failing.closed is not None)
        return backend, failing

    def _ask_for_everything(self, core: LinkCore, stream_id: int, now: float) -> None:
        core.streams.send(stream_id, b"y")
        core.streams.send_datagram(b"z")
        core.ping(now)
        core.streams.queued(stream_id)
        self.assertGreaterEqual(core.losses, 0)
        self.assertNotEqual(core.rtt, 0.0)
        with contextlib.suppress(StreamLimitError):
            core.streams.open_stream("y")
        core.streams.reset(stream_id, 1)

    def test_while_a_link_is_closed(self) -> None:
        """Nothing gets out, and it ends."""
        names = self.close(FailingBackend(self.backend))[0].used
        self.assertIn("close", names)
        for name in sorted(names):
            backend, end = self.close(FailingBackend(self.backend, name))
            self.assertIn(name, backend.used)
            self.assertIsNotNone(end.closed, name)

    def close(self, backend: FailingBackend) -> tuple[FailingBackend, CoreEnd]:
        caller, callee = self.make_caller(backend=backend), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        callee.core.start(0.0)
        pipe.run(0.5)
        backend.armed = True
        caller.core.close(CloseCode.OK, "", pipe.now)
        pipe.run(2.0)
        return backend, caller


class SmallMessageTests(SynchronousTestCase):
    """Messages of few bytes."""

    def test_many_small_messages(self) -> None:
        """
        3,000 small messages a second each way for half a minute, each in a packet of its own, exceed no limit
        (which would raise).
        """
        limits = ReceiveLimits()
        for number in range(90_000):
            now = number / 3000
            limits.sent(60)
            limits.packets(2, now)
            limits.events(1, now)
            if number % 64 == 0:
                limits.frames([Frame(QuicFrameType.STREAM, 60, 4, number * 60)], now, 64)
                limits.frames([Frame(QuicFrameType.ACK, 1)], now, 64)
            limits.delivered(4, 60, False)
            limits.answered()


class HonestSenderTests(LinkTestCase):
    """A sender that keeps to the rules."""

    def test_streams_opened_and_given_up_without_end(self) -> None:
        caller, callee, pipe = self.connect()
        opened = 0
        with self.assertRaisesRegex(StreamLimitError, "too fast"):
            for _ in range(6000):
                caller.core.streams.reset(caller.core.streams.open_stream("x"), 1)
                opened += 1
                if opened % 32 == 0:
                    pipe.run(0.05)
        self.assertGreater(opened, 1500)
        pipe.run(2.0)
        self.assertIsNone(callee.closed)
        caller.core.streams.open_stream("x")


class RateTests(TracedLinkCase):
    """The rate of a clean path."""

    def test_rate_of_a_clean_path(self) -> None:
        """100 Mbit/s and 40 ms: the credits keep up with the congestion controller."""
        net = self.internet()
        near, _, sink = self.connect_hosts(net, *self.pair(net, LinkSpec(delay=0.01, rate=100e6)))
        size = 3_000_000
        open_stream(near.link, "bulk/1", Protocol()).write(bytes(size))
        begin = net.monotonic()
        net.run_until(lambda: sink.size >= size, 30)
        self.assertGreater(size / (net.monotonic() - begin), 4e6)

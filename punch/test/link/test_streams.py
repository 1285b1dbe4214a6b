"""Streams, credits, datagrams and the close of a link."""

from __future__ import annotations

from typing import Any

from punch.link.events import (
    INITIAL_CREDIT,
    MAX_DATAGRAM,
    CloseCode,
    Datagram,
    LinkError,
    LinkLimits,
    StreamData,
    StreamLimitError,
    StreamOpened,
    StreamReset,
    StreamSendable,
)
from punch.link.quic import qh3_library
from punch.link.quic.interface import MAX_STREAMS
from punch.test.link.link_pair import AioquicMixin, CoreEnd, KeepingBackend, LinkTestCase, Pipe

MIB = 1024 * 1024


class StreamTests(LinkTestCase):
    def test_both_ways_and_both_ends(self) -> None:
        caller, callee, pipe = self.connect()
        stream_id = caller.core.streams.open_stream("chat/1")
        caller.core.streams.send(stream_id, b"question", fin=True)
        pipe.run(0.1)
        self.assertEqual(callee.of(StreamOpened), [StreamOpened(stream_id, "chat/1")])
        callee.core.streams.send(stream_id, b"ans")
        callee.core.streams.send(stream_id, b"wer", fin=True)
        pipe.run(0.1)
        self.assertEqual(callee.received, {stream_id: b"question"})
        self.assertEqual(caller.received, {stream_id: b"answer"})
        self.assertTrue(caller.of(StreamData)[-1].fin)
        for node in (caller, callee):
            self.assertEqual(node.core.streams.windows, {})

    def test_the_callee_opens_streams_too(self) -> None:
        caller, callee, pipe = self.connect()
        stream_id = callee.core.streams.open_stream("größe")
        callee.core.streams.send(stream_id, b"hello")
        pipe.run(0.1)
        self.assertEqual(stream_id & 1, 1)
        self.assertEqual(caller.of(StreamOpened), [StreamOpened(stream_id, "größe")])
        self.assertEqual(caller.received, {stream_id: b"hello"})

    def test_an_empty_stream(self) -> None:
        caller, callee, pipe = self.connect()
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, b"", fin=True)
        pipe.run(0.1)
        self.assertEqual(callee.of(StreamData), [StreamData(stream_id, b"", True)])

    def test_names(self) -> None:
        caller, _, _ = self.connect()
        for name in ("", "x" * 256, "é" * 128):
            with self.assertRaises(ValueError):
                caller.core.streams.open_stream(name)
        caller.core.streams.open_stream("x" * 255)

    def test_before_the_proof_and_after_the_end(self) -> None:
        caller = self.make_caller()
        with self.assertRaises(LinkError):
            caller.core.streams.open_stream("chat/1")
        caller, _, pipe = self.connect()
        caller.core.close(CloseCode.OK, "", pipe.now)
        pipe.run(1.0)
        streams = caller.core.streams
        with self.assertRaises(LinkError):
            streams.open_stream("chat/1")
        with self.assertRaises(LinkError):
            streams.send_datagram(b"x")
        with self.assertRaises(LinkError):
            streams.send_control(0x80, b"x")
        streams.send(4, b"x")
        streams.accept(4)
        streams.reset(4, 0)
        streams.consumed(4, 1)

    def test_reset(self) -> None:
        for by_opener in (True, False):
            caller, callee, pipe = self.connect(LinkLimits(streams=1))
            stream_id = caller.core.streams.open_stream("chat/1")
            caller.core.streams.send(stream_id, b"hello")
            pipe.run(0.1)
            here, there = (caller, callee) if by_opener else (callee, caller)
            here.core.streams.send(stream_id, b"never mind" * 10_000)
            here.core.streams.reset(stream_id, 7)
            here.core.streams.reset(stream_id, 7)
            here.core.streams.send(stream_id, b"too late")
            there.core.streams.send(stream_id, b"crossing")
            pipe.run(0.2)
            self.assertEqual(there.of(StreamReset), [StreamReset(stream_id, 7)])
            self.assertEqual(here.of(StreamReset), [])
            for node in (caller, callee):
                self.assertIsNone(node.closed)
                self.assertEqual(node.core.streams.windows, {})
            # Both sides may have one stream, and the one that was reset does not count.
            for opener, other in ((caller, callee), (callee, caller)):
                stream_id = opener.core.streams.open_stream("another")
                with self.assertRaises(StreamLimitError):
                    opener.core.streams.open_stream("one too many")
                pipe.run(0.2)
                self.assertEqual(other.of(StreamOpened)[-1], StreamOpened(stream_id, "another"))
                self.assertIsNone(other.closed)

    def test_reset_before_the_name_arrived(self) -> None:
        caller, callee, pipe = self.connect()
        for _ in range(22):
            for _ in range(50):
                caller.core.streams.reset(caller.core.streams.open_stream("x"), 1)
            pipe.run(0.1)
        self.assertEqual(callee.of(StreamOpened), [])
        stream_id = caller.core.streams.open_stream("y")
        pipe.run(0.1)
        self.assertEqual(callee.of(StreamOpened), [StreamOpened(stream_id, "y")])

    def test_many_streams_one_after_another(self) -> None:
        caller, callee, pipe = self.connect()
        for _ in range(22):
            opened = [caller.core.streams.open_stream("x") for _ in range(50)]
            for stream_id in opened:
                caller.core.streams.send(stream_id, b"hello", fin=True)
            pipe.run(0.1)
            for stream_id in opened:
                callee.core.streams.send(stream_id, b"", fin=True)
            pipe.run(0.1)
        self.assertEqual(len(callee.of(StreamOpened)), 1100)

    def test_our_own_limit(self) -> None:
        caller, _, _ = self.connect(LinkLimits(streams=3))
        for _ in range(3):
            stream_id = caller.core.streams.open_stream("x")
        with self.assertRaises(StreamLimitError):
            caller.core.streams.open_stream("x")
        self.assertEqual(stream_id, 12)

    def test_the_librarys_limit_is_one_too(self) -> None:
        caller, callee, pipe = self.connect()
        opened = 0
        try:
            for _ in range(2000):
                caller.core.streams.open_stream("x")
                opened += 1
        except StreamLimitError as error:
            self.assertIn("close one first", str(error))
        # With aioquic, further streams wait for their turn in the library.
        allowed = {"qh3": MAX_STREAMS - 1, "aioquic": 127}[self.backend.name]
        self.assertEqual(opened, {"qh3": allowed, "aioquic": LinkLimits().streams}[self.backend.name])
        pipe.run(1.0)
        self.assertIsNone(callee.closed)
        self.assertEqual(len(callee.of(StreamOpened)), allowed)

    def test_keys_are_updated(self) -> None:
        """Keys are updated as after some gigabytes, here after 60 packets, some of which are lost."""
        self.backend = keeping = KeepingBackend(self.backend)
        caller, callee, pipe = self.connect()
        pipe.run(0.5)
        updates = [0, 0]
        for index, connection in enumerate(keeping.connections):
            connection.key_update_after = 60
            request = connection.library.request_key_update

            def count(index: int = index, request: Any = request) -> None:
                request()
                updates[index] += 1

            connection.library.request_key_update = count
        pipe.lose = lambda data, target: self.random.random() < 0.02
        stream_id = caller.core.streams.open_stream("x")
        data = self.random.randbytes(400_000)
        caller.core.streams.send(stream_id, data)
        callee.core.streams.send(stream_id, data)
        self.assertTrue(pipe.run(60.0, lambda: len(callee.received.get(stream_id, b"")) == len(data)))
        pipe.run(10.0)
        self.assertEqual(callee.received[stream_id], data)
        self.assertGreater(updates[0], 3)
        self.assertIsNone(caller.closed)
        caller.core.streams.send(stream_id, b"the end", fin=True)
        self.assertTrue(pipe.run(10.0, lambda: callee.received[stream_id].endswith(b"the end")))

    def test_loss(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.lose = lambda data, target: self.random.random() < 0.1
        stream_id = caller.core.streams.open_stream("x")
        data = self.random.randbytes(300_000)
        caller.core.streams.send(stream_id, data, fin=True)
        callee.core.streams.send(stream_id, data)
        self.assertTrue(pipe.run(60.0, lambda: len(callee.received.get(stream_id, b"")) == len(data)))
        self.assertEqual(callee.received[stream_id], data)
        self.assertLess(pipe.now, 30)


class LaterLibraryTests(LinkTestCase):
    def test_a_later_library(self) -> None:
        """Where qh3 makes its core in another way, links have the limit of the library."""

        def other(*arguments: object, **named: object) -> None:
            raise TypeError("an argument that is not known here")

        self.patch(qh3_library, "QuicConnectionCore", other)
        caller, callee, pipe = self.connect()
        with self.assertRaises(StreamLimitError):
            while True:
                caller.core.streams.open_stream("x")
        pipe.run(1.0)
        self.assertIsNone(callee.closed)
        self.assertEqual(len(callee.of(StreamOpened)), 99)


class CreditTests(LinkTestCase):
    """Back-pressure from end to end."""

    bulk = 8 * MIB

    def test_a_paused_reader_bounds_both_sides(self) -> None:
        caller, callee, pipe = self.connect()
        callee.reading = False
        stream_id = caller.core.streams.open_stream("x")
        left, most = [self.bulk], [0]

        def fill() -> None:
            while left[0] and not caller.core.streams.is_full(stream_id):
                caller.core.streams.send(stream_id, bytes(16384))
                left[0] -= 16384

        caller.on_event = lambda event: fill() if isinstance(event, StreamSendable) else None
        fill()

        def measure() -> bool:
            most[0] = max(
                most[0], caller.core.streams.queued(stream_id) + len(callee.received.get(stream_id, b""))
            )
            return False

        pipe.run(5.0, measure)
        self.assertLessEqual(len(callee.received[stream_id]), INITIAL_CREDIT)
        self.assertLessEqual(most[0], INITIAL_CREDIT + 64 * 1024 + 16384)
        # It reads on, and gets all.
        callee.reading = True
        callee.core.streams.consumed(stream_id, len(callee.received[stream_id]))
        self.assertTrue(pipe.run(30.0, lambda: len(callee.received[stream_id]) == self.bulk))
        self.assertEqual(left, [0])

    def test_the_window_grows_to_the_path(self) -> None:
        """With round trips of 100 ms, a transfer is faster than the 160 kB/s of the initial credit."""
        caller, callee, pipe = self.connect()
        pipe.delay = 0.05
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, bytes(self.bulk // 2))
        begin = pipe.now
        self.assertTrue(pipe.run(20.0, lambda: len(callee.received.get(stream_id, b"")) == self.bulk // 2))
        self.assertLess(pipe.now - begin, 2.0)

    def test_the_window_has_an_end(self) -> None:
        caller, callee, pipe = self.connect(LinkLimits(max_window=65536))
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, bytes(self.bulk // 4))
        pipe.run(5.0)
        callee.reading = False
        before = len(callee.received[stream_id])
        caller.core.streams.send(stream_id, bytes(MIB))
        pipe.run(5.0)
        unread = len(callee.received[stream_id]) - before
        self.assertTrue(32768 < unread <= 65536, unread)

    def test_windows_share_a_budget(self) -> None:
        """Many streams together hold no more than the budget beyond their initial credit."""
        total = 128 * 1024
        caller, callee, pipe = self.connect(LinkLimits(total_window=total))
        streams = [caller.core.streams.open_stream("x") for _ in range(8)]
        for stream_id in streams:
            caller.core.streams.send(stream_id, bytes(self.bulk // 16))
        pipe.run(30.0, lambda: sum(map(len, callee.received.values())) == self.bulk // 2)
        self.assertLessEqual(sum(callee.core.streams.windows.values()), total + 8 * INITIAL_CREDIT)
        # Streams that end give their part back.
        for stream_id in streams:
            caller.core.streams.send(stream_id, b"", fin=True)
        pipe.run(1.0)
        self.assertEqual(callee.core.streams.window_budget, total)

    def test_an_idle_stream_keeps_its_small_window(self) -> None:
        caller, callee, pipe = self.connect()
        stream_id = caller.core.streams.open_stream("x")
        for _ in range(100):
            caller.core.streams.send(stream_id, bytes(1000))
            pipe.run(1.0)
        self.assertEqual(callee.core.streams.windows[stream_id], INITIAL_CREDIT)

    def test_a_caller_sends_little_before_it_is_accepted(self) -> None:
        """
        The callee's answer to the proof is lost for a while; what was sent meanwhile is far below 64 KiB.
        """
        caller, callee = self.make_caller(), self.make_callee()
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(1.0, lambda: caller.proved))
        pipe.lose = lambda data, target: target == 0
        for _ in range(5):
            stream_id = caller.core.streams.open_stream("x")
            caller.core.streams.send(stream_id, bytes(INITIAL_CREDIT))
            caller.core.streams.send_datagram(bytes(1000))
        pipe.run(0.3)
        self.assertLessEqual(sum(map(len, callee.received.values())), 24 * 1024)
        pipe.lose = lambda data, target: False
        pipe.run(5.0)
        self.assertEqual([len(data) for data in callee.received.values()], [INITIAL_CREDIT] * 5)


class DatagramTests(LinkTestCase):
    def test_both_ways(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.streams.send_datagram(b"")
        caller.core.streams.send_datagram(b"x" * MAX_DATAGRAM)
        callee.core.streams.send_datagram(b"y")
        pipe.run(0.1)
        self.assertEqual(callee.of(Datagram), [Datagram(b""), Datagram(b"x" * MAX_DATAGRAM)])
        self.assertEqual(caller.of(Datagram), [Datagram(b"y")])

    def test_too_long(self) -> None:
        caller, callee, pipe = self.connect()
        with self.assertRaises(ValueError):
            caller.core.streams.send_datagram(bytes(MAX_DATAGRAM + 1))
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, b"still alive")
        pipe.run(0.1)
        self.assertEqual(callee.received, {stream_id: b"still alive"})

    def test_too_many_lose_the_oldest(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.run(0.5)
        for number in range(1000):
            caller.core.streams.send_datagram(number.to_bytes(2, "big") + bytes(998))
        pipe.run(5.0)
        numbers = [int.from_bytes(event.data[:2], "big") for event in callee.of(Datagram)]
        self.assertEqual(numbers, list(range(1000 - len(numbers), 1000)))
        self.assertEqual(len(numbers), 128)


class AioquicDatagramTests(AioquicMixin, DatagramTests):
    __test__ = True


class CloseTests(LinkTestCase):
    """Whoever closes a link, the other side gets the code and the reason."""

    def assert_closed(self, node: CoreEnd, code: CloseCode, reason: str, by_peer: bool) -> None:
        assert node.closed is not None
        self.assertEqual((node.closed.code, node.closed.reason), (code, reason))
        self.assertEqual(node.closed.by_peer, by_peer)

    def test_reason_arrives(self) -> None:
        for swap in (False, True):
            caller, callee, pipe = self.connect()
            here, there = (callee, caller) if swap else (caller, callee)
            begin = pipe.now
            here.core.close(CloseCode.REPLACED, "a newer link – größer", pipe.now)
            here.core.close(CloseCode.OK, "a second time", pipe.now)
            pipe.run(0.045)
            self.assert_closed(here, CloseCode.REPLACED, "a newer link – größer", False)
            self.assert_closed(there, CloseCode.REPLACED, "a newer link – größer", True)
            self.assertApproximates(pipe.now - begin, 0.045, 1e-6)

    def test_reason_is_cut_at_a_character(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.close(CloseCode.OK, "ü" * 200, pipe.now)
        pipe.run(1.0)
        self.assert_closed(callee, CloseCode.OK, "ü" * 128, True)
        caller, callee, pipe = self.connect()
        caller.core.close(CloseCode.OK, "x" + "ü" * 200 + "\ud800", pipe.now)
        pipe.run(1.0)
        self.assert_closed(callee, CloseCode.OK, "x" + "ü" * 127, True)

    def test_reason_survives_loss(self) -> None:
        for seed in range(5):
            caller, callee, pipe = self.connect()
            self.random.seed(seed)
            pipe.lose = lambda data, target: self.random.random() < 0.3
            caller.core.close(CloseCode.OK, "bye", pipe.now)
            pipe.run(2.0)
            self.assert_closed(callee, CloseCode.OK, "bye", True)

    def test_nobody_answers(self) -> None:
        caller, _, pipe = self.connect()
        pipe.lose = lambda data, target: True
        begin = pipe.now
        caller.core.close(CloseCode.SHUTDOWN, "bye", pipe.now)
        self.assertTrue(pipe.run(5.0, lambda: caller.closed is not None))
        self.assertApproximates(pipe.now - begin, 1.0, 0.01)
        self.assert_closed(caller, CloseCode.SHUTDOWN, "bye", False)

    def test_both_at_once(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.close(CloseCode.OK, "I first", pipe.now)
        callee.core.close(CloseCode.SHUTDOWN, "no, I", pipe.now)
        pipe.run(1.0)
        self.assert_closed(caller, CloseCode.OK, "I first", False)
        self.assert_closed(callee, CloseCode.SHUTDOWN, "no, I", False)

    def test_before_the_proof(self) -> None:
        caller = self.make_caller()
        caller.core.start(0.0)
        caller.core.close(CloseCode.OK, "changed my mind", 0.0)
        caller.take()
        self.assert_closed(caller, CloseCode.OK, "changed my mind", False)
        self.assertIsNone(caller.core.next_event())

    def test_at_once(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.fail(CloseCode.LOST, "no path is left", pipe.now)
        caller.take()
        self.assert_closed(caller, CloseCode.LOST, "no path is left", False)
        pipe.run(1.0)
        self.assert_closed(callee, CloseCode.LOST, "no path is left", True)

    def test_timers_end(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.close(CloseCode.OK, "", pipe.now)
        pipe.run(5.0)
        self.assertIsNone(caller.core.get_timer())
        self.assertIsNone(callee.core.get_timer())

    def test_after_an_hour_of_darkness(self) -> None:
        """With a ping on both sides at the return, what was pending arrives at once."""
        caller, callee, pipe = self.connect()
        pipe.lose = lambda data, target: True
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, b"hello")
        pipe.run(3600.0)
        self.assertIsNone(caller.closed)
        pipe.lose = lambda data, target: False
        begin = pipe.now
        caller.core.ping(pipe.now)
        callee.core.ping(pipe.now)
        self.assertTrue(pipe.run(10.0, lambda: bool(callee.received)))
        self.assertLess(pipe.now - begin, 0.5)

    def test_silence_alone_ends_nothing(self) -> None:
        caller, callee, pipe = self.connect()
        pipe.run(1.0)
        pipe.now += 6 * 86400.0
        stream_id = caller.core.streams.open_stream("x")
        caller.core.streams.send(stream_id, b"good morning")
        pipe.run(1.0)
        self.assertEqual(callee.received, {stream_id: b"good morning"})


class AioquicCloseTests(AioquicMixin, CloseTests):
    __test__ = True

"""What a proved peer can make the QUIC library do, and that nothing of a library's errors gets out."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.link.control_stream import APPLICATION_CODES
from punch.link.events import CloseCode, Datagram, LinkError, encode_name
from punch.link.quic.interface import MAX_RECEIVED, QuicConnection, QuicError
from punch.link.quic.packet import (
    Frame,
    PacketReader,
    QuicFrameType,
    read_frames,
)
from punch.link.quic.qh3 import AT_ONCE, SLOW, Qh3Backend
from punch.link.quic.receive_limits import (
    LimitExceeded,
    ReceiveAllowance,
    ReceiveLimits,
    Sampler,
)
from punch.test.link.flooder import CALLEE_FLOODS, FLOODS, Flooder, PacketWriter, integer, packed
from punch.test.link.link_pair import AioquicMixin, CoreEnd, LinkTestCase, Pipe

STREAM_OPEN = b"\x0a\x04\x02" + encode_name("x")
MOST_PACKETS = 1200
"""Packets after which any flood has ended the link: 1.4 MB."""


class FloodCase(LinkTestCase):
    """A peer that sends one kind of frame without end loses the link, and is told why."""

    def flood(self, name: str, words: str, is_caller: bool = True, most: int = MOST_PACKETS) -> Flooder:
        victim = self.make_callee() if is_caller else self.make_caller()
        flooder = Flooder(victim, self.certificate, is_caller)
        if is_caller:
            flooder.send([STREAM_OPEN])
        floods = FLOODS if is_caller else CALLEE_FLOODS
        self.assertTrue(flooder.flood(packed(floods[name]), most), name)
        assert victim.closed is not None
        self.assertEqual((victim.closed.code, victim.closed.by_peer), (CloseCode.PROTOCOL, False), name)
        self.assertRegex(victim.closed.reason, words)
        return flooder


class FloodTests(FloodCase):
    """Frames that nobody needs so often; `tests/link/test_small_pieces.py` has data in small pieces."""

    def test_what_nobody_needs(self) -> None:
        self.flood("PATH_CHALLENGE", "PATH_CHALLENGE", most=64)
        self.flood("PATH_RESPONSE", "PATH_RESPONSE", most=64)
        self.flood("CRYPTO", "CRYPTO", most=64)
        self.flood("CRYPTO again", "CRYPTO", most=640)

    def test_connection_ids(self) -> None:
        # aioquic has a limit of its own for those that it must retire.
        self.flood("NEW_CONNECTION_ID", "too many connection IDs|pending retired", most=128)
        self.flood("RETIRE_CONNECTION_ID", "retired too many connection IDs", most=32)

    def test_resets_of_one_stream(self) -> None:
        self.flood("RESET_STREAM", "too many control frames|too many small pieces", most=320)

    def test_acknowledgements(self) -> None:
        self.flood("ACK", "too many acknowledgements|too many small pieces", most=160)

    def test_keys_that_change_all_the_time(self) -> None:
        """Changing keys hides no frames: it ends a link of qh3, and aioquic reports all frames."""
        victim = self.make_callee()
        flooder = Flooder(victim, self.certificate, True)
        # In one go, so that only some of the packets are looked into.
        for _ in range(40):
            if victim.closed is not None:
                break
            payloads = []
            for number in range(64):
                flooder.writer.update_key()
                payloads.append(flooder.writer.packet(b"\x1a" + number.to_bytes(8, "big")))
            flooder.now += 0.001
            victim.receive(payloads, flooder.now)
            victim.send(flooder.now)
        assert victim.closed is not None
        self.assertRegex(victim.closed.reason, "changes its keys too often|too many PATH_CHALLENGE")

    def test_datagrams_in_fragments(self) -> None:
        """Datagrams of 64 kB, which may have tens of thousands of frames, are dropped; the link goes on."""
        victim = self.make_callee()
        flooder = Flooder(victim, self.certificate, True)
        frame = b"\x31\x01x"
        most = MAX_RECEIVED - len(flooder.writer.packet(frame + b"\0")) + 1
        for padding, arrived in ((most, 1), (most + 1, 1), (60_000, 1), (60, 2)):
            flooder.send([frame + bytes(padding)])
            self.assertEqual(len(victim.of(Datagram)), arrived, padding)
        self.assertIsNone(victim.closed)


class SlowFloodTests(LinkTestCase):
    """Frames that take the library ever longer are looked for, also behind many packets of another kind."""

    def flood(self, seconds: float) -> int:
        """
        After how many packets a flood has ended the link; 256 if it has not.

        :param seconds: how long the library seems to take for a packet.
        """
        self.time = self.step = 0.0
        # The random numbers make the next packet that is read as distant as it can be.
        backend = Qh3Backend(lambda size: (509).to_bytes(size, "big"), self.clock)
        victim = self.make_callee(backend=backend)
        flooder = Flooder(victim, self.certificate, True)
        for _ in range(1152 // AT_ONCE):
            flooder.send([bytes(4)] * AT_ONCE)
        self.step = seconds * AT_ONCE
        before = flooder.sent
        payloads = packed(FLOODS["PATH_CHALLENGE"])
        while victim.closed is None and flooder.sent < before + 256:
            flooder.send(next(payloads) for _ in range(AT_ONCE))
        return flooder.sent - before

    def clock(self) -> float:
        """Each call of the library takes as long as `AT_ONCE` packets."""
        self.time += self.step
        return self.time

    def test_slow_packets_are_read(self) -> None:
        self.assertEqual(self.flood(1.1 * SLOW), 2 * AT_ONCE)
        self.assertEqual(self.flood(0.9 * SLOW), 256)


class HonestSenderTests(LinkTestCase):
    """A sender keeps within what the other side takes."""

    def test_more_small_datagrams_than_the_other_side_takes(self) -> None:
        """An honest sender loses what is too much, and no link."""
        caller, callee, pipe = self.connect()
        pipe.run(0.2)
        for _ in range(120):
            for _ in range(100):
                caller.core.streams.send_datagram(b"x")
            pipe.run(0.001)
        pipe.run(1.0)
        self.assertIsNone(callee.closed)
        self.assertGreater(len(callee.of(Datagram)), 1000)


class LimitsTests(SynchronousTestCase):
    """The counters of `ReceiveLimits`."""

    def test_allowance(self) -> None:
        allowance = ReceiveAllowance(10, 2)
        self.assertTrue(all(allowance.spend(100.0) for _ in range(10)))
        self.assertFalse(allowance.spend(100.0))
        self.assertEqual(allowance.left(101.0), 1)
        allowance.earn(100)
        self.assertEqual(allowance.left(101.0), 10)

    def test_an_honest_transfer_with_losses(self) -> None:
        """Windows of 4 MiB in flight, every tenth packet sent again a round trip later, for 40 MB."""
        limits, size, now = ReceiveLimits(), 1150, 0.0
        window = 4 * 1024 * 1024 // size
        for first in range(0, window * 10, window):
            now += 0.1
            for number in range(first, first + window, 10):
                limits.packets(10, now)
                pieces = [
                    Frame(QuicFrameType.STREAM, size, 4, (number + index) * size) for index in range(1, 10)
                ]
                limits.frames(pieces, now)
                limits.frames([Frame(QuicFrameType.STREAM, size, 4, number * size)], now)
            limits.delivered(4, window * size, False)
            limits.answered()

    def test_pieces_of_streams_that_ended_long_ago(self) -> None:
        """Pieces of streams that ended do not hide how many pieces of another stream wait."""
        limits = ReceiveLimits()
        limits.frames([Frame(QuicFrameType.STREAM, 100, 0, 1000)], 0.0, 60_000)
        for stream_id in range(4, 40_000, 4):
            limits.frames([Frame(QuicFrameType.STREAM, 1, stream_id, 1)], 0.0)
        with self.assertRaisesRegex(LimitExceeded, "do not join"):
            limits.frames([Frame(QuicFrameType.STREAM, 100, 0, 2000)], 0.0, 6000)

    def test_packets_that_bring_nothing(self) -> None:
        limits = ReceiveLimits()
        with self.assertRaisesRegex(LimitExceeded, "brought nothing"):
            for number in range(400):
                limits.packets(100, number / 200)

    def test_nothing_is_acknowledged(self) -> None:
        limits = ReceiveLimits()
        with self.assertRaisesRegex(LimitExceeded, "acknowledges nothing"):
            for number in range(1000):
                limits.packets(100, float(number))

    def test_connection_ids_that_are_repeated(self) -> None:
        limits = ReceiveLimits()
        for _ in range(5000):
            limits.frames([Frame(QuicFrameType.NEW_CONNECTION_ID, offset=7)], 0.0)
        with self.assertRaisesRegex(LimitExceeded, "too many connection IDs"):
            limits.frames([Frame(QuicFrameType.NEW_CONNECTION_ID, offset=1 << 40)], 0.0)

    def test_sampler_looks_closely(self) -> None:
        sampler = Sampler(lambda size: b"\x80" * size)
        list(sampler.choose(512, 0.0))
        list(sampler.choose(512, 0.0))
        self.assertLess(len(list(sampler.choose(200, 0.0))), 3)
        sampler.read_each_next()
        self.assertEqual(len(list(sampler.choose(200, 0.0))), 200)

    def test_sampler(self) -> None:
        sampler = Sampler(lambda size: bytes(size - 1) + b"\x80")
        self.assertEqual(list(sampler.choose(512, 0.0)), [(index, 1) for index in range(512)])
        chosen = list(sampler.choose(1000, 0.0))
        self.assertEqual([index for index, _ in chosen], list(range(0, 1000, 129)))
        self.assertEqual({weight for _, weight in chosen}, {256})
        self.assertEqual(len(list(sampler.choose(10, 60.0))), 10)

    def test_frames(self) -> None:
        payload = (
            b"\x00\x00\x01"  # PADDING, PING
            + b"\x03\x09\x00\x01\x00\x00\x00\x01\x02\x03"  # ACK_ECN of two ranges
            + b"\x0f\x04\x40\x05\x02ab"  # STREAM with offset, length and FIN
            + b"\x18\x05\x02\x08" + bytes(24)
            + b"\x06\x00\x03abc\x31\x01x\x1e"
            + b"\x08\x08rest"
        )  # fmt: skip
        self.assertEqual(
            list(read_frames(payload)),
            [
                Frame(QuicFrameType.PING),
                Frame(QuicFrameType.ACK_ECN, 2),
                Frame(0x0F, 2, 4, 5, True),
                Frame(QuicFrameType.NEW_CONNECTION_ID, offset=5),
                Frame(QuicFrameType.CRYPTO, 3),
                Frame(QuicFrameType.DATAGRAM_WITH_LENGTH, 1),
                Frame(QuicFrameType.HANDSHAKE_DONE),
                Frame(0x08, 4, 8),
            ],
        )
        for end in range(len(payload)):
            self.assertLessEqual(len(list(read_frames(payload[:end]))), 8)
        self.assertEqual(list(read_frames(b"\x40\x42")), [])

    def test_packets_with_new_keys(self) -> None:
        for length in (32, 48):
            secret = bytes(range(length))
            writer, reader = PacketWriter(secret, b"12345678"), PacketReader(secret)
            for _ in range(3):
                self.assertEqual(reader.read(writer.packet(b"\x01\x02\x03\x04")), b"\x01\x02\x03\x04")
                before = writer.packet(b"late")
                writer.update_key()
                self.assertEqual(reader.read(writer.packet(b"next")), b"next")
                self.assertEqual(reader.read(before), b"late")
            long_header = b"\xe0\0\0\0\1\x08" + bytes(8) + b"\0" + integer(5) + bytes(5)
            self.assertEqual(reader.read(long_header + writer.packet(b"behind")), b"behind")
            self.assertEqual(reader.read(long_header), b"")
            writer.update_key()
            writer.update_key()
            self.assertIsNone(reader.read(writer.packet(b"lost")))


class _Watching:
    """A backend that knows which of the library's connections are still in memory."""

    def __init__(self, inner: Any) -> None:
        self.name = inner.name
        self._inner = inner
        self.connections: list[weakref.ref[Any]] = []

    def client(self, now: float) -> QuicConnection:
        return self._watched(self._inner.client(now))

    def server(self, certificate: Any, original_destination_connection_id: bytes) -> QuicConnection:
        return self._watched(self._inner.server(certificate, original_destination_connection_id))

    def _watched(self, connection: Any) -> QuicConnection:
        self.connections.append(weakref.ref(connection.library))
        watched: QuicConnection = connection
        return watched


class MemoryTests(LinkTestCase):
    """What is left of a link."""

    def test_a_link_that_is_over_keeps_nothing(self) -> None:
        """When a link is over, what the library stored is freed at once, not at a garbage collection."""
        backend = _Watching(self.backend)
        caller, callee = self.make_caller(backend=backend), self.make_callee(backend=backend)
        pipe = Pipe(caller, callee)
        caller.core.start(0.0)
        callee.core.start(0.0)
        pipe.run(0.5)
        self.assertEqual(len([each for each in backend.connections if each() is not None]), 2)
        self.addCleanup(gc.enable)
        gc.disable()
        caller.core.close(CloseCode.OK, "", pipe.now)
        pipe.run(30.0)
        self.assertTrue(caller.closed and callee.closed)
        left = [each() for each in backend.connections]
        # One of qh3's is referred to by what it has made, but refers to nothing itself.
        self.assertEqual([vars(each) for each in left if each is not None and vars(each)], [])
        with contextlib.suppress(LinkError):
            caller.core.streams.open_stream("x")
        self.assertIsNone(caller.core.rtt)

    def test_a_link_that_only_quic_ends(self) -> None:
        """Memory is freed at once also if the other side sends no CLOSE frame, only CONNECTION_CLOSE."""
        backend = _Watching(self.backend)
        callee = self.make_callee(backend=backend)
        rogue, pipe = self.rogue(callee, prove=True)
        self.addCleanup(gc.enable)
        gc.disable()
        rogue.quic.close(APPLICATION_CODES, "")
        pipe.run(30.0)
        assert callee.closed is not None
        self.assertEqual((callee.closed.code, callee.closed.by_peer), (CloseCode.OK, True))
        streams = callee.core.streams
        self.assertRaises(LinkError, streams.send_datagram, b"x")
        self.assertRaises(LinkError, streams.send_control, 200, b"x")
        self.assertRaises(LinkError, streams.open_stream, "x")
        (left,) = [each() for each in backend.connections]
        self.assertFalse(left is not None and vars(left))


class AioquicMemoryTests(AioquicMixin, MemoryTests):
    __test__ = True


class AntiAmplificationTests(LinkTestCase):
    """aioquic pads its first datagram behind the packet, of which qh3 counts the packet alone."""

    def test_aioquic_calls_qh3(self) -> None:
        backend = AioquicMixin.backend
        if backend.name != "aioquic":
            self.skipTest("aioquic is not installed")
        caller, callee = self.make_caller(backend=backend), self.make_callee()
        pipe = Pipe(caller, callee)
        pipe.delay = 0.05
        caller.core.start(0.0)
        callee.core.start(0.0)
        self.assertTrue(pipe.run(5.0, lambda: caller.proved and callee.proved))
        self.assertLess(pipe.now, 0.5)

    def test_no_library_that_works(self) -> None:
        class Broken:
            name = "broken"

            def client(self, now: float) -> QuicConnection:
                raise QuicError("no")

            def server(self, certificate: Any, original_destination_connection_id: bytes) -> QuicConnection:
                raise QuicError("no")

        caller = self.make_caller(backend=Broken())
        caller.core.start(0.0)
        caller.take()
        assert caller.closed is not None
        self.assertEqual(caller.closed.code, CloseCode.INTERNAL)
        good, callee = self.make_caller(), CoreEnd(self.make_callee(backend=Broken()).core)
        good.core.start(0.0)
        callee.core.start(0.0)
        pipe = Pipe(good, callee)
        self.assertTrue(pipe.run(30.0, lambda: callee.closed is not None))
        self.assertIs(callee.of(type(callee.closed))[0].code, CloseCode.TIMEOUT)

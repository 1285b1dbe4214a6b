"""The small parts of a link: control frames, credits, names, the life of a link."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.link.control_stream import (
    APPLICATION_CODES,
    MAX_FRAME,
    ControlFrameReader,
    FrameAllowance,
    FrameError,
    clip_reason,
    decode_close,
    decode_credit,
    decode_slowed,
    encode_close,
    encode_credit,
    encode_frame,
    explain,
)
from punch.link.events import INITIAL_CREDIT, MAX_REASON, CloseCode, encode_name
from punch.link.streams import ReceiveWindow, SendBuffer, WindowBudget
from punch.wire.stun_attributes import RelayLimit


class FrameTests(SynchronousTestCase):
    def test_bytes(self) -> None:
        self.assertEqual(encode_frame(0x80, b"ab"), b"\x80\x00\x02ab")
        self.assertEqual(
            encode_credit(4, 65536), b"\x02\x00\x10" + bytes(7) + b"\x04" + bytes(5) + b"\x01\0\0"
        )
        self.assertEqual(encode_close(3, "né"), b"\x03\x00\x04\x03n\xc3\xa9")

    @given(
        st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=20),
        st.lists(st.integers(1, 50), min_size=1),
    )
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_any_pieces(self, frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
        data = b"".join(encode_frame(*frame) for frame in frames)
        reader, at, turn = ControlFrameReader(), 0, 0
        read: list[tuple[int, bytes]] = []
        while at < len(data):
            size = sizes[turn % len(sizes)]
            read += reader.feed(data[at : at + size])
            at, turn = at + size, turn + 1
        self.assertEqual(read, frames)

    def test_frames_before_a_bad_one_are_read(self) -> None:
        reader = ControlFrameReader()
        read = []
        with self.assertRaises(FrameError):
            for frame in reader.feed(encode_frame(1, b"x") + b"\x80\x40\x01"):
                read.append(frame)
        self.assertEqual(read, [(1, b"x")])
        self.assertEqual(
            list(ControlFrameReader().feed(encode_frame(1, bytes(MAX_FRAME)))), [(1, bytes(MAX_FRAME))]
        )

    def test_out_of_range(self) -> None:
        for frame_type, payload in ((-1, b""), (256, b""), (1, bytes(MAX_FRAME + 1))):
            with self.assertRaises(ValueError):
                encode_frame(frame_type, payload)

    @given(st.text(max_size=400))
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_reasons(self, reason: str) -> None:
        clipped = clip_reason(reason)
        self.assertLessEqual(len(clipped.encode()), MAX_REASON)
        self.assertTrue(reason.encode("utf-8", "replace").decode().startswith(clipped))
        self.assertEqual(decode_close(encode_close(0, reason)[3:]), (0, clipped))

    def test_slowed(self) -> None:
        """A rate that a newer version added is read as None; other lengths are errors."""
        self.assertEqual([decode_slowed(bytes([limit])) for limit in RelayLimit], list(RelayLimit))
        self.assertIsNone(decode_slowed(b"\x04"))
        for payload in (b"", b"\1\1"):
            self.assertRaises(FrameError, decode_slowed, payload)

    @given(st.binary(max_size=300))
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_any_payload(self, payload: bytes) -> None:
        for decode in (decode_close, decode_credit, decode_slowed):
            try:
                decode(payload)
            except FrameError:
                continue


class WindowTests(SynchronousTestCase):
    def test_doubles_while_it_is_the_limit(self) -> None:
        window = ReceiveWindow(WindowBudget(1 << 30), 4 << 20, 0.0)
        now, rtt = 0.0, 0.1
        for _ in range(20):
            now += rtt
            window.consumed = window.received = window.limit
            self.assertTrue(window.due)
            window.grant(now, rtt)
        self.assertEqual(window.window, 4 << 20)
        self.assertEqual(window.limit, window.consumed + window.window)

    def test_stays_while_the_reader_is_the_limit(self) -> None:
        window = ReceiveWindow(WindowBudget(1 << 30), 4 << 20, 0.0)
        for step in range(1, 20):
            window.consumed = window.received = window.limit
            window.grant(step * 1.0, 0.1)
        self.assertEqual(window.window, INITIAL_CREDIT)

    def test_due_at_half(self) -> None:
        window = ReceiveWindow(WindowBudget(0), 4 << 20, 0.0)
        window.consumed = INITIAL_CREDIT // 2 - 1
        self.assertFalse(window.due)
        window.consumed += 1
        self.assertTrue(window.due)
        window.grant(0.0, None)
        self.assertEqual(window.window, INITIAL_CREDIT)

    def test_exceeded(self) -> None:
        window = ReceiveWindow(WindowBudget(0), 4 << 20, 0.0)
        window.received = INITIAL_CREDIT
        self.assertFalse(window.exceeded)
        window.received += 1
        self.assertTrue(window.exceeded)


class AllowanceTests(SynchronousTestCase):
    def test_burst_then_rate(self) -> None:
        allowance = FrameAllowance(0.0)
        self.assertTrue(all(allowance.spend(0.0) for _ in range(4096)))
        self.assertFalse(allowance.spend(0.0))
        self.assertTrue(allowance.spend(1.0))

    def test_bytes_sent_allow_their_credits(self) -> None:
        """An honest receiver of one stream with the smallest window is never taken for a flood."""
        allowance, window, now = FrameAllowance(0.0), ReceiveWindow(WindowBudget(0), 0, 0.0), 0.0
        for _ in range(100_000):
            allowance.sent(1024)
            window.consumed = window.received = window.received + 1024
            if window.due:
                window.grant(now, 0.1)
                self.assertTrue(allowance.spend(now))


class OutgoingTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=100), max_size=20), st.lists(st.integers(1, 60), min_size=1))
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_takes_what_was_put(self, chunks: list[bytes], rooms: list[int]) -> None:
        out = SendBuffer()
        for chunk in filter(None, chunks):
            out.put(chunk)
        taken, turn = b"", 0
        while out.queued:
            piece = out.take(rooms[turn % len(rooms)])
            self.assertLessEqual(len(piece), rooms[turn % len(rooms)])
            taken, turn = taken + bytes(piece), turn + 1
        self.assertEqual(taken, b"".join(chunks))
        self.assertEqual(out.sent, len(taken))

    def test_names(self) -> None:
        self.assertEqual(encode_name("é"), b"\x02\xc3\xa9")
        for name in ("", "é" * 128):
            with self.assertRaises(ValueError):
                encode_name(name)


class ExplainTests(SynchronousTestCase):
    def test_codes(self) -> None:
        for code in CloseCode:
            self.assertEqual(explain(APPLICATION_CODES + code, True, "why"), (code, "why", True))
        self.assertEqual(explain(APPLICATION_CODES + 99, True, "why"), (CloseCode.OK, "why", True))
        for number, application, reason, expected in (
            (0x128, False, "no certificate", CloseCode.PROOF),
            (0x0C, False, "", CloseCode.REFUSED),
            (0x01, False, "Idle timeout", CloseCode.LOST),
            (0x0A, False, "", CloseCode.PROTOCOL),
            (7, True, "", CloseCode.PROTOCOL),
        ):
            self.assertEqual(explain(number, application, reason)[0], expected)

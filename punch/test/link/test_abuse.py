"""A peer that has proved who it is and then breaks the rules can only end the link."""

from __future__ import annotations

from typing import Any

from qh3.quic import tls_bridge
from qh3.quic.connection import QuicConnection as PlainLibrary
from qh3.quic.packet import push_quic_transport_parameters

from punch.link.control_stream import MAX_FRAME, ControlFrameType, encode_close, encode_credit, encode_frame
from punch.link.events import (
    INITIAL_CREDIT,
    CloseCode,
    ControlFrame,
    LinkLimits,
    StreamOpened,
    encode_name,
)
from punch.link.proof import LinkCertificate
from punch.link.quic.interface import MAX_STREAMS, QuicConnection, QuicStreamLimit
from punch.link.quic.qh3 import Qh3Backend, Qh3Connection
from punch.test.link.flooder import Flooder
from punch.test.link.link_pair import AioquicMixin, CoreEnd, LinkTestCase, Pipe, RogueCallee


class PlainBackend(Qh3Backend):
    """qh3 as it is, without the number of streams that links allow."""

    def server(
        self, certificate: LinkCertificate, original_destination_connection_id: bytes
    ) -> QuicConnection:
        configuration = self.configuration(False)
        configuration.load_cert_chain(certificate.certificate_pem(), certificate.private_key_pem())
        return Qh3Connection(
            PlainLibrary(
                configuration=configuration,
                original_destination_connection_id=original_destination_connection_id,
            )
        )


class AbuseTests(LinkTestCase):
    """A caller that has proved who it is, and then breaks the rules; and a callee that does."""

    too_many = "opens streams too fast"
    allowed = MAX_STREAMS

    def assert_ended(self, callee: CoreEnd, words: str) -> None:
        assert callee.closed is not None
        self.assertEqual((callee.closed.code, callee.closed.by_peer), (CloseCode.PROTOCOL, False))
        self.assertIn(words, callee.closed.reason)

    def control(self, data: bytes, words: str) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(0, data, False)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, words)
        pipe.run(1.0)
        assert rogue.refused is not None
        self.assertEqual(rogue.refused[0], CloseCode.PROTOCOL)
        self.assertIn(words, rogue.refused[1])

    def test_exceeds_its_credit(self) -> None:
        callee = self.make_callee()
        callee.reading = False
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(rogue.quic.open_stream(), encode_name("x") + bytes(INITIAL_CREDIT), False)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "more on a stream than it was allowed")

    def test_opens_too_many_streams(self) -> None:
        callee = self.make_callee(limits=LinkLimits(streams=8))
        rogue, pipe = self.rogue(callee, prove=True)
        for _ in range(9):
            rogue.quic.send(rogue.quic.open_stream(), encode_name("x"), False)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "more than 8 streams")

    def test_no_more_streams_than_the_limit_ever(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        most = LinkLimits().streams
        try:
            for _ in range(most + 50):
                rogue.quic.send(rogue.quic.open_stream(), encode_name("x"), False)
        except QuicStreamLimit:
            # qh3 keeps it from more.
            pipe.run(1.0)
            self.assertIsNone(callee.closed)
        pipe.run(1.0)
        self.assertLessEqual(len(callee.of(StreamOpened)), most)

    def test_more_streams_than_the_library_was_told(self) -> None:
        """One STREAM frame opens all streams with smaller numbers (RFC 9000, section 3.2)."""
        for number, ends in ((self.allowed, False), (self.allowed + 1, True), (10_000, True)):
            callee = self.make_callee()
            flooder = Flooder(callee, self.certificate, True)
            stream_id = (4 * (number - 1) | 0x80000000).to_bytes(4, "big")
            flooder.send([b"\x0a" + stream_id + b"\x02" + encode_name("x")])
            flooder.flood(iter([b"\x01"] * 16), 16)
            self.assertEqual(callee.closed is not None, ends, number)
            self.assertLessEqual(len(callee.core.streams.windows), 1)

    def test_a_name_that_never_ends(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        stream_id = rogue.quic.open_stream()
        rogue.quic.send(stream_id, b"\xff", False)
        begin = pipe.now
        for _ in range(30):
            rogue.quic.send(stream_id, b"x", False)
            if pipe.run(0.5, lambda: callee.closed is not None):
                break
        self.assert_ended(callee, "never said its name")
        self.assertApproximates(pipe.now - begin, 10.0, 0.1)

    def test_bad_names(self) -> None:
        for data, fin, words in (
            (b"\0", False, "no name"),
            (b"\x02\xff\xfe", False, "not UTF-8"),
            (b"\x05abc", True, "ended within its name"),
            (b"", True, "ended within its name"),
        ):
            callee = self.make_callee()
            rogue, pipe = self.rogue(callee, prove=True)
            rogue.quic.send(rogue.quic.open_stream(), data, fin)
            pipe.run(0.5)
            self.assert_ended(callee, words)
            self.assertEqual(callee.of(StreamOpened), [])

    def test_opens_and_resets_streams_without_end(self) -> None:
        """Also streams that end before their first byte arrives count as opened."""
        for first in (b"", encode_name("x")):
            callee = self.make_callee()
            rogue, pipe = self.rogue(callee, prove=True)
            pipe.delay = 0.002
            end = pipe.now + 10.0
            while callee.closed is None and pipe.now < end:
                for _ in range(100):
                    try:
                        stream_id = rogue.quic.open_stream()
                    except QuicStreamLimit:
                        break
                    rogue.quic.send(stream_id, first, False)
                    rogue.quic.reset(stream_id, 1)
                pipe.run(0.005)
            self.assert_ended(callee, self.too_many)

    def test_resets_of_one_way_streams(self) -> None:
        callee = self.make_callee()
        flooder = Flooder(callee, self.certificate, True)
        flooder.send([b"\x04\x02\x01\x00"])
        self.assert_ended(callee, "one-way stream")

    def test_one_way_stream(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(2, encode_name("x"), False)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "one-way stream")

    def test_ends_the_control_stream(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(0, b"", True)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "ended the control stream")

    def test_resets_the_control_stream(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.reset(0, 0)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "gave up the control stream")

    def test_unknown_frame(self) -> None:
        self.control(encode_frame(0x42, b"?"), "type 0x42 is unknown")

    def test_frame_too_long(self) -> None:
        self.control(b"\x80\xff\xff", "longer than 16,384 bytes")

    def test_malformed_credit(self) -> None:
        self.control(encode_frame(ControlFrameType.CREDIT, b"short"), "16 bytes")
        self.control(encode_frame(ControlFrameType.CREDIT, b"\xff" * 16), "out of range")

    def test_malformed_close(self) -> None:
        self.control(encode_frame(ControlFrameType.CLOSE, b""), "a code and at most")
        self.control(encode_frame(ControlFrameType.CLOSE, bytes(258)), "a code and at most")
        self.control(encode_frame(ControlFrameType.CLOSE, b"\0\xff"), "not UTF-8")

    def test_accepted_from_a_caller(self) -> None:
        self.control(encode_frame(ControlFrameType.ACCEPTED), "out of place")

    def test_credit_that_does_not_grow(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        stream_id = rogue.quic.open_stream()
        rogue.quic.send(stream_id, encode_name("x"), False)
        pipe.run(0.1)
        rogue.quic.send(0, encode_credit(stream_id, INITIAL_CREDIT), False)
        self.assertTrue(pipe.run(2.0, lambda: callee.closed is not None))
        self.assert_ended(callee, "did not grow")

    def test_flood_of_control_frames(self) -> None:
        self.control(encode_frame(0x80) * 6000, "too many of them")
        self.control(encode_credit(4096, 1 << 40) * 6000, "too many of them")

    def test_optional_frames_are_passed_on_and_mean_nothing(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(0, encode_frame(0x80, b"future") + encode_frame(0xFF, bytes(MAX_FRAME)), False)
        pipe.run(1.0)
        self.assertIsNone(callee.closed)
        self.assertEqual(callee.of(ControlFrame)[0], ControlFrame(0x80, b"future"))

    def test_a_newer_close_code(self) -> None:
        callee = self.make_callee()
        rogue, pipe = self.rogue(callee, prove=True)
        rogue.quic.send(0, encode_close(200, "for a reason of the future"), False)
        pipe.run(1.0)
        assert callee.closed is not None
        self.assertEqual(
            (callee.closed.code, callee.closed.reason), (CloseCode.OK, "for a reason of the future")
        )

    def test_a_callee_that_breaks_the_rules(self) -> None:
        caller = self.make_caller()
        rogue = RogueCallee(self.backend, self.certificate)
        pipe = Pipe(caller, rogue)
        caller.core.start(0.0)
        self.assertTrue(pipe.run(1.0, lambda: bool(rogue.streams.get(0))))
        rogue.quic.send(0, encode_frame(ControlFrameType.ACCEPTED) * 2, False)
        self.assertTrue(pipe.run(1.0, lambda: caller.closed is not None))
        self.assert_ended(caller, "ACCEPTED is out of place")

    def test_a_callee_that_allows_no_streams(self) -> None:
        """The caller can't prove itself without a stream: nothing is raised, and the link ends at once."""

        def without_streams(buffer: Any, parameters: Any) -> None:
            if parameters.original_destination_connection_id is not None:
                parameters.initial_max_streams_bidi = 0
            push_quic_transport_parameters(buffer, parameters)

        self.patch(tls_bridge, "push_quic_transport_parameters", without_streams)
        caller = self.make_caller()
        pipe = Pipe(caller, RogueCallee(PlainBackend(), self.certificate))
        caller.core.start(0.0)
        if not pipe.run(1.0, lambda: caller.closed is not None):
            # aioquic lets the stream wait, and the deadline of the proof ends it.
            self.assertEqual(self.backend.name, "aioquic")
            return
        self.assert_ended(caller, "allows no streams")

    def test_control_frames_of_the_layer_above(self) -> None:
        caller, callee, pipe = self.connect()
        caller.core.streams.send_control(ControlFrameType.CANDIDATES, b"sealed")
        callee.core.streams.send_control(ControlFrameType.RESTART, b"too")
        pipe.run(0.1)
        self.assertEqual(callee.of(ControlFrame), [ControlFrame(ControlFrameType.CANDIDATES, b"sealed")])
        self.assertEqual(caller.of(ControlFrame), [ControlFrame(ControlFrameType.RESTART, b"too")])
        for frame_type in (ControlFrameType.CREDIT, 0x42, 0x100):
            with self.assertRaises(ValueError):
                caller.core.streams.send_control(frame_type, b"")
        with self.assertRaises(ValueError):
            caller.core.streams.send_control(0x80, bytes(MAX_FRAME + 1))


class AioquicAbuseTests(AioquicMixin, AbuseTests):
    __test__ = True

    # As a caller, aioquic opens more streams than its other side allows.
    too_many = "Too many streams open"
    allowed = 128

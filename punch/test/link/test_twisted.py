"""The link as Twisted programs use it: streams as transports, timers, turns of the reactor."""

from __future__ import annotations

import gc
import weakref
from io import BytesIO
from typing import cast

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.protocol import Factory
from twisted.protocols.basic import FileSender, LineReceiver
from zope.interface.verify import verifyObject

from punch.link.control_stream import ControlFrameType
from punch.link.events import (
    FIRST_APPLICATION_CODE,
    INITIAL_CREDIT,
    CloseCode,
    LinkClosed,
    LinkClosedError,
    LinkError,
)
from punch.link.transport import LinkAddress, StreamAborted
from punch.test.link.link_pair import CALLEE, CALLER, open_stream
from punch.test.link.twisted_links import HalfCloser, Producer, RecordingProtocol, TwistedCase

MIB = 1024 * 1024


class TwistedTests(TwistedCase):
    def test_interfaces(self) -> None:
        self.secure()
        near, _ = self.open()
        for interface in (ITransport, IPushProducer, IConsumer):
            verifyObject(interface, near.transport)

    def test_addresses(self) -> None:
        self.secure()
        near, far = self.open()
        self.assertEqual(
            near.transport.getPeer(), LinkAddress(CALLEE.peer_id, near.transport.name, self.caller)
        )
        self.assertEqual(
            near.transport.getHost(), LinkAddress(CALLER.peer_id, near.transport.name, self.caller)
        )
        self.assertEqual(
            far.transport.getPeer(), LinkAddress(CALLER.peer_id, near.transport.name, self.caller)
        )
        self.assertEqual(str(far.transport.getPeer()), str(CALLER.peer_id))

    def test_proved(self) -> None:
        waiting = self.caller.when_proved()
        self.assertNoResult(waiting)
        with self.assertRaises(LinkError):
            open_stream(self.caller, "echo/1", RecordingProtocol())
        self.secure()
        self.successResultOf(waiting)
        self.assertTrue(self.caller.proved)
        rtt = self.caller.rtt
        assert rtt is not None
        self.assertApproximates(rtt, 0.02, 0.002)

    def test_echo_and_end(self) -> None:
        self.secure()
        near, far = self.open()
        near.transport.write(b"hello ")
        near.transport.writeSequence([b"wor", b"ld"])
        near.transport.loseConnection()
        near.transport.write(b"too late")
        self.advance(0.1)
        self.assertEqual(far.data, b"hello world")
        for protocol in (near, far):
            self.assertEqual(protocol.calls, ["made", "lost"])
            assert protocol.reason is not None
            protocol.reason.trap(ConnectionDone)
        self.assertEqual(self.caller.stream_count, 0)
        self.assertEqual(self.callee.stream_count, 0)

    def test_what_can_change_is_copied(self) -> None:
        self.secure()
        near, far = self.open()
        first, second, constant = bytearray(b"first "), bytearray(b"second "), b"third"
        near.transport.write(first)
        near.transport.write(memoryview(second))
        near.transport.write(memoryview(constant))
        first[:], second[:] = b"FIRST ", b"SECOND "
        self.advance(0.1)
        self.assertEqual(far.data, b"first second third")
        words = memoryview(bytes(range(8))).cast("H")
        near.transport.write(words)
        near.transport.write(memoryview(b"abcdef")[::2])
        self.advance(0.1)
        self.assertEqual(far.data[18:], bytes(range(8)) + b"ace")

    def test_a_protocol_of_twisteds_own(self) -> None:
        lines: list[bytes] = []

        class Lines(LineReceiver):
            def lineReceived(self, line: bytes) -> None:
                lines.append(line)
                if line == b"quit":
                    assert self.transport is not None
                    self.transport.loseConnection()

        self.services.serve("lines/1", Factory.forProtocol(Lines))
        self.secure()
        near = RecordingProtocol()
        open_stream(self.caller, "lines/1", near).write(b"one\r\ntwo\r\nquit\r\nnever\r\n")
        self.advance(0.1)
        self.assertEqual(lines, [b"one", b"two", b"quit"])
        self.assertEqual(near.calls, ["made", "lost"])

    def test_writes_of_one_turn_are_one_flush(self) -> None:
        self.secure()
        near, far = self.open()
        self.advance(1.0)
        before = self.flushes
        for _ in range(50):
            near.transport.write(b"x")
            self.caller.send_datagram(b"y")
        self.assertEqual(self.flushes, before)
        self.clock.advance(0)
        self.assertEqual(self.flushes, before + 1)
        self.advance(0.1)
        self.assertEqual(far.data, b"x" * 50)

    def test_only_bytes(self) -> None:
        self.secure()
        near, _ = self.open()
        with self.assertRaises(TypeError):
            near.transport.write("text")  # type: ignore[arg-type]

    def test_half_close(self) -> None:
        self.services.serve("half/1", self.accept(HalfCloser))
        self.secure()
        near = HalfCloser()
        transport = open_stream(self.caller, "half/1", near)
        transport.write(b"question")
        transport.loseWriteConnection()
        self.advance(0.1)
        far = self.accepted[-1]
        self.assertEqual(far.data, b"question")
        self.assertEqual(far.calls, ["made", "read lost"])
        self.assertEqual(near.calls, ["made", "write lost"])
        far.transport.write(b"answer")
        far.transport.loseConnection()
        self.advance(0.1)
        self.assertEqual(near.data, b"answer")
        self.assertEqual(near.calls, ["made", "write lost", "read lost", "lost"])
        self.assertEqual(far.calls, ["made", "read lost", "lost"])

    def test_abort(self) -> None:
        self.secure()
        near, far = self.open()
        near.transport.write(b"never sent")
        near.transport.abortConnection()
        self.assertEqual(near.calls, ["made"])
        self.advance(0.1)
        assert near.reason is not None
        assert far.reason is not None
        near.reason.trap(ConnectionAborted)
        far.reason.trap(ConnectionLost)
        self.assertIsNone(self.caller.closed)

    def test_all_is_delivered(self) -> None:
        """All that was written arrives, although the application that reads it is slow."""
        self.secure()
        near, far = self.open()
        far.transport.pauseProducing()
        near.transport.write(bytes(3 * MIB))
        near.transport.loseWriteConnection()
        delivered, given_up = self.caller.when_delivered(60.0), self.caller.when_delivered(0.5)
        self.advance(1.0)
        self.assertNoResult(delivered)
        self.assertFalse(self.successResultOf(given_up))
        far.transport.resumeProducing()
        while not delivered.called:
            self.advance(0.01)
        self.assertTrue(self.successResultOf(delivered))
        self.assertEqual(len(far.data) + far.transport.unread, 3 * MIB)
        near, far = self.open()
        near.transport.write(b"more")
        waiting = self.caller.when_delivered(60.0)
        self.caller.close()
        self.advance(0.1)
        self.assertFalse(self.successResultOf(waiting))
        self.assertFalse(self.successResultOf(self.caller.when_delivered(60.0)))

    def test_waits_that_timed_out_are_forgotten(self) -> None:
        """A busy link keeps no reference to a wait that has timed out."""
        self.secure()
        near, far = self.open()
        far.transport.pauseProducing()
        near.transport.write(bytes(3 * MIB))
        waits = [weakref.ref(self.caller.when_delivered(0.5)) for _ in range(3)]
        self.assertEqual([wait() is None for wait in waits], [False] * 3)
        self.advance(1.0)
        gc.collect()
        self.assertEqual([wait() is None for wait in waits], [True] * 3)

    def test_the_reason_of_an_abort(self) -> None:
        """The other side gets the code of an abort; codes below `FIRST_APPLICATION_CODE` are refused."""
        self.secure()
        near, far = self.open()
        for code in (4, 2**32):
            self.assertRaises(ValueError, near.transport.abort_with, code)
        near.transport.abort_with(FIRST_APPLICATION_CODE + 7)
        self.advance(0.1)
        assert near.reason is not None
        assert far.reason is not None
        near.reason.trap(ConnectionAborted)
        far.reason.trap(StreamAborted)
        self.assertEqual(cast(StreamAborted, far.reason.value).code, FIRST_APPLICATION_CODE + 7)

    def test_whether_the_other_side_answers(self) -> None:
        self.secure()
        self.advance(0.1)
        for link in self.links:
            asked = [link.answers(3.0), link.answers(3.0)]
            self.advance(0.05)
            self.assertEqual([self.successResultOf(answer) for answer in asked], [True, True])
        self.dead = True
        answer = self.caller.answers(3.0)
        self.clock.advance(2.9)
        self.assertNoResult(answer)
        self.clock.advance(0.2)
        self.assertIs(self.successResultOf(answer), False)
        waiting = self.caller.answers(3.0)
        self.caller.fail(CloseCode.LOST, "")
        self.advance(0.01)
        self.assertIs(self.successResultOf(waiting), False)
        self.assertIs(self.successResultOf(self.caller.answers(3.0)), False)

    def test_exceptions_end_only_their_stream(self) -> None:
        class FailsOnData(RecordingProtocol):
            def dataReceived(self, data: bytes) -> None:
                raise ZeroDivisionError("a fault of the application")

        class FailsWhenMade(RecordingProtocol):
            def connectionMade(self) -> None:
                raise ZeroDivisionError("a fault of the application")

        def refuse() -> RecordingProtocol:
            raise ZeroDivisionError("a fault of the application")

        def refuse_anything() -> None:
            raise ZeroDivisionError("a fault of the application")

        self.services.serve("fails-on-data/1", self.accept(FailsOnData))
        self.services.serve("fails-when-made/1", self.accept(FailsWhenMade))
        self.services.serve("refuse/1", Factory.forProtocol(refuse))
        self.callee.on_datagram = lambda data: refuse_anything()
        self.frame_error = ZeroDivisionError("a fault of the application")
        self.secure()
        ended = [RecordingProtocol() for _ in range(3)]
        for name, near in zip(("fails-on-data/1", "fails-when-made/1", "refuse/1"), ended, strict=True):
            open_stream(self.caller, name, near).write(b"x")
        self.caller.send_datagram(b"x")
        self.caller.send_control(ControlFrameType.CANDIDATES, b"x")
        self.advance(0.1)
        self.assertEqual([near.calls for near in ended], [["made", "lost"]] * 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 5)
        assert self.accepted[0].reason is not None
        self.accepted[0].reason.trap(ZeroDivisionError)
        near, far = self.open()
        near.transport.write(b"the link lives")
        self.advance(0.1)
        self.assertEqual(far.data, b"the link lives")

    def test_producer_is_paused_and_resumed(self) -> None:
        self.secure()
        near, far = self.open()
        producer = Producer(near.transport, self.bulk)
        near.transport.registerProducer(producer, True)
        producer.resumeProducing()
        near.transport.loseConnection()
        self.assertIn("pause", producer.calls)
        self.advance(3.0)
        self.assertEqual(len(far.data), self.bulk)
        self.assertEqual(near.calls, ["made", "lost"])
        self.assertNotIn("stop", producer.calls)

    def test_a_pull_producer_sends_all(self) -> None:
        """A pull producer is asked for more after each write while there is room, and not after its end."""
        self.secure()
        near, far = self.open()
        far.transport.pauseProducing()
        file = BytesIO(bytes(self.bulk))
        sent = FileSender().beginFileTransfer(file, near.transport)
        self.advance(1.0)
        self.assertNoResult(sent)
        self.assertLess(file.tell(), MIB)
        far.transport.resumeProducing()
        self.advance(3.0)
        self.successResultOf(sent)
        self.assertEqual(len(far.data), self.bulk)
        broken = FileSender().beginFileTransfer(BytesIO(bytes(self.bulk)), near.transport)
        near.transport.abortConnection()
        self.advance(0.1)
        self.failureResultOf(broken)

    bulk = 8 * MIB

    def test_a_paused_reader_bounds_memory(self) -> None:
        self.secure()
        near, far = self.open()
        transport = far.transport
        transport.pauseProducing()
        producer = Producer(near.transport, self.bulk)
        near.transport.registerProducer(producer, True)
        producer.resumeProducing()
        self.advance(3.0)
        self.assertEqual(far.data, b"")
        self.assertLessEqual(transport.unread, INITIAL_CREDIT)
        self.assertLessEqual(self.caller.core.streams.queued(4), 64 * 1024 + 16384)
        self.assertTrue(producer.paused)
        transport.resumeProducing()
        self.advance(3.0)
        self.assertEqual(len(far.data), self.bulk)

    def test_pause_within_data_received(self) -> None:
        class Pauser(RecordingProtocol):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                self.transport.pauseProducing()

        self.services.serve("pauser/1", self.accept(Pauser))
        self.secure()
        transport = open_stream(self.caller, "pauser/1", RecordingProtocol())
        transport.write(b"one")
        self.advance(0.05)
        transport.write(b"two")
        transport.loseConnection()
        self.advance(0.1)
        far = self.accepted[-1]
        self.assertEqual((far.data, far.calls), (b"one", ["made"]))
        far.transport.resumeProducing()
        self.advance(0.1)
        self.assertEqual((far.data, far.calls), (b"onetwo", ["made"]))
        far.transport.resumeProducing()
        self.advance(0.1)
        self.assertEqual(far.calls, ["made", "lost"])

    def test_producers(self) -> None:
        self.secure()
        near, _ = self.open()
        transport = near.transport
        producer = Producer(transport, 0)
        transport.registerProducer(producer, True)
        with self.assertRaises(RuntimeError):
            transport.registerProducer(producer, True)
        transport.abortConnection()
        self.advance(0.1)
        self.assertEqual(producer.calls, ["stop"])
        late = Producer(transport, 0)
        transport.registerProducer(late, True)
        self.assertEqual(late.calls, ["stop"])

    def test_lose_connection_while_the_other_side_sends(self) -> None:
        """After `loseConnection`, data of the other side counts as read, so that both directions end."""
        self.secure()
        near, far = self.open()
        far.transport.write(bytes(200_000))
        near.transport.loseConnection()
        self.advance(0.5)
        self.assertEqual((near.calls, far.calls), (["made", "lost"], ["made", "lost"]))

    def test_a_link_that_is_closed_in_order_ends_no_stream(self) -> None:
        """Half-closed streams, and streams whose end was not read, are lost, not ended in good order."""
        for index in range(4):
            self.make_world()
            self.secure()
            self.services.serve("half/1", self.accept(HalfCloser))
            near = HalfCloser()
            open_stream(self.caller, "half/1", near)
            self.advance(0.05)
            far = self.accepted[-1]
            near.transport.write(b"half of it")
            if index in (1, 3):
                near.transport.loseWriteConnection()
            if index == 2:
                far.transport.loseWriteConnection()
            if index == 3:
                near.transport.pauseProducing()
                far.transport.write(b"not read")
                far.transport.loseWriteConnection()
            self.advance(0.1)
            self.assertEqual(far.data, b"half of it")
            self.callee.close()
            self.advance(0.1)
            assert near.reason is not None
            near.reason.trap(ConnectionLost)
            assert far.reason is not None
            # Whose both directions have ended, and who has read all, has lost nothing
            far.reason.trap(ConnectionDone if index == 3 else ConnectionLost)

    def test_close_reaches_streams_and_waiters(self) -> None:
        for code in (CloseCode.OK, CloseCode.SHUTDOWN):
            self.make_world()
            self.secure()
            near, far = self.open()
            here, there = self.caller.when_closed(), self.callee.when_closed()
            self.callee.close(code, "for today")
            self.advance(0.1)
            self.assertEqual(self.successResultOf(there), LinkClosed(code, "for today", False))
            self.assertEqual(self.successResultOf(here), LinkClosed(code, "for today", True))
            self.assertEqual(self.successResultOf(self.caller.when_closed()).code, code)
            for protocol in (near, far):
                assert protocol.reason is not None
                protocol.reason.trap(ConnectionLost)
            self.assertEqual(near.calls, ["made", "lost"])
            self.advance(10.0)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_proved(self) -> None:
        self.dead = True
        self.caller.start()
        waiting = self.caller.when_proved()
        self.advance(21.0)
        failure = self.failureResultOf(waiting, LinkClosedError)
        self.assertEqual(failure.value.closed.code, CloseCode.TIMEOUT)
        self.failureResultOf(self.caller.when_proved(), LinkClosedError)
        self.assertIn("in time", str(failure.value))

    def test_closing_without_a_path(self) -> None:
        self.secure()
        self.dead = True
        done = self.caller.when_closed()
        self.caller.close(CloseCode.OK, "bye")
        self.advance(0.9)
        self.assertNoResult(done)
        self.advance(0.2)
        self.assertEqual(self.successResultOf(done).reason, "bye")

    def test_path_changed_pings_at_once(self) -> None:
        self.secure()
        near, far = self.open()
        self.dead = True
        near.transport.write(b"into the dark")
        self.advance(30.0)
        self.dead = False
        self.caller.path_changed()
        self.callee.path_changed()
        self.advance(0.1)
        self.assertEqual(far.data, b"into the dark")

    def test_datagrams_and_control_frames(self) -> None:
        datagrams: list[bytes] = []
        self.callee.on_datagram = datagrams.append
        self.secure()
        self.caller.send_datagram(b"unreliable")
        self.caller.send_control(ControlFrameType.RESTART, b"sealed")
        self.advance(0.1)
        self.assertEqual(datagrams, [b"unreliable"])
        self.assertEqual(self.frames, [(ControlFrameType.RESTART, b"sealed")])

    def test_connection_ids(self) -> None:
        self.secure()
        self.assertEqual(self.routes, self.callee.core.connection_ids)
        self.assertTrue(self.routes)

    def test_no_turns_without_cause(self) -> None:
        """A link that is held and silent sleeps: no timer but the one a week from now."""
        self.secure()
        self.caller.hold()
        self.advance(5.0)
        for link in self.links:
            timer = link.core.get_timer()
            assert timer is not None
            self.assertGreater(timer, 6 * 86400)
        before = self.flushes
        self.advance(60.0)
        self.assertEqual(self.flushes, before)

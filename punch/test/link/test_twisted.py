"""The link as Twisted programs use it: streams as transports, timers, turns of the reactor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from punch.link.events import INITIAL_CREDIT, CloseCode, LinkError, RefusalCode, ServiceRefused
from punch.link.frames import ControlFrameType
from punch.link.link import IDLE_TIME, SERVICE_WAIT, Link, LinkClosed, LinkClosedError
from punch.link.services import Services
from punch.link.transport import LinkAddress, StreamTransport
from punch.test.link_pair import CALLEE, CALLER, AioquicMixin, LinkTestCase, open_stream

MIB = 1024 * 1024


class RecordingProtocol(Protocol):
    """Remembers what happens to it."""

    transport: StreamTransport

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self.reason: Failure | None = None

    def connectionMade(self) -> None:
        self.calls.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = ConnectionDone) -> None:  # type: ignore[assignment]
        self.calls.append("lost")
        self.reason = reason


def only(protocol: RecordingProtocol) -> Factory:
    """Builds this protocol."""
    return Factory.forProtocol(lambda: protocol)


class NoProtocol(Factory):
    """Builds nothing, as factories that allow no more connections do."""

    def buildProtocol(self, addr: object) -> None:
        return None


@implementer(IHalfCloseableProtocol)
class HalfCloser(RecordingProtocol):
    def readConnectionLost(self) -> None:
        self.calls.append("read lost")

    def writeConnectionLost(self) -> None:
        self.calls.append("write lost")


@implementer(IPushProducer)
class Producer:
    """Writes 16 KiB at a time whenever it may."""

    def __init__(self, consumer: Any, size: int) -> None:
        self.consumer = consumer
        self.left = size
        self.paused = False
        self.calls: list[str] = []

    def resumeProducing(self) -> None:
        self.calls.append("resume")
        self.paused = False
        while self.left and not self.paused:
            self.left -= 16384
            self.consumer.write(bytes(16384))
        if not self.left:
            self.consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        self.calls.append("pause")
        self.paused = True

    def stopProducing(self) -> None:
        self.calls.append("stop")


class TwistedTests(LinkTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.delay = 0.01
        self.dead = False
        self.flushes = 0
        self.services = Services()
        self.caller, self.callee = (
            Link(
                core,
                clock=self.clock,
                monotonic=self.clock.seconds,
                send=self.wire(index),
                services=(Services(), self.services)[index],
            )
            for index, core in enumerate((self.make_caller().core, self.make_callee().core))
        )
        self.links = (self.caller, self.callee)
        self.accepted: list[RecordingProtocol] = []
        self.services.serve("echo/1", self.accept(RecordingProtocol))

    def wire(self, index: int) -> Callable[[Sequence[bytes]], None]:
        def send(datagrams: Sequence[bytes]) -> None:
            self.flushes += 1
            if not self.dead:
                self.clock.callLater(self.delay, lambda: self.links[1 - index].receive(datagrams))

        return send

    def accept(self, kind: Callable[[], RecordingProtocol]) -> Factory:
        def build() -> RecordingProtocol:
            self.accepted.append(kind())
            return self.accepted[-1]

        return Factory.forProtocol(build)

    def advance(self, seconds: float) -> None:
        self.clock.pump([0.001] * int(seconds * 1000))

    def secure(self) -> None:
        self.caller.start()
        self.callee.start()
        self.advance(0.1)
        self.successResultOf(self.caller.when_proved())
        self.successResultOf(self.callee.when_proved())

    def open(self, protocol: RecordingProtocol | None = None) -> tuple[RecordingProtocol, RecordingProtocol]:
        """A stream between two recorders."""
        near = RecordingProtocol() if protocol is None else protocol
        open_stream(self.caller, "echo/1", near)
        self.advance(0.05)
        return near, self.accepted[-1]

    def test_interfaces(self) -> None:
        self.secure()
        near, _ = self.open()
        for interface in (ITransport, IPushProducer, IConsumer):
            verifyObject(interface, near.transport)

    def test_addresses(self) -> None:
        self.secure()
        near, far = self.open()
        self.assertEqual(near.transport.getPeer(), LinkAddress(CALLEE.peer_id, self.caller))
        self.assertEqual(near.transport.getHost(), LinkAddress(CALLER.peer_id, self.caller))
        self.assertEqual(far.transport.getPeer(), LinkAddress(CALLER.peer_id, self.caller))
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

    def test_unknown_name_is_reset(self) -> None:
        self.secure()
        near = RecordingProtocol()
        open_stream(self.caller, "nobody/1", near)
        self.advance(0.1)
        self.assertEqual(near.calls, ["made"])
        self.advance(0.5)
        self.assertEqual(near.calls, ["made", "lost"])
        assert near.reason is not None
        near.reason.trap(ServiceRefused)
        self.open()

    def test_refused_services(self) -> None:
        """Each refusal has its own code, and comes within a round trip."""
        self.services.serve("private/1", self.accept(RecordingProtocol), lambda peer: peer != CALLER.peer_id)
        self.services.serve("closed/1", NoProtocol())
        self.secure()
        self.advance(SERVICE_WAIT)
        for name, code in (
            ("nobody/1", RefusalCode.NO_SERVICE),
            ("private/1", RefusalCode.NOT_ALLOWED),
            ("closed/1", RefusalCode.NOT_ALLOWED),
        ):
            near = RecordingProtocol()
            opening = self.caller.connect(name, only(near))
            near.transport.write(b"early")
            self.advance(2 * self.delay + 0.002)
            refused = self.failureResultOf(opening, ServiceRefused).value
            self.assertEqual((refused.service, refused.code), (name, code))
            self.assertEqual(near.calls, ["made", "lost"])
            assert near.reason is not None
            self.assertIs(near.reason.value, refused)
        self.assertEqual(self.accepted, [])
        self.assertIsNone(self.caller.closed)

    def test_a_service_accepts(self) -> None:
        """A service that says nothing is known to have accepted one round trip later."""
        self.secure()
        for link in self.links:
            near = RecordingProtocol()
            if link is self.callee:
                self.services.serve("echo/2", self.accept(RecordingProtocol))
            opening = self.caller.connect("echo/1", only(near))
            near.transport.write(b"at once")
            self.advance(self.delay + 0.002)
            self.assertEqual(self.accepted[-1].data, b"at once")
            self.assertNoResult(opening)
            self.advance(self.delay)
            self.assertIs(self.successResultOf(opening), near)

    def test_early_streams_wait_for_their_service(self) -> None:
        self.secure()
        near = RecordingProtocol()
        opening = self.caller.connect("late/1", only(near))
        near.transport.write(b"x" * 2 * INITIAL_CREDIT)
        self.advance(0.2)
        self.assertNoResult(opening)
        stop = self.services.serve("late/1", self.accept(RecordingProtocol))
        self.advance(0.1)
        self.assertIs(self.successResultOf(opening), near)
        self.assertEqual(len(self.accepted[-1].data), 2 * INITIAL_CREDIT)
        with self.assertRaises(ValueError):
            self.services.serve("late/1", self.accept(RecordingProtocol))
        stop()
        self.advance(0.5)
        again = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        self.advance(0.05)
        self.failureResultOf(again, ServiceRefused)
        near.transport.write(b"goes on")
        self.advance(0.05)
        self.assertTrue(self.accepted[-1].data.endswith(b"goes on"))

    def test_opening_ends_otherwise(self) -> None:
        """The opener gives up, the link is over, or the factory has nothing to connect."""
        self.failureResultOf(self.caller.connect("echo/1", Factory.forProtocol(RecordingProtocol)), LinkError)
        self.secure()
        cancelled = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        cancelled.cancel()
        self.advance(0.01)
        self.failureResultOf(cancelled)
        self.failureResultOf(self.caller.connect("echo/1", NoProtocol()), LinkError)
        cut = self.caller.connect("late/1", Factory.forProtocol(RecordingProtocol))
        self.advance(0.05)
        self.callee.close()
        self.advance(0.1)
        self.failureResultOf(cut, ConnectionDone)

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds * 20))

    def test_an_idle_link_is_closed(self) -> None:
        self.secure()
        near, _ = self.open()
        self.pass_time(2 * IDLE_TIME)
        self.assertIsNone(self.caller.closed)
        near.transport.loseConnection()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertIsNone(self.callee.closed)
        near, _ = self.open()
        near.transport.loseConnection()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertIsNone(self.callee.closed)
        self.pass_time(3.0)
        for link in self.links:
            assert link.closed is not None
            self.assertIs(link.closed.code, CloseCode.OK)

    def test_leases(self) -> None:
        """A lease of either side keeps the link open for both."""
        before = self.callee.hold()
        self.secure()
        lease = self.caller.hold()
        self.pass_time(2 * IDLE_TIME)
        before.release()
        self.pass_time(2 * IDLE_TIME)
        lease.release()
        again = self.caller.hold()
        lease.release()
        self.pass_time(2 * IDLE_TIME)
        self.assertEqual([link.closed for link in self.links], [None, None])
        again.release()
        self.pass_time(IDLE_TIME - 1.0)
        self.assertEqual([link.closed for link in self.links], [None, None])
        self.pass_time(3.0)
        self.assertNotIn(None, [link.closed for link in self.links])
        self.caller.hold().release()

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
        self.callee.on_control = lambda frame_type, payload: refuse_anything()
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
        self.assertLessEqual(self.caller.core.queued(4), 64 * 1024 + 16384)
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
        with self.assertRaises(RuntimeError):
            transport.registerProducer(producer, False)
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

    def test_close_reaches_streams_and_waiters(self) -> None:
        for code, error in ((CloseCode.OK, ConnectionDone), (CloseCode.SHUTDOWN, ConnectionLost)):
            self.setUp()
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
                protocol.reason.trap(error)
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
        frames: list[tuple[int, bytes]] = []
        self.callee.on_datagram = datagrams.append
        self.callee.on_control = lambda frame_type, payload: frames.append((frame_type, payload))
        self.secure()
        self.caller.send_datagram(b"unreliable")
        self.caller.send_control(ControlFrameType.RESTART, b"sealed")
        self.advance(0.1)
        self.assertEqual(datagrams, [b"unreliable"])
        self.assertEqual(frames, [(ControlFrameType.RESTART, b"sealed")])

    def test_connection_ids(self) -> None:
        routes: set[bytes] = set()
        self.callee.on_connection_id = lambda connection_id, added: (
            routes.add(connection_id) if added else routes.discard(connection_id)
        )
        self.secure()
        self.assertEqual(routes, self.callee.core.connection_ids)
        self.assertTrue(routes)

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


class AioquicTwistedTests(AioquicMixin, TwistedTests):
    __test__ = True
    bulk = MIB // 2

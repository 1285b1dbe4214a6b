"""Pipes between two nodes on the simulated internet: how they meet, and how they end."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from punch.apps.forward.messages import HELLO, SERVICE, PipeError, encode_end, encode_piece, encode_status
from punch.apps.forward.pipe import (
    CLOSE_TIME,
    LATE_RETRY,
    RETRY,
    Meeting,
    OtherSideFailed,
    OutputLost,
    Pipe,
    ServicePipe,
)
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.test.link.twisted_links import HalfCloser
from punch.test.local.test_local import LocalTestCase, Recorders


class Local:
    """The input and output of a program."""

    def __init__(self) -> None:
        self.output = b""
        self.paused = False
        self.stuck: Deferred[None] | None = None
        self.ended = False

    def write(self, data: bytes) -> None:
        self.output += data

    def written(self) -> Deferred[None]:
        return succeed(None) if self.stuck is None else self.stuck

    def end_output(self) -> Deferred[None]:
        self.ended = True
        return succeed(None) if self.stuck is None else self.stuck

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class PipeTestCase(LocalTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.books["alice"].add(self.bob_id, "bob")
        self.told: list[str] = []

    def meet(self, name: str, node: NodeAccess | None = None) -> Deferred[Pipe]:
        def waits(error: CommandError) -> bool:
            self.told.append(error.reason)
            return error.reason in ("no-service", "not-allowed", "not-registered")

        peer = self.bob_id if name == "alice" else self.alice_id
        meeting = Meeting(node or self.owned[name], peer, self.hosts[name].reactor, waits)
        return Deferred.fromCoroutine(meeting.meet())

    def pair(self) -> tuple[Pipe, Local, Pipe, Local]:
        meeting = [self.meet(name) for name in ("alice", "bob")]
        return self.joined(meeting)

    def joined(self, meeting: list[Deferred[Pipe]]) -> tuple[Pipe, Local, Pipe, Local]:
        self.run_until(lambda: all(each.called for each in meeting), 20.0)
        pipes = [self.successResultOf(each) for each in meeting]
        locals_ = [Local(), Local()]
        for pipe, local in zip(pipes, locals_, strict=True):
            pipe.joined.start(local)
        return pipes[0], locals_[0], pipes[1], locals_[1]

    def carries(self, near: Pipe, at_near: Local, far: Pipe, at_far: Local) -> None:
        near.input_received(b"question")
        near.input_ended()
        self.run_until(lambda: at_far.ended, 2.0)
        far.input_received(b"answer")
        far.input_ended()
        self.run_until(lambda: near.joined.finished.called and far.joined.finished.called, 2.0)
        self.assertEqual((at_far.output, at_near.output, at_near.ended), (b"question", b"answer", True))
        for pipe in (near, far):
            self.assertIsNone(self.successResultOf(pipe.joined.finished))


class MeetingTests(PipeTestCase):
    def test_one_after_the_other(self) -> None:
        """Whoever is first waits, and the other finds it."""
        first = self.meet("bob")
        self.net.advance(5.0)
        self.assertEqual(self.told, ["no-service"])
        self.carries(*self.joined([self.meet("alice"), first]))

    def test_both_at_the_same_time(self) -> None:
        """One stream of two is left, between nodes as between programs that are attached to them."""
        self.carries(*self.pair())
        attached = {name: self.attach(name) for name in ("alice", "bob")}
        self.carries(*self.joined([self.meet(name, attached[name]) for name in attached]))
        self.carries(*self.joined([self.meet("alice", attached["alice"]), self.meet("bob")]))

    def test_another_peer(self) -> None:
        """Bob pipes with somebody else, so alice waits, and finds him later."""
        end = self.net.wait(
            self.owned["bob"].serve(SERVICE, Recorders(), Allow(frozenset([self.bob_id]))), 2.0, "serving"
        )
        waiting = self.meet("alice")
        self.run_until(lambda: self.told == ["not-allowed"], 20.0)
        end()
        self.carries(*self.joined([waiting, self.meet("bob")]))

    def test_both_have_tried_and_wait(self) -> None:
        """Bob is there, and does not ask again; he is found nevertheless."""
        waiting = self.meet("alice")
        self.run_until(lambda: self.told == ["no-service"], 20.0)
        reactor = self.hosts["bob"].reactor
        bob = Factory.forProtocol(lambda: Pipe(reactor))
        self.net.wait(self.owned["bob"].serve(SERVICE, bob, Allow(anyone=True)), 2.0, "serving")
        self.net.wait(waiting, LATE_RETRY + 5.0, "the pipe")

    def test_what_is_not_waited_for(self) -> None:
        self.net.wait(self.owned["alice"].serve(SERVICE, Recorders(), Allow(anyone=True)), 2.0, "serving")
        self.assertEqual(self.refused(self.meet("alice")).reason, "service-taken")

    def test_no_pipe(self) -> None:
        """What answers does not greet: it is tried again."""
        served = Recorders()
        self.net.wait(self.owned["bob"].serve(SERVICE, served, Allow(anyone=True)), 2.0, "serving")
        self.meet("alice")
        self.run_until(lambda: bool(served.built), 20.0)
        served.built[0].transport.write(b"who is there?")
        self.run_until(lambda: len(served.built) == 2, 2 * RETRY)


class EndTests(PipeTestCase):
    def test_an_output_that_nobody_reads(self) -> None:
        near, _, far, _ = self.pair()
        near.input_received(bytes(100_000))
        far.output_lost()
        self.run_until(lambda: near.joined.finished.called and far.joined.finished.called, 2.0)
        self.failureResultOf(far.joined.finished, OutputLost)
        failure = self.failureResultOf(near.joined.finished, OtherSideFailed)
        self.assertEqual(failure.value.status, 1)

    def test_a_lost_stream(self) -> None:
        near, at_near, far, _ = self.pair()
        near.input_ended()
        far.transport.abortConnection()
        self.run_until(lambda: near.joined.finished.called, 2.0)
        self.failureResultOf(near.joined.finished, ConnectionLost)
        self.failureResultOf(far.joined.finished, ConnectionAborted)
        self.assertFalse(at_near.ended)

    def test_an_output_that_takes_nothing(self) -> None:
        """The other side's input is paused, and goes on later; the pipe does not end before it has all."""
        near, at_near, far, at_far = self.pair()
        at_far.stuck = Deferred()
        far.input_ended()
        sent = 0
        while not at_near.paused:
            near.input_received(bytes(65_536))
            sent += 65_536
            self.net.advance(0.05)
            self.assertLess(sent, 20 << 20)
        near.input_ended()
        self.net.advance(2.0)
        self.assertLess(len(at_far.output), sent)
        self.assertNoResult(near.joined.finished)
        stuck, at_far.stuck = at_far.stuck, None
        stuck.callback(None)
        self.run_until(lambda: near.joined.finished.called and far.joined.finished.called, 20.0)
        self.assertEqual(len(at_far.output), sent)
        self.assertIsNone(self.successResultOf(near.joined.finished))

    def test_bad_messages(self) -> None:
        """Each ends the pipe with a status for the other side, which does not answer it."""
        for said in (b"\x00\x02\x00\x00", encode_end() + b"".join(encode_piece(b"a")), encode_status(0)):
            served = Recorders()
            end = self.net.wait(self.owned["bob"].serve(SERVICE, served, Allow(anyone=True)), 2.0, "serving")
            meeting = self.meet("alice")
            self.run_until(lambda: bool(served.built), 20.0)  # noqa: B023
            other = served.built[0]
            other.transport.write(HELLO)
            pipe = self.net.wait(meeting, 2.0, "the pipe")
            pipe.joined.start(Local())
            other.transport.write(said)
            self.run_until(lambda: bytes(other.data) == HELLO + encode_status(1), 2.0)  # noqa: B023
            self.run_until(lambda: pipe.joined.finished.called, CLOSE_TIME + 1)  # noqa: B023
            self.failureResultOf(pipe.joined.finished, PipeError)
            end()


class ServicePipeCase(PipeTestCase):
    """A pipe to a service."""

    def pipe(self, node: NodeAccess | None = None) -> tuple[ServicePipe, Local, HalfCloser]:
        served = Recorders()
        self.net.wait(self.owned["bob"].serve("any/1", served, Allow(anyone=True)), 2.0, "serving")
        pipe = ServicePipe()
        node = self.owned["alice"] if node is None else node
        opening = node.open(self.bob_id, "any/1", Factory.forProtocol(lambda: pipe))
        self.net.wait(opening, 20.0, "a stream")
        pipe.joined.start(local := Local())
        return pipe, local, served.built[0]

    def ended_first(self, node: NodeAccess) -> HalfCloser:
        pipe, _, service = self.pipe(node)
        service.transport.loseWriteConnection()
        self.net.advance(0.5)
        pipe.input_received(bytes(2 << 20))
        pipe.input_ended()
        self.run_until(lambda: pipe.joined.finished.called, 5.0)
        self.assertLess(len(service.data), 2 << 20)
        delivered = node.when_delivered(self.bob_id)
        self.assertNoResult(delivered)
        self.assertTrue(self.net.wait(delivered, 20.0, "delivery"))
        return service


class ServicePipeTests(ServicePipeCase):
    def test_an_end_and_an_answer(self) -> None:
        pipe, local, service = self.pipe()
        pipe.input_received(b"question")
        pipe.input_ended()
        self.run_until(lambda: "read lost" in service.calls, 2.0)
        service.transport.write(b"answer")
        service.transport.loseConnection()
        self.run_until(lambda: pipe.joined.finished.called, 2.0)
        self.assertEqual((bytes(service.data), local.output, local.ended), (b"question", b"answer", True))
        self.assertIsNone(self.successResultOf(pipe.joined.finished))

    def test_a_service_that_ends_first(self) -> None:
        """It has all when the process of the pipe may end, although it ended its own direction before."""
        service = self.ended_first(self.owned["alice"])
        self.assertEqual(len(service.data), 2 << 20)
        self.assertTrue(
            self.net.wait(self.attach("alice").when_delivered(self.bob_id), 2.0, "nothing to wait for")
        )

    def test_the_output_is_lost_while_it_ends(self) -> None:
        pipe, local, service = self.pipe()
        local.stuck = Deferred()
        pipe.input_ended()
        service.transport.loseConnection()
        self.net.advance(1.0)
        self.assertNoResult(pipe.joined.finished)
        pipe.output_lost()
        self.failureResultOf(pipe.joined.finished, OutputLost)

    def test_a_link_that_is_closed_in_order(self) -> None:
        """It is no end of what the service sends."""
        pipe, _, service = self.pipe()
        service.transport.write(b"half of it")
        self.net.advance(0.5)
        self.bob.hangup(self.alice_id)
        self.run_until(lambda: pipe.joined.finished.called, 2.0)
        self.assertIsInstance(self.failureResultOf(pipe.joined.finished), Failure)

"""Programs that speak the lines of a node's socket, as docs/json.md describes them."""

from __future__ import annotations

import json
import resource
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import Identity
from punch.link.events import ServiceRefused
from punch.link.services import anyone
from punch.link.transport import PunchAddress
from punch.local import connection
from punch.local.access import MAX_REPORTED, Allow, TransferReport
from punch.local.own import OwnNode
from punch.local.protocol import MAX_LINE, Abort, Mark, StreamFrameReader, frames
from punch.local.server import MAX_CONNECTIONS, LocalServer, most_connections
from punch.test.link.twisted_links import HalfCloser
from punch.test.local.test_local import Lines, LocalTestCase, Recorders
from punch.ui.text.answers import lines


class UnreadTransport:
    """The transport of a program that does not read: each write pauses its producer, as Twisted's do."""

    def __init__(self) -> None:
        self.unread = 0
        self.aborted = False
        self._producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def write(self, data: bytes) -> None:
        self.unread += len(data)
        if self.unread > 65_536:
            self._producer.pauseProducing()

    def pauseProducing(self) -> None:
        """Nothing to do: nothing is sent to it."""

    def getHandle(self) -> None:
        """There is none."""

    def abortConnection(self) -> None:
        self.aborted = True


class StillWaiting:
    """A stream that waits to be accepted."""

    def __init__(self, address: PunchAddress) -> None:
        self.address = address

    def refuse(self) -> None:
        """Nothing to do: it has no peer."""


class SocketTests(LocalTestCase):
    """Lines, as docs/json.md describes them."""

    def test_a_connection_becomes_a_stream(self) -> None:
        """Without frames, as any program can do it: what follows the command is in the stream at once."""
        self.bob.serve("echo/1", served := Recorders(), anyone)
        program = self.program("alice")
        self.assertEqual(program.events[0]["event"], "ready")
        program.say({"command": "open", "peer": str(self.bob_id), "service": "echo/1", "request": "r"})
        assert program.transport is not None
        program.transport.write(b"question")
        self.run_until(lambda: bool(served.built and served.built[0].data == b"question"), 20.0)
        self.assertEqual(served.addresses, [PunchAddress(self.alice_id, "echo/1")])
        served.built[0].transport.write(b"answer")
        served.built[0].transport.loseConnection()
        self.run_until(lambda: program.over, 5.0)
        _, result, raw = program.received.split(b"\n")
        fields = json.loads(result)
        self.assertEqual((fields["event"], fields["request"], fields["service"]), ("result", "r", "echo/1"))
        self.assertEqual(raw, b"answer")

    def test_a_service_of_lines(self) -> None:
        server = self.program("bob")
        server.say({"command": "serve", "service": "mine/1", "allow": [str(self.alice_id)]})
        self.run_until(lambda: len(server.events) == 2, 2.0)
        link = self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        opened = [link.connect("mine/1", Factory.forProtocol(HalfCloser)) for _ in range(2)]
        self.run_until(lambda: len(server.events) == 4, 5.0)
        self.assertEqual([event["stream"] for event in server.events[2:]], [1, 2])
        taker = self.program("bob")
        taker.say({"command": "accept-stream", "stream": 1})
        assert taker.transport is not None
        taker.transport.write(b"hello")
        server.say({"command": "refuse-stream", "stream": 2})
        first, second = (cast(HalfCloser, self.successResultOf(each)) for each in opened)
        self.run_until(lambda: bool(first.data and second.reason), 5.0)
        self.assertEqual(bytes(first.data), b"hello")
        server.say({"command": "accept-stream", "stream": 2})
        self.run_until(lambda: len(server.events) == 6, 2.0)
        self.assertEqual([server.events[4]["event"], server.events[5]["event"]], ["result", "error"])

    def test_nobody_accepts(self) -> None:
        server = self.program("bob")
        server.say({"command": "serve", "service": "mine/1", "allow": "anyone"})
        link = self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        stream = cast(HalfCloser, self.net.wait(link.connect("mine/1", Factory.forProtocol(HalfCloser)), 5.0))
        self.net.advance(connection.ACCEPT_TIME + 1.0)
        assert stream.reason is not None
        self.assertEqual(self.servers["bob"].waiting, {})

    def test_status(self) -> None:
        self.net.wait(self.attach("alice").serve("mine/1", Recorders(), Allow()), 2.0, "serving")
        program = self.program("alice")
        program.say({"command": "connect", "peer": str(self.bob_id)}, {"command": "status", "request": 7})
        self.run_until(lambda: len(program.events) == 3, 20.0)
        answers = {event["command"]: event for event in program.events[1:]}
        self.assertEqual(answers["connect"]["peer"], str(self.bob_id))
        program.say({"command": "status"})
        self.run_until(lambda: len(program.events) == 4, 2.0)
        status = program.events[3]
        self.assertEqual(status["id"], str(self.alice_id))
        self.assertEqual(status["services"], [{"service": "mine/1", "allow": "granted"}])
        (link,) = status["links"]
        self.assertEqual((link["peer"], link["path"], link["dark"]), (str(self.bob_id), "host", False))
        self.assertEqual((status["post_quantum"], link["post_quantum"]), (True, True))
        self.assertEqual(status["port_mappings"], [])
        (nat,) = status["nats"]
        self.assertEqual((nat["host"], nat["mapping"]), ("203.0.113.1", []))

    def test_bad_commands(self) -> None:
        program = self.program("alice")
        for command, reason in (
            ({"command": "nothing"}, "unknown-command"),
            ({"command": 3}, "unknown-command"),
            ({"command": ["open"]}, "unknown-command"),
            ({"command": "serve", "service": "x", "allow": []}, "malformed"),
            ({"command": "serve", "service": "x", "allow": ["nobody"]}, "bad-peer-id"),
            ({"command": "serve", "service": ""}, "bad-service"),
            ({"command": "refuse-stream", "stream": [1]}, "no-stream"),
            ([], "malformed"),
        ):
            before = len(program.events)
            program.say(cast(Any, command))
            self.run_until(lambda n=before: len(program.events) > n, 2.0)  # type: ignore[misc]
            self.assertEqual(program.events[-1]["reason"], reason)
        assert program.transport is not None
        program.transport.write(b"x" * (MAX_LINE + 10))
        self.run_until(lambda: program.over, 2.0)
        self.assertEqual(program.events[-1]["reason"], "too-long")

    def test_bytes_of_a_stream_are_no_commands(self) -> None:
        """A command for a stream that fails ends the connection, and what follows it is not looked at."""
        for command, reason in (
            ({"command": "open", "peer": "nobody", "service": "x"}, "bad-peer-id"),
            ({"command": "open", "peer": str(self.bob_id)}, "malformed"),
            ({"command": "open", "peer": 3, "service": "x"}, "malformed"),
            ({"command": "open", "peer": str(self.alice_id), "service": "x"}, "self"),
            ({"command": "accept-stream", "stream": 1}, "no-stream"),
            ({"command": "accept-stream", "stream": [1], "framed": True}, "no-stream"),
        ):
            program = self.program("alice")
            program.say(command, {"command": "serve", "service": "stolen/1", "allow": "anyone"})
            self.run_until(lambda one=program: one.over, 2.0)  # type: ignore[misc]
            self.assertEqual([event.get("reason") for event in program.events], [None, reason])
        self.assertEqual(self.alice.status.services, ())

    def test_answers_after_the_last_command(self) -> None:
        """As a shell has it that pipes commands into the socket."""
        program = self.program("alice")
        program.say({"command": "connect", "peer": str(self.bob_id)}, {"command": "status"})
        cast(Any, program.transport).loseWriteConnection()
        self.run_until(lambda: program.over, 20.0)
        self.assertEqual({event["command"] for event in program.events[1:]}, {"connect", "status"})

    def test_peers_leave_connections_for_programs(self) -> None:
        """And for each other: one has at most as many streams waiting as are left."""
        self.servers["bob"].most = 6
        server = self.program("bob")
        server.say({"command": "serve", "service": "mine/1", "allow": "anyone"})
        link = self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        opened = [link.connect("mine/1", Factory.forProtocol(HalfCloser)) for _ in range(3)]
        self.run_until(lambda: opened[2].called, 5.0)
        self.failureResultOf(opened[2], ServiceRefused)
        other = Identity.generate().peer_id
        self.assertFalse(self.servers["bob"].crowded(other, 1))
        self.assertTrue(self.servers["bob"].crowded(other, 0))
        # Two wait
        self.assertTrue(self.servers["bob"].crowded(self.alice_id, 2))
        for stream in (1, 2):
            self.program("bob").say({"command": "accept-stream", "stream": stream})
        self.assertEqual(self.program("bob").events[0]["event"], "ready")

    def test_events_that_are_not_read(self) -> None:
        """1 MiB of them ends the connection."""
        transport = UnreadTransport()
        program = self.servers["bob"].buildProtocol(None)
        program.makeConnection(cast(Any, transport))
        waiting = cast(connection.WaitingStream, StillWaiting(PunchAddress(self.alice_id, "mine/1")))
        for number in range(20_000):
            program.stream_waits(number, waiting)
        self.assertTrue(transport.aborted)
        self.assertLess(transport.unread, 3 * connection.MAX_UNREAD // 2)

    def test_a_program_that_does_not_read(self) -> None:
        """Neither its answers nor its events gather without bound, and others are served."""
        program = self.program("bob")
        program.say({"command": "serve", "service": "mine/1", "allow": "anyone"})
        self.run_until(lambda: len(program.events) == 2, 2.0)
        assert program.transport is not None
        cast(Any, program.transport).pauseProducing()
        program.say(*[{"command": "status"}] * 5_000)
        self.net.advance(1.0)
        server = self.servers["bob"]
        self.assertEqual(server.count, 1)
        other = self.program("bob")
        other.say({"command": "status"})
        self.run_until(lambda: len(other.events) == 2, 2.0)

    def report(self, **changes: Any) -> dict[str, Any]:
        report = {
            "program": "punch send",
            "peer": str(self.bob_id),
            "outgoing": True,
            "stage": "running",
            "name": "a.bin",
            "items": 2,
            "size": 1000,
            "position": 10,
        }
        return {"command": "report-transfer", "transfer": 1, **report, **changes}

    def told(self, program: Lines, count: int) -> bool:
        return len(program.events) == count

    def reported(self, name: str = "alice") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.net.wait(self.owned[name].status(), 2.0)["program_transfers"]
        return found

    def test_transfers_of_programs(self) -> None:
        """Each is shown as it was told last, until it is over or its program has gone."""
        first, second = self.program("alice"), self.program("alice")
        first.say(self.report(), self.report(transfer=2, name="b"), self.report(position=20))
        second.say(self.report(outgoing=False, size=None, stage="offered"))
        self.run_until(lambda: len(first.events) == 4 and len(second.events) == 2, 2.0)
        self.assertEqual(
            [(each["name"], each["position"], each["outgoing"], each["size"]) for each in self.reported()],
            [("a.bin", 20, True, 1000), ("b", 10, True, 1000), ("a.bin", 10, False, None)],
        )
        self.assertEqual(self.reported()[0]["petname"], self.books["alice"].name_of(self.bob_id))
        first.say({"command": "report-transfer", "transfer": 1, "over": True})
        first.say({"command": "report-transfer", "transfer": 7, "over": True})
        self.run_until(lambda: len(first.events) == 6, 2.0)
        self.assertEqual([each["name"] for each in self.reported()], ["b", "a.bin"])
        for program in (first, second):
            assert program.transport is not None
            cast(Any, program.transport).abortConnection()
        self.run_until(lambda: not self.servers["alice"].count, 2.0)
        self.assertEqual(self.reported(), [])

    def test_reports_that_are_none(self) -> None:
        bad: list[dict[str, Any]] = [
            {"transfer": None},
            {"transfer": -1},
            {"transfer": True},
            {"peer": "bob"},
            {"peer": 5},
            {"outgoing": 1},
            {"stage": "done"},
            {"stage": ["running"]},
            {"name": ""},
            {"name": "x" * 256},
            {"program": None},
            {"items": 1.5},
            {"size": 1 << 64},
            {"position": "10"},
        ]
        program = self.program("alice")
        for number, changes in enumerate(bad):
            program.say(self.report(**changes))
            self.run_until(partial(self.told, program, number + 2), 2.0)
            self.assertEqual(program.events[-1]["event"], "error", changes)
        self.assertEqual(self.reported(), [])

    def test_many_reports(self) -> None:
        program = self.program("alice")
        program.say(*(self.report(transfer=number) for number in range(MAX_REPORTED + 1)))
        self.run_until(lambda: len(program.events) == MAX_REPORTED + 2, 5.0)
        self.assertEqual(program.events[-1]["reason"], "too-many")
        self.assertEqual(len(self.reported()), MAX_REPORTED)
        program.say(self.report(position=1000))
        self.run_until(lambda: len(program.events) == MAX_REPORTED + 3, 5.0)
        self.assertEqual(self.reported()[1]["position"], 1000)

    def test_reports_of_attached_programs_and_of_the_node_itself(self) -> None:
        attached = self.attach("alice")
        report = TransferReport("punch send", self.bob_id, True, "waiting", "a", 1, 5, 3)
        for node in (attached, self.owned["alice"]):
            self.net.wait(node.report_transfer(1, report), 2.0)
        shown = {**report.fields(), "petname": self.books["alice"].name_of(self.bob_id)}
        self.assertEqual(self.reported(), [shown, shown])
        status = self.net.wait(self.owned["alice"].status(), 2.0)
        text = "\n".join(lines("status", status, lambda peer: "bob", 0.0))
        self.assertIn("Transfer of punch send: a (5 bytes) to bob: has no link now, is tried again", text)
        self.net.wait(attached.report_transfer(1, None), 2.0)
        self.net.wait(self.owned["alice"].report_transfer(1, None), 2.0)
        self.assertEqual(self.reported(), [])

    def test_too_many_and_strangers(self) -> None:
        server = self.servers["alice"]
        server.most = 2
        programs = [self.program("alice") for _ in range(3)]
        self.assertEqual([p.events[0]["event"] for p in programs], ["ready", "ready", "failed"])
        self.assertEqual(programs[2].events[0]["reason"], "too-many")
        server.admitted = lambda transport: False
        self.assertEqual(self.program("alice").events[0]["reason"], "denied")


class FrameTests(SynchronousTestCase):
    def test_any_cut(self) -> None:
        aborts = [Abort(0), Abort(2**32 - 2), Abort(2**62)]
        marks = [Mark.END.value, Mark.OVER.value, *(abort.encode() for abort in aborts)]
        said = b"".join([*frames(b"abc"), *marks, *frames(b"d")])
        for size in range(1, 6):
            reader = StreamFrameReader()
            got = [part for at in range(0, len(said), size) for part in reader.receive(said[at : at + size])]
            self.assertEqual(b"".join(part for part in got if isinstance(part, bytes)), b"abcd")
            found = [part for part in got if not isinstance(part, bytes)]
            self.assertEqual(found, [Mark.END, Mark.OVER, *aborts[:2], Abort(2**32 - 1)])


class RemovedPort:
    """A port whose file somebody has removed."""

    def stopListening(self) -> Deferred[None]:
        return fail(FileNotFoundError("node.sock"))


class RemovingReactor:
    def listenUNIX(self, address: str, factory: Any, backlog: int, mode: int, wantPID: bool) -> RemovedPort:
        self.backlog, self.mode = backlog, mode
        return RemovedPort()


class ListeningTests(SynchronousTestCase):
    def test_a_socket_that_was_removed(self) -> None:
        """The rest ends in good order all the same."""
        reactor = RemovingReactor()
        server = LocalServer(cast(OwnNode, None), reactor, most=300)
        self.successResultOf(server.listen(Path(self.mktemp()), {}))
        self.assertEqual((reactor.backlog, reactor.mode), (300, 0o600))
        self.successResultOf(Deferred.fromCoroutine(server.stop()))


class LimitTests(SynchronousTestCase):
    def test_half_of_the_files(self) -> None:
        """Connections leave files for sockets of the node and for its disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertLessEqual(most_connections(), MAX_CONNECTIONS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        self.assertEqual(most_connections(), 128)

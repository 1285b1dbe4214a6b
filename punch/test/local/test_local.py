"""Programs that are attached to a node, over the simulated TCP in place of a UNIX socket."""

from __future__ import annotations

import json
import resource
from io import BytesIO
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from punch.link.link import SERVICE_WAIT
from punch.link.services import anyone
from punch.link.transport import PunchAddress, StreamTransport
from punch.local import connection
from punch.local.access import Allow
from punch.local.attached import AttachedNode
from punch.local.own import OwnNode
from punch.local.protocol import MAX_LINE, CommandError, FrameReader, Mark, frames
from punch.local.server import MAX_CONNECTIONS, LocalServer, most_connections
from punch.node.events import CallFailed
from punch.node.node import Node
from punch.test.node.test_services import NodeTestCase

PORT = 4000


@implementer(IHalfCloseableProtocol)
class Recorder(Protocol):
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

    def readConnectionLost(self) -> None:
        self.calls.append("read lost")

    def writeConnectionLost(self) -> None:
        self.calls.append("write lost")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.calls.append("lost")
        self.reason = reason


class Recorders(Factory):
    noisy = False

    def __init__(self) -> None:
        self.built: list[Recorder] = []
        self.addresses: list[PunchAddress] = []

    def buildProtocol(self, addr: Any) -> Recorder:
        self.addresses.append(addr)
        self.built.append(Recorder())
        return self.built[-1]


class Lines(Protocol):
    """A program that speaks the socket's own language."""

    def __init__(self) -> None:
        self.received = b""
        self.over = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = True

    def say(self, *commands: dict[str, Any]) -> None:
        assert self.transport is not None
        for command in commands:
            self.transport.write(json.dumps(command).encode() + b"\n")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.received.splitlines()]


class LocalTestCase(NodeTestCase):
    """Programs of alice and of bob, each attached to the node of theirs."""

    def setUp(self) -> None:
        super().setUp()
        self.owned: dict[str, OwnNode] = {}
        self.servers: dict[str, LocalServer] = {}
        self.hosts = self.net.hosts
        for name, node in (("alice", self.alice), ("bob", self.bob)):
            self.share(name, node)
        self.bob_id = self.bob.identity.peer_id
        self.alice_id = self.alice.identity.peer_id

    def share(self, name: str, node: Node) -> None:
        reactor = self.hosts[name].reactor
        own = self.owned[name] = OwnNode(
            node,
            book=self.books[name],
            clock=reactor,
            rendezvous=[self.rendezvous.address],
            name=lambda: name,
            sentence=lambda failed: f"The call failed: {failed.reason}.",
        )
        server = self.servers[name] = LocalServer(own, reactor, admitted=lambda transport: True)
        reactor.listenTCP(PORT, server, interface="127.0.0.1")

    def endpoint(self, name: str) -> HostnameEndpoint:
        return HostnameEndpoint(self.hosts[name].reactor, "127.0.0.1", PORT)

    def attach(self, name: str) -> AttachedNode:
        attaching = Deferred.fromCoroutine(AttachedNode.attach(self.endpoint(name), self.hosts[name].reactor))
        return self.net.wait(attaching, 2.0, "a program attaches")

    def program(self, name: str) -> Lines:
        """A program that speaks lines."""
        lines = Lines()
        self.net.wait(self.endpoint(name).connect(Factory.forProtocol(lambda: lines)), 2.0, "a program")
        self.run_until(lambda: b"\n" in lines.received, 2.0)
        return lines

    def refused(self, deferred: Deferred[Any], seconds: float = 5.0) -> CommandError:
        self.run_until(lambda: deferred.called, seconds)
        return cast(CommandError, self.failureResultOf(deferred, CommandError).value)


class StreamTests(LocalTestCase):
    def pair(self, service: str = "files/1") -> tuple[Recorder, Recorder]:
        """A stream between a program of alice and one of bob."""
        served = Recorders()
        self.net.wait(self.attach("bob").serve(service, served, Allow(anyone=True)), 2.0, "serving")
        opened = self.attach("alice").open(self.bob_id, service, factory := Recorders())
        near = cast(Recorder, self.net.wait(opened, 20.0, "a stream"))
        self.run_until(lambda: bool(served.built), 2.0)
        self.assertEqual(factory.addresses, [PunchAddress(self.bob_id, service)])
        self.assertEqual(served.addresses, [PunchAddress(self.alice_id, service)])
        self.assertEqual(near.transport.getHost(), PunchAddress(self.alice_id, service))
        return near, served.built[0]

    def test_bytes_cross_and_directions_end_by_themselves(self) -> None:
        near, far = self.pair()
        near.transport.write(b"question")
        near.transport.loseWriteConnection()
        self.run_until(lambda: "read lost" in far.calls, 2.0)
        self.assertEqual((bytes(far.data), far.calls), (b"question", ["made", "read lost"]))
        far.transport.write(bytes(100_000))
        far.transport.loseConnection()
        self.run_until(lambda: near.reason is not None and far.reason is not None, 5.0)
        self.assertEqual(len(near.data), 100_000)
        for end in (near, far):
            assert end.reason is not None
            end.reason.trap(ConnectionDone)
        self.assertEqual(near.calls, ["made", "write lost", "read lost", "lost"])
        self.net.advance(0.5)
        self.assertEqual([server.count for server in self.servers.values()], [1, 2])

    def test_an_abort_is_no_end(self) -> None:
        for giver, loser in ((0, 1), (1, 0)):
            ends = self.pair(f"service/{giver}")
            ends[giver].transport.write(b"half of it")
            self.net.advance(0.3)
            ends[giver].transport.abortConnection()
            self.run_until(lambda end=ends[loser]: end.reason is not None, 2.0)  # type: ignore[misc]
            reason = ends[loser].reason
            assert reason is not None
            reason.trap(ConnectionLost)
            self.assertNotIn("read lost", ends[loser].calls)

    def test_back_pressure_and_a_pull_producer(self) -> None:
        """What the far program does not read stays with the sender; then all of it comes."""
        near, far = self.pair()
        far.transport.pauseProducing()
        file = BytesIO(bytes(3 << 20))
        sent = FileSender().beginFileTransfer(file, near.transport)
        self.net.advance(1.0)
        self.assertNoResult(sent)
        self.assertEqual(far.data, b"")
        self.assertLess(file.tell(), 5 << 19)
        far.transport.resumeProducing()
        self.run_until(lambda: len(far.data) == 3 << 20, 20.0)
        self.successResultOf(sent)

    def test_the_link_ends(self) -> None:
        near, far = self.pair()
        self.alice.hangup(self.bob_id)
        self.run_until(lambda: near.reason is not None and far.reason is not None, 2.0)

    def test_the_node_of_either_side_ends(self) -> None:
        for name in ("alice", "bob"):
            near, far = self.pair(f"service/{name}")
            attached = self.attach(name)
            gone = attached.when_lost()
            self.net.wait(Deferred.fromCoroutine(self.servers[name].stop()), 2.0, "the socket closes")
            self.run_until(lambda: near.reason is not None and far.reason is not None, 2.0)  # noqa: B023
            for end in (near, far):
                assert end.reason is not None
                end.reason.trap(ConnectionLost)
            self.net.advance(0.1)
            self.successResultOf(gone)
            self.assertEqual(self.refused(attached.status()).reason, "node-lost")

    def test_refusals_are_told_apart(self) -> None:
        alice = self.attach("alice")
        bob = self.attach("bob")
        self.net.wait(bob.serve("private/1", Recorders(), Allow()), 2.0, "serving")
        self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        self.net.advance(SERVICE_WAIT)
        stranger = self.node("eve", "203.0.113.9").identity.peer_id
        for peer, service, reason in (
            (self.bob_id, "nothing/1", "no-service"),
            (self.bob_id, "private/1", "not-allowed"),
            (self.bob_id, "x" * 256, "bad-service"),
            (self.alice_id, "private/1", "self"),
            (stranger, "private/1", "refused"),
        ):
            factory = Recorders()
            error = self.refused(alice.open(peer, service, factory), 15.0)
            self.assertEqual((error.reason, str(error)[-1]), (reason, "."))
        taken = self.refused(bob.serve("private/1", Recorders(), Allow()))
        self.assertEqual(taken.reason, "service-taken")
        self.books["bob"].grant(self.alice_id, "private/1")
        self.net.wait(alice.open(self.bob_id, "private/1", Recorders()), 2.0, "a granted stream")

    def test_a_dead_link_is_asked(self) -> None:
        """A stream on a link whose other side has gone fails with the reason of a new call."""
        self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        self.net.wait(self.bob.stopService(), 3.0, "bob stops")
        self.net.advance(1.0)
        error = self.refused(self.attach("alice").open(self.bob_id, "any/1", Recorders()), 30.0)
        self.assertEqual(error.reason, "not-registered")

    def test_a_service_takes_calls_of_those_it_is_for(self) -> None:
        """Bob does not know carol, and nobody can be asked."""
        carol = self.node("carol", "203.0.113.3")
        calling = carol.connect(self.bob_id)
        self.run_until(lambda: calling.called, 10.0)
        self.failureResultOf(calling, CallFailed)
        bob = self.attach("bob")
        allow = Allow(frozenset({carol.identity.peer_id}))
        stop = self.net.wait(bob.serve("for-carol/1", Recorders(), allow), 2.0, "serving")
        link = self.net.wait(carol.connect(self.bob_id), 20.0, "a link")
        self.net.wait(link.connect("for-carol/1", Recorders()), 2.0, "a stream")
        self.assertNotIn(carol.identity.peer_id, self.books["bob"])
        stop()
        self.net.advance(0.5)
        self.assertEqual(self.bob.status.services, ())


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
        opened = [link.connect("mine/1", Factory.forProtocol(Recorder)) for _ in range(2)]
        self.run_until(lambda: len(server.events) == 4, 5.0)
        self.assertEqual([event["stream"] for event in server.events[2:]], [1, 2])
        taker = self.program("bob")
        taker.say({"command": "accept-stream", "stream": 1})
        assert taker.transport is not None
        taker.transport.write(b"hello")
        server.say({"command": "refuse-stream", "stream": 2})
        first, second = (cast(Recorder, self.successResultOf(each)) for each in opened)
        self.run_until(lambda: bool(first.data and second.reason), 5.0)
        self.assertEqual(bytes(first.data), b"hello")
        server.say({"command": "accept-stream", "stream": 2})
        self.run_until(lambda: len(server.events) == 6, 2.0)
        self.assertEqual([server.events[4]["event"], server.events[5]["event"]], ["result", "error"])

    def test_nobody_accepts(self) -> None:
        server = self.program("bob")
        server.say({"command": "serve", "service": "mine/1", "allow": "anyone"})
        link = self.net.wait(self.alice.connect(self.bob_id), 20.0, "a link")
        stream = cast(Recorder, self.net.wait(link.connect("mine/1", Factory.forProtocol(Recorder)), 5.0))
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

    def test_bad_commands(self) -> None:
        program = self.program("alice")
        for command, reason in (
            ({"command": "nothing"}, "unknown-command"),
            ({"command": 3}, "unknown-command"),
            ({"command": "open", "peer": "nobody", "service": "x"}, "bad-peer-id"),
            ({"command": "open", "peer": str(self.bob_id)}, "malformed"),
            ({"command": "open", "peer": 3, "service": "x"}, "malformed"),
            ({"command": "serve", "service": "x", "allow": []}, "malformed"),
            ({"command": "serve", "service": "x", "allow": ["nobody"]}, "bad-peer-id"),
            ({"command": "serve", "service": ""}, "bad-service"),
            ({"command": "accept-stream", "stream": [1]}, "no-stream"),
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
        said = b"".join([*frames(b"abc"), Mark.END.value, Mark.OVER.value, *frames(b"d")])
        for size in range(1, 6):
            reader = FrameReader()
            got = [part for at in range(0, len(said), size) for part in reader.receive(said[at : at + size])]
            self.assertEqual(b"".join(part for part in got if isinstance(part, bytes)), b"abcd")
            self.assertEqual([part for part in got if isinstance(part, Mark)], [Mark.END, Mark.OVER])


class LimitTests(SynchronousTestCase):
    def test_half_of_the_files(self) -> None:
        """Connections leave files for sockets of the node and for its disk."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertLessEqual(most_connections(), MAX_CONNECTIONS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        self.assertEqual(most_connections(), 128)

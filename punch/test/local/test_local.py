"""Programs that are attached to a node, over the simulated TCP in place of a UNIX socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.link.events import FIRST_APPLICATION_CODE, RefusalCode, ServiceRefused
from punch.link.link import IDLE_TIME, SERVICE_WAIT
from punch.link.services import anyone
from punch.link.transport import PunchAddress, StreamAborted
from punch.local.access import Allow
from punch.local.attached import AttachedNode
from punch.local.own import OwnNode
from punch.local.process import NodeOptions, check_rendezvous
from punch.local.protocol import CommandError
from punch.local.server import LocalServer
from punch.node.events import CallFailed
from punch.node.node import Node
from punch.state import StateDirectory
from punch.test.link.twisted_links import HalfCloser, NoProtocol
from punch.test.node.test_services import NodeTestCase

PORT = 4000


class Recorders(Factory):
    """Builds protocols that remember what happens to them."""

    noisy = False

    def __init__(self) -> None:
        self.built: list[HalfCloser] = []
        self.addresses: list[PunchAddress] = []

    def buildProtocol(self, addr: Any) -> HalfCloser:
        self.addresses.append(addr)
        self.built.append(HalfCloser())
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


class CantStart(Factory):
    noisy = False

    def startFactory(self) -> None:
        raise OSError("the log can't be opened")


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


class AttachedStreamCase(LocalTestCase):
    """Two nodes, with a program attached to one of them."""

    def pair(self, service: str = "files/1") -> tuple[HalfCloser, HalfCloser]:
        """A stream between a program of alice and one of bob."""
        served = Recorders()
        self.net.wait(self.attach("bob").serve(service, served, Allow(anyone=True)), 2.0, "serving")
        opened = self.attach("alice").open(self.bob_id, service, factory := Recorders())
        near = cast(HalfCloser, self.net.wait(opened, 20.0, "a stream"))
        self.run_until(lambda: bool(served.built), 2.0)
        self.assertEqual(factory.addresses, [PunchAddress(self.bob_id, service)])
        self.assertEqual(served.addresses, [PunchAddress(self.alice_id, service)])
        self.assertEqual(near.transport.getHost(), PunchAddress(self.alice_id, service))
        return near, served.built[0]


class StreamTests(AttachedStreamCase):
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

    def test_the_end_waits_for_a_protocol_that_has_paused(self) -> None:
        """A protocol that has paused gets all data and the end later, although the stream is over by then."""
        near, far = self.pair()
        near.transport.pauseProducing()
        near.transport.loseWriteConnection()
        far.transport.write(bytes(100_000))
        far.transport.loseConnection()
        self.net.advance(2.0)
        self.assertEqual((far.calls[-1], near.calls, near.data), ("lost", ["made", "write lost"], b""))
        near.transport.resumeProducing()
        self.run_until(lambda: near.reason is not None, 2.0)
        self.assertEqual(len(near.data), 100_000)
        assert near.reason is not None
        near.reason.trap(ConnectionDone)

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

    def test_a_link_that_is_closed_in_order(self) -> None:
        """If a link is closed in good order, both programs learn that their stream was cut off."""
        ends = self.pair()
        ends[0].transport.write(b"half of it")
        ends[1].transport.loseWriteConnection()
        self.net.advance(0.3)
        self.bob.hangup(self.alice_id)
        self.run_until(lambda: all(end.reason is not None for end in ends), 2.0)
        for end in ends:
            assert end.reason is not None
            end.reason.trap(ConnectionLost)

    def test_the_reason_of_an_abort(self) -> None:
        """A program gets the code of the abort after the data that was written before it."""
        for giver, loser in ((0, 1), (1, 0)):
            ends = self.pair(f"service/{giver}")
            ends[giver].transport.abort_with(FIRST_APPLICATION_CODE + giver)
            self.run_until(lambda end=ends[loser]: end.reason is not None, 2.0)  # type: ignore[misc]
            reason = ends[loser].reason
            assert reason is not None
            reason.trap(StreamAborted)
            self.assertEqual(cast(StreamAborted, reason.value).code, FIRST_APPLICATION_CODE + giver)
            self.run_until(lambda end=ends[giver]: end.reason is not None, 2.0)  # type: ignore[misc]
        self.run_until(lambda: [server.count for server in self.servers.values()] == [2, 4], 2.0)

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

    def test_why_it_is_not_registered(self) -> None:
        attached = self.attach("alice")

        def problem() -> Any:
            return self.net.wait(attached.status(), 2.0, "the status")["problem"]

        self.assertIsNone(problem())
        self.rendezvous.stop()
        self.run_until(lambda: problem() is not None, 30.0)
        self.assertEqual(sorted(problem()), ["final", "reason", "text"])
        self.assertIs(problem()["final"], False)

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

    def test_a_guest_opens_nothing_else(self) -> None:
        """A peer whose call a service accepted can't open services that are for everybody with a link."""
        carol = self.node("carol", "203.0.113.3")
        self.bob.serve("chat/1", Recorders(), anyone)
        self.net.wait(self.attach("bob").serve("web/1", Recorders(), Allow(anyone=True)), 2.0, "serving")
        link = self.net.wait(carol.connect(self.bob_id), 20.0, "a link")
        early = link.connect("late/1", Recorders())
        self.net.advance(SERVICE_WAIT / 2)
        self.bob.serve("late/1", Recorders(), anyone)
        for refused in (early, link.connect("chat/1", Recorders())):
            self.run_until(lambda opened=refused: opened.called, 2.0)  # type: ignore[misc]
            code = self.failureResultOf(refused, ServiceRefused).value.code
            self.assertIs(code, RefusalCode.NOT_ALLOWED)
        self.net.wait(link.connect("web/1", Recorders()), 2.0, "a stream")
        self.net.wait(self.attach("alice").open(self.bob_id, "chat/1", Recorders()), 20.0, "a chat")

    def test_a_guest_may_hold_its_link(self) -> None:
        carol = self.node("carol", "203.0.113.3")
        self.net.wait(self.attach("bob").serve("web/1", Recorders(), Allow(anyone=True)), 2.0, "serving")
        link = self.net.wait(carol.connect(self.bob_id), 20.0, "a link")
        link.hold()
        self.net.advance(2 * IDLE_TIME)
        self.assertIsNone(link.closed)

    def test_a_factory_that_builds_nothing(self) -> None:
        """The peer is refused at once."""
        self.net.wait(self.attach("bob").serve("none/1", NoProtocol(), Allow(anyone=True)), 2.0, "serving")
        opened = self.attach("alice").open(self.bob_id, "none/1", Recorders())
        near = cast(HalfCloser, self.net.wait(opened, 20.0, "a stream"))
        self.run_until(lambda: near.reason is not None, 2.0)
        self.assertEqual(self.servers["bob"].waiting, {})

    def test_a_factory_that_does_not_start(self) -> None:
        """Its service is not served, in whichever process it is."""
        serving = self.attach("bob").serve("web/1", CantStart(), Allow())
        self.run_until(lambda: serving.called, 2.0)
        self.failureResultOf(serving, OSError)
        self.assertRaises(OSError, self.bob.serve, "own/1", CantStart())
        self.net.advance(0.5)
        self.assertEqual(self.bob.status.services, ())

    def test_each_connection_is_checked(self) -> None:
        """Another process may have taken the place of the node's."""
        own = [True, True, False]
        attaching = AttachedNode.attach(
            self.endpoint("alice"), self.hosts["alice"].reactor, lambda transport: own.pop(0)
        )
        alice = self.net.wait(Deferred.fromCoroutine(attaching), 2.0, "a program attaches")
        self.net.wait(alice.serve("mine/1", Recorders(), Allow()), 2.0, "serving")
        factory = Recorders()
        self.assertEqual(self.refused(alice.open(self.bob_id, "any/1", factory)).reason, "denied")
        self.assertEqual((factory.built, self.alice.status.calling), ([], ()))

    def test_a_service_without_its_connection(self) -> None:
        """Who serves is told to serve again."""
        dialed: list[Any] = []
        endpoint = self.endpoint("bob")

        class Dialing:
            def connect(self, factory: Any) -> Deferred[Any]:
                return endpoint.connect(factory).addCallback(lambda protocol: dialed.append(protocol))

        attaching = AttachedNode.attach(cast(Any, Dialing()), self.hosts["bob"].reactor)
        bob = self.net.wait(Deferred.fromCoroutine(attaching), 2.0, "a program attaches")
        gone = bob.when_lost()
        stop = self.net.wait(bob.serve("first/1", Recorders(), Allow()), 2.0, "serving")
        self.net.wait(bob.serve("second/1", Recorders(), Allow()), 2.0, "serving")
        stop()
        self.net.advance(0.5)
        self.assertNoResult(gone)
        self.assertEqual(self.bob.status.services, ("second/1",))
        dialed[-1].transport.abortConnection()
        self.net.advance(0.5)
        self.successResultOf(gone)

    def test_a_rendezvous_that_is_none(self) -> None:
        options = NodeOptions(StateDirectory(Path(self.mktemp())), "alice", "http://192.0.2.1")
        error = self.assertRaises(CommandError, check_rendezvous, self.attach("alice"), options)
        self.assertEqual(error.reason, "bad-address")

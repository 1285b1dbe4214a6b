"""What programs do with a node: connect, serve, subscribe, hold links; with no chat on either side."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

import punch
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.events import RefusalCode, ServiceRefused
from punch.link.link import IDLE_TIME, SERVICE_WAIT
from punch.link.services import anyone
from punch.link.transport import StreamTransport
from punch.node.causes import IntroductionEnded, Reason
from punch.node.events import (
    CallFailed,
    Calling,
    CallUnanswerable,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Registered,
    Unregistered,
)
from punch.node.node import Node
from punch.test.internet import Host, InternetTestCase, LinkSpec
from punch.test.system import SERVICE, Rendezvous
from punch.wire.control import Accept, ErrorCode
from punch.wire.rendezvous_address import RendezvousAddress

EXAMPLES = Path(punch.__file__).parent.parent / "docs" / "examples"


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Counter(Protocol):
    """Answers with how many bytes have come."""

    count = 0

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.count += len(data)
        self.transport.write(b"%d\n" % self.count)


class RecordingProtocol(Protocol):
    transport: StreamTransport

    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class NodeTestCase(InternetTestCase):
    """Two nodes, alice and bob; bob knows alice."""

    link: LinkSpec | None = None

    def setUp(self) -> None:
        super().setUp()
        self.net = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.hosts: dict[str, Host] = {}
        self.events: dict[str, list[Event]] = {}
        self.books: dict[str, AddressBook] = {}
        self.alice = self.node("alice", "203.0.113.1")
        self.bob = self.node("bob", "203.0.113.2")
        self.books["bob"].add(self.alice.identity.peer_id, "alice")

    def node(self, name: str, address: str) -> Node:
        host = self.hosts[name] = self.net.host(name, address, link=self.link)
        book = self.books[name] = AddressBook(None)
        node = Node(
            reactor=host.reactor,
            identity=Identity.generate(self.net.random_bytes(f"key {name}")),
            name=name,
            accept=Accept.ASK,
            known=book,
            rendezvous=self.rendezvous.address,
            addresses=lambda: host.addresses,
            random=self.net.random_bytes(name),
            monotonic=host.monotonic,
            wall=host.wall,
        )
        events = self.events[name] = []
        node.subscribe(events.append)
        node.startService()
        self.run_until(lambda: any(isinstance(event, Registered) for event in events), 5.0)
        self.addCleanup(lambda: self.net.wait(node.stopService(), 3.0, "a node stops"))
        return node

    def run_until(self, condition: Callable[[], bool], seconds: float) -> None:
        self.net.run_until(condition, seconds, "what the test waits for")

    def of(self, name: str, kind: type[Event]) -> list[Event]:
        return [event for event in self.events[name] if isinstance(event, kind)]


class ServiceTests(NodeTestCase):
    def test_two_services_on_one_link(self) -> None:
        self.bob.serve("echo/1", Factory.forProtocol(Echo), anyone)
        self.bob.serve(
            "counter/1", Factory.forProtocol(Counter), lambda peer: peer == self.alice.identity.peer_id
        )
        self.bob.serve("private/1", Factory.forProtocol(Echo))
        link = self.net.wait(self.alice.connect(self.bob.identity.peer_id), 20.0, "a link")
        self.assertIs(link, self.alice.link(self.bob.identity.peer_id))
        again = self.net.wait(self.alice.connect(self.bob.identity.peer_id), 20.0, "the same link")
        self.assertIs(again, link)
        self.net.advance(SERVICE_WAIT)
        rtt = link.rtt
        assert rtt is not None
        clients = []
        for service in ("echo/1", "counter/1"):
            opened = link.connect(service, Factory.forProtocol(RecordingProtocol))
            clients.append(cast(RecordingProtocol, self.net.wait(opened, 1.1 * rtt + 0.001, service)))
        self.books["bob"].grant(self.alice.identity.peer_id, "other/1")
        for name, code in (("nobody/1", RefusalCode.NO_SERVICE), ("private/1", RefusalCode.NOT_ALLOWED)):
            refused = link.connect(name, Factory.forProtocol(RecordingProtocol))
            self.net.advance(1.1 * rtt + 0.001)
            self.assertIs(self.failureResultOf(refused, ServiceRefused).value.code, code)
        self.books["bob"].grant(self.alice.identity.peer_id, "private/1")
        granted = link.connect("private/1", Factory.forProtocol(RecordingProtocol))
        cast(
            RecordingProtocol, self.net.wait(granted, 1.1 * rtt + 0.001, "a granted service")
        ).transport.loseConnection()
        for client in clients:
            client.transport.write(b"hello")
        self.net.advance(0.5)
        self.assertEqual([client.data for client in clients], [b"hello", b"5\n"])
        clients[0].transport.loseConnection()
        self.net.advance(2 * IDLE_TIME)
        self.assertEqual(self.of("alice", Disconnected), [])
        lease = link.hold()
        clients[1].transport.loseConnection()
        self.net.advance(2 * IDLE_TIME)
        self.assertEqual(self.of("bob", Disconnected), [])
        lease.release()
        self.net.advance(IDLE_TIME + 2.0)
        for name in ("alice", "bob"):
            self.assertEqual(len(self.of(name, Connected)), 1)
            self.assertEqual(len(self.of(name, Disconnected)), 1)

    def test_when_registered(self) -> None:
        host = self.net.host("carol", "203.0.113.3")

        def start(rendezvous: RendezvousAddress) -> Node:
            node = Node(
                reactor=host.reactor,
                rendezvous=rendezvous,
                accept=Accept.KNOWN,
                addresses=lambda: host.addresses,
                random=self.net.random_bytes("carol"),
                monotonic=host.monotonic,
                wall=host.wall,
            )
            node.startService()
            return node

        node = start(self.rendezvous.address)
        waiting = node.when_registered()
        self.assertNoResult(waiting)
        self.assertIsNone(node.registration())
        self.assertFalse(node.was_registered())
        self.net.wait(waiting, 5.0, "the registration")
        self.successResultOf(node.when_registered())
        self.assertEqual(node.registration(), Registered(str(self.rendezvous.address)))
        self.assertTrue(node.was_registered())
        self.net.wait(node.stopService(), 3.0, "a node stops")
        node = start(replace(self.rendezvous.address, pin=bytes(32)))
        waiting = node.when_registered()
        self.net.advance(5.0)
        for failed in (waiting, node.when_registered()):
            self.assertEqual(self.failureResultOf(failed, CallFailed).value.reason, Reason.BAD_PIN.value)
        ended = node.registration()
        assert isinstance(ended, Unregistered)
        self.assertEqual((ended.reason, ended.retry_in), (Reason.BAD_PIN.value, None))
        self.assertFalse(node.was_registered())
        self.net.wait(node.stopService(), 3.0, "a node stops")
        node = start(self.rendezvous.address)
        waiting = node.when_registered()
        stopping = node.stopService()
        self.assertEqual(self.failureResultOf(waiting, CallFailed).value.reason, ErrorCode.CANCELLED.value)
        self.net.wait(stopping, 3.0, "a node stops")

    def test_connect_fails(self) -> None:
        own = self.alice.connect(self.alice.identity.peer_id)
        self.assertEqual(self.failureResultOf(own, CallFailed).value.reason, Reason.SELF.value)
        nobody = Identity.generate(self.net.random_bytes("nobody")).peer_id
        failed = self.alice.connect(nobody)
        self.net.advance(15.0)
        error = self.failureResultOf(failed, CallFailed).value
        self.assertEqual((error.peer, error.reason), (nobody, ErrorCode.NOT_REGISTERED.value))
        self.assertEqual(error.cause, IntroductionEnded(ErrorCode.NOT_REGISTERED))

    def test_what_asks_again_while_the_node_stops(self) -> None:
        """It fails at once, also within the errback that the stop calls, and nothing is left on the clock."""
        peer = Identity.generate(self.net.random_bytes("nobody")).peer_id
        again: list[Deferred[Any]] = []

        def ask(failure: Failure) -> None:
            again.extend((self.alice.connect(peer), self.alice.when_registered()))

        self.alice.connect(peer).addErrback(ask)
        stopping = self.alice.stopService()
        again += [self.alice.connect(self.bob.identity.peer_id), self.alice.when_registered()]
        for failed in again:
            error = self.failureResultOf(failed, CallFailed).value
            self.assertEqual(error.reason, ErrorCode.CANCELLED.value)
        self.assertEqual(len(again), 4)
        self.assertEqual(self.alice.calls(), {})
        self.net.wait(stopping, 3.0, "a node stops")
        self.assertEqual(self.of("alice", Calling), [Calling(peer)])

    def test_a_listener_that_fails_to_say_whether_it_can_answer(self) -> None:
        """It counts as one that can't, and others are asked."""

        def fail() -> bool:
            raise ZeroDivisionError("a fault of the application")

        self.alice.subscribe(lambda event: None, fail)
        refused = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertEqual(self.failureResultOf(refused, CallFailed).value.reason, ErrorCode.REFUSED.value)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        self.alice.subscribe(lambda event: None, lambda: True)
        waiting = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertNoResult(waiting)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        self.assertTrue(self.alice.status.rendezvous)
        self.bob.hangup(self.alice.identity.peer_id)
        self.failureResultOf(waiting, CallFailed)

    def test_a_service_that_fails_to_say_who_may_call(self) -> None:
        """Another service still takes calls of those that it is for."""

        def fail(peer: PeerID) -> bool:
            raise ZeroDivisionError("a fault of the application")

        self.alice.serve("broken/1", Factory.forProtocol(Echo), fail, takes_calls=True)
        self.alice.serve("echo/1", Factory.forProtocol(Echo), anyone, takes_calls=True)
        link = self.net.wait(self.bob.connect(self.alice.identity.peer_id), 20.0, "a link")
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        opened = link.connect("echo/1", Factory.forProtocol(RecordingProtocol))
        self.net.wait(opened, 1.0, "a stream")

    def test_nobody_to_ask(self) -> None:
        """A stranger's call is refused at once where no listener can have it decided."""
        refused = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertEqual(self.failureResultOf(refused, CallFailed).value.reason, ErrorCode.REFUSED.value)
        self.assertEqual(len(self.of("alice", IncomingCall)), 1)
        self.assertEqual(self.of("alice", CallUnanswerable), [CallUnanswerable(self.bob.identity.peer_id)])

    def test_a_listener_that_leaves(self) -> None:
        """What follows from its leaving is told after the event at which it left."""

        def leave(event: Event) -> None:
            if isinstance(event, IncomingCall):
                end()

        end = self.alice.subscribe(leave)
        told: list[Event] = []
        self.alice.subscribe(told.append)
        refused = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertEqual(self.failureResultOf(refused, CallFailed).value.reason, ErrorCode.REFUSED.value)
        self.assertEqual([type(event) for event in told], [IncomingCall, CallUnanswerable, CallFailed])

    def test_a_listener_that_leaves_at_a_call_of_a_known_peer(self) -> None:
        """The call is accepted all the same, though nobody could be asked."""
        self.books["alice"].add(self.bob.identity.peer_id, "bob")

        def leave(event: Event) -> None:
            if isinstance(event, IncomingCall):
                end()

        end = self.alice.subscribe(leave)
        linked = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertEqual(self.successResultOf(linked).core.remote, self.alice.identity.peer_id)

    def test_an_answering_listener_that_leaves(self) -> None:
        """Calls that it can't have decided any more are refused, whichever event it leaves at."""

        def leave(event: Event) -> None:
            if isinstance(event, Calling):
                end()

        end = self.alice.subscribe(leave, lambda: True)
        refused = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertNoResult(refused)
        other = self.alice.connect(Identity.generate(self.net.random_bytes("nobody")).peer_id)
        self.net.advance(15.0)
        self.failureResultOf(other, CallFailed)
        self.assertEqual(self.failureResultOf(refused, CallFailed).value.reason, ErrorCode.REFUSED.value)

    def test_a_listener_decides(self) -> None:
        there = True
        end = self.alice.subscribe(lambda event: None, lambda: there)
        waiting = self.bob.connect(self.alice.identity.peer_id)
        self.net.advance(3.0)
        self.assertNoResult(waiting)
        self.alice.accept(self.bob.identity.peer_id)
        link = self.net.wait(waiting, 20.0, "a link")
        self.assertEqual(link.remote, self.alice.identity.peer_id)
        self.assertEqual(self.of("alice", CallUnanswerable), [])
        end()


class ExampleTests(NodeTestCase):
    """The programs in docs/examples, at once on one link."""

    if not EXAMPLES.is_dir():
        skip = "docs/examples is not installed"

    def test_echo_and_counter(self) -> None:
        echo, counter = (runpy.run_path(str(EXAMPLES / f"{name}.py")) for name in ("echo", "counter"))
        peer = self.bob.identity.peer_id
        shown: list[str] = []
        runpy.run_path(str(EXAMPLES / "watch.py"))["watch"](self.alice, shown.append)
        self.bob.serve("echo/1", Factory.forProtocol(echo["Echo"]), anyone)
        stop = self.bob.serve("counter/1", counter["CountFactory"]())

        async def increment() -> int:
            stream: Any = await link.connect("counter/1", Factory.forProtocol(counter["Increment"]))
            total: int = await stream.answered
            return total

        link = self.net.wait(self.alice.connect(peer), 20.0, "a link")
        refused = Deferred.fromCoroutine(increment())
        self.net.advance(1.0)
        code = self.failureResultOf(refused, ServiceRefused).value.code
        self.assertIs(code, RefusalCode.NOT_ALLOWED)
        self.books["bob"].grant(self.alice.identity.peer_id, "counter/1")
        asking = [Deferred.fromCoroutine(echo["ask"](link, "hello"))]
        asking += [Deferred.fromCoroutine(increment()) for _ in range(2)]
        answers = [self.net.wait(answer, 2.0, "an answer") for answer in asking]
        self.assertEqual(answers, ["hello", 1, 2])
        stop()
        gone = Deferred.fromCoroutine(increment())
        self.net.advance(1.0)
        self.assertIs(self.failureResultOf(gone, ServiceRefused).value.code, RefusalCode.NO_SERVICE)
        self.assertEqual(len(self.of("bob", Connected)), 1)
        self.net.advance(IDLE_TIME + 2.0)
        self.assertEqual(len(self.of("bob", Disconnected)), 1)
        self.assertEqual(shown[-1], f"{peer.short}: the link is over (bye)")
        self.assertIn(f"{peer.short}: host, ", shown[0])
        self.assertEqual(len(shown), 2)

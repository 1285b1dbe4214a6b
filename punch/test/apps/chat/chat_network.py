"""
Two or more chats in memory: real stores, streams and schedules; a `ChatNetwork` stands for calls and
links.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat import Chat, ChatError, ChatMessage
from punch.apps.chat.events import Event, MessageAdded, MessageChanged
from punch.apps.chat.protocol import STREAM_NAME
from punch.apps.chat.storage import ImmediateWorker, Worker
from punch.apps.chat.store import Store
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.events import LinkError, LinkRole, Path
from punch.link.link import Link
from punch.link.transport import LinkAddress
from punch.node import events as node_events
from punch.node.causes import OtherCause
from punch.test.node.memory_node import LinkStandIn, MemoryNode
from punch.ui.text.chat import chat_error_sentence
from punch.wire.address import Address

E = TypeVar("E", bound=Event)
T = TypeVar("T")


def peer_id(seed: int) -> PeerID:
    """The same one for the same seed."""
    return Identity.generate(lambda count: bytes([seed]) * count).peer_id


class StreamEnd(StringTransport):
    """One end of a stream."""

    aborted = False

    def __init__(self, of: MemoryStream) -> None:
        super().__init__()
        self.of = of

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()

    def loseConnection(self) -> None:
        super().loseConnection()
        self.of.network.later(self.of.close)


class MemoryStream:
    """One stream between two chats: bytes cross when the network runs."""

    def __init__(self, network: ChatNetwork, near: IProtocol, far: IProtocol) -> None:
        self.network = network
        self.ends = (near, far)
        self.transports = (StreamEnd(self), StreamEnd(self))
        self.open = True
        network.streams.append(self)
        for end, transport in zip(self.ends, self.transports, strict=True):
            end.makeConnection(transport)

    def run(self) -> bool:
        """Let what was written cross; whether anything did."""
        moved = False
        for here, there in ((0, 1), (1, 0)):
            data = self.transports[here].value()
            if data and self.open and self.transports[there].producerState == "producing":
                self.transports[here].clear()
                self.ends[there].dataReceived(data)
                moved = True
        return moved

    def close(self) -> None:
        """It is over, for both; what was under way is lost."""
        if self.open:
            self.open = False
            self.network.streams.remove(self)
            for end in self.ends:
                end.connectionLost(None)  # type: ignore[arg-type]


class LinkEnd(LinkStandIn):
    """One end of a link."""

    def __init__(self, network: ChatNetwork, local: ChatPeer, remote: ChatPeer, role: LinkRole) -> None:
        self.network = network
        self.local_side = local
        self.remote_side = remote
        self.remote = remote.id
        self.role = role

    def connect(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        if self.local_side.ends.get(self.remote) is not self:
            return fail(LinkError("The link is over."))
        near = factory.buildProtocol(self.address)
        far = self.remote_side.stream(service, self.local_side.id)
        assert near is not None
        MemoryStream(self.network, near, far)
        return succeed(near)

    @property
    def address(self) -> LinkAddress:
        """The other side, as streams of this end are told."""
        return LinkAddress(self.remote, STREAM_NAME, cast(Link, self))


class ChatNetwork:
    """
    Connects chats in place of a rendezvous and links.

    :ivar up: the sides that can be called.
    :ivar step: how time passes, in seconds.
    :ivar processes: how many sides there were so far.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.step = 0.25
        self.processes = 0
        self.up: dict[PeerID, ChatPeer] = {}
        self.streams: list[MemoryStream] = []
        self._soon: list[Callable[[], None]] = []

    def later(self, call: Callable[[], None]) -> None:
        """In the next turn."""
        self._soon.append(call)

    def run(self, seconds: float = 0.0) -> None:
        """Let everything cross until nothing is under way, and then time pass."""
        while True:
            while self._soon or self._cross():
                soon, self._soon = self._soon, []
                for call in soon:
                    call()
            if seconds <= 0:
                return
            self.clock.advance(min(self.step, seconds))
            seconds -= self.step

    def _cross(self) -> bool:
        moved = [stream.run() for stream in list(self.streams)]
        return any(moved)

    def connect(self, caller: ChatPeer, callee: ChatPeer) -> None:
        """A link comes up."""
        for near, far, role in ((caller, callee, LinkRole.CALLER), (callee, caller, LinkRole.CALLEE)):
            near.ends[far.id] = LinkEnd(self, near, far, role)
        for near, far in ((callee, caller), (caller, callee)):
            link = cast(Link, near.ends[far.id])
            path = Path("host", Address("192.0.2.1", 4000), Address("192.0.2.2", 5000), "udp", 0.01)
            near.emit(node_events.Connected(far.id, far.chat.name, path, link))

    def cut(self, one: ChatPeer, other: ChatPeer, reason: str = "lost") -> None:
        """The link ends, and what is under way is lost."""
        for stream in list(self.streams):
            stream.close()
        for near, far in ((one, other), (other, one)):
            if near.ends.pop(far.id, None) is not None:
                near.emit(node_events.Disconnected(far.id, OtherCause(reason, "The link ended.")))


class DiskInMemory(ImmediateWorker):
    """A store that outlives its process, as a file does."""

    def stop(self) -> Deferred[None]:
        return succeed(None)


class ChatPeer(MemoryNode):
    """
    One chat, the node that it believes to have, and a view that notes what it is told.

    :ivar slow: the view takes its time: `answers` has a Deferred for each message of the other side.
    :ivar deaf: the view never has what it is told of marks.
    """

    def __init__(
        self,
        network: ChatNetwork,
        seed: int,
        name: str = "",
        *,
        store: Store | None = None,
        worker: Worker | None = None,
        book: AddressBook | None = None,
        identity: PeerID | None = None,
    ) -> None:
        super().__init__(lambda: 1_000_000.0 + network.clock.seconds())
        self.network = network
        self.id = identity or peer_id(seed)
        self.ends: dict[PeerID, LinkEnd] = {}
        self.events: list[Event] = []
        self.can_answer = True
        self.slow = False
        self.deaf = False
        self.answers: list[Deferred[None]] = []
        self.saved: list[str] = []
        self.killed = False
        self._attempts: set[PeerID] = set()
        self.store = store or Store(None)
        self.book = AddressBook(None) if book is None else book
        # No two processes draw the same epoch, not even of the same seed.
        self._random = seed + (network.processes << 16)
        network.processes += 1
        self.chat = Chat(
            me=self.id,
            name=name or f"side-{seed}",
            node=self,
            book=self.book,
            worker=worker or DiskInMemory(self.store),
            clock=network.clock,
            wall=self._wall,
            random=self._bytes,
            save_name=self.saved.append,
        )
        self.subscribe(self.chat.handle, lambda: self.chat.views.can_answer)
        self.chat.views.attach(self)

    def _bytes(self, count: int) -> bytes:
        self._random += 1
        return (self._random % (1 << 8 * count)).to_bytes(count, "big")

    def start(self) -> ChatPeer:
        """Load, and be there."""
        self.chat.start()
        self.network.up[self.id] = self
        self.emit(node_events.Registered("punch://rendezvous"))
        return self

    def kill(self) -> None:
        """Its process ends, at once; the other sides find out."""
        for connection in list(self.ends.values()):
            self.network.cut(self, connection.remote_side)
        self.network.up.pop(self.id, None)
        self.killed = True
        self.chat.stop()

    def restart(self, seed: int, store: Store | None = None) -> ChatPeer:
        """Kill this process, and make another one on the same disk, or on another one."""
        self.kill()
        return ChatPeer(
            self.network, seed, self.chat.name, store=store or self.store, book=self.book, identity=self.id
        )

    # INode

    def connect(self, peer: PeerID) -> Deferred[Link]:
        self.asked.append(("call", peer))
        if peer not in self._attempts:
            self._attempts.add(peer)
            self.emit(node_events.Calling(peer))
            self.network.later(lambda: self._called(peer))
        return Deferred()

    def reject_unanswerable(self) -> None:
        self.asked.append(("reject unanswerable", self.id))

    def _called(self, peer: PeerID) -> None:
        if self.killed:
            return
        self._attempts.discard(peer)
        other = self.network.up.get(peer)
        if peer in self.ends:
            self.emit(node_events.AlreadyConnected(peer))
        elif other is None:
            self.emit(node_events.CallFailed(peer, OtherCause("not-registered", "They are not there.")))
        elif other.book.blocked(self.id):
            self.emit(node_events.CallFailed(peer, OtherCause("refused", "They said no.")))
        else:
            self.network.connect(self, other)

    def hangup(self, peer: PeerID) -> None:
        super().hangup(peer)
        if peer in self.ends:
            other = self.ends[peer].remote_side
            self.network.later(lambda: self.network.cut(self, other, "bye"))

    def stream(self, service: str, peer: PeerID) -> IProtocol:
        """What answers a stream that `peer` opens to a service."""
        protocol = self.services[service].buildProtocol(self.ends[peer].address)
        assert protocol is not None
        return protocol

    def handle(self, event: Event) -> Deferred[None] | None:
        self.events.append(event)
        if self.slow and isinstance(event, MessageAdded) and not event.message.outgoing:
            self.answers.append(Deferred())
            return self.answers[-1]
        return Deferred() if self.deaf and isinstance(event, MessageChanged) else None

    # What it was told

    def of(self, kind: type[E]) -> list[E]:
        """All events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def heard(self) -> list[str]:
        """The other sides' messages, in order, as the view was told."""
        return [e.message.text for e in self.of(MessageAdded) if not e.message.outgoing]

    def states(self, number: int) -> list[str]:
        """All states that the view saw of one message."""
        changes: list[MessageAdded | MessageChanged] = [
            event for event in self.events if isinstance(event, (MessageAdded, MessageChanged))
        ]
        return [str(e.message.state) for e in changes if e.message.number == number]

    def call_count(self, to: ChatPeer) -> int:
        """How often it called."""
        return self.asked.count(("call", to.id))


def result(done: Deferred[T]) -> T:
    """What a Deferred has fired with."""
    results: list[Any] = []
    done.addBoth(results.append)
    if not results:
        raise AssertionError("it has not fired")
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return cast(T, results[0])


class ChatTestCase(SynchronousTestCase):
    """Two sides; bob isn't there yet."""

    def setUp(self) -> None:
        self.make_world()

    def make_world(self) -> None:
        """Make both sides anew."""
        self.network = ChatNetwork()
        self.alice = ChatPeer(self.network, 1, "alice").start()
        self.bob = ChatPeer(self.network, 2, "bob")

    def run_for(self, seconds: float = 0.0) -> None:
        """Let things happen."""
        self.network.run(seconds)

    def connect(self) -> None:
        """A link with a chat on it."""
        self.bob.start()
        self.network.connect(self.alice, self.bob)
        self.run_for()

    def cut(self) -> None:
        """The link is lost."""
        self.network.cut(self.alice, self.bob)

    def say(self, text: str, side: ChatPeer | None = None) -> ChatMessage:
        """Alice, or bob, says something; returned is what is on the disk then."""
        side = side or self.alice
        return result(side.chat.send((self.bob if side is self.alice else self.alice).id, text))

    def assert_error(self, code: str, call: object, *arguments: object) -> str:
        """It is refused with that code; returned is the sentence."""
        error = self.assertRaises(ChatError, call, *arguments)
        self.assertEqual(error.code, code)
        return chat_error_sentence(error)

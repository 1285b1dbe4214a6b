"""For the tests of the front ends: the edges around them, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from punch.apps.chat import Chat, MessageState
from punch.apps.chat.events import Event, MessageAdded, MessageChanged
from punch.apps.chat.model import ChatProblem, StoreError
from punch.apps.chat.storage import ImmediateWorker, Worker
from punch.apps.chat.store import Store
from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.events import LinkRole, Path
from punch.link.link import Link
from punch.link.transport import LinkAddress
from punch.node.events import Connected, IncomingCall, Ready
from punch.test.node.memory_node import LinkStandIn, MemoryNode
from punch.ui.front_end import FrontEndContext, Settings
from punch.ui.terminal.escapes import Notice
from punch.wire.address import Address


def identity(seed: int) -> Identity:
    """The same one for the same seed."""
    return Identity.generate(lambda count: bytes([seed]) * count)


P = ParamSpec("P")
T = TypeVar("T")

ME = identity(1).peer_id
BOB = identity(2).peer_id
EVE = identity(3).peer_id

#: When the tests take place, in seconds since the epoch.
NOW = 1_700_000_000.0


class Screen:
    """What a front end writes, and how the reading of stdin goes."""

    def __init__(self) -> None:
        self.data = b""
        self.reading = True
        self.stalled = False
        self._waiting: list[Deferred[None]] = []

    def write(self, data: bytes) -> None:
        self.data += data

    def written(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self.stalled:
            self._waiting.append(done)
        else:
            done.callback(None)
        return done

    def flush(self) -> None:
        """Whoever reads stdout reads on."""
        self.stalled = False
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.callback(None)

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True

    def take(self) -> str:
        """What was written since the last time."""
        data, self.data = self.data, b""
        return data.decode()


class RemoteChat:
    """The other side of a link: a chat as real as ours, and a view that hears."""

    can_answer = True

    def __init__(self, me: PeerID, clock: Clock) -> None:
        self.node = MemoryNode(lambda: NOW + clock.seconds())
        self.heard: list[str] = []
        self.marks: list[int] = []
        self.chat = make_chat(me, "bob", self.node, clock, seed=7)
        self.chat.views.attach(self)

    def handle(self, event: Event) -> None:
        if isinstance(event, MessageAdded) and not event.message.outgoing:
            self.heard.append(event.message.text)
        elif isinstance(event, MessageChanged) and event.message.state is MessageState.DELIVERED:
            self.marks.append(event.message.id)

    def send(self, text: str) -> None:
        self.chat.send(ME, text)


class Disk(ImmediateWorker):
    """
    Where the store is.

    :ivar full: nothing more is kept.
    """

    full = False

    def run(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        if self.full and call in (Store.add, Store.add_all):
            return fail(StoreError(ChatProblem.HISTORY_UNUSABLE, text="the disk is full"))
        return super().run(call, *arguments, **named)


class ChatLink(LinkStandIn):
    """
    A link to a peer whose side of the chat is real as well; bytes cross when `run` is called.
    """

    role = LinkRole.CALLER
    rtt = 0.0123

    def __init__(self, remote: PeerID) -> None:
        self.remote = remote
        self.far = RemoteChat(remote, Clock())
        self.near: IProtocol | None = None
        self.near_transport = StringTransport()
        self.far_transport = StringTransport()
        self._far_protocol: IProtocol | None = None

    @property
    def heard(self) -> list[str]:
        """What the other side heard."""
        return self.far.heard

    @property
    def marks(self) -> list[int]:
        """Which of its messages have come to us."""
        return self.far.marks

    def connect(self, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        near = self.near = factory.buildProtocol(LinkAddress(self.remote, service, cast(Link, self)))
        self.near_transport, self.far_transport = StringTransport(), StringTransport()
        back = LinkAddress(ME, service, cast(Link, _RemoteLink()))
        far = self._far_protocol = self.far.node.services[service].buildProtocol(back)
        assert near is not None
        assert far is not None
        near.makeConnection(self.near_transport)
        far.makeConnection(self.far_transport)
        return succeed(near)

    def run(self) -> None:
        """Let everything cross, both ways, until nothing is under way."""
        assert self.near is not None
        assert self._far_protocol is not None
        while self.near_transport.value() or self.far_transport.value():
            for source, sink in (
                (self.near_transport, self._far_protocol),
                (self.far_transport, self.near),
            ):
                data = source.value()
                source.clear()
                if data:
                    sink.dataReceived(data)


class _RemoteLink:
    """The link as the other side has it."""

    remote = ME
    role = LinkRole.CALLEE
    rtt = 0.0123


def make_chat(
    me: PeerID, name: str, node: MemoryNode, clock: Clock, seed: int = 5, worker: Worker | None = None
) -> Chat:
    """A chat that keeps everything in memory."""
    chat = Chat(
        me=me,
        name=name,
        node=node,
        book=AddressBook(None),
        worker=worker or Disk(Store(None)),
        clock=clock,
        wall=lambda: NOW + clock.seconds(),
        random=lambda count: bytes([seed]) * count,
    )
    node.subscribe(chat.handle, lambda: chat.views.can_answer)
    return chat


def connected(chat_link: ChatLink, name: str = "bob") -> Connected:
    """The event of a link over `wire`."""
    return Connected(
        chat_link.remote,
        name,
        Path("host", Address("192.0.2.1", 4000), Address("192.0.2.2", 5000), "udp", 0.0004),
        cast(Link, chat_link),
    )


def incoming(peer: PeerID, name: str = "eve", decided: bool = False) -> IncomingCall:
    """A stranger's call."""
    return IncomingCall(peer, name, known=False, decided=decided)


class FrontEndFixture:
    """A front end and all its edges."""

    def __init__(
        self, target: PeerID | None = None, history: bool = True, notice: Notice = Notice.BELL
    ) -> None:
        self.clock = Clock()
        self.screen = Screen()
        self.node = MemoryNode(lambda: NOW + self.clock.seconds())
        self.disk = Disk(Store(None))
        self.chat = make_chat(ME, "alice", self.node, self.clock, worker=self.disk)
        self.ends: list[tuple[int, str | None]] = []
        self.settings = Settings(ME, "alice", target, history, notice)
        self.context = FrontEndContext(
            self.clock,
            lambda status, sentence: self.ends.append((status, sentence)),
            lambda: NOW + self.clock.seconds(),
        )

    def start(self) -> None:
        """As the service does."""
        self.chat.start()
        self.node.emit(Ready(ME))

    def connect(self, peer: PeerID = BOB, name: str = "bob") -> ChatLink:
        """Have a link to a peer with a chat on it."""
        chat_link = ChatLink(peer)
        self.node.emit(connected(chat_link, name))
        chat_link.run()
        return chat_link

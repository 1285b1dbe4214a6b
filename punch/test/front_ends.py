"""For the tests of the front ends: the edges around them, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from punch.apps.chat_v1 import ChatProtocol, Conversation
from punch.identity import Identity, PeerID
from punch.link.events import Role
from punch.link.link import Link
from punch.peer.events import Connected, IncomingCall, Ready
from punch.ui.front_end import Settings, Surroundings
from punch.wire.address import Address


def identity(seed: int) -> Identity:
    """The same one for the same seed."""
    return Identity.generate(lambda count: bytes([seed]) * count)


ME = identity(1).peer_id
BOB = identity(2).peer_id
EVE = identity(3).peer_id


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


class Switchboard:
    """Stands where the node is, and writes down what it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, PeerID]] = []
        self.handlers: dict[str, Callable[[Link], IProtocol]] = {}

    def call(self, peer: PeerID) -> None:
        self.asked.append(("call", peer))

    def accept(self, peer: PeerID) -> None:
        self.asked.append(("accept", peer))

    def reject(self, peer: PeerID) -> None:
        self.asked.append(("reject", peer))

    def hangup(self, peer: PeerID) -> None:
        self.asked.append(("hangup", peer))

    def handle(self, name: str, factory: Callable[[Link], IProtocol]) -> None:
        self.handlers[name] = factory


class Wire:
    """
    A link to a peer whose side of the chat is real as well; bytes cross when `run` is called.
    """

    role = Role.CALLER
    rtt = 0.0123

    def __init__(self, remote: PeerID) -> None:
        self.remote = remote
        self.heard: list[str] = []
        self.marks: list[int] = []
        self.far = ChatProtocol(self._hear, self.marks.append, lambda error: None, Conversation())
        self.far_transport = StringTransport()
        self.near: IProtocol | None = None
        self.near_transport = StringTransport()

    def _hear(self, number: int, text: str) -> None:
        self.heard.append(text)

    def open_stream(self, name: str, protocol: IProtocol) -> StringTransport:
        self.near = protocol
        protocol.makeConnection(self.near_transport)
        self.far.makeConnection(self.far_transport)
        return self.near_transport

    def run(self) -> None:
        """Let everything cross, both ways, until nothing is under way."""
        assert self.near is not None
        while self.near_transport.value() or self.far_transport.value():
            for source, sink in ((self.near_transport, self.far), (self.far_transport, self.near)):
                data = source.value()
                source.clear()
                if data:
                    sink.dataReceived(data)


def connected(wire: Wire, name: str = "bob") -> Connected:
    """The event of a link over `wire`."""
    return Connected(
        wire.remote,
        name,
        "host",
        Address("192.0.2.1", 4000),
        Address("192.0.2.2", 5000),
        "udp",
        0.0004,
        cast(Link, wire),
    )


def incoming(peer: PeerID, name: str = "eve", decided: bool = False) -> IncomingCall:
    """A stranger's call."""
    return IncomingCall(peer, name, known=False, decided=decided)


class Stage:
    """A front end and all its edges."""

    def __init__(self, target: PeerID | None = None) -> None:
        self.clock = Clock()
        self.screen = Screen()
        self.node = Switchboard()
        self.ends: list[tuple[int, str | None]] = []
        self.settings = Settings(ME, "alice", target)
        self.surroundings = Surroundings(
            self.clock,
            lambda status, sentence: self.ends.append((status, sentence)),
            lambda count: b"s" * count,
        )

    def start(self, front_end: Any) -> None:
        """As the service does."""
        front_end.handle(Ready(ME))

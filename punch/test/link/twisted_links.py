"""Two links in the clock of a test, joined by a wire, and protocols that record what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.link.link import Link
from punch.link.services import Services
from punch.link.transport import StreamTransport
from punch.test.link.link_pair import LinkTestCase, open_stream


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

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.calls.append("lost")
        self.reason = reason


def only(protocol: RecordingProtocol) -> Factory:
    """A factory that builds this protocol."""
    return Factory.forProtocol(lambda: protocol)


class NoProtocol(Factory):
    """Builds nothing, as factories that allow no more connections do."""

    def buildProtocol(self, addr: object) -> None:
        return None


@implementer(IHalfCloseableProtocol)
class HalfCloser(RecordingProtocol):
    """One that may end its direction and still be sent something."""

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


class TwistedCase(LinkTestCase):
    def make_world(self) -> None:
        super().make_world()
        self.clock = Clock()
        self.delay = 0.01
        self.dead = False
        self.flushes = 0
        self.services = Services()
        self.frames: list[tuple[int, bytes]] = []
        self.frame_error: Exception | None = None
        self.routes: set[bytes] = set()
        self.caller, self.callee = (
            Link(
                core,
                clock=self.clock,
                monotonic=self.clock.seconds,
                send=self.wire(index),
                services=(Services(), self.services)[index],
                on_control=(self.ignore, self.receive_frame)[index],
                on_connection_id=(self.ignore, self.route)[index],
            )
            for index, core in enumerate((self.make_caller().core, self.make_callee().core))
        )
        self.links = (self.caller, self.callee)
        self.accepted: list[RecordingProtocol] = []
        self.services.serve("echo/1", self.accept(RecordingProtocol))

    def ignore(self, *args: object) -> None:
        """Do nothing about what the caller's link reports."""

    def receive_frame(self, frame_type: int, payload: bytes) -> None:
        """Keep a control frame that the callee receives, or fail."""
        if self.frame_error is not None:
            raise self.frame_error
        self.frames.append((frame_type, payload))

    def route(self, connection_id: bytes, added: bool) -> None:
        """Keep the callee's connection IDs."""
        if added:
            self.routes.add(connection_id)
        else:
            self.routes.discard(connection_id)

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
        """Open a stream; return the protocols at both ends."""
        near = RecordingProtocol() if protocol is None else protocol
        open_stream(self.caller, "echo/1", near)
        self.advance(0.05)
        return near, self.accepted[-1]

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds * 20))

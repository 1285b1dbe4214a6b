"""
The Twisted protocol of one stream of a chat: moves bytes between the transport and a `ChatCore`.

Marks are written at once, messages as the transport takes them: what waits, waits in the core, and a mark
passes it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress, IConsumer, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.chat.protocol import ChatCore, ChatProtocolError, Event
from punch.identity import PeerID
from punch.link.transport import LinkAddress

if TYPE_CHECKING:
    from punch.link.link import Link

PIECE: Final = 1200
"""Bytes of messages that are written at once."""


class ChatStreamOwner(Interface):
    """What a stream tells whoever made it."""

    def stream_opened(self, stream: ChatStream) -> None:
        """It can carry bytes: `begin` is to be called soon. What arrives meanwhile is kept."""

    def stream_event(self, stream: ChatStream, event: Event) -> None:
        """The other side said something."""

    def stream_ended(self, stream: ChatStream, error: str | None) -> None:
        """It is over, and nobody else had ended it. `error`: how the other side broke the protocol."""


@implementer(IPushProducer)
class ChatStream(Protocol):
    """
    A chat over one stream.

    :param link: what carries it.
    :ivar core: what it says and hears, from `begin` on.
    """

    def __init__(self, owner: ChatStreamOwner, link: Link) -> None:
        self.link = link
        self.core: ChatCore | None = None
        self._owner = owner
        self._live = False
        self._paused = False
        self._full = False
        self._registered = False
        self._early = bytearray()
        self._telling = False

    def connectionMade(self) -> None:
        """There is a transport."""
        self._live = True
        self.pause(True)
        self._owner.stream_opened(self)

    @property
    def ready(self) -> bool:
        """Whether what is said on `core` goes out."""
        return self._live and self.core is not None

    def begin(self, core: ChatCore) -> None:
        """Greet, and hear what the other side has said already."""
        self.core = core
        self._registered = True
        IConsumer(self.transport).registerProducer(self, True)
        self.flush()
        self.pause(False)
        early = bytes(self._early)
        self._early.clear()
        if early:
            self.dataReceived(early)

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the other side."""
        if not self._live:
            return
        if self.core is None:
            self._early += data
            return
        error = None
        try:
            self.core.receive_data(data)
        except ChatProtocolError as problem:
            error = str(problem)
        self.flush()
        self._tell()
        if error is not None and self._live:
            self._live = False
            assert self.transport is not None
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()
            self._owner.stream_ended(self, error)

    def flush(self) -> None:
        """Send what the core has to say, as far as the transport takes it."""
        while self.ready and self.core is not None:
            data = self.core.data_to_send(0 if self._full else PIECE)
            if not data:
                return
            assert self.transport is not None
            self.transport.write(data)

    # IPushProducer: the transport asks for more, or for no more

    def pauseProducing(self) -> None:
        """Messages wait."""
        self._full = True

    def resumeProducing(self) -> None:
        """Messages go on."""
        self._full = False
        self.flush()

    def stopProducing(self) -> None:
        """The transport is over, as `connectionLost` says."""
        self._full = True

    def say(self) -> None:
        """After something was said on the core."""
        self.flush()
        self._tell()

    def pause(self, paused: bool) -> None:
        """Read no more for now, or again."""
        if self._live and paused != self._paused:
            self._paused = paused
            producer = IPushProducer(self.transport)
            if paused:
                producer.pauseProducing()
            else:
                producer.resumeProducing()

    def close(self) -> None:
        """Another stream carries the chat on: say and hear nothing more."""
        if self._live:
            self._live = False
            assert self.transport is not None
            if self._registered:
                IConsumer(self.transport).unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is over."""
        if self._live:
            self._live = False
            self._owner.stream_ended(self, None)

    def _tell(self) -> None:
        if self._telling or self.core is None:
            return  # What the owner does meanwhile comes in its turn.
        self._telling = True
        try:
            while self._live and (event := self.core.next_event()) is not None:
                self._owner.stream_event(self, event)
        finally:
            self._telling = False


class ChatFactory(Factory):
    """
    Builds the streams of chats, those that this side opens and those that it answers.

    :param owner_of: whom the stream of a peer belongs to.
    """

    noisy = False

    def __init__(self, owner_of: Callable[[PeerID], ChatStreamOwner]) -> None:
        self._owner_of = owner_of

    def buildProtocol(self, addr: IAddress | None) -> ChatStream:
        """A stream at one end of a link."""
        assert isinstance(addr, LinkAddress)
        return ChatStream(self._owner_of(addr.peer), addr.link)

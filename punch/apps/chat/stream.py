"""
The Twisted protocol of one stream of a chat: moves bytes between the transport and a `ChatCore`.

Marks are written at once, messages as the transport takes them. Messages wait in the core, where marks pass
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.chat.protocol import ChatCore, ChatProtocolError
from punch.identity import PeerID
from punch.link.transport import LinkAddress, StreamTransport

if TYPE_CHECKING:
    from punch.apps.chat.conversation import Conversation
    from punch.link.link import Link

PIECE: Final = 1200
"""Bytes of messages that are written at once."""


@implementer(IPushProducer)
class ChatStream(Protocol):
    """
    A chat over one stream.

    :param conversation: is told when the stream opens, what the other side says, and when the stream ends.
    :param link: what carries it.
    :ivar core: the protocol, from `begin` on.
    """

    transport: StreamTransport

    def __init__(self, conversation: Conversation, link: Link) -> None:
        self.link = link
        self.core: ChatCore | None = None
        self._conversation = conversation
        self._live = False
        self._paused = False
        self._full = False
        self._early = bytearray()
        self._telling = False

    def connectionMade(self) -> None:
        """Tell the conversation, which calls `begin` soon; bytes that arrive before are kept."""
        self._live = True
        self.pause(True)
        self._conversation.stream_opened(self)

    @property
    def ready(self) -> bool:
        """Whether what `core` has to send is sent."""
        return self._live and self.core is not None

    def begin(self, core: ChatCore) -> None:
        """Send the hello, and receive what has arrived already."""
        self.core = core
        self.transport.registerProducer(self, True)
        self.flush()
        self.pause(False)
        early = bytes(self._early)
        self._early.clear()
        if early:
            self.dataReceived(early)

    def dataReceived(self, data: bytes) -> None:
        """Give the core bytes of the other side."""
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
            self.transport.abortConnection()
            self._conversation.stream_ended(self, error)

    def flush(self) -> None:
        """Send what the core has to send, as far as the transport takes it."""
        while self.ready and self.core is not None:
            data = self.core.data_to_send(0 if self._full else PIECE)
            if not data:
                return
            self.transport.write(data)

    # IPushProducer: called by the transport

    def pauseProducing(self) -> None:
        """Let messages wait."""
        self._full = True

    def resumeProducing(self) -> None:
        """Send messages again."""
        self._full = False
        self.flush()

    def stopProducing(self) -> None:
        """The transport has ended, which `connectionLost` tells."""
        self._full = True

    def say(self) -> None:
        """Send what the core was given, and tell what happened. To be called after each call of the core."""
        self.flush()
        self._tell()

    def pause(self, paused: bool) -> None:
        """Stop reading, or read again."""
        if self._live and paused != self._paused:
            self._paused = paused
            if paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def close(self) -> None:
        """Close the stream without a word to the conversation, which has another one."""
        if self._live:
            self._live = False
            if self.core is not None:
                self.transport.unregisterProducer()
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the conversation."""
        if self._live:
            self._live = False
            self._conversation.stream_ended(self, None)

    def _tell(self) -> None:
        if self._telling or self.core is None:
            return  # The loop below goes on with what the conversation causes.
        self._telling = True
        try:
            while self._live and (event := self.core.next_event()) is not None:
                self._conversation.stream_event(self, event)
        finally:
            self._telling = False


class ChatFactory(Factory):
    """
    Builds the streams of chats, those that this side opens and those that it answers.

    :param conversation_of: the conversation with a peer.
    """

    noisy = False

    def __init__(self, conversation_of: Callable[[PeerID], Conversation]) -> None:
        self._conversation_of = conversation_of

    def buildProtocol(self, addr: IAddress | None) -> ChatStream:
        """A stream at one end of a link."""
        assert isinstance(addr, LinkAddress)
        return ChatStream(self._conversation_of(addr.peer), addr.link)

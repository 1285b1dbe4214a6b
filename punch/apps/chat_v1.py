"""
Chat on a link: `ChatProtocol` is one stream of it, `Chats` every chat of a node.

A message counts as delivered only when the other side's application has it: `on_message` may return a
Deferred, and the ack goes out when that fires.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat_core import (
    MAX_TEXT,
    STREAM_NAME,
    ChatCore,
    ChatError,
    ChatProtocolError,
    Farewell,
    MessageReceived,
    check_text,
)
from punch.identity import PeerID

if TYPE_CHECKING:
    from punch.link.link import Link

__all__ = [
    "MAX_TEXT",
    "STREAM_NAME",
    "ChatCore",
    "ChatError",
    "ChatProtocol",
    "ChatProtocolError",
    "Chats",
    "Conversation",
    "check_text",
]

#: Reading from the stream stops while this many messages wait for the application.
MAX_UNHANDLED = 64

#: Chats that are remembered; of those without a link and anything undelivered, the oldest go first.
MAX_CONVERSATIONS = 256

OnMessage = Callable[[int, str], "Deferred[None] | None"]


class Conversation:
    """
    The chat with one peer, and the stream that carries it now.

    :param on_handled: is called each time that the application has had a message.
    """

    def __init__(
        self, random: Callable[[int], bytes] = os.urandom, on_handled: Callable[[], None] = lambda: None
    ) -> None:
        self.core = ChatCore(random)
        self._on_handled = on_handled
        self.stream: ChatProtocol | None = None

    def acknowledge(self, message: MessageReceived) -> None:
        """The application has `message`, whichever stream brought it."""
        self.core.acknowledge(message)
        if self.stream is not None:
            self.stream.moved()
        self._on_handled()

    def say_bye(self) -> None:
        """All was said; as `ChatCore.say_bye`."""
        self.core.say_bye()
        if self.stream is not None:
            self.stream.moved()

    def send(self, text: str) -> int:
        """Say `text`, now or when a stream is there; as `ChatCore.send`."""
        number = self.core.send(text)
        if self.stream is not None:
            self.stream.moved()
        return number


class ChatProtocol(Protocol):
    """
    A chat over one stream.

    :param on_message: is given the id and text of each message, once and in order. What it returns is when
        the application has the message: None is now, a Deferred is when it fires.
    :param on_delivered: is given the id of each message of ours that the other side's application has.
    :param on_closed: is called once, when the stream has ended, with the reason if the other side broke the
        protocol.
    :param on_farewell: is called when both sides have said all and know that all arrived.
    :param conversation: the chat that this stream carries on; by default a new one.
    """

    _log = Logger()

    def __init__(
        self,
        on_message: OnMessage,
        on_delivered: Callable[[int], None],
        on_closed: Callable[[str | None], None],
        conversation: Conversation | None = None,
        on_farewell: Callable[[], None] = lambda: None,
    ) -> None:
        self.conversation = conversation if conversation is not None else Conversation()
        self.core = self.conversation.core
        self._on_message = on_message
        self._on_delivered = on_delivered
        self._on_closed = on_closed
        self._on_farewell = on_farewell
        self._error: str | None = None
        self._live = False
        self._paused = False
        self._telling = False

    def connectionMade(self) -> None:
        if (old := self.conversation.stream) is not None:
            old.detach()
        self._live = True
        self.conversation.stream = self
        self.core.open()
        self._flush()

    def send(self, text: str) -> int:
        """
        Say `text`.

        :return: the id that `on_delivered` will be given.
        :raise ChatError: it can't be said; nothing was sent.
        """
        return self.conversation.send(text)

    def moved(self) -> None:
        """The conversation has something to send, or the application caught up."""
        self._flush()
        self._tell()
        self._balance()

    def dataReceived(self, data: bytes) -> None:
        if not self._live:
            return
        try:
            self.core.receive_data(data)
        except ChatProtocolError as error:
            self._error = str(error)
        self._flush()
        self._tell()
        if self._error is not None and self._live:
            self._end()
            assert self.transport is not None
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()
        self._balance()

    def _tell(self) -> None:
        if self._telling:
            return  # What the application does meanwhile comes in its turn.
        self._telling = True
        try:
            while (event := self.core.next_event()) is not None:
                if isinstance(event, MessageReceived):
                    self._hand_over(event)
                elif isinstance(event, Farewell):
                    self._on_farewell()
                else:
                    self._on_delivered(event.id)
        finally:
            self._telling = False

    def detach(self) -> None:
        """Another stream carries the chat on: this one is closed and says nothing more."""
        if self._live:
            self._end()
            assert self.transport is not None
            self.transport.loseConnection()

    def _end(self) -> None:
        self._live = False
        self.conversation.stream = None
        self.core.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._live:
            self._end()
        self._on_closed(self._error)

    def _hand_over(self, message: MessageReceived) -> None:
        try:
            had = self._on_message(message.id, message.text)
        except Exception:
            # The application's own fault: the message stays without an ack, the chat goes on.
            self._log.failure("the application failed at a message")
            return
        if had is None:
            self.conversation.acknowledge(message)
        else:
            had.addCallbacks(
                lambda _: self.conversation.acknowledge(message),
                lambda failure: self._log.failure("the application failed at a message", failure),
            )

    def _flush(self) -> None:
        if self._live and (data := self.core.data_to_send()):
            assert self.transport is not None
            self.transport.write(data)

    def _balance(self) -> None:
        """Pause reading while the application is behind, go on when it has caught up."""
        paused = self.core.unhandled >= MAX_UNHANDLED
        if self._live and paused != self._paused:
            self._paused = paused
            producer = IPushProducer(self.transport)
            if paused:
                producer.pauseProducing()
            else:
                producer.resumeProducing()


class Chats:
    """
    All chats of one node.

    :param on_message: is given the peer, id and text of each message; returns as `ChatProtocol`'s.
    :param on_delivered: is given the peer and the id.
    :param on_handled: is called each time that the application has had a message.
    :param on_farewell: is given the peer when both sides have said `bye`.
    :param on_ended: is given the peer when the stream of its chat ended and no other took its place, and the
        reason if the peer broke the protocol. Usually the link is at its end as well.
    """

    def __init__(
        self,
        on_message: Callable[[PeerID, int, str], Deferred[None] | None],
        on_delivered: Callable[[PeerID, int], None],
        random: Callable[[int], bytes] = os.urandom,
        *,
        on_handled: Callable[[], None] = lambda: None,
        on_farewell: Callable[[PeerID], None] = lambda peer: None,
        on_ended: Callable[[PeerID, str | None], None] = lambda peer, error: None,
    ) -> None:
        self._on_handled = on_handled
        self._on_farewell = on_farewell
        self._on_ended = on_ended
        self._on_message = on_message
        self._on_delivered = on_delivered
        self._random = random
        self._conversations: dict[PeerID, Conversation] = {}

    def accept(self, link: Link) -> ChatProtocol:
        """The protocol for a stream that the other side opened: `node.handle(STREAM_NAME, chats.accept)`."""
        return self._protocol(link.remote)

    def open(self, link: Link) -> None:
        """Open the stream of the chat: the caller's part, when its link is there."""
        link.open_stream(STREAM_NAME, self._protocol(link.remote))

    def send(self, peer: PeerID, text: str) -> int:
        """
        Say `text` to `peer`, now or when a stream is there.

        :return: the message's id, unique for this peer.
        :raise ChatError: it can't be said.
        """
        return self._conversation(peer).send(text)

    def streaming(self, peer: PeerID) -> bool:
        """Whether a stream carries the chat with `peer` now."""
        conversation = self._conversations.get(peer)
        return conversation is not None and conversation.stream is not None

    def unhandled(self, peer: PeerID) -> int:
        """How many messages of `peer` wait for this application."""
        return self._conversations[peer].core.unhandled if peer in self._conversations else 0

    def say_bye(self, peer: PeerID) -> bool:
        """Tell `peer` that all was said; whether there is a stream to do so. `on_farewell` follows."""
        if not self.streaming(peer):
            return False
        self._conversations[peer].say_bye()
        return True

    def __len__(self) -> int:
        """How many chats are remembered."""
        return len(self._conversations)

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many messages have no mark yet, to `peer` or to anyone."""
        which = self._conversations if peer is None else {peer} & self._conversations.keys()
        return sum(self._conversations[one].core.undelivered for one in which)

    def undelivered_bytes(self) -> int:
        """Bytes of text that have no mark yet, to anyone."""
        return sum(chat.core.undelivered_bytes for chat in self._conversations.values())

    def _conversation(self, peer: PeerID) -> Conversation:
        if peer not in self._conversations:
            self._forget_some()
            self._conversations[peer] = Conversation(self._random, self._on_handled)
        return self._conversations[peer]

    def _forget_some(self) -> None:
        for peer, conversation in list(self._conversations.items()):
            if len(self._conversations) < MAX_CONVERSATIONS:
                return
            if conversation.stream is None and not conversation.core.undelivered:
                del self._conversations[peer]

    def _protocol(self, peer: PeerID) -> ChatProtocol:
        return ChatProtocol(
            lambda number, text: self._on_message(peer, number, text),
            lambda number: self._on_delivered(peer, number),
            lambda error: self._ended(peer, error),
            self._conversation(peer),
            lambda: self._on_farewell(peer),
        )

    def _ended(self, peer: PeerID, error: str | None) -> None:
        if not self.streaming(peer):
            self._on_ended(peer, error)

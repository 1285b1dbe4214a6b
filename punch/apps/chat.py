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

OnMessage = Callable[[int, str], "Deferred[None] | None"]


class Conversation:
    """The chat with one peer, and the stream that carries it now."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self.core = ChatCore(random)
        self.stream: ChatProtocol | None = None

    def acknowledge(self, message: MessageReceived) -> None:
        """The application has `message`, whichever stream brought it."""
        self.core.acknowledge(message)
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
    :param conversation: the chat that this stream carries on; by default a new one.
    """

    _log = Logger()

    def __init__(
        self,
        on_message: OnMessage,
        on_delivered: Callable[[int], None],
        on_closed: Callable[[str | None], None],
        conversation: Conversation | None = None,
    ) -> None:
        self.conversation = conversation if conversation is not None else Conversation()
        self.core = self.conversation.core
        self._on_message = on_message
        self._on_delivered = on_delivered
        self._on_closed = on_closed
        self._error: str | None = None
        self._live = False
        self._paused = False

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
        self._balance()

    def dataReceived(self, data: bytes) -> None:
        if not self._live:
            return
        try:
            self.core.receive_data(data)
        except ChatProtocolError as error:
            self._error = str(error)
        self._flush()
        while (event := self.core.next_event()) is not None:
            if isinstance(event, MessageReceived):
                self._hand_over(event)
            else:
                self._on_delivered(event.id)
        if self._error is not None and self._live:
            self._end()
            assert self.transport is not None
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()
        self._balance()

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
    """

    def __init__(
        self,
        on_message: Callable[[PeerID, int, str], Deferred[None] | None],
        on_delivered: Callable[[PeerID, int], None],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
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

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many messages have no mark yet, to `peer` or to anyone."""
        which = self._conversations if peer is None else {peer} & self._conversations.keys()
        return sum(self._conversations[one].core.undelivered for one in which)

    def undelivered_bytes(self) -> int:
        """Bytes of text that have no mark yet, to anyone."""
        return sum(chat.core.undelivered_bytes for chat in self._conversations.values())

    def _conversation(self, peer: PeerID) -> Conversation:
        if peer not in self._conversations:
            self._conversations[peer] = Conversation(self._random)
        return self._conversations[peer]

    def _protocol(self, peer: PeerID) -> ChatProtocol:
        return ChatProtocol(
            lambda number, text: self._on_message(peer, number, text),
            lambda number: self._on_delivered(peer, number),
            lambda error: None,
            self._conversation(peer),
        )

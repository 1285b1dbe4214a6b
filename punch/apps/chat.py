"""
Chat on a link: `ChatProtocol` is one stream of it, `Chats` every chat of a node.

A message counts as delivered only when the other side's application has it: `on_message` may return a
Deferred, and the ack goes out when that fires.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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
    "check_text",
]

#: Reading from the stream stops while this many messages wait for the application.
MAX_UNHANDLED = 64

OnMessage = Callable[[int, str], "Deferred[None] | None"]


class ChatProtocol(Protocol):
    """
    A chat over one stream.

    :param on_message: is given the id and text of each message, once and in order. What it returns is when
        the application has the message: None is now, a Deferred is when it fires.
    :param on_delivered: is given the id of each message of ours that the other side's application has.
    :param on_closed: is called once, when the stream has ended, with the reason if the other side broke the
        protocol.
    :param core: the chat that this stream carries on; by default a new one.
    """

    _log = Logger()

    def __init__(
        self,
        on_message: OnMessage,
        on_delivered: Callable[[int], None],
        on_closed: Callable[[str | None], None],
        core: ChatCore | None = None,
    ) -> None:
        self.core = core if core is not None else ChatCore()
        self._on_message = on_message
        self._on_delivered = on_delivered
        self._on_closed = on_closed
        self._error: str | None = None
        self._live = False
        self._paused = False

    def connectionMade(self) -> None:
        self._live = True
        self.core.open()
        self._flush()

    def send(self, text: str) -> int:
        """
        Say `text`.

        :return: the id that `on_delivered` will be given.
        :raise ChatError: it can't be said; nothing was sent.
        """
        number = self.core.send(text)
        self._flush()
        return number

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
        if self._error is not None:
            self._live = False
            self.core.close()
            assert self.transport is not None
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()
        self._balance()

    def detach(self) -> None:
        """Another stream carries the chat on: this one is closed and says nothing more."""
        if self._live:
            self._live = False
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._live:
            self._live = False
            self.core.close()
        self._on_closed(self._error)

    def _hand_over(self, message: MessageReceived) -> None:
        try:
            had = self._on_message(message.id, message.text)
        except Exception:
            # The application's own fault: the message stays without an ack, the chat goes on.
            self._log.failure("the application failed at a message")
            return
        if had is None:
            self._acknowledge(message)
        else:
            had.addCallbacks(
                lambda _: self._acknowledge(message),
                lambda failure: self._log.failure("the application failed at a message", failure),
            )

    def _acknowledge(self, message: MessageReceived) -> None:
        self.core.acknowledge(message)
        self._flush()
        self._balance()

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
    All chats of one node: a `ChatCore` for each peer, and the stream that carries it now.

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
        self._cores: dict[PeerID, ChatCore] = {}
        self._streams: dict[PeerID, ChatProtocol] = {}

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
        if (stream := self._streams.get(peer)) is not None:
            return stream.send(text)
        return self._core(peer).send(text)

    def core(self, peer: PeerID) -> ChatCore | None:
        """The chat with `peer`, if there has been one."""
        return self._cores.get(peer)

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many messages have no mark yet, to `peer` or to anyone."""
        return sum(core.undelivered for core in self._which(peer))

    def undelivered_bytes(self) -> int:
        """Bytes of text that have no mark yet, to anyone."""
        return sum(core.undelivered_bytes for core in self._cores.values())

    def forget(self, peer: PeerID) -> None:
        """Drop what was not delivered to `peer`, and all that is remembered of the chat."""
        self._cores.pop(peer, None)
        if (stream := self._streams.pop(peer, None)) is not None:
            stream.detach()

    def _which(self, peer: PeerID | None) -> Iterator[ChatCore]:
        if peer is None:
            yield from self._cores.values()
        elif (core := self._cores.get(peer)) is not None:
            yield core

    def _core(self, peer: PeerID) -> ChatCore:
        if peer not in self._cores:
            self._cores[peer] = ChatCore(self._random)
        return self._cores[peer]

    def _protocol(self, peer: PeerID) -> ChatProtocol:
        stream: ChatProtocol

        def closed(_error: str | None) -> None:
            if self._streams.get(peer) is stream:
                del self._streams[peer]

        if (old := self._streams.pop(peer, None)) is not None:
            old.detach()
        stream = ChatProtocol(
            lambda number, text: self._on_message(peer, number, text),
            lambda number: self._on_delivered(peer, number),
            closed,
            self._core(peer),
        )
        self._streams[peer] = stream
        return stream

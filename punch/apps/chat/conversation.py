"""
The conversation with one peer while this process runs: between its stream, the store and the views.

A message of ours is stored and sent on the stream. Messages wait in the core of the stream until the
transport takes them; marks, such as acknowledgements, are written at once, before messages that wait. What
the peer sends goes through `received.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.apps.chat.events import MessageAdded, MessageChanged, Views
from punch.apps.chat.model import ChatMessage, ClientID, MessageState, check_text
from punch.apps.chat.protocol import (
    ChatCore,
    ChatProtocolError,
    Delivered,
    Event,
    Hello,
    HelloReceived,
    Known,
    MessageReceived,
    OutgoingMessage,
    PeerHasRead,
)
from punch.apps.chat.received import ReceivedMarks, ReceivedMessages
from punch.apps.chat.storage import Storage
from punch.apps.chat.store import (
    Record,
    Store,
)
from punch.identity import PeerID
from punch.link.transport import StreamTransport

if TYPE_CHECKING:
    from punch.apps.chat.chat import Chat
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
        """Whether the stream is open and `begin` was called: then `flush` sends what `core` has to send."""
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
        """Send no more messages: the transport has ended, and calls `connectionLost`."""
        self._full = True

    def say(self) -> None:
        """Send what the core was given, and report its events. To be called after each call of the core."""
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
        """Close the stream, without telling the conversation."""
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


T = TypeVar("T")

MAX_UNHANDLED = 64
"""Reading from the stream stops while this many messages wait for the store and the views."""


@dataclass
class _Load:
    """A number of messages, and how much text they hold."""

    messages: int = 0
    characters: int = 0

    def add(self, messages: int, characters: int) -> None:
        """Add to both; numbers may be negative."""
        self.messages += messages
        self.characters += characters


class Conversation:
    """
    The conversation with one peer.

    :ivar received: the messages of the peer that are not stored yet, or not delivered to the views.
    :ivar marks: how far the peer has our messages, as far as that is not stored yet.
    """

    def __init__(
        self,
        peer: PeerID,
        storage: Storage,
        views: Views,
        wall: Callable[[], float],
        new_epoch: Callable[[], bytes],
        chat: Chat,
    ) -> None:
        self.peer = peer
        self._storage = storage
        self._views = views
        self._wall = wall
        self._new_epoch = new_epoch
        self._kept = _Load()
        self._coming = _Load()
        self._chat = chat
        self._stream: ChatStream | None = None
        self._remote_epoch: bytes | None = None
        self._known: dict[bytes, Known] = {}
        self._told: dict[bytes, Known] = {}
        self._renewed = False
        self.received = ReceivedMessages(
            peer, storage, views, wall, self._messages_stored, self._messages_delivered
        )
        self.marks = ReceivedMarks(peer, storage, views, self._marks_stored)

    @property
    def undelivered(self) -> int:
        """How many of our messages are not acknowledged."""
        return self._kept.messages + self._coming.messages

    @property
    def undelivered_size(self) -> int:
        """How much text these messages hold, in characters."""
        return self._kept.characters + self._coming.characters

    @property
    def ready(self) -> bool:
        """Whether a stream carries this conversation now."""
        return self._stream is not None and self._stream.ready

    @property
    def idle(self) -> bool:
        """Whether the object can be dropped, as the store has all that it knows."""
        return self._stream is None and not self.undelivered and not self.received and not self.marks.pending

    @property
    def storing(self) -> bool:
        """Whether messages or acknowledgements that came are being stored."""
        return self.received.storing or self.marks.storing

    # -- what this side says --

    def counted(self, messages: int, characters: int) -> None:
        """Set how many messages of ours wait, as the store counts them."""
        self._kept = _Load(messages, characters)

    def send(self, texts: Sequence[str], client_id: ClientID | None = None) -> Deferred[list[ChatMessage]]:
        """
        Send messages, now or when the peer is connected: in order, and all of them or none.

        :param client_id: the id that a script has given to the message; only one message may have one.
        :return: the messages, when they are stored; a failure if they can't be stored.
        :raise ChatError: they can't be sent; nothing was stored.
        """
        self._chat.contacts.find_reachable(self.peer)
        for text in texts:
            check_text(text)
        self._chat.conversations.check_room(texts)
        self._coming.add(len(texts), sum(map(len, texts)))
        self._expect()
        added = self._storage.ask(Store.add_all, self.peer, self._new_epoch(), texts, self._wall(), client_id)
        return added.addCallbacks(self._added, self._not_added, errbackArgs=(texts,))

    def _added(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Messages of ours were stored: send them if there is a stream, and return them as they are then."""
        self._storage.works()
        sent = []
        for message in messages:
            self._coming.add(-1, -len(message.text))
            self._kept.add(1, len(message.text))
            core = self._core
            if core is not None:
                message = replace(message, state=MessageState.SENT)
                core.send(_outgoing(message))
            self._views.tell(MessageAdded(message))
            self._say()
            sent.append(message)
        self._expect()
        self._chat.conversation_waits(self.peer)
        return sent

    def _not_added(self, failure: T, texts: Sequence[str]) -> T:
        self._coming.add(-len(texts), -sum(map(len, texts)))
        self._expect()
        return failure

    def _expect(self) -> None:
        """Tell the stream how many messages it will be given when they are stored."""
        if (core := self._core) is not None:
            core.expect(self._coming.messages)
            self._say()

    def current(self, message: ChatMessage) -> ChatMessage:
        """A message from the store with the state that it has now."""
        if message.state is MessageState.WAITING and self.ready:
            return replace(message, state=MessageState.SENT)
        return message

    def say_read(self, seen: Mapping[bytes, int]) -> None:
        """Tell the peer up to which id its messages were read, in each of these epochs of the peer."""
        for epoch, number in seen.items():
            self._note(epoch, read=number)
            if epoch == self._remote_epoch and (core := self._core) is not None:
                core.read(number)
                self._say()

    def say_name(self, name: str) -> None:
        """Tell the peer this side's new name."""
        if (core := self._core) is not None:
            core.rename(name)
            self._say()

    def say_bye(self) -> bool:
        """Say goodbye. Returns whether there is a stream to say it on."""
        if (core := self._core) is None:
            return False
        core.say_bye()
        self._say()
        return True

    @property
    def _core(self) -> ChatCore | None:
        """The core of the stream, if it is ready; `_say` must follow each call of it."""
        return self._stream.core if self._stream is not None and self._stream.ready else None

    def _say(self) -> None:
        if self._stream is not None:
            self._stream.say()

    # -- called by its streams --

    def stream_opened(self, stream: ChatStream) -> None:
        """A stream was opened: it replaces an older one."""
        older, self._stream = self._stream, stream
        self.received.forget_pending()
        if older is not None:
            older.close()
        self._storage.ask(Store.record, self.peer, self._new_epoch()).addCallbacks(
            self._loaded, self._not_begun, callbackArgs=(stream,), errbackArgs=(stream,)
        )

    def _loaded(self, record: Record, stream: ChatStream) -> None:
        if stream is not self._stream:
            return
        before, self._known = self._known, {known.epoch: known for known in record.known}
        for epoch in self._known.keys() & before.keys():
            # More may have been delivered to the views since the store was asked.
            self._note(epoch, before[epoch].delivered, before[epoch].read)
        self._told = dict(self._known)
        self._remote_epoch = None
        hello = Hello(record.epoch, list(self._known.values()))
        stream.begin(ChatCore(hello, record.sent, [_outgoing(message) for message in record.waiting]))
        self._expect()
        for message in record.waiting:
            self._views.tell(MessageChanged(replace(message, state=MessageState.SENT), message.client_id))
        self._balance()

    def _not_begun(self, failure: Failure, stream: ChatStream) -> None:
        """The store failed at what a stream needs first: close the stream."""
        if stream is self._stream:
            stream.close()
            self.stream_ended(stream, None)
        self._storage.failed(failure)

    def stream_ended(self, stream: ChatStream, error: str | None) -> None:
        """A stream has ended: messages that are not acknowledged wait again."""
        if stream is not self._stream:
            return
        self._stream = None
        if self.undelivered:
            self._storage.ask(Store.waiting_for, self.peer).addCallbacks(
                self._wait_again, self._storage.failed
            )
        self._chat.conversation_ended(self, stream.link, error)

    def _wait_again(self, messages: list[ChatMessage]) -> None:
        if not self.ready:
            for message in messages:
                self._views.tell(MessageChanged(message, message.client_id))

    def stream_event(self, stream: ChatStream, event: Event) -> None:
        """The peer sent something."""
        if stream is not self._stream:
            return
        if isinstance(event, HelloReceived):
            self._hello_received(stream, event)
        elif isinstance(event, MessageReceived):
            assert self._remote_epoch is not None
            self.received.add(self._remote_epoch, event)
            self._balance()
            self.received.store_some()
        elif isinstance(event, Delivered):
            self.marks.reach(MessageState.DELIVERED, event.id)
        elif isinstance(event, PeerHasRead):
            self.marks.reach(MessageState.READ, event.id)
        else:
            self._chat.conversation_heard(self, event)

    def _hello_received(self, stream: ChatStream, event: HelloReceived) -> None:
        self._remote_epoch = event.epoch
        if not event.outdated:
            self._catch_up(event.epoch)
        elif self._renewed:
            # Once is a restored backup. A peer that claims it again of a new epoch is wrong.
            stream.close()
            self.stream_ended(stream, "acknowledgements of messages that were never sent")
        else:
            self._storage.ask(Store.renew, self.peer, self._new_epoch()).addCallbacks(
                self._begin_anew, self._not_begun, errbackArgs=(stream,)
            )

    def _begin_anew(self, _: None) -> None:
        self._renewed = True
        self._chat.conversation_outdated(self)

    def _catch_up(self, epoch: bytes) -> None:
        """Send what has changed since our hello, when the epoch of the peer was not known yet."""
        now, told = (known.get(epoch, Known(epoch)) for known in (self._known, self._told))
        if now.delivered > told.delivered:
            self._acknowledge()
        if now.read > told.read:
            self.say_read({epoch: now.read})

    def _note(self, epoch: bytes, delivered: int = 0, read: int = 0) -> None:
        """Messages up to these ids were delivered to the views, or read."""
        known = self._known.get(epoch, Known(epoch))
        self._known[epoch] = replace(
            known, delivered=max(known.delivered, delivered), read=max(known.read, read)
        )

    # -- what the peer sends --

    def _messages_stored(self, epoch: bytes, repeated: bool) -> None:
        if repeated and epoch == self._remote_epoch:
            # An acknowledgement was lost with an earlier stream.
            self._acknowledge()
        self._balance()

    def _messages_delivered(self, delivered: Mapping[bytes, int]) -> None:
        for epoch, number in delivered.items():
            self._note(epoch, delivered=number)
        if self._remote_epoch in delivered:
            self._acknowledge()
        self._balance()
        self._chat.conversation_moved(self, 0)

    def _acknowledge(self) -> None:
        """Send an ack for all messages that were delivered to the views."""
        known = None if self._remote_epoch is None else self._known.get(self._remote_epoch)
        if known is not None and known.delivered and (core := self._core) is not None:
            core.acknowledge(known.delivered)
            self._say()

    def _balance(self) -> None:
        if self._stream is not None and self._stream.ready:
            self._stream.pause(len(self.received) >= MAX_UNHANDLED)

    def _marks_stored(self, messages: Sequence[ChatMessage]) -> None:
        delivered = [message for message in messages if message.state is MessageState.DELIVERED]
        for message in delivered:
            self._kept.add(-1, -len(message.text))
        self.marks.tell(messages)
        if delivered:
            self._chat.conversation_moved(self, len(delivered))

    def retry(self) -> None:
        """Try again to store what could not be stored."""
        self.received.store_some()
        self.marks.store_some()


def _outgoing(message: ChatMessage) -> OutgoingMessage:
    return OutgoingMessage(message.id, message.time, message.text.encode("utf-8"))

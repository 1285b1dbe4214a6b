"""
The conversation with one peer while this process runs: between its stream, the store and the views.

A message of the peer is stored, delivered to the views, and then acknowledged. One of ours is stored and sent
on the stream; when its acknowledgement has come, that is stored, and the views are told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, DeferredList

from punch.apps.chat import protocol
from punch.apps.chat.database import StoreError
from punch.apps.chat.events import MessageAdded, MessageChanged, Views
from punch.apps.chat.model import ChatMessage, ClientID, MessageState, check_text
from punch.apps.chat.protocol import (
    ChatCore,
    Hello,
    Known,
    MessageReceived,
    OutgoingMessage,
)
from punch.apps.chat.storage import Storage
from punch.apps.chat.store import (
    PAGE,
    Record,
    Store,
)
from punch.apps.chat.stream import ChatStream
from punch.identity import PeerID

if TYPE_CHECKING:
    from punch.apps.chat.chat import Chat

T = TypeVar("T")

#: Reading from the stream stops while this many messages wait for the store and the views.
MAX_UNHANDLED = 64


@dataclass
class _Load:
    """A number of messages, and how much text they hold."""

    messages: int = 0
    characters: int = 0

    def add(self, messages: int, characters: int) -> None:
        """Add to both; numbers may be negative."""
        self.messages += messages
        self.characters += characters


@dataclass
class _Delivery:
    """A message on its way to the views."""

    epoch: bytes
    id: int
    done: bool = False


class Conversation:
    """The conversation with one peer."""

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
        self._pending: deque[tuple[bytes, MessageReceived]] = deque()
        self._storing = 0
        self._deliveries: deque[_Delivery] = deque()
        self._progress = _Progress(self)

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
        return (
            self._stream is None
            and not self.undelivered
            and not self.unhandled
            and not self._progress.pending
        )

    @property
    def storing(self) -> bool:
        """Whether messages or acknowledgements that came are being stored."""
        return self._storing > 0 or self._progress.busy

    @property
    def unhandled(self) -> int:
        """How many messages of the peer are not yet stored, or not yet delivered to the views."""
        return len(self._pending) + self._storing + len(self._deliveries)

    # -- what this side says --

    def counted(self, messages: int, characters: int) -> None:
        """Take over from the store how many messages wait in it."""
        self._kept = _Load(messages, characters)

    def send(self, texts: Sequence[str], client_id: ClientID | None = None) -> Deferred[list[ChatMessage]]:
        """
        Send messages, now or when the peer is connected: in order, and all of them or none.

        :param client_id: a script's own name for the message, if it is one.
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
        """Tell the peer that its messages were read, up to an id in each of these epochs of its."""
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
        # What is not stored is not in our hello, so the peer sends it again; or, after a restored backup,
        # other messages with the same ids.
        self._pending = deque()
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

    def _not_begun(self, failure: object, stream: ChatStream) -> None:
        """The store failed at what a stream needs first: close the stream."""
        error = _store_error(failure)
        if stream is self._stream:
            stream.close()
            self.stream_ended(stream, None)
        self._storage.failed(error)

    def stream_ended(self, stream: ChatStream, error: str | None) -> None:
        """A stream has ended: messages that are not acknowledged wait again."""
        if stream is not self._stream:
            return
        self._stream = None
        if self.undelivered:
            self._storage.ask(Store.waiting_for, self.peer).addCallbacks(self._wait_again, self.failed)
        self._chat.conversation_ended(self, stream.link, error)

    def _wait_again(self, messages: list[ChatMessage]) -> None:
        if not self.ready:
            for message in messages:
                self._views.tell(MessageChanged(message, message.client_id))

    def stream_event(self, stream: ChatStream, event: protocol.Event) -> None:
        """The peer sent something."""
        if stream is not self._stream:
            return
        if isinstance(event, protocol.HelloReceived):
            self._hello_received(stream, event)
        elif isinstance(event, MessageReceived):
            assert self._remote_epoch is not None
            self._pending.append((self._remote_epoch, event))
            self._balance()
            self._store_some()
        elif isinstance(event, protocol.Delivered):
            self._progress.reach(MessageState.DELIVERED, event.id)
        elif isinstance(event, protocol.PeerHasRead):
            self._progress.reach(MessageState.READ, event.id)
        else:
            self._chat.conversation_heard(self, event)

    def _hello_received(self, stream: ChatStream, event: protocol.HelloReceived) -> None:
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

    # -- messages of the other side --

    def _store_some(self) -> None:
        """Store all messages that have come in one transaction, and the next ones only after that: otherwise
        one could be stored without the one before it."""
        if self._storing or not self._pending:
            return
        epoch = self._pending[0][0]
        batch = [incoming for _, incoming in takewhile(lambda item: item[0] == epoch, self._pending)]
        for _ in batch:
            self._pending.popleft()
        self._storing = len(batch)
        self._storage.ask(Store.receive, self.peer, epoch, batch, self._wall()).addCallbacks(
            self._stored,
            self._not_stored,
            callbackArgs=(epoch, batch),
            errbackArgs=(epoch, batch, self._pending),
        )

    def _stored(self, added: list[ChatMessage], epoch: bytes, batch: list[MessageReceived]) -> None:
        self._storing = 0
        for message in added:
            self._show(epoch, message, again=False)
        if len(added) < len(batch) and epoch == self._remote_epoch:
            # An acknowledgement was lost with an earlier stream.
            self._acknowledge()
        self._balance()
        self._store_some()

    def _not_stored(
        self,
        failure: object,
        epoch: bytes,
        batch: list[MessageReceived],
        pending: deque[tuple[bytes, MessageReceived]],
    ) -> None:
        self._storing = 0
        pending.extendleft((epoch, incoming) for incoming in reversed(batch))
        self._storage.failed(_store_error(failure))

    def show_again(self, epoch: bytes, message: ChatMessage) -> None:
        """Show a message of an earlier process, which may have ended before it was delivered to a view."""
        self._show(epoch, message, again=True)

    def _show(self, epoch: bytes, message: ChatMessage, again: bool) -> None:
        entry = _Delivery(epoch, message.id)
        self._deliveries.append(entry)

        def delivered(_: object) -> None:
            # When a view fails, the sender need not wait: the message is in the history.
            entry.done = True
            self._check_delivered()

        self._views.tell(MessageAdded(message, again)).addCallback(delivered)

    def _check_delivered(self) -> None:
        """Store and acknowledge the messages that all views have, up to the first that they don't have."""
        delivered: dict[bytes, int] = {}
        while self._deliveries and self._deliveries[0].done:
            delivery = self._deliveries.popleft()
            delivered[delivery.epoch] = delivery.id
        if not delivered:
            return
        for epoch, number in delivered.items():
            self._storage.ask(Store.delivered_here, self.peer, epoch, number).addErrback(self.failed)
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
            self._stream.pause(self.unhandled >= MAX_UNHANDLED)

    # -- how far our messages are --

    def store_progress(self, state: MessageState, up_to: int) -> Deferred[list[ChatMessage]]:
        """Store that the peer has our messages up to an id, or has read them. Fires with a page of those that
        have changed."""
        if state is MessageState.DELIVERED:
            return self._storage.ask(Store.delivered_there, self.peer, up_to)
        return self._storage.ask(Store.read_there, self.peer, up_to)

    def progress_stored(self, messages: list[ChatMessage]) -> None:
        """Acknowledgements of the peer were stored."""
        delivered = [message for message in messages if message.state is MessageState.DELIVERED]
        for message in delivered:
            self._kept.add(-1, -len(message.text))
        self.tell_states(messages)
        if delivered:
            self._chat.conversation_moved(self, len(delivered))

    def tell_states(self, messages: Sequence[ChatMessage], again: bool = False) -> None:
        """Tell the views that messages are delivered or read, and store that they were told."""

        def delivered(_: object) -> None:
            for state in {message.state for message in messages}:
                last = max(message.id for message in messages if message.state is state)
                self._storage.ask(Store.state_told, self.peer, state, last).addErrback(self.failed)

        told = [self._views.tell(MessageChanged(message, message.client_id, again)) for message in messages]
        DeferredList(told).addCallback(delivered)

    def failed(self, failure: object) -> None:
        """A call of the store failed."""
        self._storage.failed(_store_error(failure))

    def retry(self) -> None:
        """Try again to store what could not be stored."""
        self._store_some()
        self._progress.store_some()


class _Progress:
    """Up to which of our messages the peer has them, and has read them, as far as that is not stored yet."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._reached = {MessageState.DELIVERED: 0, MessageState.READ: 0}
        self._stored = {MessageState.DELIVERED: 0, MessageState.READ: 0}
        self._busy = False

    @property
    def pending(self) -> bool:
        """Whether something is not stored yet."""
        return self._stored != self._reached

    @property
    def busy(self) -> bool:
        """Whether something is being stored."""
        return self._busy

    def reach(self, state: MessageState, number: int) -> None:
        """The peer has our messages, or has read them, up to an id."""
        self._reached[state] = max(self._reached[state], number)
        self.store_some()

    def store_some(self) -> None:
        """Store it in pages, deliveries before readings."""
        for state in (MessageState.DELIVERED, MessageState.READ):
            to = self._reached[state]
            if self._stored[state] < to and not self._busy:
                self._busy = True
                self._conversation.store_progress(state, to).addCallbacks(
                    self._done, self._failed, callbackArgs=(state, to)
                )

    def _done(self, changed: list[ChatMessage], state: MessageState, to: int) -> None:
        self._busy = False
        if len(changed) < PAGE:
            self._stored[state] = to
        self._conversation.progress_stored(changed)
        self.store_some()

    def _failed(self, failure: object) -> None:
        self._busy = False
        self._conversation.failed(failure)


def _outgoing(message: ChatMessage) -> OutgoingMessage:
    return OutgoingMessage(message.id, message.time, message.text.encode("utf-8"))


def _store_error(failure: object) -> StoreError:
    """The error of a failure. One that is not the store's is a programming error, and is raised."""
    error = getattr(failure, "value", failure)
    if isinstance(error, StoreError):
        return error
    assert isinstance(error, BaseException)
    raise error

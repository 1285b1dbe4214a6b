"""
What the peer of a conversation sends, on its way to the store and the views: its messages, and its marks,
which say up to which id it has our messages, or has read them.

A message is stored, delivered to the views, and then acknowledged. A mark is stored, and the views are told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from punch.apps.chat.events import MessageAdded, MessageChanged, Views
from punch.apps.chat.model import ChatMessage, MessageState
from punch.apps.chat.protocol import MessageReceived
from punch.apps.chat.storage import Storage
from punch.apps.chat.store import PAGE, Store
from punch.identity import PeerID


@dataclass
class _Delivery:
    """A message on its way to the views."""

    epoch: bytes
    id: int
    done: bool = False


class ReceivedMessages:
    """
    The messages of a peer that are not stored yet, or not delivered to the views.

    :param wall: seconds since 1970.
    :param stored: is called when messages of an epoch were stored, with the epoch, and whether some of them
        had been stored before.
    :param delivered: is called when the views have messages, with the last id in each epoch of the peer.
    """

    def __init__(
        self,
        peer: PeerID,
        storage: Storage,
        views: Views,
        wall: Callable[[], float],
        stored: Callable[[bytes, bool], object],
        delivered: Callable[[Mapping[bytes, int]], object],
    ) -> None:
        self._peer = peer
        self._storage = storage
        self._views = views
        self._wall = wall
        self._on_stored = stored
        self._on_delivered = delivered
        self._pending: deque[tuple[bytes, MessageReceived]] = deque()
        self._storing = 0
        self._deliveries: deque[_Delivery] = deque()

    def __len__(self) -> int:
        return len(self._pending) + self._storing + len(self._deliveries)

    @property
    def storing(self) -> bool:
        """Whether messages are being stored."""
        return self._storing > 0

    def add(self, epoch: bytes, message: MessageReceived) -> None:
        """Take a message that was written in this epoch of the peer; `store_some` must follow."""
        self._pending.append((epoch, message))

    def forget_pending(self) -> None:
        """
        Forget the messages that are not being stored yet, as a new stream begins. They are not in our hello,
        so the peer sends them again; or, after a restored backup, other messages with the same ids.
        """
        self._pending = deque()

    def store_some(self) -> None:
        """
        Store all messages that have come in one transaction, and the next ones only after that: otherwise one
        could be stored without the one before it.
        """
        if self._storing or not self._pending:
            return
        epoch = self._pending[0][0]
        batch = [message for _, message in takewhile(lambda item: item[0] == epoch, self._pending)]
        for _ in batch:
            self._pending.popleft()
        self._storing = len(batch)
        self._storage.ask(Store.receive, self._peer, epoch, batch, self._wall()).addCallbacks(
            self._stored,
            self._not_stored,
            callbackArgs=(epoch, batch),
            errbackArgs=(epoch, batch, self._pending),
        )

    def _stored(self, added: list[ChatMessage], epoch: bytes, batch: list[MessageReceived]) -> None:
        self._storing = 0
        for message in added:
            self.show(epoch, message)
        self._on_stored(epoch, len(added) < len(batch))
        self.store_some()

    def _not_stored(
        self,
        failure: Failure,
        epoch: bytes,
        batch: list[MessageReceived],
        pending: deque[tuple[bytes, MessageReceived]],
    ) -> None:
        self._storing = 0
        pending.extendleft((epoch, message) for message in reversed(batch))
        self._storage.failed(failure)

    def show(self, epoch: bytes, message: ChatMessage, *, again: bool = False) -> None:
        """
        Deliver a stored message to the views.

        :param again: it was stored by an earlier process, which may have ended before a view had it.
        """
        entry = _Delivery(epoch, message.id)
        self._deliveries.append(entry)

        def delivered(_: object) -> None:
            # When a view fails, the sender need not wait: the message is in the history.
            entry.done = True
            self._check_delivered()

        self._views.tell(MessageAdded(message, again)).addCallback(delivered)

    def _check_delivered(self) -> None:
        """Store up to which message all views have them, and report it."""
        delivered: dict[bytes, int] = {}
        while self._deliveries and self._deliveries[0].done:
            delivery = self._deliveries.popleft()
            delivered[delivery.epoch] = delivery.id
        if not delivered:
            return
        for epoch, number in delivered.items():
            told = self._storage.ask(Store.delivered_here, self._peer, epoch, number)
            told.addErrback(self._storage.failed)
        self._on_delivered(delivered)


class ReceivedMarks:
    """
    The ids up to which the peer has our messages, and has read them, as far as they are not stored yet.

    :param stored: is called when marks were stored, with the messages whose state has changed. It calls
        `tell`.
    """

    def __init__(
        self,
        peer: PeerID,
        storage: Storage,
        views: Views,
        stored: Callable[[Sequence[ChatMessage]], object],
    ) -> None:
        self._peer = peer
        self._storage = storage
        self._views = views
        self._on_stored = stored
        self._reached = {MessageState.DELIVERED: 0, MessageState.READ: 0}
        self._stored = {MessageState.DELIVERED: 0, MessageState.READ: 0}
        self._storing = False

    @property
    def pending(self) -> bool:
        """Whether something is not stored yet."""
        return self._stored != self._reached

    @property
    def storing(self) -> bool:
        """Whether something is being stored."""
        return self._storing

    def reach(self, state: MessageState, number: int) -> None:
        """The peer has our messages, or has read them, up to an id."""
        self._reached[state] = max(self._reached[state], number)
        self.store_some()

    def store_some(self) -> None:
        """Store the marks, in pages of messages; those of delivered messages before those of read ones."""
        for state in (MessageState.DELIVERED, MessageState.READ):
            to = self._reached[state]
            if self._stored[state] < to and not self._storing:
                self._storing = True
                self._store(state, to).addCallbacks(
                    self._page_stored, self._not_stored, callbackArgs=(state, to)
                )

    def _store(self, state: MessageState, to: int) -> Deferred[list[ChatMessage]]:
        if state is MessageState.DELIVERED:
            return self._storage.ask(Store.delivered_there, self._peer, to)
        return self._storage.ask(Store.read_there, self._peer, to)

    def _page_stored(self, changed: list[ChatMessage], state: MessageState, to: int) -> None:
        self._storing = False
        if len(changed) < PAGE:
            self._stored[state] = to
        self._on_stored(changed)
        self.store_some()

    def _not_stored(self, failure: Failure) -> None:
        self._storing = False
        self._storage.failed(failure)

    def tell(self, messages: Sequence[ChatMessage], *, again: bool = False) -> None:
        """
        Tell the views that messages are delivered or read, and store that they were told.

        :param again: whether an earlier process knew the states already. It may have ended before a view was
            told.
        """

        def delivered(_: object) -> None:
            for state in {message.state for message in messages}:
                last = max(message.id for message in messages if message.state is state)
                told = self._storage.ask(Store.state_told, self._peer, state, last)
                told.addErrback(self._storage.failed)

        told = [self._views.tell(MessageChanged(message, message.client_id, again)) for message in messages]
        DeferredList(told).addCallback(delivered)

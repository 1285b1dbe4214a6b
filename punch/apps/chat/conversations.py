"""The conversations of a chat that are in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from punch.apps.chat.conversation import Conversation
from punch.apps.chat.events import Views
from punch.apps.chat.model import ChatMessage
from punch.apps.chat.storage import Storage
from punch.identity import PeerID

if TYPE_CHECKING:
    from punch.apps.chat.chat import Chat

#: Conversations that are kept in memory. Beyond that, those are dropped that the store has in full.
MAX_CONVERSATIONS = 256


class Conversations:
    """
    One `Conversation` for each peer with whom there was one since the process started.

    :param wall: seconds since 1970.
    :param new_epoch: makes a random epoch.
    """

    def __init__(
        self,
        storage: Storage,
        views: Views,
        wall: Callable[[], float],
        new_epoch: Callable[[], bytes],
        chat: Chat,
    ) -> None:
        self._storage = storage
        self._views = views
        self._wall = wall
        self._new_epoch = new_epoch
        self._chat = chat
        self._conversations: dict[PeerID, Conversation] = {}

    def __iter__(self) -> Iterator[Conversation]:
        return iter(list(self._conversations.values()))

    def get(self, peer: PeerID) -> Conversation | None:
        """The conversation with `peer`, if it is in memory."""
        return self._conversations.get(peer)

    def open(self, peer: PeerID) -> Conversation:
        """The conversation with `peer`; a new one if it is not in memory."""
        conversation = self._conversations.get(peer)
        if conversation is None:
            for old, one in list(self._conversations.items()):
                if len(self._conversations) < MAX_CONVERSATIONS:
                    break
                if one.idle:
                    del self._conversations[old]
            conversation = self._conversations[peer] = Conversation(
                peer, self._storage, self._views, self._wall, self._new_epoch, self._chat
            )
        return conversation

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many of our messages have no acknowledgement yet, to `peer` or to anyone."""
        if peer is None:
            return sum(each.undelivered for each in self._conversations.values())
        conversation = self._conversations.get(peer)
        return 0 if conversation is None else conversation.undelivered

    def undelivered_size(self) -> int:
        """How much text has no acknowledgement yet, in characters."""
        return sum(each.undelivered_size for each in self._conversations.values())

    def unhandled(self, peer: PeerID) -> int:
        """How many messages of `peer` were not yet delivered to the views."""
        conversation = self._conversations.get(peer)
        return 0 if conversation is None else conversation.unhandled

    def streaming(self, peer: PeerID) -> bool:
        """Whether a stream carries the conversation with `peer` now."""
        conversation = self._conversations.get(peer)
        return conversation is not None and conversation.ready

    def current(self, message: ChatMessage) -> ChatMessage:
        """A message from the store with the state that it has now."""
        conversation = self._conversations.get(message.peer)
        return message if conversation is None else conversation.current(message)

    def recount(self, waiting: Mapping[PeerID, tuple[int, int]]) -> None:
        """
        Take over how much waits for each peer.

        :param waiting: how many messages, and how many characters, as `Store.waiting` returns it.
        """
        for peer, conversation in self._conversations.items():
            conversation.counted(*waiting.get(peer, (0, 0)))
            self._chat.conversation_moved(conversation, 0)

    def retry(self) -> None:
        """Have all conversations try again to store what the store refused."""
        for conversation in self:
            conversation.retry()

"""The conversations of a chat that are in memory, and how they end with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from punch.apps.chat.conversation import Conversation
from punch.apps.chat.events import Views
from punch.apps.chat.model import ChatError, ChatMessage
from punch.apps.chat.storage import Storage
from punch.identity import PeerID
from punch.net.driver import Timers

if TYPE_CHECKING:
    from punch.apps.chat.chat import Chat

#: Conversations that are kept in memory. Beyond that, those are dropped that the store has in full.
MAX_CONVERSATIONS = 256

#: Most text that may wait for its acknowledgements, in characters, for all peers together.
MAX_UNDELIVERED_SIZE = 8 * 1024 * 1024

#: Most messages that may wait for their acknowledgements, for all peers together.
MAX_UNDELIVERED = 100_000

#: Seconds in which the peers may confirm that they have all messages when the chat ends.
LEAVE_TIMEOUT = 1.5


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

    def drop_if_idle(self, conversation: Conversation) -> None:
        """Keep a conversation no longer, if the store has all that it knows."""
        if conversation.idle:
            self._conversations.pop(conversation.peer, None)

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many of our messages have no acknowledgement yet, to `peer` or to anyone."""
        if peer is None:
            return sum(each.undelivered for each in self._conversations.values())
        conversation = self._conversations.get(peer)
        return 0 if conversation is None else conversation.undelivered

    def undelivered_size(self) -> int:
        """How much text has no acknowledgement yet, in characters."""
        return sum(each.undelivered_size for each in self._conversations.values())

    def check_room(self, texts: Sequence[str]) -> None:
        """
        Check whether more messages of ours may wait.

        :raise ChatError: too many do (`outbox-full`).
        """
        size, undelivered = self.undelivered_size() + sum(map(len, texts)), self.undelivered()
        if size > MAX_UNDELIVERED_SIZE or undelivered + len(texts) > MAX_UNDELIVERED:
            raise ChatError(
                "outbox-full",
                f"{undelivered:,} messages are not delivered yet: send again when some of them are.",
            )

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


class ChatShutdown:
    """Says goodbye at the end of the chat, so that nothing that is under way is lost."""

    def __init__(self, conversations: Conversations, timers: Timers) -> None:
        self._conversations = conversations
        self._timers = timers
        self._expected: set[PeerID] = set()
        self._said: Deferred[None] | None = None

    def say(self, peers: set[PeerID]) -> Deferred[None]:
        """
        Say goodbye to peers on the streams of their conversations. A second call has no effect.

        :return: fires when all have confirmed it, after `LEAVE_TIMEOUT` seconds at the latest.
        """
        if self._said is None:
            self._said = Deferred()
            self._expected = peers
            self._timers.later(LEAVE_TIMEOUT, self._end)
            for peer in list(peers):
                self._conversations.open(peer).say_bye()
            self._check()
        return self._said

    def done(self, peer: PeerID) -> None:
        """A peer has confirmed it, or its link is over."""
        self._expected.discard(peer)
        self._check()

    def _check(self) -> None:
        if not self._expected:
            self._end()

    def _end(self) -> None:
        if self._said is not None and not self._said.called:
            self._said.callback(None)

"""
The conversations of a chat: those that are in memory, how they end with it, the streams that carry them, and
the messages in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from punch.apps.chat.contacts import Contacts
from punch.apps.chat.conversation import ChatStream, Conversation
from punch.apps.chat.events import HistoryErased, MessageChanged, Views
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import ChatError, ChatMessage, ChatProblem, ConversationSummary
from punch.apps.chat.storage import Storage
from punch.apps.chat.store import PAGE, Overview, Store
from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.link.transport import LinkAddress
from punch.net.driver import Timers

if TYPE_CHECKING:
    from punch.apps.chat.chat import Chat

MAX_CONVERSATIONS = 256
"""Conversations that are kept in memory. Beyond that, those are dropped that the store has in full."""

MAX_UNDELIVERED_SIZE = 8 * 1024 * 1024
"""Most text that may wait for its acknowledgements, in characters, for all peers together."""

MAX_UNDELIVERED = 100_000
"""Most messages that may wait for their acknowledgements, for all peers together."""

LEAVE_TIMEOUT = 1.5
"""Seconds in which the peers may confirm that they have all messages when the chat ends."""


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
            raise ChatError(ChatProblem.OUTBOX_FULL, number=undelivered)

    def unhandled(self, peer: PeerID) -> int:
        """How many messages of `peer` were not yet delivered to the views."""
        conversation = self._conversations.get(peer)
        return 0 if conversation is None else len(conversation.received)

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


class ChatFactory(Factory):
    """
    Builds the streams of chats, those that this side opens and those that it answers.

    :param conversation_of: the conversation with a peer.
    """

    noisy = False

    def __init__(self, conversation_of: Callable[[PeerID], Conversation]) -> None:
        self._conversation_of = conversation_of

    def buildProtocol(self, addr: IAddress | None) -> ChatStream:
        """Return a stream at one end of a link."""
        assert isinstance(addr, LinkAddress)
        return ChatStream(self._conversation_of(addr.peer), addr.link)


# -- the messages in the store --

EXPIRY_INTERVAL = 3600.0
"""Seconds between two searches for messages that are older than the retention."""

MAX_LIMIT = 1000
"""Most messages in one answer."""
DAY = 86400.0
"""Seconds."""
JUMP = DAY
"""
If the clock is so many seconds later than the newest believed time, it may have been set forward. Machines
are off for fewer seconds at night.
"""
TRIAL = DAY
"""Seconds that the clock must go on after a jump."""


class BelievedTime(NamedTuple):
    """
    Keeps a wrong clock from erasing messages because of their age: a jump forward counts only a day later.

    If the clock is a year ahead, all messages seem too old. This can't be told from a machine that was off
    for a year, but a wrong clock is set right some time. So a jump forward is believed when the clock has
    gone on for a day after it. Until then no message grows older. Times are in seconds since 1970.

    :ivar now: the newest time that was believed.
    :ivar jumped: where the clock jumped to, if that is not believed yet.
    """

    now: float
    jumped: float | None = None

    def look(self, wall: float) -> BelievedTime:
        """
        Return what is believed when the clock shows `wall`.

        A clock that is set back is believed at once: that erases nothing.
        """
        believed = self.now
        if self.jumped is not None and wall >= self.jumped:
            if wall < self.jumped + TRIAL:
                return self
            believed = self.jumped
        return BelievedTime(wall) if wall <= believed + JUMP else BelievedTime(believed, wall)


def believed_time(store: Store, wall: float) -> float:
    """The time from which the age of messages is counted when the clock shows `wall` (`BelievedTime`)."""
    now = store.setting("believed")
    if now is None:
        # The first call for this file: when its last message was written, it was at least that late.
        newest = store.newest_time()
        now = wall if newest is None else newest
    believed = BelievedTime(now, store.setting("jumped")).look(wall)
    store.set_settings(believed=believed.now, jumped=believed.jumped)
    return believed.now


class History:
    """
    What users do with the messages in the store.

    :param wall: seconds since 1970.
    """

    def __init__(
        self,
        storage: Storage,
        views: Views,
        contacts: Contacts,
        conversations: Conversations,
        links: ChatLinks,
        book: AddressBook,
        timers: Timers,
        wall: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._views = views
        self._contacts = contacts
        self._conversations = conversations
        self._links = links
        self._book = book
        self._timers = timers
        self._wall = wall

    # -- reading --

    def conversations(self) -> Deferred[list[ConversationSummary]]:
        """All conversations: those with messages, links or calls, and the address book; the newest first."""

        def merge(overviews: list[Overview]) -> list[ConversationSummary]:
            found = {overview.peer: overview for overview in overviews}
            links = self._links
            peers = dict.fromkeys([*links.questions, *links.links, *links.calling, *found, *self._book])
            summaries = [self._summary(peer, found.get(peer)) for peer in peers]
            return sorted(summaries, key=lambda one: -one.last.number if one.last is not None else 0)

        return self._storage.ask(Store.overviews).addCallback(merge)

    def conversation(self, who: str | PeerID) -> Deferred[ConversationSummary]:
        """The conversation with one peer."""
        peer = self._contacts.find(who)
        return self._storage.ask(Store.overviews, peer).addCallback(
            lambda found: self._summary(peer, found[0] if found else None)
        )

    def _summary(self, peer: PeerID, overview: Overview | None) -> ConversationSummary:
        contact, link, stage = self._contacts.get(peer), self._links.status(peer), self._links.stage(peer)
        if overview is None:
            return ConversationSummary(contact, link=link, stage=stage)
        last = None if overview.last is None else self._conversations.current(overview.last)
        return ConversationSummary(contact, overview.unread, overview.waiting, last, link, stage)

    def messages(
        self, who: str | PeerID, before: int | None = None, limit: int = 50, after: int | None = None
    ) -> Deferred[list[ChatMessage]]:
        """
        Messages with one peer, oldest first: the newest ones, those before a number, or those after one.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        found = self._storage.ask(Store.history, self._contacts.find(who), before, after, limit)
        return found.addCallback(self._current)

    def search(
        self, text: str, who: str | PeerID | None = None, before: int | None = None, limit: int = 50
    ) -> Deferred[list[ChatMessage]]:
        """Messages that contain `text`, ignoring case, newest first."""
        limit = max(1, min(limit, MAX_LIMIT))
        found = self._storage.ask(Store.search, text, self._one(who), before, limit)
        return found.addCallback(self._current)

    def export(
        self, who: str | PeerID | None = None, after: int = 0, limit: int = PAGE
    ) -> Deferred[list[ChatMessage]]:
        """
        A page of all messages, or of those with one peer, oldest first. The next page begins `after` the last
        number of this one; an empty page is the end.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        page = self._storage.ask(Store.history, self._one(who), None, after, limit)
        return page.addCallback(self._current)

    def _current(self, messages: Iterable[ChatMessage]) -> list[ChatMessage]:
        return [self._conversations.current(message) for message in messages]

    def _one(self, who: str | PeerID | None) -> PeerID | None:
        return None if who is None else self._contacts.find(who)

    # -- marking as read --

    def read(self, who: str | PeerID, up_to: int | None = None) -> Deferred[None]:
        """
        Mark the messages of a peer as read, up to a message's number; the peer is told.

        :param up_to: None: all.
        """
        peer = self._contacts.find(who)
        seen: dict[bytes, int] = {}

        def page(result: tuple[list[ChatMessage], dict[bytes, int]]) -> Deferred[None] | None:
            changed, further = result
            seen.update(further)
            for message in changed:
                self._views.tell(MessageChanged(message))
            if len(changed) >= PAGE:
                return self._storage.ask(Store.read_here, peer, up_to).addCallback(page)
            conversation = self._conversations.get(peer)
            if conversation is not None:
                conversation.say_read(seen)
            return None

        return self._storage.ask(Store.read_here, peer, up_to).addCallback(page)

    # -- erasing --

    def erase(self, who: str | PeerID | None = None) -> Deferred[int]:
        """
        Erase all messages, or those with one peer. Those that wait are never sent.

        :return: how many messages were erased.
        """
        peer = self._one(who)

        def erased(count: int) -> Deferred[int]:
            self._views.tell(HistoryErased(peer))
            waiting = self._storage.ask(Store.waiting)
            return waiting.addCallback(self._conversations.recount).addCallback(lambda _: count)

        return self._storage.ask(Store.erase, peer).addCallback(erased)

    def retention(self) -> Deferred[float | None]:
        """For how many days messages are kept; None: until they are erased."""
        return self._storage.ask(Store.retention)

    def set_retention(self, days: float | None) -> Deferred[None]:
        """
        Keep messages for so many days, and erase older ones now. What waits for its peer, or for a view, is
        kept.

        :raise ChatError: it is not a number of days that is allowed (`malformed`).
        """
        if days is not None and not 0 < days < 1_000_000:
            raise ChatError(ChatProblem.RETENTION)
        return self._storage.ask(Store.set_retention, days).addCallback(lambda _: self._expire(days))

    def expire_regularly(self) -> None:
        """Erase messages that are older than the retention, now and every `EXPIRY_INTERVAL` seconds."""
        self.retention().addCallback(self._expire).addErrback(self._storage.failed)
        self._timers.later(EXPIRY_INTERVAL, self.expire_regularly)

    def _expire(self, days: float | None) -> Deferred[None]:
        # Also if all messages are kept: when that changes, the believed time is known.
        believed = self._storage.ask(believed_time, self._wall())
        return believed.addCallback(
            lambda now: None if days is None else self._erase_before(now - days * DAY)
        )

    def _erase_before(self, before: float, so_far: int = 0) -> Deferred[None]:
        def page(count: int) -> Deferred[None] | None:
            if count >= PAGE:
                return self._erase_before(before, so_far + count)
            if so_far + count:
                self._views.tell(HistoryErased(None, before))
            return None

        return self._storage.ask(Store.expire, before).addCallback(page)

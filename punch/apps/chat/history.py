"""The messages of the chat that are in its store: reading, searching, exporting and erasing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

from punch.apps.chat.age import DAY
from punch.apps.chat.contacts import Contacts
from punch.apps.chat.conversations import Conversations
from punch.apps.chat.events import HistoryErased, MessageChanged, Views
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import ChatError, ChatMessage, ConversationSummary
from punch.apps.chat.storage import Storage
from punch.apps.chat.store import PAGE, Overview, Store
from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.net.driver import Timers

#: Seconds between two searches for messages that are older than the retention.
EXPIRY_INTERVAL = 3600.0

#: Most messages in one answer.
MAX_LIMIT = 1000


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

        :raise ChatError: no number of days.
        """
        if days is not None and not 0 < days < 1_000_000:
            raise ChatError("malformed", "The retention is a number of days above 0, or none.")
        return self._storage.ask(Store.set_retention, days).addCallback(lambda _: self._expire(days))

    def expire_regularly(self) -> None:
        """Erase messages that are older than the retention, now and every `EXPIRY_INTERVAL` seconds."""
        self._storage.watch(self.retention().addCallback(self._expire))
        self._timers.later(EXPIRY_INTERVAL, self.expire_regularly)

    def _expire(self, days: float | None) -> Deferred[None]:
        # Also where all is kept: when that changes, the believed time is known.
        believed = self._storage.ask(Store.believed, self._wall())
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

"""The part of the chat about what was said: reading, searching, exporting and erasing it."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred

from punch.apps.chat.contacts import Contacts
from punch.apps.chat.conversation import Conversation
from punch.apps.chat.events import HistoryErased, MessageChanged, MessagesDelivered
from punch.apps.chat.model import ChatError, ChatMessage, ConversationSummary
from punch.apps.chat.store import DAY, PAGE, Overview, Store
from punch.identity import PeerID

#: Between two looks for messages that are older than the retention, in seconds.
TIDY = 3600.0

#: Most messages in one answer.
MAX_LIMIT = 1000


class History(Contacts):
    """What `Chat` does with the store."""

    def conversations(self) -> Deferred[list[ConversationSummary]]:
        """All chats: those with messages, links or calls, and the address book; the newest first."""

        def merge(overviews: list[Overview]) -> list[ConversationSummary]:
            found = {overview.peer: overview for overview in overviews}
            peers = dict.fromkeys([*self.questions, *self.links, *self.calling, *found, *self.book])
            chats = [self._summary_of(peer, found.get(peer)) for peer in peers]
            return sorted(chats, key=lambda chat: -chat.last.number if chat.last is not None else 0)

        return self.ask(Store.overviews).addCallback(merge)

    def conversation(self, who: str | PeerID) -> Deferred[ConversationSummary]:
        """The chat with one peer."""
        peer = self.peer(who)
        return self.ask(Store.overviews, peer).addCallback(
            lambda found: self._summary_of(peer, found[0] if found else None)
        )

    def _summary_of(self, peer: PeerID, overview: Overview | None) -> ConversationSummary:
        contact, link, stage = self.contact(peer), self.calls.status(peer), self.calls.stage(peer)
        if overview is None:
            return ConversationSummary(contact, link=link, stage=stage)
        last = None if overview.last is None else self._as_now(overview.last)
        return ConversationSummary(contact, overview.unread, overview.waiting, last, link, stage)

    def history(
        self, who: str | PeerID, before: int | None = None, limit: int = 50, after: int | None = None
    ) -> Deferred[list[ChatMessage]]:
        """
        What was said, oldest first: the newest messages, those before a number, or those after one.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        found = self.ask(Store.history, self.peer(who), before, after, limit)
        return found.addCallback(self._all_as_now)

    def search(
        self, text: str, who: str | PeerID | None = None, before: int | None = None, limit: int = 50
    ) -> Deferred[list[ChatMessage]]:
        """Messages with `text` in them, whatever the case, newest first."""
        peer = None if who is None else self.peer(who)
        found = self.ask(Store.search, text, peer, before, max(1, min(limit, MAX_LIMIT)))
        return found.addCallback(self._all_as_now)

    def export(
        self, who: str | PeerID | None = None, after: int = 0, limit: int = PAGE
    ) -> Deferred[list[ChatMessage]]:
        """
        What was said, with all or one, oldest first, a page at a time: the next one begins `after` the last
        number of this one, and an empty page is the end.
        """
        peer = None if who is None else self.peer(who)
        page = self.ask(Store.export, peer, after, max(1, min(limit, MAX_LIMIT)))
        return page.addCallback(self._all_as_now)

    def erase(self, who: str | PeerID | None = None) -> Deferred[int]:
        """
        Erase what was said with all or one; what waits is never sent.

        :return: how many messages that were.
        """
        peer = None if who is None else self.peer(who)

        def erased(count: int) -> Deferred[int]:
            self.tell(HistoryErased(peer))
            return self.ask(Store.waiting).addCallback(self._recount).addCallback(lambda _: count)

        return self.ask(Store.erase, peer).addCallback(erased)

    def retention(self) -> Deferred[float | None]:
        """For how many days messages are kept; None: until they are erased."""
        return self.ask(Store.retention)

    def set_retention(self, days: float | None) -> Deferred[None]:
        """
        Keep messages for so many days, and erase what is older now. What waits for its peer, or for a view,
        is kept.

        :raise ChatError: no number of days.
        """
        if days is not None and not 0 < days < 1_000_000:
            raise ChatError("malformed", "The retention is a number of days above 0, or none.")
        return self.ask(Store.set_retention, days).addCallback(lambda _: self._expire(days))

    def _tidy(self) -> None:
        self._quietly(self.retention().addCallback(self._expire))
        self._later(TIDY, self._tidy)

    def _expire(self, days: float | None) -> Deferred[None]:
        # Also where all is kept: when that changes, the time is known
        believed = self.ask(Store.believed, self._wall())
        return believed.addCallback(
            lambda now: None if days is None else self._erase_before(now - days * DAY)
        )

    def _erase_before(self, before: float, so_far: int = 0) -> Deferred[None]:
        def page(count: int) -> Deferred[None] | None:
            if count >= PAGE:
                return self._erase_before(before, so_far + count)
            if so_far + count:
                self.tell(HistoryErased(None, before))
            return None

        return self.ask(Store.expire, before).addCallback(page)

    def read(self, who: str | PeerID, up_to: int | None = None) -> Deferred[None]:
        """
        Somebody here has seen what the peer said, up to a message's number; the peer is told.

        :param up_to: None: all.
        """
        peer = self.peer(who)
        seen: dict[bytes, int] = {}

        def page(result: tuple[list[ChatMessage], dict[bytes, int]]) -> Deferred[None] | None:
            changed, further = result
            seen.update(further)
            for message in changed:
                self.tell(MessageChanged(message))
            if len(changed) >= PAGE:
                return self.ask(Store.read_here, peer, up_to).addCallback(page)
            if peer in self._conversations:
                self._conversations[peer].say_read(seen)
            return None

        return self.ask(Store.read_here, peer, up_to).addCallback(page)

    def _recount(self, waiting: dict[PeerID, tuple[int, int]]) -> None:
        for peer, talk in self._conversations.items():
            talk.counted(*waiting.get(peer, (0, 0)))
            self.conversation_moved(talk, 0)

    def conversation_moved(self, talk: Conversation, delivered: int) -> None:
        """Views had messages of the other side, or ours were delivered."""
        if delivered or not talk.undelivered:
            self.calls.delivered(talk.peer)
        self.tell(MessagesDelivered(talk.peer))

    def _as_now(self, message: ChatMessage) -> ChatMessage:
        talk = self._conversations.get(message.peer)
        return message if talk is None else talk.as_now(message)

    def _all_as_now(self, messages: Iterable[ChatMessage]) -> list[ChatMessage]:
        return [self._as_now(message) for message in messages]

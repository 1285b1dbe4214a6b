"""
The application object of the chat: everything that a person or a script can do, whatever the view.

Views call its methods and are told its events; none of them keeps anything that another one would need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger

from punch.address_book import AddressBook, AddressBookError
from punch.apps.chat import protocol
from punch.apps.chat.calls import Calls
from punch.apps.chat.events import (
    ChatBroken,
    ContactChanged,
    ContactForgotten,
    Event,
    Handled,
    HistoryErased,
    MessageChanged,
    NameChanged,
    NetcheckDone,
    StoreFailed,
    View,
)
from punch.apps.chat.model import (
    ChatError,
    ClientID,
    Contact,
    Conversation,
    LinkStatus,
    Message,
    Stage,
    check_text,
)
from punch.apps.chat.store import DAY, PAGE, Overview, Store, StoreError
from punch.apps.chat.stream import ChatStream
from punch.apps.chat.talk import Talk
from punch.apps.chat.worker import Worker
from punch.identity import PeerID, PeerIDError
from punch.link.events import Role
from punch.link.link import Link
from punch.peer import events as peer_events
from punch.wire.fields import check_name

P = ParamSpec("P")
T = TypeVar("T")

#: Most text that may wait for its acks, in characters, for all peers together.
MAX_OUTBOX = 8 * 1024 * 1024

#: Most messages that may wait for their acks, for all peers together.
MAX_OUTBOX_MESSAGES = 100_000

#: How long the other sides may take to agree that all was said, in seconds.
FAREWELL = 1.5

#: How long a link may be up without its chat, once that has ended, in seconds.
CHATLESS = 1.0

#: After how many seconds the disk is tried again that did not take something.
RETRY = 5.0

#: Between two looks for messages that are older than the retention, in seconds.
TIDY = 3600.0

#: Chats that are remembered in memory; those that can be loaded again go first.
MAX_TALKS = 256

#: Most messages in one answer.
MAX_LIMIT = 1000


class NodeLike(Protocol):
    """What the chat needs of `punch.peer.node.Node`."""

    def call(self, peer: PeerID) -> None:
        """Call `peer`."""

    def accept(self, peer: PeerID) -> None:
        """Say yes to its call."""

    def reject(self, peer: PeerID) -> None:
        """Say no to its call."""

    def hangup(self, peer: PeerID) -> None:
        """End the link or the call."""

    def handle(self, name: str, factory: Callable[[Link], IProtocol]) -> None:
        """Take streams called `name`."""

    def rename(self, name: str) -> None:
        """Be called `name` from now on."""

    def netcheck(self) -> Deferred[Mapping[str, Any]]:
        """Find out what the network does, as `punch netcheck --json` tells it."""


class Chat:
    """
    All chats of one peer.

    :param me: this side's ID.
    :param name: what it calls itself.
    :param worker: where the store is.
    :param wall: seconds since 1970.
    :param random: random bytes.
    :param save_name: keeps a new name for the next start; may raise `ChatError`.
    :param keeps_history: whether the store outlives this process.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        me: PeerID,
        name: str,
        node: NodeLike,
        book: AddressBook,
        worker: Worker,
        clock: IReactorTime,
        wall: Callable[[], float],
        random: Callable[[int], bytes],
        save_name: Callable[[str], None] = lambda name: None,
        keeps_history: bool = True,
    ) -> None:
        self.me = me
        self.name = name
        self.book = book
        self.keeps_history = keeps_history
        self._node = node
        self._worker = worker
        self._clock = clock
        self._wall = wall
        self._random = random
        self._save_name = save_name
        self._views: list[View] = []
        self._talks: dict[PeerID, Talk] = {}
        self._told_contacts: dict[PeerID, Contact] = {}
        self._timers: list[IDelayedCall] = []
        self._retrying: IDelayedCall | None = None
        self._store_trouble = False
        self._farewells: set[PeerID] = set()
        self._leaving: Deferred[None] | None = None
        self._stopped = False
        self.calls = Calls(self, node, clock, wall, lambda: random(1)[0] / 255)
        node.handle(protocol.STREAM_NAME, self._answer_stream)

    # -- what it runs in --

    @property
    def questions(self) -> list[PeerID]:
        """Whose calls wait for an answer here, oldest first."""
        return self.calls.questions

    @property
    def links(self) -> dict[PeerID, Link]:
        """The links that are up, the newest last."""
        return self.calls.links

    @property
    def calling(self) -> set[PeerID]:
        """Whom this side's user called, until that comes to something."""
        return self.calls.calling

    def attach(self, view: View) -> None:
        """Tell this view all that happens from now on."""
        self._views.append(view)

    def detach(self, view: View) -> None:
        """Tell it nothing more."""
        if view in self._views:
            self._views.remove(view)

    def start(self) -> Deferred[None]:
        """
        Load what waits, and tell the views what earlier processes may not have shown. Before the node starts,
        and after the views are attached.
        """
        return self.ask(Store.waiting).addCallback(self._wait).addCallback(self._show_again)

    def _wait(self, waiting: dict[PeerID, tuple[int, int]]) -> Deferred[list[tuple[bytes, Message]]]:
        for peer, (count, size) in waiting.items():
            talk = self._talk(peer)
            talk.undelivered, talk.undelivered_bytes = count, size
            if self.waits(peer):
                self.calls.waiting(peer)
        return self.ask(Store.unshown)

    def _show_again(self, messages: list[tuple[bytes, Message]]) -> None:
        for epoch, message in messages:
            self._talk(message.peer).show_again(epoch, message)
        self._tidy()

    def stop(self) -> Deferred[None]:
        """Nothing happens any more; fires when the store is closed. After the node has stopped."""
        if self._stopped:
            return succeed(None)
        self._stopped = True
        self.calls.stop()
        for timer in [*self._timers, *filter(None, [self._retrying])]:
            if timer.active():
                timer.cancel()
        self._timers.clear()
        return self._worker.stop()

    def leave(self) -> Deferred[None]:
        """
        Say bye on all chats, so that nothing that is under way is lost.

        :return: fires when all sides agree that all was said, after 1.5 s at the latest.
        """
        if self._leaving is not None:
            return self._leaving
        self._leaving = Deferred()
        self._farewells = {peer for peer in self.links if self.streaming(peer)}
        self._later(FAREWELL, self._left)
        for peer in list(self._farewells):
            self._talks[peer].say_bye()
        self._check_farewells()
        return self._leaving

    def _farewell(self, peer: PeerID) -> None:
        self._farewells.discard(peer)
        self._check_farewells()

    def _check_farewells(self) -> None:
        if self._leaving is not None and not self._farewells:
            self._left()

    def _left(self) -> None:
        if self._leaving is not None and not self._leaving.called:
            self._leaving.callback(None)

    def handle(self, event: peer_events.Event) -> None:
        """One event of the node."""
        if self._stopped:
            return
        if self.calls.handle(event):
            self.tell(event)
        if isinstance(event, peer_events.IncomingCall):
            self.calls.ask(event)
        elif isinstance(event, peer_events.Connected):
            self._tell_contact(event.peer)
            if event.link.role is Role.CALLER and self.links.get(event.peer) is event.link:
                event.link.open_stream(protocol.STREAM_NAME, ChatStream(self._talk(event.peer)))
        elif isinstance(event, peer_events.Disconnected):
            self._farewell(event.peer)
        if isinstance(event, (peer_events.Introduced, peer_events.IncomingCall)):
            self._tell_contact(event.peer)

    # -- who --

    def peer(self, who: str | PeerID) -> PeerID:
        """
        Whom an ID or a name of the address book means.

        :raise ChatError: nobody.
        """
        if isinstance(who, PeerID):
            return who
        named = self.book.find(who)
        if named is not None:
            return named
        try:
            return PeerID.parse(who)
        except PeerIDError as error:
            if " " in who.strip() or len(who) > 40:
                raise ChatError("bad-peer-id", str(error)) from None
            raise ChatError(
                "bad-peer-id", f"{who.strip()!a} is neither a name in the address book nor a peer ID: {error}"
            ) from None

    def contact(self, who: str | PeerID) -> Contact:
        """What is known about somebody."""
        peer = self.peer(who)
        entry = self.book.entry(peer)
        claimed = self.calls.names.get(peer) or entry.claimed
        return Contact(peer, entry.name, claimed, entry.known, entry.blocked)

    def contacts(self) -> list[Contact]:
        """All of the address book, those with names first."""
        contacts = [self.contact(peer) for peer in self.book]
        return sorted(
            contacts, key=lambda one: (one.name is None, (one.name or one.claimed).casefold(), one.peer)
        )

    def name_peer(self, who: str | PeerID, name: str | None) -> Contact:
        """Give somebody a name, or take it away."""
        peer = self._other(who)
        return self._book(peer, lambda: self.book.rename(peer, name))

    def block(self, who: str | PeerID) -> Contact:
        """Refuse the calls of somebody from now on, and end what there is."""
        peer = self._other(who)
        contact = self._book(peer, lambda: self.book.block(peer))
        if peer in self.questions:
            self.calls.answered(peer)
            self._node.reject(peer)
        elif peer in self.links or self.calls.stage(peer) is not None:
            self._node.hangup(peer)
        return contact

    def unblock(self, who: str | PeerID) -> Contact:
        """Refuse them no more."""
        peer = self.peer(who)
        contact = self._book(peer, lambda: self.book.block(peer, False))
        if self.waits(peer):
            self.calls.waiting(peer)
        return contact

    def forget(self, who: str | PeerID) -> None:
        """Take somebody out of the address book. What was said stays, until it is erased."""
        peer = self.peer(who)
        if self.book.entry(peer) == self.book.entry(self.me):
            raise ChatError("unknown-peer", f"{peer.short} is not in the address book.")
        try:
            self.book.forget(peer)
        except AddressBookError as error:
            raise ChatError(error.code, str(error)) from error
        self._told_contacts.pop(peer, None)
        self.tell(ContactForgotten(peer))

    def _book(self, peer: PeerID, change: Callable[[], bool]) -> Contact:
        try:
            change()
        except AddressBookError as error:
            raise ChatError(error.code, str(error)) from error
        finally:
            self._tell_contact(peer)
        return self.contact(peer)

    def _tell_contact(self, peer: PeerID) -> None:
        contact = self.contact(peer)
        if self._told_contacts.get(peer) != contact:
            if len(self._told_contacts) >= MAX_LIMIT:
                self._told_contacts.clear()
            self._told_contacts[peer] = contact
            self.tell(ContactChanged(contact))

    def _other(self, who: str | PeerID) -> PeerID:
        peer = self.peer(who)
        if peer == self.me:
            raise ChatError("self", "This is your own ID: use the ID that the other side printed.")
        return peer

    def rename(self, name: str) -> None:
        """Call oneself something else: peers that are connected hear it at once, others at the next call."""
        try:
            name = check_name(name.strip())
        except ValueError as error:
            raise ChatError("bad-name", str(error)) from error
        if name == self.name:
            return
        self._save_name(name)
        self.name = name
        self._node.rename(name)
        for talk in self._talks.values():
            talk.say_name(name)
        self.tell(NameChanged(name))

    # -- links --

    def call(self, who: str | PeerID) -> PeerID:
        """Call somebody."""
        peer = self._open(who)
        self.calls.call(peer)
        return peer

    def accept(self, who: str | PeerID) -> PeerID:
        """Let a caller in."""
        peer = self._asked(who)
        self._node.accept(peer)
        return peer

    def reject(self, who: str | PeerID) -> PeerID:
        """Refuse a call."""
        peer = self._asked(who)
        self._node.reject(peer)
        return peer

    def hangup(self, who: str | PeerID) -> PeerID:
        """End a link, or a call of ours."""
        peer = self.peer(who)
        if peer not in self.links and self.calls.stage(peer) is None and peer not in self.calling:
            raise ChatError("not-connected", f"There is neither a link nor a call to {peer.short}.")
        self.calls.hung_up(peer)
        self.calling.discard(peer)
        self._node.hangup(peer)
        return peer

    def _asked(self, who: str | PeerID) -> PeerID:
        peer = self.peer(who)
        if peer not in self.questions:
            raise ChatError("no-call", f"No call of {peer.short} waits for an answer: wait for a call.")
        self.calls.answered(peer)
        return peer

    def _open(self, who: str | PeerID) -> PeerID:
        peer = self._other(who)
        if self.book.blocked(peer):
            raise ChatError("blocked", f"You have blocked {peer.short}: unblock them first.")
        return peer

    def link_status(self, who: str | PeerID) -> LinkStatus | None:
        """The link to somebody, if there is one."""
        return self.calls.status(self.peer(who))

    def stage(self, who: str | PeerID) -> Stage | None:
        """How far a call is that is no link yet."""
        return self.calls.stage(self.peer(who))

    def status(self) -> dict[str, Any]:
        """What `/status` shows; the fields are those of docs/json.md."""
        links = []
        for peer in self.links:
            link = self.calls.status(peer)
            if link is not None:
                links.append(
                    {
                        "peer": str(peer),
                        "path": link.path,
                        "local": str(link.local),
                        "remote": str(link.remote),
                        "protocol": link.protocol,
                        "rtt": link.rtt,
                        "since": link.since,
                        "dark": link.dark,
                    }
                )
        return {
            "id": str(self.me),
            "name": self.name,
            "registered": self.calls.rendezvous is not None,
            "rendezvous": self.calls.rendezvous,
            "links": links,
            "calling": [str(peer) for peer in self.calling],
            "questions": [str(peer) for peer in self.questions],
            "waiting": {str(p): talk.undelivered for p, talk in self._talks.items() if talk.undelivered},
            "history": self.keeps_history,
        }

    def netcheck(self) -> Deferred[Mapping[str, Any]]:
        """Find out what the network does; some seconds."""

        def done(report: Mapping[str, Any]) -> Mapping[str, Any]:
            self.tell(NetcheckDone(report))
            return report

        return self._node.netcheck().addCallback(done)

    # -- messages --

    def send(self, who: str | PeerID, text: str, client_id: ClientID | None = None) -> Deferred[Message]:
        """
        Say something, now or when the peer is there.

        :param client_id: a script's own name for it.
        :return: the message, when it is safe on the disk. It fails if that is not to be had.
        :raise ChatError: it can't be said; nothing was kept.
        """
        peer = self._open(who)
        check_text(text)
        if self.undelivered_bytes() + len(text) > MAX_OUTBOX or self.undelivered() >= MAX_OUTBOX_MESSAGES:
            raise ChatError(
                "outbox-full",
                f"{self.undelivered():,} messages wait for their marks: send again when they have come.",
            )
        talk = self._talk(peer)
        talk.undelivered += 1
        talk.undelivered_bytes += len(text)

        def kept(message: Message) -> Message:
            self._store_works()
            message = talk.added(message)
            if self.waits(peer):
                self.calls.waiting(peer)
            return message

        def not_kept(failure: Any) -> Any:
            talk.undelivered -= 1
            talk.undelivered_bytes -= len(text)
            return failure

        added = self.ask(Store.add, peer, self.new_epoch(), text, self._wall(), client_id)
        return added.addCallbacks(kept, not_kept)

    def read(self, who: str | PeerID, up_to: int | None = None) -> Deferred[None]:
        """
        Somebody here has seen what the peer said, up to a message's number; the peer is told.

        :param up_to: None: all.
        """
        peer = self.peer(who)
        last = 0

        def page(result: tuple[list[Message], int]) -> Deferred[None] | None:
            nonlocal last
            changed, seen = result
            last = max(last, seen)
            for message in changed:
                self.tell(MessageChanged(message))
            if len(changed) >= PAGE:
                return self.ask(Store.read_here, peer, up_to).addCallback(page)
            if last and peer in self._talks:
                self._talks[peer].say_read(last)
            return None

        return self.ask(Store.read_here, peer, up_to).addCallback(page)

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many messages have no ack yet, to `peer` or to anyone."""
        if peer is not None:
            return self._talks[peer].undelivered if peer in self._talks else 0
        return sum(talk.undelivered for talk in self._talks.values())

    def undelivered_bytes(self) -> int:
        """How much text has no ack yet, in characters."""
        return sum(talk.undelivered_bytes for talk in self._talks.values())

    def unhandled(self, peer: PeerID) -> int:
        """How many messages of `peer` the views have not had yet."""
        return self._talks[peer].unhandled if peer in self._talks else 0

    def streaming(self, peer: PeerID) -> bool:
        """Whether a stream carries the chat with `peer` now."""
        return peer in self._talks and self._talks[peer].ready

    # -- history --

    def conversations(self) -> Deferred[list[Conversation]]:
        """All chats: those with messages, links or calls, and the address book; the newest first."""

        def merge(overviews: list[Overview]) -> list[Conversation]:
            found = {overview.peer: overview for overview in overviews}
            peers = dict.fromkeys([*self.questions, *self.links, *self.calling, *found, *self.book])
            chats = [self._conversation(peer, found.get(peer)) for peer in peers]
            return sorted(chats, key=lambda chat: -chat.last.number if chat.last is not None else 0)

        return self.ask(Store.overviews).addCallback(merge)

    def conversation(self, who: str | PeerID) -> Deferred[Conversation]:
        """The chat with one peer."""
        peer = self.peer(who)
        return self.ask(Store.overviews, peer).addCallback(
            lambda found: self._conversation(peer, found[0] if found else None)
        )

    def _conversation(self, peer: PeerID, overview: Overview | None) -> Conversation:
        contact, link, stage = self.contact(peer), self.calls.status(peer), self.calls.stage(peer)
        if overview is None:
            return Conversation(contact, link=link, stage=stage)
        last = None if overview.last is None else self._as_now(overview.last)
        return Conversation(contact, overview.unread, overview.waiting, last, link, stage)

    def history(
        self, who: str | PeerID, before: int | None = None, limit: int = 50, after: int | None = None
    ) -> Deferred[list[Message]]:
        """
        What was said, oldest first: the newest messages, those before a number, or those after one.
        """
        limit = max(1, min(limit, MAX_LIMIT))
        found = self.ask(Store.history, self.peer(who), before, after, limit)
        return found.addCallback(self._all_as_now)

    def search(
        self, text: str, who: str | PeerID | None = None, before: int | None = None, limit: int = 50
    ) -> Deferred[list[Message]]:
        """Messages with `text` in them, whatever the case, newest first."""
        peer = None if who is None else self.peer(who)
        found = self.ask(Store.search, text, peer, before, max(1, min(limit, MAX_LIMIT)))
        return found.addCallback(self._all_as_now)

    def export(
        self, who: str | PeerID | None = None, after: int = 0, limit: int = PAGE
    ) -> Deferred[list[dict[str, Any]]]:
        """
        What was said, with all or one, oldest first, a page at a time: the next one begins `after` the last
        number of this one, and an empty page is the end.
        """
        peer = None if who is None else self.peer(who)
        page = self.ask(Store.export, peer, after, max(1, min(limit, MAX_LIMIT)))
        return page.addCallback(lambda messages: [as_dict(m) for m in self._all_as_now(messages)])

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

    def _recount(self, waiting: dict[PeerID, tuple[int, int]]) -> None:
        for peer, talk in self._talks.items():
            talk.undelivered, talk.undelivered_bytes = waiting.get(peer, (0, 0))
            self.talk_moved(talk, 0)

    def retention(self) -> Deferred[float | None]:
        """For how many days messages are kept; None: until they are erased."""
        return self.ask(Store.retention)

    def set_retention(self, days: float | None) -> Deferred[None]:
        """
        Keep messages for so many days, and erase what is older now. What waits for its peer is kept.

        :raise ChatError: no number of days.
        """
        if days is not None and not 0 < days < 1_000_000:
            raise ChatError("malformed", "The retention is a number of days above 0, or none.")
        return self.ask(Store.set_retention, days).addCallback(lambda _: self._expire(days))

    def _tidy(self) -> None:
        self._quietly(self.retention().addCallback(self._expire))
        self._later(TIDY, self._tidy)

    def _expire(self, days: float | None, so_far: int = 0) -> Deferred[None] | None:
        if days is None:
            return None
        before = self._wall() - days * DAY

        def page(count: int) -> Deferred[None] | None:
            if count >= PAGE:
                return self._expire(days, so_far + count)
            if so_far + count:
                self.tell(HistoryErased(None, before))
            return None

        return self.ask(Store.expire, before).addCallback(page)

    # -- what calls and talks need (CallsOwner, TalkOwner) --

    def ask(
        self, call: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> Deferred[T]:
        """As `Worker.run`; once the chat has stopped it never fires."""
        if self._stopped:
            return Deferred()
        result: Deferred[T] = Deferred()

        def finished(value: Any) -> None:
            if not self._stopped:
                result.callback(value)

        self._worker.run(call, *arguments, **named).addBoth(finished)
        return result

    def tell(self, event: Event) -> list[Deferred[None]]:
        """Tell all views; what returns are those that need time for it."""
        slow = []
        for view in list(self._views):
            try:
                had = view.handle(event)
            except Exception:
                # A view's own fault: the others, and the chat, go on.
                self._log.failure("a view failed at {event}", event=type(event).__name__)
            else:
                if had is not None:
                    slow.append(had)
        return slow

    def can_answer(self) -> bool:
        """Whether a view can answer a call's question."""
        return any(view.can_answer for view in self._views)

    def waits(self, peer: PeerID) -> bool:
        """Whether messages wait for `peer`, who is not blocked."""
        return self.undelivered(peer) > 0 and not self.book.blocked(peer)

    def new_epoch(self) -> bytes:
        """A random one."""
        return self._random(protocol.EPOCH)

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._wall()

    def store_failed(self, error: StoreError) -> None:
        """The disk did not take something: tried again after a while."""
        if not self._store_trouble:
            self._store_trouble = True
            self._log.error("{error}", error=error)
            self.tell(StoreFailed(str(error)))
        if self._retrying is None and not self._stopped:
            self._retrying = self._clock.callLater(RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = None
        self._store_works()
        for talk in list(self._talks.values()):
            talk.retry()

    def _store_works(self) -> None:
        if self._store_trouble:
            self._store_trouble = False
            self.tell(StoreFailed(None))

    def talk_heard(self, talk: Talk, event: protocol.Named | protocol.Farewell) -> None:
        """The other side said something that is not about messages."""
        if isinstance(event, protocol.Farewell):
            self._farewell(talk.peer)
        else:
            self.calls.learn(talk.peer, event.name)
            self._tell_contact(talk.peer)

    def talk_moved(self, talk: Talk, delivered: int) -> None:
        """Views had messages of the other side, or ours were delivered."""
        if delivered or not talk.undelivered:
            self.calls.delivered(talk.peer)
        self.tell(Handled(talk.peer))

    def talk_ended(self, talk: Talk, error: str | None) -> None:
        """Its stream is over and no other took its place."""
        peer = talk.peer
        if self._stopped or peer not in self.links:
            return
        if error is not None:
            self.tell(ChatBroken(peer, f"The chat with {peer.short} was ended: they sent {error}."))
            self._node.hangup(peer)
        else:
            # Links take their streams along; one that stays without its chat is of no use here.
            self._later(CHATLESS, self._check_chat, peer, self.links[peer])

    def talk_outdated(self, talk: Talk) -> None:
        """A new stream is needed."""
        link = self.links.get(talk.peer)
        if link is not None:
            link.open_stream(protocol.STREAM_NAME, ChatStream(talk))

    # -- inside --

    def _answer_stream(self, link: Link) -> ChatStream:
        return ChatStream(self._talk(link.remote))

    def _talk(self, peer: PeerID) -> Talk:
        talk = self._talks.get(peer)
        if talk is None:
            for old, one in list(self._talks.items()):
                if len(self._talks) < MAX_TALKS:
                    break
                if one.idle:
                    del self._talks[old]
            talk = self._talks[peer] = Talk(peer, self)
        return talk

    def _check_chat(self, peer: PeerID, link: Link) -> None:
        if self.links.get(peer) is link and not self.streaming(peer):
            self._node.hangup(peer)

    def _as_now(self, message: Message) -> Message:
        talk = self._talks.get(message.peer)
        return message if talk is None else talk.as_now(message)

    def _all_as_now(self, messages: list[Message]) -> list[Message]:
        return [self._as_now(message) for message in messages]

    def _later(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        self._timers = [timer for timer in self._timers if timer.active()]
        if not self._stopped:
            self._timers.append(self._clock.callLater(delay, call, *arguments))

    def _quietly(self, done: Deferred[Any]) -> None:
        def failed(failure: Any) -> None:
            failure.trap(StoreError)
            self.store_failed(failure.value)

        done.addErrback(failed)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as exports and `--json` show it."""
    return {
        "number": message.number,
        "peer": str(message.peer),
        "id": message.id if message.client_id is None else message.client_id,
        "outgoing": message.outgoing,
        "text": message.text,
        "time": message.time,
        "time_sent": message.time_sent,
        "state": str(message.state),
    }

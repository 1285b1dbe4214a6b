"""
The application object of the chat: everything that a person or a script can do, whatever the view.

Views call its methods and are told its events; none of them keeps anything that another one would need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from punch.apps.chat import protocol
from punch.apps.chat.contacts import NodeLike
from punch.apps.chat.conversation import Conversation
from punch.apps.chat.events import ChatBroken, NetcheckDone
from punch.apps.chat.history import History
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import (
    ChatError,
    ChatMessage,
    ClientID,
    LinkStatus,
    Stage,
    check_text,
)
from punch.apps.chat.store import Store
from punch.apps.chat.stream import ChatStream
from punch.apps.chat.worker import Worker
from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.link.events import LinkError, LinkRole
from punch.link.link import Link
from punch.node import events as peer_events

#: Most text that may wait for its acks, in characters, for all peers together.
MAX_OUTBOX = 8 * 1024 * 1024

#: Most messages that may wait for their acks, for all peers together.
MAX_OUTBOX_MESSAGES = 100_000

#: How long the other sides may take to agree that all was said, in seconds.
FAREWELL = 1.5

#: How long a link may be up without its chat, once that has ended, in seconds.
CHATLESS = 1.0

#: The views hear of another name that a peer gives itself at most once in so many seconds.
NAME_PAUSE = 1.0

#: Chats that are remembered in memory; those that can be loaded again go first.
MAX_TALKS = 256


class Chat(History):
    """
    All chats of one peer.

    :param me: this side's ID.
    :param name: what it calls itself.
    :param worker: where the store is.
    :param wall: seconds since 1970.
    :param random: random bytes.
    :param save_name: keeps a new name for the next start; may raise `ChatError`.
    :param keeps_history: whether the store outlives this process.
    :ivar new_page: makes an address that lets one more browser in; None where no page is served.
    """

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
        super().__init__(
            me=me,
            name=name,
            node=node,
            book=book,
            worker=worker,
            clock=clock,
            wall=wall,
            save_name=save_name,
        )
        self.keeps_history = keeps_history
        self.new_page: Callable[[], str] | None = None
        self._random = random
        self._farewells: set[PeerID] = set()
        self._renamed: set[PeerID] = set()
        self._leaving: Deferred[None] | None = None
        self._held: deque[peer_events.Event] = deque()
        self.calls = ChatLinks(self, node, clock, wall, lambda: random(1)[0] / 255)
        node.handle(protocol.STREAM_NAME, self._answer_stream)

    # -- what it runs in --

    def start(self) -> Deferred[None]:
        """
        Load what waits, and tell the views what earlier processes may not have shown. Before the node starts,
        and after the views are attached.
        """
        loaded = self.ask(Store.waiting).addCallback(self._wait)
        return loaded.addCallback(self._tell_again).addCallback(self._show_again)

    def _wait(self, waiting: dict[PeerID, tuple[int, int]]) -> Deferred[list[ChatMessage]]:
        for peer, (count, size) in waiting.items():
            conversation = self._conversation(peer)
            conversation.counted(count, size)
            if self.waits(peer):
                self.calls.waiting(peer)
        return self.ask(Store.untold)

    def _tell_again(self, messages: list[ChatMessage]) -> Deferred[list[tuple[bytes, ChatMessage]]]:
        for peer in dict.fromkeys(message.peer for message in messages):
            self._conversation(peer).tell_marks(
                [message for message in messages if message.peer == peer], again=True
            )
        return self.ask(Store.unshown)

    def _show_again(self, messages: list[tuple[bytes, ChatMessage]]) -> None:
        for epoch, message in messages:
            self._conversation(message.peer).show_again(epoch, message)
        self._tidy()
        self._look_at_book()

    def stop(self) -> Deferred[None]:
        """Nothing happens any more; fires when the store is closed. After the node has stopped."""
        if self._stopped:
            return succeed(None)
        while self._held:
            self._happened(self._held.popleft())
        self._end()
        self.calls.stop()
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
            self._conversations[peer].say_bye()
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
        if self._held or (isinstance(event, peer_events.Disconnected) and self._settling(event.peer)):
            self._held.append(event)
            if len(self._held) == 1:
                self._settle()
        else:
            self._happened(event)

    def _settling(self, peer: PeerID) -> bool:
        """Whether something that came before the end of a link is not on the disk yet."""
        return peer in self._conversations and self._conversations[peer].settling and not self._store_trouble

    def _settle(self) -> None:
        """What a peer said, and what it had, is told before the end of the link that brought it."""
        while self._held and not self._stopped:
            event = self._held[0]
            if isinstance(event, peer_events.Disconnected) and self._settling(event.peer):
                # The store's calls are done in order: this one is after those that are waited for.
                self.ask(Store.retention).addBoth(lambda _: self._settle())
                return
            self._held.popleft()
            self._happened(event)

    def _happened(self, event: peer_events.Event) -> None:
        if self.calls.handle(event):
            self.tell(event)
        if isinstance(event, peer_events.IncomingCall):
            self.calls.ask(event)
        elif isinstance(event, peer_events.Connected):
            self._tell_contact(event.peer)
            if event.link.role is LinkRole.CALLER and self.links.get(event.peer) is event.link:
                self._open_stream(self._conversation(event.peer), event.link)
        elif isinstance(event, peer_events.Disconnected):
            self._farewell(event.peer)
        if isinstance(event, (peer_events.Introduced, peer_events.IncomingCall)):
            self._tell_contact(event.peer)

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
                        "dark": link.disconnected,
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
            "waiting": {
                str(p): conversation.undelivered
                for p, conversation in self._conversations.items()
                if conversation.undelivered
            },
            "history": self.keeps_history,
        }

    def netcheck(self) -> Deferred[Mapping[str, Any]]:
        """Find out what the network does; some seconds."""

        def done(report: Mapping[str, Any]) -> Mapping[str, Any]:
            self.tell(NetcheckDone(report))
            return report

        return self._node.netcheck().addCallback(done)

    # -- messages --

    def send(self, who: str | PeerID, text: str, client_id: ClientID | None = None) -> Deferred[ChatMessage]:
        """
        Say something, now or when the peer is there.

        :param client_id: a script's own name for it.
        :return: the message, when it is safe on the disk. It fails if that is not to be had.
        :raise ChatError: it can't be said; nothing was kept.
        """
        peer = self._may_say(who, [text])
        added = self.ask(Store.add, peer, self.new_epoch(), text, self._wall(), client_id)
        return self._added(peer, [text], added.addCallback(lambda message: [message])).addCallback(
            lambda messages: messages[0]
        )

    def send_all(self, who: str | PeerID, texts: Sequence[str]) -> Deferred[list[ChatMessage]]:
        """
        Say several things, in order: all of them, or none.

        :return: as `send`.
        :raise ChatError: as `send`.
        """
        peer = self._may_say(who, texts)
        added = self.ask(Store.add_all, peer, self.new_epoch(), texts, self._wall())
        return self._added(peer, texts, added)

    def _may_say(self, who: str | PeerID, texts: Sequence[str]) -> PeerID:
        peer = self._open(who)
        for text in texts:
            check_text(text)
        size = self.undelivered_bytes() + sum(map(len, texts))
        if size > MAX_OUTBOX or self.undelivered() + len(texts) > MAX_OUTBOX_MESSAGES:
            raise ChatError(
                "outbox-full",
                f"{self.undelivered():,} messages wait for their marks: send again when they have come.",
            )
        return peer

    def _added(
        self, peer: PeerID, texts: Sequence[str], added: Deferred[list[ChatMessage]]
    ) -> Deferred[list[ChatMessage]]:
        conversation = self._conversation(peer)
        for text in texts:
            conversation.adding(text)

        def kept(messages: list[ChatMessage]) -> list[ChatMessage]:
            self._store_works()
            messages = [conversation.added(message) for message in messages]
            if self.waits(peer):
                self.calls.waiting(peer)
            return messages

        def not_kept(failure: Any) -> Any:
            for text in texts:
                conversation.not_added(text)
            return failure

        return added.addCallbacks(kept, not_kept)

    def undelivered_bytes(self) -> int:
        """How much text has no ack yet, in characters."""
        return sum(conversation.undelivered_size for conversation in self._conversations.values())

    def unhandled(self, peer: PeerID) -> int:
        """How many messages of `peer` the views have not had yet."""
        return self._conversations[peer].unhandled if peer in self._conversations else 0

    def streaming(self, peer: PeerID) -> bool:
        """Whether a stream carries the chat with `peer` now."""
        return peer in self._conversations and self._conversations[peer].ready

    # -- what calls and talks need (CallsOwner, TalkOwner) --

    def can_answer(self) -> bool:
        """Whether a view can answer a call's question."""
        return any(view.can_answer for view in self._views)

    def new_epoch(self) -> bytes:
        """A random one."""
        return self._random(protocol.EPOCH)

    def _retry(self) -> None:
        super()._retry()
        for conversation in list(self._conversations.values()):
            conversation.retry()

    def conversation_heard(
        self, conversation: Conversation, event: protocol.Named | protocol.Farewell
    ) -> None:
        """The other side said something that is not about messages."""
        if isinstance(event, protocol.Farewell):
            self._farewell(conversation.peer)
        else:
            self.calls.learn(conversation.peer, event.name)
            if conversation.peer not in self._renamed:
                self._tell_name(conversation.peer)

    def _tell_name(self, peer: PeerID) -> None:
        self._renamed.discard(peer)
        if self._tell_contact(peer):
            self._renamed.add(peer)
            self._later(NAME_PAUSE, self._tell_name, peer)

    def conversation_ended(self, conversation: Conversation, link: Link, error: str | None) -> None:
        """Its stream, over that link, has ended, and no other took its place."""
        peer = conversation.peer
        if self._stopped or peer not in self.links:
            return
        if error is not None:
            self.tell(ChatBroken(peer, f"The chat with {peer.short} was ended: they sent {error}."))
            self._node.hangup(peer)
        elif self.links[peer] is link:
            # Links take their streams along; one that stays without its chat is of no use here. Where another
            # link has come, its chat may be on the way.
            self._later(CHATLESS, self._check_chat, peer, link)

    def conversation_outdated(self, conversation: Conversation) -> None:
        """A new stream is needed."""
        link = self.links.get(conversation.peer)
        if link is not None:
            self._open_stream(conversation, link)

    # -- inside --

    def _answer_stream(self, link: Link) -> ChatStream:
        return ChatStream(self._conversation(link.remote), link)

    def _open_stream(self, conversation: Conversation, link: Link) -> None:
        try:
            link.open_stream(protocol.STREAM_NAME, ChatStream(conversation, link))
        except LinkError:
            # It is over, and its end is told in a moment; else it is of no use without its chat.
            self._later(CHATLESS, self._check_chat, conversation.peer, link)

    def _conversation(self, peer: PeerID) -> Conversation:
        conversation = self._conversations.get(peer)
        if conversation is None:
            for old, one in list(self._conversations.items()):
                if len(self._conversations) < MAX_TALKS:
                    break
                if one.idle:
                    del self._conversations[old]
            conversation = self._conversations[peer] = Conversation(peer, self)
        return conversation

    def _check_chat(self, peer: PeerID, link: Link) -> None:
        if self.links.get(peer) is link and not self.streaming(peer):
            self._node.hangup(peer)


__all__ = ["Chat", "NodeLike"]

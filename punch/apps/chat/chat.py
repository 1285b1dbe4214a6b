"""
The application object of the chat: everything that a person or a script can do, whatever the view.

Views call its methods, and those of its parts, and are told its events. No view keeps anything that another
view would need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from punch import names
from punch.apps.chat import protocol
from punch.apps.chat.contacts import Contacts
from punch.apps.chat.conversation import Conversation
from punch.apps.chat.conversations import ChatFactory, ChatShutdown, Conversations, History
from punch.apps.chat.events import (
    ChatBroken,
    MessagesDelivered,
    NameChanged,
    NetcheckDone,
    Views,
)
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import (
    ChatError,
    ChatMessage,
    ChatProblem,
    ChatStatus,
    ClientID,
)
from punch.apps.chat.storage import Storage, Worker
from punch.apps.chat.store import Store
from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.link.events import LinkRole, LinkStatus, ServiceRefused
from punch.link.services import anyone
from punch.net.driver import Timers
from punch.node import events as node_events
from punch.node.causes import OtherCause
from punch.node.interfaces import INode
from punch.wire.fields import check_name

if TYPE_CHECKING:
    from punch.link.link import Link
    from punch.natcheck.report import NetcheckReport

REOPEN_DELAY = 5.0
"""Seconds after which the caller opens a chat stream again that has ended while its link stayed."""


class Chat:
    """
    All conversations of one peer.

    :param name: this side's own name.
    :param worker: runs the store.
    :param wall: seconds since 1970.
    :param random: random bytes.
    :param save_name: keeps a new name for the next start; may raise `ChatError`.
    :param keeps_history: whether the store outlives this process.
    :ivar me: this side's ID.
    :ivar views: what is told of events.
    :ivar storage: the store.
    :ivar calls: calls and links, and the schedule of calls that the chat places by itself.
    :ivar conversations: the conversations that are in memory.
    :ivar contacts: the address book, and who is meant by a name.
    :ivar history: the messages in the store.
    :ivar new_page: makes an address that lets one more browser in; None where no page is served.
    """

    def __init__(
        self,
        *,
        me: PeerID,
        name: str,
        node: INode,
        book: AddressBook,
        worker: Worker,
        clock: IReactorTime,
        wall: Callable[[], float],
        random: Callable[[int], bytes],
        save_name: Callable[[str], None] = lambda name: None,
        keeps_history: bool = True,
    ) -> None:
        self.me = me
        self.keeps_history = keeps_history
        self.new_page: Callable[[], str] | None = None
        self._name = name
        self._node = node
        self._book = book
        self._wall = wall
        self._random = random
        self._save_name = save_name
        self._stopped = False
        # The peers that have refused the chat on the link that there is
        self._refused: set[PeerID] = set()
        self._delayed: deque[node_events.Event] = deque()
        self._timers = Timers(clock)
        self.views = Views()
        self.conversations: Conversations
        self.storage = Storage(worker, self.views, self._timers, lambda: self.conversations.retry())
        self.conversations = Conversations(self.storage, self.views, wall, self._new_epoch, self)
        self._shutdown = ChatShutdown(self.conversations, self._timers)
        self.calls = ChatLinks(self.views, node, clock, lambda: random(1)[0] / 255, self.waits)
        undelivered = self.conversations.undelivered
        self.contacts = Contacts(me, node, book, self.views, self.calls, undelivered, self._timers)
        self.history = History(
            self.storage,
            self.views,
            self.contacts,
            self.conversations,
            self.calls,
            book,
            self._timers,
            wall,
        )
        self._streams = ChatFactory(self.conversations.open)
        node.serve(protocol.STREAM_NAME, self._streams, anyone)

    # -- start and stop --

    def start(self) -> Deferred[None]:
        """
        Load what waits, and tell the views what earlier processes may not have shown. To be called before the
        node starts, and after the views are attached.
        """
        loaded = self.storage.ask(Store.waiting).addCallback(self._load_waiting)
        return loaded.addCallback(self._tell_states_again).addCallback(self._show_again)

    def _load_waiting(self, waiting: dict[PeerID, tuple[int, int]]) -> Deferred[list[ChatMessage]]:
        for peer, (count, size) in waiting.items():
            self.conversations.open(peer).counted(count, size)
            if self.waits(peer):
                self.calls.waiting(peer)
        return self.storage.ask(Store.untold_states)

    def _tell_states_again(self, messages: list[ChatMessage]) -> Deferred[list[tuple[bytes, ChatMessage]]]:
        for peer in dict.fromkeys(message.peer for message in messages):
            self.conversations.open(peer).marks.tell(
                [message for message in messages if message.peer == peer], again=True
            )
        return self.storage.ask(Store.undelivered_here)

    def _show_again(self, messages: list[tuple[bytes, ChatMessage]]) -> None:
        for epoch, message in messages:
            self.conversations.open(message.peer).received.show(epoch, message, again=True)
        self.history.expire_regularly()
        self.contacts.watch_book()

    def stop(self) -> Deferred[None]:
        """
        Stop everything, and close the store. To be called after the node has stopped.

        :return: fires when the store is closed.
        """
        if self._stopped:
            return succeed(None)
        while self._delayed:
            self._handle(self._delayed.popleft())
        self._stopped = True
        self._timers.stop()
        self.calls.stop()
        return self.storage.stop()

    def leave(self) -> Deferred[None]:
        """
        Say goodbye in all conversations, so that nothing that is under way is lost.

        :return: fires when all peers have confirmed it, as `ChatShutdown.say` does.
        """
        return self._shutdown.say({peer for peer in self.links if self.conversations.streaming(peer)})

    # -- events of the node --

    def handle(self, event: node_events.Event) -> None:
        """
        Handle an event of the node, and tell the views.

        The end of a link is told after all that came over it, and events keep their order: so they are
        delayed while the store still writes what came before a `Disconnected`. Meanwhile the links and calls
        that the node has are newer than what the views were told.
        """
        if self._stopped:
            return
        if self._delayed or (isinstance(event, node_events.Disconnected) and self._storing(event.peer)):
            self._delayed.append(event)
            if len(self._delayed) == 1:
                self._handle_delayed()
        else:
            self._handle(event)

    def _storing(self, peer: PeerID) -> bool:
        """Whether something that came before the end of a link is not stored yet."""
        conversation = self.conversations.get(peer)
        return conversation is not None and conversation.storing and self.storage.trouble is None

    def _handle_delayed(self) -> None:
        while self._delayed and not self._stopped:
            event = self._delayed[0]
            if isinstance(event, node_events.Disconnected) and self._storing(event.peer):
                # The store's calls are done in order: this one is done after those that are waited for.
                self.storage.ask(Store.retention).addBoth(lambda _: self._handle_delayed())
                return
            self._delayed.popleft()
            self._handle(event)

    def _handle(self, event: node_events.Event) -> None:
        if self.calls.handle(event):
            self.views.tell(event)
        if isinstance(event, node_events.Connected):
            self.contacts.tell(event.peer)
            self._refused.discard(event.peer)
            if event.link.role is LinkRole.CALLER and self.links.get(event.peer) is event.link:
                self._open_stream(event.link)
        elif isinstance(event, node_events.Disconnected):
            self._shutdown.done(event.peer)
            self._refused.discard(event.peer)
        if isinstance(event, (node_events.Introduced, node_events.IncomingCall)):
            self.contacts.tell(event.peer)

    # -- calls and links --

    @property
    def registration(self) -> node_events.Registered | node_events.Unregistered:
        """How the last attempt to register ended; `Unregistered` without a reason before that."""
        return self._node.registration() or node_events.Unregistered(OtherCause("", ""), None)

    @property
    def was_registered(self) -> bool:
        """Whether the rendezvous has known this side at some time."""
        return self._node.was_registered()

    @property
    def registered(self) -> bool:
        """Whether the rendezvous knows this side now."""
        return self.calls.rendezvous is not None

    @property
    def questions(self) -> list[PeerID]:
        """The peers whose calls wait for an answer here, oldest first."""
        return self.calls.questions

    @property
    def links(self) -> dict[PeerID, Link]:
        """The links that are up, the newest last."""
        return self.calls.links

    @property
    def calling(self) -> set[PeerID]:
        """The peers that this side's user called, until the call has succeeded or failed."""
        return self.calls.calling

    def call(self, who: str | PeerID) -> PeerID:
        """Call a peer."""
        peer = self.contacts.find_reachable(who)
        self.calls.call(peer)
        return peer

    def accept(self, who: str | PeerID) -> PeerID:
        """Accept a call."""
        peer = self._take_question(who)
        self._node.accept(peer)
        return peer

    def reject(self, who: str | PeerID) -> PeerID:
        """Refuse a call."""
        peer = self._take_question(who)
        self._node.reject(peer)
        return peer

    def reject_unanswerable(self) -> None:
        """Refuse the calls that wait for an answer if nobody can give one any more."""
        self._node.reject_unanswerable()

    def hangup(self, who: str | PeerID) -> PeerID:
        """End a link, or a call of ours."""
        peer = self.contacts.find(who)
        if peer not in self.links and self.calls.stage(peer) is None and peer not in self.calling:
            raise ChatError(ChatProblem.NOT_CONNECTED, peer=peer)
        self.calls.hung_up(peer)
        self.calling.discard(peer)
        self._node.hangup(peer)
        return peer

    def _take_question(self, who: str | PeerID) -> PeerID:
        peer = self.contacts.find(who)
        if peer not in self.questions:
            raise ChatError(ChatProblem.NO_CALL, peer=peer)
        return peer

    def link_status(self, who: str | PeerID) -> LinkStatus | None:
        """The link to a peer, if there is one."""
        return self.calls.status(self.contacts.find(who))

    def stage(self, who: str | PeerID) -> node_events.CallState | None:
        """The state of the call with a peer, if one is under way."""
        return self.calls.stage(self.contacts.find(who))

    # -- this side --

    @property
    def name(self) -> str:
        """This side's own name."""
        return self._name

    def rename(self, name: str) -> None:
        """
        Change this side's own name. Connected peers are told at once, others at the next call.

        :raise ChatError: the name can't be used (`bad-name`) or not be kept.
        """
        try:
            name = check_name(names.without_format(name).strip())
        except ValueError as error:
            raise ChatError(ChatProblem.OWN_NAME, cause=error) from error
        if not names.without_ignorable(name):
            raise ChatError(ChatProblem.UNSEEN_NAME, text=name)
        if name == self._name:
            return
        self._save_name(name)
        self._name = name
        self._node.rename(name)
        for conversation in self.conversations:
            conversation.say_name(name)
        self.views.tell(NameChanged(name))

    def status(self) -> ChatStatus:
        """The chat as it is now."""
        return ChatStatus(
            me=self.me,
            name=self.name,
            rendezvous=self.calls.rendezvous,
            links=self.calls.statuses,
            calling=list(self.calling),
            questions=self.questions,
            waiting={each.peer: each.undelivered for each in self.conversations if each.undelivered},
            keeps_history=self.keeps_history,
        )

    def netcheck(self) -> Deferred[NetcheckReport]:
        """Find out what the network does; takes some seconds."""

        def done(report: NetcheckReport) -> NetcheckReport:
            self.views.tell(NetcheckDone(report))
            return report

        return self._node.netcheck().addCallback(done)

    # -- messages --

    def send(self, who: str | PeerID, text: str, client_id: ClientID | None = None) -> Deferred[ChatMessage]:
        """
        Send a message, as `Conversation.send` does.

        :return: the message, when it is stored; a failure if it can't be stored.
        :raise ChatError: as there, or there is no such peer.
        """
        conversation = self.conversations.open(self.contacts.find_reachable(who))
        try:
            sent = conversation.send([text], client_id)
        except ChatError:
            self.conversations.drop_if_idle(conversation)
            raise
        return sent.addCallback(lambda messages: messages[0])

    def _new_epoch(self) -> bytes:
        return self._random(protocol.EPOCH)

    def waits(self, peer: PeerID) -> bool:
        """Whether messages wait for `peer`, who is not blocked."""
        return self.conversations.undelivered(peer) > 0 and not self._book.blocked(peer)

    # -- what conversations report --

    def conversation_waits(self, peer: PeerID) -> None:
        """Messages to the peer were stored."""
        if self.waits(peer):
            self.calls.waiting(peer)

    def conversation_heard(
        self, conversation: Conversation, event: protocol.Named | protocol.ByeExchanged
    ) -> None:
        """The peer sent something that is not about messages."""
        if isinstance(event, protocol.ByeExchanged):
            self._shutdown.done(conversation.peer)
        else:
            self.contacts.claimed(conversation.peer, event.name)

    def conversation_moved(self, conversation: Conversation, delivered: int) -> None:
        """Messages of the peer were delivered to the views, or `delivered` of ours to the peer."""
        if delivered or not conversation.undelivered:
            self.calls.delivered(conversation.peer)
        self.views.tell(MessagesDelivered(conversation.peer))

    def conversation_ended(self, conversation: Conversation, link: Link, error: str | None) -> None:
        """
        The conversation's stream on that link has ended, and no other has replaced it.

        :param error: how the peer broke the protocol, if it did.
        """
        peer = conversation.peer
        if self._stopped or peer not in self.links:
            return
        if error is not None:
            self.views.tell(ChatBroken(peer, error))
        elif self.links[peer] is link and link.role is LinkRole.CALLER:
            self._timers.later(REOPEN_DELAY, self._reopen_stream, link)

    def conversation_outdated(self, conversation: Conversation) -> None:
        """The conversation needs a new stream, as a new epoch was begun."""
        link = self.links.get(conversation.peer)
        if link is not None:
            self._open_stream(link)

    # -- streams --

    def _open_stream(self, link: Link) -> None:
        # The stream itself tells its conversation when it ends or is refused.
        link.connect(protocol.STREAM_NAME, self._streams).addErrback(self._not_opened, link.remote)

    def _not_opened(self, failure: Failure, peer: PeerID) -> None:
        if isinstance(failure.value, ServiceRefused):
            self._refused.add(peer)

    def _reopen_stream(self, link: Link) -> None:
        peer = link.remote
        if (
            self.links.get(peer) is link
            and peer not in self._refused
            and not self.conversations.streaming(peer)
        ):
            self._open_stream(link)

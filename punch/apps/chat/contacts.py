"""The part of the chat about people: the address book, who is meant by a name, and what one calls oneself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IReactorTime

from punch import names
from punch.apps.chat.context import ChatContext
from punch.apps.chat.conversation import Conversation
from punch.apps.chat.events import ContactChanged, ContactForgotten, NameChanged
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import ChatError, ContactSummary
from punch.apps.chat.worker import Worker
from punch.contacts import AddressBook, AddressBookError, Contact
from punch.identity import PeerID
from punch.link.link import Link
from punch.lookup import UnknownPeer, find_peer
from punch.wire.fields import check_name

#: Between two looks whether another process has blocked somebody, in seconds.
BOOK_LOOK = 2.0

#: Contacts of which it is remembered what the views were told.
MAX_TOLD = 1000


class NodeLike(Protocol):
    """What the chat needs of `punch.node.node.Node`."""

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


class Contacts(ChatContext):
    """
    :ivar me: this side's ID.
    :ivar name: what it calls itself.
    :ivar book: the address book.
    :ivar calls: the calls and links beneath.
    """

    calls: ChatLinks

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
        save_name: Callable[[str], None],
    ) -> None:
        super().__init__(worker, clock, wall)
        self.me = me
        self.name = name
        self.book = book
        self._node = node
        self._save_name = save_name
        self._conversations: dict[PeerID, Conversation] = {}
        self._told_contacts: dict[PeerID, ContactSummary] = {}

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

    def peer(self, who: str | PeerID) -> PeerID:
        """
        Whom an ID or a name of the address book means.

        :raise ChatError: nobody.
        """
        if isinstance(who, PeerID):
            return who
        try:
            return find_peer(self.book, who, self.calls.names.values())
        except UnknownPeer as error:
            raise ChatError("bad-peer-id", str(error)) from None

    def contact(self, who: str | PeerID) -> ContactSummary:
        """What is known about somebody."""
        peer = self.peer(who)
        entry = self.book.entry(peer)
        claimed = self.calls.names.get(peer) or entry.claimed
        alike = self._alike(peer, entry.name, claimed)
        return ContactSummary(peer, entry.name, claimed, entry.known, entry.blocked, alike)

    def _alike(self, peer: PeerID, name: str | None, claimed: str) -> bool:
        if name is not None:
            return bool(self.book.alike(peer, name, given=True))
        # Anyone may call himself anything: it must not pass for somebody else, nor for this program.
        if not claimed:
            return False
        if names.is_misleading(claimed) or names.is_reserved(re.split(r"\W", claimed, maxsplit=1)[0]):
            return True
        here = {*self.questions, *self.links, *self.calling} - {peer}
        others = {self.calls.names.get(other, "") for other in here if self.book.name_of(other) is None}
        others |= {other.short for other in here}
        return bool(self.book.alike(peer, claimed)) or any(names.alike(claimed, other) for other in others)

    def contacts(self) -> list[ContactSummary]:
        """All of the address book, those with names first."""
        contacts = [self.contact(peer) for peer in self.book]
        return sorted(
            contacts, key=lambda one: (one.name is None, (one.name or one.claimed).casefold(), one.peer)
        )

    def name_peer(self, who: str | PeerID, name: str | None) -> ContactSummary:
        """Give somebody a name, or take it away."""
        peer = self._other(who)
        return self._book(peer, lambda: self.book.rename(peer, name))

    def block(self, who: str | PeerID) -> ContactSummary:
        """Refuse the calls of somebody from now on, and end what there is."""
        peer = self._other(who)
        contact = self._book(peer, lambda: self.book.block(peer))
        self._end_all(peer)
        return contact

    def _end_all(self, peer: PeerID) -> None:
        if peer in self.questions:
            self.calls.answered(peer)
            self._node.reject(peer)
        elif peer in self.links or self.calls.stage(peer) is not None:
            self._node.hangup(peer)

    def _look_at_book(self) -> None:
        """`punch peers block` is another process: what there is with whom it blocked ends as well."""
        for peer in self.calls.everybody:
            if self.book.blocked(peer):
                self._tell_contact(peer)
                self._end_all(peer)
        self._later(BOOK_LOOK, self._look_at_book)

    def unblock(self, who: str | PeerID) -> ContactSummary:
        """Refuse them no more."""
        peer = self.peer(who)
        contact = self._book(peer, lambda: self.book.block(peer, False))
        if self.waits(peer):
            self.calls.waiting(peer)
        return contact

    def forget(self, who: str | PeerID) -> None:
        """
        Take somebody out of the address book. What was said stays, until it is erased.

        :raise ChatError: it isn't in there, or messages wait for it.
        """
        peer = self.peer(who)
        if self.book.entry(peer) == Contact():
            raise ChatError("unknown-peer", f"{peer.short} is not in the address book.")
        if waiting := self.undelivered(peer):
            # It is called because of them, and whom we call is known.
            raise ChatError(
                "waiting",
                f"{waiting:,} {'message waits' if waiting == 1 else 'messages wait'} for {peer.short}, who "
                "is called until they are delivered: wait for that, or erase them, then forget.",
            )
        try:
            self.book.forget(peer)
        except AddressBookError as error:
            raise ChatError(error.code, str(error)) from error
        self._told_contacts.pop(peer, None)
        self.tell(ContactForgotten(peer))

    def _book(self, peer: PeerID, change: Callable[[], bool]) -> ContactSummary:
        try:
            change()
        except AddressBookError as error:
            raise ChatError(error.code, str(error)) from error
        finally:
            self._tell_contact(peer)
            for other in [each for each, told in self._told_contacts.items() if told.alike or told.name]:
                # The names of others may look like this one now, or do so no more.
                self._tell_contact(other)
        return self.contact(peer)

    def _tell_contact(self, peer: PeerID) -> bool:
        contact = self.contact(peer)
        if self._told_contacts.get(peer) == contact:
            return False
        if len(self._told_contacts) >= MAX_TOLD:
            self._told_contacts.clear()
        self._told_contacts[peer] = contact
        self.tell(ContactChanged(contact))
        return True

    def _other(self, who: str | PeerID) -> PeerID:
        peer = self.peer(who)
        if peer == self.me:
            raise ChatError("self", "This is your own ID: use the ID that the other side printed.")
        return peer

    def rename(self, name: str) -> None:
        """Call oneself something else: peers that are connected hear it at once, others at the next call."""
        try:
            name = check_name(names.without_format(name).strip())
        except ValueError as error:
            raise ChatError("bad-name", str(error)) from error
        if not names.without_ignorable(name):
            raise ChatError("bad-name", f"The name {name!a} can't be used: nothing of it is seen.")
        if name == self.name:
            return
        self._save_name(name)
        self.name = name
        self._node.rename(name)
        for conversation in self._conversations.values():
            conversation.say_name(name)
        self.tell(NameChanged(name))

    def _open(self, who: str | PeerID) -> PeerID:
        peer = self._other(who)
        if self.book.blocked(peer):
            raise ChatError("blocked", f"You have blocked {peer.short}: unblock them first.")
        return peer

    def undelivered(self, peer: PeerID | None = None) -> int:
        """How many messages have no ack yet, to `peer` or to anyone."""
        if peer is not None:
            return self._conversations[peer].undelivered if peer in self._conversations else 0
        return sum(conversation.undelivered for conversation in self._conversations.values())

    def waits(self, peer: PeerID) -> bool:
        """Whether messages wait for `peer`, who is not blocked."""
        return self.undelivered(peer) > 0 and not self.book.blocked(peer)

"""The peers of a chat: which one a name means, changes of their entries, and what views are told of them."""

from __future__ import annotations

import re
from collections.abc import Callable

from punch import names
from punch.apps.chat.events import ContactChanged, ContactForgotten, Views
from punch.apps.chat.links import ChatLinks
from punch.apps.chat.model import ChatError, ChatProblem, ContactSummary
from punch.apps.chat.protocol import STREAM_NAME
from punch.contact_entries import Contact
from punch.contacts import AddressBook, AddressBookError, AddressBookProblem, UnknownPeer, find_peer
from punch.identity import PeerID
from punch.link.events import MAX_NAME
from punch.link.services import LEASE
from punch.net.driver import Timers
from punch.node.interfaces import INode

BOOK_INTERVAL = 2.0
"""Seconds between two checks whether another process has blocked somebody."""

NAME_PAUSE = 1.0
"""The views are told at most once in so many seconds that a peer has changed its own name."""

MAX_TOLD = 1000
"""The number of contacts for which it is remembered what the views were told."""

OPEN_SERVICES = frozenset((STREAM_NAME, LEASE))
"""The services that every peer with a link may open."""


def grant(book: AddressBook, peer: PeerID, service: str) -> bool:
    """
    Let a contact open a service.

    :return: whether anything changed.
    :raise AddressBookError: `bad-service`: this is no name of a service, or of one that everybody may open;
        `unknown-peer`: the peer is not in the address book; `state`: the book can't be written.
    """
    _check_in_book(book, peer)
    service = names.without_format(service)
    if not (service.isprintable() and service == service.strip() and 1 <= len(service.encode()) <= MAX_NAME):
        raise AddressBookError(AddressBookProblem.SERVICE, name=service)
    if service in OPEN_SERVICES:
        raise AddressBookError(AddressBookProblem.OPEN_SERVICE, name=service)
    return book.grant(peer, service)


def revoke(book: AddressBook, peer: PeerID, service: str) -> bool:
    """
    Let a contact no longer open a service. Streams that are open stay open.

    :return: True.
    :raise AddressBookError: `not-granted`: it was not granted; `unknown-peer` and `state` as for `grant`.
    """
    _check_in_book(book, peer)
    service = names.without_format(service)
    if not book.granted(peer, service):
        is_open = service in OPEN_SERVICES
        problem = AddressBookProblem.OPEN_NOT_GRANTED if is_open else AddressBookProblem.NOT_GRANTED
        raise AddressBookError(problem, name=service, peer=peer)
    return book.grant(peer, service, False)


def _check_in_book(book: AddressBook, peer: PeerID) -> None:
    if book.entry(peer) == Contact():
        raise AddressBookError(AddressBookProblem.UNKNOWN_PEER, peer=peer)


class Contacts:
    """
    The address book, as users and scripts see and change it. Names and IDs are taken as they are typed.

    :param me: this side's ID.
    :param book: the address book.
    :param links: the calls and links of the chat.
    :param undelivered: returns how many messages wait for a peer.
    """

    def __init__(
        self,
        me: PeerID,
        node: INode,
        book: AddressBook,
        views: Views,
        links: ChatLinks,
        undelivered: Callable[[PeerID], int],
        timers: Timers,
    ) -> None:
        self._me = me
        self._node = node
        self._address_book = book
        self._views = views
        self._links = links
        self._undelivered = undelivered
        self._timers = timers
        self._told: dict[PeerID, ContactSummary] = {}
        self._renamed: set[PeerID] = set()

    # -- who is who --

    def find(self, who: str | PeerID) -> PeerID:
        """
        The peer that an ID or a name of the address book means.

        :raise ChatError: there is no such peer (`bad-peer-id`).
        """
        if isinstance(who, PeerID):
            return who
        try:
            return find_peer(self._address_book, who, self._links.names.values())
        except UnknownPeer as error:
            raise ChatError(ChatProblem.UNKNOWN_NAME, cause=error) from None

    def find_reachable(self, who: str | PeerID) -> PeerID:
        """
        As `find`, for a peer that is to be called or written to.

        :raise ChatError: also if it is this side itself (`self`), or blocked (`blocked`).
        """
        peer = self._other(who)
        if self._address_book.blocked(peer):
            raise ChatError(ChatProblem.BLOCKED, peer=peer)
        return peer

    def get(self, who: str | PeerID) -> ContactSummary:
        """What is known of a peer, whether it is in the address book or not."""
        peer = self.find(who)
        entry = self._address_book.entry(peer)
        claimed = self._links.names.get(peer) or entry.claimed
        alike = self._alike(peer, entry.name, claimed)
        return ContactSummary(
            peer, entry.name, claimed, entry.known, entry.blocked, alike, tuple(sorted(entry.services))
        )

    def all(self) -> list[ContactSummary]:
        """The whole address book, those with names first."""
        contacts = [self.get(peer) for peer in self._address_book]
        return sorted(
            contacts, key=lambda one: (one.name is None, (one.name or one.claimed).casefold(), one.peer)
        )

    def _alike(self, peer: PeerID, name: str | None, claimed: str) -> bool:
        book = self._address_book
        if name is not None:
            return bool(book.alike(peer, name, given=True))
        # A peer may claim any name: it must not pass for somebody else, nor for this program.
        if not claimed:
            return False
        if names.is_misleading(claimed) or names.is_reserved(re.split(r"\W", claimed, maxsplit=1)[0]):
            return True
        links = self._links
        here = {*links.questions, *links.links, *links.calling} - {peer}
        others = {links.names.get(other, "") for other in here if book.name_of(other) is None}
        return (
            bool(book.alike(peer, claimed))
            or any(names.alike(claimed, other) for other in others)
            or any(names.mentions(claimed, other.short) for other in here)
        )

    def _other(self, who: str | PeerID) -> PeerID:
        peer = self.find(who)
        if peer == self._me:
            raise ChatError(ChatProblem.SELF)
        return peer

    # -- changes of the address book --

    def name(self, who: str | PeerID, name: str | None) -> ContactSummary:
        """Give a peer a petname, or remove it (None)."""
        peer = self._other(who)
        return self._change(peer, lambda: self._address_book.rename(peer, name))

    def meet(self, peer: PeerID, claimed: str, name: str | None) -> None:
        """
        A peer has proved who it is by a code: it is known from now on.

        :param claimed: what it calls itself.
        :param name: this side's name for it; None: what it calls itself, if that can be a name.
        :raise ChatError: it is this side itself (`self`), the address book can't be written (`state`), or
            `name` can't be given to it (`name-taken`), which is then known under another name, or without
            one.
        """
        self._other(peer)
        self._change(peer, lambda: self._address_book.add(peer, claimed))
        if name is not None:
            self.name(peer, name)

    def block(self, who: str | PeerID) -> ContactSummary:
        """Refuse the calls of a peer from now on, and end the link or call with it."""
        peer = self._other(who)
        contact = self._change(peer, lambda: self._address_book.block(peer))
        self._end_all(peer)
        return contact

    def unblock(self, who: str | PeerID) -> ContactSummary:
        """Stop refusing the calls of a peer, and call it if messages wait for it."""
        peer = self.find(who)
        contact = self._change(peer, lambda: self._address_book.block(peer, False))
        if self._undelivered(peer):
            self._links.waiting(peer)
        return contact

    def grant(self, who: str | PeerID, service: str) -> ContactSummary:
        """Let a contact open a service. Raises `ChatError` with the codes of the function `grant`."""
        peer = self._other(who)
        return self._change(peer, lambda: grant(self._address_book, peer, service))

    def revoke(self, who: str | PeerID, service: str) -> ContactSummary:
        """Let a contact no longer open a service. Raises `ChatError` with the codes of `revoke`."""
        peer = self._other(who)
        return self._change(peer, lambda: revoke(self._address_book, peer, service))

    def forget(self, who: str | PeerID) -> None:
        """
        Remove a peer from the address book. Its messages stay until they are erased.

        :raise ChatError: it is not in the book (`unknown-peer`), or messages wait for it (`waiting`).
        """
        peer = self.find(who)
        if self._address_book.entry(peer) == Contact():
            raise ChatError(ChatProblem.NOT_IN_BOOK, peer=peer)
        if waiting := self._undelivered(peer):
            # The peer is called because of them, and whoever is called is in the address book.
            raise ChatError(ChatProblem.MESSAGES_WAIT, peer=peer, number=waiting)
        try:
            self._address_book.forget(peer)
        except AddressBookError as error:
            raise ChatError(ChatProblem.CAUSE, cause=error) from error
        self._told.pop(peer, None)
        self._views.tell(ContactForgotten(peer))

    def _change(self, peer: PeerID, change: Callable[[], bool]) -> ContactSummary:
        try:
            change()
        except AddressBookError as error:
            raise ChatError(ChatProblem.CAUSE, cause=error) from error
        finally:
            self.tell(peer)
            for other in [each for each, told in self._told.items() if told.alike or told.name]:
                # The names of others may look like this one now, or do so no more.
                self.tell(other)
        return self.get(peer)

    def _end_all(self, peer: PeerID) -> None:
        if peer in self._links.questions:
            self._node.reject(peer)
        elif peer in self._links.links or self._links.stage(peer) is not None:
            self._node.hangup(peer)

    def watch_book(self) -> None:
        """Check regularly if another process (`punch peers block`) has blocked a peer with a link or call."""
        for peer in self._links.everybody:
            if self._address_book.blocked(peer):
                self.tell(peer)
                self._end_all(peer)
        self._timers.later(BOOK_INTERVAL, self.watch_book)

    # -- what the views are told --

    def tell(self, peer: PeerID) -> bool:
        """
        Tell the views about a contact, if anything has changed since they were told last.

        :return: whether they were told.
        """
        contact = self.get(peer)
        if self._told.get(peer) == contact:
            return False
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[peer] = contact
        self._views.tell(ContactChanged(contact))
        return True

    def claimed(self, peer: PeerID, name: str) -> None:
        """A connected peer calls itself `name` now: tell the views, at most every `NAME_PAUSE` seconds."""
        self._links.learn(peer, name)
        if peer not in self._renamed:
            self._tell_name(peer)

    def _tell_name(self, peer: PeerID) -> None:
        self._renamed.discard(peer)
        if self.tell(peer):
            self._renamed.add(peer)
            self._timers.later(NAME_PAUSE, self._tell_name, peer)

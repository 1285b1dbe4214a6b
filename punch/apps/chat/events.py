"""
What the chat tells its views. They also get every `punch.node.events.Event` of the node, with these
exceptions: calls that the chat places by itself, because messages wait, are not told as `Calling`, and not as
`Failed` but as `PeerUnreachable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from punch.apps.chat.model import ChatMessage, ClientID, ContactSummary
from punch.identity import PeerID
from punch.node import events as peer_events


class ChatEvent:
    """Anything that a `Chat` reports by itself."""


@dataclass(frozen=True)
class MessageAdded(ChatEvent):
    """
    A message of either side is in the history.

    :ivar again: it was stored by an earlier process, which may have ended before a view had it.
    """

    message: ChatMessage
    again: bool = False


@dataclass(frozen=True)
class MessageChanged(ChatEvent):
    """
    A message's state changed.

    :ivar client_id: what a script called it, if it is ours.
    :ivar again: it is delivered or read since an earlier process, which may not have told that.
    """

    message: ChatMessage
    client_id: ClientID | None = None
    again: bool = False


@dataclass(frozen=True)
class MessagesDelivered(ChatEvent):
    """All views have had messages of `peer`, and it is told so. For those who wait to be done."""

    peer: PeerID


@dataclass(frozen=True)
class ContactChanged(ChatEvent):
    """The address book, or what a peer calls itself, changed."""

    contact: ContactSummary


@dataclass(frozen=True)
class ContactForgotten(ChatEvent):
    """It is no longer in the address book."""

    peer: PeerID


@dataclass(frozen=True)
class HistoryErased(ChatEvent):
    """Messages are gone: those with one peer, or all (None). Retention ends in it as well, with `before`."""

    peer: PeerID | None
    before: float | None = None


@dataclass(frozen=True)
class NameChanged(ChatEvent):
    """This peer calls itself something else now."""

    name: str


@dataclass(frozen=True)
class CallUnanswerable(ChatEvent):
    """A stranger's call was refused, as no view can answer."""

    peer: PeerID


@dataclass(frozen=True)
class PeerUnreachable(ChatEvent):
    """
    A peer for whom messages wait was called and isn't there.

    :ivar retry_in: seconds until it is called again; None: not by itself.
    """

    peer: PeerID
    reason: str
    text: str
    retry_in: float | None


@dataclass(frozen=True)
class ChatBroken(ChatEvent):
    """The other side broke the chat's protocol: its link is hung up. `text` says how, for a person."""

    peer: PeerID
    text: str


@dataclass(frozen=True)
class StoreFailed(ChatEvent):
    """The history can't be written (or can again: None)."""

    text: str | None


@dataclass(frozen=True)
class NetcheckDone(ChatEvent):
    """The report of a netcheck, as `punch netcheck --json` has it."""

    report: Mapping[str, Any]


#: All that `View.handle` may be given.
Event = ChatEvent | peer_events.Event


class View(Protocol):
    """What attaches itself to a `Chat`."""

    @property
    def can_answer(self) -> bool:
        """Whether someone can answer a call's question here now."""

    def handle(self, event: Event) -> Deferred[None] | None:
        """
        Show it.

        :return: for `MessageAdded` of the other side, when this view has it: the sender's mark waits for
            that. None is now, and is all that other events need.
        """

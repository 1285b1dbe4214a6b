"""
The events that the chat reports to its views, and the views.

The views also get every `punch.apps.files.events.TransferEvent` of the process, and every
`punch.node.events.Event` of the node, except those about calls that this process places by itself: they are
not reported as `Calling`, and the failure of one is reported as `PeerUnreachable` if messages wait, else not
at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat.model import ChatError, ChatMessage, ClientID, ContactSummary, StoreError
from punch.apps.files.events import TransferEvent
from punch.identity import PeerID
from punch.node import events as node_events
from punch.node.events import CallFailed

if TYPE_CHECKING:
    from punch.natcheck.report import NetcheckReport


class ChatEvent:
    """Anything that a `Chat` reports by itself."""


@dataclass(frozen=True)
class MessageAdded(ChatEvent):
    """
    A message of either side is in the history.

    :ivar again: whether an earlier process has stored it. It may have ended before a view had the message.
    """

    message: ChatMessage
    again: bool = False


@dataclass(frozen=True)
class MessageChanged(ChatEvent):
    """
    A message's state changed.

    :ivar client_id: the id that a script has given it, if it is ours.
    :ivar again: whether an earlier process knew the state already. It may have ended before a view was told.
    """

    message: ChatMessage
    client_id: ClientID | None = None
    again: bool = False


@dataclass(frozen=True)
class MessagesDelivered(ChatEvent):
    """Messages were delivered: those of `peer` to all views, or ours to `peer`."""

    peer: PeerID


@dataclass(frozen=True)
class ContactChanged(ChatEvent):
    """The address book, or what a peer calls itself, changed."""

    contact: ContactSummary


@dataclass(frozen=True)
class ContactForgotten(ChatEvent):
    """A peer was removed from the address book."""

    peer: PeerID


@dataclass(frozen=True)
class HistoryErased(ChatEvent):
    """
    Messages were erased.

    :ivar peer: those with this peer; None: with all peers.
    :ivar before: those that were written before this time, in seconds since 1970, because of the retention;
        None: whenever they were written.
    """

    peer: PeerID | None
    before: float | None = None


@dataclass(frozen=True)
class NameChanged(ChatEvent):
    """This side has changed its own name."""

    name: str


@dataclass(frozen=True)
class PeerUnreachable(ChatEvent):
    """
    A peer for whom messages wait was called, and could not be reached.

    :ivar retry_in: seconds until it is called again; None: not by itself.
    """

    peer: PeerID
    failure: CallFailed
    retry_in: float | None


@dataclass(frozen=True)
class ChatBroken(ChatEvent):
    """
    The peer broke the chat's protocol, and its stream was closed.

    :ivar detail: what the peer sent, as `ChatProtocolError` says it.
    """

    peer: PeerID
    detail: str


@dataclass(frozen=True)
class StoreFailed(ChatEvent):
    """The history can't be written; None: it can again."""

    error: StoreError | None


@dataclass(frozen=True)
class PageServed(ChatEvent):
    """A browser on this machine can open the chat at `url`, once."""

    url: str


@dataclass(frozen=True)
class NetcheckDone(ChatEvent):
    """The report of a netcheck."""

    report: NetcheckReport


@dataclass(frozen=True)
class CodeMade(ChatEvent):
    """
    A code of this side can be used once (docs/codes.md).

    :ivar expires: seconds until it can't be used any more.
    """

    code: str
    expires: float


@dataclass(frozen=True)
class CodeUsed(ChatEvent):
    """
    The other side has used this side's code.

    :ivar problem: what is wrong with its name; None: nothing.
    """

    contact: ContactSummary
    problem: ChatError | None


@dataclass(frozen=True)
class CodeVoid(ChatEvent):
    """
    The code of this side can't be used any more, and nobody has used it.

    :ivar why: `CodeFailed`, `ControlProblem`, or `CancelledError` if the user has withdrawn it.
    """

    why: BaseException


Event = ChatEvent | TransferEvent | node_events.Event
"""All that `View.handle` may be given."""


class View(Protocol):
    """What shows a chat to a user or a script. `Views.attach` attaches it to a chat."""

    @property
    def can_answer(self) -> bool:
        """Whether somebody at this view can answer a call now."""

    def handle(self, event: Event) -> Deferred[None] | None:
        """
        Show an event.

        :return: for `MessageAdded` of the other side, fires when this view has the message: only then it is
            acknowledged to its sender. None means at once, and is enough for all other events.
        """


class Views:
    """The views of a chat."""

    _log = Logger()

    def __init__(self) -> None:
        self._views: list[View] = []

    def attach(self, view: View) -> None:
        """Tell this view all that happens from now on."""
        self._views.append(view)

    def detach(self, view: View) -> None:
        """Tell this view nothing more."""
        if view in self._views:
            self._views.remove(view)

    @property
    def can_answer(self) -> bool:
        """Whether somebody at one of the views can answer a call now."""
        return any(view.can_answer for view in self._views)

    def tell(self, event: Event) -> Deferred[None]:
        """
        Tell all views. The failure of one is logged; the others are told, and the chat goes on.

        :return: fires when each view has the event, or has failed.
        """
        name = type(event).__name__
        told = [
            maybeDeferred(view.handle, event).addErrback(self._view_failed, name) for view in [*self._views]
        ]
        return DeferredList(told).addCallback(lambda _: None)

    def _view_failed(self, failure: Failure, event: str) -> None:
        self._log.failure("A view failed at {event}.", failure, event=event)

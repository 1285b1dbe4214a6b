"""
What every front end that owns the process's stdin and stdout does.

All that concerns peers and messages is done by the `Chat`; a front end is a view of it. When the process is
done is decided by `punch.ui.exit_policy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from punch.apps.chat import Chat, ChatError, ChatMessage
from punch.apps.chat.events import Event, MessageAdded, MessageChanged
from punch.identity import PeerID
from punch.node.causes import OtherCause
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    Checking,
    Connected,
    Disconnected,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    Ready,
    Registered,
    Unregistered,
)
from punch.ui.exit_policy import ExitPolicy
from punch.ui.send_queue import SendQueue
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Notice
from punch.ui.text.sentences import count, name_lines, shown_name

#: Seconds for which the store is tried again that refuses messages, when nothing more can be read.
STORE_TIMEOUT = 30.0

#: stdin is not read while this many characters of its text are not delivered.
MAX_PENDING = 256 * 1024


class Output(Protocol):
    """Where a front end writes, and what it reads from: `punch.ui.standard_streams.StandardStreams`."""

    def write(self, data: bytes) -> None:
        """Put `data` on stdout."""

    def written(self) -> Deferred[None]:
        """Fires when all that was written has left this process."""

    def pause(self) -> None:
        """Stop reading stdin."""

    def resume(self) -> None:
        """Read stdin again."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    me: PeerID
    name: str
    target: PeerID | None = None
    """Whom to call at the start (`--peer`)."""
    history: bool = True
    """Whether messages are kept on disk."""
    notice: Notice = Notice.BELL
    """How a terminal that nobody looks at is to notify its user."""


@dataclass(frozen=True)
class FrontEndContext:
    """What a front end needs of the process."""

    clock: IReactorTime
    finish: Callable[[int, str | None], None]
    """Ends the process with a status and, if not None, a sentence on stderr."""
    wall: Callable[[], float] = time.time
    """Seconds since the epoch."""


class FrontEnd:
    """
    The part that terminal, pipe and JSON share: a `punch.apps.chat.events.View`. Subclasses override the
    `on_…` methods.

    :param input_kind: what stdin is.
    :param watched: whether a person looks at it, who can wait and decide.
    :ivar exit: when the process ends.
    :ivar sending: messages of this side that are not delivered yet.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        output: Output,
        input_kind: InputKind,
        watched: bool = False,
    ) -> None:
        self.settings = settings
        self.target = settings.target
        self.chat = chat
        self.output = output
        self.watched = watched
        self.exit = ExitPolicy(
            chat,
            context.clock,
            input_kind,
            watched,
            finish=context.finish,
            unsent=self.unsent,
            report=self.handle,
            stopped=self.stopped,
        )
        self.sending = SendQueue(chat, context.clock, self._moved, self.on_held)
        self._clock = context.clock
        self._wall = context.wall
        #: Messages of an earlier process, until the node is ready; None from then on.
        self._early: list[tuple[Event, Deferred[None]]] | None = []
        self._paused = False

    @property
    def can_answer(self) -> bool:
        """Whether somebody can answer a call here now."""
        return self.exit.input_kind is not InputKind.NOTHING and not self.exit.input_ended

    def input_over(self) -> None:
        """stdin has ended."""
        self.exit.input_ended = True
        self.chat.reject_unanswerable()
        self.check_done()

    def output_lost(self) -> None:
        """stdout was closed by its reader: there is no point in going on."""
        waiting = self.sending.undelivered
        if waiting:
            self.exit.finish(
                1, f"The output was closed before {count(waiting, 'message')} could be delivered."
            )
        else:
            self.exit.finish(0)

    # -- events --

    def handle(self, event: Event) -> Deferred[None] | None:
        """One event of the chat or its node."""
        if self.exit.finished and not isinstance(event, Disconnected):
            return Deferred() if isinstance(event, (MessageAdded, MessageChanged)) else None
        if self._early is not None and (
            (isinstance(event, MessageAdded) and not event.message.outgoing)
            or (isinstance(event, MessageChanged) and event.again)
        ):
            # It is from an earlier process: `Ready` is shown first.
            later: Deferred[None] = Deferred()
            self._early.append((event, later))
            return later
        delivered = self._handle(event)
        if isinstance(event, Ready):
            self._show_early()
        self.balance()
        self.check_done()
        return delivered

    def _handle(self, event: Event) -> Deferred[None] | None:
        self.exit.handle(event)
        self.sending.handle(event)
        delivered = self._dispatch(event)
        self.exit.handle_shown(event)
        return delivered

    def _dispatch(self, event: Event) -> Deferred[None] | None:
        if isinstance(event, MessageAdded):
            return self.on_message(event.message, event.again)
        if isinstance(event, MessageChanged):
            return self.on_changed(event)
        if isinstance(event, Ready):
            self.on_ready(event)
        elif isinstance(event, Registered):
            self.on_registered(event)
        elif isinstance(event, Unregistered):
            self.on_unregistered(event)
        elif isinstance(event, IncomingCall):
            self.on_incoming(event)
        elif isinstance(event, Connected):
            self.on_connected(event)
        elif isinstance(event, Disconnected):
            self.on_disconnected(event)
        elif isinstance(event, CallFailed):
            self.on_failed(event)
        elif isinstance(event, _PROGRESS):
            self.on_progress(event)
        else:
            self.on_other(event)
        return None

    def _show_early(self) -> None:
        early, self._early = self._early or [], None
        for event, later in early:
            delivered = self._handle(event)
            if delivered is None:
                later.callback(None)
            else:
                delivered.chainDeferred(later)

    def on_ready(self, event: Ready) -> None:
        """The node runs: call whom the command line names."""
        if self.target is not None:
            try:
                self.chat.call(self.target)
            except ChatError as error:
                self.handle(CallFailed(self.target, OtherCause(error.code, str(error))))

    def on_registered(self, event: Registered) -> None:
        """The rendezvous knows this peer."""

    def on_unregistered(self, event: Unregistered) -> None:
        """The rendezvous was lost or not reached."""

    def on_progress(self, event: Progress) -> None:
        """A call has made progress, or the path of a link has changed."""

    def on_incoming(self, event: IncomingCall) -> None:
        """A peer calls."""

    def on_connected(self, event: Connected) -> None:
        """A link is up."""

    def on_disconnected(self, event: Disconnected) -> None:
        """A link has ended."""

    def on_failed(self, event: CallFailed) -> None:
        """A call has failed."""

    def on_message(self, message: ChatMessage, again: bool) -> Deferred[None] | None:
        """A message of either side was stored. Returns when it is delivered to this view; None: at once."""
        return None

    def on_changed(self, event: MessageChanged) -> Deferred[None] | None:
        """A message has another state. Returns when that is delivered to this view; None: at once."""
        return None

    def on_other(self, event: Event) -> None:
        """Any other event of the chat."""

    def web_opened(self, url: str) -> None:
        """A browser can show the chat, once, at this address."""

    # -- sending --

    def on_held(self, error: ChatError) -> None:
        """Messages can't be stored now."""

    def _moved(self) -> None:
        self.balance()
        self.check_done()
        if self.sending.trouble is not None and (self.exit.input_ended or self._paused):
            held = self._clock.seconds() - self.sending.held_since
            if held >= STORE_TIMEOUT:
                self.exit.finish(1)

    def unsent(self) -> str | None:
        """A sentence that names the messages that are not stored, if there are some."""
        if not len(self.sending):
            return None
        why = self.sending.trouble or "this process ended before that."
        return f"{name_lines(self.sending.texts)} not stored, and not sent: {why}"

    def name_of(self, peer: PeerID) -> str:
        """What a peer is called, ready to be shown."""
        contact = self.chat.contacts.get(peer)
        return shown_name(contact.name or contact.claimed, peer, contact.alike)

    def balance(self) -> None:
        """Read stdin only when the node is ready, and while not too much is undelivered."""
        paused = self._early is not None or self.pending_size() >= MAX_PENDING
        if paused != self._paused:
            self._paused = paused
            if paused:
                self.output.pause()
            else:
                self.output.resume()

    def pending_size(self) -> int:
        """How much of the input waits for something, in characters."""
        return self.sending.size

    def check_done(self) -> None:
        """End the process if nothing is left to do."""

    def stopped(self) -> None:
        """The process or its service ends: leave nothing on the clock."""
        self.sending.stop()


Progress = Calling | AlreadyConnected | Introduced | Checking | PathChanged | PathLost
_PROGRESS = (Calling, AlreadyConnected, Introduced, Checking, PathChanged, PathLost)

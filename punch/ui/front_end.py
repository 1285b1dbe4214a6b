"""
What the front ends on stdin and stdout have in common.

The `Chat` does all that concerns peers and messages. A front end shows its events and reads what the user
types. Between the two is a `ProcessView`, which is the same for all front ends. `punch.ui.exit_policy`
decides when the process ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from punch.apps.chat import Chat, ChatError
from punch.apps.chat.events import Event, MessageAdded, MessageChanged, StoreFailed
from punch.identity import PeerID
from punch.node.causes import OtherCause
from punch.node.events import CallFailed, Disconnected, Ready
from punch.ui.command import NO_APPLICATIONS, Applications, CommandContext, CommandRefused
from punch.ui.exit_policy import ExitPolicy
from punch.ui.json.events import peer_called
from punch.ui.send_queue import SendQueue
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Notice
from punch.ui.text.chat import chat_error_sentence
from punch.ui.text.sentences import count, name_lines

STORE_TIMEOUT = 30.0
"""If the store refuses messages and no more input is read, the process ends after so many seconds."""

DRAIN_TIMEOUT = 1.0
"""Seconds for which the process waits at its end until its output was read."""

MAX_PENDING = 256 * 1024
"""stdin is not read while so many characters of its text are not delivered."""


class Output(Protocol):
    """What a front end uses of `punch.ui.standard_streams.StandardStreams`."""

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
    """The peer to call at the start (`--peer`)."""
    history: bool = True
    """Whether messages are kept on disk."""
    notice: Notice = Notice.BELL
    """How a terminal without the focus notifies its user."""


@dataclass(frozen=True)
class FrontEndContext:
    """What a front end needs of the process."""

    clock: IReactorTime
    finish: Callable[[int, str | None], None]
    """Ends the process with a status and, if not None, a sentence on stderr."""
    wall: Callable[[], float] = time.time
    """Seconds since the epoch."""
    applications: Applications = NO_APPLICATIONS
    """What the process has besides the chat."""


@dataclass(frozen=True)
class StartOptions:
    """
    What the user asked for, and what a front end needs of the process.

    :ivar environ: the environment variables.
    :ivar elapsed: returns the seconds since the process started.
    :ivar json: whether to use JSON lines (`--json`).
    :ivar typed_lines: the file that keeps typed lines; None: they are kept in memory only.
    """

    settings: Settings
    context: FrontEndContext
    environ: Mapping[str, str]
    elapsed: Callable[[], float]
    json: bool = False
    typed_lines: Path | None = None


class FrontEnd(Protocol):
    """One way to show the chat and to read what the user types: JSON lines, plain lines, or a terminal."""

    @property
    def view(self) -> ProcessView:
        """Its `ProcessView`."""

    def show_event(self, event: Event) -> Deferred[None] | None:
        """Show an event. Returns the same as `punch.apps.chat.events.View.handle`."""

    def show_held(self, error: CommandRefused) -> None:
        """Show that messages can't be stored now, and that storing them is tried again."""

    def unsent(self) -> str | None:
        """A sentence that names the messages that are not stored, if there are some."""

    def pending_size(self) -> int:
        """How much of the input was read and is not delivered, in characters."""

    def check_done(self) -> None:
        """End the process if its input has ended and nothing is left to do."""

    def stopped(self) -> None:
        """Cancel all timers: the process or its service ends."""


class ProcessView:
    """
    The chat's view (`punch.apps.chat.events.View`) in a process that owns its stdin and stdout.

    :param front_end: shows the events.
    :param output: the streams, whose input is paused while too much of it is undelivered; None: the input
        is never paused.
    :param input_kind: what stdin is.
    :param watched: whether a user sits at the front end, who can wait and decide.
    :param answers: whether calls can be answered here, until stdin ends.
    :ivar exit: decides when the process ends.
    :ivar commands: the context for `punch.ui.commands.perform`.
    :ivar sending: the messages of this side that are not delivered yet.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        front_end: FrontEnd,
        output: Output | None,
        input_kind: InputKind,
        *,
        watched: bool,
        answers: bool,
    ) -> None:
        self.settings = settings
        self.chat = chat
        self.watched = watched
        self.clock = context.clock
        self.wall = context.wall
        self.exit = ExitPolicy(
            chat,
            context.clock,
            input_kind,
            watched,
            finish=context.finish,
            unsent=front_end.unsent,
            report=self.handle,
            stopped=self._stopped,
        )
        self.commands = CommandContext(chat, self.exit.leave, context.applications)
        self.sending = SendQueue(chat, context.clock, self._moved, front_end.show_held)
        self._front_end = front_end
        self._output = output
        self._answers = answers
        self._early: list[tuple[Event, Deferred[None]]] | None = []
        """
        Events about messages of an earlier process, which wait until the node is ready; None from then on.
        """
        self._paused = False

    def attach(self) -> None:
        """Subscribe to the chat's events. stdin is read only when the node is ready."""
        self.chat.views.attach(self)
        self.balance()

    @property
    def can_answer(self) -> bool:
        """Whether somebody can answer a call here now."""
        return self._answers and not self.exit.input_ended

    def input_over(self) -> None:
        """Handle the end of stdin."""
        self.exit.input_ended = True
        self.chat.reject_unanswerable()
        self._front_end.check_done()

    def output_lost(self, *, failed: bool = False) -> None:
        """
        End the process, as nobody can see its output.

        :param failed: whether stdout can't be written; otherwise its reader has closed it.
        """
        waiting = self.sending.undelivered
        if not failed and not waiting:
            self.exit.finish(0)
            return
        what = "The output can't be written, as on a full disk" if failed else "The output was closed"
        left = f" before {count(waiting, 'message')} could be delivered" if waiting else ""
        self.exit.finish(1, f"{what}{left}.")

    def handle(self, event: Event) -> Deferred[None] | None:
        """Handle one event of the chat or its node."""
        if isinstance(event, StoreFailed) and event.error is not None:
            self._log.error("{sentence}", sentence=chat_error_sentence(event.error))
        if self.exit.finished and not isinstance(event, Disconnected):
            return Deferred() if isinstance(event, (MessageAdded, MessageChanged)) else None
        if self._early is not None and (
            (isinstance(event, MessageAdded) and not event.message.outgoing)
            or (isinstance(event, MessageChanged) and event.again)
        ):
            # The message is from an earlier process. It is shown after `Ready`, which is always first.
            later: Deferred[None] = Deferred()
            self._early.append((event, later))
            return later
        delivered = self._handle(event)
        if isinstance(event, Ready):
            self._show_early()
        self.balance()
        self._front_end.check_done()
        return delivered

    def _handle(self, event: Event) -> Deferred[None] | None:
        self.exit.handle(event)
        self.sending.handle(event)
        delivered = self._front_end.show_event(event)
        self.exit.handle_shown(event)
        return delivered

    def _show_early(self) -> None:
        early, self._early = self._early or [], None
        for event, later in early:
            delivered = self._handle(event)
            if delivered is None:
                later.callback(None)
            else:
                delivered.chainDeferred(later)

    def call_target(self) -> None:
        """Call the peer of `--peer`, if there is one."""
        if self.settings.target is not None:
            try:
                self.chat.call(self.settings.target)
            except ChatError as error:
                cause = OtherCause(error.code, chat_error_sentence(error))
                self.handle(CallFailed(self.settings.target, cause))

    # -- sending --

    def _moved(self) -> None:
        self.balance()
        self._front_end.check_done()
        if self.sending.trouble is not None and (self.exit.input_ended or self._paused):
            held = self.clock.seconds() - self.sending.held_since
            if held >= STORE_TIMEOUT:
                self.exit.finish(1)

    def unsent(self) -> str | None:
        """A sentence that names the messages of the queue that are not stored; None: all are."""
        if not len(self.sending):
            return None
        why = self.sending.trouble or "this process ended before that."
        return f"{name_lines(self.sending.texts)} not stored, and not sent: {why}"

    def name_of(self, peer: PeerID) -> str:
        """What a peer is called, ready to be shown."""
        return peer_called(self.chat, peer)

    def balance(self) -> None:
        """Pause or resume stdin: it is read once the node is ready, while not too much is undelivered."""
        paused = self._early is not None or self._front_end.pending_size() >= MAX_PENDING
        if paused != self._paused:
            self._paused = paused
            if self._output is None:
                return
            if paused:
                self._output.pause()
            else:
                self._output.resume()

    def _stopped(self) -> None:
        self.sending.stop()
        self._front_end.stopped()

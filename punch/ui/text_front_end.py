"""
The chat as text for a person.

Where the lines come from and go to is up to the subclasses: `punch.ui.stdio` for pipes and plain terminals,
`punch.ui.terminal.front_end` for terminals with a line editor. What a typed line means is decided by
`punch.ui.command_line`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial

from twisted.internet.defer import Deferred

from punch.apps.chat import (
    Chat,
    ChatError,
    ChatMessage,
    MessageState,
)
from punch.apps.chat.events import (
    ChatBroken,
    Event,
    MessageChanged,
    PeerUnreachable,
    StoreFailed,
)
from punch.identity import PeerID
from punch.node.events import (
    CallFailed,
    Calling,
    CallUnanswerable,
    Connected,
    Disconnected,
    IncomingCall,
    Ready,
    Registered,
    Unregistered,
)
from punch.ui.command_line import CommandLine
from punch.ui.front_end import FrontEnd, FrontEndContext, Output, Progress, Settings
from punch.ui.questions import Question
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Style
from punch.ui.text.causes import event_sentence
from punch.ui.text.sentences import (
    count,
    describe,
    name_lines,
    printable,
    shortened,
)

#: Reasons of a call that came to nothing that say no more than that.
_NOT_THERE = ("not-registered", "gone", "timeout")


class TextFrontEnd(FrontEnd, ABC):
    """
    The chat in words.

    :param terminal: whether stdout is a terminal.
    :param environ: for the looks (`TERM`, `NO_COLOR`).
    """

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        output: Output,
        input_kind: InputKind,
        *,
        terminal: bool,
        environ: Mapping[str, str],
    ) -> None:
        super().__init__(
            settings, context, chat, output, input_kind, terminal and input_kind is InputKind.TERMINAL
        )
        self.style = Style.choose(environ, terminal)
        self.line = CommandLine(
            chat, self, self.exit, self.sending, settings.target, settings.history, context.wall
        )
        self._told_away: dict[PeerID, bool] = {}
        self._trouble: str | None = None
        self._to_tell: Calling | None = None

    @property
    def can_answer(self) -> bool:
        return self.watched and not self.exit.input_ended

    # -- for subclasses --

    @abstractmethod
    def show(self, text: str) -> int:
        """One or more lines, harmless. Returns a number that grows with each call."""

    def written(self) -> Deferred[None]:
        """Fires when all that was shown is out."""
        return self.output.written()

    # -- what is told --

    def handle(self, event: Event) -> Deferred[None] | None:
        delivered = super().handle(event)
        if not self.exit.finished:
            self.line.drop_answered()
            self.changed()
        return delivered

    def on_ready(self, event: Ready) -> None:
        self.show(f"{describe(event)} {self.style.dim(f'({printable(self.settings.name)})')}")
        super().on_ready(event)

    def web_opened(self, url: str) -> None:
        self.show(f"Open this in a browser on this machine, it works once: {url}")

    def on_registered(self, event: Registered) -> None:
        self._trouble = None
        self.show_dim(describe(event))
        if self._to_tell is not None:
            self.show_progress(self._to_tell)
            self._to_tell = None
        if self.target is None and not self.chat.links:
            how = ", or /call theirs; /help shows more" if self.watched else ""
            self.show_dim(f"Waiting for a call: give your ID to the other side{how}")

    def on_unregistered(self, event: Unregistered) -> None:
        # Every try that fails the same way is not worth a line.
        trouble = event_sentence(event)
        if trouble != self._trouble and event.retry_in is not None:
            self._trouble = trouble
            self.show(self.style.bad(describe(event)))

    def on_progress(self, event: Progress) -> None:
        if isinstance(event, Calling) and not self.exit.ever_registered:
            # It waits for the rendezvous, and is told when it goes out.
            self._to_tell = event
            return
        self.show_progress(event)

    def show_progress(self, event: Progress) -> None:
        """How far a call is, or what became of a link's path."""
        self.show_dim(describe(event, self.name_of(event.peer)))

    def show_connected(self, event: Connected) -> None:
        """A link is up."""
        self.show(self.style.good(describe(event, self.name_of(event.peer))))

    def id_beside(self, peer: PeerID) -> str | None:
        """What stands for an ID where it is not to be compared; None: the whole of it."""
        return None

    def timed(self, text: str) -> str:
        """A line about something that happens now: where it is worth it, with the time."""
        return text

    def show_dim(self, text: str) -> None:
        """Show a line of less importance."""
        self.show(self.style.dim(text))

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self.show(self.style.bad(text))

    def on_incoming(self, event: IncomingCall) -> None:
        peer = event.peer
        name = self.style.bold(self.name_of(peer))
        self.show(self.timed(describe(event, name, self.id_beside(peer))))
        if event.decided or peer not in self.chat.questions or not self.watched:
            return
        self.line.ask(
            Question(
                lambda: f"Let {self.style.bold(self.name_of(peer))} ({peer}) connect? [y/n]",
                partial(self.chat.accept, peer),
                partial(self.chat.reject, peer),
                peer,
            )
        )

    def on_connected(self, event: Connected) -> None:
        name = self.name_of(event.peer)
        self._told_away.pop(event.peer, None)
        self.line.meet(event.peer)
        self.show_connected(event)
        if not self.watched:
            return
        if self.line.current is None or not (self.line.chosen or self.line.current in self.chat.links):
            first = self.line.current is None
            self.line.select(event.peer, chosen=False)
            self.show_dim(
                "Type a line and press Enter to send it, /quit to end"
                if first
                else f"What you type goes to {name} now"
            )
        elif self.line.current != event.peer:
            self.show_dim(
                f"What you type still goes to {self.name_of(self.line.current)}: /to {name} changes that"
            )

    def on_disconnected(self, event: Disconnected) -> None:
        if self.exit.ending:
            return
        waiting = self.chat.conversations.undelivered(event.peer)
        if self.watched or event.peer != self.target:
            self.show(self.timed(describe(event)))
            if waiting:
                self.show(f"{count(waiting, 'message')} not delivered: sent again when they are back.")
        elif str(event.reason) != "bye":
            self.exit.finish(1, self._with_what_is_left(describe(event)))
        elif waiting or len(self.sending):
            self.exit.finish(
                1, f"{describe(event)} ({count(waiting, 'message')} not delivered{self._keeping()})"
            )
        elif not self.exit.input_ended:
            self.exit.finish(1, f"{describe(event)} (the input had not ended)")
        else:
            self.show(describe(event))
            self.exit.finish(0)

    def on_failed(self, event: CallFailed) -> None:
        if event.peer is None or event.peer in self.chat.links:
            return
        if self.watched:
            self.show(self.timed(self.style.bad(describe(event))))
            self.line.questions.ask_again()
        elif event.peer == self.target:
            self.exit.finish(1, self._with_what_is_left(describe(event)))
        else:
            self.show(self.style.bad(describe(event)))

    def _with_what_is_left(self, text: str) -> str:
        waiting = 0 if self.target is None else self.chat.conversations.undelivered(self.target)
        if not waiting:
            return text
        return f"{text} {count(waiting, 'message')} not delivered{self._keeping()}."

    def _keeping(self) -> str:
        return ": kept here, and sent when both are there next" if self.settings.history else ""

    def on_message(self, message: ChatMessage, again: bool) -> Deferred[None] | None:
        if message.outgoing:
            return None
        shown = self.show(self.message_line(message, self.name_of(message.peer)))
        if self.watched:
            self.line.shown_with(shown, message)
        return self.written()

    def message_line(self, message: ChatMessage, who: str) -> str:
        """A message of `who`, harmless; further lines are indented."""
        return f"{self.style.bold(who + ':')} {printable(message.text, newline=chr(10) + '    ')}"

    def on_changed(self, event: MessageChanged) -> Deferred[None] | None:
        message = event.message
        if not message.outgoing or message.state is not MessageState.DELIVERED:
            return None
        self.show(f"{self.style.good('✓ delivered')}: {shortened(message.text)}")
        return self.written()

    def on_other(self, event: Event) -> None:
        if isinstance(event, CallUnanswerable):
            self.show(
                f"Refused the call of {self.name_of(event.peer)}, as nobody is here to ask: "
                "start with --accept known or --accept anyone to let calls in."
            )
        elif isinstance(event, PeerUnreachable):
            again = event.retry_in is not None
            if self._told_away.get(event.peer) is not again:
                self._told_away[event.peer] = again
                name = self.name_of(event.peer)
                how = ", and they are called again." if again else " until one of you calls."
                why = "" if event.failure.reason in _NOT_THERE else f" {describe(event.failure)}"
                self.show_dim(f"{name} is not there: what you type waits here{how}{why}")
        elif isinstance(event, StoreFailed):
            self.show(
                "The history can be written again." if event.text is None else self.style.bad(event.text)
            )
        elif isinstance(event, ChatBroken):
            self.show(self.style.bad(printable(event.text)))

    # -- for the command line (CommandScreen) --

    def give_back(self, text: str) -> None:
        """Put a typed line that had no effect into the line again, where that is possible."""

    def clear(self) -> None:
        """Clear the screen, where that is possible."""
        self.show("This terminal can't be cleared from here.")

    def changed(self) -> None:
        """Something that a status line shows has changed."""

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        """Lines go to another peer, or the same one again."""

    def not_sent(self, text: str, error: ChatError) -> None:
        """A message can't be sent."""
        self.show_error(str(error))
        if self.watched:
            self.give_back(text)
        else:
            self.exit.finish(1, f"{name_lines([text])} not sent: {error}")

    def on_held(self, error: ChatError) -> None:
        self.show_error(f"What you typed is not sent yet, and is tried again: {error}")

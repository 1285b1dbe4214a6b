"""
The chat in a terminal with a line editor.

Messages and other output appear above the line that is typed. The prompt names the peer to which the line
goes, and a status line below tells over which path, and what else is to be known.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat import MAX_LIMIT, Chat, ChatMessage, ConversationSummary, MessageState
from punch.apps.chat.events import (
    ContactChanged,
    ContactForgotten,
    Event,
    HistoryErased,
    MessageAdded,
    MessageChanged,
)
from punch.identity import PeerID
from punch.net.driver import Timer
from punch.node.events import CallState, Connected, IncomingCall, Ready
from punch.sanitize import printable
from punch.ui import slash
from punch.ui.command import CommandRefused
from punch.ui.command_line import CommandLine
from punch.ui.front_end import DRAIN_TIMEOUT, FrontEndContext, ProcessView, Settings, StartOptions
from punch.ui.json.events import message_fields
from punch.ui.standard_streams import InputKind, StreamDescriptors
from punch.ui.terminal.escapes import Style, reflows, sequence
from punch.ui.terminal.line_history import LineHistory
from punch.ui.terminal.prompt import Fragments, Prompt, Suggestion
from punch.ui.terminal.tty_modes import TerminalModes
from punch.ui.text import answers
from punch.ui.text.sentences import count, milliseconds, path_in_words, shortened
from punch.ui.text_renderer import TextRenderer

#: Seconds between two updates of the round-trip time in the status line.
STATUS_INTERVAL = 2.0

#: Messages of the history that are shown when a conversation is opened; all unread ones, if those are more.
EARLIER = 6

#: Characters of a name in the prompt.
MAX_PROMPT = 20


class PromptArea(Protocol):
    """What the front end uses of `punch.ui.terminal.prompt.Prompt`, where the methods are described."""

    def show(self, text: str, key: object = None) -> tuple[int, Deferred[None]]: ...
    def replace(self, text: str, key: object) -> tuple[int, Deferred[None]]: ...
    def put_beside(self, key: object, beside: str, alone: str | None) -> None: ...
    def notify(self, sequence: str) -> None: ...
    def clear(self) -> None: ...
    def set_prompt(self, text: str) -> None: ...
    def set_status(self, fragments: Fragments) -> None: ...
    def set_history(self, lines: list[str]) -> None: ...
    def put_in_line(self, text: str) -> None: ...
    def refresh(self) -> None: ...


class TerminalFrontEnd:
    """
    The front end for a terminal with a line editor: a `punch.ui.front_end.FrontEnd`, a
    `punch.ui.command_line.TextScreen`, and the `punch.ui.terminal.prompt.PromptUser`.

    :param prompt: reads lines, and shows text above them.
    :param history: the lines that were typed before.
    :param environ: the environment variables, of which `TERM` and `NO_COLOR` decide about colours.
    :param stop_process: stops the process as Ctrl-Z does, and returns when it was continued.
    :param interrupt: sends the process the signal of Ctrl-C.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        prompt: PromptArea,
        history: LineHistory,
        *,
        environ: Mapping[str, str] = os.environ,
        stop_process: Callable[[], None] = lambda: os.kill(0, signal.SIGTSTP),
        interrupt: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        # Typed lines are stored at once, so that the input need not be paused: there is no `Output`.
        self.view = ProcessView(
            settings, context, chat, self, None, InputKind.TERMINAL, watched=True, answers=True
        )
        self._style = Style.choose(environ, True)
        self.line = CommandLine(self.view, self, self._style)
        self._text = TextRenderer(self.view, self.line, self, self._style, compact=True)
        self._chat = chat
        self._exit = self.view.exit
        self._prompt = prompt
        self._typed_lines = history
        self._stop_process = stop_process
        self._interrupt = interrupt
        self._shown: Deferred[None] = succeed(None)
        #: Names of peers, for completion. The prompt's thread reads them.
        self.names: tuple[str, ...] = ()
        self._number = 0
        self._unread: dict[PeerID, int] = {}
        self._live: dict[PeerID, int] = {}
        self._opened: set[PeerID] = set()
        self._switched = 0
        self._before: PeerID | None = None
        self._timer = Timer(self.view.clock)
        self._status: Fragments = ()
        self._prompt_text = ""
        self.view.attach()
        self._update_names()
        self.changed()
        self._tick()

    # -- what is shown (TextScreen) --

    def show(self, text: str) -> int:
        """Show one or more lines above the prompt. Returns the number of this call."""
        self._number, self._shown = self._prompt.show(text)
        return self._number

    def replace(self, text: str, key: object) -> int:
        """As `show`, but replace the last line if it has the same key and took one row."""
        self._number, self._shown = self._prompt.replace(text, key)
        return self._number

    def written(self) -> Deferred[None]:
        """Fires when what was shown last was written to the terminal."""
        return self._shown

    def give_back(self, text: str) -> None:
        """Put a text that was typed and had no effect back into the line."""
        self._prompt.put_in_line(text)

    def clear(self) -> None:
        """Clear the screen."""
        self._prompt.clear()

    # -- what the view asks for (FrontEnd) --

    def show_event(self, event: Event) -> Deferred[None] | None:
        """Show an event above the prompt, and update the status line."""
        delivered = self._show_event(event)
        if not self._exit.finished:
            self.line.drop_answered()
            self.changed()
        return delivered

    def _show_event(self, event: Event) -> Deferred[None] | None:
        if isinstance(event, MessageAdded):
            return self._show_message(event)
        if isinstance(event, MessageChanged):
            if event.message.outgoing:
                self._show_state(event.message, alone=event.message.state is MessageState.DELIVERED)
            return None
        self._text.show_event(event)
        if isinstance(event, Ready):
            if self.line.current is not None:
                self._open(self.line.current)
            self._chat.history.conversations().addCallbacks(self._greet, self.line.refused)
        elif isinstance(event, IncomingCall):
            if not event.decided:
                self._notify(f"{self.view.name_of(event.peer)} is calling")
        elif isinstance(event, HistoryErased):
            self._forget_lines(event)
        elif isinstance(event, (Connected, ContactChanged, ContactForgotten)):
            self._update_names()
        return None

    def show_held(self, error: CommandRefused) -> None:
        """Show that messages can't be stored now."""
        self._text.show_held(error)

    def unsent(self) -> str | None:
        """A sentence that names the messages that are not stored; None: all are."""
        return self.view.unsent()

    def pending_size(self) -> int:
        """How much was typed and is not delivered, in characters."""
        return self.view.sending.size

    def check_done(self) -> None:
        """End the process after Ctrl-D, when all messages are stored: those that wait are kept."""
        if self._exit.input_ended and not self._exit.ending and not len(self.view.sending):
            self._exit.leave()

    def stopped(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()

    # -- messages and notifications --

    def _greet(self, conversations: list[ConversationSummary]) -> None:
        for each in conversations:
            peer = each.contact.peer
            if each.unread and peer not in self._opened and not self._exit.finished:
                self._unread[peer] = each.unread
                name = self.view.name_of(peer)
                self._text.show_dim(
                    f"{count(each.unread, 'message')} from {name} not read yet: /to {name} shows them"
                )
        self.changed()

    def _notify(self, text: str) -> None:
        """Notify the user, as the settings say, while the terminal does not have the focus."""
        told = sequence(self.view.settings.notice, text)
        if told:
            self._prompt.notify(told)

    def _show_message(self, event: MessageAdded) -> Deferred[None] | None:
        message = event.message
        self._live.setdefault(message.peer, message.number)
        if not message.outgoing:
            self._notify(f"Message from {self.view.name_of(message.peer)}")
            return self._text.show_event(event)
        to = "" if message.peer == self.line.current else f" to {self.view.name_of(message.peer)}"
        line = self._text.message_line(message, f"you{to}")
        self._number, self._shown = self._prompt.show(line, message.number)
        if message.state is not MessageState.SENT:
            self._show_state(message, alone=False)
        return None

    def _show_state(self, message: ChatMessage, alone: bool) -> None:
        if message.state is MessageState.SENT:
            # Only remove "waiting": "sent" is not shown, as "delivered" mostly follows at once.
            self._prompt.put_beside(message.number, "", None)
            return
        text = answers.STATES[str(message.state)]
        good = message.state in (MessageState.DELIVERED, MessageState.READ)
        mark = self._style.good(text) if good else self._style.dim(text)
        self._prompt.put_beside(
            message.number, f"  {mark}", f"{mark}: {shortened(message.text)}" if alone else None
        )

    def _forget_lines(self, event: HistoryErased) -> None:
        # The typed lines contain messages, so they are erased with the history.
        if event.before is None:
            self._typed_lines.erase()
        else:
            self._typed_lines.forget_before(event.before)
        self._prompt.set_history(list(self._typed_lines))

    def _update_names(self) -> None:
        contacts = [
            *self._chat.contacts.all(),
            *map(self._chat.contacts.get, {**self.line.connected_peers, **self._chat.links}),
        ]
        names = {contact.name or contact.claimed or str(contact.peer) for contact in contacts}
        self.names = tuple(sorted((name for name in names if printable(name) == name), key=str.lower))

    # -- opening a conversation --

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        if peer != before and before is not None and not chosen:
            # A line that the user has begun was meant for the peer before.
            self._before, self._switched = before, self._number + 1
        self._open(peer)

    def _open(self, peer: PeerID) -> None:
        if peer not in self._opened:
            self._opened.add(peer)
            limit = min(MAX_LIMIT, max(EARLIER, self._unread.pop(peer, 0)))
            found = self._chat.history.messages(peer, limit=limit)
            found.addCallbacks(partial(self._opened_with, peer), self.line.refused)

    def _opened_with(self, peer: PeerID, messages: list[ChatMessage]) -> None:
        live = self._live.get(peer)
        earlier = [message for message in messages if live is None or message.number < live]
        if not earlier or self._exit.finished:
            return
        now = self.view.wall()
        lines = [answers.message_line(message_fields(m), self.view.name_of, now) for m in earlier]
        shown = self.show("\n".join(map(self._style.dim, lines)))
        theirs = [message for message in earlier if not message.outgoing]
        if theirs:
            self.line.shown_with(shown, theirs[-1])
        self.changed()

    # -- the status line --

    def changed(self) -> None:
        name = "" if self.line.current is None else self.view.name_of(self.line.current)
        prompt = f"{name[:MAX_PROMPT]}> "
        if prompt != self._prompt_text:
            self._prompt_text = prompt
            self._prompt.set_prompt(prompt)
        status = self._facts(name)
        if status != self._status:
            self._status = status
            self._prompt.set_status(status)

    def _facts(self, name: str) -> Fragments:
        facts: list[tuple[str, str]] = []
        if self.line.questions.open is not None:
            facts.append(("bad", "a question waits: y or n"))
        if self.line.current is not None:
            facts.append(self._link_fact(self.line.current, name))
            waiting = self._chat.conversations.undelivered(self.line.current)
            if waiting:
                facts.append(("", f"{waiting:,} waiting"))
        elif self._chat.registered:
            facts.append(("", "waiting for a call"))
        for peer in self._chat.links:
            if peer != self.line.current:
                facts.append(("", f"{self.view.name_of(peer)} is connected"))
        for peer, unread in self._unread.items():
            facts.append(("good", f"{unread:,} unread from {self.view.name_of(peer)}"))
        if not self._chat.registered:
            facts.append(("bad", "rendezvous not reached" if self._text.trouble else "registering"))
        fragments: list[tuple[str, str]] = []
        for look, text in facts:
            if fragments:
                fragments.append(("dim", " · "))
            fragments.append((look, text))
        return fragments

    def _link_fact(self, peer: PeerID, name: str) -> tuple[str, str]:
        link = self._chat.link_status(peer)
        if link is not None and link.disconnected:
            return "bad", f"{name}: path lost, looking for another"
        if link is not None:
            slowed = "" if link.slowed is None else ", slowed down by it"
            path = path_in_words(link.path.kind, link.path.protocol)
            return "good", f"{name} {path}{slowed}, {milliseconds(link.path.rtt)}"
        stage = self._chat.stage(peer)
        if stage is CallState.RINGING:
            return "", f"{name} is calling"
        if stage is not None or peer in self._chat.calling:
            # The chat also calls by itself, to deliver messages.
            return "", f"calling {name}"
        return "dim", f"{name} is away"

    def _tick(self) -> None:
        if not self._exit.finished:
            self.line.drop_answered()
        self.changed()
        self._timer.start(STATUS_INTERVAL, self._tick)

    # -- PromptUser: what is typed --

    def entered(self, text: str, seen: int) -> None:
        """
        Handle a line that was entered.

        :param seen: the number of the last `show` when the first character of the line was typed.
        """
        if self._exit.ending:
            return
        if text.strip() and self.view.settings.history:
            self._typed_lines.add(text, self.view.wall())
        if seen < self._switched and not text.startswith("/") and text.strip() and self._before is not None:
            # The line was begun when lines went to another peer.
            self._switched = 0
            self.show(
                f"That was begun when the chat was with {self.view.name_of(self._before)}: "
                f"press Enter again if it is for {self._prompt_text[:-2]}."
            )
            self.give_back(text)
            return
        self.line.typed(text, seen)

    def noticed(self, seen: int) -> None:
        """Note that the user has pressed a key after the `show` with this number."""
        self.line.noticed(seen)

    def ended(self) -> None:
        """Handle Ctrl-D: end, but ask first if messages would be lost."""
        if len(self.view.sending) or (
            self._chat.conversations.undelivered() and not self.view.settings.history
        ):
            self.line.quit()
        else:
            self.view.input_over()

    def interrupted(self) -> None:
        """Handle Ctrl-C: send the signal that the terminal would send without a line editor."""
        self._interrupt()

    def suspended(self) -> None:
        """Handle Ctrl-Z: stop the process, and draw the prompt again when it was continued."""
        self._stop_process()
        self._prompt.refresh()

    def lost(self, failure: Failure | None) -> None:
        """End the process: the terminal was closed, or (with a failure) the prompt has failed."""
        if failure is not None:
            self._log.failure("the prompt failed", failure)
            self._exit.finish(
                1, f"The terminal could not be used: {failure.getErrorMessage()}. The log tells more."
            )
        else:
            self.view.output_lost()


class TerminalConsole:
    """A terminal with a line editor: a `punch.ui.console.Console`."""

    def __init__(
        self,
        reactor: Any,
        streams: StreamDescriptors,
        modes: TerminalModes,
        options: StartOptions,
        chat: Chat,
    ) -> None:
        self._reactor = reactor
        self._modes = modes
        self._clean = False
        typed = LineHistory(options.typed_lines)
        self._prompt = prompt = Prompt(
            streams.stdin,
            streams.stdout,
            in_reactor=reactor.callFromThread,
            complete=lambda text: (
                Suggestion(*found) for found in slash.completions(text, self.front_end.names)
            ),
            history=typed,
            colour=Style.choose(options.environ, True).colour,
            term=options.environ.get("TERM", ""),
            reflows=reflows(options.environ),
        )
        self.front_end = TerminalFrontEnd(
            options.settings, options.context, chat, prompt, typed, environ=options.environ
        )
        atexit.register(self.restore)
        if threading.current_thread() is threading.main_thread():
            # When the process was stopped by another one, the terminal's modes must be set again.
            signal.signal(signal.SIGCONT, lambda *_: reactor.callFromThread(prompt.refresh))
        prompt.start(self.front_end)

    def close(self) -> Deferred[Any]:
        """Remove the prompt, and restore the terminal, after at most `DRAIN_TIMEOUT` seconds."""
        self.front_end.view.exit.stop()
        waiting: Deferred[None] = Deferred()

        def stopped(_: object) -> None:
            self._clean = True
            if not waiting.called:
                waiting.callback(None)

        self._prompt.stop().addCallback(stopped)
        # A terminal that takes no output blocks the prompt's thread; it must not keep the process.
        waiting.addTimeout(DRAIN_TIMEOUT, self._reactor)
        return waiting.addBoth(lambda _: self.restore())

    def drain(self) -> Deferred[Any]:
        """Does nothing: `close` has waited for the output."""
        return succeed(None)

    def restore(self) -> None:
        """Restore the modes of the terminal, without waiting for the prompt's thread."""
        self._modes.put_back(drawn=not self._clean)

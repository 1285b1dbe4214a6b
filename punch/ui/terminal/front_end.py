"""
The chat in a terminal with a line editor: what is typed stays whole whatever comes in above it, and a status
line tells who it goes to and how.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from punch.apps.chat import (
    MAX_LIMIT,
    Chat,
    ChatMessage,
    ConversationSummary,
    MessageState,
    Stage,
)
from punch.apps.chat.events import ContactChanged, ContactForgotten, Event, HistoryErased, MessageChanged
from punch.identity import PeerID
from punch.node.events import (
    CallFailed,
    Calling,
    Checking,
    Connected,
    IncomingCall,
    Introduced,
    Ready,
)
from punch.ui.front_end import FrontEndContext, Progress, Settings
from punch.ui.json.events import message_fields
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import sequence
from punch.ui.terminal.line_history import LineHistory
from punch.ui.terminal.prompt import Fragments
from punch.ui.text import answers
from punch.ui.text.sentences import (
    count,
    describe,
    milliseconds,
    path_in_words,
    printable,
    shortened,
)
from punch.ui.text_front_end import TextFrontEnd

#: How often the round trip in the status line is looked at, in seconds.
STATUS_INTERVAL = 2.0

#: Messages of the history that are shown when a chat is opened.
EARLIER = 6

#: Characters of a name in the prompt.
MAX_PROMPT = 20


class PromptArea(Protocol):
    """What this needs of `punch.ui.terminal.prompt.Prompt`, whose methods say what they do."""

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


class TerminalFrontEnd(TextFrontEnd):
    """
    The chat as a person has it; also the `punch.ui.terminal.prompt.PromptUser`.

    :param bottom: the prompt.
    :param history: the lines typed before.
    :param stop_process: stops it as Ctrl-Z does, and returns when it goes on.
    """

    def __init__(
        self,
        settings: Settings,
        context: FrontEndContext,
        chat: Chat,
        bottom: PromptArea,
        history: LineHistory,
        *,
        environ: Mapping[str, str] = os.environ,
        stop_process: Callable[[], None] = lambda: os.kill(0, signal.SIGTSTP),
        interrupt: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        super().__init__(
            settings, context, chat, _Nowhere(), InputKind.TERMINAL, terminal=True, environ=environ
        )
        self.bottom = bottom
        self.lines = history
        self._stop_process = stop_process
        self._interrupt = interrupt
        self._shown: Deferred[None] = succeed(None)
        #: Names that a command may be given; read by the prompt's thread.
        self.names: tuple[str, ...] = ()
        self._number = 0
        self._unread: dict[PeerID, int] = {}
        self._live: dict[PeerID, int] = {}
        self._opened: set[PeerID] = set()
        self._switched = 0
        self._before: PeerID | None = None
        self._timer: IDelayedCall | None = None
        self._status: Fragments = ()
        self._prompt = ""
        #: What stands in the line of a call of ours, until it comes to something.
        self._called: dict[PeerID, str] = {}
        chat.views.attach(self)
        self.balance()
        self._names()
        self.changed()
        self._tick()

    # -- what is shown --

    def show(self, text: str) -> int:
        return self._show(text)

    def _show(self, text: str, key: object = None) -> int:
        self._number, self._shown = self.bottom.show(text, key)
        return self._number

    def written(self) -> Deferred[None]:
        return self._shown

    def give_back(self, text: str) -> None:
        self.bottom.put_in_line(text)

    def on_ready(self, event: Ready) -> None:
        super().on_ready(event)
        if self.line.current is not None:
            self._open(self.line.current)
        self.chat.history.conversations().addCallbacks(self._greet, self.line.refused)

    def _greet(self, conversations: list[ConversationSummary]) -> None:
        for each in conversations:
            peer = each.contact.peer
            if each.unread and peer not in self._opened and not self.exit.finished:
                self._unread[peer] = each.unread
                name = self.name_of(peer)
                self.show_dim(
                    f"{count(each.unread, 'message')} from {name} not read yet: /to {name} shows them"
                )
        self.changed()

    def show_progress(self, event: Progress) -> None:
        """One line for a call, which is written anew with each stage."""
        peer, name = event.peer, self.name_of(event.peer)
        if isinstance(event, Calling):
            self._called[peer] = name if name.endswith(f"{peer.short})") else f"{name} ({peer.short})"
            if name == peer.short:
                self._called[peer] = name
            text = f"Calling {self._called[peer]}"
        elif isinstance(event, (Introduced, Checking)):
            called = f"Calling {self._called[peer]}" if peer in self._called else name
            how = "introduced" if isinstance(event, Introduced) else f"checking {count(event.pairs, 'pair')}"
            text = f"{called}: {how}"
        else:
            super().show_progress(event)
            return
        self._replace(self.style.dim(text), ("call", peer))

    def show_connected(self, event: Connected) -> None:
        self._called.pop(event.peer, None)
        text = describe(event, self.name_of(event.peer), event.peer.short)
        self._replace(self.timed(self.style.good(text)), ("call", event.peer))

    def _replace(self, text: str, key: object) -> None:
        self._number, self._shown = self.bottom.replace(text, key)

    def on_failed(self, event: CallFailed) -> None:
        if event.peer is not None:
            self._called.pop(event.peer, None)
        super().on_failed(event)

    def id_beside(self, peer: PeerID) -> str | None:
        # Who is asked about is shown with the whole of it, in the question.
        return peer.short

    def timed(self, text: str) -> str:
        now = self._wall()
        return f"{text} {self.style.dim(f'({answers.clock(now, now)})')}"

    def message_line(self, message: ChatMessage, who: str) -> str:
        when = self.style.dim(answers.clock(message.time, self._wall()))
        if message.outgoing:
            return f"{when} {super().message_line(message, who)}"
        name = self.style.person(f"{who}:", message.peer.key)
        return f"{when} {name} {printable(message.text, newline=chr(10) + '    ')}"

    def on_incoming(self, event: IncomingCall) -> None:
        super().on_incoming(event)
        if not event.decided:
            self._notify(f"{self.name_of(event.peer)} is calling")

    def _notify(self, text: str) -> None:
        """Ring, or such, if nobody looks."""
        told = sequence(self.settings.notice, text)
        if told:
            self.bottom.notify(told)

    def clear(self) -> None:
        self.bottom.clear()

    def on_connected(self, event: Connected) -> None:
        super().on_connected(event)
        self._names()

    def on_message(self, message: ChatMessage, again: bool) -> Deferred[None] | None:
        self._live.setdefault(message.peer, message.number)
        if not message.outgoing:
            self._notify(f"Message from {self.name_of(message.peer)}")
            return super().on_message(message, again)
        to = "" if message.peer == self.line.current else f" to {self.name_of(message.peer)}"
        self._show(self.message_line(message, f"you{to}"), key=message.number)
        if message.state is not MessageState.SENT:
            self._show_state(message, alone=False)
        return None

    def on_changed(self, event: MessageChanged) -> Deferred[None] | None:
        message = event.message
        if message.outgoing:
            self._show_state(message, alone=message.state is MessageState.DELIVERED)
        return None

    def _show_state(self, message: ChatMessage, alone: bool) -> None:
        if message.state is MessageState.SENT:
            # It waits no more; the next state, a moment later, is worth showing.
            self.bottom.put_beside(message.number, "", None)
            return
        text = answers.STATES[str(message.state)]
        good = message.state in (MessageState.DELIVERED, MessageState.READ)
        mark = self.style.good(text) if good else self.style.dim(text)
        self.bottom.put_beside(
            message.number, f"  {mark}", f"{mark}: {shortened(message.text)}" if alone else None
        )

    def on_other(self, event: Event) -> None:
        super().on_other(event)
        if isinstance(event, HistoryErased):
            self._forget_lines(event)
        elif isinstance(event, (ContactChanged, ContactForgotten)):
            self._names()

    def _forget_lines(self, event: HistoryErased) -> None:
        # What was typed says what messages said.
        if event.before is None:
            self.lines.erase()
        else:
            self.lines.forget_before(event.before)
        self.bottom.set_history(list(self.lines))

    def _names(self) -> None:
        contacts = [
            *self.chat.contacts.all(),
            *map(self.chat.contacts.get, {**self.line.met, **self.chat.links}),
        ]
        names = {contact.name or contact.claimed or str(contact.peer) for contact in contacts}
        self.names = tuple(sorted((name for name in names if printable(name) == name), key=str.lower))

    # -- a chat is opened --

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        if peer != before and before is not None and not chosen:
            # What is being typed was meant for somebody else.
            self._before, self._switched = before, self._number + 1
        self._open(peer)

    def _open(self, peer: PeerID) -> None:
        if peer not in self._opened:
            self._opened.add(peer)
            limit = min(MAX_LIMIT, max(EARLIER, self._unread.pop(peer, 0)))
            found = self.chat.history.messages(peer, limit=limit)
            found.addCallbacks(partial(self._opened_with, peer), self.line.refused)

    def _opened_with(self, peer: PeerID, messages: list[ChatMessage]) -> None:
        live = self._live.get(peer)
        earlier = [message for message in messages if live is None or message.number < live]
        if not earlier or self.exit.finished:
            return
        now = self._wall()
        lines = [answers.message_line(message_fields(m), self.name_of, now) for m in earlier]
        shown = self.show("\n".join(map(self.style.dim, lines)))
        theirs = [message for message in earlier if not message.outgoing]
        if theirs:
            self.line.shown_with(shown, theirs[-1])
        self.changed()

    # -- the status line --

    def changed(self) -> None:
        name = "" if self.line.current is None else self.name_of(self.line.current)
        prompt = f"{name[:MAX_PROMPT]}> "
        if prompt != self._prompt:
            self._prompt = prompt
            self.bottom.set_prompt(prompt)
        status = self._facts(name)
        if status != self._status:
            self._status = status
            self.bottom.set_status(status)

    def _facts(self, name: str) -> Fragments:
        facts: list[tuple[str, str]] = []
        if self.line.questions.open is not None:
            facts.append(("bad", "a question waits: y or n"))
        if self.line.current is not None:
            facts.append(self._link_fact(self.line.current, name))
            waiting = self.chat.conversations.undelivered(self.line.current)
            if waiting:
                facts.append(("", f"{waiting:,} waiting"))
        elif self.exit.registered:
            facts.append(("", "waiting for a call"))
        for peer in self.chat.links:
            if peer != self.line.current:
                facts.append(("", f"{self.name_of(peer)} is connected"))
        for peer, unread in self._unread.items():
            facts.append(("good", f"{unread:,} unread from {self.name_of(peer)}"))
        if not self.exit.registered:
            facts.append(("bad", "rendezvous not reached" if self._trouble else "registering"))
        fragments: list[tuple[str, str]] = []
        for look, text in facts:
            if fragments:
                fragments.append(("dim", " · "))
            fragments.append((look, text))
        return fragments

    def _link_fact(self, peer: PeerID, name: str) -> tuple[str, str]:
        link = self.chat.link_status(peer)
        if link is not None and link.disconnected:
            return "bad", f"{name}: path lost, looking for another"
        if link is not None:
            return "good", f"{name} {path_in_words(link.path.kind)}, {milliseconds(link.path.rtt)}"
        stage = self.chat.stage(peer)
        if stage is Stage.RINGING:
            return "", f"{name} is calling"
        if stage is not None or peer in self.chat.calling:
            # Also one that the chat placed by itself: it rings there.
            return "", f"calling {name}"
        return "dim", f"{name} is away"

    def _tick(self) -> None:
        self.changed()
        self._timer = self._clock.callLater(STATUS_INTERVAL, self._tick)

    def stopped(self) -> None:
        super().stopped()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # -- PromptUser: what is typed --

    def entered(self, text: str, seen: int) -> None:
        """A line."""
        if self.exit.ending:
            return
        if text.strip() and self.settings.history:
            self.lines.add(text, self._wall())
        if seen < self._switched and not text.startswith("/") and text.strip() and self._before is not None:
            # It was begun for somebody else.
            self._switched = 0
            self.show(
                f"That was begun when the chat was with {self.name_of(self._before)}: "
                f"press Enter again if it is for {self._prompt[:-2]}."
            )
            self.give_back(text)
            return
        self.line.typed(text, seen)

    def noticed(self, seen: int) -> None:
        """A person did something after `show` number `seen`."""
        self.line.noticed(seen)

    def ended(self) -> None:
        """Ctrl-D."""
        if len(self.sending) or (self.chat.conversations.undelivered() and not self.settings.history):
            self.line.quit()
        else:
            self.input_over()

    def interrupted(self) -> None:
        """Ctrl-C: as if the terminal had sent the signal."""
        self._interrupt()

    def suspended(self) -> None:
        """Ctrl-Z."""
        self._stop_process()
        self.bottom.refresh()

    def lost(self, failure: Failure | None) -> None:
        """The terminal is gone."""
        if failure is not None:
            self._log.failure("the prompt failed", failure)
            self.exit.finish(
                1, f"The terminal could not be used: {failure.getErrorMessage()}. The log tells more."
            )
        else:
            self.output_lost()

    def check_done(self) -> None:
        """After Ctrl-D: end, and keep what waits."""
        if self.exit.input_ended and not self.exit.ending and not len(self.sending):
            self.exit.leave()


class _Nowhere:
    """The prompt has the terminal; nothing else reads or writes."""

    def write(self, data: bytes) -> None:
        """Nowhere."""

    def written(self) -> Deferred[None]:
        """At once."""
        return succeed(None)

    def pause(self) -> None:
        """What is typed waits on the disk, not here."""

    def resume(self) -> None:
        """As `pause`."""

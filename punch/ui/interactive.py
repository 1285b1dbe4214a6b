"""
A chat for a person: what is told in sentences, and what a typed line means.

Where the lines come from and go to is up to the subclasses: `punch.ui.stdio` for pipes and plain terminals,
`punch.ui.terminal.front_end` for those with a line editor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.apps.chat import (
    MAX_TEXT,
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
from punch.names import without_format, without_leading_format
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
from punch.ui import slash
from punch.ui.commands import Answer, perform, why
from punch.ui.front_end import FrontEnd, FrontEndContext, Output, Progress, Settings
from punch.ui.json.events import contact_fields, link_fields
from punch.ui.questions import Question, Questions
from punch.ui.send_queue import split_text
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Style
from punch.ui.text import answers
from punch.ui.text.sentences import (
    count,
    describe,
    name_lines,
    printable,
    shortened,
)

#: Reasons of a call that came to nothing that say no more than that.
_NOT_THERE = ("not-registered", "gone", "timeout")

#: Messages of one peer of which it is noted apart when each was shown: more can't come while a line is typed.
MAX_UNSEEN = 64

#: Who was connected here once is found by the name it gives itself: so many of them, the latest.
MAX_MET = 256


class InteractiveFrontEnd(FrontEnd, ABC):
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
        self.current: PeerID | None = settings.target
        self.chosen = settings.target is not None
        self.questions = Questions(self.show)
        self._unseen: dict[PeerID, list[tuple[int, int]]] = {}
        #: Who was connected here, the latest last.
        self.met: dict[PeerID, None] = {}
        self._told: set[str] = set()
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

    def give_back(self, text: str) -> None:
        """A typed line that came to nothing: where it can be, it is put into the line again."""

    def changed(self) -> None:
        """Something that a status line tells has changed."""

    # -- what is told --

    def handle(self, event: Event) -> Deferred[None] | None:
        delivered = super().handle(event)
        if not self.exit.finished:
            self._drop_answered()
            self.changed()
        return delivered

    def on_ready(self, event: Ready) -> None:
        self.show(f"{describe(event)} {self.style.dim(f'({printable(self.settings.name)})')}")
        super().on_ready(event)

    def web_opened(self, url: str) -> None:
        self.show(f"Open this in a browser on this machine, it works once: {url}")

    def on_registered(self, event: Registered) -> None:
        self._trouble = None
        self.stage(describe(event))
        if self._to_tell is not None:
            self.show_progress(self._to_tell)
            self._to_tell = None
        if self.target is None and not self.chat.links:
            how = ", or /call theirs; /help shows more" if self.watched else ""
            self.stage(f"Waiting for a call: give your ID to the other side{how}")

    def on_unregistered(self, event: Unregistered) -> None:
        # Every try that fails the same way is not worth a line.
        if event.text != self._trouble and event.retry_in is not None:
            self._trouble = event.text
            self.show(self.style.bad(describe(event)))

    def on_progress(self, event: Progress) -> None:
        if isinstance(event, Calling) and not self.exit.ever_registered:
            # It waits for the rendezvous, and is told when it goes out.
            self._to_tell = event
            return
        self.show_progress(event)

    def show_progress(self, event: Progress) -> None:
        """How far a call is, or what became of a link's path."""
        self.stage(describe(event, self.name_of(event.peer)))

    def show_connected(self, event: Connected) -> None:
        """A link is up."""
        self.show(self.style.good(describe(event, self.name_of(event.peer))))

    def id_beside(self, peer: PeerID) -> str | None:
        """What stands for an ID where it is not to be compared; None: the whole of it."""
        return None

    def timed(self, text: str) -> str:
        """A line about something that happens now: where it is worth it, with the time."""
        return text

    def stage(self, text: str) -> None:
        """A line of less weight."""
        self.show(self.style.dim(text))

    def on_incoming(self, event: IncomingCall) -> None:
        peer = event.peer
        name = self.style.bold(self.name_of(peer))
        self.show(self.timed(describe(event, name, self.id_beside(peer))))
        if event.decided or peer not in self.chat.questions or not self.watched:
            return
        self.ask(
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
        self._meet(event.peer)
        self.show_connected(event)
        if not self.watched:
            return
        if self.current is None or not (self.chosen or self.current in self.chat.links):
            first = self.current is None
            self.talk_to(event.peer, chosen=False)
            self.stage(
                "Type a line and press Enter to send it, /quit to end"
                if first
                else f"What you type goes to {name} now"
            )
        elif self.current != event.peer:
            self.stage(f"What you type still goes to {self.name_of(self.current)}: /to {name} changes that")

    def _meet(self, peer: PeerID) -> None:
        self.met.pop(peer, None)
        self.met[peer] = None
        if len(self.met) > MAX_MET:
            del self.met[next(iter(self.met))]

    def on_disconnected(self, event: Disconnected) -> None:
        if self.exit.ending:
            return
        waiting = self.chat.conversations.undelivered(event.peer)
        if self.watched or event.peer != self.target:
            self.show(self.timed(describe(event)))
            if waiting:
                self.show(f"{count(waiting, 'message')} not delivered: sent again when they are back.")
        elif str(event.reason) != "bye":
            self.exit.finish(1, self._with_what_is_left(printable(event.text)))
        elif waiting or len(self.sending):
            self.exit.finish(
                1, f"{printable(event.text)} ({count(waiting, 'message')} not delivered{self._keeping()})"
            )
        elif not self.exit.input_ended:
            self.exit.finish(1, f"{printable(event.text)} (the input had not ended)")
        else:
            self.show(describe(event))
            self.exit.finish(0)

    def on_failed(self, event: CallFailed) -> None:
        if event.peer is None or event.peer in self.chat.links:
            return
        if self.watched:
            self.show(self.timed(self.style.bad(describe(event))))
            self.questions.ask_again()
        elif event.peer == self.target:
            self.exit.finish(1, self._with_what_is_left(printable(event.text)))
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
        self.seen_with(shown, message)
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
                why = "" if str(event.reason) in _NOT_THERE else f" {printable(event.text)}"
                self.stage(f"{name} is not there: what you type waits here{how}{why}")
        elif isinstance(event, StoreFailed):
            self.show(
                "The history can be written again." if event.text is None else self.style.bad(event.text)
            )
        elif isinstance(event, ChatBroken):
            self.show(self.style.bad(printable(event.text)))

    # -- questions --

    def ask(self, question: Question) -> None:
        """Ask it, as soon as no other is open."""
        self.questions.ask(question)

    @property
    def question(self) -> Question | None:
        """The one that is open."""
        return self.questions.open

    def _drop_answered(self) -> None:
        self.questions.keep(self.chat.questions)

    def _answer(self, yes: bool) -> None:
        question = self.questions.take()
        self._try(question.yes if yes else question.no)
        self.questions.ask_again()
        self.changed()

    # -- what is typed --

    def typed(self, text: str, seen: int | None = None) -> None:
        """
        One line.

        :param seen: the last `show` that whoever typed it had seen when he began; None: not known.
        """
        if self.exit.ending:
            return
        self.noticed(seen)
        self._drop_answered()
        word = without_format(text).strip().lower()
        if self.watched:
            text = without_leading_format(text)
        question = self.question
        if question is not None and self.watched and not text.startswith("/"):
            in_time = seen is None or (question.asked is not None and seen >= question.asked)
            if word in ("y", "yes", "n", "no") and in_time:
                self._answer(word[0] == "y")
                return
            if seen is None or self.current is None:
                if word:
                    self.show(
                        "Please type y to let them connect, or n to refuse." if question.peer else "y or n?"
                    )
                    self.give_back(text)
                    self.questions.ask_again()
                return
        if not self.watched:
            self.say(text)
        elif text.startswith("//"):
            self.say(text[1:])
        elif text.startswith("/"):
            self._command(text[1:])
        elif word:
            self.say(text)

    def seen_with(self, shown: int, message: ChatMessage) -> None:
        """Who has seen `show` number `shown` has read this message, and those before it."""
        if not self.watched:
            return
        unseen = self._unseen.setdefault(message.peer, [])
        unseen.append((shown, message.number))
        if len(unseen) > MAX_UNSEEN:
            # Nobody has come for long. Who has seen a later one has seen these, too.
            del unseen[1:-1:2]

    def noticed(self, seen: int | None = None) -> None:
        """A person is there, and has seen what is shown, up to `show` number `seen`."""
        unseen, self._unseen = self._unseen, {}
        for peer, lines in unseen.items():
            numbers = [number for shown, number in lines if seen is None or shown <= seen]
            left = [(shown, number) for shown, number in lines if seen is not None and shown > seen]
            if left:
                self._unseen[peer] = left
            if numbers:
                self._try(partial(self._read, peer, max(numbers)))

    def _read(self, peer: PeerID, number: int) -> None:
        self.chat.history.read(peer, number).addErrback(self._refused)

    def talk_to(self, peer: PeerID, chosen: bool = True) -> None:
        """From now on lines go to `peer`."""
        self.current = peer
        self.chosen = chosen
        self.changed()

    def say(self, text: str) -> None:
        """A line is a message."""
        peer = self.current
        if peer is None:
            self.show("Nobody is connected yet, so that was not sent: wait for a call, or /call somebody.")
            self.give_back(text)
            return
        self.send_parts(peer, text)

    def send_parts(self, peer: PeerID, text: str) -> None:
        """Send it, as several messages if it is too long for one."""
        parts = split_text(text)
        if len(parts) > 1:
            self.tell_once(f"A line of more than {MAX_TEXT:,} bytes goes as several messages.")
        for part in parts:
            self.send(peer, part, refused=partial(self._not_sent, part))
        self.balance()

    def _not_sent(self, text: str, error: ChatError) -> None:
        self.show(self.style.bad(str(error)))
        if self.watched:
            self.give_back(text)
        else:
            self.exit.finish(1, f"{name_lines([text])} not sent: {error}")

    def on_held(self, error: ChatError) -> None:
        self.show(self.style.bad(f"What you typed is not sent yet, and is tried again: {error}"))

    def tell_once(self, text: str) -> None:
        """A sentence that is said once."""
        if text not in self._told:
            self._told.add(text)
            self.show(text)

    def _command(self, line: str) -> None:
        try:
            order = slash.parse(line, self.chat, self.current, self.questions.caller, self.met)
            if isinstance(order, slash.Help):
                self.show("\n".join(slash.help_lines(order.about)))
            elif isinstance(order, slash.TalkTo):
                self.talk_to(order.peer)
                self.stage(f"What you type goes to {self.name_of(order.peer)} now")
            elif isinstance(order, slash.WhoIs):
                self._who_is(order.peer)
            elif isinstance(order, slash.Clear):
                self.clear()
            elif order.name == "erase":
                self._confirm_erase(order)
            elif order.name == "quit":
                self.quit()
            else:
                self._perform(order)
        except ChatError as error:
            self.show(str(error))

    def _who_is(self, peer: PeerID) -> None:
        link = link_fields(self.chat.link_status(peer))
        self.show("\n".join(answers.who_lines(contact_fields(self.chat.contacts.get(peer)), link)))

    def clear(self) -> None:
        """Show nothing of what was shown before, where that can be done."""
        self.show("This terminal can't be cleared from here.")

    def _perform(self, order: slash.Order) -> None:
        if order.name == "send":
            # As other lines that are typed, and after those.
            peer, text = self.chat.contacts.find(order.fields["peer"]), str(order.fields["text"])
            self.send_parts(peer, text)
            return
        if order.name == "netcheck":
            self.stage("Looking at the network: some seconds")
        perform(self.commands, order.name, order.fields).addCallbacks(
            partial(self._done, order.name), self._refused
        )
        if order.name == "call":
            self.talk_to(self.chat.contacts.find(order.fields["peer"]))

    def _done(self, name: str, answer: Answer | None) -> None:
        if answer is not None and not self.exit.finished:
            told = "\n".join(answers.lines(name, answer, self.name_of, self._wall()))
            if told:
                self.show(told)
        self._drop_answered()
        self.changed()

    def quit(self) -> None:
        """End, unless something would be lost that whoever sits here may want to wait for."""
        waiting = self.chat.conversations.undelivered()
        unsent = self.unsent()
        if unsent is None and (not waiting or self.settings.history):
            self.exit.leave()
            return
        lost = f"{count(waiting, 'message')} not delivered, and nothing is kept: end even so?"
        if unsent is not None:
            lost = f"{unsent} End even so?"
        self.ask(
            Question(
                lambda: f"{lost} [y/n]",
                self.exit.leave,
                lambda: None,
            )
        )

    def _confirm_erase(self, order: slash.Order) -> None:
        peer = order.fields.get("peer")
        what = (
            "all messages of everybody"
            if peer is None
            else f"all messages with {self.name_of(self.chat.contacts.find(peer))}"
        )
        self.ask(
            Question(
                lambda: f"Erase {what} on this machine? [y/n]",
                partial(self._perform, order),
                lambda: self.stage("Nothing was erased."),
            )
        )

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except ChatError as error:
            self.show(str(error))

    def _refused(self, failure: Failure) -> None:
        error = why(failure, self._log)
        if not self.exit.finished:
            self.show(str(error))

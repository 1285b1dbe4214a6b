"""
What a person types: messages, commands that begin with a slash, and answers to questions.

A line is judged by what was on the screen when it was begun: it answers no question that was asked later, and
it marks only those messages as read that were there. If a message was shown below a question, "yes" may be
meant for either, and the question is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.chat import MAX_TEXT, ChatError, ChatMessage
from punch.identity import PeerID
from punch.names import without_format, without_leading_format
from punch.ui import slash
from punch.ui.command import Answer, CommandRefused
from punch.ui.commands import perform, why
from punch.ui.front_end import ProcessView
from punch.ui.json.events import contact_fields, link_fields
from punch.ui.send_queue import split_text
from punch.ui.terminal.escapes import Style
from punch.ui.text import answers
from punch.ui.text.chat import chat_error_sentence
from punch.ui.text.sentences import count, name_lines

#: Of how many messages of one peer it is remembered with which `show` each was shown.
MAX_UNSEEN = 64

#: How many peers that were connected here can be named by what they call themselves: the latest.
MAX_CONNECTED_PEERS = 256

#: The answers to a question.
ANSWERS = ("y", "yes", "n", "no")


@dataclass
class Question:
    """
    Something that the next typed line may answer.

    :ivar peer: whose call it is about, if it is about one.
    :ivar waits: whether it still waits for an answer: it may be answered elsewhere, or be given up.
    :ivar refused_by_quit: whether `/quit` answers it with no.
    :ivar by_user: whether the user's own command or paste has led to it: it is asked before all others.
    :ivar time: for how many seconds after it was shown first a line answers it; None: without a limit. As it
        can be answered by a command as well, other lines don't have to wait until it is answered.
    :ivar later: what is shown when that time is over.
    :ivar asked: the number of the line that asked it last; None: not asked yet.
    :ivar asked_first: when it was shown first.
    :ivar followed: the number of the first message that was shown since it was asked last, if one was.
    """

    text: Callable[[], str]
    yes: Callable[[], object]
    no: Callable[[], object]
    peer: PeerID | None = None
    refused_by_quit: bool = False
    waits: Callable[[], bool] = lambda: True
    by_user: bool = False
    time: float | None = None
    later: Callable[[], str] = str
    asked: int | None = None
    asked_first: float | None = None
    followed: int | None = None

    def is_late(self, now: float) -> bool:
        """Whether no line answers it any more."""
        return self.time is not None and self.asked_first is not None and now >= self.asked_first + self.time


class Questions:
    """
    The questions that wait for an answer; the first one is open.

    :param show: shows a line, and returns its number.
    :param seconds: a monotonic clock.
    """

    def __init__(self, show: Callable[[str], int], seconds: Callable[[], float]) -> None:
        self._show = show
        self._seconds = seconds
        self._waiting: list[Question] = []

    @property
    def open(self) -> Question | None:
        """The question that the next line may answer."""
        return self._waiting[0] if self._waiting else None

    @property
    def caller(self) -> PeerID | None:
        """The peer whose call is asked about first."""
        return next((question.peer for question in self._waiting if question.peer is not None), None)

    def ask(self, question: Question) -> None:
        """Ask a question as soon as no other is open; at once if it is `by_user`."""
        if question.by_user:
            self._waiting.insert(0, question)
        else:
            self._waiting.append(question)
        if self.open is question:
            self.ask_again()

    def ask_again(self) -> None:
        """Show the open question, once more if it was shown before."""
        if self._waiting:
            question = self._waiting[0]
            question.asked = self._show(question.text())
            question.followed = None
            if question.asked_first is None:
                question.asked_first = self._seconds()

    def message_shown(self, number: int) -> None:
        """A message was shown, as line `number`."""
        if self._waiting and self._waiting[0].followed is None:
            self._waiting[0].followed = number

    def drop_answered(self) -> None:
        """Drop the questions that do not wait any more, or not for a line."""
        first, now = self.open, self._seconds()
        waiting = [each for each in self._waiting if each.waits()]
        self._waiting = [each for each in waiting if not each.is_late(now)]
        for each in waiting:
            if each.is_late(now):
                self._show(each.later())
        if self.open is not first:
            self.ask_again()

    def take(self) -> Question:
        """Remove the open question, which is answered now, and return it."""
        return self._waiting.pop(0)


class TextScreen(Protocol):
    """Where text is shown: a pipe, a plain terminal, or the lines above a prompt."""

    def show(self, text: str) -> int:
        """Show one or more lines. Returns a number that grows with each call."""

    def replace(self, text: str, key: object) -> int:
        """As `show`, but instead of the last line if that has the same key, where that is possible."""

    def written(self) -> Deferred[None]:
        """Fires when all that was shown is out."""

    def give_back(self, text: str) -> None:
        """Put a typed line that had no effect into the line again, where that is possible."""

    def clear(self) -> None:
        """Clear the screen, where that is possible."""

    def changed(self) -> None:
        """Show what has changed in a status line, if there is one."""

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        """Lines go to another peer, or the same one again; `chosen`: the user wants it so."""


class CommandLine:
    """
    Handles typed lines. They go to the peer that the command line names, until another one is selected.

    :ivar current: the peer to which lines go.
    :ivar chosen: whether the user has chosen it.
    :ivar connected_peers: the peers that were connected here, the latest last.
    :ivar questions: what the user is asked.
    """

    _log = Logger()

    def __init__(self, view: ProcessView, screen: TextScreen, style: Style) -> None:
        self.current = view.settings.target
        self.chosen = self.current is not None
        self.connected_peers: dict[PeerID, None] = {}
        self.questions = Questions(screen.show, view.clock.seconds)
        self._view = view
        self._screen = screen
        self._style = style
        self._chat = view.chat
        self._exit = view.exit
        self._commands = view.commands
        self._unseen: dict[PeerID, list[tuple[int, int]]] = {}
        self._told: set[str] = set()

    # -- what is typed --

    def typed(self, text: str, seen: int | None = None) -> None:
        """
        Handle one line.

        :param seen: the number of the last `show` that was on the screen when the line was begun; None: not
            known.
        """
        if self._exit.ending:
            return
        self.noticed(seen)
        self.drop_answered()
        text = without_leading_format(text)
        word = without_format(text).strip().lower()
        if self._answered(text, word, seen):
            return
        if text.startswith("//"):
            self.say(text[1:])
        elif text.startswith("/"):
            self._command(text[1:])
        elif word:
            self.say(text)

    def say(self, text: str) -> None:
        """Send a line to the current peer."""
        if self.current is None:
            self._screen.show(
                "Nobody is connected yet, so that was not sent: wait for a call, or /call somebody."
            )
            self._screen.give_back(text)
        else:
            self.send_parts(self.current, text)

    def send_parts(self, peer: PeerID, text: str) -> None:
        """Send a text, as several messages if it is too long for one."""
        parts = split_text(text)
        if len(parts) > 1:
            self.tell_once(f"A line of more than {MAX_TEXT:,} bytes goes as several messages.")
        for part in parts:
            self._view.sending.send(peer, part, partial(self.not_sent, part))
        self._view.balance()

    def not_sent(self, text: str, error: CommandRefused) -> None:
        """A message can't be sent."""
        self._screen.show(self._style.bad(str(error)))
        if self._view.watched:
            self._screen.give_back(text)
        else:
            self._exit.finish(1, f"{name_lines([text])} not sent: {error}")

    def select(self, peer: PeerID, chosen: bool = True) -> None:
        """
        Send lines to `peer` from now on.

        :param chosen: whether the user wants it so.
        """
        before, self.current, self.chosen = self.current, peer, chosen
        self._screen.changed()
        self._screen.selected(before, peer, chosen)

    def add_connected(self, peer: PeerID) -> None:
        """A peer was connected in this process: commands also find it by the name that it gave itself."""
        self.connected_peers.pop(peer, None)
        self.connected_peers[peer] = None
        if len(self.connected_peers) > MAX_CONNECTED_PEERS:
            del self.connected_peers[next(iter(self.connected_peers))]

    def tell_once(self, text: str) -> None:
        """Show a sentence that was not shown before."""
        if text not in self._told:
            self._told.add(text)
            self._screen.show(text)

    # -- questions --

    def ask(self, question: Question) -> None:
        """Ask a question, as `Questions.ask` does."""
        self.questions.ask(question)

    def answer(self, yes: bool) -> None:
        """Answer the question that is open."""
        question = self.questions.take()
        self._try(question.yes if yes else question.no)
        self.questions.ask_again()
        self._screen.changed()

    def drop_answered(self) -> None:
        """Forget questions that no longer wait for an answer."""
        self.questions.drop_answered()

    def _answered(self, text: str, word: str, seen: int | None) -> bool:
        """Whether a line belongs to the open question; if so, handle it."""
        question = self.questions.open
        if question is None or text.startswith("/"):
            return False
        in_time = seen is None or (question.asked is not None and seen >= question.asked)
        if word in ANSWERS and in_time:
            if question.followed is None or (seen is not None and seen < question.followed):
                self.answer(word[0] == "y")
            else:
                self.questions.ask_again()
            return True
        if self.current is not None and (seen is not None or question.time is not None):
            return False
        if word:
            self._screen.show(
                "Please type y to let them connect, or n to refuse." if question.peer else "y or n?"
            )
            self._screen.give_back(text)
            self.questions.ask_again()
        return True

    # -- what was read --

    def shown_with(self, shown: int, message: ChatMessage) -> None:
        """A message is on the screen with `show` number `shown`: it is read, with those before it, when that
        was seen."""
        self.questions.message_shown(shown)
        unseen = self._unseen.setdefault(message.peer, [])
        unseen.append((shown, message.number))
        if len(unseen) > MAX_UNSEEN:
            # Nobody has typed for long. Whoever sees a later message has seen these as well.
            del unseen[1:-1:2]

    def noticed(self, seen: int | None = None) -> None:
        """A person is there, and has seen what is on the screen, up to `show` number `seen`; None: all."""
        unseen, self._unseen = self._unseen, {}
        for peer, lines in unseen.items():
            numbers = [number for shown, number in lines if seen is None or shown <= seen]
            left = [(shown, number) for shown, number in lines if seen is not None and shown > seen]
            if left:
                self._unseen[peer] = left
            if numbers:
                self._try(partial(self._read, peer, max(numbers)))

    def _read(self, peer: PeerID, number: int) -> None:
        self._chat.history.read(peer, number).addErrback(self.refused)

    # -- commands --

    def _command(self, line: str) -> None:
        try:
            typed = slash.parse(line, self._chat, self.current, self.questions.caller, self.connected_peers)
            if isinstance(typed, slash.Help):
                self._screen.show("\n".join(slash.help_lines(typed.about)))
            elif isinstance(typed, slash.SelectPeer):
                self.select(typed.peer)
                self._show_dim(f"What you type goes to {self._view.name_of(typed.peer)} now")
            elif isinstance(typed, slash.WhoIs):
                self._who_is(typed.peer)
            elif isinstance(typed, slash.Clear):
                self._screen.clear()
            elif typed.name == "erase":
                self._confirm_erase(typed)
            elif typed.name == "quit":
                self.quit()
            else:
                self._perform(typed)
        except CommandRefused as error:
            self._screen.show(str(error))
        except ChatError as error:
            self._screen.show(chat_error_sentence(error))

    def _who_is(self, peer: PeerID) -> None:
        link = self._chat.link_status(peer)
        lines = answers.who_lines(
            contact_fields(self._chat.contacts.get(peer)), None if link is None else link_fields(link)
        )
        self._screen.show("\n".join(lines))

    def perform(self, name: str, **fields: Any) -> None:
        """Do what a command does, as if it had been typed."""
        self._perform(slash.TypedCommand(name, fields))

    def _perform(self, typed: slash.TypedCommand) -> None:
        if typed.name == "send":
            # As other lines that are typed, and after those.
            self.send_parts(self._chat.contacts.find(typed.fields["peer"]), str(typed.fields["text"]))
            return
        if typed.name == "netcheck":
            self._show_dim("Testing the network takes some seconds")
        perform(self._commands, typed.name, typed.fields).addCallbacks(
            partial(self._done, typed.name), self.refused
        )
        if typed.name == "call":
            self.select(self._chat.contacts.find(typed.fields["peer"]))

    def _done(self, name: str, answer: Answer | None) -> None:
        if answer is not None and not self._exit.finished:
            told = "\n".join(answers.lines(name, answer, self._view.name_of, self._view.wall()))
            if told:
                self._screen.show(told)
        self.drop_answered()
        self._screen.changed()

    def quit(self) -> None:
        """End, unless something would be lost that the user may want to wait for: then ask."""
        if self.questions.open is not None and self.questions.open.refused_by_quit:
            self.answer(False)
        waiting = self._chat.conversations.undelivered()
        unsent = self._exit.unsent()
        if unsent is None and (not waiting or self._view.settings.history):
            self._exit.leave()
            return
        lost = f"{count(waiting, 'message')} not delivered, and nothing is kept: end even so?"
        if unsent is not None:
            lost = f"{unsent} End even so?"
        self.ask(Question(lambda: f"{lost} [y/n]", self._exit.leave, lambda: None, by_user=True))

    def _confirm_erase(self, typed: slash.TypedCommand) -> None:
        peer = typed.fields.get("peer")
        what = (
            "all messages of everybody"
            if peer is None
            else f"all messages with {self._view.name_of(self._chat.contacts.find(peer))}"
        )
        self.ask(
            Question(
                lambda: f"Erase {what} on this machine? [y/n]",
                partial(self._perform, typed),
                lambda: self._show_dim("Nothing was erased."),
                by_user=True,
            )
        )

    def _show_dim(self, text: str) -> None:
        self._screen.show(self._style.dim(text))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except CommandRefused as error:
            self._screen.show(str(error))
        except ChatError as error:
            self._screen.show(chat_error_sentence(error))

    def refused(self, failure: Failure) -> None:
        """A command has failed."""
        error = why(failure, self._log)
        if not self._exit.finished:
            self._screen.show(str(error))

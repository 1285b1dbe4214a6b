"""
What a person types: messages, commands that begin with a slash, and answers to questions.

What a line means depends on what was on the screen when its first character was typed: it does not answer a
question that was asked later, and it marks only the messages as read that were shown by then. If a message
was shown below a question, "yes" may be an answer to either, so the question is asked again.
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

#: Messages of one peer for which the number of their `TextScreen.show` is remembered, at most.
MAX_UNSEEN = 64

#: Peers that commands find by the name that they gave themselves: the latest that were connected.
MAX_CONNECTED_PEERS = 256

#: The answers to a question.
ANSWERS = ("y", "yes", "n", "no")


@dataclass
class Question:
    """
    A question that the next typed line may answer with yes or no.

    :ivar text: returns what is shown.
    :ivar yes: called when the answer is yes.
    :ivar no: called when the answer is no.
    :ivar peer: the peer whose call it is about, if it is about one.
    :ivar waits: whether it still needs an answer: it may have been answered in another view, or the peer may
        have given up.
    :ivar refused_by_quit: whether `/quit` answers it with no.
    :ivar by_user: whether a command or paste of the user has led to it: then it is asked before all others.
    :ivar time: for how many seconds, from when it was first shown, a line answers it; None: without a limit.
        A question with a limit can be answered by a command as well, so other lines are sent meanwhile.
    :ivar later: returns what is shown when that time is over.
    :ivar asked: the number of the `TextScreen.show` that asked it last; None: not asked yet.
    :ivar asked_first: when it was first shown, by the clock of `Questions`.
    :ivar followed: the number of the `show` of the first message since it was asked last, if there was one.
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
        """Whether its time is over, so that no line answers it any more."""
        return self.time is not None and self.asked_first is not None and now >= self.asked_first + self.time


class Questions:
    """
    The questions that wait for an answer. Only the first one, the *open* one, can be answered by a line.

    :param show: `TextScreen.show`.
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
        """The peer of the first question that is about a call."""
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
        """Show the open question, also if it was shown before."""
        if self._waiting:
            question = self._waiting[0]
            question.asked = self._show(question.text())
            question.followed = None
            if question.asked_first is None:
                question.asked_first = self._seconds()

    def message_shown(self, number: int) -> None:
        """Note that a message was shown, by the `show` with this number."""
        if self._waiting and self._waiting[0].followed is None:
            self._waiting[0].followed = number

    def drop_answered(self) -> None:
        """Drop the questions that need no answer any more, and those that are too late for a typed one."""
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
        """Show a text of one or more lines. Returns the number of this call, which grows with each."""

    def replace(self, text: str, key: object) -> int:
        """As `show`, but replace the last line if it has the same key and the screen can do that."""

    def written(self) -> Deferred[None]:
        """Fires when all that was shown has left this process."""

    def give_back(self, text: str) -> None:
        """Put a text that was typed and had no effect back into the input line, where that is possible."""

    def clear(self) -> None:
        """Clear the screen, where that is possible."""

    def changed(self) -> None:
        """Update the status line, if there is one: something in it may have changed."""

    def selected(self, before: PeerID | None, peer: PeerID, chosen: bool) -> None:
        """
        Note that lines go to `peer` from now on.

        :param before: the peer to which they went until now, which may be the same.
        :param chosen: whether the user has asked for it.
        """


class CommandLine:
    """
    Handles typed lines. They go to the peer of `--peer`, until another one is selected.

    :ivar current: the peer to which lines go; None: there is none yet.
    :ivar chosen: whether the user has chosen it.
    :ivar connected_peers: the peers that were connected in this process, as keys, the latest last.
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

        :param seen: the number of the last `TextScreen.show` that was on the screen when the first character
            of the line was typed; None: it is not known.
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
        """Show why a message can't be sent. If nobody watches, the process ends."""
        self._screen.show(self._style.bad(str(error)))
        if self._view.watched:
            self._screen.give_back(text)
        else:
            self._exit.finish(1, f"{name_lines([text])} not sent: {error}")

    def select(self, peer: PeerID, chosen: bool = True) -> None:
        """
        Send lines to `peer` from now on.

        :param chosen: whether the user has asked for it.
        """
        before, self.current, self.chosen = self.current, peer, chosen
        self._screen.changed()
        self._screen.selected(before, peer, chosen)

    def add_connected(self, peer: PeerID) -> None:
        """Note that a peer was connected: commands find it by the name that it gave itself, too."""
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
        """Handle a line as an answer to the open question. Returns whether it was one."""
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
        """
        Note which `show` has put a message on the screen. When the user has seen that, the message and those
        before it are marked as read.

        :param shown: the number of the `show`.
        """
        self.questions.message_shown(shown)
        unseen = self._unseen.setdefault(message.peer, [])
        unseen.append((shown, message.number))
        if len(unseen) > MAX_UNSEEN:
            # Nobody has typed for long. Half of the numbers are enough: who sees a later message has seen
            # those before it.
            del unseen[1:-1:2]

    def noticed(self, seen: int | None = None) -> None:
        """
        Mark messages as read: the user has pressed a key, and sees the screen.

        :param seen: the number of the last `show` that was on the screen; None: all were.
        """
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
        """Do a command as if it had been typed."""
        self._perform(slash.TypedCommand(name, fields))

    def _perform(self, typed: slash.TypedCommand) -> None:
        if typed.name == "send":
            # It goes through the same queue as other typed lines, so that the order is kept.
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
        """End the process; if something would be lost that the user could wait for, ask before."""
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
        """Show why a command has failed."""
        error = why(failure, self._log)
        if not self._exit.finished:
            self._screen.show(str(error))

"""
Shows the chat's events as text for a person.

The text goes to a `punch.ui.command_line.TextScreen`: that of `punch.ui.stdio` for pipes and plain terminals,
or that of `punch.ui.terminal.front_end` for terminals with a line editor. `punch.ui.command_line` is the
other direction: it decides what a typed line means.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred

from punch.apps.chat import ChatMessage, MessageState
from punch.apps.chat.events import (
    ChatBroken,
    CodeUsed,
    CodeVoid,
    Event,
    MessageAdded,
    MessageChanged,
    PageServed,
    PeerUnreachable,
    StoreFailed,
)
from punch.apps.files.events import Stage, Transfer, TransferChanged, TransferProgress
from punch.identity import PeerID
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    CallUnanswerable,
    Checking,
    Connected,
    Disconnected,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    PathSlowed,
    Ready,
    Registered,
    Unregistered,
)
from punch.sanitize import printable
from punch.ui.command import CommandRefused
from punch.ui.command_line import CommandLine, Question, TextScreen
from punch.ui.front_end import ProcessView
from punch.ui.json.events import contact_fields, transfer_fields
from punch.ui.terminal.escapes import Style
from punch.ui.text import answers
from punch.ui.text.causes import event_sentence
from punch.ui.text.chat import broken_sentence, chat_error_sentence
from punch.ui.text.codes import ended_sentence
from punch.ui.text.sentences import count, describe, shortened
from punch.ui.text.transfers import offer_lines, offered
from punch.ui.transfer_progress import LINE_INTERVAL

#: Reasons of a failed call that tell no more than that the peer is not there.
_NOT_THERE = ("not-registered", "gone", "timeout")

#: For how many seconds y or n answers an offer of files: as long as a call rings. The offer itself stays
#: open for longer, and can be answered by a command.
OFFER_TIME = 60.0

Progress = Calling | AlreadyConnected | Introduced | Checking | PathChanged | PathLost | PathSlowed


class TextRenderer:
    """
    Shows events as text.

    :param line: asks the user the questions that events lead to.
    :param compact: whether to write as for a terminal with a line editor: each line with its time, the
        stages of a call in one line that is replaced, and only the beginning of an ID where the user does
        not have to compare the whole of it.
    :ivar trouble: why there is no connection to the rendezvous, as it was shown last; None: it was not.
    """

    def __init__(
        self, view: ProcessView, line: CommandLine, screen: TextScreen, style: Style, *, compact: bool
    ) -> None:
        self.trouble: str | None = None
        self._view = view
        self._line = line
        self._screen = screen
        self._style = style
        self._compact = compact
        self._chat = view.chat
        self._exit = view.exit
        self._settings = view.settings
        #: The peers that were shown to be away, and for each whether it was said to be called again.
        self._shown_away: dict[PeerID, bool] = {}
        #: A call that waits until this peer is registered; it is shown then.
        self._delayed: Calling | None = None
        #: The names of the peers that this side calls, as they were shown, until the call succeeds or fails.
        self._called: dict[PeerID, str] = {}
        #: When the progress of a transfer was last shown, by the number of the transfer.
        self._progress_shown: dict[int, float] = {}

    def show_event(self, event: Event) -> Deferred[None] | None:
        """
        Show an event.

        :return: fires when a message, or that one was delivered, has left this process; None for the others.
        """
        if isinstance(event, MessageAdded):
            return self._show_message(event.message)
        if isinstance(event, MessageChanged):
            return self._show_state(event.message)
        if isinstance(event, Ready):
            name = self._style.dim(f"({printable(self._settings.name)})")
            self._screen.show(f"{describe(event)} {name}")
            self._view.call_target()
        elif isinstance(event, Registered):
            self._show_registered(event)
        elif isinstance(event, Unregistered):
            # The same failure is shown only once, however often it is tried again.
            trouble = event_sentence(event)
            if trouble != self.trouble and event.retry_in is not None:
                self.trouble = trouble
                self._show_timed(self._style.bad(describe(event)))
        elif isinstance(event, IncomingCall):
            self._show_incoming(event)
        elif isinstance(event, Connected):
            self._show_connected(event)
        elif isinstance(event, Disconnected):
            self._show_disconnected(event)
        elif isinstance(event, CallFailed):
            self._show_failed(event)
        elif isinstance(event, Progress):
            if isinstance(event, Calling) and not self._chat.was_registered:
                self._delayed = event
            else:
                self._show_progress(event)
        else:
            self._show_other(event)
        return None

    def show_dim(self, text: str) -> None:
        """Show a line of less importance."""
        self._screen.show(self._style.dim(text))

    def _show_timed(self, text: str) -> None:
        """Show a line about something that happens now."""
        self._screen.show(self._timed(text))

    def _show_dim_timed(self, text: str) -> None:
        """Show a line of less importance about something that happens now."""
        self._show_timed(self._style.dim(text))

    def show_error(self, text: str) -> None:
        """Show what went wrong."""
        self._screen.show(self._style.bad(text))

    def show_held(self, error: CommandRefused) -> None:
        """Show that messages can't be stored now, and that storing them is tried again."""
        self.show_error(f"What you typed is not sent yet, and is tried again: {error}")

    def _timed(self, text: str) -> str:
        """Return a line about something that happens now: with the time, if the text is compact."""
        now = self._view.wall()
        return f"{text} {self._style.dim(f'({answers.clock(now, now)})')}" if self._compact else text

    # -- the rendezvous --

    def _show_registered(self, event: Registered) -> None:
        self.trouble = None
        self._show_dim_timed(describe(event))
        if self._delayed is not None:
            self._show_progress(self._delayed)
            self._delayed = None
        if self._settings.target is None and not self._chat.links:
            how = ", or /call theirs; /help shows more" if self._view.watched else ""
            self.show_dim(f"Waiting for a call: give your ID to the other side{how}")

    # -- calls and links --

    def _show_progress(self, event: Progress) -> None:
        """Show how far a call is, or how the path of a link has changed."""
        peer, name = event.peer, self._view.name_of(event.peer)
        if not self._compact or not isinstance(event, (Calling, Introduced, Checking)):
            self._show_dim_timed(describe(event, name))
            return
        if isinstance(event, Calling):
            has_id = name == peer.short or name.endswith(f"{peer.short})")
            self._called[peer] = name if has_id else f"{name} ({peer.short})"
            text = f"Calling {self._called[peer]}"
        else:
            called = f"Calling {self._called[peer]}" if peer in self._called else name
            how = "introduced" if isinstance(event, Introduced) else f"checking {count(event.pairs, 'pair')}"
            text = f"{called}: {how}"
        self._screen.replace(self._style.dim(text), ("call", peer))

    def _show_incoming(self, event: IncomingCall) -> None:
        peer = event.peer
        name = self._style.bold(self._view.name_of(peer))
        # The question that follows contains the whole ID.
        short = peer.short if self._compact else None
        self._show_timed(describe(event, name, short))
        if event.decided or peer not in self._chat.questions or not self._view.watched:
            return
        self._line.ask(
            Question(
                lambda: f"Let {self._style.bold(self._view.name_of(peer))} ({peer}) connect? [y/n]",
                partial(self._chat.accept, peer),
                partial(self._chat.reject, peer),
                peer,
                waits=lambda: peer in self._chat.questions,
            )
        )

    def _show_connected(self, event: Connected) -> None:
        peer, name = event.peer, self._view.name_of(event.peer)
        self._shown_away.pop(peer, None)
        self._called.pop(peer, None)
        self._line.add_connected(peer)
        text = describe(event, name, peer.short if self._compact else None)
        self._screen.replace(self._timed(self._style.good(text)), ("call", peer))
        if not self._view.watched:
            return
        current = self._line.current
        if current is None or not (self._line.chosen or current in self._chat.links):
            self._line.select(peer, chosen=False)
            self.show_dim(
                "Type a line and press Enter to send it, /quit to end"
                if current is None
                else f"What you type goes to {name} now"
            )
        elif current != peer:
            self.show_dim(
                f"What you type still goes to {self._view.name_of(current)}: /to {name} changes that"
            )

    def _show_disconnected(self, event: Disconnected) -> None:
        if self._exit.ending:
            return
        waiting = self._chat.conversations.undelivered(event.peer)
        text = describe(event)
        if self._view.watched or event.peer != self._settings.target:
            self._show_timed(text)
            if waiting:
                self._screen.show(
                    f"{count(waiting, 'message')} not delivered: sent again when they are back."
                )
        elif str(event.reason) != "bye":
            self._exit.finish(1, self._with_undelivered(text))
        elif waiting or len(self._view.sending):
            self._exit.finish(1, f"{text} ({count(waiting, 'message')} not delivered{self._keeping()})")
        elif not self._exit.input_ended:
            self._exit.finish(1, f"{text} (the input had not ended)")
        else:
            self._screen.show(text)
            self._exit.finish(0)

    def _show_failed(self, event: CallFailed) -> None:
        if event.peer is not None:
            self._called.pop(event.peer, None)
        if event.peer is None or event.peer in self._chat.links:
            return
        if self._view.watched:
            self._show_timed(self._style.bad(describe(event)))
            self._line.questions.ask_again()
        elif event.peer == self._settings.target:
            self._exit.finish(1, self._with_undelivered(describe(event)))
        else:
            self.show_error(describe(event))

    def _with_undelivered(self, text: str) -> str:
        target = self._settings.target
        waiting = 0 if target is None else self._chat.conversations.undelivered(target)
        return f"{text} {count(waiting, 'message')} not delivered{self._keeping()}." if waiting else text

    def _keeping(self) -> str:
        return ": kept here, and sent when both are there next" if self._settings.history else ""

    # -- messages --

    def _show_message(self, message: ChatMessage) -> Deferred[None] | None:
        if message.outgoing:
            return None
        shown = self._screen.show(self.message_line(message, self._view.name_of(message.peer)))
        if self._view.watched:
            self._line.shown_with(shown, message)
        return self._screen.written()

    def message_line(self, message: ChatMessage, who: str) -> str:
        """Return a message as text: sanitized, after the name `who`; lines after the first are indented."""
        text = printable(message.text, newline="\n    ")
        name = f"{who}:"
        if not self._compact:
            return f"{self._style.bold(name)} {text}"
        when = self._style.dim(answers.clock(message.time, self._view.wall()))
        shown = self._style.bold(name) if message.outgoing else self._style.person(name, message.peer.key)
        return f"{when} {shown} {text}"

    def _show_state(self, message: ChatMessage) -> Deferred[None] | None:
        if not message.outgoing or message.state is not MessageState.DELIVERED:
            return None
        self._screen.show(f"{self._style.good('✓ delivered')}: {shortened(message.text)}")
        return self._screen.written()

    # -- what else the chat reports --

    def _show_transfer_progress(self, transfer: Transfer) -> None:
        """Show how far a transfer is, at most once in `LINE_INTERVAL` seconds."""
        now = self._view.clock.seconds()
        if now - self._progress_shown.get(transfer.number, now) >= LINE_INTERVAL:
            self._progress_shown[transfer.number] = now
            self._show_transfer_line(transfer)

    def _show_transfer_line(self, transfer: Transfer) -> None:
        who = self._view.name_of(transfer.peer)
        self._show_dim_timed(answers.transfer_line(transfer_fields(transfer, who), who))

    def _show_transfer(self, transfer: Transfer) -> None:
        number = transfer.number
        if transfer.stage is Stage.RUNNING:
            self._progress_shown[number] = self._view.clock.seconds()
        else:
            self._progress_shown.pop(number, None)
        if transfer.stage is Stage.OFFERED and not transfer.outgoing:
            first, *more = offer_lines(transfer.offer, self._view.name_of(transfer.peer))
            self._screen.show("\n".join([self._timed(first), *more]))
            self._ask_about(transfer)
        elif transfer.stage is not Stage.OFFERED:
            self._line.drop_answered()
            self._show_transfer_line(transfer)
            if transfer.stage is Stage.DONE and transfer.offer.text is not None:
                self._screen.show(printable(transfer.offer.text, "\n"))

    def _ask_about(self, transfer: Transfer) -> None:
        """Ask the user whether to receive what a peer offers; without a user, tell how to answer."""
        number = transfer.number
        how = f"Type /accept-files {number} or /refuse-files {number}"
        if not self._view.watched:
            self._screen.show(how)
            return
        what = offered(transfer.offer)
        self._line.ask(
            Question(
                lambda: f"Receive {what} from {self._style.bold(self._view.name_of(transfer.peer))}? [y/n]",
                partial(self._line.perform, "accept-files", transfer=number),
                partial(self._line.perform, "refuse-files", transfer=number),
                waits=lambda: transfer.stage is Stage.OFFERED,
                time=OFFER_TIME,
                later=lambda: self._style.dim(
                    f"{how} to answer {self._view.name_of(transfer.peer)} about {what}"
                ),
            )
        )

    def _show_other(self, event: Event) -> None:
        if isinstance(event, CallUnanswerable):
            text = f"Refused the call of {self._view.name_of(event.peer)}, as nobody is here to ask: "
            self._show_timed(f"{text}start with --accept known or --accept anyone to let calls in.")
        elif isinstance(event, PeerUnreachable):
            again = event.retry_in is not None
            if self._shown_away.get(event.peer) is not again:
                self._shown_away[event.peer] = again
                name = self._view.name_of(event.peer)
                how = ", and they are called again." if again else " until one of you calls."
                why = "" if event.failure.reason in _NOT_THERE else f" {describe(event.failure)}"
                self._show_dim_timed(f"{name} is not there: what you type waits here{how}{why}")
        elif isinstance(event, StoreFailed):
            writable = "The history can be written again."
            error = event.error
            self._show_timed(writable if error is None else self._style.bad(chat_error_sentence(error)))
        elif isinstance(event, ChatBroken):
            self._show_timed(self._style.bad(printable(broken_sentence(event))))
        elif isinstance(event, TransferChanged):
            self._show_transfer(event.transfer)
        elif isinstance(event, TransferProgress):
            self._show_transfer_progress(event.transfer)
        elif isinstance(event, CodeUsed):
            problem = "" if event.problem is None else chat_error_sentence(event.problem)
            self._show_timed(answers.met_line({**contact_fields(event.contact), "problem": problem}))
        elif isinstance(event, CodeVoid):
            self._show_timed(self._style.bad(printable(ended_sentence(event.why))))
        elif isinstance(event, PageServed):
            self._screen.show(f"Open this in a browser on this machine, it works once: {event.url}")

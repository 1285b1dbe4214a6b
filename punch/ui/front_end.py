"""
What every front end that owns the process's stdin and stdout does: know when the process is done.

All that concerns peers and messages is done by the `Chat`; a front end is a view of it. A peer that was
started to call (`--peer`) ends when its input has ended and all it said was delivered, or with a sentence and
status 1 when that can't happen. A peer that waits goes on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from punch.apps.chat import (
    Chat,
    ChatError,
    ChatMessage,
    MessageState,
)
from punch.apps.chat.events import (
    CallUnanswerable,
    Event,
    HistoryErased,
    MessageAdded,
    MessageChanged,
)
from punch.identity import PeerID
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
    Reason,
    Registered,
    Unregistered,
)
from punch.ui.commands import CommandContext
from punch.ui.send_queue import Line, SendQueue
from punch.ui.standard_streams import InputKind
from punch.ui.terminal.escapes import Notice
from punch.ui.text.sentences import (
    count,
    name_lines,
    printable,
    shown_name,
)

#: A peer that nobody watches gives up if it is not registered this many seconds after its start.
PATIENCE = 10.0

#: How long a peer whose input has ended waits for a lost path, in seconds.
DARK = 60.0

#: How long what the store refuses is tried again when nothing more can be read, in seconds.
HOLD = 30.0

#: stdin is not read while this many characters of its text wait for their marks.
MAX_PENDING = 256 * 1024


class Output(Protocol):
    """Where a front end writes, and what it reads from: `punch.ui.standard_streams.StandardStreams`."""

    def write(self, data: bytes) -> None:
        """Put `data` on stdout."""

    def written(self) -> Deferred[None]:
        """Fires when all that was written has left this process."""

    def pause(self) -> None:
        """Read stdin no more for now."""

    def resume(self) -> None:
        """Read stdin on."""


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
    """How a terminal that nobody looks at tells that something has come."""


@dataclass(frozen=True)
class FrontEndContext:
    """What a front end runs in."""

    clock: IReactorTime
    finish: Callable[[int, str | None], None]
    """Ends the process with a status and, if not None, a sentence on stderr."""
    wall: Callable[[], float] = time.time
    """Seconds since the epoch."""


class FrontEnd:
    """
    The part that terminal, pipe and JSON share: a `punch.apps.chat.events.View`. Subclasses override the
    `on_…` methods and call the inherited ones.
    """

    _log = Logger()

    #: Whether a person looks at it now, who can wait and decide.
    watched = False

    def __init__(self, settings: Settings, surroundings: FrontEndContext) -> None:
        self.settings = settings
        self.target = settings.target
        self.input_kind = InputKind.NOTHING
        self.input_ended = False
        self.finished = False
        self.leaving: int | None = None
        self._early: list[tuple[MessageAdded | MessageChanged, Deferred[None]]] | None = []
        self.registered = False
        self.ever_registered = False
        self.last_trouble: Unregistered | None = None
        self._finish = surroundings.finish
        self._clock = surroundings.clock
        self._wall = surroundings.wall
        self._patience: IDelayedCall | None = None
        self._dark: dict[PeerID, IDelayedCall] = {}
        self._doomed: str | None = None
        self._pending: dict[int, tuple[PeerID, int]] = {}
        self._paused = False

    # -- what it is connected to --

    def attach(self, chat: Chat, output: Output, input_kind: InputKind, terminal: bool) -> None:
        """Before anything happens: the chat that it shows, and where it reads and writes."""
        self.chat = chat
        self.context = CommandContext(chat, self.leave)
        self.output = output
        self.input_kind = input_kind
        self._queue = SendQueue(chat, self._clock, self._moved, self.on_held)
        chat.views.attach(self)
        self.balance()

    @property
    def can_answer(self) -> bool:
        """Whether someone can answer a question here now."""
        return self.input_kind is not InputKind.NOTHING and not self.input_ended

    def input_over(self) -> None:
        """stdin has ended."""
        self.input_ended = True
        if not self.chat.views.can_answer:
            # Nobody can answer any more.
            for peer in list(self.chat.questions):
                self.chat.views.tell(CallUnanswerable(peer))
                self.chat.reject(peer)
        self.check_done()

    def output_lost(self) -> None:
        """Nobody reads stdout any more: there is no point in going on."""
        waiting = len(self._pending) + len(self._queue)
        if waiting:
            self.finish(1, f"The output was closed before {count(waiting, 'message')} could be delivered.")
        else:
            self.finish(0)

    # -- what happens --

    def handle(self, event: Event) -> Deferred[None] | None:
        """One event of the chat or its node."""
        if self.finished and not isinstance(event, Disconnected):
            return Deferred() if isinstance(event, (MessageAdded, MessageChanged)) else None
        if self._early is not None and (
            (isinstance(event, MessageAdded) and not event.message.outgoing)
            or (isinstance(event, MessageChanged) and event.again)
        ):
            # It is from an earlier process; first things first.
            later: Deferred[None] = Deferred()
            self._early.append((event, later))
            return later
        had = self._handle(event)
        if isinstance(event, Ready):
            self._tell_early()
        self.balance()
        self.check_done()
        return had

    def _handle(self, event: Event) -> Deferred[None] | None:
        if isinstance(event, MessageAdded):
            message = event.message
            if message.outgoing:
                self._pending[message.number] = message.peer, len(message.text)
            return self.on_message(message, event.again)
        if isinstance(event, MessageChanged):
            return self._changed(event)
        if isinstance(event, HistoryErased):
            self._erased(event)
            self.on_other(event)
        elif isinstance(event, Ready):
            if not self.watched:
                self._patience = self._clock.callLater(PATIENCE, self._out_of_patience)
            self.on_ready(event)
        elif isinstance(event, Registered):
            self.registered = self.ever_registered = True
            self._be_patient_no_more()
            self.on_registered(event)
        elif isinstance(event, Unregistered):
            self.registered = False
            self.on_unregistered(event)
        elif isinstance(event, IncomingCall):
            self.on_incoming(event)
        elif isinstance(event, Connected):
            self.on_connected(event)
        elif isinstance(event, PathLost):
            self._dark[event.peer] = self._clock.callLater(DARK, self._still_dark, event.peer)
            self.on_stage(event)
        elif isinstance(event, Disconnected):
            self._disconnected(event)
        elif isinstance(event, CallFailed):
            self._failed(event)
        elif isinstance(event, _STAGES):
            if isinstance(event, PathChanged):
                self._path_is_back(event.peer)
            self.on_stage(event)
        else:
            self.on_other(event)
        return None

    def _tell_early(self) -> None:
        early, self._early = self._early or [], None
        for event, later in early:
            had = self._handle(event)
            if had is None:
                later.callback(None)
            else:
                had.chainDeferred(later)

    def on_ready(self, event: Ready) -> None:
        """The node runs: call whom the command line names."""
        if self.target is not None:
            try:
                self.chat.call(self.target)
            except ChatError as error:
                self.handle(CallFailed(self.target, error.code, str(error)))

    def on_registered(self, event: Registered) -> None:
        """The rendezvous knows this peer."""

    def on_unregistered(self, event: Unregistered) -> None:
        """The rendezvous was lost or not reached."""
        self.last_trouble = event

    def on_stage(self, event: Stage) -> None:
        """A call or a link went one step on."""

    def on_incoming(self, event: IncomingCall) -> None:
        """Someone calls."""

    def on_connected(self, event: Connected) -> None:
        """A link is up."""

    def on_disconnected(self, event: Disconnected) -> None:
        """A link is over."""

    def on_failed(self, event: CallFailed) -> None:
        """A call came to nothing."""

    def on_message(self, message: ChatMessage, again: bool) -> Deferred[None] | None:
        """A message of either side is in the history; returned is when this view has it, None: at once."""
        return None

    def on_changed(self, event: MessageChanged) -> Deferred[None] | None:
        """A message has another state; returned is when this view has it, None: at once."""
        return None

    def on_other(self, event: Event) -> None:
        """Whatever else the chat tells."""

    def web_opened(self, url: str) -> None:
        """A browser can show the chat, once, at this address."""

    # -- doing things --

    def send(
        self, peer: PeerID, text: str, refused: Callable[[ChatError], None] = lambda error: None
    ) -> None:
        """
        Say something, in the order of the calls; it counts as pending until it has its mark. While the store
        refuses it, it is held and tried again.

        :param refused: is called if it can never be said.
        """
        self._queue.add(Line(peer, text, refused))

    def on_held(self, error: ChatError) -> None:
        """What was said can't be stored for now."""

    def _moved(self) -> None:
        self.balance()
        self.check_done()
        trouble = self._queue.trouble
        if trouble is not None and (self.input_ended or self._paused):
            held = self._clock.seconds() - self._queue.held_since
            if held >= HOLD:
                self.finish(1)

    def unsent(self) -> str | None:
        """A sentence that names what was typed and is not on the disk, if there is something."""
        if not len(self._queue):
            return None
        why = self._queue.trouble or "this process ended before that."
        return f"{name_lines(self._queue.texts)} not stored, and not sent: {why}"

    def name_of(self, peer: PeerID) -> str:
        """What to call `peer` in front of a person, harmless."""
        contact = self.chat.contacts.get(peer)
        return shown_name(contact.name or contact.claimed, peer, contact.alike)

    def newest(self) -> PeerID | None:
        """The peer whose link is the newest."""
        return next(reversed(self.chat.links), None)

    def balance(self) -> None:
        """Read stdin only when the node runs, and while what it said is delivered."""
        paused = self._early is not None or self.pending_bytes() >= MAX_PENDING
        if paused != self._paused:
            self._paused = paused
            if paused:
                self.output.pause()
            else:
                self.output.resume()

    def pending_bytes(self) -> int:
        """How much of the input waits for something, in characters."""
        return self._queue.size + sum(size for _, size in self._pending.values())

    def undelivered(self, peer: PeerID) -> int:
        """How many messages to `peer` have no mark yet."""
        return self.chat.conversations.undelivered(peer)

    def bytes_for(self, peers: Container[PeerID]) -> int:
        """How much of it waits for some of the peers."""
        return sum(size for peer, size in self._pending.values() if peer in peers)

    def pending_peers(self) -> set[PeerID]:
        """For whom messages wait that were sent since the process started."""
        return {peer for peer, _ in self._pending.values()}

    @property
    def storing(self) -> bool:
        """Whether messages of ours are not on the disk yet."""
        return len(self._queue) > 0

    @property
    def pending(self) -> int:
        """How many messages that were sent since the process started have no mark yet."""
        return len(self._pending) + len(self._queue)

    def leave(self, status: int = 0) -> None:
        """End the process, but let both sides finish first what is under way: a moment."""
        if self.finished or self.leaving is not None:
            return
        self.leaving = status
        self.chat.leave().addBoth(lambda _: self.finish(status))

    def finish(self, status: int, sentence: str | None = None) -> None:
        """End the process now. The first call counts. What is not stored makes it a failure, and is named."""
        if not self.finished:
            unsent = self.unsent()
            if unsent is not None:
                status, sentence = status or 1, f"{sentence} {unsent}" if sentence else unsent
            self.stopped()
            self._finish(status, sentence)

    def check_done(self) -> None:
        """End if nothing is left to do."""

    def stopped(self) -> None:
        """The service stops: nothing may be left on the clock."""
        self.finished = True
        self._queue.stop()
        self._be_patient_no_more()
        for peer in list(self._dark):
            self._path_is_back(peer)

    # -- inside --

    def _changed(self, event: MessageChanged) -> Deferred[None] | None:
        message = event.message
        if message.outgoing and message.state not in _UNDELIVERED:
            self._pending.pop(message.number, None)
        return self.on_changed(event)

    def _erased(self, event: HistoryErased) -> None:
        if event.before is None:
            kept = {n: sent for n, sent in self._pending.items() if event.peer not in (None, sent[0])}
            self._pending = kept

    def _path_is_back(self, peer: PeerID) -> None:
        timer = self._dark.pop(peer, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _still_dark(self, peer: PeerID) -> None:
        """A person, or a service, can wait for days; whoever only wanted to deliver its input is told."""
        if self.input_ended and self.input_kind is not InputKind.NOTHING and not self.watched:
            self.chat.hangup(peer)
        else:
            self._dark[peer] = self._clock.callLater(DARK, self._still_dark, peer)

    def _disconnected(self, event: Disconnected) -> None:
        self._path_is_back(event.peer)
        self.on_disconnected(event)
        if self._doomed is not None:
            self._cannot_go_on(self._doomed)

    def _failed(self, event: CallFailed) -> None:
        self.on_failed(event)
        if event.peer is None:
            self._cannot_go_on(event.text)

    def _cannot_go_on(self, text: str) -> None:
        # Live links don't need the rendezvous: whoever talks may finish.
        self._doomed = text
        if not self.chat.links:
            self.finish(1, printable(text))

    def _out_of_patience(self) -> None:
        self._patience = None
        if self.chat.new_page is not None:
            return  # somebody may look at it in a browser
        trouble = self.last_trouble
        if trouble is not None:
            self.handle(CallFailed(None, trouble.reason, trouble.text))
        else:
            self.handle(CallFailed(None, Reason.RENDEZVOUS_UNREACHABLE.value, _NO_ANSWER))

    def _be_patient_no_more(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None


_NO_ANSWER = (
    f"The rendezvous has not answered within {PATIENCE:.0f} seconds; check its address, and that this "
    "machine is online."
)
_UNDELIVERED = (MessageState.WAITING, MessageState.SENT)

Stage = Calling | AlreadyConnected | Introduced | Checking | PathChanged | PathLost
_STAGES = (Calling, AlreadyConnected, Introduced, Checking, PathChanged, PathLost)

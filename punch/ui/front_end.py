"""
What every front end of a peer does: keep the chats, follow the links, know when the process is done.

A peer that was started to call (`--peer`) ends when its input has ended and all it said was delivered, or
with a sentence and status 1 when that can't happen. A peer that waits goes on waiting.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime

from punch.apps.chat import STREAM_NAME, Chats
from punch.identity import PeerID
from punch.link.events import Role
from punch.peer.events import (
    AlreadyConnected,
    Calling,
    Checking,
    Connected,
    Disconnected,
    Event,
    Failed,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    Ready,
    Registered,
    Unregistered,
)
from punch.ui.console import InputKind
from punch.ui.sentences import count, printable, shown_name

if TYPE_CHECKING:
    from punch.link.link import Link

#: A peer that nobody watches gives up if it was never registered, this many seconds after its first failure.
PATIENCE = 10.0

#: How long the other sides may take to agree that all was said, in seconds.
FAREWELL = 1.5

#: How long a link may be up without its chat, once that has ended, in seconds.
CHATLESS = 1.0

#: How long a peer whose input has ended waits for a lost path, in seconds.
DARK = 60.0

#: Names of peers that are remembered, of those not connected.
MAX_NAMES = 256

#: stdin is not read while this many bytes of text wait for their marks.
MAX_PENDING = 256 * 1024


class Output(Protocol):
    """Where a front end writes, and what it reads from: `punch.ui.console.Console`."""

    def write(self, data: bytes) -> None:
        """Put `data` on stdout."""

    def written(self) -> Deferred[None]:
        """Fires when all that was written has left this process."""

    def pause(self) -> None:
        """Read stdin no more for now."""

    def resume(self) -> None:
        """Read stdin on."""


class NodeLike(Protocol):
    """What front ends need of `punch.peer.node.Node`."""

    def call(self, peer: PeerID) -> None:
        """Call `peer`."""

    def accept(self, peer: PeerID) -> None:
        """Say yes to its call."""

    def reject(self, peer: PeerID) -> None:
        """Say no to its call."""

    def hangup(self, peer: PeerID) -> None:
        """End the link or the call."""

    def handle(self, name: str, factory: Callable[[Link], IProtocol]) -> None:
        """Take streams called `name`."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    me: PeerID
    name: str
    target: PeerID | None = None
    """Whom to call at the start (`--peer`)."""


@dataclass(frozen=True)
class Surroundings:
    """What a front end runs in."""

    clock: IReactorTime
    finish: Callable[[int, str | None], None]
    """Ends the process with a status and, if not None, a sentence on stderr."""
    random: Callable[[int], bytes] = os.urandom


class FrontEnd(ABC):
    """
    The part that the terminal and the JSON interface share. Subclasses override the `on_…` methods and call
    the inherited ones.
    """

    #: Whether a person looks at it now, who can wait and decide.
    watched = False

    def __init__(self, settings: Settings, surroundings: Surroundings) -> None:
        self.settings = settings
        self.target = settings.target
        self.links: dict[PeerID, Link] = {}
        self.names: dict[PeerID, str] = {}
        self.calling: set[PeerID] = set()
        self.questions: list[PeerID] = []
        self.input_kind = InputKind.NOTHING
        self.input_ended = False
        self.finished = False
        self.leaving: int | None = None
        self.ever_registered = False
        self.last_trouble: Unregistered | None = None
        self.chats = Chats(
            self.on_message,
            self.on_delivered,
            surroundings.random,
            on_handled=lambda: self.check_done(),
            on_farewell=self._farewell,
            on_ended=self._chat_ended,
        )
        self._finish = surroundings.finish
        self._clock = surroundings.clock
        self._patience: IDelayedCall | None = None
        self._timers: list[IDelayedCall] = []
        self._dark: dict[PeerID, IDelayedCall] = {}
        self._doomed: str | None = None
        self._farewells: set[PeerID] = set()
        self._paused = False

    # -- what it is connected to --

    def attach(self, node: NodeLike, output: Output, input_kind: InputKind, terminal: bool) -> None:
        """Before anything happens: the node it runs, and where it reads and writes."""
        self.node = node
        self.output = output
        self.input_kind = input_kind
        node.handle(STREAM_NAME, self.chats.accept)

    @abstractmethod
    def input_received(self, data: bytes) -> None:
        """Bytes from stdin."""

    def input_over(self) -> None:
        """stdin has ended."""
        self.input_ended = True
        self.check_done()

    def output_lost(self) -> None:
        """Nobody reads stdout any more: there is no point in going on."""
        waiting = self.chats.undelivered()
        if waiting:
            self.finish(1, f"The output was closed before {count(waiting, 'message')} could be delivered.")
        else:
            self.finish(0)

    # -- what happens on the node --

    def handle(self, event: Event) -> None:
        """One event of the node."""
        if self.finished and not isinstance(event, Disconnected):
            return
        name = getattr(event, "name", None)
        peer: PeerID | None = getattr(event, "peer", None)
        if isinstance(name, str) and peer is not None:
            self._learn(peer, name)
        if isinstance(event, Ready):
            self.on_ready(event)
        elif isinstance(event, Registered):
            self.ever_registered = True
            self._be_patient_no_more()
            self.on_registered(event)
        elif isinstance(event, Unregistered):
            self.on_unregistered(event)
        elif isinstance(event, Calling):
            self.calling.add(event.peer)
            self.on_stage(event)
        elif isinstance(event, AlreadyConnected):
            self.calling.discard(event.peer)
            self.on_stage(event)
        elif isinstance(event, IncomingCall):
            self.on_incoming(event)
        elif isinstance(event, (Introduced, Checking)):
            self._drop_question(event.peer)
            self.on_stage(event)
        elif isinstance(event, Connected):
            self._connected(event)
        elif isinstance(event, PathChanged):
            self._path_is_back(event.peer)
            self.on_stage(event)
        elif isinstance(event, PathLost):
            self._dark[event.peer] = self._clock.callLater(DARK, self._still_dark, event.peer)
            self.on_stage(event)
        elif isinstance(event, Disconnected):
            self._disconnected(event)
        elif isinstance(event, Failed):
            self._failed(event)
        self.check_done()

    def on_ready(self, event: Ready) -> None:
        """The node runs: call whom the command line names."""
        if self.target is not None:
            self.place_call(self.target)

    @abstractmethod
    def on_registered(self, event: Registered) -> None:
        """The rendezvous knows this peer."""

    def on_unregistered(self, event: Unregistered) -> None:
        """The rendezvous was lost or not reached. Nobody watching, the first registration must come soon."""
        self.last_trouble = event
        if (
            event.retry_in is not None
            and not self.ever_registered
            and not self.watched
            and self._patience is None
        ):
            self._patience = self._clock.callLater(PATIENCE, self._out_of_patience)

    @abstractmethod
    def on_stage(self, event: Event) -> None:
        """A call or a link went one step on."""

    @abstractmethod
    def on_incoming(self, event: IncomingCall) -> None:
        """Someone calls."""

    @abstractmethod
    def on_connected(self, event: Connected) -> None:
        """A link is up."""

    @abstractmethod
    def on_disconnected(self, event: Disconnected) -> None:
        """A link is over."""

    @abstractmethod
    def on_failed(self, event: Failed) -> None:
        """A call came to nothing."""

    @abstractmethod
    def on_message(self, peer: PeerID, number: int, text: str) -> Deferred[None] | None:
        """A message came; what is returned says when this application has it."""

    def on_delivered(self, peer: PeerID, number: int) -> None:
        """The other side's application has our message."""
        self.balance()
        self.check_done()

    # -- doing things --

    def place_call(self, peer: PeerID) -> None:
        """Call `peer`."""
        self.calling.add(peer)
        self.node.call(peer)

    def name_of(self, peer: PeerID) -> str:
        """What to call `peer` in front of a person."""
        return shown_name(self.names.get(peer, ""), peer)

    def current(self) -> PeerID | None:
        """Whom words go to that name nobody: the peer whose link is the newest."""
        return next(reversed(self.links), None)

    def balance(self) -> None:
        """Read stdin only while what it said is delivered."""
        paused = self.pending_bytes() >= MAX_PENDING
        if paused != self._paused:
            self._paused = paused
            if paused:
                self.output.pause()
            else:
                self.output.resume()

    def pending_bytes(self) -> int:
        """How much of the input waits for something."""
        return self.chats.undelivered_bytes()

    def leave(self, status: int = 0) -> None:
        """End the process, but let both sides finish first what is under way: a moment."""
        if self.finished or self.leaving is not None:
            return
        self.leaving = status
        self._farewells = {peer for peer in self.links if self.chats.streaming(peer)}
        self._timers.append(self._clock.callLater(FAREWELL, self.finish, status))
        for peer in list(self._farewells):
            self.chats.say_bye(peer)
        self._check_farewells()

    def finish(self, status: int, sentence: str | None = None) -> None:
        """End the process now. The first call counts."""
        if not self.finished:
            self.stopped()
            self._finish(status, sentence)

    @abstractmethod
    def check_done(self) -> None:
        """End if nothing is left to do."""

    def stopped(self) -> None:
        """The service stops: nothing may be left on the clock."""
        self.finished = True
        self._be_patient_no_more()
        for peer in list(self._dark):
            self._path_is_back(peer)
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._timers.clear()

    # -- inside --

    def _path_is_back(self, peer: PeerID) -> None:
        timer = self._dark.pop(peer, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _still_dark(self, peer: PeerID) -> None:
        """A person, or a service, can wait for days; whoever only wanted to deliver its input is told."""
        if self.input_ended and self.input_kind is not InputKind.NOTHING and not self.watched:
            self.node.hangup(peer)
        else:
            self._dark[peer] = self._clock.callLater(DARK, self._still_dark, peer)

    def _farewell(self, peer: PeerID) -> None:
        self._farewells.discard(peer)
        self._check_farewells()

    def _check_farewells(self) -> None:
        if self.leaving is not None and not self._farewells:
            self.finish(self.leaving)

    def _chat_ended(self, peer: PeerID, error: str | None) -> None:
        if self.finished or peer not in self.links:
            return
        if error is not None:
            self.node.hangup(peer)
        else:
            # Links take their streams along; one that stays without its chat is of no use here.
            self._timers.append(self._clock.callLater(CHATLESS, self._check_chat, peer, self.links[peer]))

    def _check_chat(self, peer: PeerID, link: Link) -> None:
        if self.links.get(peer) is link and not self.chats.streaming(peer):
            self.node.hangup(peer)

    def _connected(self, event: Connected) -> None:
        self._drop_question(event.peer)
        self.calling.discard(event.peer)
        self.links.pop(event.peer, None)
        self.links[event.peer] = event.link
        self.on_connected(event)
        if event.link.role is Role.CALLER:
            self.chats.open(event.link)

    def _disconnected(self, event: Disconnected) -> None:
        self.links.pop(event.peer, None)
        self._path_is_back(event.peer)
        self.on_disconnected(event)
        self._farewell(event.peer)
        if self._doomed is not None:
            self._cannot_go_on(self._doomed)

    def _failed(self, event: Failed) -> None:
        if event.peer is None:
            self.on_failed(event)
            self._cannot_go_on(event.text)
        else:
            self._drop_question(event.peer)
            self.calling.discard(event.peer)
            self.on_failed(event)

    def _learn(self, peer: PeerID, name: str) -> None:
        self.names[peer] = name
        for old in list(self.names):
            # Strangers who only tried to call must not add up.
            if len(self.names) <= MAX_NAMES:
                return
            if old not in self.links and old not in self.questions and old != peer:
                del self.names[old]

    def _drop_question(self, peer: PeerID) -> None:
        if peer in self.questions:
            self.questions.remove(peer)

    def _cannot_go_on(self, text: str) -> None:
        # Live links don't need the rendezvous: whoever talks may finish.
        self._doomed = text
        if not self.links:
            self.finish(1, printable(text))

    def _out_of_patience(self) -> None:
        self._patience = None
        if self.last_trouble is not None:
            self.handle(Failed(None, self.last_trouble.reason, self.last_trouble.text))

    def _be_patient_no_more(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None

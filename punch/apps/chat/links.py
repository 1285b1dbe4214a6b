"""
The calls and links below the chat: those that the node has, and whom to call again because messages wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from punch.apps.chat.events import PeerUnreachable, Views
from punch.apps.chat.redial import RedialSchedule
from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.net.driver import Driver
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    CallState,
    Connected,
    Disconnected,
    IncomingCall,
    PeerReturned,
    Registered,
    Unregistered,
)
from punch.node.events import Event as NodeEvent
from punch.node.interfaces import INode
from punch.wire.control import ErrorCode

if TYPE_CHECKING:
    from punch.link.link import Link

T = TypeVar("T")

MAX_STRANGERS = 256
"""
The number of peers without a link and without waiting messages that are remembered: any number of strangers
may call.
"""


class ChatLinks:
    """
    The calls and links of the node, and which peers the user and the chat itself want to call.

    The node is asked for calls and links each time: the chat delays events, so they tell of changes later.

    :param chance: returns a random number from 0 to 1.
    :param waits: returns whether messages wait for a peer, who is not blocked.
    :ivar calling: the peers that this side's user called, until the call has succeeded or failed.
    :ivar unreachable: the peers that no call has reached since their last link ended, or at all.
    :ivar names: what peers call themselves, as far as they were met in this process.
    """

    def __init__(
        self,
        views: Views,
        node: INode,
        clock: IReactorTime,
        chance: Callable[[], float],
        waits: Callable[[PeerID], bool],
    ) -> None:
        self.calling: set[PeerID] = set()
        self.unreachable: dict[PeerID, None] = {}
        self.names: dict[PeerID, str] = {}
        self._views = views
        self._node = node
        self._waits = waits
        self._redial: RedialSchedule[PeerID] = RedialSchedule(chance)
        self._automatic: set[PeerID] = set()
        self._hung_up: set[PeerID] = set()
        self._stopped = False
        self._driver = Driver(clock, clock.seconds, lambda now: False, lambda: (self,))

    @property
    def links(self) -> dict[PeerID, Link]:
        """The links that are up, the newest last."""
        return {link.remote: link for link in self._node.links()}

    @property
    def statuses(self) -> dict[PeerID, LinkStatus]:
        """The states of all links, the newest last."""
        return {link.remote: status for link in self._node.links() if (status := link.status) is not None}

    def status(self, peer: PeerID) -> LinkStatus | None:
        """The state of the link to `peer`, if there is one."""
        link = self._node.link(peer)
        return None if link is None else link.status

    def stage(self, peer: PeerID) -> CallState | None:
        """The state of the call that is under way with `peer`, if there is one."""
        return self._node.calls().get(peer)

    @property
    def rendezvous(self) -> str | None:
        """Where this side is registered; None: nowhere now."""
        registration = self._node.registration()
        return registration.rendezvous if isinstance(registration, Registered) else None

    @property
    def questions(self) -> list[PeerID]:
        """The peers whose calls wait for an answer here, oldest first."""
        return [peer for peer, state in self._node.calls().items() if state is CallState.RINGING]

    @property
    def everybody(self) -> set[PeerID]:
        """The peers with whom there is a link or a call."""
        return {*self.links, *self._node.calls()}

    def call(self, peer: PeerID) -> None:
        """The user calls `peer`."""
        self.calling.add(peer)
        if peer in self._automatic:
            # It is being called already: now it is the user who waits for it.
            self._automatic.discard(peer)
            self._views.tell(Calling(peer))
        self._hung_up.discard(peer)
        self._redial.called(peer)
        self._connect(peer)
        self._driver.run()

    def expect_automatic(self, peer: PeerID) -> None:
        """
        A stream to `peer` is about to be opened. If it is called for that, the call is not the user's: views
        are told only of the link, or of messages that wait.
        """
        if not self._is_busy(peer):
            self._automatic.add(peer)

    def hung_up(self, peer: PeerID) -> None:
        """The user ends the link or call with `peer`: it is not called again unless the user asks for it."""
        if self._is_busy(peer):
            self._hung_up.add(peer)

    def stop(self) -> None:
        """Call nobody any more."""
        self._stopped = True
        self._driver.stop()

    # -- messages that wait --

    @property
    def await_rendezvous(self) -> bool:
        """Whether messages wait for a call, and that for the rendezvous."""
        return self.rendezvous is None and self._redial.has_calls

    def waiting(self, peer: PeerID) -> None:
        """A message waits for `peer`."""
        if peer in self._hung_up and self._node.link(peer) is None:
            self._hung_up.discard(peer)
            self._redial.done(peer)
        self._redial.want(peer, self._driver.now(), self._is_busy(peer))
        self._look()

    def delivered(self, peer: PeerID) -> None:
        """A message got through."""
        if self._waits(peer):
            self._redial.progress(peer, self._driver.now())
        else:
            self._redial.done(peer)
        self._look()

    def _is_busy(self, peer: PeerID) -> bool:
        return self._node.link(peer) is not None or peer in self._node.calls()

    def get_timer(self) -> float | None:
        """Return when the next peer is to be called by itself, or None."""
        return self._redial.next()

    def handle_timer(self, now: float) -> None:
        """Call the peer whose turn it is, if there is one."""
        peer = None if self._stopped else self._redial.due(now)
        if peer is not None:
            self._call_again(peer)

    def _look(self) -> None:
        self.handle_timer(self._driver.now())
        self._driver.run()

    def _call_again(self, peer: PeerID) -> None:
        if self._is_busy(peer):
            self._redial.called(peer)
        elif not self._waits(peer):
            self._redial.done(peer)
        else:
            self._automatic.add(peer)
            self._connect(peer)

    def _connect(self, peer: PeerID) -> None:
        # Events tell how the call goes on.
        self._node.connect(peer).addErrback(_ignore_failed_call)

    # -- what happens on the node --

    def handle(self, event: NodeEvent) -> bool:
        """
        Update the state for an event of the node.

        :return: whether the views are to be told.
        """
        telling = self._note(event)
        # Never at once: the views are to know of this event first.
        self._driver.run()
        return telling

    def _note(self, event: NodeEvent) -> bool:
        name = getattr(event, "name", None)
        peer: PeerID | None = getattr(event, "peer", None)
        if isinstance(name, str) and peer is not None:
            self.learn(peer, name)
        if isinstance(event, Registered):
            self._redial.registered(self._driver.now())
        elif isinstance(event, Unregistered):
            self._redial.unregistered()
        elif isinstance(event, Calling):
            if event.peer in self._automatic:
                return False
            self.calling.add(event.peer)
            self._redial.called(event.peer)
        elif isinstance(event, AlreadyConnected):
            automatic = event.peer in self._automatic
            self._over(event.peer)
            self._redial.called(event.peer)
            return not automatic
        elif isinstance(event, PeerReturned):
            self._redial.returned(event.peer, self._driver.now())
            return False
        elif isinstance(event, IncomingCall):
            self._hung_up.discard(event.peer)
            self._redial.called(event.peer)
        elif isinstance(event, Connected):
            self._over(event.peer)
            self.unreachable.pop(event.peer, None)
            self._redial.called(event.peer)
        elif isinstance(event, Disconnected):
            if event.peer not in self._node.calls():
                self._over(event.peer)
            self._unreached(event.peer, event.reason)
        elif isinstance(event, CallFailed):
            return self._failed(event)
        return True

    def learn(self, peer: PeerID, name: str) -> None:
        """Remember what `peer` calls itself."""
        self.names.pop(peer, None)
        self.names[peer] = name
        needed = {*self.links, *self.questions}
        _forget(self.names, needed.__contains__)

    def _failed(self, event: CallFailed) -> bool:
        peer = event.peer
        if peer is None:
            self._redial.unregistered()
            return True
        automatic = peer in self._automatic
        self._over(peer)
        if self._node.link(peer) is not None:
            return not automatic
        retry_in = self._unreached(peer, event.reason)
        if automatic and self._waits(peer):
            self._views.tell(PeerUnreachable(peer, event, retry_in))
        return not automatic

    def _over(self, peer: PeerID) -> None:
        """A call has succeeded or failed."""
        self.calling.discard(peer)
        self._automatic.discard(peer)

    def _unreached(self, peer: PeerID, reason: str) -> float | None:
        self.unreachable.pop(peer, None)
        self.unreachable[peer] = None
        _forget(self.unreachable, self._waits)
        if not self._waits(peer):
            self._redial.done(peer)
            return None
        now = self._driver.now()
        self._redial.want(peer, now, linked=True)
        if peer in self._hung_up:
            reason = ErrorCode.CANCELLED.value
        return self._redial.failed(peer, reason, now)


def _forget(table: dict[PeerID, T], needed: Callable[[PeerID], bool]) -> None:
    """Forget the oldest of more than `MAX_STRANGERS` peers, except those that are needed."""
    for peer in list(table):
        if len(table) <= MAX_STRANGERS:
            return
        if not needed(peer):
            del table[peer]


def _ignore_failed_call(failure: Failure) -> None:
    if not isinstance(failure.value, CallFailed):
        failure.raiseException()

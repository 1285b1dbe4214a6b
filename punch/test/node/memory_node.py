"""A node for tests of applications: no network, and the events that a test wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import implementer

from punch.identity import PeerID
from punch.link.events import LinkStatus
from punch.link.link import Link
from punch.link.services import Authorize
from punch.natcheck.report import NetcheckReport
from punch.node.events import (
    CallFailed,
    Calling,
    CallState,
    CallUnanswerable,
    Checking,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Introduced,
    PathChanged,
    PathLost,
    PathSlowed,
    Registered,
    Unregistered,
)
from punch.node.interfaces import INode


class LinkStandIn:
    """
    What the links of a `MemoryNode` derive from.

    :ivar told: the state that the events of the node told last.
    """

    rtt = 0.01
    told: LinkStatus | None = None

    @property
    def status(self) -> LinkStatus | None:
        """As that of a `Link`."""
        return self.told and replace(self.told, path=replace(self.told.path, rtt=self.rtt))


@implementer(INode)
class MemoryNode:
    """
    A node that records what it is told to do. Its links and calls are those of which its events have told.

    :param wall: seconds since 1970.
    :ivar asked: what it was told to do, and with whom.
    :ivar linked: its links.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self.asked: list[tuple[str, PeerID]] = []
        self.names: list[str] = []
        self.services: dict[str, IProtocolFactory] = {}
        self.linked: dict[PeerID, Link] = {}
        self._wall = wall
        self._calls: dict[PeerID, CallState] = {}
        self._registrations: list[Registered | Unregistered] = []
        self._listeners: list[tuple[Callable[[Event], object], Callable[[], bool]]] = []

    def emit(self, event: Event) -> None:
        """Note what has happened, and tell it to all who have subscribed."""
        self._note(event)
        for listener, _ in list(self._listeners):
            listener(event)
        if isinstance(event, IncomingCall) and event.decided:
            self._calls[event.peer] = CallState.CHECKING

    def _note(self, event: Event) -> None:
        if isinstance(event, (Registered, Unregistered)):
            self._registrations.append(event)
        elif isinstance(event, Calling):
            self._calls[event.peer] = CallState.CALLING
        elif isinstance(event, IncomingCall):
            self._calls[event.peer] = CallState.RINGING
        elif isinstance(event, Introduced):
            self._calls[event.peer] = CallState.INTRODUCED
        elif isinstance(event, Checking):
            self._calls[event.peer] = CallState.CHECKING
        elif isinstance(event, Connected):
            self._calls.pop(event.peer, None)
            self.linked.pop(event.peer, None)
            self.linked[event.peer] = event.link
            self._set_status(event.link, LinkStatus(event.path, self._wall()))
        elif isinstance(event, PathChanged) and event.peer in self.linked:
            link = self.linked[event.peer]
            assert link.status is not None
            self._set_status(link, LinkStatus(event.path, link.status.since))
        elif isinstance(event, PathLost) and event.peer in self.linked:
            link = self.linked[event.peer]
            assert link.status is not None
            self._set_status(link, replace(link.status, disconnected=True))
        elif isinstance(event, PathSlowed) and event.peer in self.linked:
            link = self.linked[event.peer]
            assert link.status is not None
            self._set_status(link, replace(link.status, slowed=event.limit))
        elif isinstance(event, Disconnected):
            self.linked.pop(event.peer, None)
        elif isinstance(event, (CallFailed, CallUnanswerable)) and event.peer is not None:
            self._calls.pop(event.peer, None)

    def _set_status(self, link: Link, status: LinkStatus) -> None:
        assert isinstance(link, LinkStandIn)
        link.told = status

    # INode

    def when_registered(self) -> Deferred[None]:
        return succeed(None)

    def registration(self) -> Registered | Unregistered | None:
        return self._registrations[-1] if self._registrations else None

    def was_registered(self) -> bool:
        return any(isinstance(event, Registered) for event in self._registrations)

    def connect(self, peer: PeerID) -> Deferred[Link]:
        self.asked.append(("call", peer))
        return Deferred()

    def serve(
        self,
        service: str,
        factory: IProtocolFactory,
        authorize: Authorize | None = None,
        *,
        takes_calls: bool = False,
    ) -> Callable[[], None]:
        self.services[service] = factory
        return lambda: None

    def subscribe(
        self, listener: Callable[[Event], object], can_answer: Callable[[], bool] = lambda: False
    ) -> Callable[[], None]:
        self._listeners.append((listener, can_answer))
        return lambda: self._listeners.remove((listener, can_answer))

    def accept(self, peer: PeerID) -> None:
        self.asked.append(("accept", peer))
        if self._calls.get(peer) is CallState.RINGING:
            self._calls[peer] = CallState.CHECKING

    def reject(self, peer: PeerID) -> None:
        self.asked.append(("reject", peer))
        self._calls.pop(peer, None)

    def reject_unanswerable(self) -> None:
        if not any(can_answer() for _, can_answer in self._listeners):
            for peer in [peer for peer, state in self._calls.items() if state is CallState.RINGING]:
                self.emit(CallUnanswerable(peer))
                self.reject(peer)

    def hangup(self, peer: PeerID) -> None:
        self.asked.append(("hangup", peer))

    def link(self, peer: PeerID) -> Link | None:
        return self.linked.get(peer)

    def links(self) -> list[Link]:
        return list(self.linked.values())

    def calls(self) -> dict[PeerID, CallState]:
        return dict(self._calls)

    def rename(self, name: str) -> None:
        self.names.append(name)

    def netcheck(self) -> Deferred[NetcheckReport]:
        return succeed(NetcheckReport("rendezvous.example:7000"))

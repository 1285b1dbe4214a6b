"""
Who is told what happens at a node: listeners (`Listeners`), Deferreds that wait for its registration or for a
link (`Waiters`), and a listener that loads the QUIC library at the first call (`load_at_first_call`).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from punch.identity import PeerID
from punch.node.causes import SimpleCause
from punch.node.events import (
    AlreadyConnected,
    CallFailed,
    Calling,
    Connected,
    Disconnected,
    Event,
    IncomingCall,
    Registered,
)
from punch.node.interfaces import INode

if TYPE_CHECKING:
    from punch.link.link import Link


class _Listener(NamedTuple):
    handle: Callable[[Event], object]
    can_answer: Callable[[], bool]


class Listeners:
    """
    The listeners that have subscribed.

    :param left: called when one has left, but not before all others have received the event during which it
        left.
    """

    _log = Logger()

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left
        self._listeners: list[_Listener] = []
        # How many events are being told, and whether a listener has left meanwhile
        self._telling = 0
        self._one_left = False

    @property
    def can_answer(self) -> bool:
        """
        Whether one of them can answer a call now. A listener that raises an exception when asked counts as
        one that can't.
        """
        return any(self._can_answer(listener) for listener in list(self._listeners))

    def _can_answer(self, listener: _Listener) -> bool:
        try:
            return listener.can_answer()
        except Exception:  # of any kind, as the function is the application's
            self._log.failure("A listener failed to say whether it can answer a call.")
            return False

    def add(self, handle: Callable[[Event], object], can_answer: Callable[[], bool]) -> Callable[[], None]:
        """Tell events to `handle` from now on; returns how to end that."""
        listener = _Listener(handle, can_answer)
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)
                self._one_left = True
                self.check_left()

        return end

    def tell(self, event: Event) -> None:
        """Tell all of them an event. `check_left` is to be called afterwards."""
        self._telling += 1
        for listener in list(self._listeners):
            try:
                listener.handle(event)
            except Exception:
                self._log.failure("A listener failed at {event}.", event=type(event).__name__)
        self._telling -= 1

    def check_left(self) -> None:
        """Call `left` if a listener has left, unless an event is being told."""
        if self._one_left and not self._telling:
            self._one_left = False
            self._left()


class Waiters:
    """
    What waits for the registration of a node, and for its links.

    :param link: returns the live link to a peer.
    :param calling: returns whether a peer is being called.
    """

    def __init__(self, link: Callable[[PeerID], Link | None], calling: Callable[[PeerID], bool]) -> None:
        self._link = link
        self._calling = calling
        self._links: dict[PeerID, list[Deferred[Link]]] = {}
        self._registrations: list[Deferred[None]] = []

    def wait_for_registration(self) -> Deferred[None]:
        """Wait for the next `Registered`. Fails with `CallFailed` if there will be none."""
        waiter: Deferred[None] = Deferred()
        self._registrations.append(waiter)
        return waiter

    def wait_for_link(self, peer: PeerID) -> Deferred[Link]:
        """Wait until there is a link to a peer. Fails with `CallFailed` if the call does."""
        waiter: Deferred[Link] = Deferred(lambda waiter: self._forget(peer, waiter))
        self._links.setdefault(peer, []).append(waiter)
        return waiter

    def handle(self, event: Event) -> None:
        """Fire what waits for an event."""
        if isinstance(event, Registered):
            registrations, self._registrations = self._registrations, []
            for waiter in registrations:
                waiter.callback(None)
        elif isinstance(event, (Connected, AlreadyConnected)):
            link = self._link(event.peer)
            if link is not None:
                for link_waiter in self._links.pop(event.peer, []):
                    link_waiter.callback(link)
        elif isinstance(event, CallFailed):
            if event.peer is None:
                self._fail_all(event)
            else:
                self._fail(event.peer, event)
        elif isinstance(event, Disconnected) and not self._calling(event.peer):
            # The link was closed while the other side was asked whether it still answers
            self._fail(event.peer, CallFailed(event.peer, event.cause, event.name))

    def stop(self) -> None:
        """Fail all that wait: the node stops."""
        for peer in list(self._links):
            self._fail(peer, CallFailed(peer, SimpleCause.GIVEN_UP))
        self._fail_all(CallFailed(None, SimpleCause.STOPPED))

    def _fail_all(self, error: CallFailed) -> None:
        registrations, self._registrations = self._registrations, []
        for waiter in registrations:
            waiter.errback(error)
        for peer in list(self._links):
            self._fail(peer, error)

    def _fail(self, peer: PeerID, error: CallFailed) -> None:
        for waiter in self._links.pop(peer, []):
            waiter.errback(error)

    def _forget(self, peer: PeerID, waiter: Deferred[Link]) -> None:
        waiters = self._links.get(peer, [])
        if waiter in waiters:
            waiters.remove(waiter)


def load_at_first_call(node: INode) -> None:
    """
    Have a thread load what a link needs when the first call of a node begins. Until the call is answered, it
    usually has time for that.

    qh3, the QUIC library, takes a tenth of a second to load and to begin its first connection. A process that
    waits for calls does without it. When it is needed, a path has just been found, and every millisecond
    delays the link.
    """

    begun = False

    def note(event: Event) -> None:
        nonlocal begun
        if not begun and isinstance(event, (Calling, IncomingCall)):
            # This listener stays: when one leaves, calls that nobody can answer are refused, and the first
            # call is being decided just now.
            begun = True
            Thread(target=_load, name="load", daemon=True).start()

    node.subscribe(note)


def _load() -> None:
    from punch import names
    from punch.link.quic.qh3 import Qh3Backend
    from punch.node.calls import call_link  # noqa: F401

    Qh3Backend().client(0.0).discard()
    # This loads the tables by which names that look alike are found, as is needed when a peer is first met
    names.skeletons("name")

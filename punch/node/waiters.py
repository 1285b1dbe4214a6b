"""Deferreds that fire when a node is registered, or connected with a peer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from punch.identity import PeerID
from punch.link.link import Link
from punch.node.causes import SimpleCause
from punch.node.events import AlreadyConnected, CallFailed, Connected, Disconnected, Event, Registered


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

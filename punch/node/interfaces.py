"""What applications use of a node; docs/api.md shows how to use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from zope.interface import Interface

from punch.identity import PeerID
from punch.node.events import CallState, Event, Registered, Unregistered

if TYPE_CHECKING:
    from punch.link.link import Link
    from punch.link.services import Authorize
    from punch.natcheck.report import NetcheckReport


class INode(Interface):
    """One identity on the network, with its links and services, as `punch.node.node.Node` implements it."""

    def when_registered() -> Deferred[None]:
        """
        Wait until this node is registered, so that others can call it.

        :return: fires at once if it is registered now, and otherwise with the next registration. It fails
            with `CallFailed` if no further attempt is made to register, or if the node stops.
        """

    def registration() -> Registered | Unregistered | None:
        """Return how the last attempt to register, or the last registration, ended; None before that."""

    def was_registered() -> bool:
        """Return whether this node was registered at some time since it started."""

    def connect(peer: PeerID) -> Deferred[Link]:
        """
        Get the link to a peer, and call the peer if there is none. It is a known peer from now on.

        If there is a link already, the other side is asked whether it still answers on it. If it does not, it
        is called again, and the new link replaces the dead one. If a call is under way, its result is waited
        for; a call of the peer that waits for an answer here is accepted. A call waits for the rendezvous for
        12 s.

        :return: fires with the link, or fails with `CallFailed`; it fails at once if the node is stopping or
            has stopped. Cancelling it ends the waiting, not the call (`hangup` does that).
        """

    def serve(
        service: str,
        factory: IProtocolFactory,
        authorize: Authorize | None = None,
        *,
        takes_calls: bool = False,
    ) -> Callable[[], None]:
        """
        Answer the streams that peers open to a service, on every link.

        :param authorize: whether a peer may open it. None: the peers to which the address book grants the
            service. `punch.link.services.anyone`: every peer to which there is a link.
        :param takes_calls: whether a call of a stranger who may open the service is accepted when no listener
            can ask anybody about it. On its link, such a peer may open only services of this kind.
        :return: call it to stop the service.
        :raise ValueError: as `Services.serve`.
        """

    def subscribe(
        listener: Callable[[Event], object], can_answer: Callable[[], bool] = lambda: False
    ) -> Callable[[], None]:
        """
        Tell a listener every event from now on, in order.

        :param can_answer: whether the listener can ask somebody about a call now (`IncomingCall`, then
            `accept` or `reject`). If no listener can, a call is refused at once, unless a service takes calls
            of this peer.
        :return: call it to end the subscription.
        """

    def accept(peer: PeerID) -> None:
        """Accept the call of a peer that waits for an answer. It is a known peer from now on."""

    def reject(peer: PeerID) -> None:
        """Refuse the call of a peer that waits for an answer."""

    def reject_unanswerable() -> None:
        """
        If no listener's `can_answer` is true any more, decide the calls that wait for an answer: accept those
        of peers that a service takes calls of, and refuse the others.
        """

    def hangup(peer: PeerID) -> None:
        """End the link and any call with a peer. All services lose the link, so the user decides this."""

    def link(peer: PeerID) -> Link | None:
        """Return the live link to a peer, if there is one."""

    def links() -> Sequence[Link]:
        """Return the live links, the newest last."""

    def calls() -> Mapping[PeerID, CallState]:
        """Return the states of the calls that are under way and have no link yet, the newest last."""

    def rename(name: str) -> None:
        """Use another name in calls from now on, and at the rendezvous from the next registration on."""

    def netcheck() -> Deferred[NetcheckReport]:
        """Find out what the network does; takes some seconds."""

"""What a program can do with the node of an identity, in whichever process the node is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from punch.identity import PeerID
from punch.link.services import Authorize, anyone
from punch.local.protocol import JSON


@dataclass(frozen=True)
class Allow:
    """
    Who may open a service: those named here, or else those that the address book grants it.

    :ivar anyone: every peer.
    """

    peers: frozenset[PeerID] = frozenset()
    anyone: bool = False

    @property
    def authorize(self) -> Authorize | None:
        """The same as `INode.serve` takes it."""
        if self.anyone:
            return anyone
        return self.peers.__contains__ if self.peers else None


class NodeAccess(Protocol):
    """The node of an identity: in this process (`OwnNode`), or in another one (`AttachedNode`)."""

    @property
    def peer_id(self) -> PeerID:
        """The ID of the node."""

    @property
    def rendezvous(self) -> str:
        """The addresses of its rendezvous, separated by commas."""

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a stream to a service of a peer, which is called if there is no link.

        :return: as `Link.connect`. It fails with `CommandError`.
        """

    def serve(self, service: str, factory: IProtocolFactory, allow: Allow) -> Deferred[Callable[[], None]]:
        """
        Answer streams of peers to a service.

        :return: fires with what ends the service; fails with `CommandError`.
        """

    def when_delivered(self, peer: PeerID) -> Deferred[None]:
        """
        Wait until a peer has all that was written on streams to it, so that this process may end. It does not
        wait for ever.

        :return: fires at once if the node is in another process, which goes on. It never fails.
        """

    def status(self) -> Deferred[JSON]:
        """Return what the node has now, as docs/json.md describes it."""

    def when_lost(self) -> Deferred[None]:
        """Fires when the node is no longer there. It never fails."""

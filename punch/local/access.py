"""
The interface to a node in this process or in another one (`NodeAccess`), and who may open a service
(`Allow`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from punch.identity import PeerID
from punch.link.services import Authorize, anyone
from punch.local.protocol import JSON
from punch.local.transfer_reports import TransferReport

DELIVERY_TIME = 60.0
"""Seconds that a process which ends waits until what it has written has arrived."""


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

    def when_delivered(self, peer: PeerID) -> Deferred[bool]:
        """
        Wait until a peer has all that was written on streams to it that have ended, so that this process may
        end. If the node is in another process, which goes on, it is enough that this one has all. It does not
        wait for ever.

        :return: fires with False if that can't be said. It never fails.
        """

    def status(self) -> Deferred[JSON]:
        """Return what the node has now, as docs/json.md describes it."""

    def report_transfer(self, transfer: int, report: TransferReport | None) -> Deferred[None]:
        """
        Tell the node how far a transfer of this program is, for those who ask what the node does. It is
        forgotten when the program ends.

        :param transfer: a number that this program gives the transfer.
        :param report: None: the transfer is over.
        :return: fires when that is noted. It fails with `CommandError`, as where the node is of a release
            that takes no reports.
        """

    def when_lost(self) -> Deferred[None]:
        """Fires when the node is no longer there. It never fails."""

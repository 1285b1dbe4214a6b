"""What a process of a service asks the directory, and what it is told."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from punch.identity import PeerID
from punch.net.sources import Source
from punch.rendezvous.directory.messages import PeerLost, PeerReply, PeerRequest
from punch.rendezvous.directory.shared_state import SharedState

UNKNOWN: Source = ("",)
"""The source of what is not known to be for a peer at some address."""


class DirectoryUnavailable(Exception):
    """The directory can't be asked now; `str()` says why."""


class DirectoryUser(Protocol):
    """Is told what other processes say and do."""

    def depends_on(self) -> set[str]:
        """The other processes whose end has to be noticed."""

    def message_received(self, process: str, message: PeerRequest | PeerReply | PeerLost) -> None:
        """Another process has sent a message."""

    def peer_replaced(self, peer: PeerID) -> None:
        """A peer of this process has a newer registration at another process."""

    def peer_returned(self, peer: PeerID) -> None:
        """A peer that this process waits for is registered at another one."""

    def awaited_peers(self) -> list[PeerID]:
        """The peers that this process waits for."""

    def process_lost(self, process: str) -> None:
        """Another process is gone."""

    def request_lost(self, message: PeerRequest) -> None:
        """
        Another process has not received this message. It may have received earlier ones, and may receive
        later ones.
        """


class Directory(Protocol):
    """
    Which process of a service a peer is registered at. No method blocks, and none raises.

    `source` is always that of the peer for which something is asked or sent. Sources share what may wait.
    """

    def start(self, user: DirectoryUser) -> None:
        """Begin, and tell `user` what happens from now on."""

    def stop(self) -> Deferred[None]:
        """End, and take this process and its peers out of the directory."""

    def share(self, state: SharedState) -> None:
        """Keep something else in step with the other processes."""

    def claim(self, peer: PeerID) -> None:
        """A peer has registered at this process just now, which replaces its registrations at others."""

    def release(self, peer: PeerID) -> None:
        """A peer is no longer registered at this process."""

    def locate(self, peer: PeerID, source: Source = UNKNOWN) -> Deferred[str | None]:
        """
        Return the name of the other process at which a peer is; None if it is at none.

        :raise DirectoryUnavailable: through the Deferred.
        """

    def await_return(self, peer: PeerID, source: Source = UNKNOWN) -> None:
        """Call `peer_returned` once if a peer registers at another process within the next hour."""

    def send(
        self, process: str, message: PeerRequest | PeerReply | PeerLost, source: Source = UNKNOWN
    ) -> None:
        """
        Send a message to another process, after earlier ones. If no process takes it, `process_lost` follows;
        but while other processes may still be connecting again, `request_lost` follows for a `PeerRequest`,
        and other messages are lost. Messages are also lost if too many wait.
        """

    @property
    def problem(self) -> str | None:
        """A sentence that says why the directory does not work now; None if it does."""

"""
What a process of a service asks the directory, and what it is told (`Directory` and `DirectoryUser`); and
`DirectoryConnector`, which joins the registry of the process to the directory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.identity import PeerID
from punch.net.sources import Source
from punch.rendezvous.directory.messages import UNKNOWN, PeerLost, PeerReply, PeerRequest
from punch.rendezvous.directory.remote_calls import AwaitReturn, CallKey, Locate, RemoteCalls
from punch.rendezvous.directory.shared_state import SharedState
from punch.rendezvous.registry.outputs import DeliverToProcess, Output, PeerRegistered, PeerUnregistered


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
        Another process has not received this message, whose request is `Establish`. It may have received
        earlier ones, and may receive later ones.
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
        Send a message to another process, after earlier ones. If no process receives it, `process_lost`
        follows. Messages are lost if too many wait.

        It is different while the directory is away, and while that process may be connecting to it again:
        for `Establish`, `request_lost` follows at once. Other messages are kept and sent each second, until
        they are received, `process_lost` follows, or two minutes are over. One that was first sent while the
        process was connecting may arrive after later ones.
        """

    @property
    def problem(self) -> str | None:
        """A sentence that says why the directory does not work now; None if it does."""


UNREACHABLE = (
    "No peer of this ID is registered at this server, and the other servers of the rendezvous can't be asked "
    "now; try again later."
)


class DirectoryConnector:
    """
    The user of the directory, on behalf of the peers of this process (`DirectoryUser`).

    :param happened: called when the registry or the remote calls may have output.
    """

    def __init__(
        self,
        directory: Directory,
        remote_calls: RemoteCalls,
        monotonic: Callable[[], float],
        happened: Callable[[], None],
    ) -> None:
        self.directory = directory
        self.remote_calls = remote_calls
        self._monotonic = monotonic
        self._happened = happened

    def start(self) -> None:
        """Join the other processes."""
        self.directory.start(self)

    def stop(self) -> Deferred[None]:
        """Leave them."""
        return self.directory.stop()

    def note(self, output: Output) -> None:
        """Take what the registry has for other processes."""
        if isinstance(output, PeerRegistered):
            self.directory.claim(output.peer)
        elif isinstance(output, PeerUnregistered):
            self.directory.release(output.peer)
        elif isinstance(output, DeliverToProcess):
            self.remote_calls.send(output.process, output.peer, output.reply, output.source, output.address)

    def pass_on(self) -> bool:
        """Give the directory what the remote calls have for it. Returns whether there was anything."""
        found = False
        while (output := self.remote_calls.next_output()) is not None:
            found = True
            if isinstance(output, Locate):
                locating = self.directory.locate(output.peer, output.source)
                locating.addCallbacks(
                    partial(self._located, output.key), partial(self._not_located, output.key)
                )
            elif isinstance(output, AwaitReturn):
                self.directory.await_return(output.peer, output.source)
            else:
                self.directory.send(output.process, output.message, output.source)
        return found

    # -- DirectoryUser --

    def depends_on(self) -> set[str]:
        """The other processes whose end has to be noticed."""
        return self.remote_calls.processes

    def message_received(self, process: str, message: PeerRequest | PeerReply | PeerLost) -> None:
        """Another process has sent a message."""
        self.remote_calls.receive(process, message, self._monotonic())
        self._happened()

    def peer_replaced(self, peer: PeerID) -> None:
        """A peer of this process has a newer registration at another process."""
        self.remote_calls.registry.replaced(peer, self._monotonic())
        self._happened()

    def peer_returned(self, peer: PeerID) -> None:
        """A peer that callers here wait for is registered at another process."""
        self.remote_calls.registry.returned(peer, self._monotonic())
        self._happened()

    def awaited_peers(self) -> list[PeerID]:
        """The peers that callers here wait for."""
        return self.remote_calls.registry.awaited_peers

    def process_lost(self, process: str) -> None:
        """Another process is gone."""
        self.remote_calls.process_lost(process, self._monotonic())
        self._happened()

    def request_lost(self, message: PeerRequest) -> None:
        """Another process has not got a message."""
        self.remote_calls.request_lost(message, UNREACHABLE, self._monotonic())
        self._happened()

    # -- within --

    def _located(self, key: CallKey, process: str | None) -> None:
        self.remote_calls.located(key, process, self._monotonic())
        self._happened()

    def _not_located(self, key: CallKey, failure: Failure) -> None:
        failure.trap(DirectoryUnavailable)  # type: ignore[no-untyped-call]
        self.remote_calls.located(key, None, self._monotonic(), UNREACHABLE)
        self._happened()

"""The socket of a node, for programs of the same user (docs/json.md)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory

from punch.identity import PeerID
from punch.local.connection import LocalConnection, OtherCommands, WaitingStream
from punch.local.own import OwnNode
from punch.local.protocol import CommandError
from punch.local.socket_file import listening_path, may_attach, peer_uid, remove_directory

MAX_CONNECTIONS = 4096
"""Connections at once, streams among them; fewer if the process may open few files (`most_connections`)."""
RESERVED = 16
"""Connections that streams of peers never take, so that the user's own programs can attach."""


def is_own(transport: Any) -> bool:
    """Whether the process at the other end of a UNIX socket is one of this user, or of root."""
    return may_attach(peer_uid(transport.getHandle()))


def most_connections() -> int:
    """Return how many connections leave half of the files that this process may open for all else."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


class LocalServer(Factory):
    """
    The programs that are attached to a node.

    :param other: other commands, such as those of the chat. It fails with `CommandError`.
    :param admitted: whether the program at the other end of a connection is one of this user.
    :param most: connections at once; None: `most_connections`.
    """

    noisy = False

    def __init__(
        self,
        node: OwnNode,
        reactor: Any,
        other: OtherCommands | None = None,
        admitted: Callable[[Any], bool] | None = None,
        most: int | None = None,
    ) -> None:
        self.node = node
        self.reactor = reactor
        self.other = other
        self.admitted = is_own if admitted is None else admitted
        self.most = most_connections() if most is None else most
        self.waiting: dict[int, WaitingStream] = {}
        """The streams of services that programs serve, until they are accepted."""
        self._waiting_of: Counter[PeerID] = Counter()
        self._connections: set[LocalConnection] = set()
        self._streams = 0
        self._port: IListeningPort | None = None
        self._path: Path | None = None

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def crowded(self, peer: PeerID, places: int) -> bool:
        """
        Return whether another stream of a peer has to be refused: no place is left, or the peer has as many
        streams waiting as places are left.

        :param places: how many more may wait for the program.
        """
        room = self.most - min(RESERVED, self.most // 4)
        free = min(places, room - len(self._connections) - len(self.waiting))
        return free <= 0 or self._waiting_of[peer] >= free

    def listen(self, directory: Path, environ: Mapping[str, str]) -> Deferred[None]:
        """
        Listen on the socket of a state directory, whose lock this process holds.

        :return: fires when programs can attach. It fails with `SocketError` or `CannotListenError`.
        """

        async def listen() -> None:
            try:
                await self._listen(listening_path(directory, environ))
            except CannotListenError:
                # A process that ended meanwhile may have removed the directory.
                await self._listen(listening_path(directory, environ))

        return Deferred.fromCoroutine(listen())

    async def _listen(self, path: Path) -> None:
        # With the backlog full, connecting fails at once on a UNIX socket
        endpoint = cast(Any, UNIXServerEndpoint)(self.reactor, os.fspath(path), backlog=self.most, mode=0o600)
        self._port = await endpoint.listen(self)
        self._path = path

    async def stop(self) -> None:
        """Close the socket, and all connections."""
        port, self._port = self._port, None
        if port is not None:
            # Somebody may have removed the file of the socket
            with suppress(OSError):
                await cast("Deferred[None]", port.stopListening())
            if self._path is not None:
                remove_directory(self._path)
        for connection in list(self._connections):
            connection.end()

    def buildProtocol(self, addr: IAddress | None) -> LocalConnection:
        """A program connects."""
        return LocalConnection(self)

    def add(self, connection: LocalConnection) -> None:
        """
        Count a connection.

        :raise CommandError: there are too many, or it belongs to somebody else.
        """
        if not self.admitted(connection.transport):
            raise CommandError("denied", "This socket is for the user whose node it is.")
        if len(self._connections) >= self.most:
            raise CommandError(
                "too-many", f"{self.most:,} connections to this node are open: close some of them."
            )
        self._connections.add(connection)

    def remove(self, connection: LocalConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def wait(self, waiting: WaitingStream) -> int:
        """Keep a stream until it is accepted, and return its number."""
        self._streams += 1
        self.waiting[self._streams] = waiting
        self._waiting_of[waiting.address.peer] += 1
        return self._streams

    def waits_no_more(self, number: int) -> None:
        """A stream was accepted, or is over."""
        waiting = self.waiting.pop(number, None)
        if waiting is not None:
            peer = waiting.address.peer
            self._waiting_of[peer] -= 1
            if not self._waiting_of[peer]:
                del self._waiting_of[peer]

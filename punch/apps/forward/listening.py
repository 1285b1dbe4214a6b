"""A port or socket of this machine whose connections go to a service of a peer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from punch.apps.forward.failures import ForwardFailure, failure_of
from punch.apps.forward.joined import Joined
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError
from punch.net.driver import Timer

T = TypeVar("T")

MAX_CONNECTIONS = 2048
"""Connections at once; further ones are closed."""
MAX_OPENING = 64
"""Streams that are being opened at once."""
FIRST_RETRY, LAST_RETRY = 0.05, 1.0
"""
Seconds after which a stream is opened again when too many were open, and the longest such time. When a
connection ends, it is tried at once.
"""


class Forwarder(Factory):
    """
    Answers the connections to the port: opens a stream for each.

    As many streams are opened as the link takes; further connections wait, unread, until others end.

    :param failed: is told why a connection could not be forwarded.
    """

    noisy = False

    def __init__(
        self,
        node: NodeAccess,
        peer: PeerID,
        service: str,
        clock: IReactorTime,
        failed: Callable[[Exception], object],
    ) -> None:
        self._node = node
        self._peer = peer
        self._service = service
        self._failed = failed
        self._count = 0
        self._waiting: deque[_Accepted] = deque()
        self._opening = 0
        self._at_it = False
        self._delay = FIRST_RETRY
        self._retry = Timer(clock)

    @property
    def count(self) -> int:
        """How many connections there are."""
        return self._count

    def buildProtocol(self, addr: Any) -> Joined | None:
        """A program of this machine connects."""
        if self._count >= MAX_CONNECTIONS:
            return None
        self._count += 1
        return _Accepted(self)

    def connected(self, connection: _Accepted) -> None:
        """Open a stream for a connection, behind those that wait already."""
        self._waiting.append(connection)
        if not self._retry.running:
            self._open_all()

    def ended(self, connection: _Accepted) -> None:
        """A connection is over."""
        self._count -= 1
        if connection in self._waiting:
            self._waiting.remove(connection)
        elif self._retry.running:
            self._retry.start(FIRST_RETRY, self._open_all)

    def _open_all(self) -> None:
        if self._at_it:
            return  # A stream has failed at once
        self._at_it = True
        while self._waiting and self._opening < MAX_OPENING and not self._retry.running:
            self._open(self._waiting.popleft())
        self._at_it = False

    def _open(self, connection: _Accepted) -> None:
        self._opening += 1
        stream = Joined(stream=True, on_lost=connection.stream_lost)
        opening = self._node.open(self._peer, self._service, Factory.forProtocol(lambda: stream))
        opening.addBoth(self._tried)
        opening.addCallbacks(partial(self._opened, connection), partial(self._not_opened, connection))
        opening.addBoth(lambda _: self._open_all())

    def _tried(self, result: T) -> T:
        self._opening -= 1
        return result

    def _opened(self, connection: _Accepted, stream: Any) -> None:
        self._delay = FIRST_RETRY
        connection.join(stream)

    def _not_opened(self, connection: _Accepted, failure: Failure) -> None:
        error: Any = failure.value
        if not isinstance(error, CommandError) or error.reason != "too-many":
            self._failed(error)
            connection.reset()
            return
        if not connection.over:
            self._waiting.appendleft(connection)
        if not self._retry.running:
            self._retry.start(self._delay, self._open_all)
            self._delay = min(2 * self._delay, LAST_RETRY)

    def stream_lost(self, reason: Failure) -> None:
        """A stream is over, maybe because the port of the peer can't be reached."""
        error = reason.value
        if not isinstance(error, ConnectionLost) or isinstance(error, ConnectionAborted):
            return  # In order, or given up here
        if failure_of(error) is not ForwardFailure.RESET:
            self._failed(error)


class _Accepted(Joined):
    """A connection of a program of this machine."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__(stream=False, on_lost=lambda reason: self._ended())
        self._forwarder = forwarder
        self.over = False

    def connectionMade(self) -> None:
        """Open a stream for it."""
        super().connectionMade()
        self._forwarder.connected(self)

    def stream_lost(self, reason: Failure) -> None:
        """Its stream is over, in good order or not."""
        self._forwarder.stream_lost(reason)

    def reset(self) -> None:
        """It can't be forwarded: let the program see that it was refused."""
        self.transport.abortConnection()

    def _ended(self) -> None:
        self.over = True
        self._forwarder.ended(self)

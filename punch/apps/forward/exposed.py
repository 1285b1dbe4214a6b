"""A port or socket of this machine as a service for peers."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    UnknownHostError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.forward.failures import ForwardFailure
from punch.apps.forward.joined import Joined
from punch.identity import PeerID

MAX_CONNECTIONS = 4096
"""Connections of all peers at once to one exposed port."""
MAX_CONNECTIONS_OF_PEER = 1024
"""Of these, how many may be of one peer."""
CONNECT_TIME = 10.0
"""Seconds in which the port has to accept a connection."""


class Exposed(Factory):
    """
    Answers the streams of a service: connects each with the port.

    :param endpoint: leads to the port.
    :param failed: is told for which peer the port could not be reached, and why.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self, endpoint: IStreamClientEndpoint, failed: Callable[[PeerID, ForwardFailure, Exception], object]
    ) -> None:
        self._endpoint = endpoint
        self._failed = failed
        self._count: Counter[PeerID] = Counter()

    def buildProtocol(self, addr: Any) -> _ExposedStream:
        """A peer opens a stream."""
        return _ExposedStream(self, addr.peer)

    def take(self, peer: PeerID) -> bool:
        """Count a connection of a peer; False: there are too many."""
        if self._count[peer] >= MAX_CONNECTIONS_OF_PEER or self._count.total() >= MAX_CONNECTIONS:
            return False
        self._count[peer] += 1
        return True

    def give_back(self, peer: PeerID) -> None:
        """A connection of a peer is over."""
        self._count[peer] -= 1
        if not self._count[peer]:
            del self._count[peer]

    def connect(self, factory: Factory) -> Deferred[Any]:
        """Connect with the port."""
        return self._endpoint.connect(factory)

    def connect_failed(self, peer: PeerID, failure: Failure) -> ForwardFailure:
        """Return why the port can't be reached, and tell it here, too."""
        error: Any = failure.value
        code = _failure_code(error)
        if code is ForwardFailure.FAILED and not isinstance(error, (ConnectError, OSError)):
            self._log.failure("An exposed port could not be connected.", failure)
        self._failed(peer, code, error)
        return code


class _ExposedStream(Joined):
    """A stream of a peer, while the port is connected and then joined with it."""

    def __init__(self, exposed: Exposed, peer: PeerID) -> None:
        super().__init__(stream=True, on_lost=self._ended)
        self._exposed = exposed
        self._peer = peer
        self._counted = False
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        """Connect with the port."""
        super().connectionMade()
        self._counted = self._exposed.take(self._peer)
        if not self._counted:
            self.transport.abort_with(ForwardFailure.BUSY)
            return
        connecting = self._connecting = self._exposed.connect(
            Factory.forProtocol(lambda: Joined(stream=False))
        )
        connecting.addCallbacks(self.join, self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if not isinstance(failure.value, CancelledError):
            self.transport.abort_with(self._exposed.connect_failed(self._peer, failure))

    def _ended(self, reason: Failure) -> None:
        if self._counted:
            self._counted = False
            self._exposed.give_back(self._peer)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()


def _failure_code(error: Exception) -> ForwardFailure:
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return ForwardFailure.CONNECTION_REFUSED
    if isinstance(error, (DNSLookupError, UnknownHostError)):
        return ForwardFailure.NO_HOST
    if isinstance(error, ConnectError):
        number = error.osError
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            return ForwardFailure.CONNECTION_REFUSED
        if number in (errno.EACCES, errno.EPERM):
            return ForwardFailure.NOT_PERMITTED
        return ForwardFailure.UNREACHABLE
    return ForwardFailure.FAILED

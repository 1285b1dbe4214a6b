"""
TCP connections on networks that lose packets.

A lost SYN costs a second, and the next one two more (RFC 6298, section 5.7 has even three): too much for a
link that waits for the rendezvous. So another connection is begun soon, as RFC 8305 does it with other
addresses, and the first that comes about is taken.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.node.control.nat64 import IPv4Endpoint

AFTER = 0.5
"""Seconds until another connection is begun."""
TRIES = 3
"""Connections at once, at most."""
CONNECT_TIME = 10.0
"""Seconds that a TCP connection may take."""


def tcp_endpoint(reactor: Any, host: str, port: int) -> StaggeredEndpoint:
    """
    TCP to a host, by name or address, staggered.

    Addresses are not left to Twisted's `HostnameEndpoint`: while a connection is under way it wakes three
    times a second to try the next address, even if there is only one.
    """
    kind: Any = HostnameEndpoint
    if isIPAddress(host):
        kind = IPv4Endpoint
    elif isIPv6Address(host):
        kind = TCP6ClientEndpoint
    return StaggeredEndpoint(kind(reactor, host, port, timeout=CONNECT_TIME), reactor)


@implementer(IStreamClientEndpoint)
class StaggeredEndpoint:
    """
    An endpoint that begins up to `TRIES` connections of another one.

    The first result counts, a failure as well as a success: who refuses one connection refuses all. The rest
    are given up.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; cancelling ends all of it."""
        return _Race(self._endpoint, protocolFactory, self._clock).result

    def __repr__(self) -> str:
        return f"<staggered {self._endpoint!r}>"


class _Race:
    """The connections of one `connect`."""

    def __init__(
        self, endpoint: IStreamClientEndpoint, factory: IProtocolFactory, clock: IReactorTime
    ) -> None:
        self.result: Deferred[IProtocol] = Deferred(lambda _: self._end())
        self._endpoint = endpoint
        self._factory = factory
        self._clock = clock
        self._tries: list[Deferred[IProtocol]] = []
        self._next: IDelayedCall | None = None
        self._over = False
        self._begin()

    def _begin(self) -> None:
        self._next = None
        trying = self._endpoint.connect(self._factory)
        self._tries.append(trying)
        trying.addCallbacks(self._connected, self._failed)
        if not self._over and len(self._tries) < TRIES:
            self._next = self._clock.callLater(AFTER, self._begin)

    def _connected(self, protocol: IProtocol) -> None:
        self._end()
        self.result.callback(protocol)

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._end()
            self.result.errback(failure)

    def _end(self) -> None:
        self._over = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for trying in self._tries:
            trying.cancel()

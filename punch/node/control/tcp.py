"""
TCP connections to the rendezvous and to relays, on networks that lose packets or have IPv6 alone.

**Lost packets.** After a lost SYN the system waits for a second, and after the next one for two more
(RFC 6298, section 5.7 has three): too long for a link that waits for the rendezvous. `StaggeredEndpoint`
starts another connection soon, as RFC 8305 does for another address, and takes the first that comes about.

**NAT64.** On a network that has IPv6 alone, a translator (RFC 6146) reaches IPv4 addresses. Names need
nothing, since the network's name servers make IPv6 addresses of IPv4 ones (DNS64). For an IPv4 address that
was written down, `IPv4Endpoint` discovers the prefix of the translator by the name `ipv4only.arpa`, whose
IPv4 addresses are well known (RFC 7050), and puts it before the address (RFC 6052).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, FailureGroup, race
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    NoRouteError,
)
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.net.driver import Timer
from punch.net.reactor import look_up
from punch.node.control.proxy import ProxyEndpoint
from punch.wire.nat64 import DISCOVERY_NAME, prefixes, translated
from punch.wire.proxy import ProxySettings

DISCOVERY_TIME = 1.0
"""Seconds for which the discovery of a NAT64 is waited for."""
NAT64_DELAY = 0.4
"""Seconds after which a connection that has not been made is tried through a NAT64 too."""
DIRECT_AFTER = 1.5
"""Seconds after which a host is tried without its proxy too, unless that is required."""

AFTER = 0.5
"""Seconds until another connection is started."""
TRIES = 3
"""How many connections are started at most."""
CONNECT_TIME = 10.0
"""Seconds that a TCP connection may take to be made."""


@implementer(IStreamClientEndpoint)
class IPv4Endpoint:
    """
    TCP to an IPv4 address: directly, or through a NAT64 where that fails.

    How an IPv4 address fails on an IPv6 network depends on what the machine has of IPv4: no route, a route to
    169.254/16 that ends in "no route to host", no source address, a firewall that refuses, or silence of its
    own translator (464XLAT). So after every error but a refusal by the host, and after `NAT64_DELAY` seconds
    without an answer, the NAT64 is discovered. The first connection counts.

    :param reactor: connects TCP and resolves names.
    """

    def __init__(self, reactor: Any, host: str, port: int, timeout: float) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect. The Deferred can be cancelled."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def __repr__(self) -> str:
        return f"<IPv4 endpoint {self._host}:{self._port}>"

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        return await _one_of_two(
            self._reactor,
            self._connect_to(TCP4ClientEndpoint, self._host, factory),
            lambda: self._connect_through(factory),
            NAT64_DELAY,
            final=(ConnectionRefusedError, ConnectingCancelledError),
        )

    async def _connect_through(self, factory: IProtocolFactory) -> IProtocol:
        error: ConnectError = NoRouteError(string="no NAT64 is known")  # type: ignore[no-untyped-call]
        for host in translated([self._host], prefixes(await discover(self._reactor))):
            try:
                return await self._connect_to(TCP6ClientEndpoint, host, factory)
            except ConnectError as reason:
                error = reason
        raise error

    def _connect_to(self, kind: Any, host: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = kind(self._reactor, host, self._port, self._timeout).connect(
            factory
        )
        return connecting


def discover(reactor: Any) -> Deferred[list[str]]:
    """
    Look up the addresses of `ipv4only.arpa`, which show the prefix of a NAT64 (RFC 7050).

    :param reactor: resolves names, and is the clock.
    :return: fires with none of them if there is no answer within `DISCOVERY_TIME`.
    """
    found: Deferred[list[str]] = Deferred()
    look_up(reactor, DISCOVERY_NAME, lambda hosts: None if found.called else found.callback(hosts))
    return found.addTimeout(DISCOVERY_TIME, reactor, onTimeoutCancel=lambda result, timeout: [])


async def _one_of_two(
    clock: IReactorTime,
    first: Deferred[IProtocol],
    second: Callable[[], Awaitable[IProtocol]],
    after: float,
    *,
    final: tuple[type[Exception], ...],
) -> IProtocol:
    """
    Begin a second connection when the first one fails, or has no result after so many seconds. Return the
    first that is made; if both fail, so does the first.

    :param final: after these errors of the first one, no second one is begun.
    """
    doubt: Deferred[None] = Deferred()
    late = Timer(clock)
    late.start(after, doubt.callback, None)

    def failed(failure: Failure) -> Failure:
        if late.running:
            late.cancel()
            if isinstance(failure.value, final):
                doubt.errback(failure)
            else:
                doubt.callback(None)
        return failure

    async def begin_second() -> IProtocol:
        await doubt
        return await second()

    first.addErrback(failed)
    try:
        _, protocol = await race([first, Deferred.fromCoroutine(begin_second())])
    except FailureGroup as group:
        raise cast(BaseException, group.failures[0].value) from None
    finally:
        late.cancel()
    return protocol


def tcp_endpoint(
    reactor: Any, host: str, port: int, proxy: ProxySettings | None = None, clock: Any = None
) -> IStreamClientEndpoint:
    """
    Return an endpoint for TCP to a host, by name or address.

    :param proxy: is used if it leads to the host.
    :param clock: the reactor for the connection to the proxy; None: `reactor`.
    """
    direct = _direct(reactor, host, port)
    if proxy is None or not proxy.leads_to(host):
        return direct
    to_proxy = _direct(reactor if clock is None else clock, proxy.proxy.host, proxy.proxy.port)
    through = ProxyEndpoint(reactor, to_proxy, proxy, host, port)
    return through if proxy.required else PreferredEndpoint(through, direct, reactor)


def _direct(reactor: Any, host: str, port: int) -> StaggeredEndpoint:
    """
    Twisted's `HostnameEndpoint` is not used for IP addresses: while a connection is being made, it wakes
    three times a second to try the next address, even if there is only one.
    """
    kind: Any = HostnameEndpoint
    if isIPAddress(host):
        kind = IPv4Endpoint
    elif isIPv6Address(host):
        kind = TCP6ClientEndpoint
    return StaggeredEndpoint(kind(reactor, host, port, timeout=CONNECT_TIME), reactor)


@implementer(IStreamClientEndpoint)
class PreferredEndpoint:
    """
    An endpoint beside which another one is tried: when it fails, or has no result for `DIRECT_AFTER`. The
    first connection counts; if both fail, so does the first.

    :param reactor: is the clock.
    """

    def __init__(self, first: IStreamClientEndpoint, second: IStreamClientEndpoint, reactor: Any) -> None:
        self._first = first
        self._second = second
        self._reactor = reactor

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect. The Deferred can be cancelled."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def __repr__(self) -> str:
        return f"<{self._first!r}, else {self._second!r}>"

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        return await _one_of_two(
            self._reactor,
            self._first.connect(factory),
            lambda: self._second.connect(factory),
            DIRECT_AFTER,
            final=(CancelledError,),
        )


@implementer(IStreamClientEndpoint)
class StaggeredEndpoint:
    """
    An endpoint that starts up to `TRIES` connections of another endpoint, one after the other.

    The first result counts, a failure too: a host that refuses one connection refuses all. The others are
    cancelled.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect. Cancelling the Deferred cancels all connections."""
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
        self._tries: list[Deferred[IProtocol]] = []
        self._next = Timer(clock)
        self._over = False
        self._begin()

    def _begin(self) -> None:
        trying = self._endpoint.connect(self._factory)
        self._tries.append(trying)
        trying.addCallbacks(self._connected, self._failed)
        if not self._over and len(self._tries) < TRIES:
            self._next.start(AFTER, self._begin)

    def _connected(self, protocol: IProtocol) -> None:
        self._end()
        self.result.callback(protocol)

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._end()
            self.result.errback(failure)

    def _end(self) -> None:
        self._over = True
        self._next.cancel()
        for trying in self._tries:
            trying.cancel()

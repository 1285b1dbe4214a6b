"""
TCP connections to the rendezvous and to relays, on networks that lose packets, have IPv6 alone, or let only a
proxy out.

**Lost packets.** After a lost SYN the system waits for a second, and after the next one for two more
(RFC 6298, section 5.7 has three): too long for a link that waits for the rendezvous. `StaggeredEndpoint`
starts another connection soon, as RFC 8305 does for another address, and takes the first that comes about.

**NAT64.** On a network that has IPv6 alone, a translator (RFC 6146) reaches IPv4 addresses. Names need
nothing, since the network's name servers make IPv6 addresses of IPv4 ones (DNS64). For an IPv4 address that
was written down, `IPv4Endpoint` discovers the prefix of the translator by the name `ipv4only.arpa`, whose
IPv4 addresses are well known (RFC 7050), and puts it before the address (RFC 6052).

**Proxies.** `ProxyEndpoint` connects through a proxy, and `PreferredEndpoint` beside it directly, unless the
proxy is required.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, FailureGroup, race
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    ConnectionRefusedError,
    NoRouteError,
)
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer, providedBy

from punch.net.driver import Timer
from punch.net.reactor import look_up
from punch.node.control.hosts import is_name
from punch.wire.proxy import Handshake, ProxyError, ProxyKind, ProxyRefusal, ProxySettings, handshake
from punch.wire.special_addresses import DISCOVERY_NAME, Scope, prefixes, scope_of, translated

DISCOVERY_TIME = 1.0
"""Seconds for which the discovery of a NAT64 is waited for."""
NAT64_DELAY = 0.4
"""Seconds after which a connection that has not been made is tried through a NAT64 too."""
DIRECT_AFTER = 1.5
"""Seconds after which a host is tried without its proxy too, unless that is required."""

AFTER = 0.5
"""Seconds after which `StaggeredEndpoint` starts another connection."""
TRIES = 3
"""How many connections it starts at most."""
CONNECT_TIME = 10.0
"""Seconds that a TCP connection may take to be made."""
HANDSHAKE_TIME = 10.0
"""Seconds, from the TCP connection to a proxy on, within which it has to connect to the host."""
DUMMY_ADDRESS = "192.0.0.8"
"""
Stands for the IP address of a host if only the proxy knows that. No host has this address (RFC 7600, section
4.8).
"""


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
    Begin a second connection when the first one fails, or has no result after so many seconds. Return the one
    that is made first. If both fail, the error is that of `first`.

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
    An endpoint that connects through a first one, and also through a second one if the first fails, or has no
    result after `DIRECT_AFTER`. The connection that is made first counts. If both fail, the error is that of
    the first.

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


@implementer(IStreamClientEndpoint)
class ProxyEndpoint:
    """
    TCP to a host through a proxy. The transport's peer is the host, with `DUMMY_ADDRESS` if this machine's
    name servers know no global address of its name. Nothing proves that the proxy connects to such an
    address, so one of a private network or of this machine counts only if it was given instead of a name.

    :param reactor: resolves names, and is the clock.
    :param to_proxy: connects to the proxy.
    """

    def __init__(
        self, reactor: Any, to_proxy: IStreamClientEndpoint, settings: ProxySettings, host: str, port: int
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._host = host
        self._port = port
        self._to_proxy = to_proxy

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect. It fails with a `ProxyError`. The Deferred can be cancelled."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def __repr__(self) -> str:
        return f"<{self._host}:{self._port} through {self._settings.proxy.location}>"

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        peer: list[IAddress] = []
        if is_name(self._host.partition("%")[0]):
            look_up(self._reactor, self._host, lambda hosts: peer.extend(map(self._address, _global(hosts))))
        else:
            peer.append(self._address(self._host))
        said = handshake(self._settings.proxy, self._host, self._port)

        tunnels = _Tunnels(factory, said, lambda: peer[0] if peer else self._address(DUMMY_ADDRESS))
        try:
            tunnel = await self._endpoint().connect(tunnels)
        except (ConnectError, OSError, ValueError) as error:
            raise ProxyError(ProxyRefusal.NO_CONNECTION, str(error)) from error
        assert isinstance(tunnel, _Tunnel)
        tunnel.limit(Timer(self._reactor))
        return await tunnel.through

    def _endpoint(self) -> IStreamClientEndpoint:
        """:raise ValueError: the proxy's certificate can't be for its name, as with an underscore."""
        proxy = self._settings.proxy
        if proxy.kind is not ProxyKind.HTTPS:
            return self._to_proxy
        options = cast(Any, optionsForClientTLS)(proxy.host)
        return wrapClientTLS(options, self._to_proxy, clock=self._reactor)

    def _address(self, host: str) -> IAddress:
        kind = IPv6Address if ":" in host else IPv4Address
        address: IAddress = kind("TCP", host, self._port)
        return address


def _global(hosts: Iterable[str]) -> list[str]:
    return [host for host in hosts if scope_of(host) is Scope.GLOBAL]


class _Tunnels(WrappingFactory[Any]):
    """Makes the connection to a proxy."""

    noisy = False

    def __init__(self, factory: IProtocolFactory, said: Handshake, peer: Callable[[], IAddress]) -> None:
        cast(Any, super()).__init__(factory)
        self._said = said
        self._peer = peer

    def buildProtocol(self, addr: object) -> _Tunnel:
        """Return the only one."""
        return _Tunnel(self, self._said, self._peer)


class _Tunnel(ProtocolWrapper):
    """
    The connection to a proxy, and then the transport of the protocol that is connected through it.

    :ivar through: fires with that protocol, or fails.
    """

    def __init__(self, tunnels: _Tunnels, said: Handshake, peer: Callable[[], IAddress]) -> None:
        super().__init__(cast(Any, tunnels), cast(Any, None))
        self.through: Deferred[IProtocol] = Deferred(lambda _: self._fail(CancelledError()))
        self._factory = tunnels.wrappedFactory
        self._said: Handshake | None = said
        self._peer = peer
        self._timer: Timer | None = None

    def limit(self, timer: Timer) -> None:
        """Give the proxy `HANDSHAKE_TIME`."""
        if self._said is not None:
            self._timer = timer
            timer.start(HANDSHAKE_TIME, self._fail, ProxyError(ProxyRefusal.SILENT))

    def getPeer(self) -> IAddress:
        """The host that is connected to."""
        return self._peer()

    def makeConnection(self, transport: ITransport) -> None:
        """There is a connection to the proxy."""
        directlyProvides(self, providedBy(transport))
        cast(Any, Protocol).makeConnection(self, transport)
        self.factory.registerProtocol(self)
        if self._said is not None:
            transport.write(self._said.begin())

    def dataReceived(self, data: bytes) -> None:
        """Take what the proxy says, and then what comes through it."""
        if self._said is None:
            if self.wrappedProtocol is not None:
                self.wrappedProtocol.dataReceived(data)
            return
        try:
            reply = self._said.receive(data)
        except ProxyError as error:
            self._fail(error)
            return
        if reply:
            cast(Any, self.transport).write(reply)
        rest = self._said.rest
        if rest is not None:
            self._established(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is over."""
        if self.wrappedProtocol is None:
            self.factory.unregisterProtocol(self)
            closed = isinstance(reason.value, ConnectionClosed)
            # Otherwise TLS has failed
            self._fail(ProxyError(ProxyRefusal.CLOSED if closed else ProxyRefusal.NOT_A_PROXY))
        else:
            cast(Any, super()).connectionLost(reason)

    def _established(self, rest: bytes) -> None:
        self._said = None
        self._stop()
        protocol = self._factory.buildProtocol(self.getPeer())
        if protocol is None:
            self._fail(CancelledError())
            return
        self.wrappedProtocol = cast(Any, protocol)
        protocol.makeConnection(cast(Any, self))
        self.through.callback(protocol)
        if rest and self.wrappedProtocol is not None:
            protocol.dataReceived(rest)

    def _fail(self, error: Exception) -> None:
        self._stop()
        if self.wrappedProtocol is None:
            cast(Any, self.transport).abortConnection()
        if not self.through.called:
            self.through.errback(error)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

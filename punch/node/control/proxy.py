"""TCP connections through a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
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
from punch.wire.special_addresses import Scope, scope_of

HANDSHAKE_TIME = 10.0
"""Seconds, from the TCP connection to a proxy on, within which it has to connect to the host."""
DUMMY_ADDRESS = "192.0.0.8"
"""
Stands for the IP address of a host if only the proxy knows that. No host has this address (RFC 7600, section
4.8).
"""


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

"""
What netcheck tries beside its experiments with reflectors: a relay that the rendezvous offers (`RelayTrial`),
the routers (`PortMappingTrial`), and whether a captive portal answers in place of a host
(`answers_as_portal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from punch.ice.port_lease import PortMapping
from punch.identity import RandomBytes
from punch.natcheck.captive_portal import (
    LONGEST,
    needs_look_up,
    portal_request,
    redirects_to,
    requires_sign_in,
)
from punch.natcheck.transactions import Bind
from punch.net.driver import Timer
from punch.net.reactor import look_up
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import DatagramSocket
from punch.net.upnp import Upnp
from punch.node.network.port_mappings import Gateways, PortMappings
from punch.node.network.relay import (
    DatagramRelayClient,
    RelayClient,
    RelayContext,
    StreamRelayClient,
    relay_endpoint,
)
from punch.node.network.relay_pool import MAX_DATAGRAM_TRIES
from punch.turn.client.requests import AllocationProblem
from punch.wire.address import Address, TCPAddress, canonical
from punch.wire.proxy import ProxySettings
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn import RelayServer, TurnTransport

TRIAL_TIME = 8.0
"""Seconds that a relay has to answer."""
GIVE_BACK_TIME = 0.5
"""Seconds that a relay has to take the allocation back; then it is left to expire (RFC 8656, section 3.2)."""
HTTP_PORT = 80
PORTAL_TIME = 3.0
"""Seconds that the connection may take to be made, as many for the answer, and as many for a look-up."""


class RelayTrial:
    """
    Tries one relay over the transport that it is offered for: requests an allocation and deletes it. Over
    UDP, it does so from each local address.

    :ivar result: fires with whether it works.
    """

    def __init__(
        self,
        server: RelayServer,
        *,
        reactor: Any,
        name: str,
        addresses: Sequence[str],
        hosts: Sequence[str],
        open_socket: OpenSocket,
        random: RandomBytes,
        monotonic: Callable[[], float],
        roots: Sequence[x509.Certificate] | None,
        proxy: ProxySettings | None,
        clock: Any,
    ) -> None:
        """
        :param name: the host of the rendezvous, where its own relay is.
        :param addresses: IP addresses of the relay, as far as the rendezvous may name them.
        :param hosts: our own IP addresses.
        :param roots: the authorities for relays without a pin; None for the platform's.
        :param proxy: the proxy to reach it through over TCP, if there is one, with the reactor `clock`.
        """
        self.server = server
        self.result: Deferred[bool] = Deferred()
        self._reactor = reactor
        self._name = name
        self._addresses = addresses
        self._hosts = hosts
        self._open_socket = open_socket
        self._roots = roots
        self._proxy = proxy
        self._clock = clock
        self._context = RelayContext(self, _nothing, reactor, monotonic, random)
        self._relays: list[RelayClient] = []
        self._trying: list[RelayClient] = []
        self._flows: dict[Address, DatagramRelayClient] = {}
        self._sockets: dict[Address, DatagramSocket] = {}
        self._over = False
        self._timer = Timer(reactor)

    def start(self) -> None:
        """Request the allocation."""
        self._timer.start(TRIAL_TIME, self._end, False)
        attempts: Sequence[DatagramRelayClient | StreamRelayClient]
        if self.server.url.transport is TurnTransport.UDP:
            attempts = self._datagram_relays()
        else:
            attempts = self._stream_relays()
        self._relays = list(attempts)
        self._trying = list(attempts)
        for each in attempts:
            each.start()
        if not attempts:
            self._end(False)

    # Calls of the relay clients (RelayClientOwner)

    def relay_allocated(self, relay: RelayClient) -> None:
        """The relay works."""
        self._end(True)

    def relay_failed(self, relay: RelayClient, problem: AllocationProblem, text: str) -> None:
        """One attempt has failed; another may succeed."""
        if relay in self._trying:
            self._trying.remove(relay)
        if not self._trying:
            self._end(False)

    def relay_limited(self, relay: RelayClient, limit: RelayLimit) -> None:
        """Ignored: that the relay has allocated an address is all that is tried."""

    # The inside

    def _datagram_relays(self) -> list[DatagramRelayClient]:
        port = self.server.url.port
        places = [
            (host, canonical(address, port))
            for address in self._addresses
            for host in self._hosts
            if (":" in host) == (":" in address)
        ]
        relays = []
        for host, address in places[:MAX_DATAGRAM_TRIES]:
            try:
                socket = self._open_socket(self._reactor, host, 0, self._received)
            except (OSError, CannotListenError):
                continue
            self._sockets[socket.local] = socket
            relay = self._flows[socket.local] = DatagramRelayClient(
                self.server, self._context, base=socket.local, address=address, send=self._send
            )
            relays.append(relay)
        return relays

    def _stream_relays(self) -> list[StreamRelayClient]:
        endpoint = relay_endpoint(
            self._reactor,
            self.server,
            self._name,
            self._roots,
            self._proxy,
            self._clock,
            vetted=bool(self._addresses),
        )
        return [] if endpoint is None else [StreamRelayClient(self.server, self._context, endpoint)]

    def _send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        self._sockets[local].send(datagrams, remote)

    def _received(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        relay = self._flows.get(socket.local)
        if relay is not None and remote == relay.address:
            relay.receive(datagrams)

    def _end(self, works: bool) -> None:
        if self._over:
            return
        self._over = True
        self._trying.clear()
        for relay in self._relays:
            relay.close()
        self._timer.start(GIVE_BACK_TIME if works else 0.0, self._close, works)

    def _close(self, works: bool) -> None:
        for relay in self._relays:
            relay.abandon()
        for socket in self._sockets.values():
            socket.close()
        self.result.callback(works)


def _nothing(datagrams: Sequence[bytes], peer: Address, relayed: Address) -> None:
    """Ignore datagrams: no peer has a permission."""


def answers_as_portal(reactor: Any, name: str, host: str) -> Deferred[bool]:
    """
    Ask the web server of a host, to find out whether a captive portal answers in its place.

    :param name: what the user calls the host.
    :param host: its IP address.
    :return: fires with whether a portal answers; with False also if nobody answers.
    """
    endpoint_class: Any = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    request = _PortalRequest(reactor, name, host)
    endpoint = endpoint_class(reactor, host, HTTP_PORT, timeout=PORTAL_TIME)
    endpoint.connect(Factory.forProtocol(lambda: request)).addErrback(lambda _: request.end())
    return request.result


class _PortalRequest(Protocol):
    """
    The connection to the web server, or to the portal. It ends when the head of the answer is complete, or
    after `PORTAL_TIME`.
    """

    def __init__(self, reactor: Any, name: str, host: str) -> None:
        self.result: Deferred[bool] = Deferred()
        self._reactor = reactor
        self._ended = False
        self._name = name
        self._host = host
        self._answer = b""
        self._timer = Timer(reactor)

    def connectionMade(self) -> None:
        self._timer.start(PORTAL_TIME, self.end)
        assert self.transport is not None
        self.transport.write(portal_request(self._name))

    def dataReceived(self, data: bytes) -> None:
        self._answer += data
        if b"\r\n\r\n" in self._answer or len(self._answer) > LONGEST:
            self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end()

    def end(self) -> None:
        """Close the connection, and find out whether what was received comes from a portal."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]
        portal, other = requires_sign_in(self._answer), redirects_to(self._answer, self._name)
        if not portal and other is not None and needs_look_up(self._name, other):
            self._timer.start(PORTAL_TIME, self._tell, False)
            look_up(self._reactor, other, self._looked_up)
        else:
            self._tell(portal or other is not None)

    def _looked_up(self, addresses: list[str]) -> None:
        """The host that the browser is sent to has these addresses; none if its name is not known."""
        self._tell(bool(addresses) and self._host not in addresses)

    def _tell(self, portal: bool) -> None:
        self._timer.cancel()
        if not self.result.called:
            self.result.callback(portal)


class PortMappingTrial:
    """
    Finds out whether routers map ports: asks for one UDP and one TCP port for each local IP address, has the
    UDP ports tried, and deletes the mappings.

    :param bind: opens a socket at a local IP address and returns its address; None if that is not possible.
        The socket stays open; the caller closes it when `result` has fired.
    :param reach: finds out whether everybody reaches the UDP port of a mapping; None: that is not known.
    :ivar result: fires with the mappings and the answers of `reach`, which is None for a TCP port; with an
        empty dictionary if no router maps a port.
    """

    def __init__(
        self,
        reactor: Any,
        monotonic: Callable[[], float],
        random: RandomBytes,
        open_socket: OpenSocket,
        gateways: Gateways,
        upnp: Upnp | None,
        bind: Bind,
        reach: Callable[[PortMapping], Deferred[bool | None]],
    ) -> None:
        self.result: Deferred[dict[PortMapping, bool | None]] = Deferred()
        self._bind = bind
        self._reach = reach
        self._ended = False
        self._waiting = 0
        self._mappings = PortMappings(reactor, monotonic, random, open_socket, gateways, upnp, self._changed)

    def start(self, hosts: Sequence[str]) -> None:
        """Ask the routers of these addresses."""
        bases = [base for base in map(self._bind, hosts) if base is not None]
        self._mappings.keep(bases)
        self._waiting = len(bases)
        for local in bases:
            # Nobody listens there: what comes in meanwhile is refused by the system
            self._mappings.map_tcp(TCPAddress(*local)).addCallback(self._mapped_tcp)
        self._changed()

    def _mapped_tcp(self, external: Address | None) -> None:
        self._waiting -= 1
        self._changed()

    def _changed(self) -> None:
        if not self._mappings.may_follow and not self._waiting and not self._ended:
            self._ended = True
            Deferred.fromCoroutine(self._try()).chainDeferred(self.result)

    async def _try(self) -> dict[PortMapping, bool | None]:
        mapped = self._mappings.current
        tried = [self._reach(each) for each in mapped]
        found: dict[PortMapping, bool | None] = dict.fromkeys(self._mappings.tcp)
        for mapping, reached in zip(mapped, tried, strict=True):
            found[mapping] = await reached
        await self._mappings.close()
        return found

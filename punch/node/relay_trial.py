"""A trial of one relay that a rendezvous offers: whether it can be reached, over its transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from punch.identity import RandomBytes
from punch.net.driver import Timer
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import DatagramSocket
from punch.node.network.relay import (
    DatagramRelayClient,
    RelayClient,
    RelayContext,
    StreamRelayClient,
    relay_endpoint,
)
from punch.node.network.relay_pool import MAX_DATAGRAM_TRIES
from punch.turn.client.events import AllocationProblem
from punch.wire.address import Address, canonical
from punch.wire.proxy import ProxySettings
from punch.wire.stun_attributes import RelayLimit
from punch.wire.turn_uri import RelayServer, TurnTransport

TRIAL_TIME = 8.0
"""Seconds that a relay has to answer."""
GIVE_BACK_TIME = 0.5
"""Seconds that a relay has to take the allocation back; then it is left to expire (RFC 8656, section 3.2)."""


class RelayTrial:
    """
    Tries one relay over the transport that it is offered for, over UDP from each local address: it requests
    an allocation and deletes it.

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
        :param hosts: our own.
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

    # What relays say (RelayClientOwner)

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
        """It has allocated an address, which is all that is tried."""

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

"""Whether a relay can be used: asks for an allocation, and gives it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall

from punch.identity import RandomBytes
from punch.net.socket_set import OpenSocket
from punch.net.udp import DatagramSocket
from punch.node.relay import DatagramRelayClient, RelayClient, StreamRelayClient
from punch.node.relay_pool import MAX_DATAGRAM_TRIES, relay_endpoint
from punch.turn.client_events import Trouble
from punch.wire.address import Address, canonical
from punch.wire.turn_uri import RelayServer, TurnTransport

TRIAL_TIME = 8.0
"""Seconds for a relay to answer."""
GIVE_BACK_TIME = 0.5
"""Seconds for it to take the allocation back; after that it ends by itself (RFC 8656, section 3.2)."""


class RelayTrial:
    """
    One relay, by the one transport that it is offered for; from every one of our addresses, if that is UDP.

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
    ) -> None:
        """
        :param name: the host of the rendezvous, where its own relay is.
        :param addresses: IP addresses of the relay.
        :param hosts: our own.
        :param roots: the authorities for relays without a pin; None for the platform's.
        """
        self.server = server
        self.result: Deferred[bool] = Deferred()
        self._reactor = reactor
        self._name = name
        self._addresses = addresses
        self._hosts = hosts
        self._open_socket = open_socket
        self._random = random
        self._monotonic = monotonic
        self._roots = roots
        self._relays: list[RelayClient] = []
        self._trying: list[RelayClient] = []
        self._flows: dict[Address, DatagramRelayClient] = {}
        self._sockets: dict[Address, DatagramSocket] = {}
        self._late: IDelayedCall | None = None

    def start(self) -> None:
        """Ask."""
        self._late = self._reactor.callLater(TRIAL_TIME, self._end, False)
        attempts: Sequence[DatagramRelayClient | StreamRelayClient]
        if self.server.url.transport is TurnTransport.UDP:
            attempts = self._datagram_relays()
        else:
            attempts = [self._stream_relay()]
        self._relays = list(attempts)
        self._trying = list(attempts)
        for each in attempts:
            each.start()
        if not attempts:
            self._end(False)

    # What relays say (RelayOwner)

    def relay_allocated(self, relay: RelayClient) -> None:
        """It works."""
        self._end(True)

    def relay_failed(self, relay: RelayClient, trouble: Trouble, text: str) -> None:
        """It doesn't; another way may."""
        if relay in self._trying:
            self._trying.remove(relay)
        if not self._trying:
            self._end(False)

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
                self.server,
                self,
                _nothing,
                base=socket.local,
                address=address,
                send=self._send,
                clock=self._reactor,
                monotonic=self._monotonic,
                random=self._random,
            )
            relays.append(relay)
        return relays

    def _stream_relay(self) -> StreamRelayClient:
        return StreamRelayClient(
            self.server,
            self,
            _nothing,
            endpoint=relay_endpoint(self._reactor, self.server, self._name, self._roots),
            clock=self._reactor,
            monotonic=self._monotonic,
            random=self._random,
        )

    def _send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        self._sockets[local].send(datagrams, remote)

    def _received(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        relay = self._flows.get(socket.local)
        if relay is not None and remote == relay.address:
            relay.receive(datagrams)

    def _end(self, works: bool) -> None:
        if self._late is None:
            return
        if self._late.active():
            self._late.cancel()
        self._late = None
        self._trying.clear()
        for relay in self._relays:
            relay.close()
        self._reactor.callLater(GIVE_BACK_TIME if works else 0.0, self._close, works)

    def _close(self, works: bool) -> None:
        for relay in self._relays:
            relay.abandon()
        for socket in self._sockets.values():
            socket.close()
        self.result.callback(works)


def _nothing(datagrams: Sequence[bytes], peer: Address, relayed: Address) -> None:
    """Nobody was permitted to send us anything."""

"""
The relay on a reactor: connects its core with sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime

from punch.identity import RandomBytes
from punch.net.driver import Driver
from punch.net.server_udp import UDPPort
from punch.rendezvous.protocol_sniffer import Established
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.relay.sockets import RelayedPorts
from punch.rendezvous.relay.stream import RelayStream
from punch.turn.server.allocation import Allocation, FiveTuple, RelayEvent
from punch.turn.server.core import RelayCore
from punch.turn.server.destinations import Destinations
from punch.turn.server.settings import RelaySettings
from punch.wire.address import Address

_BINDING_REQUEST = b"\x00\x01"


class Relay:
    """
    A TURN server. Its callers open the UDP ports and accept the TCP connections; it opens a socket for each
    relayed address.

    :param reactor: provides `IReactorUDP` and `IReactorTime`.
    :param monotonic: monotonic seconds.
    :param wall: Unix seconds, by which credentials expire.
    :param reflector: answers Binding requests that come on streams.
    :param idle_time: seconds that a connection without an allocation stays.
    :param happened: called when an allocation is made, refused or ended.
    """

    def __init__(
        self,
        settings: RelaySettings,
        destinations: Destinations,
        *,
        reactor: Any,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        random: RandomBytes,
        reflector: Reflector,
        idle_time: float,
        happened: Callable[[RelayEvent], None] = lambda event: None,
    ) -> None:
        self.clock: IReactorTime = reactor
        self.idle_time = idle_time
        self._happened = happened
        self._monotonic = monotonic
        self._wall = wall
        self._reflector = reflector
        now = monotonic()
        self.core = RelayCore(
            settings,
            RelayedPorts(reactor, self),
            destinations,
            random=random,
            now=now,
            epoch=wall() - now,
        )
        # The port for IPv4 (False) and for IPv6 (True).
        self._ports: dict[bool, UDPPort] = {}
        self._streams: dict[int, RelayStream] = {}
        self._connections = count(1)
        self._driver = Driver(reactor, monotonic, self._step, lambda: (self.core,))

    @property
    def streams(self) -> Collection[RelayStream]:
        """The TCP connections that are open."""
        return self._streams.values()

    # -- UDP --

    def datagrams_received(
        self, datagrams: Sequence[bytes], remote: Address, local: Address, port: UDPPort
    ) -> None:
        """Handle datagrams of one client on a port of the service. Call `flush` at the end of the turn."""
        self._ports[local.is_ipv6] = port
        self.core.receive(datagrams, remote, local, self._now())

    # -- streams --

    def route(self, address: IAddress, established: Established) -> IProtocol:
        """The route for STUN over TCP, plain or beneath TLS."""
        return RelayStream(self, established)

    def stream_opened(self, stream: RelayStream, remote: Address, local: Address) -> FiveTuple:
        """A connection is open. Return the five-tuple for it."""
        number = next(self._connections)
        self._streams[number] = stream
        return FiveTuple(remote, local, number)

    def stream_received(self, client: FiveTuple, messages: Sequence[bytes]) -> float:
        """Handle messages of a connection. Return the seconds for which it should not be read from."""
        now = self._now()
        for message in messages:
            if message.startswith(_BINDING_REQUEST):
                answer = self._reflector.handle(message, client.remote, now)
                if answer is not None:
                    self._streams[client.connection].send((answer,))
        wait = self.core.receive(messages, client.remote, client.local, now, client.connection)
        self.flush()
        return wait

    def stream_closed(self, client: FiveTuple) -> None:
        """A connection is closed."""
        self._streams.pop(client.connection, None)
        self.core.disconnected(client, self._monotonic())
        self._driver.run()

    def has_allocation(self, client: FiveTuple) -> bool:
        """Whether a client has an allocation that relays."""
        return client in self.core.allocations.by_client

    # -- relayed addresses --

    def relayed_received(self, allocation: Allocation, datagrams: Sequence[bytes], peer: Address) -> None:
        """Take datagrams that a peer sent to a relayed address. Call `flush` at the end of the turn."""
        self.core.receive_from_peers(allocation, datagrams, peer)

    # -- sending and time --

    def flush(self) -> None:
        """Send what is queued."""
        self._driver.run()

    def _step(self, now: float) -> None:
        to_clients, to_peers = self.core.outputs(now)
        for port, datagrams, peer in to_peers:
            port.send(datagrams, peer)
        for (remote, local, connection), messages in to_clients:
            if connection:
                stream = self._streams.get(connection)
                if stream is not None:
                    stream.send(messages)
            else:
                self._ports[local.is_ipv6].send(messages, remote, local)
        events = self.core.allocations.events
        while events:
            self._happened(events.popleft())

    def deny(self, users: frozenset[str], has_host: Callable[[str], bool]) -> None:
        """
        Refuse allocations to these users from now on, and end theirs and those of clients at refused hosts.
        """
        now = self._monotonic()
        allocations = self.core.allocations
        allocations.denied = users
        for allocation in allocations.all():
            remote = allocation.client.remote
            if allocation.user.name in users or has_host(remote.host):
                allocations.close(allocation, now)
                stream = self._streams.get(allocation.client.connection)
                if stream is not None:
                    stream.abort()
        # Connections without an allocation too, because the host is checked only when a connection comes.
        for stream in list(self._streams.values()):
            if has_host(stream.host):
                stream.abort()
        self._driver.run()

    def stop(self) -> None:
        """End all allocations and all connections that had one."""
        for stream in list(self._streams.values()):
            stream.abort()
        self.core.allocations.close_all(self._monotonic())
        self._driver.run()

    def _now(self) -> float:
        """Monotonic seconds. Also updates the core's offset to wall time, which may have been set."""
        now = self._monotonic()
        self.core.epoch = self._wall() - now
        return now

"""
The relay on a reactor: between its core and the sockets.
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
    A TURN server on UDP ports that others opened, on TCP connections that others accepted, and on sockets of
    its own for the relayed addresses.

    :param reactor: provides `IReactorUDP` and `IReactorTime`.
    :param monotonic: monotonic seconds.
    :param wall: Unix seconds, which credentials expire by.
    :param reflector: answers Binding requests that come on streams.
    :param idle_time: seconds that a connection without an allocation stays.
    :param happened: is told of allocations that are made, refused and ended.
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
        # By whether they are of IPv6.
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
        """Datagrams of one client, on one of the service's ports. Call `flush` at the end of the turn."""
        self._ports[local.is_ipv6] = port
        self.core.receive(datagrams, remote, local, self._now())

    # -- streams --

    def route(self, address: IAddress, established: Established) -> IProtocol:
        """The route for STUN over TCP, plain or beneath TLS."""
        return RelayStream(self, established)

    def stream_opened(self, stream: RelayStream, remote: Address, local: Address) -> FiveTuple:
        """A connection came."""
        number = next(self._connections)
        self._streams[number] = stream
        return FiveTuple(remote, local, number)

    def stream_received(self, client: FiveTuple, messages: Sequence[bytes]) -> float:
        """It brought messages; for how many seconds nothing more should be read from it."""
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
        """It is gone."""
        self._streams.pop(client.connection, None)
        self.core.disconnected(client, self._monotonic())
        self._driver.run()

    def has_allocation(self, client: FiveTuple) -> bool:
        """Whether it is of use to anyone."""
        return client in self.core.allocations.by_client

    # -- relayed addresses --

    def relayed_received(self, allocation: Allocation, datagrams: Sequence[bytes], peer: Address) -> None:
        """Take datagrams that a peer sent to a relayed address. Call `flush` at the end of the turn."""
        self.core.receive_from_peers(allocation, datagrams, peer)

    # -- sending and time --

    def flush(self) -> None:
        """Send what has gathered."""
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
        Make no allocation for these users from now on, and end theirs and those of clients at these hosts.
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
        # Those too that have no allocation yet: where a connection is from is looked at when it comes.
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
        """Monotonic seconds; the core is told what they are in wall time, which may have been set since."""
        now = self._monotonic()
        self.core.epoch = self._wall() - now
        return now

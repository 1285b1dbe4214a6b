"""Hosts: their addresses, routes and sockets, and the failures that a machine can have."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from punch.test.internet.clock import Clock
from punch.test.internet.links import LinkSpec
from punch.test.internet.network import Attachment, Lan, Network
from punch.test.internet.packet import (
    Endpoint,
    Packet,
    header_size,
    is_ipv6,
    is_loopback,
    os_error,
)
from punch.test.internet.ports import PortTable
from punch.test.internet.reactor import HostReactor
from punch.test.internet.tcp import TCPStack

if TYPE_CHECKING:
    from punch.test.internet.world import Internet

_LOOPBACK_LINK = LinkSpec(mtu=65536)


class DatagramReceiver(Protocol):
    """A bound UDP socket."""

    def receive(self, packet: Packet) -> None: ...


class Host:
    """A machine with one process, which is whatever uses `reactor`."""

    def __init__(self, net: Internet, name: str) -> None:
        self.net = net
        self.name = name
        self.interfaces: list[Attachment] = []
        self._owned: frozenset[str] = frozenset()
        self._routes: dict[tuple[str, str | None], Attachment | None] = {}
        self.kernel_clock = Clock(net.scheduler)
        random = net.random(f"host {name}")
        self.udp: PortTable[DatagramReceiver] = PortTable(self.owns, random)
        self.tcp = TCPStack(self, random)
        self._loopback = net.wire(f"{name} loopback", _LOOPBACK_LINK)
        self.reactor = HostReactor(self)

    # -- addresses and routes --

    @property
    def addresses(self) -> list[str]:
        """The addresses of all interfaces, without loopback."""
        return [address for interface in self.interfaces for address in interface.addresses]

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]

    def monotonic(self) -> float:
        """This machine's `time.monotonic`: does not count sleep, as on Linux."""
        return self.reactor.seconds()

    def wall(self) -> float:
        """This machine's `time.time`: seconds since the simulation began, unless its clock was set."""
        return self.reactor.wall()

    def set_wall(self, seconds: float) -> None:
        """Set this machine's wall clock forward by `seconds`, or back if it is negative."""
        self.reactor.set_wall(seconds)

    def attach(
        self, network: Network, addresses: Iterable[str] = (), link: LinkSpec | None = None
    ) -> Attachment:
        """Add an interface, on a LAN or the public internet."""
        if link is None:
            link = network.host_link if isinstance(network, Lan) else LinkSpec()
        name = f"{self.name}" if not self.interfaces else f"{self.name} {network.name}"
        given = list(addresses) or network.free_addresses()
        interface = Attachment(name, network, given, self._receive, link, link)
        self.interfaces.append(interface)
        self._readdressed()
        return interface

    def detach(self, network: Network) -> None:
        """Remove the interface on a network."""
        for interface in [each for each in self.interfaces if each.network is network]:
            interface.detach()
            self.interfaces.remove(interface)
        self._readdressed()

    def move(self, network: Network, *addresses: str, link: LinkSpec | None = None) -> None:
        """Leave all networks and join another, as a laptop does; sockets stay open, addresses may change."""
        for interface in self.interfaces:
            interface.detach()
        self.interfaces.clear()
        self.attach(network, addresses, link)

    def owns(self, address: str) -> bool:
        """Whether an address belongs to this host."""
        return address in self._owned or is_loopback(address)

    def _readdressed(self) -> None:
        self._owned = frozenset(self.addresses)
        self._routes.clear()

    def route(self, destination: str, source: str | None = None) -> Attachment | None:
        """
        The interface by which packets leave for `destination`: a given source address's own,
        else one on whose network it lies, else the first that leads outside.
        """
        asked = (destination, source)
        try:
            return self._routes[asked]
        except KeyError:
            route = self._routes[asked] = self._find_route(destination, source)
            return route

    def _find_route(self, destination: str, source: str | None) -> Attachment | None:
        ipv6 = is_ipv6(destination)
        fallback = None
        for interface in self.interfaces:
            addresses = interface.addresses
            if all(is_ipv6(each) != ipv6 for each in addresses) or (source and source not in addresses):
                continue
            if interface.network.is_local(destination):
                return interface
            if fallback is None and interface.network.has_route(destination):
                fallback = interface
        return fallback

    def source_for(self, destination: str) -> str:
        """
        The address that a socket which is not bound to one sends from.

        :raise OSError: ENETUNREACH.
        """
        if self.owns(destination):
            return destination
        interface = self.route(destination)
        if interface is None:
            raise os_error(errno.ENETUNREACH)
        return next(each for each in interface.addresses if is_ipv6(each) == is_ipv6(destination))

    # -- packets --

    def send(
        self,
        protocol: str,
        source: Endpoint,
        destination: Endpoint,
        payload: object,
        length: int,
        ttl: int | None = None,
        routers: int | None = None,
    ) -> None:
        """
        Send `length` bytes of payload.

        :raise OSError: ENETUNREACH, EINVAL (from loopback to elsewhere), EADDRNOTAVAIL (the source
            address has gone).
        """
        size = length + header_size(protocol, destination[0])
        packet = Packet(protocol, source, destination, payload, size, ttl, routers)
        if self.owns(destination[0]):
            self._loopback.carry(packet, self._receive, later=True)
            return
        if is_loopback(source[0]):
            raise os_error(errno.EINVAL)
        interface = self.route(destination[0], source[0])
        if interface is None:
            raise os_error(errno.ENETUNREACH if self.owns(source[0]) else errno.EADDRNOTAVAIL)
        interface.send(packet)

    def mtu_towards(self, destination: str) -> int:
        """The size in bytes of the largest packet that the link towards `destination` carries."""
        if self.owns(destination):
            return self._loopback.spec.mtu
        interface = self.route(destination)
        return 1500 if interface is None else interface.up.spec.mtu

    def _receive(self, packet: Packet) -> None:
        host = packet.destination[0]
        asleep = self.kernel_clock.paused_until > self.kernel_clock.scheduler.now
        if asleep or not (host in self._owned or is_loopback(host)):
            return
        if packet.protocol == "udp":
            receiver = self.udp.find(packet.destination)
            if receiver is not None:
                receiver.receive(packet)
        else:
            self.tcp.receive(packet)

    # -- failures --

    @property
    def is_asleep(self) -> bool:
        """Whether the machine sleeps now."""
        return self.kernel_clock.paused_until > self.net.scheduler.now

    def sleep(self, seconds: float) -> None:
        """Suspend the machine for `seconds`: no timer fires, and packets to it are lost."""
        self.kernel_clock.pause(seconds)
        self.reactor.pause(seconds)

    def down(self) -> None:
        """Cut all links: packets are lost in both directions, with no error."""
        for interface in self.interfaces:
            interface.set_up(False)

    def up(self) -> None:
        """Undo `down`."""
        for interface in self.interfaces:
            interface.set_up(True)

    def kill(self) -> None:
        """End the process, as SIGKILL does: its protocols are not told, and the kernel closes its sockets."""
        self.reactor.end()
        self.udp.clear()
        self.tcp.close_all()

    def crash(self) -> None:
        """Lose power: all state is lost and no packet is sent. After `up` a new process may use `reactor`."""
        self.down()
        self.reactor.end()
        self.udp.clear()
        self.tcp.vanish()

    def shutdown(self) -> Deferred[None]:
        """End the process in good order, as SIGTERM does: fires when its shutdown triggers have run."""
        return self.reactor.shut_down()

    def __repr__(self) -> str:
        return f"<Host {self.name}: {', '.join(self.addresses)}>"

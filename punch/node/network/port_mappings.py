"""
The ports of routers that lead to the node's UDP sockets, for as long as the node runs, and to the TCP ports
at which it listens for a peer, while it does so.

Requests leave from sockets of their own, one for each IP address, so that the node's sockets carry nothing
of this. They are open only while an answer is awaited.

A mapping is also kept while no call is likely. That takes 24 requests a day, and the next offer or answer
contains the candidate at once. A TCP port is needed only by attempts where a network passes no UDP, which a
relay carries meanwhile. So it is asked for when an attempt begins, and given back after it, or with the
connection that came there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError

from punch.ice.port_lease import MappingProtocol, PortMapping
from punch.ice.port_mapper import Mapped, PortMapper, SentRequests
from punch.identity import RandomBytes
from punch.net.driver import Driver
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import DatagramSocket
from punch.net.upnp import Upnp
from punch.wire.address import Address
from punch.wire.port_mapping import UpnpGrant, UpnpRequest

Gateways = Callable[[], Mapping[str, str]]
"""Returns the default gateway of each local IP address that has one."""


class PortMappings:
    """
    Asks the routers of this machine for ports.

    :param open_socket: opens a socket at an IP address and a port (0: any).
    :param gateways: None: no port is mapped.
    :param upnp: asks a router by UPnP; None: that is not possible.
    :param changed: called when there is another mapping, or none is to be expected soon any more.
    """

    def __init__(
        self,
        reactor: Any,
        monotonic: Callable[[], float],
        random: RandomBytes,
        open_socket: OpenSocket,
        gateways: Gateways | None,
        upnp: Upnp | None,
        changed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._open_socket = open_socket
        self._gateways = gateways
        self._upnp = upnp
        self._changed = changed
        self._core = PortMapper(random, upnp=upnp is not None)
        self._performing = 0
        self._closed: Deferred[None] | None = None
        self._waiting: dict[Address, Deferred[Address | None]] = {}
        self._sockets: dict[str, DatagramSocket] = {}
        self._may_follow = False
        self._driver = Driver(reactor, monotonic, self._step, lambda: (self._core,))

    @property
    def current(self) -> list[PortMapping]:
        """The mappings of UDP sockets that there are now."""
        return [mapping for mapping in self._core.mappings if mapping.base.protocol == "udp"]

    @property
    def tcp(self) -> list[PortMapping]:
        """The mappings of TCP ports that there are now."""
        return [mapping for mapping in self._core.mappings if mapping.base.protocol == "tcp"]

    @property
    def sent(self) -> Mapping[MappingProtocol, SentRequests]:
        """What routers were sent so far, by each protocol that was used."""
        return dict(self._core.sent)

    @property
    def may_follow(self) -> bool:
        """Whether a first answer of a router may come soon."""
        return self._core.may_follow

    def keep(self, bases: Sequence[Address], *, anew: bool = False) -> None:
        """
        Map the ports of the UDP sockets at these addresses, and of no others, from now on.

        :param anew: ask all routers again, since the network may be another one.
        """
        if self._gateways is not None:
            self._core.keep(bases, self._gateways(), self._driver.now(), anew=anew)
            self._driver.run()

    def map_tcp(self, base: Address) -> Deferred[Address | None]:
        """
        Map a TCP port until `unmap_tcp`.

        :return: fires with its external address, as in `PortMapping`; with None if the router maps none, as
            far as can be known soon.
        """
        mapped = self._waiting[base] = Deferred()
        self._core.add_tcp(base, self._driver.now())
        self._driver.run()
        self._tell_waiting()
        return mapped

    def unmap_tcp(self, base: Address) -> None:
        """Nobody listens at this TCP port any more."""
        self._core.remove_tcp(base, self._driver.now())
        self._driver.run()

    def close(self) -> Deferred[None]:
        """
        Delete the mappings, and close the sockets.

        :return: fires when routers were told, which takes 50 ms, or some time with UPnP; at once if there is
            nothing to delete.
        """
        if self._closed is not None:
            return self._closed
        self._closed = Deferred()
        self._core.release(self._driver.now())
        self._tell_waiting()
        self._driver.run()
        return self._closed

    def _step(self, now: float) -> bool:
        self._send(now)
        self._perform()
        self._close_idle()
        if self._closed is not None:
            self._end(self._closed)
            return False
        before, self._may_follow = self._may_follow, self._core.may_follow
        changed = before and not self._may_follow
        while (event := self._core.next_event()) is not None:
            changed = changed or (isinstance(event, Mapped) and event.mapping.base.protocol == "udp")
        if changed:
            self._changed()
        return self._tell_waiting()

    def _tell_waiting(self) -> bool:
        """
        Tell those who wait for a TCP port that it is mapped, or probably will not be.

        :return: whether anybody was told.
        """
        told = False
        for base in list(self._waiting):
            mapping = self._core.mapping_of(base)
            if mapping is not None or not self._core.awaits_tcp(base):
                self._waiting.pop(base).callback(None if mapping is None else mapping.external)
                told = True
        return told

    def _send(self, now: float) -> None:
        for data, remote, local in self._core.datagrams_to_send(now):
            socket = self._socket(local.host)
            if socket is not None:
                socket.send([data], remote)

    def _perform(self) -> None:
        """Ask routers by UPnP."""
        for request in self._core.upnp_requests():
            if self._upnp is not None:
                self._performing += 1
                self._upnp(request).addCallback(self._performed, request)

    def _performed(self, grant: UpnpGrant | None, request: UpnpRequest) -> None:
        self._performing -= 1
        self._core.receive_upnp(request, grant, self._driver.now())
        self._driver.run()

    def _end(self, closed: Deferred[None]) -> None:
        """Close everything when all mappings are deleted."""
        if self._performing or self._core.is_releasing or closed.called:
            return
        self._driver.stop()
        for socket in self._sockets.values():
            socket.close()
        self._sockets.clear()
        closed.callback(None)

    def _socket(self, host: str) -> DatagramSocket | None:
        socket = self._sockets.get(host)
        if socket is None:
            try:
                socket = self._open_socket(self._reactor, host, 0, self._received)
            except (OSError, CannotListenError):
                return None
            self._sockets[host] = socket
        return socket

    def _received(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        now = self._driver.now()
        for data in datagrams:
            self._core.receive_datagram(data, remote, socket.local, now)
        self._driver.run()

    def _close_idle(self) -> None:
        """Close the sockets that no answer is awaited at."""
        for host in self._sockets.keys() - self._core.in_use:
            self._sockets.pop(host).close()

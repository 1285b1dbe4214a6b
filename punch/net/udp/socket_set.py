"""
The UDP sockets of a node: one for each local address, shared by all its calls.

A socket on the wildcard address may answer from the wrong address on a host with several. So each local
address has a socket of its own, at a port that the system chooses. All calls share them, because a NAT with
endpoint-independent mapping then shows the same address to every peer, and the reflector can tell it before
the first call.

On a network of IPv6 alone, a `ClatSocket` reaches IPv4 addresses through the network's NAT64. It does for one
program what the customer-side translator of 464XLAT does for a machine (CLAT, RFC 6877): what is sent to an
IPv4 address leaves an IPv6 socket, for the IPv6 address that consists of the prefix of the NAT64 and the IPv4
address. What comes from such an IPv6 address seems to come from the IPv4 address. So all code that uses the
socket, or counts what is sent to an address, knows that address in one form only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from twisted.internet.error import CannotListenError

from punch.net.interfaces import select
from punch.net.udp.sockets import DatagramSocket, Reach, Receiver
from punch.wire.address import Address, Transmit
from punch.wire.special_addresses import Prefix, to_ipv4, to_ipv6

OpenSocket = Callable[[Any, str, int, Receiver], DatagramSocket]


class DatagramSender(Protocol):
    """What sends datagrams from one local address: a socket, a relay, or a TCP connection."""

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """Send datagrams to one address. It raises nothing: what can't be sent is lost."""


class SocketSet:
    """Opens sockets for the local addresses, and sends through them."""

    def __init__(
        self,
        reactor: object,
        open_socket: OpenSocket,
        addresses: Callable[[], list[str]],
        receive: Receiver,
        other: Callable[[Address, Address], DatagramSender | None],
        preferred: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """
        :param open_socket: opens a socket at an IP address and a port (0: any).
        :param addresses: returns the IP addresses of this machine.
        :param receive: takes what the sockets receive.
        :param other: returns what sends from a local address that belongs to no socket, to a remote address;
            None if nothing does.
        :param preferred: returns the local addresses from which the rendezvous is reached, if known.
        """
        self._other = other
        self._reactor = reactor
        self._open_socket = open_socket
        self._addresses = addresses
        self._preferred = preferred
        self._receive = receive
        self._hosts: list[str] = []
        self._sockets: dict[Address, DatagramSocket] = {}
        self._extra: dict[Address, DatagramSocket] = {}

    @property
    def bases(self) -> list[Address]:
        """The local addresses of the open sockets, in order of preference."""
        by_host = {base.host: base for base in self._sockets}
        best = [by_host.pop(host) for host in self._hosts if host in by_host]
        return [*best, *by_host.values()]

    def refresh(self, in_use: Collection[Address] = ()) -> list[Address]:
        """
        Open a socket for each local address that has none, and close those whose address is gone.

        :param in_use: local addresses of live paths, whose sockets stay open.
        :return: the local addresses that can be used now, in order of preference. Those that cannot be bound
            are left out.
        """
        hosts = self._hosts = select(self._addresses(), preferred=self._preferred())
        for base in [base for base in self._sockets if base.host not in hosts and base not in in_use]:
            self._sockets.pop(base).close()
        by_host = {base.host: base for base in self._sockets}
        for host in hosts:
            if host in by_host:
                continue
            socket = self._open(host, self._receive)
            if socket is not None:
                self._sockets[socket.local] = socket
                by_host[host] = socket.local
        return [by_host[host] for host in hosts if host in by_host]

    def open_extra(self, host: str, receive: Receiver) -> Address | None:
        """
        Open one more socket at a local IP address, beside those of `bases`; None if that is not possible. It
        stays open until `close_extra`.
        """
        socket = self._open(host, receive)
        if socket is None:
            return None
        self._extra[socket.local] = socket
        return socket.local

    @property
    def extra(self) -> int:
        """How many sockets of `open_extra` are open."""
        return len(self._extra)

    def close_extra(self, local: Address) -> None:
        """Close a socket of `open_extra`."""
        socket = self._extra.pop(local, None)
        if socket is not None:
            socket.close()

    def send_limited(self, transmit: Transmit, reach: Reach) -> bool:
        """
        Send a datagram with a limited reach from a socket of `open_extra`. Returns False if there is no such
        socket, or no room now.
        """
        socket = self._extra.get(transmit.local)
        return socket is not None and socket.send_limited(transmit.data, transmit.remote, reach)

    def sender(self, local: Address, remote: Address) -> DatagramSender | None:
        """
        Return what sends from `local` to `remote`: a socket, or the relay or TCP connection that has this
        address; None if nothing does. What it is given after it was closed is lost.
        """
        return self._sockets.get(local) or self._extra.get(local) or self._other(local, remote)

    def send(self, datagrams: Sequence[bytes], remote: Address, local: Address) -> None:
        """Send datagrams from `local`. They are lost if nothing sends from there."""
        sender = self.sender(local, remote)
        if sender is not None:
            sender.send(datagrams, remote)

    def close(self) -> None:
        """Close all sockets."""
        for socket in (*self._sockets.values(), *self._extra.values()):
            socket.close()
        self._sockets.clear()
        self._extra.clear()

    def _open(self, host: str, receive: Receiver) -> DatagramSocket | None:
        try:
            return self._open_socket(self._reactor, host, 0, receive)
        except (OSError, CannotListenError):
            return None


# -- IPv4 through a NAT64 --


class Translation(NamedTuple):
    """
    How a machine reaches IPv4.

    :ivar host: the IPv4 address that its sockets seem to have, of `CLAT_NETWORK`.
    :ivar source: the IPv6 address of the machine that they really have.
    :ivar prefix: the prefix of the NAT64.
    """

    host: str
    source: str
    prefix: Prefix


class ClatSocket:
    """
    A socket that seems to have an IPv4 address. Datagrams to and from IPv4 addresses that are not on the
    internet are dropped, and so is what comes from other IPv6 addresses.

    :param open_socket: opens the IPv6 socket, with the receiver that it is given.
    :param receiver: is called as that of any socket.
    """

    __slots__ = ("_local", "_prefix", "_receiver", "_socket")

    def __init__(
        self,
        translation: Translation,
        open_socket: Callable[[Receiver], DatagramSocket],
        receiver: Receiver,
    ) -> None:
        self._prefix = translation.prefix
        self._receiver = receiver
        self._socket = open_socket(self._take)
        self._local = Address(translation.host, self._socket.local.port)

    @property
    def local(self) -> Address:
        return self._local

    def send(self, datagrams: Sequence[bytes], remote: Address) -> None:
        host = to_ipv6(self._prefix, remote.host)
        if host is not None:
            self._socket.send(datagrams, Address(host, remote.port))

    def send_limited(self, data: bytes, remote: Address, reach: Reach) -> bool:
        host = to_ipv6(self._prefix, remote.host)
        # What may not be sent is lost, as in `send`; False would mean that there may be room for it later
        return host is None or self._socket.send_limited(data, Address(host, remote.port), reach)

    def close(self) -> None:
        self._socket.close()

    def _take(self, datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
        host = to_ipv4(self._prefix, remote.host)
        if host is not None:
            self._receiver(datagrams, Address(host, remote.port), self)

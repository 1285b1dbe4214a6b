"""
UDP sockets that have IPv4 on a network of IPv6 alone, through its NAT64.

They do for one program what the customer-side translator of 464XLAT does for a machine (CLAT, RFC 6877): what
is sent to an IPv4 address leaves an IPv6 socket, for the address that has the prefix of the NAT64 before it,
and what comes from such an address seems to come from the IPv4 address. So all that uses the socket, and all
that counts what is sent to an address, knows that address in one form only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from punch.net.udp.sockets import DatagramSocket, Reach, Receiver
from punch.wire.address import Address
from punch.wire.nat64 import Prefix, to_ipv4, to_ipv6


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
        # What may not be sent is lost, as elsewhere: there would be no room for it later either
        return host is None or self._socket.send_limited(data, Address(host, remote.port), reach)

    def close(self) -> None:
        self._socket.close()

    def _take(self, datagrams: Sequence[bytes], remote: Address, sock: DatagramSocket) -> None:
        host = to_ipv4(self._prefix, remote.host)
        if host is not None:
            self._receiver(datagrams, Address(host, remote.port), self)

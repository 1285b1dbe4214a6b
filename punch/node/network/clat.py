"""
IPv4 for a node on a network that has only IPv6 and a NAT64 (464XLAT in user space, RFC 6877).

The prefix of the NAT64 is discovered as RFC 7050 says, from what the network's name server makes of
`ipv4only.arpa`. The other way, an option in router advertisements (RFC 8781), can't be relied on without
rights: Linux passes it on by netlink only when an advertisement arrives, and to ask for one takes a raw
socket.

While the prefix is known and used, the node has one more local address, an IPv4 one of 192.0.0.0/29 (RFC
7335). Sockets at it are `ClatSocket`s. So reflectors, candidates, checks, observations of the NAT, attempts
with special techniques, and all limits work as with any IPv4 address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Address
from typing import Any

from punch.net.udp.socket_set import ClatSocket, OpenSocket, Translation
from punch.net.udp.sockets import DatagramSocket, Receiver
from punch.node.control.hosts import HostAddresses
from punch.wire.address import parsed
from punch.wire.special_addresses import (
    CLAT_NETWORK,
    DISCOVERY_NAME,
    WELL_KNOWN,
    Prefix,
    is_clat,
    prefixes,
    synthesized,
    to_ipv4,
    translated,
)

RETRY = 30.0
"""Seconds after which a name server is asked again that has not answered."""
_OWN_ADDRESSES = [str(address) for address in CLAT_NETWORK.hosts()]


class Clat:
    """
    Finds out whether the network has a NAT64, and gives the node an IPv4 address if that is the way to IPv4.

    It does so if the rendezvous was reached through the NAT64. It also does if the rendezvous was reached
    over IPv6, and the machine's only IPv4 addresses are link-local or belong to a translator of its own.

    :param reactor: resolves names.
    :param addresses: returns the IP addresses of this machine.
    :param open_socket: opens a socket at one of these and a port (0: any).
    :param source: returns from which of these an IP address is reached; None: that is not known.
    :param changed: called when the prefix is known, or has changed.
    """

    def __init__(
        self,
        reactor: Any,
        monotonic: Callable[[], float],
        addresses: Callable[[], list[str]],
        open_socket: OpenSocket,
        source: Callable[[str], str | None],
        changed: Callable[[], None],
    ) -> None:
        self._addresses = addresses
        self._open_socket = open_socket
        self._source = source
        self._monotonic = monotonic
        self._asked_at = float("-inf")
        self._names = HostAddresses(reactor, monotonic, changed)
        self._reached: str | None = None
        self._translation: Translation | None = None
        self._free = _OWN_ADDRESSES.copy()

    def reached(self, host: str, discovered: Sequence[str] | None = None) -> None:
        """
        Note the IP address at which the rendezvous was reached. If it is an IPv6 one, look for a NAT64.

        :param discovered: the addresses of `ipv4only.arpa`, none without an answer; None: look them up.
        """
        self._reached = host
        if discovered is None:
            self.look_up_again()
        else:
            self._asked_at = self._monotonic()
            self._names.note(DISCOVERY_NAME, discovered)

    def look_up_again(self) -> None:
        """Look for a NAT64 again: the network has changed."""
        if self._searching:
            self._asked_at = self._monotonic()
            self._names.look_up(DISCOVERY_NAME)

    @property
    def prefix(self) -> Prefix | None:
        """The prefix of the network's NAT64, as far as it is known."""
        return _first_prefix(tuple(self._names.known(DISCOVERY_NAME))) if self._searching else None

    def addresses(self) -> list[str]:
        """Return the IP addresses of this machine, and the one that it has by translation."""
        if not self._names.known(DISCOVERY_NAME) and self._monotonic() >= self._asked_at + RETRY:
            self.look_up_again()
        hosts = self._addresses()
        translation = self._translation = self._translate(hosts)
        if translation is None:
            return hosts
        # The machine's own translator, if it works at all, uses the same NAT64
        return [*(host for host in hosts if not is_clat(host)), translation.host]

    def open_socket(self, reactor: Any, host: str, port: int, receiver: Receiver) -> DatagramSocket:
        """Open a socket at one of `addresses`, as `OpenSocket` says."""
        translation = self._translation
        if translation is None or host != translation.host:
            return self._open_socket(reactor, host, port, receiver)
        return ClatSocket(
            translation, partial(self._open_socket, reactor, translation.source, port), receiver
        )

    def untranslated(self, host: str) -> str:
        """Return an address as the IPv4 address that it stands for, if it has the prefix of the NAT64."""
        prefix = self.prefix
        return host if prefix is None else to_ipv4(prefix, host) or host

    def server_addresses(self, hosts: Iterable[str]) -> list[str]:
        """Return the addresses by which servers at these IP addresses are reached, each once."""
        plain = list(dict.fromkeys(map(self.untranslated, hosts)))
        prefix = self.prefix
        self._translation = self._translate(self._addresses())
        if prefix is not None and self._translation is None:
            # IPv4 may not work here although there is an address, since the rendezvous was reached by IPv6
            plain += translated(plain, [prefix])
        return plain

    def translates(self, host: str) -> bool:
        """
        Return whether an IP address has the prefix of the NAT64. A peer has no such address: it would be
        another form of an IPv4 address, which counts as that where packets to an address are limited.
        """
        prefix = self.prefix
        return prefix is not None and prefix.contains(host)

    @property
    def _searching(self) -> bool:
        return self._reached is not None and ":" in self._reached

    def _translate(self, hosts: list[str]) -> Translation | None:
        prefix, before = self.prefix, self._translation
        if prefix is None or self._reached is None:
            return None
        if any(map(_is_native_ipv4, hosts)) and not prefix.contains(self._reached):
            return None
        if before is not None and before.prefix == prefix and before.source in hosts:
            return before
        source = self._source(str(synthesized(prefix, WELL_KNOWN[0])))
        if source is None or source not in hosts:
            return None
        # Another address than earlier translations had: what is known of those, such as their sockets, does
        # not hold for this one
        host = next((each for each in self._free if each not in hosts), self._free[0])
        self._free.remove(host)
        self._free.append(host)
        return Translation(host, source, prefix)


@lru_cache(maxsize=16)  # Asked for each check that arrives
def _first_prefix(hosts: tuple[str, ...]) -> Prefix | None:
    return next(iter(prefixes(hosts)), None)


def _is_native_ipv4(host: str) -> bool:
    address = parsed(host.partition("%")[0])
    if not isinstance(address, IPv4Address):
        return False
    return not (address.is_link_local or address.is_loopback or is_clat(str(address)))

"""
IPv4 addresses on a network that has IPv6 alone: its NAT64 (RFC 6146) reaches them.

Names need nothing of this, since the network's name servers make IPv6 addresses of IPv4 ones (DNS64). For an
address that somebody wrote down, the prefix of the translator is discovered by the name `ipv4only.arpa`,
whose IPv4 addresses are well known (RFC 7050), and put before the address (RFC 6052).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, NoRouteError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from punch.peer.reflectors import look_up
from punch.wire.address import parsed

DISCOVERY_NAME = "ipv4only.arpa"
DISCOVERY_TIME = 1.0
"""Seconds for the discovery while a connection waits for it."""

_WELL_KNOWN = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
_LENGTHS = (96, 64, 56, 48, 40, 32)


class Prefix(NamedTuple):
    """What a NAT64 takes for its own: the first `length` bits of `network`; the others are zero."""

    network: int
    length: int


def prefixes(hosts: Iterable[str]) -> list[Prefix]:
    """The prefixes that the addresses of `ipv4only.arpa` tell of (RFC 7050, section 3)."""
    found: list[Prefix] = []
    for host in hosts:
        address = parsed(host)
        if isinstance(address, IPv4Address):
            continue
        for length in _LENGTHS:
            prefix = Prefix(int(address) >> 128 - length << 128 - length, length)
            whole = any(int(synthesized(prefix, known)) == int(address) for known in _WELL_KNOWN)
            if whole and prefix not in found:
                found.append(prefix)
                break
    return found


def synthesized(prefix: Prefix, address: IPv4Address) -> IPv6Address:
    """The IPv6 address that stands for an IPv4 address (RFC 6052, section 2.2); its suffix is zero."""
    network, length = prefix
    if length == 96:
        return IPv6Address(network | int(address))
    # The address follows the prefix, but for bits 64 to 71, which are zero.
    shifted = int(address) << 128 - 32 - length
    upper = shifted >> 64 << 64
    return IPv6Address(network | upper | (shifted ^ upper) >> 8)


def translated(hosts: Iterable[str], discovered: Iterable[str]) -> list[str]:
    """
    The IPv6 addresses by which the IPv4 addresses among `hosts` are reached.

    :param discovered: the addresses of `ipv4only.arpa` on this network.
    """
    known = prefixes(discovered)
    return [
        str(synthesized(prefix, address))
        for address in map(parsed, hosts)
        if isinstance(address, IPv4Address)
        for prefix in known
    ]


@implementer(IStreamClientEndpoint)
class IPv4Endpoint:
    """
    TCP to an IPv4 address: directly, or where there is no way to it, through a NAT64.

    :param reactor: connects TCP and resolves names.
    """

    def __init__(self, reactor: Any, host: str, port: int, timeout: float) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; cancelling ends it."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def __repr__(self) -> str:
        return f"<IPv4 endpoint {self._host}:{self._port}>"

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            return await self._connect_to(TCP4ClientEndpoint, self._host, factory)
        except NoRouteError:
            for host in translated([self._host], await self._discover()):
                try:
                    return await self._connect_to(TCP6ClientEndpoint, host, factory)
                except ConnectError:
                    continue
            raise

    def _connect_to(self, kind: Any, host: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[IProtocol] = kind(self._reactor, host, self._port, self._timeout).connect(
            factory
        )
        return connecting

    def _discover(self) -> Deferred[list[str]]:
        found: Deferred[list[str]] = Deferred()
        look_up(self._reactor, DISCOVERY_NAME, lambda hosts: None if found.called else found.callback(hosts))
        late = self._reactor.callLater(DISCOVERY_TIME, lambda: None if found.called else found.callback([]))

        def done(result: Any) -> Any:
            if late.active():
                late.cancel()
            return result

        return found.addBoth(done)

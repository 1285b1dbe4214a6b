"""Name resolution from a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

if TYPE_CHECKING:
    from punch.test.internet.world import Internet


@implementer(IHostResolution)
class Resolution:
    """A lookup that has not finished."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


@implementer(IHostnameResolver)
class Resolver:
    """Resolves names by `Internet.dns`, after `Internet.dns_delay` seconds, and an address to itself."""

    def __init__(self, net: Internet) -> None:
        self._net = net

    def look_up(self, name: str) -> list[str]:
        """The addresses of a name; none if there is no such name."""
        if isIPAddress(name) or isIPv6Address(name):
            return [name]
        if name == "localhost":
            return ["127.0.0.1", "::1"]
        return list(self._net.dns.get(name, ()))

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)

        def addresses() -> Iterator[IPv4Address | IPv6Address]:
            for host in self.look_up(hostName):
                kind = IPv6Address if isIPv6Address(host) else IPv4Address
                if addressTypes is None or kind in addressTypes:
                    yield kind("UDP" if transportSemantics == "DATAGRAM" else "TCP", host, portNumber)

        def answer() -> None:
            if resolution.is_cancelled:
                return
            for address in addresses():
                resolutionReceiver.addressResolved(address)
            resolutionReceiver.resolutionComplete()

        literal = isIPAddress(hostName) or isIPv6Address(hostName)
        if literal:
            answer()
        else:
            self._net.scheduler.after(self._net.dns_delay, answer)
        return resolution

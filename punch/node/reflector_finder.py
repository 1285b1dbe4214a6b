"""Where the reflector of a rendezvous is: the same host, in each address family that its name has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

from punch.wire.address import Address, canonical


class ReflectorFinder:
    """
    Tells the reflectors of one rendezvous, at most one a family.

    The address that the control connection goes to is the first and known at once; the other family's comes
    from the name, when that is resolved, and again when the network has changed.

    :param allows: whether an IP address that the name has may be used.
    :param found: called with all reflectors, each time more are known.
    """

    def __init__(
        self,
        reactor: IReactorPluggableNameResolver,
        host: str,
        allows: Callable[[str], bool],
        found: Callable[[list[Address]], None],
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._allows = allows
        self._found = found
        self._round = 0
        self._first: Address | None = None

    def find(self, connected: str, port: int) -> None:
        """
        :param connected: the IP address of the control connection.
        :param port: the reflector's UDP port; 0: there is none.
        """
        self._first = canonical(connected, port) if port else None
        self._found([] if self._first is None else [self._first])
        self.again()

    def again(self) -> None:
        """What the name was resolved to may be wrong: the network is another one."""
        self._round += 1
        if self._first is None:
            return
        try:
            ip_address(self._host)
        except ValueError:
            look_up(self._reactor, self._host, partial(self._resolved, self._round, self._first))

    def stop(self) -> None:
        """Tell nothing more."""
        self._round += 1
        self._first = None

    def _resolved(self, turn: int, first: Address, hosts: Sequence[str]) -> None:
        if turn != self._round:
            return
        for host in hosts:
            other = canonical(host, first.port)
            if other.is_ipv6 != first.is_ipv6 and self._allows(other.host):
                self._found([first, other])
                return


def look_up(reactor: IReactorPluggableNameResolver, name: str, done: Callable[[list[str]], None]) -> None:
    """Call `done` with the IP addresses of a host, none if it is not known."""
    reactor.nameResolver.resolveHostName(_Receiver(done), name, 0, [IPv4Address, IPv6Address])


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self, done: Callable[[list[str]], None]) -> None:
        self._done = done
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """It began."""

    def addressResolved(self, address: IAddress) -> None:
        """One address is known."""
        if isinstance(address, (IPv4Address, IPv6Address)) and "%" not in address.host:
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        """That was all."""
        self._done(self._hosts)

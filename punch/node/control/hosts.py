"""
Where a rendezvous may have its peers connect to.

It names relays and further addresses of its reflector, by address or by name, so a hostile one could point
its peers at what only they can reach: services of their own machine, of their network, of the network's
devices. So an address that is not global is taken only if the rendezvous itself was reached at one of the
same scope (`punch.wire.special_addresses.Scope`): loopback at loopback, private at private, link-local at
link-local. This is asked of every address when it is about to be used, after names were looked up, so that a
name which says something else the next time doesn't help.

Ports below 1024 belong to services that speak other protocols. They may take a text within a TURN message for
a command of theirs. So on other hosts than the rendezvous' own, only those are used that relays are commonly
at, as WebRTC does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IResolutionReceiver,
)
from zope.interface import implementer

from punch.net.reactor import look_up
from punch.wire.address import canonical
from punch.wire.special_addresses import Scope, scope_of
from punch.wire.turn_uri import RelayServer

MAX_HOSTS = 16
"""Names and addresses of relays that one rendezvous may use at once, those of the last hour among them."""
FORGET = 3600.0
"""Seconds after which a host that is named no more makes room."""
MAX_UPDATES = 30
"""Times that it may name relays…"""
UPDATE_TIME = 120.0
"""…in so many seconds."""
MAX_ADDRESSES = 8
"""Addresses of one name that are used."""
LOW_PORTS = frozenset({53, 80, 443})
"""Ports below 1024 at which relays of other hosts may be."""
FIRST_PORT = 1024
"""The first of all other ports."""
FRESH = 300.0
"""Seconds after which a name that is used is looked up again."""
KEPT = 3600.0
"""Seconds for which addresses are used when the name can't be looked up any more."""


def usable_port(port: int) -> bool:
    """Whether a rendezvous may have us use this port of a host that is not its own."""
    return port >= FIRST_PORT or port in LOW_PORTS


class HostPolicy:
    """What one rendezvous may name. Nothing, until it was reached."""

    def __init__(self) -> None:
        self._scope = Scope.GLOBAL
        self._hosts: dict[str, float] = {}
        self._updates: deque[float] = deque(maxlen=MAX_UPDATES)

    def reached(self, host: str) -> None:
        """The rendezvous was reached at this IP address."""
        self._scope = scope_of(host.partition("%")[0])

    def allows(self, host: str) -> bool:
        """Whether it may have us connect to this IP address."""
        scope = scope_of(host)
        return scope is Scope.GLOBAL or (scope is self._scope and scope is not Scope.NOWHERE)

    def allowed(self, hosts: Iterable[str]) -> list[str]:
        """Those of the IP addresses, each once, and not more than a few."""
        return [host for host in dict.fromkeys(hosts) if self.allows(host)][:MAX_ADDRESSES]

    def may_use(self, host: str | None) -> bool:
        """
        Whether a relay at this host may be asked now: at the rendezvous' own, None, or at a name, of which
        the addresses are for `allows`.
        """
        return host is None or is_name(host) or self.allows(host)

    def take(self, servers: Sequence[RelayServer], now: float) -> tuple[RelayServer, ...] | None:
        """
        The relays that may be used, of those that it names now; None: it says too often which.

        Names are taken as they are: the addresses behind them are for `allows`.
        """
        if len(self._updates) == MAX_UPDATES and now < self._updates[0] + UPDATE_TIME:
            return None
        self._updates.append(now)
        self._hosts = {host: named for host, named in self._hosts.items() if now < named + FORGET}
        return tuple(server for server in servers if self._takes(server, now))

    def _takes(self, server: RelayServer, now: float) -> bool:
        host = server.url.host
        if host is None:
            return True
        if not usable_port(server.url.port) or not self.may_use(host):
            return False
        if host not in self._hosts and len(self._hosts) >= MAX_HOSTS:
            return False
        self._hosts[host] = now
        return True


def is_name(host: str) -> bool:
    """Whether a host is none that is written as an IP address."""
    try:
        scope_of(host)
    except ValueError:
        return True
    return False


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver, IHostnameResolver)
class VettedReactor:
    """
    A reactor whose names have only the addresses that a policy allows.

    :param reactor: connects TCP, resolves names, and is the clock.
    """

    def __init__(self, reactor: Any, policy: HostPolicy) -> None:
        self._reactor = reactor
        self._policy = policy
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolveHostName(self, resolutionReceiver: IResolutionReceiver, *args: Any, **kwargs: Any) -> Any:
        """Resolve, and tell the allowed addresses only."""
        receiver = _VettedReceiver(resolutionReceiver, self._policy)
        return self._reactor.nameResolver.resolveHostName(receiver, *args, **kwargs)


@implementer(IResolutionReceiver)
class _VettedReceiver:
    def __init__(self, receiver: IResolutionReceiver, policy: HostPolicy) -> None:
        self._receiver = receiver
        self._policy = policy
        self._left = MAX_ADDRESSES

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """It began."""
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        """One address is known."""
        if self._left and isinstance(address, (IPv4Address, IPv6Address)) and self._allows(address.host):
            self._left -= 1
            self._receiver.addressResolved(address)

    def resolutionComplete(self) -> None:
        """That was all."""
        self._receiver.resolutionComplete()

    def _allows(self, host: str) -> bool:
        return self._policy.allows(host.partition("%")[0])


@dataclass(slots=True)
class _Known:
    hosts: list[str] = field(default_factory=list)
    since: float = float("-inf")
    """When they were told, in monotonic seconds."""
    looking_up: bool = False


class HostAddresses:
    """
    Looks names up, and again when what is known may be wrong. Meanwhile the known addresses are used.

    :param reactor: resolves names.
    :param changed: called when the addresses of a name are known, or are others than before.
    """

    def __init__(self, reactor: Any, monotonic: Callable[[], float], changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._changed = changed
        self._known: dict[str, _Known] = {}

    def of(self, name: str) -> list[str]:
        """The addresses of a host that are known now; an address is its own. Old ones are looked up again."""
        literal = _literal(name)
        if literal is not None:
            return [literal]
        known = self._known.get(name)
        if known is None:
            self.look_up(name)
            known = self._known[name]
        age = self._monotonic() - known.since
        if age >= FRESH:
            self.look_up(name)
        return list(known.hosts) if age < KEPT else []

    def look_up(self, name: str) -> None:
        """What is known of this name may be wrong."""
        if _literal(name) is not None:
            return
        known = self._known.setdefault(name, _Known())
        if not known.looking_up:
            known.looking_up = True
            look_up(self._reactor, name, partial(self._resolved, name, known))

    def look_up_all(self) -> None:
        """What is known of all names may be wrong: the network is another one."""
        for name in list(self._known):
            self.look_up(name)

    def keep(self, names: set[str]) -> None:
        """Forget all other names."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def _resolved(self, name: str, known: _Known, hosts: list[str]) -> None:
        known.looking_up = False
        if not hosts or self._known.get(name) is not known:
            return  # To be asked again the next time; what was known stays good for a while
        found = list(dict.fromkeys(canonical(host, 1).host for host in hosts))
        before, known.hosts, known.since = known.hosts, found, self._monotonic()
        if set(found) != set(before):
            self._changed()


def _literal(name: str) -> str | None:
    """The canonical form of an IP address, None for a name."""
    try:
        return canonical(name, 1).host
    except ValueError:
        return None

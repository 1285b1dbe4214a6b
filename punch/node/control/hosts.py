"""
Where a rendezvous may make its peers connect to, and the IP addresses of those hosts.

A rendezvous names relays and further addresses of its reflector, by address or by name. A hostile one could
direct its peers to what only they can reach: services of their own machine, their network and its devices. So
an address that is not global is used only if the rendezvous itself was reached at an address of the same
scope (`punch.wire.special_addresses.Scope`): loopback at loopback, private at private, link-local at
link-local. Every address is checked when it is about to be used, after names were looked up, so that a name
cannot evade the check by another answer.

Ports below 1024 belong to services of other protocols, which might take text within a TURN message for a
command. So at hosts other than the rendezvous itself, only those of them are used that relays commonly have,
as in WebRTC.
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
from punch.wire.address import canonical, usable_port
from punch.wire.special_addresses import Scope, scope_of
from punch.wire.turn import RelayServer, TurnURI

MAX_HOSTS = 16
"""Hosts of relays that one rendezvous may name, counted over the last hour."""
FORGET = 3600.0
"""Seconds after which a host that is no longer named is not counted."""
MAX_UPDATES = 30
"""How often it may name relays…"""
UPDATE_TIME = 120.0
"""…in so many seconds."""
MAX_ADDRESSES = 8
"""How many addresses of one name are used."""
FRESH = 300.0
"""Seconds after which a name that is used is looked up again."""
KEPT = 3600.0
"""Seconds for which addresses are used when the name can't be looked up any more."""


class HostPolicy:
    """
    Which hosts one rendezvous may name.

    :param scope: until the rendezvous was reached, addresses of this scope are allowed besides global ones.
    """

    def __init__(self, scope: Scope = Scope.GLOBAL) -> None:
        self._scope = scope
        self._hosts: dict[str, float] = {}
        self._updates: deque[float] = deque(maxlen=MAX_UPDATES)

    def reached(self, host: str) -> None:
        """Note the IP address at which the rendezvous was reached."""
        self._scope = scope_of(host.partition("%")[0])

    def allows(self, host: str) -> bool:
        """Whether the rendezvous may make this peer connect to an IP address."""
        scope = scope_of(host)
        return scope is Scope.GLOBAL or (scope is self._scope and scope is not Scope.NOWHERE)

    def allowed(self, hosts: Iterable[str]) -> list[str]:
        """Return the IP addresses that may be used, each once, and at most `MAX_ADDRESSES`."""
        return [host for host in dict.fromkeys(hosts) if self.allows(host)][:MAX_ADDRESSES]

    def may_use(self, host: str | None) -> bool:
        """
        Whether a relay at this host may be used. None, the rendezvous itself, may, and so may a name: its
        addresses are for `allows` to check.
        """
        return host is None or is_name(host) or self.allows(host)

    def take(self, servers: Sequence[RelayServer], now: float) -> tuple[RelayServer, ...] | None:
        """
        Return those relays of a message that may be used, or None if such messages come too often.

        Names are accepted: their addresses are for `allows` to check.
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
    """Whether a host is a name and not an IP address."""
    try:
        scope_of(host)
    except ValueError:
        return True
    return False


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver, IHostnameResolver)
class VettedReactor:
    """
    A reactor whose name look-ups return only the addresses that a policy allows.

    :param reactor: connects TCP, resolves names, and is the clock.
    """

    def __init__(self, reactor: Any, policy: HostPolicy) -> None:
        self._reactor = reactor
        self._policy = policy
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def resolveHostName(self, resolutionReceiver: IResolutionReceiver, *args: Any, **kwargs: Any) -> Any:
        """Look a name up; the receiver is told only the allowed addresses."""
        receiver = _VettedReceiver(resolutionReceiver, self._policy)
        return self._reactor.nameResolver.resolveHostName(receiver, *args, **kwargs)


@implementer(IResolutionReceiver)
class _VettedReceiver:
    def __init__(self, receiver: IResolutionReceiver, policy: HostPolicy) -> None:
        self._receiver = receiver
        self._policy = policy
        self._left = MAX_ADDRESSES

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """The look-up has begun."""
        self._receiver.resolutionBegan(resolutionInProgress)

    def addressResolved(self, address: IAddress) -> None:
        """Pass an address on, if it is allowed and not one too many."""
        if self._left and isinstance(address, (IPv4Address, IPv6Address)) and self._allows(address.host):
            self._left -= 1
            self._receiver.addressResolved(address)

    def resolutionComplete(self) -> None:
        """There are no more addresses."""
        self._receiver.resolutionComplete()

    def _allows(self, host: str) -> bool:
        return self._policy.allows(host.partition("%")[0])


@dataclass(slots=True)
class _KnownHost:
    hosts: list[str] = field(default_factory=list)
    since: float = float("-inf")
    """When they were found, in monotonic seconds."""
    looking_up: bool = False


class HostAddresses:
    """
    Looks names up, and again when their addresses may have changed. Meanwhile the known addresses are used.

    :param reactor: looks names up.
    :param changed: called when the addresses of a name become known or change.
    """

    def __init__(self, reactor: Any, monotonic: Callable[[], float], changed: Callable[[], None]) -> None:
        self._reactor = reactor
        self._monotonic = monotonic
        self._changed = changed
        self._known: dict[str, _KnownHost] = {}

    def of(self, name: str) -> list[str]:
        """
        Return the known addresses of a host, which may be an address itself. They are looked up again if that
        was some time ago.
        """
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

    def known(self, name: str) -> list[str]:
        """Return the addresses of a name that were found last, however long ago, without a new look-up."""
        known = self._known.get(name)
        return [] if known is None else list(known.hosts)

    def note(self, name: str, hosts: Sequence[str]) -> None:
        """Take the addresses of a name that somebody else has looked up."""
        self._resolved(name, self._known.setdefault(name, _KnownHost()), list(hosts))

    def look_up(self, name: str) -> None:
        """Look a name up again."""
        if _literal(name) is not None:
            return
        known = self._known.setdefault(name, _KnownHost())
        if not known.looking_up:
            known.looking_up = True
            look_up(self._reactor, name, partial(self._resolved, name, known))

    def look_up_all(self) -> None:
        """Look all names up again, because the network has changed."""
        for name in list(self._known):
            self.look_up(name)

    def keep(self, names: set[str]) -> None:
        """Forget all other names."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def _resolved(self, name: str, known: _KnownHost, hosts: list[str]) -> None:
        known.looking_up = False
        if not hosts or self._known.get(name) is not known:
            return  # It is looked up again the next time. Until then the known addresses are used.
        found = list(dict.fromkeys(canonical(host, 1).host for host in hosts))
        before, known.hosts, known.since = known.hosts, found, self._monotonic()
        if set(found) != set(before):
            self._changed()


def _literal(name: str) -> str | None:
    """Return the canonical form of an IP address; None for a name."""
    try:
        return canonical(name, 1).host
    except ValueError:
        return None


class RelayAddresses:
    """
    Looks up the names of relays, and checks that the rendezvous may name their addresses.

    :param reactor: the clock; connects TCP and resolves names.
    :param name: the host of the rendezvous as the user gave it, for its own relay.
    :param policy: which hosts the rendezvous may make this node use.
    :param moved: called when a name has addresses that have not been returned yet.
    :param server_addresses: returns the addresses by which servers at these IP addresses are reached, each
        once.
    """

    def __init__(
        self,
        reactor: Any,
        monotonic: Callable[[], float],
        name: str,
        policy: HostPolicy,
        moved: Callable[[], None],
        server_addresses: Callable[[Iterable[str]], list[str]],
    ) -> None:
        self._reactor = reactor
        self._name = name
        self._policy = policy
        self._server_addresses = server_addresses
        self._vetted = VettedReactor(reactor, policy)
        self._names = HostAddresses(reactor, monotonic, moved)
        self._rendezvous = ""

    def reached(self, host: str) -> None:
        """Note the IP address at which the rendezvous was reached."""
        self._rendezvous = host
        self._policy.reached(host)

    def keep(self, urls: Iterable[TurnURI]) -> None:
        """Look up the names of these relays, and forget those of all others."""
        names = {self._host_of(url) for url in urls}
        self._names.keep(names)
        for name in names:
            self._names.look_up(name)

    def look_up(self, url: TurnURI) -> None:
        """Look up the name of a relay again."""
        self._names.look_up(self._host_of(url))

    def look_up_all(self) -> None:
        """Look up all names again."""
        self._names.look_up_all()

    def may_use(self, url: TurnURI) -> bool:
        """Return whether the rendezvous may make this node use this relay. Names may be used."""
        return self._policy.may_use(url.host)

    def reactor_for(self, url: TurnURI) -> Any:
        """Return the reactor that connects TCP to a relay, and refuses addresses that may not be used."""
        # An IP address was checked before it was translated for a NAT64, whose prefix may not be allowed
        return self._vetted if is_name(self._host_of(url)) else self._reactor

    def of(self, url: TurnURI) -> list[str]:
        """Return the IP addresses of a relay that are known now."""
        # Checked before they are translated: a translated address does not show what it leads to.
        known = self._policy.allowed(self._names.of(self._host_of(url)))
        # The address of the rendezvous itself may be used for its relay, whatever it is.
        own = [self._rendezvous] if url.host is None and self._rendezvous else []
        return self._server_addresses([*own, *known])

    def _host_of(self, url: TurnURI) -> str:
        return self._name if url.host is None else url.host

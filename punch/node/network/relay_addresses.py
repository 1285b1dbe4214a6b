"""The IP addresses of the relays that a rendezvous has named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from punch.node.control.hosts import HostAddresses, HostPolicy, VettedReactor, is_name
from punch.wire.turn_uri import TurnURI


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
        # An IP address has been checked already. The NAT64 address by which it may be reached is not.
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

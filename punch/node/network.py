"""The network that a node is in: its sockets, its relays, what is known about them, and when that changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from cryptography import x509
from twisted.logger import Logger

from punch.identity import RandomBytes
from punch.net.monitor import NetworkMonitor
from punch.net.socket_set import OpenSocket, SocketSet
from punch.node.control.hosts import FRESH, HostPolicy
from punch.node.policy import RelayPolicy
from punch.node.reflexive_addresses import ReflectorFinder, ReflexiveAddressCache
from punch.node.relay_pool import RelayPool
from punch.node.router import Router
from punch.wire.address import Address, Transmit
from punch.wire.control import Welcome
from punch.wire.turn_uri import RelayServer


class NetworkOwner(Protocol):
    """The node."""

    def paths_in_use(self) -> Collection[Address]:
        """The local addresses that links have their paths from, relayed ones among them."""

    def network_changed(self, bases: list[Address], gone: Collection[str]) -> None:
        """This machine has other addresses: those of its sockets now, and those that are gone."""

    def network_back(self) -> None:
        """A reflector answers again."""

    def woke(self) -> None:
        """The machine has slept."""

    def renew_relays(self) -> object:
        """The relays' credentials end soon."""


class Network:
    """
    What all sessions of a node send through.

    :ivar reflectors: where to ask for our own addresses.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        owner: NetworkOwner,
        *,
        addresses: Callable[[], list[str]],
        open_socket: OpenSocket,
        random: RandomBytes,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        pacing: float,
        relay_policy: RelayPolicy,
        rendezvous: str,
        roots: Sequence[x509.Certificate] | None,
        source: Callable[[str], str | None],
    ) -> None:
        """
        :param rendezvous: its host, as the user gave it.
        :param source: from which of our addresses an IP address is reached, None if that is not known.
        """
        self.reflectors: list[Address] = []
        self._owner = owner
        self._relay_policy = relay_policy
        self._running = False
        self._monotonic = monotonic
        self._looked_up_at = monotonic()
        self._policy = HostPolicy()
        # What the log has been told, since a rendezvous can say it again and again
        self._too_often = False
        self._refused: set[str] = set()
        self._source = source
        self._remotes: list[str] = []
        self.keeper = ReflexiveAddressCache(reactor, monotonic, random, pacing, self._send, self._back)
        self.router = Router(self.keeper, lambda *arrived: self.relays.receive(*arrived))
        self.sockets = SocketSet(
            reactor,
            open_socket,
            addresses,
            self.router.receive_from_socket,
            lambda *leaving: self.relays.send(*leaving),
            lambda: self._ways_out(),
        )
        self.relays = RelayPool(
            reactor,
            monotonic=monotonic,
            random=random,
            roots=roots,
            name=rendezvous,
            policy=self._policy,
            bases=lambda: self.sockets.bases,
            send=self.sockets.send,
            received=self.router.receive,
            renew=owner.renew_relays,
        )
        self._finder = ReflectorFinder(reactor, rendezvous, self._policy.allows, self._found)
        self._watch = NetworkMonitor(reactor, monotonic, wall, addresses, self._changed, self._woke)

    def start(self) -> None:
        """Notice changes from now on."""
        self._running = True
        self._watch.start()

    def stop(self) -> None:
        """Notice nothing any more; the sockets stay open."""
        self._running = False
        self._watch.stop()
        self.keeper.listen(False)

    def close(self) -> None:
        """Close everything."""
        self._finder.stop()
        self.keeper.stop()
        self.relays.stop()
        self.sockets.close()

    def look_out(self, wanted: bool, relays: bool) -> None:
        """
        A link has no path, and waits for the network to be back; or none does any more.

        :param relays: and for relays, which may be gone for reasons of their own.
        """
        self.keeper.listen(wanted)
        self.relays.need(relays)

    def welcomed(self, welcome: Welcome, host: str) -> None:
        """The rendezvous at the IP address `host` says where reflectors and relays are."""
        self._policy.reached(host)
        self._remotes = [host]
        self._looked_up_at = self._monotonic()
        self._finder.find(host, welcome.reflector)
        self.offered(welcome.relays, host)

    def offered(self, servers: Sequence[RelayServer], host: str | None = None) -> None:
        """
        The rendezvous names relays.

        :param host: its IP address, if that may have changed.
        """
        if self._relay_policy is RelayPolicy.NEVER:
            return
        taken = self._policy.take(servers, self._monotonic())
        if taken is None:
            if not self._too_often:
                self._log.warn("the rendezvous names relays too often: those before stay in use")
            self._too_often = True
            return
        self._too_often = False
        refused = {str(server.url) for server in servers if server not in taken}
        if refused and refused != self._refused:
            self._log.warn(
                "the rendezvous may not have us use {count} of its relays, such as {url}",
                count=len(refused),
                url=min(refused),
            )
        self._refused = refused
        self.relays.update(taken, host)

    def refresh(self, *, anew: bool = False) -> list[Address]:
        """
        Open the sockets that are missing, and see what reflectors make of them.

        :param anew: what reflectors said may be wrong by now.
        :return: the local addresses to use.
        """
        if self._monotonic() >= self._looked_up_at + FRESH:
            self._look_up_again()
        in_use = self._owner.paths_in_use()
        bases = self.sockets.refresh({self.relays.base_of(local) or local for local in in_use})
        gather = self._relay_policy is not RelayPolicy.ONLY
        self.keeper.keep(bases, self.reflectors, gather=gather, anew=anew)
        return bases

    def _look_up_again(self) -> None:
        """Names may mean other addresses by now, or on this network."""
        self._looked_up_at = self._monotonic()
        self._finder.again()
        self.relays.network_changed()

    def _send(self, transmit: Transmit) -> None:
        self.sockets.send([transmit.data], transmit.remote, transmit.local)

    def _ways_out(self) -> list[str]:
        """The addresses from which the rendezvous is reached, that of the control channel first."""
        remotes = dict.fromkeys([*self._remotes, *(reflector.host for reflector in self.reflectors)])
        sources = (self._source(remote) for remote in remotes)
        return list(dict.fromkeys(source for source in sources if source is not None))

    def _found(self, reflectors: list[Address]) -> None:
        self.reflectors[:] = reflectors
        if self._running:
            self.refresh()

    def _changed(self, gone: Collection[str]) -> None:
        self._look_up_again()
        self._owner.network_changed(self.refresh(), gone)

    def _back(self) -> None:
        self._look_up_again()
        self.refresh(anew=True)
        self._owner.network_back()

    def _woke(self, seconds: float) -> None:
        self._look_up_again()
        self.refresh(anew=True)
        self._owner.woke()
        # Their lifetimes went on meanwhile.
        if self.relays.available:
            self._owner.renew_relays()

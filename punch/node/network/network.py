"""
The network side of a node: its sockets, its relays, and what is known about NATs and port mappings
(`Network`); and what calls and the connection to the rendezvous are told when the network changes
(`NetworkChanges`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from punch.contact_entries import network_key
from punch.ice.events import CheckingFailure
from punch.identity import RandomBytes
from punch.natcheck.transactions import ReflectorAddresses
from punch.net.monitor import NetworkMonitor
from punch.net.udp.socket_set import OpenSocket, SocketSet
from punch.net.upnp import Upnp
from punch.node.causes import NoPathFound, RelayFailure
from punch.node.control.hosts import FRESH, HostPolicy
from punch.node.network.clat import Clat
from punch.node.network.nat_profiles import NatObserver
from punch.node.network.port_mappings import Gateways, PortMappings
from punch.node.network.reflexive_addresses import ReflectorFinder, ReflexiveAddressCache
from punch.node.network.relay_pool import RelayPool
from punch.node.network.router import Router
from punch.node.network.tcp_connections import TCPConnections
from punch.node.policies import RelayPolicy
from punch.wire.address import Address, TCPAddress, Transmit, canonical, usable_port
from punch.wire.control import RenewRelays, Welcome
from punch.wire.proxy import ProxySettings
from punch.wire.turn import RelayServer

if TYPE_CHECKING:
    from punch.node.calls.calls import Calls
    from punch.node.control.client import ControlClient

CHECK_TIME = 1.2
"""The least time that the rendezvous has to answer a check of the connection to it, in seconds."""
CHECK_TRIPS = 4
"""
Round-trip times of the slowest link that it has in addition, since the connection may share a queue with it.
"""


class NetworkChanges:
    """Tells the calls and links of a node about changes, and checks the connection to the rendezvous."""

    def __init__(self, calls: Calls, control: ControlClient) -> None:
        self._calls = calls
        self._control = control

    def check_control(self, gone: Collection[str] = ()) -> None:
        """
        Connect to the rendezvous again unless it answers soon.

        :param gone: local addresses that this machine no longer has.
        """
        links = [call.link for call in self._calls.links.values()]
        slowest = max((link.rtt or 0.0 for link in links if link is not None), default=0.0)
        self._control.check(CHECK_TIME + CHECK_TRIPS * slowest, gone)

    def paths_in_use(self) -> list[Address]:
        """Return the local addresses of the paths that links have."""
        return [call.pair.local_base for call in self._calls.links.values() if call.pair is not None]

    def network_changed(self, bases: list[Address], gone: Collection[str]) -> None:
        """This machine has other addresses."""
        self.check_control(gone)
        for call in self._calls:
            call.network_changed(bases)

    def network_back(self) -> None:
        """A reflector answers again."""
        self.check_control()
        for call in list(self._calls.links.values()):
            call.network_back()

    def woke(self) -> None:
        """The machine has slept."""
        self.check_control()
        for call in list(self._calls.links.values()):
            call.woke()

    def port_mappings_changed(self) -> None:
        """A router has mapped a port, or no router that was asked will do so soon."""
        for call in list(self._calls):
            call.port_mappings_changed()

    def nat_observed(self) -> None:
        """There is a new observation of a NAT."""
        for call in list(self._calls.links.values()):
            call.nat_observed()

    def renew_relays(self) -> None:
        """The relays' credentials end soon."""
        self._control.send(RenewRelays())


class Network:
    """
    The sockets, relays and reflectors that all calls of a node use.

    :ivar clat: gives the node IPv4 where the network has it only through a NAT64.
    :ivar reflectors: the STUN servers to ask for server-reflexive addresses.
    :ivar nat_observer: what is known about the NATs in front of our addresses.
    :ivar port_mappings: the ports of routers that lead to our sockets.
    :ivar reflexive_addresses: the server-reflexive addresses known now.
    :ivar router: hands datagrams to calls.
    :ivar sockets: the UDP sockets.
    :ivar relays: the allocations on relays.
    :ivar tcp: the TCP connections to peers.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        changes: NetworkChanges,
        *,
        addresses: Callable[[], list[str]],
        own_addresses: Callable[[], list[str]],
        open_socket: OpenSocket,
        random: RandomBytes,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        pacing: float,
        relay_policy: RelayPolicy,
        rendezvous: str,
        roots: Sequence[x509.Certificate] | None,
        proxy: ProxySettings | None,
        source: Callable[[str], str | None],
        gateways: Gateways | None,
        upnp: Upnp | None,
    ) -> None:
        """
        :param changes: is told when the network changes, and knows which paths are in use.
        :param addresses: returns the local addresses to use.
        :param own_addresses: returns all addresses of this machine.
        :param rendezvous: its host, as the user gave it.
        :param source: returns from which of our addresses an IP address is reached; None: that is not known.
        :param gateways: returns the router of each of our addresses; None: no port of it is mapped.
        :param upnp: asks a router by UPnP, if that is possible.
        """
        self.reflectors: list[Address] = []
        self._changes = changes
        self._relay_policy = relay_policy
        self._running = False
        self._monotonic = monotonic
        self._looked_up_at = monotonic()
        self._policy = HostPolicy()
        # What has been logged, since a rendezvous can cause the same line again and again
        self._too_often = False
        self._refused: set[str] = set()
        self._source = source
        self._own_addresses = own_addresses
        self._remotes: list[str] = []
        self._welcome: Welcome | None = None
        # From which of our addresses the rendezvous was reached when it sent that
        self._welcomed_at: str | None = None
        self.clat = Clat(reactor, monotonic, addresses, open_socket, source, self._translated)
        addresses, open_socket = self.clat.addresses, self.clat.open_socket
        self.reflexive_addresses = ReflexiveAddressCache(
            reactor, monotonic, random, pacing, self._send, self._back
        )
        self.router = Router(self.reflexive_addresses, lambda *arrived: self.relays.receive(*arrived))
        self.sockets = SocketSet(
            reactor,
            open_socket,
            addresses,
            self.router.receive_from_socket,
            lambda local, remote: self.relays.find(local) or self.tcp.find(local, remote),
            lambda: self._source_addresses(),
        )
        self.tcp = TCPConnections(reactor, self.router.receive, allowed=proxy is None)
        self.relays = RelayPool(
            reactor,
            monotonic=monotonic,
            random=random,
            roots=roots,
            proxy=proxy,
            name=rendezvous,
            policy=self._policy,
            bases=lambda: self.sockets.bases,
            send=self.sockets.send,
            received=self.router.receive,
            renew=changes.renew_relays,
            server_addresses=self.clat.server_addresses,
        )
        # A candidate of ours would tell the peer our address, which `ONLY` keeps secret
        hidden = relay_policy is RelayPolicy.ONLY
        self.port_mappings = PortMappings(
            reactor,
            monotonic,
            random,
            open_socket,
            None if hidden else gateways,
            upnp,
            changes.port_mappings_changed,
        )
        self.nat_observer = NatObserver(reactor, monotonic, random, open_socket, changes.nat_observed)
        self._finder = ReflectorFinder(reactor, rendezvous, self._policy.allows, self._found)
        self._watch = NetworkMonitor(reactor, monotonic, wall, addresses, self._changed, self._woke)

    def start(self) -> None:
        """Watch the network from now on."""
        self._running = True
        self._watch.start()

    def stop(self) -> None:
        """Stop watching the network; the sockets stay open."""
        self._running = False
        self._watch.stop()
        self.reflexive_addresses.listen(False)

    @property
    def key(self) -> str | None:
        """A name for the network that this machine is in (`network_key`); None if that is not known."""
        # While the rendezvous is away, its source address may be unknown
        source = next(iter(self._source_addresses()), self._welcomed_at)
        if self._welcome is None or source is None or source != self._welcomed_at:
            return None
        return network_key(self._welcome.address, source)

    def close(self) -> Deferred[None]:
        """
        Close sockets and relays.

        :return: fires when the ports of routers are given back.
        """
        self._finder.stop()
        closed = self.port_mappings.close()
        self.nat_observer.close()
        self.reflexive_addresses.stop()
        self.relays.stop()
        self.sockets.close()
        return closed

    def watch_for_return(self, wanted: bool, relays: bool) -> None:
        """
        Ask reflectors often whether the network is back, because a link has no path (`wanted`), or stop that.

        :param relays: ask for relays too, which may be gone for other reasons.
        """
        self.reflexive_addresses.listen(wanted)
        self.relays.need(relays)

    def welcomed(self, welcome: Welcome, host: str, port: int) -> None:
        """Take the reflectors and relays that the rendezvous at this IP address and TCP port names."""
        self.tcp.reflectors = [TCPAddress(*canonical(host, port))]
        self._policy.reached(host)
        self._remotes = [host]
        self._looked_up_at = self._monotonic()
        self._welcome = welcome
        self._welcomed_at = next(iter(self._source_addresses()), None)
        self.nat_observer.invalidate()
        self.clat.reached(host)
        self._finder.find(self.clat.untranslated(host), welcome.reflector)
        self.offered(welcome.relays, host)

    def offered(self, servers: Sequence[RelayServer], host: str | None = None) -> None:
        """
        Take the relays that the rendezvous names.

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

    def no_path(self, checks: CheckingFailure | None) -> NoPathFound:
        """
        Return why no path was found.

        :param checks: what the ICE agent knows about it. It does not know why there was no relay.
        """
        policy, relays = self._relay_policy, self.relays
        if policy is RelayPolicy.NEVER:
            return NoPathFound(checks, RelayFailure.SWITCHED_OFF)
        failure = relays.failure
        if failure is None:
            failure = RelayFailure.NO_PATH if relays.available else RelayFailure.NOT_OFFERED
        return NoPathFound(checks, failure, relay_only=policy is RelayPolicy.ONLY and not relays.current)

    def refresh(self, *, anew: bool = False) -> list[Address]:
        """
        Open the sockets that are missing, ask reflectors for their server-reflexive addresses, and routers
        for ports.

        :param anew: ask again for those that are known.
        :return: the local addresses to use.
        """
        if self._monotonic() >= self._looked_up_at + FRESH:
            self._look_up_again()
        in_use = self._changes.paths_in_use()
        bases = self.sockets.refresh({self.relays.base_of(local) or local for local in in_use})
        gather = self._relay_policy is not RelayPolicy.ONLY
        self.reflexive_addresses.keep(bases, self.reflectors, gather=gather, anew=anew)
        self.port_mappings.keep(bases, anew=anew)
        if gather:
            self.nat_observer.keep(bases, anew=anew)
        return bases

    @property
    def own_hosts(self) -> set[str]:
        """All IP addresses of this machine, also those that have no socket."""
        return {*self._own_addresses(), *(base.host for base in self.sockets.bases)}

    @property
    def passes_no_udp(self) -> bool:
        """Whether UDP probably does not get out: no reflector answers, and relays are reached over TCP."""
        relays = self.relays.current
        answered = self.reflexive_addresses.mappings() or any(relay.base is not None for relay in relays)
        return bool(self.reflectors and relays) and not answered

    def _look_up_again(self) -> None:
        """Look names up again: they may have other addresses by now, or on this network."""
        self._looked_up_at = self._monotonic()
        self.clat.look_up_again()
        self._finder.again()
        self.relays.network_changed()

    def _translated(self) -> None:
        """The prefix of a NAT64 is known, or has changed; by now the node may have stopped."""
        if self._running and self._welcome is not None:
            self._finder.find(self.clat.untranslated(self._remotes[0]), self._welcome.reflector)
            self.relays.moved()

    def _send(self, transmit: Transmit) -> None:
        self.sockets.send([transmit.data], transmit.remote, transmit.local)

    def _source_addresses(self) -> list[str]:
        """Return the addresses from which the rendezvous is reached, that of the control channel first."""
        remotes = dict.fromkeys([*self._remotes, *(reflector.host for reflector in self.reflectors)])
        sources = (self._source(remote) for remote in remotes)
        return list(dict.fromkeys(source for source in sources if source is not None))

    def _all_reflectors(self) -> ReflectorAddresses | None:
        """Return the rendezvous's IPv4 addresses and ports with reflectors; None if there are none."""
        welcome = self._welcome
        hosts = [reflector.host for reflector in self.reflectors if not reflector.is_ipv6]
        if welcome is None or not hosts:
            return None
        ports = [port for port in (welcome.reflector, welcome.second_reflector) if port]
        further = welcome.reflector_addresses if all(map(usable_port, ports)) else ()
        hosts += [host for host in self._policy.allowed(further) if ":" not in host]
        return ReflectorAddresses.of(hosts, welcome.reflector, welcome.second_reflector)

    def _found(self, reflectors: list[Address]) -> None:
        self.reflectors[:] = reflectors
        if self.tcp.reflectors:
            control = self.tcp.reflectors[0]
            others = [each.host for each in reflectors if each.is_ipv6 != control.is_ipv6]
            self.tcp.reflectors[1:] = [TCPAddress(host, control.port) for host in others]
        self.nat_observer.use(self._all_reflectors())
        if self._running:
            self.refresh()

    def _changed(self, gone: Collection[str]) -> None:
        self.relays.other_addresses()
        self._look_up_again()
        self._changes.network_changed(self.refresh(), gone)

    def _back(self) -> None:
        self._look_up_again()
        self.refresh(anew=True)
        self._changes.network_back()

    def _woke(self, seconds: float) -> None:
        self._look_up_again()
        self.refresh(anew=True)
        self.relays.woke()
        self._changes.woke()
        # Their lifetimes went on meanwhile.
        if self.relays.available:
            self._changes.renew_relays()

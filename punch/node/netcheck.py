"""
The Twisted side of netcheck: it registers with a rendezvous, opens sockets for the core
(`punch.natcheck.core`), and starts the trials of relays and routers (`punch.node.netcheck_trials`).

It registers with a new key, with which nobody can call it, so that a peer of the same user keeps its
registration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError

from punch.ice.port_lease import PortMapping
from punch.identity import Identity, RandomBytes
from punch.natcheck.core import Netcheck
from punch.natcheck.report import FamilyReport, NetcheckReport, PathPolicy, RouterReport, Transport
from punch.net.driver import Driver
from punch.net.interfaces import select
from punch.net.reactor import look_up
from punch.net.srv import LookUpService
from punch.net.udp.socket_set import OpenSocket
from punch.net.udp.sockets import DatagramSocket
from punch.net.upnp import Upnp
from punch.node.causes import ControlProblem
from punch.node.control.client import ControlClient
from punch.node.control.hosts import (
    HostPolicy,
    VettedReactor,
    is_name,
)
from punch.node.control.tcp import discover
from punch.node.netcheck_trials import PortMappingTrial, RelayTrial, answers_as_portal
from punch.node.network.clat import Clat
from punch.node.network.port_mappings import Gateways
from punch.node.policies import RelayPolicy, SprayPolicy
from punch.wire.address import Address, canonical, usable_port
from punch.wire.control import Accept, Probed, ProbeOutcome, Register, Relays, RenewRelays, Reply, Welcome
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.turn import RelayServer, TurnTransport

USUAL_REFLECTOR = 3478
"""The reflector's port if the rendezvous can't be asked for it: that of STUN (RFC 8489, section 9)."""
CONTROL_TRIES = 3
"""How many round trips over the control channel are measured. The shortest counts."""

_TURN = {
    TurnTransport.UDP: Transport.TURN_UDP,
    TurnTransport.TCP: Transport.TURN_TCP,
    TurnTransport.TLS: Transport.TURN_TLS,
}


class NetcheckRun:
    """One run, from `start` to its report."""

    def __init__(
        self,
        *,
        reactor: Any,
        rendezvous: RendezvousAddress | Sequence[RendezvousAddress],
        addresses: Callable[[], list[str]],
        source: Callable[[str], str | None] | None = None,
        open_socket: OpenSocket,
        random: RandomBytes,
        monotonic: Callable[[], float],
        lifetime: float | None = None,
        roots: Sequence[x509.Certificate] | None = None,
        proxy: ProxySettings | None = None,
        look_up_service: LookUpService | None = None,
        gateways: Gateways | None = None,
        upnp: Upnp | None = None,
        member: Identity | None = None,
        relay: RelayPolicy = RelayPolicy.AUTO,
        spray: SprayPolicy = SprayPolicy.AUTO,
    ) -> None:
        """
        :param relay: whether links may be relayed. No router is asked where they must be.
        :param spray: whether many packets may be sent to guessed ports of a peer.
        :param member: the user's own identity, which vouches for this run where only members may register, or
            use the relay.
        :param reactor: provides `IReactorTCP`, `IReactorUDP`, `IReactorTime` and name resolution.
        :param addresses: returns this machine's IP addresses.
        :param source: returns from which of them an IP address is reached, None if that is not known; without
            it, only the local address of the control connection is known.
        :param lifetime: seconds that measuring the lifetime of mappings may take; None leaves it out.
        :param proxy: the proxy through which the rendezvous and relays are reached over TCP, if there is one.
        :param gateways: returns the router of each of our addresses, which is asked for a port; None: none is
            asked.
        :param upnp: asks these routers by UPnP, too; None: they are not asked by UPnP.
        :param roots: the authorities for a rendezvous and relays without a pin; None for the platform's.
        """
        self._reactor = reactor
        self._source = source
        self._clat = Clat(reactor, monotonic, addresses, open_socket, self._source_for, lambda: None)
        self._addresses, self._open_socket = self._clat.addresses, self._clat.open_socket
        self._random = random
        self._monotonic = monotonic
        self._lifetime = lifetime
        self._roots = roots
        self._gateways = None if relay is RelayPolicy.ONLY else gateways
        self._allowed = PathPolicy(
            direct=relay is not RelayPolicy.ONLY,
            relayed=relay is not RelayPolicy.NEVER,
            spray=spray is not SprayPolicy.NEVER,
            tcp=proxy is None,
        )
        self._upnp = upnp
        self._routers: Mapping[str, str] = {}
        self._mapped: Mapping[PortMapping, bool | None] = {}
        self._policy = HostPolicy()
        identity = Identity.generate(random)
        self._core = Netcheck(peer=identity.peer_id, random=random, bind=self._bind, now=monotonic())
        self._control = ControlClient(
            reactor=reactor,
            address=rendezvous,
            identity=identity,
            register=Register("netcheck", Accept.KNOWN),
            handler=self,
            random=random,
            roots=roots,
            proxy=proxy,
            look_up_service=look_up_service,
            member=member,
            for_relays=True,
        )
        self._sockets: dict[Address, DatagramSocket] = {}
        self._transports: dict[Transport, bool | None] = dict.fromkeys(Transport)
        self._trials: list[Deferred[None]] = []
        self._driver = Driver(reactor, monotonic, self._step, lambda: (self._core,))
        self._problem: ControlProblem | None = None
        self._begun = False
        self._reflector = True
        self._captive_portal: bool | None = None
        self._asked_at = 0.0
        self._round_trips: list[float] = []
        self._examined: Deferred[None] = Deferred()
        self._examined.addCallback(self._await_trials).addCallback(self._close)
        self._examined.addErrback(lambda failure: self._finished.errback(failure))
        self._finished: Deferred[NetcheckReport] = Deferred()

    def start(self) -> Deferred[NetcheckReport]:
        """
        Run all experiments.

        :return: fires with the report when all sockets and connections are closed.
        """
        self._control.start()
        return self._finished

    # Calls of the control connection (ControlHandler)

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """This peer is registered: the rendezvous names its reflectors and relays."""
        if self._begun:
            return
        self._transports[Transport.CONTROL] = True
        self._captive_portal = False
        self._ask()
        self._begin(partial(self._look_for_nat64, welcome, host))

    def control_reply(self, reply: Reply) -> None:
        """Take the result of a probe, or the answer to a request that measures the round trip."""
        now = self._monotonic()
        if isinstance(reply, Probed):
            self._core.receive_probed(reply, now)
            self._driver.run()
        elif isinstance(reply, Relays):
            self._round_trips.append(now - self._asked_at)
            if len(self._round_trips) < CONTROL_TRIES:
                self._ask()

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """The rendezvous cannot be reached over TCP. UDP may still work."""
        if self._begun:
            return
        self._problem = problem
        self._transports[Transport.CONTROL] = False
        self._control.stop()
        self._begin(self._examine_alone)

    def _ask(self) -> None:
        self._asked_at = self._monotonic()
        self._control.send(RenewRelays())

    # The experiments

    def _begin(self, examine: Callable[[list[str]], None]) -> None:
        """Look up all addresses of the rendezvous, then run the experiments."""
        self._begun = True
        self._look_up(self._control.resolver, self._control.address.host, examine)

    def _look_up(self, reactor: Any, host: str, then: Callable[[list[str]], None]) -> None:
        """Call `then` with the IP addresses of a host."""
        try:
            literal = canonical(host, 0).host
        except ValueError:
            look_up(reactor, host, lambda found: then([canonical(each, 0).host for each in found]))
        else:
            then([literal])

    def _look_for_nat64(self, welcome: Welcome, host: str, found: list[str]) -> None:
        """If the rendezvous was reached over IPv6, ask the name server for the prefix of a NAT64 first."""

        def discovered(hosts: list[str]) -> None:
            self._clat.reached(host, hosts)
            self._examine_with(welcome, host, found)

        if ":" in host:
            discover(self._reactor).addCallback(discovered)
        else:
            self._examine_with(welcome, host, found)

    def _source_for(self, remote: str) -> str | None:
        """Return our address from which `remote` is reached."""
        return self._control.local_host_for(remote) or (self._source(remote) if self._source else None)

    def _examine_with(self, welcome: Welcome, host: str, found: list[str]) -> None:
        policy = self._policy
        policy.reached(host)
        ports = [port for port in (welcome.reflector, welcome.second_reflector) if port]
        further = welcome.reflector_addresses if all(map(usable_port, ports)) else ()
        # Where the rendezvous was reached, it may be asked, whatever that address is.
        own = canonical(host, 0).host
        services = self._clat.server_addresses([own, *policy.allowed([*found, *further])])
        hosts = self._hosts(services)
        for server in policy.take(welcome.relays, self._monotonic()) or ():
            self._try_relay(server, services, hosts)
        self._reflector = welcome.reflector != 0
        if self._reflector:
            self._examine(services, hosts, welcome.reflector, welcome.second_reflector)
        else:
            self._examined.callback(None)

    def _examine_alone(self, found: list[str]) -> None:
        self._try_portal(found)
        self._examine(found, self._hosts(found), USUAL_REFLECTOR, 0)

    def _hosts(self, services: list[str]) -> list[str]:
        """The local addresses; those from which the service is reached come first."""
        sources = [self._control.local_host]
        if self._source is not None:
            sources += map(self._source, services)
        return select(self._addresses(), preferred=[host for host in sources if host is not None])

    def _examine(self, services: list[str], hosts: list[str], port: int, second: int) -> None:
        self._try_routers(hosts)
        self._core.start(hosts, services, port, second, self._lifetime, now=self._monotonic())
        self._driver.run()

    def _bind(self, host: str) -> Address | None:
        try:
            socket = self._open_socket(self._reactor, host, 0, self._received)
        except (OSError, CannotListenError):
            return None
        self._sockets[socket.local] = socket
        return socket.local

    def _received(self, datagrams: Sequence[bytes], remote: Address, socket: DatagramSocket) -> None:
        now = self._monotonic()
        for data in datagrams:
            self._core.receive_datagram(data, remote, socket.local, now)
        self._driver.run()

    def _step(self, now: float) -> bool:
        core = self._core
        datagrams, probes = core.datagrams_to_send(now), core.probes_to_send()
        for each in datagrams:
            self._sockets[each.local].send([each.data], each.remote)
        for probe in probes:
            if not self._control.send(probe):
                core.receive_probed(Probed(probe.transaction, ProbeOutcome.UNAVAILABLE), now)
        if datagrams or probes:
            return True
        if core.done and core.get_timer() is None and not self._examined.called:
            self._examined.callback(None)
        return False

    # The relays

    def _try_relay(self, server: RelayServer, services: list[str], hosts: list[str]) -> None:
        tried: Deferred[None] = Deferred()
        self._trials.append(tried)
        # An IP address was checked before it was translated for a NAT64, whose prefix may not be allowed
        named = is_name(server.url.host or self._control.address.host)
        reactor = VettedReactor(self._reactor, self._policy) if named else self._reactor

        def begin(addresses: list[str]) -> None:
            trial = RelayTrial(
                server,
                reactor=reactor,
                name=self._control.address.host,
                addresses=addresses,
                hosts=hosts,
                open_socket=self._open_socket,
                random=self._random,
                monotonic=self._monotonic,
                roots=self._roots,
                proxy=self._control.proxy,
                clock=self._reactor,
            )
            trial.result.addCallback(end)
            trial.start()

        def end(works: bool) -> None:
            transport = _TURN[server.url.transport]
            self._transports[transport] = bool(self._transports[transport]) or works
            tried.callback(None)

        if server.url.host is None:
            begin(services)
        else:
            self._look_up(self._reactor, server.url.host, lambda found: begin(self._policy.allowed(found)))

    # The routers

    def _try_routers(self, hosts: list[str]) -> None:
        if self._gateways is None:
            return
        self._routers = self._gateways()
        tried: Deferred[None] = Deferred()
        self._trials.append(tried)

        def end(mapped: Mapping[PortMapping, bool | None]) -> None:
            self._mapped = mapped
            tried.callback(None)

        trial = PortMappingTrial(
            self._reactor,
            self._monotonic,
            self._random,
            self._open_socket,
            lambda: self._routers,
            self._upnp,
            self._bind,
            self._reach,
        )
        trial.result.addCallbacks(end, tried.errback)
        trial.start([host for host in hosts if host in self._routers])

    def _reach(self, mapping: PortMapping) -> Deferred[bool | None]:
        result: Deferred[bool | None] = Deferred()
        reached = self._core.reach(mapping.base, mapping.external, self._monotonic())
        reached.then(lambda: result.callback(reached.value))
        self._driver.run()
        return result

    # A captive portal

    def _try_portal(self, found: list[str]) -> None:
        if not found or self._control.proxy is not None:
            return
        # The first address of each family: a portal may answer in one only
        for host in {":" in each: each for each in reversed(found)}.values():
            trial = answers_as_portal(self._reactor, self._control.address.host, host)
            self._trials.append(trial.addCallback(self._portal_tried))

    def _portal_tried(self, portal: bool) -> None:
        if portal:
            self._captive_portal = True

    # The end

    def _await_trials(self, _: None) -> Deferred[Any]:
        return DeferredList(self._trials)

    def _close(self, _: object) -> None:
        report = self._report()
        for socket in self._sockets.values():
            socket.close()
        self._control.stop().addBoth(lambda _: self._finished.callback(report))

    def _report(self) -> NetcheckReport:
        core = self._core
        report = NetcheckReport(
            str(self._control.address),
            self._judged(core.ipv4),
            self._judged(core.ipv6),
            problem=self._problem,
            reflector=self._reflector,
            control_latency=min(self._round_trips, default=None),
            transports=self._transports,
            captive_portal=self._captive_portal,
            policy=self._allowed,
        )
        self._transports[Transport.UDP] = report.udp
        return report

    def _judged(self, family: FamilyReport | None) -> FamilyReport | None:
        """
        Mark what is not known. If the rendezvous could not be asked whether it has a reflector, a missing
        answer says nothing.
        """
        if family is None or not family.local_addresses:
            return family
        family = replace(family, policy=self._allowed)
        host = family.local_addresses[0]
        if host in self._routers:
            here = {each.base.protocol: each for each in self._mapped if each.base.host == host}
            udp = here.get("udp")
            reached = None if udp is None else self._mapped[udp]
            family = replace(family, router=RouterReport(udp, "tcp" in here, self._upnp is not None, reached))
        return family if family.udp or self._problem is None else replace(family, udp=None)

"""
The rendezvous as a Twisted service: its ports, its connections, and the registry that they share.

It reports these events: `listening` (address), `registered` (peer, name), `gone` (peer, reason), and `failed`
(reason, text) if it cannot listen.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.identity import PeerID, RandomBytes
from punch.net.udp.server import UDPPort, errno_of, open_ports
from punch.rendezvous.config import RendezvousConfig, ServerCertificate
from punch.rendezvous.control_protocol import ControlServerProtocol
from punch.rendezvous.control_sessions import ControlSessions, ServiceReport, finish_introductions
from punch.rendezvous.directory.connector import Directory, DirectoryConnector
from punch.rendezvous.directory.remote_calls import RemoteCalls
from punch.rendezvous.directory.shared_state import SharedCounts, SharedQuotas, SharedRates, SharedTable
from punch.rendezvous.members.access import AccessControl
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.monitoring.status import Health, Totals
from punch.rendezvous.operator_log import OperatorLog
from punch.rendezvous.reflector import Reflector
from punch.rendezvous.registry.registry import Registry
from punch.rendezvous.relay import Relay
from punch.rendezvous.relay_service import RelayService
from punch.rendezvous.tcp.accepting import accept_in_turn
from punch.rendezvous.tcp.listen import LOOPBACK, bound_address, listen, listening_failed, parse_endpoints
from punch.rendezvous.tcp.protocol_sniffer import (
    STUN,
    TLS,
    Established,
    ProtocolSnifferFactory,
    RefusedConnection,
    Route,
)
from punch.rendezvous.tcp.tls import CONTROL_ALPN, TURN_ALPN, ServerConnectionCreator, tls_route
from punch.rendezvous.udp_server import DatagramRelay, SecondReflector, UDPServer
from punch.wire.rendezvous_address import RendezvousAddress, pin_of

_CLOSE_TIME = 1.0
"""Seconds that peers have to read the message that the service ends."""

# A pinned key needs no dates: these keep a wrong clock harmless.
_NOT_BEFORE = datetime(2020, 1, 1, tzinfo=timezone.utc)
_DAYS = 100 * 365


class RendezvousService(Service):
    """
    Introduces peers, and tells them which address they are seen from.

    :ivar address: what peers use to find it; known when it listens.
    :ivar local_address: the same for peers on this machine.
    :ivar health: whether the service works.
    :ivar totals: what has happened since the start.
    """

    _log = Logger()

    def __init__(
        self,
        config: RendezvousConfig,
        *,
        reactor: Any,
        monotonic: Callable[[], float],
        random: RandomBytes,
        report: ServiceReport,
        wall: Callable[[], float] | None = None,
        cpu: Callable[[], float] = lambda: 0.0,
        membership: Membership | None = None,
        directory: Directory | None = None,
    ) -> None:
        """
        :param reactor: provides `IReactorTCP`, `IReactorUDP` and `IReactorTime`.
        :param monotonic: monotonic seconds.
        :param random: the source of all randomness but that of TLS.
        :param report: called with the events `listening`, `registered`, `gone` and `failed`.
        :param wall: Unix seconds, by which credentials for relays expire. None stands for `monotonic`, which
            suffices if no other program makes or checks them.
        :param cpu: processor seconds that this thread has used, by which connections that cost too much are
            slowed down. Without it only their lines are counted.
        :param membership: who may register; None: anyone.
        :param directory: which process of the service a peer is at; None if this one is the whole service.
        :raise EndpointError: `config.control` is not usable.
        :raise ValueError: certificate and key do not belong together.
        """
        self.config = config
        self.clock: IReactorTime = reactor
        self.monotonic = monotonic
        self.random = random
        self.address: RendezvousAddress | None = None
        self.local_address: RendezvousAddress | None = None
        self._directory: DirectoryConnector | None = None
        if directory is None:
            self.registry = Registry(config.limits)
        else:
            remote_calls = RemoteCalls(
                config.limits, lambda peer, address: self._access.denies(peer, address)
            )
            self.registry = remote_calls.registry
            self._directory = DirectoryConnector(
                directory, remote_calls, monotonic, lambda: self._sessions.registry_changed()
            )
        self.reflector_port = 0
        self.health = Health()
        if directory is not None:
            self.health.add_check("registry", lambda: directory.problem)
        self.totals = Totals()
        self._reactor = reactor
        self._report = report
        self._endpoints = parse_endpoints(reactor, config.endpoints)
        self._pin = pin_of(config.identity.private_key.public_key())
        shown = config.authority_certificate or config.certificate or self._own_certificate()
        self._shown_pin = pin_of(shown.chain[0].public_key())
        self._second = SecondReflector(config, reactor=reactor, random=random, wall=wall)
        self._reflector_logged = -1.0
        self._operator_log = OperatorLog(
            clock=reactor,
            monotonic=monotonic,
            totals=self.totals,
            full_addresses=config.log_full_addresses,
            full_peers=config.log_full_peers,
        )
        self._access = AccessControl(
            config.deny, membership, log=self._operator_log, monotonic=monotonic, wall=wall or monotonic
        )
        self._reflector = Reflector(
            limited=self._reflector_limited,
            prove=self._second.prober.prove,
        )
        self._relay = RelayService(
            config,
            self._reflector,
            reactor=reactor,
            monotonic=monotonic,
            wall=wall or monotonic,
            random=random,
            log=self._operator_log,
            membership=membership,
        )
        if directory is not None:
            self._share(directory, membership)
        beneath_tls: dict[bytes | None, Route] = {CONTROL_ALPN: self._control_route}
        if self._relay.relay is not None:
            beneath_tls |= dict.fromkeys((TURN_ALPN, None), self._relay_route)
        try:
            self._tls = ServerConnectionCreator(shown, frozenset(filter(None, beneath_tls)))
        except SSL.Error as problem:
            raise ValueError("The key is not the key of the certificate.") from problem
        routes = {TLS: tls_route(self._tls, beneath_tls, reactor)}
        if self._relay.relay is not None:
            routes |= dict.fromkeys(STUN, self._relay_route)
        self._sniffer = ProtocolSnifferFactory(
            routes,
            config.limits,
            clock=reactor,
            monotonic=monotonic,
            cpu=cpu,
            limit_hit=self._operator_log.limit_hit,
        )
        self._sessions = ControlSessions(
            self.registry,
            config.limits,
            clock=reactor,
            monotonic=monotonic,
            access=self._access,
            relay=self._relay,
            second_reflector=self._second,
            directory=self._directory,
            log=self._operator_log,
            totals=self.totals,
            report=report,
        )
        self._begun = False
        self._starting: Deferred[None] | None = None
        self._ports: list[IListeningPort] = []
        self._udp_ports: list[UDPPort] = []

    def _share(self, directory: Directory, membership: Membership | None) -> None:
        """Apply the limits to all processes of the service together."""
        secret = self.config.identity.private_key.private_bytes_raw()
        kinds: dict[str, Sequence[SharedTable]] = {
            "registrations": self.registry.places.tables,
            "introductions": self.registry.admission.places,
        }
        if self._directory is not None:
            kinds["calls"] = self._directory.remote_calls.places
        if self._relay.relay is not None:
            allocations = self._relay.relay.core.allocations
            kinds["allocations"] = [allocations.places]
            directory.share(SharedQuotas(allocations.quotas, secret))
            directory.share(SharedRates(allocations, self.monotonic, secret=secret, random=self.random))
        tables = {
            f"{kind} {number}": table for kind, each in kinds.items() for number, table in enumerate(each)
        }
        buckets = {"absent": self.registry.admission.absent_calls, "probes": self._second.prober.by_prefix}
        if membership is not None:
            buckets["invitations"] = membership.wrong_invitations
            buckets["revocations"] = membership.revocations
            buckets["vouchers"] = membership.vouchers
        directory.share(SharedCounts(tables, buckets, self.monotonic, secret=secret, random=self.random))

    @property
    def relay(self) -> Relay | None:
        """The TURN server; None if it is switched off."""
        return self._relay.relay

    @property
    def relay_service(self) -> RelayService:
        """The relay, the credentials for it, and what it has carried."""
        return self._relay

    @property
    def open_connections(self) -> int:
        """TCP connections that are open."""
        return self._sniffer.open_count

    @property
    def ended_connections(self) -> int:
        """TCP connections that have ended since the start."""
        return self._sniffer.ended_count

    @property
    def ended_allocations(self) -> int:
        """Allocations of the relay that have ended since the start."""
        return 0 if self.relay is None else self.relay.core.allocations.ended

    @property
    def open_handshakes(self) -> int:
        """Of these, the connections that have not finished their TLS handshake."""
        return self._sniffer.limiter.waiting

    # -- the service --

    def privilegedStartService(self) -> None:
        """Listen while the process may still bind ports below 1024."""
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._begin()

    def startService(self) -> None:
        """Listen."""
        super().startService()  # type: ignore[no-untyped-call]
        self._begin()

    def stopService(self) -> Deferred[None]:
        """
        Tell the peers that the service ends, finish the introductions that are under way, and close all.

        This takes `RendezvousLimits.stop_time` and a second at most.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._begun = False
        return Deferred.fromCoroutine(self._stop())

    def _control_route(self, address: IAddress, established: Established) -> ControlServerProtocol:
        return ControlServerProtocol(self._sessions, established)

    def _reflector_limited(self, host: str) -> None:
        # A flood causes tens of thousands of these a second, so only one a second is passed on.
        now = self.monotonic()
        if now >= self._reflector_logged + 1.0:
            self._reflector_logged = now
            self._operator_log.limit_hit(host, "reflector-rate")
        else:
            self.totals.refused("reflector-rate")

    def _relay_route(self, address: IAddress, established: Established) -> IProtocol:
        if self._relay.relay is None or self._access.deny.has_host(str(getattr(address, "host", ""))):
            return RefusedConnection()
        return self._relay.relay.route(address, established)

    def use_certificate(self, certificate: ServerCertificate) -> None:
        """
        Show another certificate of an authority on connections that begin from now on. Open connections are
        not affected.

        :raise ValueError: certificate and key do not belong together. The certificate before stays in use.
        """
        try:
            self._tls.use(certificate)
        except SSL.Error as problem:
            raise ValueError("The key is not the key of the certificate.") from problem
        self._shown_pin = pin_of(certificate.chain[0].public_key())
        if self.local_address is not None:
            self.local_address = replace(self.local_address, pin=self._shown_pin)

    def deny(self, deny: DenyList) -> int:
        """
        Refuse these peers and networks, and no others, from now on. Their registrations, calls and
        allocations end at once.

        :return: the number of peers whose connections were closed.
        """
        self._access.deny = deny
        return self.end_refused()

    def end_refused(self, *, list_changed: bool = True) -> int:
        """As `ControlSessions.end_refused`."""
        return self._sessions.end_refused(list_changed=list_changed)

    @property
    def lists_pending(self) -> bool:
        """As `ControlSessions.lists_pending`."""
        return self._sessions.lists_pending

    def end_changed(self, peers: Set[PeerID]) -> int:
        """As `ControlSessions.end_changed`."""
        return self._sessions.end_changed(peers)

    # -- starting and stopping --

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        self.end_refused()
        try:
            self._udp_ports = self._open_reflector()
        except (OSError, CannotListenError) as problem:
            port = self.config.reflector_port
            self._failed(problem, f"UDP port {port}", "--reflector-port PORT")
            return
        self.reflector_port = self._sessions.reflector_port = self._udp_ports[0].port
        try:
            self._second.listen(self._udp_ports, self._udp_server())
        except (OSError, CannotListenError) as problem:
            self._not_second(problem)
            return
        listening = listen(
            self._reactor,
            self._endpoints,
            self.config.port,
            self._sniffer,
            self._sniffer.behind_balancer(),
            partial(
                accept_in_turn,
                first_bytes=self._sniffer.routes.keys(),
                monotonic=self.monotonic,
                limit_hit=self._operator_log.limit_hit,
            ),
        )
        self._starting = listening.addCallbacks(self._listening, self._not_listening)

    def _open_reflector(self) -> list[UDPPort]:
        config = self.config
        server = self._udp_server(self._relay.relay)
        return open_ports(self._reactor, config.reflector_host, config.reflector_port, server)

    def _udp_server(self, relay: DatagramRelay | None = None) -> UDPServer:
        return UDPServer(
            self._reflector,
            relay=relay,
            monotonic=self.monotonic,
            refuses=lambda host: self._access.deny.has_host(host),
            answered=self.totals.reflector_answered,
        )

    def _listening(self, ports: list[IListeningPort]) -> None:
        self._ports = ports
        config = self.config
        bound_host, bound_port = bound_address(ports)
        own = config.authority_certificate is None
        host = config.host or (config.primary_address if bound_host in LOOPBACK else bound_host)
        self.address = RendezvousAddress(host, config.public_port or bound_port, self._pin if own else None)
        self._relay.listening(self.reflector_port, self.address.port, self._shown_pin if own else None)
        self.local_address = RendezvousAddress(
            LOOPBACK.get(bound_host, bound_host), bound_port, self._shown_pin
        )
        self.health.started()
        if self._directory is not None:
            self._directory.start()
        self._log.info("{event} at {address}", event="listening", address=str(self.address))
        self._report("listening", address=str(self.address))

    def _not_listening(self, failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, CancelledError):
            return
        if isinstance(problem, (CannotListenError, OSError)):
            port = getattr(problem, "port", None)
            # For a UNIX socket, `port` is its path, unless the lock file beside it failed.
            where = f"TCP port {port}" if isinstance(port, int) else str(port or "the address of --control")
            self._failed(problem, where, "--control tcp:PORT")
        else:
            self._log.failure("The control endpoint failed", failure)
            self._report(
                "failed",
                reason="endpoint",
                text=f"The service can't listen where --control says ({failure.getErrorMessage()[:200]}); "
                "change the endpoint.",
            )

    def _not_second(self, problem: Exception) -> None:
        """The second port or an alternate address cannot be used."""
        interface = getattr(problem, "interface", None)
        if errno_of(problem) == errno.EADDRNOTAVAIL and interface:
            text = f"{interface} is no address of this machine; name another with --alternate-address."
            self._log.error("{text}", text=text)
            self._report("failed", reason="endpoint", text=text)
            return
        port = getattr(problem, "port", None) or self.config.second_reflector_port
        self._failed(problem, f"UDP port {port}", "--second-reflector-port PORT")

    def _failed(self, problem: Exception, where: str, option: str) -> None:
        reason, text = listening_failed(problem, where, option)
        self._log.error("{text}", text=text)
        self._report("failed", reason=reason, text=text)

    async def _stop(self) -> None:
        self.health.stopping()
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        self._ports, ports = [], self._ports
        self.address = self.local_address = None
        closing = [maybeDeferred(cast(Callable[[], Any], port.stopListening)) for port in ports]
        await finish_introductions(
            self.registry,
            self._sessions.end,
            clock=self.clock,
            monotonic=self.monotonic,
            time=self.config.limits.stop_time,
        )
        closing += [port.close() for port in self._udp_ports]
        closing += self._second.close()
        self._udp_ports = []
        self._relay.stop()
        if self._directory is not None:
            closing.append(self._directory.stop())
        await self._sniffer.close_connections(_CLOSE_TIME)
        self._sessions.stop()
        self._operator_log.close()
        await gatherResults(closing)

    def _own_certificate(self) -> ServerCertificate:
        identity = self.config.identity
        return ServerCertificate((identity.certificate(_NOT_BEFORE, _DAYS),), identity.private_key)

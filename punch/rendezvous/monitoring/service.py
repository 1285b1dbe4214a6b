"""A rendezvous with what operators see of it, as one Twisted service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorUNIX
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from punch import __version__
from punch.rendezvous.control_sessions import ServiceReport
from punch.rendezvous.monitoring.http import (
    MonitoringConnections,
    MonitoringSite,
    Page,
    health_page,
    metrics_page,
    status_pages,
)
from punch.rendezvous.monitoring.listener import (
    OPTION,
    MonitoringEndpoint,
    MonitoringListener,
    socket_endpoint,
)
from punch.rendezvous.monitoring.status import PERIOD, Figures, FiguresHistory, ServiceStatus, full_tables
from punch.rendezvous.service import RendezvousService


def figures_of(service: RendezvousService) -> Figures:
    """The figures of a service now."""
    relay, registry, totals = service.relay, service.registry, service.totals
    limits = service.config.limits
    return Figures(
        peers=len(registry),
        introductions=registry.introduction_count,
        connections=service.open_connections,
        handshakes=service.open_handshakes,
        allocations=0 if relay is None else len(relay.core.allocations.by_client),
        registrations=totals.registrations,
        introductions_begun=registry.introductions_begun,
        introductions_answered=registry.introductions_answered,
        allocations_made=totals.allocations,
        relayed_bytes_to_peers=0 if relay is None else relay.core.bytes_to_peers,
        relayed_bytes_to_clients=0 if relay is None else relay.core.bytes_to_clients,
        reflector_answers=totals.reflector_answers,
        refusals=dict(totals.refusals),
        limits={each.name: getattr(limits, each.name) for each in fields(limits)},
    )


class MonitoredService(Service):
    """
    Starts and stops a rendezvous and the operator's listeners, which listen until the rendezvous has stopped.

    :param endpoint: where operators read the figures; None listens nowhere.
    :param directory: where a UNIX socket is made for `punch rendezvous status`; None makes none.
    :param report: called with `failed` (reason, text) if it can't listen on `endpoint`.
    :raise MonitoringEndpointError: Twisted can't use the endpoint.
    """

    _log = Logger()

    def __init__(
        self,
        rendezvous: RendezvousService,
        endpoint: MonitoringEndpoint | None,
        *,
        reactor: Any,
        report: ServiceReport,
        directory: Path | None = None,
    ) -> None:
        self.rendezvous = rendezvous
        self._reactor = reactor
        self._report = report
        self._broken = False
        self._begun = rendezvous.monotonic()
        self._history = FiguresHistory(figures_of(rendezvous))
        self._sampling = LoopingCall(self._sample)
        self._sampling.clock = reactor
        rendezvous.health.add_check("tables", full_tables(lambda: figures_of(rendezvous)))
        pages = {b"/healthz": health_page(rendezvous.health.report), **status_pages(self.status)}
        self._listeners: list[MonitoringListener] = []
        if endpoint is not None:
            site = MonitoringSite(pages | {b"/metrics": self._metrics()}, reactor, local=endpoint.local)
            where = f"the endpoint of {OPTION}"
            server = endpoint.server(reactor)
            self._listeners.append(
                MonitoringListener(server, MonitoringConnections(site), where, self._failed)
            )
        has_unix = IReactorUNIX.providedBy(reactor)
        if directory is not None and has_unix:
            site = MonitoringSite(pages, reactor, local=True)
            server = socket_endpoint(reactor, directory)
            connections = MonitoringConnections(site)
            self._listeners.append(
                MonitoringListener(server, connections, "the UNIX socket", self._no_socket)
            )

    def status(self) -> ServiceStatus:
        """What is told to operators now."""
        rendezvous = self.rendezvous
        uptime = rendezvous.monotonic() - self._begun
        health = rendezvous.health.report()
        return ServiceStatus(__version__, uptime, health, figures_of(rendezvous), self._history)

    def privilegedStartService(self) -> None:
        """Listen while the process may still bind ports below 1024."""
        super().privilegedStartService()
        if self._listen():
            self.rendezvous.privilegedStartService()

    def startService(self) -> None:
        """Listen."""
        super().startService()
        if self._listen():
            self._sampling.start(PERIOD, now=False)
            self.rendezvous.startService()

    def stopService(self) -> Deferred[None]:
        """Stop the rendezvous, then the listeners."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _listen(self) -> bool:
        """Start the listeners. Return False if one has failed already: the process ends."""
        for listener in self._listeners:
            listener.start()
        return not self._broken

    async def _stop(self) -> None:
        if self._sampling.running:
            self._sampling.stop()
        await self.rendezvous.stopService()
        await gatherResults([listener.stop() for listener in self._listeners])

    def _sample(self) -> None:
        self._history.add(figures_of(self.rendezvous))

    def _failed(self, reason: str, text: str) -> None:
        self._broken = True
        self._report("failed", reason=reason, text=text)

    def _no_socket(self, reason: str, text: str) -> None:
        # The service works without; another process may use the same directory.
        self._log.warn("There is no socket for punch rendezvous status: {text}", text=text)

    def _metrics(self) -> Page:
        # Only who asks for metrics needs the package.
        from prometheus_client.twisted import MetricsResource

        from punch.rendezvous.monitoring.metrics import FiguresCollector, make_registry

        collector = FiguresCollector(lambda: figures_of(self.rendezvous), self.rendezvous.health.report)
        resource: Any = MetricsResource(make_registry(collector))
        read: Callable[[], None] = collector.read
        return metrics_page(read, resource)

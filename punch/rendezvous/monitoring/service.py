"""A rendezvous with what operators see of it, as one Twisted service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from punch.rendezvous.monitoring.figures import Figures
from punch.rendezvous.monitoring.health import full_tables
from punch.rendezvous.monitoring.http import MonitoringSite, Page, health_page, metrics_page
from punch.rendezvous.monitoring.listener import MonitoringEndpoint, MonitoringListener
from punch.rendezvous.service import RendezvousService, ServiceReport


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
    Starts and stops a rendezvous and the operator's listener, which listens until the rendezvous has stopped.

    :param endpoint: where operators read the figures; None listens nowhere.
    :param report: called with `failed` (reason, text) if the listener can't listen.
    :raise MonitoringEndpointError: Twisted can't use the endpoint.
    """

    def __init__(
        self,
        rendezvous: RendezvousService,
        endpoint: MonitoringEndpoint | None,
        *,
        reactor: Any,
        report: ServiceReport,
    ) -> None:
        self.rendezvous = rendezvous
        self._report = report
        self._broken = False
        rendezvous.health.checks.append(full_tables(lambda: figures_of(rendezvous)))
        self._listener: MonitoringListener | None = None
        if endpoint is not None:
            pages: dict[bytes, Page] = {
                b"/healthz": health_page(rendezvous.health.report),
                b"/metrics": self._metrics(),
            }
            site = MonitoringSite(pages, reactor, local=endpoint.local)
            self._listener = MonitoringListener(reactor, endpoint, site, self._failed)

    def privilegedStartService(self) -> None:
        """Listen while the process may still bind ports below 1024."""
        super().privilegedStartService()
        if self._listen():
            self.rendezvous.privilegedStartService()

    def startService(self) -> None:
        """Listen."""
        super().startService()
        if self._listen():
            self.rendezvous.startService()

    def stopService(self) -> Deferred[None]:
        """Stop the rendezvous, then the listener."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def _listen(self) -> bool:
        """Start the listener. Return False if it has failed already: the process ends."""
        if self._listener is not None:
            self._listener.start()
        return not self._broken

    async def _stop(self) -> None:
        await self.rendezvous.stopService()
        if self._listener is not None:
            await self._listener.stop()

    def _failed(self, reason: str, text: str) -> None:
        self._broken = True
        self._report("failed", reason=reason, text=text)

    def _metrics(self) -> Page:
        # Only who asks for metrics needs the package.
        from prometheus_client.twisted import MetricsResource

        from punch.rendezvous.monitoring.metrics import FiguresCollector, make_registry

        collector = FiguresCollector(lambda: figures_of(self.rendezvous), self.rendezvous.health.report)
        resource: Any = MetricsResource(make_registry(collector))
        read: Callable[[], None] = collector.read
        return metrics_page(read, resource)

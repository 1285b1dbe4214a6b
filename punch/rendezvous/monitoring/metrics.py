"""
The figures as Prometheus metrics, by its own client library (the extra `punch[metrics]`).

No label grows with peers: `cause`, `limit` and `check` have the values that the code names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from punch import __version__
from punch.rendezvous.monitoring.status import COUNTER, NUMBERS, Figures, HealthReport, HealthStatus

PREFIX = "punch_"


class FiguresCollector(Collector):
    """
    Makes metrics of the figures that `read` has taken last.

    The library's resource answers in a thread, so the figures are taken before, in the reactor's thread.
    """

    def __init__(self, figures: Callable[[], Figures], health: Callable[[], HealthReport]) -> None:
        self._figures = figures
        self._health = health
        self._taken: tuple[Figures, HealthReport] | None = None

    def read(self) -> None:
        """Take the figures."""
        self._taken = self._figures(), self._health()

    def collect(self) -> Iterator[Metric]:
        """The metrics, for `CollectorRegistry`."""
        if self._taken is None:
            return
        figures, health = self._taken
        for each in NUMBERS:
            family = CounterMetricFamily if each.metadata["kind"] == COUNTER else GaugeMetricFamily
            yield family(PREFIX + each.name, each.metadata["help"], value=getattr(figures, each.name))
        refusals = CounterMetricFamily(
            f"{PREFIX}refusals", "What was refused, closed or slowed down, by cause.", labels=["cause"]
        )
        for cause, number in sorted(figures.refusals.items()):
            refusals.add_metric([cause], number)
        yield refusals
        limits = GaugeMetricFamily(
            f"{PREFIX}limit", "The limits of the configuration, by the name of the option.", labels=["limit"]
        )
        for name, value in figures.limits.items():
            limits.add_metric([name.replace("_", "-")], value)
        yield limits
        yield GaugeMetricFamily(
            f"{PREFIX}healthy",
            "1 if the service works and nothing is wrong, else 0.",
            value=int(health.status is HealthStatus.OK),
        )
        checks = GaugeMetricFamily(
            f"{PREFIX}check_failed", "1 if /healthz gives a reason of this kind, else 0.", labels=["check"]
        )
        for name, failed in health.failed.items():
            checks.add_metric([name], int(failed))
        yield checks
        yield InfoMetricFamily(PREFIX.rstrip("_"), "The version of Punch.", value={"version": __version__})


def make_registry(collector: FiguresCollector) -> CollectorRegistry:
    """A registry of its own with these metrics, and with those of the process (memory, CPU, descriptors)."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return registry

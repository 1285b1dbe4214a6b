"""Whether a service works as it should, and if not, why; and all that its operator is told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from punch.rendezvous.monitoring.figures import Figures, FiguresHistory

Check = Callable[[], str | None]
"""Returns a sentence that says what is wrong; None if nothing is."""


class HealthStatus(str, Enum):
    """How well the service works."""

    STARTING = "starting"
    """It does not listen yet."""
    OK = "ok"
    DEGRADED = "degraded"
    """It serves, and something is wrong."""
    STOPPING = "stopping"
    """It takes no new registrations and calls."""

    @property
    def serves(self) -> bool:
        """Whether peers should use this service."""
        return self in (HealthStatus.OK, HealthStatus.DEGRADED)


@dataclass(frozen=True)
class HealthReport:
    """
    What `Health` found.

    :ivar reasons: a sentence for each thing that is wrong.
    :ivar failed: by the name of each check, whether it has found something.
    """

    status: HealthStatus
    reasons: tuple[str, ...] = ()
    failed: Mapping[str, bool] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return {"status": self.status.value, "reasons": list(self.reasons)}


class Health:
    """Asks all checks when it is asked itself."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._phase = HealthStatus.STARTING

    def add_check(self, name: str, check: Check) -> None:
        """
        Add the check of a part of the service.

        :param name: the value of the label `check` in metrics.
        """
        self._checks[name] = check

    def started(self) -> None:
        """The service listens."""
        self._phase = HealthStatus.OK

    def stopping(self) -> None:
        """The service has begun to stop."""
        self._phase = HealthStatus.STOPPING

    def report(self) -> HealthReport:
        """Ask all checks."""
        found = {name: check() for name, check in self._checks.items()}
        reasons = tuple(reason for reason in found.values() if reason is not None)
        degraded = self._phase is HealthStatus.OK and reasons
        return HealthReport(
            HealthStatus.DEGRADED if degraded else self._phase,
            reasons,
            {name: reason is not None for name, reason in found.items()},
        )


_TABLES = (
    ("connections", "connections", "TCP connections", 0.83),
    ("peers", "registrations", "registered peers", 0.875),
    ("introductions", "introductions", "introductions going on", 0.875),
    ("allocations", "relay_allocations", "relayed addresses", 0.875),
)
"""
For each table: its figure, its limit, what it holds, and the part at which it is nearly full. One place in
eight of most is reserved, and one connection in 24 besides, so that strangers can fill no more than this.
"""


def full_tables(figures: Callable[[], Figures]) -> Check:
    """A check that names the tables that are so full that some entries are refused."""

    def check() -> str | None:
        now = figures()
        full = [
            f"{getattr(now, figure)} {what}, of {limit:.0f} at most (--{name.replace('_', '-')})"
            for figure, name, what, part in _TABLES
            if (limit := now.limits.get(name)) is not None and getattr(now, figure) >= part * limit
        ]
        return f"There is little room left: {'; '.join(full)}." if full else None

    return check


@dataclass(frozen=True)
class ServiceStatus:
    """
    The status of a service.

    :ivar uptime: seconds since its start.
    """

    version: str
    uptime: float
    health: HealthReport
    figures: Figures
    history: FiguresHistory

    def as_json(self) -> dict[str, object]:
        """The status as JSON values."""
        return {
            "version": self.version,
            "uptime": round(self.uptime),
            **self.health.as_json(),
            "figures": self.figures.as_json(),
            "history": self.history.as_json(),
        }

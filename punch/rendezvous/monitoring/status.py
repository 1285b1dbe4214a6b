"""What a service tells its operator at one moment, for the page, JSON and the command. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from punch.rendezvous.monitoring.figures import Figures
from punch.rendezvous.monitoring.health import HealthReport
from punch.rendezvous.monitoring.history import FiguresHistory


@dataclass(frozen=True)
class Status:
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


def duration(seconds: float) -> str:
    """A time for people, such as `3 d 4 h` or `5 min`."""
    minutes = int(seconds) // 60
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {rest} min"
    return f"{rest} min" if rest else f"{int(seconds)} s"


def count(number: float) -> str:
    """A number for people, such as `12,345`."""
    return f"{number:,.0f}"

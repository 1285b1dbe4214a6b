"""
What an operator is told of a service: its figures, whether it works as it should, and a page for a browser
with both. Pure.

No figure is by peer, address or name, so their number does not depend on what strangers do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from html import escape

from punch.amounts import format_bytes, format_count, format_duration

MAX_CAUSES = 64
"""Causes of refusals that are counted separately. They come from the code, so there are fewer."""
OTHER_CAUSES = "others"

PERIOD = 300.0
"""Seconds between samples…"""
SAMPLES = 288
"""…so that this many are a day."""

GAUGE, COUNTER = "gauge", "counter"


class Totals:
    """
    What has happened since the start.

    :ivar registrations: registrations that were accepted, also those that replaced another one.
    :ivar allocations: allocations of the relay that were made and proved.
    :ivar reflector_answers: Binding requests that were answered over UDP.
    :ivar refusals: refusals, by their cause.
    """

    def __init__(self) -> None:
        self.registrations = 0
        self.allocations = 0
        self.reflector_answers = 0
        self.refusals: dict[str, int] = {}

    def refused(self, cause: str) -> None:
        """Something was refused, closed or slowed down."""
        if cause not in self.refusals and len(self.refusals) >= MAX_CAUSES:
            cause = OTHER_CAUSES
        self.refusals[cause] = self.refusals.get(cause, 0) + 1

    def reflector_answered(self, number: int) -> None:
        """So many Binding requests were answered."""
        self.reflector_answers += number


def _gauge(meaning: str) -> int:
    """The field of a number that rises and falls."""
    return field(metadata={"kind": GAUGE, "help": meaning})  # type: ignore[no-any-return]


def _counter(meaning: str) -> int:
    """The field of a number that only grows while the process runs."""
    return field(metadata={"kind": COUNTER, "help": meaning})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Figures:
    """The figures at one moment."""

    peers: int = _gauge("Registered peers.")
    introductions: int = _gauge("Introductions that are going on.")
    connections: int = _gauge("Open TCP connections.")
    handshakes: int = _gauge("TCP connections that have not finished their TLS handshake.")
    allocations: int = _gauge("Relayed addresses.")
    registrations: int = _counter("Registrations that were accepted.")
    introductions_begun: int = _counter("Introductions (calls) that were delivered to the called peer.")
    introductions_answered: int = _counter("Introductions that the called peer has accepted.")
    allocations_made: int = _counter("Relayed addresses that were allocated.")
    relayed_bytes_to_peers: int = _counter("Bytes that the relay has sent to peers, without headers.")
    relayed_bytes_to_clients: int = _counter("Bytes that the relay has sent to clients, headers included.")
    reflector_answers: int = _counter("Binding requests over UDP that were answered.")
    refusals: Mapping[str, int] = field(default_factory=dict)
    """Refusals since the start, by their cause."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """The limits of the configuration, by name."""

    @property
    def relayed_bytes(self) -> int:
        """All bytes that were relayed since the start."""
        return self.relayed_bytes_to_peers + self.relayed_bytes_to_clients

    @property
    def refused(self) -> int:
        """All refusals since the start."""
        return sum(self.refusals.values())

    def as_json(self) -> dict[str, object]:
        """The figures as JSON values."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value


NUMBERS = tuple(each for each in fields(Figures) if each.metadata)
"""The fields that hold one number, with its `kind` and `help` as metadata."""


@dataclass(frozen=True)
class Curve:
    """
    One curve of the page.

    :ivar key: its name in JSON.
    :ivar title: its title for people.
    :ivar value: the value of a period, from the figures at its beginning and at its end.
    :ivar is_sum: whether values of periods are added up; otherwise each is a state at that moment.
    """

    key: str
    title: str
    value: Callable[[Figures, Figures], float]
    is_sum: bool


CURVES = (
    Curve("peers", "Registered peers", lambda old, now: now.peers, False),
    Curve("calls", "Calls", lambda old, now: now.introductions_begun - old.introductions_begun, True),
    Curve("relayed_bytes", "Relayed bytes", lambda old, now: now.relayed_bytes - old.relayed_bytes, True),
    Curve("refusals", "Refusals", lambda old, now: now.refused - old.refused, True),
)


class FiguresHistory:
    """
    Samples of the figures, the oldest first.

    :param figures: the figures at the start.
    """

    def __init__(self, figures: Figures) -> None:
        self._last = figures
        self._samples: dict[str, deque[float]] = {each.key: deque(maxlen=SAMPLES) for each in CURVES}

    def add(self, figures: Figures) -> None:
        """A period is over: add its samples."""
        for each in CURVES:
            self._samples[each.key].append(each.value(self._last, figures))
        self._last = figures

    def curve(self, key: str) -> list[float]:
        """The values of one curve."""
        return list(self._samples[key])

    def as_json(self) -> dict[str, object]:
        """All curves as JSON values, with the seconds between two values."""
        return {"period": PERIOD, **{each.key: self.curve(each.key) for each in CURVES}}


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
    """The checks of a service, all of which are made for each report."""

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
        """Make all checks."""
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


STYLE = "/status.css"
REFRESH = 60
"""Seconds after which a browser loads the page again."""
_WIDTH, _HEIGHT = 576, 120
_STEP = _WIDTH / SAMPLES


def page(status: ServiceStatus) -> str:
    """
    The status as HTML without scripts, forms and links, with curves as SVG.

    There are no names of peers in it. All text is escaped nevertheless.
    """
    return "\n".join(_page(status)) + "\n"


def _page(status: ServiceStatus) -> Iterator[str]:
    figures, health = status.figures, status.health
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="refresh" content="{REFRESH}">\n<title>Punch rendezvous</title>\n'
        f'<link rel="stylesheet" href="{STYLE}">\n</head>\n<body>\n<header>'
    )
    yield f'<h1>Punch rendezvous</h1>\n<p class="status {health.status.value}">{health.status.value}</p>'
    uptime = format_duration(status.uptime)
    yield f"<p>Punch {escape(status.version)}, running for {uptime}</p>\n</header>\n<main>"
    if health.reasons:
        yield '<ul class="reasons">'
        yield from (f"<li>{escape(reason)}</li>" for reason in health.reasons)
        yield "</ul>"
    yield '<section>\n<h2>Now</h2>\n<dl class="tiles">'
    for name, value in (
        ("Registered peers", figures.peers),
        ("Calls being introduced", figures.introductions),
        ("TCP connections", figures.connections),
        ("Relayed addresses", figures.allocations),
    ):
        yield f"<div><dt>{name}</dt><dd>{format_count(value)}</dd></div>"
    yield '</dl>\n</section>\n<section>\n<h2>Last day</h2>\n<div class="curves">'
    for curve in CURVES:
        yield _figure(curve, status.history.curve(curve.key))
    yield '</div>\n</section>\n<div class="tables">'
    yield from _table(
        "Since the start",
        [
            ("Registrations", format_count(figures.registrations)),
            ("Calls", format_count(figures.introductions_begun)),
            ("Calls answered", format_count(figures.introductions_answered)),
            ("Allocations", format_count(figures.allocations_made)),
            ("Relayed", format_bytes(figures.relayed_bytes)),
            ("Reflector answers", format_count(figures.reflector_answers)),
            ("Refusals", format_count(figures.refused)),
        ],
    )
    by_number = sorted(figures.refusals.items(), key=lambda each: (-each[1], each[0]))
    refusals = [(cause, format_count(number)) for cause, number in by_number]
    yield from _table("Refusals by cause", refusals or [("none", "0")])
    yield "</div>\n</main>\n</body>\n</html>"


def _table(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"<section>\n<h2>{title}</h2>\n<table>\n<tbody>"
    for name, value in rows:
        yield f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
    yield "</tbody>\n</table>\n</section>"


def _figure(curve: Curve, values: Sequence[float]) -> str:
    """A curve with its title and a caption that says the same in words."""
    shown = format_bytes if curve.key == "relayed_bytes" else format_count
    if not values:
        words = f"no value yet; the first comes {format_duration(PERIOD)} after the start"
    elif curve.is_sum:
        words = f"{shown(sum(values))} in all, at most {shown(max(values))} in {format_duration(PERIOD)}"
    else:
        words = f"{shown(values[-1])} at the last moment, at most {shown(max(values))}"
    return (
        f"<figure>\n<h3>{escape(curve.title)}</h3>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="base" d="M0 {_HEIGHT - 1}H{_WIDTH}"/>{_path(values)}</svg>\n'
        f"<figcaption>{escape(words)}</figcaption>\n</figure>"
    )


def _path(values: Sequence[float]) -> str:
    """Steps that end at the right edge, with the largest value at the top."""
    if not values:
        return ""
    most = max(values) or 1.0
    left = _WIDTH - len(values) * _STEP
    steps = " ".join(
        f"V{_HEIGHT - 2 - value / most * (_HEIGHT - 6):.1f}H{left + (number + 1) * _STEP:.0f}"
        for number, value in enumerate(values)
    )
    return f'<path class="area" d="M{left:.0f} {_HEIGHT - 2}{steps}V{_HEIGHT - 2}Z"/>'

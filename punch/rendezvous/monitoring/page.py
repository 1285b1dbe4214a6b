"""
The status page for a browser: HTML without scripts, forms and links, with curves as SVG. Pure.

It has no names of peers. All text is escaped nevertheless.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from punch.amounts import format_bytes, format_count, format_duration
from punch.rendezvous.monitoring.figures import CURVES, PERIOD, SAMPLES, Curve
from punch.rendezvous.monitoring.health import ServiceStatus

STYLE = "/status.css"
REFRESH = 60
"""Seconds after which a browser loads the page again."""
_WIDTH, _HEIGHT = 576, 120
_STEP = _WIDTH / SAMPLES


def page(status: ServiceStatus) -> str:
    """The page as HTML."""
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

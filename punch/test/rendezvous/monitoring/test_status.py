"""Totals, health, the history of a day and the page, without a service."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.monitoring.http import MonitoringSite, status_pages
from punch.rendezvous.monitoring.status import (
    CURVES,
    MAX_CAUSES,
    OTHER_CAUSES,
    PERIOD,
    SAMPLES,
    Figures,
    FiguresHistory,
    Health,
    HealthReport,
    HealthStatus,
    ServiceStatus,
    Totals,
    full_tables,
    page,
)


def figures(**changes: int) -> Figures:
    """Figures that are all zero but for `changes`."""
    return replace(Figures(*[0] * 12), **changes)  # type: ignore[arg-type]


class TotalsTests(SynchronousTestCase):
    def test_refusals_by_cause(self) -> None:
        totals = Totals()
        for cause in ("denied", "lines", "denied"):
            totals.refused(cause)
        self.assertEqual(totals.refusals, {"denied": 2, "lines": 1})

    def test_causes_are_bounded(self) -> None:
        """Even if a cause came from outside, the table would not grow with it."""
        totals = Totals()
        for number in range(1000):
            totals.refused(f"cause {number}")
        self.assertEqual(len(totals.refusals), MAX_CAUSES + 1)
        self.assertEqual(totals.refusals[OTHER_CAUSES], 1000 - MAX_CAUSES)

    def test_sums(self) -> None:
        now = figures(relayed_bytes_to_peers=3, relayed_bytes_to_clients=4)
        self.assertEqual(now.relayed_bytes, 7)
        self.assertEqual(replace(now, refusals={"a": 1, "b": 2}).refused, 3)


class HealthTests(SynchronousTestCase):
    def test_phases(self) -> None:
        health = Health()
        self.assertEqual(health.report().status, HealthStatus.STARTING)
        self.assertFalse(health.report().status.serves)
        health.started()
        self.assertEqual(health.report().as_json(), {"status": "ok", "reasons": []})
        health.stopping()
        self.assertEqual(health.report().status, HealthStatus.STOPPING)
        self.assertFalse(health.report().status.serves)

    def test_degraded_says_why(self) -> None:
        health = Health()
        wrong: list[str] = []
        health.add_check("registry", lambda: None)
        health.add_check("members", lambda: wrong[0] if wrong else None)
        health.started()
        self.assertEqual(health.report().status, HealthStatus.OK)
        wrong.append("The disk is full.")
        self.assertEqual(health.report().as_json(), {"status": "degraded", "reasons": ["The disk is full."]})
        self.assertEqual(health.report().failed, {"registry": False, "members": True})
        self.assertTrue(health.report().status.serves)
        wrong.clear()
        self.assertEqual(health.report().status, HealthStatus.OK)

    def test_full_tables(self) -> None:
        now = [replace(figures(peers=86), limits={"registrations": 100})]
        check = full_tables(lambda: now[0])
        self.assertIsNone(check())
        now[0] = replace(now[0], peers=88)
        self.assertEqual(
            check(), "There is little room left: 88 registered peers, of 100 at most (--registrations)."
        )


class HistoryTests(SynchronousTestCase):
    def test_states_and_sums(self) -> None:
        history = FiguresHistory(figures(introductions_begun=100))
        history.add(figures(peers=5, introductions_begun=103, relayed_bytes_to_peers=10))
        history.add(
            replace(
                figures(peers=2, introductions_begun=103, relayed_bytes_to_peers=10),
                relayed_bytes_to_clients=7,
                refusals={"denied": 4},
            )
        )
        self.assertEqual(
            history.as_json(),
            {
                "period": PERIOD,
                "peers": [5, 2],
                "calls": [3, 0],
                "relayed_bytes": [10, 7],
                "refusals": [0, 4],
            },
        )

    def test_a_day(self) -> None:
        self.assertEqual(PERIOD * SAMPLES, 24 * 3600)
        history = FiguresHistory(figures())
        for number in range(2 * SAMPLES):
            history.add(figures(peers=number))
        self.assertEqual(history.curve("peers"), list(range(SAMPLES, 2 * SAMPLES)))


class _Parser(HTMLParser):
    """Keeps tags with their attributes, and checks that all are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class PageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.history = FiguresHistory(figures())
        self.health = HealthReport(HealthStatus.DEGRADED, ("The disk of <redis> is full.",))

    def status(self, **refusals: int) -> ServiceStatus:
        now = replace(figures(peers=1234, relayed_bytes_to_peers=1_500_000), refusals=refusals)
        return ServiceStatus("0.1.0", 3700.0, self.health, now, self.history)

    def test_what_it_says(self) -> None:
        html = page(self.status(denied=3, lines=40))
        for text in (
            '<p class="status degraded">degraded</p>',
            "running for 1 h 1 min",
            "<li>The disk of &lt;redis&gt; is full.</li>",
            "<dt>Registered peers</dt><dd>1,234</dd>",
            "<td>1.5 MB</td>",
        ):
            self.assertIn(text, html)
        self.assertLess(html.index("lines"), html.index("denied"))

    def test_html(self) -> None:
        """Well formed, without what the policy forbids: scripts, inline styles, other sites."""
        for number in range(SAMPLES + 3):
            self.history.add(figures(peers=number % 7))
            if number in (0, 1, SAMPLES + 2):
                parser = _Parser()
                parser.feed(page(self.status(**{"<script>": 1})))
                self.assertEqual(parser.open, [])
        names = {tag for tag, _ in parser.tags}
        self.assertFalse(names & {"script", "style", "img", "iframe", "form", "a"})
        for _tag, attributes in parser.tags:
            self.assertFalse({"style", "src"} & set(attributes))
            self.assertFalse(any(name.startswith("on") for name in attributes))
        self.assertEqual([found["href"] for tag, found in parser.tags if tag == "link"], ["/status.css"])

    def test_curves(self) -> None:
        """A line to the right edge, with the largest value at the top."""
        self.assertEqual(page(self.status()).count("no value yet"), len(CURVES))
        for peers in (10, 20, 0):
            self.history.add(figures(peers=peers))
        html = page(self.status())
        self.assertIn("0 at the last moment, at most 20", html)
        areas = re.findall(r'class="area" d="([^"]*)"', html)
        self.assertEqual(len(areas), len(CURVES))
        self.assertEqual(areas[0], "M570 118V61.0H572 V4.0H574 V118.0H576V118Z")

    def test_served(self) -> None:
        site = MonitoringSite(dict(status_pages(self.status)), Clock(), local=True)
        for path, kind in (
            ("/", "text/html"),
            ("/status.css", "text/css"),
            ("/status.json", "application/json"),
        ):
            channel, transport = site.buildProtocol(None), StringTransport()
            channel.makeConnection(transport)
            channel.dataReceived(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            answer = transport.value().decode()
            self.assertTrue(answer.startswith("HTTP/1.1 200 "), answer[:100])
            self.assertIn(f"Content-Type: {kind}", answer)
            self.assertIn("default-src 'none'; style-src 'self'", answer)

"""The figures of a service on the simulated internet, and their form for Prometheus."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.monitoring.metrics import FiguresCollector, make_registry
from punch.rendezvous.monitoring.service import figures_of
from punch.test.rendezvous.registry.test_registry import CALL, envelope
from punch.test.rendezvous.test_service import SERVICE, RendezvousCase
from punch.wire.control import Accept, Answer, Establish, Register


class MetricsTests(RendezvousCase):
    limits = RendezvousLimits(registrations_per_address=2)

    def scrape(self) -> dict[str, Metric]:
        """The metrics as Prometheus' own parser reads them, by name."""
        collector = FiguresCollector(lambda: figures_of(self.service), self.service.health.report)
        registry = make_registry(collector)
        collector.read()
        text = generate_latest(registry).decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        (found,) = [
            sample.value
            for family in self.scrape().values()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found

    def test_what_happens_is_counted(self) -> None:
        alice, bob = self.register(self.alice), self.register(self.bob, self.office)
        alice.send(Establish(CALL, self.bob.peer_id, envelope(self.bob.peer_id)))
        self.net.advance(0.5)
        self.assertEqual(self.value("punch_introductions_begun_total"), 1)
        self.assertEqual(self.value("punch_introductions_answered_total"), 0)
        answer = Answer(CALL, self.alice.peer_id, envelope(self.alice.peer_id))
        bob.send(answer)
        bob.send(answer)  # repeated, as over a new connection
        self.net.advance(0.5)
        self.register(self.key("carol"))
        refused = self.connect(self.key("dave"))
        refused.send(Register("dave", Accept.ASK))
        self.net.advance(0.5)
        self.assertEqual(refused.lines[-1]["code"], "too-many")
        for name, value in (
            ("punch_peers", 3),
            ("punch_introductions", 1),
            ("punch_registrations_total", 3),
            ("punch_introductions_answered_total", 1),
            ("punch_allocations_made_total", 0),
            ("punch_healthy", 1),
        ):
            self.assertEqual(self.value(name), value, name)
        self.assertEqual(self.value("punch_refusals_total", cause="registration-too-many"), 1)
        self.assertEqual(self.value("punch_limit", limit="registrations-per-address"), 2)

    def test_number_of_series_does_not_grow_with_peers(self) -> None:
        def series() -> int:
            return sum(len(family.samples) for family in self.scrape().values())

        before = series()
        for number in range(2):
            self.register(self.key(f"peer {number}"))
        self.assertEqual(series(), before)

    def test_names_follow_the_rules_of_prometheus(self) -> None:
        """Names follow `promtool check metrics`: help for each, and `_total` only for counters."""
        found = self.scrape()
        self.assertGreater(len(found), 14)
        for name, family in found.items():
            self.assertTrue(family.documentation, name)
            totals = [sample.name.endswith("_total") for sample in family.samples]
            if family.type == "counter":
                self.assertTrue(all(totals), name)
            else:
                self.assertFalse(any(totals), name)
        ours = {name for name in found if not name.startswith(("process_", "python_"))}
        self.assertTrue(all(name.startswith("punch") for name in ours), ours)

    def test_no_names_of_peers(self) -> None:
        self.register(self.alice, name="Alice")
        text = str(self.scrape())
        for private in ("Alice", str(self.alice.peer_id), "203.0.113", SERVICE):
            self.assertNotIn(private, text)

    def test_what_is_wrong(self) -> None:
        wrong: list[str] = []
        self.service.health.add_check("certificate", lambda: wrong[0] if wrong else None)
        self.assertEqual(self.value("punch_check_failed", check="certificate"), 0)
        wrong.append("The certificate expires in two days.")
        self.assertEqual(self.value("punch_check_failed", check="certificate"), 1)
        self.assertEqual(self.value("punch_healthy"), 0)

    def test_stopping(self) -> None:
        self.net.wait(self.service.stopService(), 2.0)
        self.assertEqual(self.value("punch_healthy"), 0)
        self.assertEqual(self.service.health.report().status.value, "stopping")

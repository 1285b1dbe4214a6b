"""Totals and health, without a service."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.monitoring.figures import MAX_CAUSES, OTHER_CAUSES, Figures, Totals
from punch.rendezvous.monitoring.health import Health, HealthStatus, full_tables


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

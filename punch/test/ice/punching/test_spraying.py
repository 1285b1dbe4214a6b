"""How many sockets, ports and packets spraying takes."""

from __future__ import annotations

from math import exp
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.opening_budget import MAX_SPRAYED, MAX_SPRAYED_BYTES, OpeningBudget
from punch.ice.punching.spraying import (
    BURST,
    HIGHEST,
    LOWEST,
    MAX_PACKETS,
    MIN_SOCKETS,
    PROBES,
    RATE,
    SOCKETS,
    TARGETS,
    Guesses,
    Pace,
    sockets_for,
    wait_after,
)
from punch.ice.target_limits import WINDOW
from punch.wire.address import Address


class SprayingTests(SynchronousTestCase):
    """`Guesses`, `Pace`, and the limits."""

    def test_the_odds(self) -> None:
        """One of the two sockets is enough for 95 of 100; both fail once in a thousand attempts."""
        ports = HIGHEST - LOWEST + 1
        self.assertLess(exp(-SOCKETS * PROBES / ports), 0.05)
        self.assertLess(exp(-SOCKETS * MAX_PACKETS / ports), 0.001)
        self.assertEqual(MAX_PACKETS, PROBES * TARGETS)

    def test_guesses(self) -> None:
        """Every port that may be guessed comes once, and then there is none."""
        guesses = Guesses(Random(1).randbytes)
        ports = [guesses.take() for _ in range(HIGHEST - LOWEST + 1)]
        self.assertEqual(sorted(ports), list(range(LOWEST, HIGHEST + 1)))
        self.assertNotEqual(ports[:8], sorted(ports[:8]))
        self.assertRaises(RuntimeError, guesses.take)

    def test_the_rate(self) -> None:
        """In any second there are `RATE` packets, and after a pause of the process `BURST` more."""
        random = Random(1)
        for _ in range(20):
            now, sent = 0.0, []
            pace = Pace(now)
            while now < 5.0:
                sent.append(now)
                # The process is late, sometimes very
                now += pace.wait(now) + random.choice((0.0, 0.0, 0.001, 0.3))
            for first, later in zip(sent, sent[round(RATE) + BURST + 1 :], strict=False):
                self.assertGreaterEqual(later - first, 1.0 - 1e-9)
        pace, now = Pace(0.0), 0.0
        for _ in range(300):
            now += pace.wait(now)
        self.assertAlmostEqual(now, 2.0)

    def test_descriptors(self) -> None:
        """Half of what is free is used at most, and nothing if that is too little."""
        for free, sockets in (
            (10**6, SOCKETS),
            (512, SOCKETS),
            (300, 150),
            (128, MIN_SOCKETS),
            (127, 0),
            (0, 0),
        ):
            self.assertEqual(sockets_for(free), sockets)

    def test_descriptors_of_several_attempts(self) -> None:
        """All together have no more than half of what was free before."""
        free, held = 900, 0
        while sockets := sockets_for(free, held):
            free, held = free - sockets, held + sockets
        self.assertGreater(held, SOCKETS)
        self.assertLessEqual(held, 450)

    def test_waits(self) -> None:
        """Half a minute, five minutes, half an hour, and six hours from then on."""
        self.assertEqual(
            [wait_after(sprays) for sprays in range(6)], [0.0, 30.0, 300.0, 1800.0, 21600.0, 21600.0]
        )

    def test_the_limit(self) -> None:
        """Two whole attempts in ten minutes."""
        budget = OpeningBudget(MAX_SPRAYED, MAX_SPRAYED_BYTES)
        remote = Address("203.0.113.7", 7)
        self.assertEqual(MAX_SPRAYED, 2 * MAX_PACKETS)
        sent = sum(budget.allows(remote, 110, 0.0) for _ in range(10_000))
        self.assertEqual(sent, MAX_SPRAYED)
        self.assertFalse(budget.is_idle(0.0))
        self.assertEqual(budget.left(WINDOW), MAX_SPRAYED)
        self.assertTrue(budget.is_idle(WINDOW))
        sent = sum(budget.allows(remote, 1172, WINDOW) for _ in range(10_000))
        self.assertEqual(sent, MAX_SPRAYED_BYTES // 1200)

"""How many sockets, ports and packets spraying takes."""

from __future__ import annotations

from math import exp
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.limits import MAX_SPRAYED, MAX_SPRAYED_BYTES, WINDOW, OpeningBudget
from punch.ice.punching.spraying import (
    BURST,
    HIGHEST,
    LOWEST,
    MAX_PACKETS,
    MIN_SOCKETS,
    NEAR,
    PROBES,
    RATE,
    SHARE,
    SOCKETS,
    TARGETS,
    Guesses,
    Pace,
    port_range,
    probes,
    range_near,
    sockets_for,
    wait_after,
)
from punch.wire.address import Address


class SprayingTests(SynchronousTestCase):
    """`Guesses`, `Pace`, and the limits."""

    def test_the_odds(self) -> None:
        """Guesses for one of the two sockets suffice in 95 of 100 attempts; both fail once in a thousand."""
        ports = HIGHEST - LOWEST + 1
        self.assertLess(exp(-SOCKETS * PROBES / ports), 0.05)
        self.assertLess(exp(-SOCKETS * MAX_PACKETS / ports), 0.001)
        self.assertEqual(MAX_PACKETS, PROBES * TARGETS)

    def test_guesses(self) -> None:
        """Each port that may be guessed is guessed once. Then there is none left."""
        guesses = Guesses(Random(1).randbytes)
        ports = [guesses.take() for _ in range(HIGHEST - LOWEST + 1)]
        self.assertEqual(sorted(ports), list(range(LOWEST, HIGHEST + 1)))
        self.assertNotEqual(ports[:8], sorted(ports[:8]))
        self.assertRaises(RuntimeError, guesses.take)

    def test_the_order_of_probes(self) -> None:
        """No probe leaves from the second socket before the other side has opened for it."""
        for opened in (1, MIN_SOCKETS, SOCKETS, 1024):
            order = probes(opened)
            self.assertEqual([order.count(number) for number in range(TARGETS)], [PROBES, PROBES])
            self.assertGreaterEqual(order.index(1), min(opened * TARGETS, PROBES))

    def test_guesses_in_a_block(self) -> None:
        """Ports are guessed first where the other side was seen, then in wider ranges, each port once."""
        guesses = Guesses(Random(1).randbytes, (20_000, 20_400), 64)
        ports = [guesses.take() for _ in range(HIGHEST - LOWEST + 1)]
        self.assertEqual(sorted(ports), list(range(LOWEST, HIGHEST + 1)))
        expected = 0.0
        for number, port in enumerate(ports[:200]):
            # 401 ports are taken for 32 guesses, 803 for 63 and 1,607 for 126 more
            width = 401 if number < 32 else 803 if number < 95 else 1607
            self.assertLessEqual(abs(port - 20_200), width // 2 + 2, number)
            expected += 64 / 512 * (20_000 <= port < 20_512)
        self.assertGreater(expected, SHARE)

    def test_guesses_at_the_ends(self) -> None:
        """Ranges stop at the lowest and highest port. One without ports that may be guessed is not used."""
        for near in ((LOWEST, LOWEST), (HIGHEST, HIGHEST), (1, 40_000), (1, 1), (1, HIGHEST)):
            for opened in (1, 64, 1024):
                guesses = Guesses(Random(1).randbytes, near, opened)
                ports = [guesses.take() for _ in range(PROBES)]
                self.assertEqual(len(set(ports)), PROBES)
                self.assertTrue(all(LOWEST <= port <= HIGHEST for port in ports))

    def test_a_block_of_somebody_else(self) -> None:
        """A range counts only if it is near a port at which the side that named it was proved to receive."""
        for said, ports, taken in (
            ((20_000, 20_400), [20_700], True),
            ((20_000, 20_400), [20_100], True),
            ((20_000, 20_400), [20_000 - NEAR], True),
            ((20_000, 20_400), [20_400 + NEAR], True),
            ((20_000, 20_400), [19_999 - NEAR], False),
            ((20_000, 20_400), [1024, 20_401 + NEAR], False),
            ((20_000, 20_400), [50_000, 20_300], True),
            ((20_000, 20_400), [], False),
            ((1024, 65535), [50_000], True),
            (None, [50_000], False),
        ):
            self.assertEqual(range_near(said, ports), said if taken else None, (said, ports))

    def test_sockets_in_a_block(self) -> None:
        """
        One socket for 8 ports of the block, within limits; the usual number if the block is large or unknown.
        """
        for near, sockets in (
            (None, SOCKETS),
            ((20_000, 20_250), MIN_SOCKETS),
            ((20_000, 20_400), MIN_SOCKETS),
            ((20_000, 20_700), 128),
            ((20_000, 21_700), SOCKETS),
            ((2_000, 60_000), SOCKETS),
        ):
            self.assertEqual(sockets_for(10**6, near=near), sockets, near)
        self.assertEqual(sockets_for(200, near=(20_000, 20_700)), 100)
        self.assertIsNone(port_range([20_000, 20_400]))
        self.assertEqual(port_range([20_300, 20_000, 20_400]), (20_000, 20_400))

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
        """At most half of the free descriptors are used, and none if these are too few."""
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
        """All attempts together use at most half of the descriptors that were free before."""
        free, held = 900, 0
        while sockets := sockets_for(free, held):
            free, held = free - sockets, held + sockets
        self.assertGreater(held, SOCKETS)
        self.assertLessEqual(held, 450)

    def test_waits(self) -> None:
        """The waits are half a minute, five minutes, half an hour, and then six hours."""
        self.assertEqual(
            [wait_after(sprays) for sprays in range(6)], [0.0, 30.0, 300.0, 1800.0, 21600.0, 21600.0]
        )

    def test_the_limit(self) -> None:
        """The packets of two whole attempts may be sent in ten minutes."""
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

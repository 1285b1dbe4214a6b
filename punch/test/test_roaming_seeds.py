"""A dozen seeds of `punch.test.roaming`; `tests/test_roaming_seeds.py` runs a hundred."""

from __future__ import annotations

from punch.test.internet import InternetTestCase
from punch.test.roaming import run


class SeedTests(InternetTestCase):
    """Something happens in the middle of a transfer."""

    def test_a_dozen(self) -> None:
        """It goes on within 5 s, on the same link, with the same bytes."""
        outcomes = [run(seed) for seed in range(1, 13)]
        self.assertEqual([str(outcome) for outcome in outcomes if outcome.wrong], [])

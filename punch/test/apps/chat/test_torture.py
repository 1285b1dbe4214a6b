"""A few seeds of a chat in which everything goes wrong; `tests/test_chat_torture.py` has 40 or 200."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.chat_torture import run


class SeedTests(SynchronousTestCase):
    """Every message once, in order, on both sides; all shown, and all marked."""

    def test_seeds(self) -> None:
        """Seeds whose troubles are killed processes on both sides, loss and partitions."""
        for seed in (5, 10):
            outcome = run(seed)
            self.assertEqual(outcome.wrong, [], str(outcome))

"""A few seeds of a chat while faults happen; `tests/test_chat_faults.py` has 40 or 200."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.chat_faults import run


class SeedTests(SynchronousTestCase):
    """Every message once, in order, on both sides; all shown, and all marked."""

    def test_seeds(self) -> None:
        """Seeds whose faults are killed processes on both sides, loss and partitions."""
        for seed in (5, 10):
            outcome = run(seed)
            self.assertEqual(outcome.wrong, [], str(outcome))

"""One seed of a chat while faults happen; `tests/simulation/test_chat_faults.py` has 40 or 200."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.test.apps.chat.chat_faults import run


class FaultTests(SynchronousTestCase):
    """Every message once, in order, on both sides; all shown, and all marked."""

    def test_seed(self) -> None:
        """A seed whose faults are killed processes, loss and partitions."""
        outcome = run(5)
        self.assertEqual(outcome.wrong, [], str(outcome))

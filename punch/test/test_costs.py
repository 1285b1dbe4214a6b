"""The count of function calls is the same each time."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from punch.test.costs import calls_of


class CallsTests(SynchronousTestCase):
    def test_the_garbage_collector_does_not_count(self) -> None:
        """It may run at any time, and calls functions that libraries have registered."""

        def collected(phase: str, info: dict[str, int]) -> None:
            pass

        gc.callbacks.append(collected)
        self.addCleanup(gc.callbacks.remove, collected)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(1)
        self.assertEqual(calls_of(lambda: list(map(list, [()] * 100))), 1)
        self.assertTrue(gc.isenabled())

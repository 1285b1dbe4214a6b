"""The garbage collector while a program loads."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from punch.cli.startup import loading


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class LoadingTests(SynchronousTestCase):
    """What is loaded is never looked at."""

    def setUp(self) -> None:
        self.addCleanup(gc.enable)
        self.addCleanup(gc.unfreeze)

    def test_it_waits(self) -> None:
        """It runs again afterwards, also when something can't be loaded, and leaves alone what was loaded."""
        with loading():
            self.assertFalse(gc.isenabled())
            loaded = Cycle()
        self.assertTrue(gc.isenabled())
        self.assertFalse(any(each is loaded for each in gc.get_objects()))
        later = Cycle()
        self.assertTrue(any(each is later for each in gc.get_objects()))
        with self.assertRaises(ImportError), loading():
            raise ImportError
        self.assertTrue(gc.isenabled())

    def test_it_was_off(self) -> None:
        """Then it stays so."""
        gc.disable()
        with loading():
            pass
        self.assertFalse(gc.isenabled())

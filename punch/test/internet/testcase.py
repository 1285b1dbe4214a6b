"""A base class for tests on the simulated internet."""

from __future__ import annotations

import gc
import unittest
from collections.abc import Callable
from functools import wraps
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.test.internet.world import Internet
from punch.test.no_reactor import no_reactor

YOUNG = 20_000
"""
How many new objects the garbage collector lets be before it looks at them, while a simulation runs. With
Python's default of 700 it looks hundreds of times at the same world, which lives until the test is over.
"""


class InternetTestCase(SynchronousTestCase):
    """
    A test on the simulated internet: the global reactor is banned while it runs, and if it fails, the seeds
    of its simulations are printed. Its worlds, which are large and full of cycles, end with it.
    """

    def internet(self, seed: int = 0) -> Internet:
        """A simulated internet whose seed is printed if this test fails."""
        net = Internet(seed)
        net.announce = False
        self._internets.append(net)
        return net

    def run(self, result: unittest.TestResult | None = None) -> Any:
        self._internets: list[Internet] = []
        watched = ("setUp", self._testMethodName, "tearDown")
        own = dict(vars(self))
        for name in watched:
            setattr(self, name, self._watch(getattr(self, name)))
        self._settled = False
        thresholds = gc.get_threshold()
        gc.set_threshold(YOUNG, *thresholds[1:])
        try:
            return super().run(result)
        finally:
            gc.set_threshold(*thresholds)
            for name in watched:
                # Other runners put wrappers of their own there.
                if name in own:
                    setattr(self, name, own[name])
                else:
                    delattr(self, name)
            self._internets = []
            for name in vars(self).keys() - own.keys():
                if not name.startswith("_"):
                    delattr(self, name)
            gc.collect()

    def _watch(self, method: Callable[[], object]) -> Callable[[], object]:
        @wraps(method)
        def watched() -> object:
            try:
                if not self._settled:
                    self._settled = True
                    # Objects that exist now, modules above all, are excluded from garbage collection in this
                    # test and in later ones
                    gc.collect()
                    gc.freeze()
                with no_reactor():
                    return method()
            except unittest.SkipTest:
                raise
            except BaseException:
                for net in self._internets:
                    net.announce = True
                    net.tell_seed()
                raise

        return watched

"""A rendezvous that is attacked from 60 addresses (`tests/test_floods.py` lets more honest peers try)."""

from __future__ import annotations

from punch.test.internet import InternetTestCase
from punch.test.rendezvous_flood import SIXTY, FloodedRendezvous


class FloodTests(InternetTestCase):
    """What is left for everybody else."""

    def test_honest_peers(self) -> None:
        """
        A peer registers, calls strangers, is called by one, calls and is called by a peer that it knows, and
        gets another path for its link, each within a second.
        """
        flooded = FloodedRendezvous(self.internet(), SIXTY, period=0.05)
        flooded.flood.start(1)
        flooded.ring()
        flooded.come("198.51.101.1")
        flooded.restart()
        flooded.check()
        flooded.stop()

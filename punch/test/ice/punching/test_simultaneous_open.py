"""Who sends first when both sides open a path at once, and how far the first packet goes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.simultaneous_open import FAR, LOW_TTLS, ROUTERS, TURNS, order_of
from punch.wire.peers.link_frames import MAX_TURN, First


class PlanTests(SynchronousTestCase):
    """The order of the two sides, and the reach of the first packet."""

    def test_orders(self) -> None:
        """Each side is first in some turn; both are if packets take long enough to cross on the way."""
        for rtt, orders in ((0.0, {First.OPENS, First.AIMS}), (FAR, set(First))):
            self.assertEqual({order_of(turn, rtt) for turn in range(TURNS)}, orders)
        self.assertIs(order_of(0, FAR), First.BOTH)
        self.assertEqual(TURNS, MAX_TURN + 1)

    def test_how_far(self) -> None:
        """
        The first packet passes a home NAT and two of a carrier. Packets that a router may drop come last.
        """
        self.assertEqual({len(LOW_TTLS), len(ROUTERS)}, {TURNS})
        self.assertGreater(min(LOW_TTLS), 3)
        self.assertEqual(ROUTERS, (None, None, 1, 1, 2))

"""How many peers that are not registered one network may call, so that it can't find out who is."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.test.rendezvous.directory.processes import ALICE, BOB, CAROL, Processes, envelope
from punch.wire.control import Cancel, ErrorCode, Establish

BURST = 10


class AbsentPeerTests(SynchronousTestCase):
    """Alice and Bob are registered at two processes, Carol at none."""

    def setUp(self) -> None:
        limits = replace(RendezvousLimits(), absent_rate=1.0, absent_burst=float(BURST))
        self.net = Processes("one", "two", limits=limits)
        self.alice = self.net.register("one", ALICE)
        self.net.register("two", BOB, "198.51.100.1")
        self.count = 0

    def call(self, *, absent: bool) -> None:
        self.count += 1
        number, callee = f"{self.count:032x}", CAROL if absent else BOB
        self.net.request("one", ALICE, self.alice, Establish(number, callee, envelope(callee)))
        if not absent:
            self.net.request("one", ALICE, self.alice, Cancel(number, callee))

    def test_a_burst_and_a_rate(self) -> None:
        for _ in range(BURST):
            self.call(absent=True)
        refusal = self.assertRaises(IntroductionRefusal, self.call, absent=True)
        self.assertEqual(refusal.code, ErrorCode.RATE)
        self.net.advance(1.0)
        self.call(absent=True)
        self.assertRaises(IntroductionRefusal, self.call, absent=True)

    def test_peers_at_other_processes(self) -> None:
        """They are not absent, and who calls them often may go on."""
        for _ in range(5 * BURST):
            self.call(absent=False)
        for _ in range(BURST):
            self.call(absent=True)
        self.assertRaises(IntroductionRefusal, self.call, absent=True)

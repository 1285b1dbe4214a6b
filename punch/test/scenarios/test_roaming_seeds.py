"""A few seeds of `roaming.py`; `tests/simulation/test_roaming_seeds.py` runs many of each event."""

from __future__ import annotations

from punch.test.internet import InternetTestCase
from punch.test.scenarios.roaming import both_nats_flushed, one_moved_while_the_other_was_flushed, run


class SeedTests(InternetTestCase):
    """Network changes in the middle of a transfer."""

    def test_a_few(self) -> None:
        """The transfer continues within 5 s, on the same link, and no byte is lost."""
        outcomes = [run(seed) for seed in (1, 2)]
        self.assertEqual([str(outcome) for outcome in outcomes if outcome.wrong], [])

    def test_towards_those_who_only_receive(self) -> None:
        """
        They notice as soon as those who send, even if all that they have sent was answered: else the
        rendezvous can't reach them, whose connection to it is gone as well, until they next ask for consent.
        """
        for seed, event in ((96, both_nats_flushed), (71, one_moved_while_the_other_was_flushed)):
            outcome = run(seed, event)
            self.assertEqual(outcome.wrong, [])
            self.assertLess(outcome.stall, 3.0)

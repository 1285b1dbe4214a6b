"""Which paths are told of."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.pairs import Pair
from punch.node.path import HOLD, DebouncedPath
from punch.wire.address import Address
from punch.wire.candidate import Candidate, CandidateType

HERE = Address("192.0.2.1", 1000)


def path(port: int, rtt: float | None = None) -> Pair:
    """One of several paths."""
    local = Candidate(CandidateType.HOST, HERE, 1, "1")
    return Pair(local, Candidate(CandidateType.HOST, Address("192.0.2.2", port), 1, "1"), HERE, rtt)


class PathNewsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.count = 0
        self.news = DebouncedPath(self.told)
        self.news.announced(path(1))

    def told(self) -> None:
        """Another path is told of."""
        self.count += 1

    def test_a_change(self) -> None:
        """It is told when it has lasted, and once."""
        self.news.changed(path(2), 10.0)
        self.assertEqual(self.news.get_timer(), 10.0 + HOLD)
        self.news.handle_timer(10.0 + HOLD / 2)
        self.assertEqual(self.count, 0)
        self.news.handle_timer(10.0 + HOLD)
        self.news.handle_timer(99.0)
        self.assertEqual(self.count, 1)
        self.assertIsNone(self.news.get_timer())

    def test_several_at_once(self) -> None:
        """Only the last is told, and none that has been known; further ones don't put it off."""
        self.news.changed(path(2), 10.0)
        self.news.changed(path(3), 10.0 + HOLD / 2)
        self.assertEqual(self.news.get_timer(), 10.0 + HOLD)
        self.news.handle_timer(10.0 + HOLD)
        self.assertEqual(self.count, 1)
        self.news.changed(path(2), 20.0)
        self.news.changed(path(3), 20.1)
        self.news.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)

    def test_nothing_new(self) -> None:
        """A round trip of another length is none."""
        self.news.changed(path(1, 0.5), 10.0)
        self.assertIsNone(self.news.get_timer())

    def test_after_a_loss(self) -> None:
        """Whatever comes is news, the old path too."""
        self.news.changed(path(2), 10.0)
        self.news.lost()
        self.assertIsNone(self.news.get_timer())
        self.news.changed(path(1), 20.0)
        self.news.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)

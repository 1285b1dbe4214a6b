"""When a path is checked since nothing comes, and which changes of the path are announced."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.link.status import Path
from punch.node.paths.path import (
    HOLD,
    PROBE_AFTER,
    SLOW,
    SLOWED,
    TOLD_GAP,
    DebouncedPath,
    ExpectedAnswer,
    SlowedPath,
)
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit


def path(port: int, rtt: float = 0.0) -> Path:
    """One of several paths."""
    return Path("host", Address("192.0.2.1", 1000), Address("192.0.2.2", port), "udp", rtt)


class ExpectedAnswerTests(SynchronousTestCase):
    """Each transition: nothing is expected, something is, it did not come."""

    def setUp(self) -> None:
        self.answer = ExpectedAnswer()

    def test_nothing_expected(self) -> None:
        """There is no timer."""
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertFalse(self.answer.handle_timer(99.0, None))

    def test_nothing_comes(self) -> None:
        """The path is checked once, until the link sends or receives something."""
        self.assertTrue(self.answer.expect(10.0))
        self.assertEqual(self.answer.get_timer(), 10.0 + PROBE_AFTER)
        self.assertFalse(self.answer.handle_timer(10.1, None))
        self.assertTrue(self.answer.handle_timer(10.0 + PROBE_AFTER, None))
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertTrue(self.answer.expect(20.0))
        self.assertEqual(self.answer.get_timer(), 20.0 + PROBE_AFTER)

    def test_more_comes(self) -> None:
        """The time begins again with each datagram, though the timer is only moved when it is due."""
        self.answer.expect(10.0)
        self.assertFalse(self.answer.expect(10.4))
        self.assertEqual(self.answer.get_timer(), 10.0 + PROBE_AFTER)
        self.assertFalse(self.answer.handle_timer(10.0 + PROBE_AFTER, None))
        self.assertTrue(self.answer.expected)
        self.assertEqual(self.answer.get_timer(), 10.4 + PROBE_AFTER)
        self.assertTrue(self.answer.handle_timer(10.4 + PROBE_AFTER, None))

    def test_a_long_round_trip(self) -> None:
        """It is waited for."""
        self.answer.expect(10.0)
        self.assertFalse(self.answer.handle_timer(10.0 + PROBE_AFTER, 2.0))
        self.assertEqual(self.answer.get_timer(), 10.0 + SLOW * 2.0)
        self.assertTrue(self.answer.handle_timer(10.0 + SLOW * 2.0, 2.0))

    def test_another_path(self) -> None:
        """What was expected on the path before says nothing about it."""
        self.answer.expect(10.0)
        self.answer.end()
        self.assertFalse(self.answer.expected)
        self.assertIsNone(self.answer.get_timer())
        self.assertFalse(self.answer.handle_timer(99.0, None))


class DebouncedPathTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.count = 0
        self.path = DebouncedPath(self.announced)
        self.path.announced(path(1))

    def announced(self) -> None:
        """A change was announced."""
        self.count += 1

    def test_a_change(self) -> None:
        """It is announced when it has lasted, and once."""
        self.path.changed(path(2), 10.0)
        self.assertEqual(self.path.get_timer(), 10.0 + HOLD)
        self.path.handle_timer(10.0 + HOLD / 2)
        self.assertEqual(self.count, 0)
        self.path.handle_timer(10.0 + HOLD)
        self.path.handle_timer(99.0)
        self.assertEqual(self.count, 1)
        self.assertIsNone(self.path.get_timer())

    def test_several_at_once(self) -> None:
        """Of several changes within `HOLD`, the last is announced, unless it is the path before."""
        self.path.changed(path(2), 10.0)
        self.path.changed(path(3), 10.0 + HOLD / 2)
        self.assertEqual(self.path.get_timer(), 10.0 + HOLD)
        self.path.handle_timer(10.0 + HOLD)
        self.assertEqual(self.count, 1)
        self.path.changed(path(2), 20.0)
        self.path.changed(path(3), 20.1)
        self.path.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)

    def test_nothing_new(self) -> None:
        """Another round-trip time is no change."""
        self.path.changed(path(1, 0.5), 10.0)
        self.assertIsNone(self.path.get_timer())

    def test_after_a_loss(self) -> None:
        """Any path is a change, also the one that was lost."""
        self.path.changed(path(2), 10.0)
        self.path.lost()
        self.assertIsNone(self.path.get_timer())
        self.path.changed(path(1), 20.0)
        self.path.handle_timer(20.0 + HOLD)
        self.assertEqual(self.count, 1)


class SlowedPathTests(SynchronousTestCase):
    """When a relay's notices are told."""

    def test_once_while_they_come(self) -> None:
        """However many notices come, and whatever rates they name, one is told until there is silence."""
        path, here = SlowedPath(), Address("192.0.2.1", 1)
        told = [
            path.learn(RelayLimit(number % 4), here, now)
            for number, now in enumerate((0.0, 0.1, 0.1, 10.0, 39.9, 69.8, 99.9, 130.0))
        ]
        self.assertEqual(told, [True, False, False, False, False, False, True, True])

    def test_how_long_it_lasts(self) -> None:
        path, here = SlowedPath(), Address("192.0.2.1", 1)
        self.assertIsNone(path.limit(here, 0.0))
        path.learn(RelayLimit.PEER, here, 5.0)
        self.assertEqual(path.limit(here, 5.0 + SLOWED - 0.1), RelayLimit.PEER)
        self.assertIsNone(path.limit(here, 5.0 + SLOWED))

    def test_another_path(self) -> None:
        """A notice is about the relay that it comes from."""
        path, here, there = SlowedPath(), Address("192.0.2.1", 1), Address("192.0.2.1", 2)
        path.learn(RelayLimit.PEER, here, 5.0)
        self.assertIsNone(path.limit(there, 5.0))
        self.assertTrue(path.learn(RelayLimit.PEER, there, 6.0))
        self.assertEqual(path.limit(there, 7.0), RelayLimit.PEER)

    def test_the_other_side_is_told_now_and_then(self) -> None:
        """However often a relay says so."""
        path = SlowedPath()
        told = [now for now in range(100) if path.tells(now / 10)]
        self.assertEqual(told, list(range(0, 100, int(TOLD_GAP * 10))))

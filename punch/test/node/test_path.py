"""Which changes of the path are announced."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.link.status import Path
from punch.node.path import HOLD, DebouncedPath
from punch.wire.address import Address


def path(port: int, rtt: float = 0.0) -> Path:
    """One of several paths."""
    return Path("host", Address("192.0.2.1", 1000), Address("192.0.2.2", port), "udp", rtt)


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

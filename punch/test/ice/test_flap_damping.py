"""When a link returns to a better path that has not lasted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.flap_damping import STEADY, WAITS, FlapDamping
from punch.ice.pairs import Pair, PathKind
from punch.test.ice.test_candidates import signalled
from punch.wire.address import Address

LASTED = STEADY + 1.0
SHORT = 3.0


def pair(kind: PathKind, port: int | None = None) -> Pair:
    """A pair of this kind, the same each time, or one from this port."""
    base = Address("192.0.2.1", 1000 + kind if port is None else port)
    return Pair(signalled("192.0.2.1"), signalled("192.0.2.2"), base, kind)


class FlapDampingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.damping = FlapDamping()
        self.now = 1000.0

    def take(self, kind: PathKind, seconds: float) -> bool:
        """Take a path of this kind for so many seconds; returns whether what is held has changed."""
        changed = self.damping.selected(pair(kind), self.now)
        self.now += seconds
        return changed

    def flap(self, times: int, better: PathKind = PathKind.REFLEXIVE) -> None:
        """Take a better path than the relayed one for a short time, so many times."""
        for _ in range(times):
            self.take(PathKind.RELAYED, SHORT)
            self.take(better, SHORT)
        self.take(PathKind.RELAYED, 0.0)

    def wait(self, kind: PathKind = PathKind.REFLEXIVE, part: float = 1.0) -> float:
        """For how many seconds none of this kind is looked for."""
        return max(self.damping.allowed_at(kind, part) - self.now, 0.0)

    def test_the_first_returns_are_free(self) -> None:
        """The path that the link began with does not count, nor does the first return to it."""
        self.take(PathKind.REFLEXIVE, SHORT)
        self.flap(1)
        self.assertEqual((self.wait(), self.wait(part=0.5), self.damping.held), (0.0, 0.0, None))

    def test_waits(self) -> None:
        """They double up to a limit, and there are no more than so many in any time."""
        self.flap(1)
        waits = []
        for _ in range(7):
            self.flap(1)
            waits.append(self.wait())
        self.assertEqual(waits, [30.0, 60.0, 120.0, 240.0, *[WAITS[1]] * 3])
        self.assertEqual(self.damping.held, (PathKind.REFLEXIVE, self.now + WAITS[1]))
        self.assertEqual(self.wait(part=0.5), WAITS[1] / 2)

    def test_a_path_that_lasts(self) -> None:
        """After it, all begins anew."""
        self.flap(4)
        self.take(PathKind.REFLEXIVE, LASTED)
        self.assertTrue(self.take(PathKind.RELAYED, 0.0))
        self.assertEqual((self.wait(), self.damping.held, self.damping.short_lived), (0.0, None, 0))
        self.flap(1)
        self.assertEqual(self.wait(), 0.0)

    def test_another_network(self) -> None:
        """What was left because of that is no path that did not last."""
        self.flap(1)
        self.take(PathKind.REFLEXIVE, SHORT)
        self.damping.clear()
        self.take(PathKind.RELAYED, SHORT)
        self.assertEqual(self.damping.short_lived, 0)
        self.flap(4)
        self.assertTrue(self.damping.clear())
        self.assertEqual((self.wait(), self.damping.held), (0.0, None))
        self.assertFalse(self.damping.clear())

    def test_better_kinds_are_looked_for(self) -> None:
        """A path over TCP that does not last says nothing about UDP, and one over UDP says it about TCP."""
        self.flap(4, PathKind.TCP)
        self.assertEqual((self.wait(PathKind.TCP), self.wait(PathKind.REFLEXIVE)), (120.0, 0.0))
        self.flap(1, PathKind.REFLEXIVE)
        self.assertEqual((self.wait(PathKind.TCP), self.wait(PathKind.REFLEXIVE)), (240.0, 240.0))
        self.flap(1, PathKind.TCP)
        self.assertEqual(self.wait(PathKind.REFLEXIVE), 300.0)

    def test_what_is_learned_about_a_path(self) -> None:
        """That the other end of the path turns out to be a relay's is no change of the path."""
        for _ in range(4):
            self.take(PathKind.RELAYED, SHORT)
            for kind in (PathKind.REFLEXIVE, PathKind.RELAYED):
                self.damping.selected(pair(kind, 7), self.now)
        self.assertEqual((self.wait(), self.damping.short_lived), (0.0, 0))

    def test_a_path_that_is_still_better(self) -> None:
        """It counts, whatever is learned about it meanwhile."""
        for _ in range(2):
            self.take(PathKind.RELAYED, SHORT)
            for kind in (PathKind.HOST, PathKind.REFLEXIVE):
                self.damping.selected(pair(kind, 7), self.now)
        self.take(PathKind.RELAYED, 0.0)
        self.assertEqual((self.damping.short_lived, self.wait()), (2, 30.0))

    def test_equal_paths(self) -> None:
        """Moves between paths of one kind say nothing."""
        for port in range(10):
            self.damping.selected(pair(PathKind.REFLEXIVE, port), self.now)
        self.assertEqual(self.damping.short_lived, 0)

"""Which techniques are taken to have failed on one link."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.punching.techniques import LAST_OPENS, Technique
from punch.node.punching.choice import ATTEMPTS, FailedAttempts
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

OPEN = NatProfile("203.0.113.2")
UNCERTAIN = NatProfile(
    "203.0.113.1",
    frozenset({Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_DEPENDENT}),
    PortAssignment.RANDOM,
)


class FailedAttemptsTests(SynchronousTestCase):
    """What is to be remembered of attempts that failed."""

    def remembered(
        self, technique: Technique, attempts: int, ours: NatProfile = OPEN, theirs: NatProfile = OPEN
    ) -> list[int]:
        """After which of so many attempts a failure is remembered."""
        failed = FailedAttempts()
        return [number for number in range(1, attempts + 1) if failed.add(technique, ours, theirs)]

    def test_few_packets(self) -> None:
        """However many attempts there are on a link, they are one failure, and the link goes on."""
        for technique in (Technique.PREDICTION, Technique.SIMULTANEOUS_OPEN):
            self.assertEqual(self.remembered(technique, 10 * ATTEMPTS), [ATTEMPTS])
            failed = FailedAttempts()
            going_on = []
            for _ in range(ATTEMPTS):
                going_on.append(technique in failed)
                failed.add(technique, OPEN, OPEN)
            self.assertEqual([*going_on, technique in failed], [False] * ATTEMPTS + [True])

    def test_spraying(self) -> None:
        """Each attempt is a failure, and the link does not go on with what never works."""
        self.assertEqual(self.remembered(Technique.SPRAYING, 3), [1, 2, 3])
        failed = FailedAttempts()
        failed.add(Technique.SPRAYING, OPEN, OPEN)
        self.assertNotIn(Technique.SPRAYING, failed)

    def test_where_reflectors_cannot_tell(self) -> None:
        """Simultaneous opens count on both sides only when there was time to assume another mapping."""
        for ours, theirs in ((UNCERTAIN, OPEN), (OPEN, UNCERTAIN), (UNCERTAIN, UNCERTAIN)):
            found = self.remembered(Technique.SIMULTANEOUS_OPEN, 3 * LAST_OPENS, ours, theirs)
            self.assertEqual(found, [LAST_OPENS])

    def test_each_technique_for_itself(self) -> None:
        """Attempts by another one do not count."""
        failed = FailedAttempts()
        for _ in range(ATTEMPTS - 1):
            self.assertFalse(failed.add(Technique.PREDICTION, OPEN, OPEN))
        self.assertFalse(failed.add(Technique.SIMULTANEOUS_OPEN, OPEN, OPEN))
        self.assertTrue(failed.add(Technique.PREDICTION, OPEN, OPEN))

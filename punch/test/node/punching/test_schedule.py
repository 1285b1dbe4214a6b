"""When the next attempt at a direct path begins."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.limits import WINDOW
from punch.ice.punching.spraying import wait_after as spraying_wait_after
from punch.ice.punching.techniques import Technique
from punch.node.punching.schedule import (
    LONGEST_WAIT,
    MAX_HOSTS,
    PROOF_GAP,
    PROOFS,
    SETTLE,
    SHORTEST_WAIT,
    AttemptSchedule,
    Relayed,
    Resting,
    Tries,
    proof_wait,
    refusal_wait,
    wait_after,
)


class ScheduleTests(SynchronousTestCase):
    """The states, what ends each of them, and when something is due in it."""

    def setUp(self) -> None:
        self.schedule = AttemptSchedule()

    def relayed(self, now: float, *, lasted: bool = True) -> None:
        """The link takes a relayed path."""
        self.schedule.on_relay(now, lasted=lasted)
        self.schedule.settle(SETTLE, now)

    def test_on_no_relay(self) -> None:
        """Nothing is due, and nothing is waited for."""
        self.assertEqual(self.schedule.state, Resting())
        for _ in range(2):
            self.schedule.settle(SETTLE, 1.0)
            self.schedule.wait_until(2.0)
            self.schedule.proofs_sent(2.0)
            self.assertIsNone(self.schedule.get_timer())
            self.assertFalse(self.schedule.handle_timer(1000.0))
            self.schedule.on_no_relay()
            self.assertEqual(self.schedule.state, Resting(had_path=True))

    def test_on_a_relay(self) -> None:
        """The proofs come shortly before the link has settled, and something is due once."""
        self.relayed(10.0)
        self.assertEqual(self.schedule.state, Relayed(10.0 + SETTLE, 10.0 + SETTLE - PROOF_GAP))
        self.assertFalse(self.schedule.handle_timer(10.0 + SETTLE - PROOF_GAP - 0.01))
        self.assertTrue(self.schedule.handle_timer(10.0 + SETTLE - PROOF_GAP))
        self.assertFalse(self.schedule.handle_timer(1000.0))
        self.assertEqual(self.schedule.settled_at, 10.0 + SETTLE)

    def test_another_relayed_path(self) -> None:
        """What is waited for stays; if nothing is, the link settles again."""
        self.relayed(10.0)
        before = self.schedule.state
        self.relayed(10.2)
        self.assertEqual(self.schedule.state, before)
        self.schedule.forget()
        self.relayed(20.0)
        self.assertEqual(self.schedule.settled_at, 20.0 + SETTLE)

    def test_no_time_to_settle(self) -> None:
        """Something is due at once, and never before now."""
        self.schedule.on_relay(10.0, lasted=True)
        self.schedule.settle(0.0, 10.0)
        self.assertEqual(self.schedule.state, Relayed(10.0, 10.0))

    def test_proofs(self) -> None:
        """Proofs are repeated after the waits of `proof_wait`. After several, they count as being in vain."""
        self.relayed(0.0)
        for proofs in range(1, PROOFS + 1):
            self.assertFalse(self.schedule.unproved)
            self.schedule.proofs_sent(50.0)
            self.assertEqual(self.schedule.get_timer(), 50.0 + proof_wait(proofs))
        self.assertTrue(self.schedule.unproved)

    def test_budget(self) -> None:
        """The wait for a budget is neither shorter than `SHORTEST_WAIT` nor longer than `LONGEST_WAIT`."""
        self.relayed(0.0)
        for enough_at, look_at in (
            (100.1, 100.0 + SHORTEST_WAIT),
            (130.0, 130.0),
            (9e9, 100.0 + LONGEST_WAIT),
        ):
            self.schedule.wait_for_budget(enough_at, 100.0)
            self.assertEqual(self.schedule.get_timer(), look_at)

    def count(self) -> None:
        """Let each thing that is counted happen at least once."""
        self.schedule.attempt_begun(Technique.SPRAYING)
        for _ in range(PROOFS):
            self.schedule.proofs_sent(0.0)
        self.assertEqual(self.schedule.attempt_refused(), refusal_wait(1))

    def counted(self) -> tuple[int, bool, float]:
        return (
            self.schedule.begun(Technique.SPRAYING),
            self.schedule.unproved,
            self.schedule.attempt_refused(),
        )

    def test_a_direct_path_that_lasted(self) -> None:
        """When it is lost, attempts begin anew; the first path of a link, or a short one, changes nothing."""
        for direct, lasted, anew in ((False, True, False), (True, False, False), (True, True, True)):
            self.schedule = AttemptSchedule()
            self.count()
            if direct:
                self.schedule.on_no_relay()
            self.relayed(10.0, lasted=lasted)
            expected = (0, False, refusal_wait(1)) if anew else (1, True, refusal_wait(2))
            self.assertEqual(self.counted(), expected, (direct, lasted))
            self.assertEqual(self.schedule.settled_at, 10.0 + SETTLE)

    def test_another_network(self) -> None:
        """Attempts begin anew, and what was waited for is forgotten; earlier tries wait as long as before."""
        self.relayed(0.0)
        self.count()
        self.schedule.tries.add(Technique.SPRAYING, "203.0.113.1", 0.0)
        self.schedule.tries.add(Technique.SPRAYING, "203.0.113.2", WINDOW)
        self.schedule.begin_anew(WINDOW)
        self.assertIsNone(self.schedule.get_timer())
        self.assertEqual(self.counted(), (0, False, refusal_wait(1)))
        tries = [self.schedule.tries.add(Technique.SPRAYING, f"203.0.113.{each}", WINDOW) for each in (1, 2)]
        self.assertEqual(tries, [1, 2])


class WaitTests(SynchronousTestCase):
    """How long the next attempt waits."""

    def test_waits(self) -> None:
        """They are those in docs/nat.md, also for a link that stays on the relay for days."""
        waits = [wait_after(tries) for tries in range(1, 10)]
        self.assertEqual(waits, [1.0, 1.0, 1.0, 15.0, 30.0, 60.0, 120.0, 240.0, 300.0])
        self.assertEqual({wait_after(tries) for tries in (20, 1028, 2000, 10**6)}, {300.0})

    def test_what_is_counted_together(self) -> None:
        """Each technique and each of the first addresses is counted for itself, and all others together."""
        tries = Tries()

        def next_at(technique: Technique, number: int, part: float = 1.0) -> float:
            return tries.next_at(technique, f"203.0.113.{number}", lambda made: 10.0 * made, part)

        prediction, spraying = Technique.PREDICTION, Technique.SPRAYING
        self.assertEqual(next_at(spraying, 1), float("-inf"))
        for made in range(1, 4):
            self.assertEqual(tries.add(prediction, "203.0.113.1", 100.0), made)
        self.assertEqual((next_at(prediction, 1), next_at(prediction, 1, 0.5)), (130.0, 115.0))
        self.assertEqual((next_at(spraying, 1), next_at(prediction, 2)), (float("-inf"), float("-inf")))
        for number in range(1, 100):
            tries.add(spraying, f"203.0.113.{number}", 100.0)
        self.assertEqual(next_at(spraying, MAX_HOSTS), 110.0)
        self.assertEqual(next_at(spraying, MAX_HOSTS + 1), 100.0 + 10.0 * (99 - MAX_HOSTS))
        self.assertEqual(next_at(spraying, 200), next_at(spraying, MAX_HOSTS + 1))
        self.assertEqual(next_at(prediction, 1), 130.0)

    def test_what_counts_no_longer(self) -> None:
        """Attempts long before a direct path count no longer, and none when we are in another network."""
        tries = Tries()
        tries.add(Technique.SPRAYING, "203.0.113.1", 0.0)
        tries.add(Technique.SPRAYING, "203.0.113.2", 1.0)
        tries.path_found(WINDOW)
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.1", WINDOW), 1)
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.2", WINDOW), 2)
        tries.clear()
        self.assertEqual(tries.add(Technique.SPRAYING, "203.0.113.2", WINDOW), 1)

    def test_spraying_that_finds_paths(self) -> None:
        """The longest wait comes after failures in a row only, however many attempts there were."""
        tries, host = Tries(), "203.0.113.1"

        def waits(attempts: int, *, found: bool) -> list[float]:
            seconds = []
            for _ in range(attempts):
                tries.add(Technique.SPRAYING, host, 0.0)
                if found:
                    tries.found(Technique.SPRAYING, host)
                seconds.append(tries.next_at(Technique.SPRAYING, host, spraying_wait_after))
            return seconds

        self.assertEqual(waits(6, found=True), [30.0, 300.0, 1800.0, 1800.0, 1800.0, 1800.0])
        self.assertEqual(waits(5, found=False), [1800.0, 1800.0, 1800.0, 21600.0, 21600.0])
        self.assertEqual(waits(1, found=True), [1800.0])
        tries.clear()
        self.assertEqual(waits(4, found=False), [30.0, 300.0, 1800.0, 21600.0])

    def test_paths_change_no_other_waits(self) -> None:
        """Those of techniques that take few packets are doubled also if paths that they find do not last."""
        tries, host = Tries(), "203.0.113.1"
        for made in range(1, 9):
            self.assertEqual(tries.add(Technique.PREDICTION, host, 0.0), made)
            tries.found(Technique.PREDICTION, host)
            tries.found(Technique.PREDICTION, "203.0.113.2")

    def test_proofs(self) -> None:
        """Seven short waits and a longer one, again and again."""
        waits = [proof_wait(proofs) for proofs in range(1, 49)]
        self.assertEqual(waits[7::8], [2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
        self.assertEqual({wait for number, wait in enumerate(waits, 1) if number % 8}, {0.5})
        self.assertEqual(proof_wait(8 * 10**6), 300.0)

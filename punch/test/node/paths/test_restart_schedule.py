"""The states of a link's path: each transition, and what is due in each state."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.generations import FREE, STEADY, FlapDamping
from punch.ice.pairs import Pair, PathKind
from punch.node.paths.restart_schedule import (
    IMPROVE,
    LOST_AFTER,
    MAX_DISCONNECTED,
    RETRY,
    Due,
    Improvable,
    Lost,
    RestartSchedule,
    Unresponsive,
    Usable,
)
from punch.test.ice.test_candidates import signalled
from punch.wire.address import Address


def pair(kind: PathKind) -> Pair:
    """Return a pair of this kind, which has a socket of its own."""
    return Pair(signalled("192.0.2.1"), signalled("192.0.2.2"), Address("192.0.2.1", 1000 + kind), kind)


class RestartScheduleTests(SynchronousTestCase):
    """One path over time, which is lost and found."""

    def setUp(self) -> None:
        self.damping = FlapDamping()
        self.schedule = RestartSchedule(self.damping)

    def due(self, now: float) -> list[Due]:
        """Let the timer come at this time; it was asked for by then."""
        timer = self.schedule.get_timer()
        assert timer is not None
        self.assertLessEqual(timer, now)
        return self.schedule.handle_timer(now)

    def leave_better_paths(self, now: float) -> float:
        """Better paths do not last, so that others have to wait; return until when."""
        for _ in range(FREE + 1):
            for kind in (PathKind.RELAYED, PathKind.REFLEXIVE, PathKind.RELAYED):
                self.damping.selected(pair(kind), now)
        until = self.damping.allowed_at(PathKind.REFLEXIVE)
        assert until > now
        return until

    def test_a_path_that_is_good_enough(self) -> None:
        """Nothing is ever due."""
        self.schedule.path_found(False, 0.0)
        self.assertEqual(self.schedule.state, Usable())
        self.assertIsNone(self.schedule.get_timer())
        self.assertEqual(self.schedule.handle_timer(1e9), [])
        self.assertFalse(self.schedule.disconnected)

    def test_a_path_that_may_be_improved(self) -> None:
        """Restarts look for a better path, at longer and longer intervals."""
        self.schedule.path_found(True, 0.0)
        at, wait = 0.0, IMPROVE[0]
        for _ in range(8):
            at += wait
            self.assertEqual(self.schedule.state, Improvable(at, wait))
            self.assertEqual(self.schedule.handle_timer(at - 0.1), [])
            self.assertEqual(self.due(at), [Due.IMPROVE])
            wait = min(2 * wait, IMPROVE[1])
        self.assertEqual(wait, IMPROVE[1])

    def test_another_path_of_the_same_kind(self) -> None:
        """The time until the next restart goes on."""
        self.schedule.path_found(True, 0.0)
        self.schedule.path_found(True, 10.0)
        self.assertEqual(self.schedule.state, Improvable(IMPROVE[0], IMPROVE[0]))

    def test_a_better_path_that_lasted(self) -> None:
        """After it, the intervals begin anew."""
        self.schedule.path_found(True, 0.0)
        self.due(IMPROVE[0])
        self.schedule.path_found(False, 20.0)
        self.assertEqual(self.schedule.state, Usable(2 * IMPROVE[0]))
        self.schedule.path_found(True, 20.0 + STEADY)
        self.assertEqual(self.schedule.state, Improvable(20.0 + STEADY + IMPROVE[0], IMPROVE[0]))

    def test_better_paths_that_do_not_last(self) -> None:
        """The intervals go on after one, and no restart begins while such paths have to wait."""
        self.schedule.path_found(True, 0.0)
        self.due(IMPROVE[0])
        self.leave_better_paths(40.0)
        self.schedule.path_found(False, 39.0)
        self.schedule.path_found(True, 40.0)
        due_at = 40.0 + 2 * IMPROVE[0]
        self.assertEqual(self.schedule.state, Improvable(due_at, 2 * IMPROVE[0]))
        until = self.leave_better_paths(due_at)
        self.assertEqual(self.due(due_at), [])
        self.assertEqual(self.schedule.state, Improvable(until, 2 * IMPROVE[0]))
        self.assertEqual(self.due(until), [Due.IMPROVE])

    def test_a_loss_that_is_over_soon(self) -> None:
        """The user is not told, and the loss counts once."""
        self.schedule.path_found(False, 0.0)
        self.assertTrue(self.schedule.path_lost(5.0))
        self.assertTrue(self.schedule.disconnected)
        self.assertFalse(self.schedule.path_lost(6.0))
        self.assertEqual(self.schedule.state, Unresponsive(5.0, Usable()))
        self.assertEqual(self.schedule.get_timer(), 5.0 + LOST_AFTER)
        self.schedule.path_found(False, 7.0)
        self.assertEqual(self.schedule.state, Usable())

    def test_a_loss_that_lasts(self) -> None:
        """The user is told once; the link ends after days."""
        self.schedule.path_lost(5.0)
        self.assertEqual(self.schedule.handle_timer(5.0 + LOST_AFTER - 0.1), [])
        self.assertEqual(self.due(5.0 + LOST_AFTER), [Due.TELL])
        self.assertEqual(self.schedule.state, Lost(5.0, Usable()))
        self.assertFalse(self.schedule.path_lost(10.0))
        self.assertEqual(self.schedule.handle_timer(100.0), [])
        self.assertEqual(self.due(5.0 + MAX_DISCONNECTED), [Due.END])

    def test_a_timer_that_comes_much_too_late(self) -> None:
        """The process was stopped for days: the user is told before the link ends."""
        self.schedule.path_lost(5.0)
        self.assertEqual(self.due(5.0 + MAX_DISCONNECTED), [Due.TELL, Due.END])

    def test_found_after_the_user_was_told(self) -> None:
        """The next loss begins with a new time."""
        self.schedule.path_lost(0.0)
        self.due(LOST_AFTER)
        self.schedule.path_found(False, 60.0)
        self.assertFalse(self.schedule.disconnected)
        self.schedule.path_lost(100.0)
        self.assertEqual(self.schedule.get_timer(), 100.0 + LOST_AFTER)

    def test_retries(self) -> None:
        """A peer that is not there is asked for at longer and longer intervals, in both states."""
        self.schedule.path_lost(0.0)
        self.schedule.retry(0.0)
        self.assertEqual(self.due(1.0), [Due.RETRY])
        self.assertEqual(self.schedule.get_timer(), LOST_AFTER)
        self.schedule.retry(1.0)
        self.assertEqual(self.due(3.0), [Due.TELL, Due.RETRY])
        now, wait = 3.0, 4.0
        for _ in range(6):
            self.schedule.retry(now)
            now, wait = now + wait, min(2 * wait, RETRY[1])
            self.assertEqual(self.due(now), [Due.RETRY])
        self.assertEqual(wait, RETRY[1])

    def test_the_network_is_back(self) -> None:
        """The next retry comes as soon as the first one did."""
        self.schedule.path_lost(0.0)
        for now in (0.0, 10.0, 20.0):
            self.schedule.retry(now)
        self.schedule.retry_soon()
        self.schedule.retry(30.0)
        self.schedule.handle_timer(29.0)
        self.assertEqual(self.schedule.get_timer(), 30.0 + RETRY[0])

    def test_no_retry_while_the_peer_is_asked_for(self) -> None:
        """A restart that begins takes the place of a retry."""
        self.schedule.path_lost(0.0)
        self.schedule.retry(0.0)
        self.schedule.asked()
        self.assertEqual(self.schedule.get_timer(), LOST_AFTER)
        self.assertEqual(self.schedule.handle_timer(2.0), [])

    def test_no_retry_while_the_path_works(self) -> None:
        """Without a loss there is nothing to ask for."""
        self.schedule.retry(0.0)
        self.schedule.retry_soon()
        self.schedule.asked()
        self.assertEqual(self.schedule.state, Usable())

    def test_an_improvement_goes_on_after_a_loss(self) -> None:
        """It keeps its time; one that was due during the loss waits once more, since restarts were made."""
        self.schedule.path_found(True, 0.0)
        self.schedule.path_lost(5.0)
        self.schedule.path_found(True, 6.0)
        self.assertEqual(self.schedule.state, Improvable(IMPROVE[0], IMPROVE[0]))
        self.schedule.path_lost(10.0)
        self.assertEqual(self.schedule.handle_timer(IMPROVE[0]), [Due.TELL])
        self.schedule.path_found(True, 20.0)
        self.assertEqual(self.schedule.state, Improvable(20.0 + IMPROVE[0], IMPROVE[0]))

    def test_a_better_path_after_a_loss(self) -> None:
        """Nothing is to be improved any more."""
        self.schedule.path_found(True, 0.0)
        self.schedule.path_lost(5.0)
        self.schedule.path_found(False, 6.0)
        self.assertEqual(self.schedule.state, Usable())

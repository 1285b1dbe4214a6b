"""Two processes with one identity, each started again by a supervisor."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.node.causes import OtherCause
from punch.node.control.replacements import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    STEADY,
    Replacements,
    pause_after,
)
from punch.node.events import CallFailed, Registered, Unregistered
from punch.state import PeerState, StateDirectory

REPLACED = CallFailed(None, OtherCause("replaced", "Another process registered."))


class ReplacementsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())

    def state(self, copy: str = "one") -> PeerState:
        """That of a new process, on one of several machines."""
        state = StateDirectory(self.directory / copy).peer("alice")
        state.prepare()
        return state

    def process(self, state: PeerState, *, waits: bool = True) -> Replacements:
        """Start one; `started` has the time when it registers, `told` what it said."""
        self.started: list[float] = []
        self.told: list[Unregistered] = []
        process = Replacements(
            state, self.clock, lambda: self.started.append(self.clock.seconds()), self.told.append
        )
        process.start(waits=waits)
        return process

    def test_pauses(self) -> None:
        self.assertEqual([pause_after(count) for count in (0, 1, 2, 3, 4)], [0.0, 5.0, 10.0, 20.0, 40.0])
        self.assertEqual(pause_after(1000), LONGEST_PAUSE)

    def test_never_replaced(self) -> None:
        """It registers at once, and says nothing."""
        self.process(self.state()).handle(Registered("punch://x:1"))
        self.assertEqual((self.started, self.told, self.clock.getDelayedCalls()), ([0.0], [], []))

    def test_replaced_again_and_again(self) -> None:
        """Each process waits longer than the one before, and says it."""
        for count in range(12):
            now = self.clock.seconds()
            process = self.process(self.state())
            self.assertEqual([event.retry_in for event in self.told], [pause_after(count)] if count else [])
            self.clock.advance(pause_after(count))
            self.assertEqual(self.started, [now + pause_after(count)])
            self.assertFalse(process.handle(Registered("punch://x:1")))
            self.clock.advance(1.0)
            self.assertTrue(process.handle(REPLACED))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_registration_that_lasts(self) -> None:
        """A registration that lasts resets the count of replacements; one that is lost early does not."""
        self.state().remember_replacements(5)
        process = self.process(self.state())
        self.clock.advance(pause_after(5))
        process.handle(Registered("punch://x:1"))
        self.clock.advance(STEADY - 1.0)
        process.handle(Unregistered(OtherCause("rendezvous-unreachable", "Lost."), 1.0))
        self.clock.advance(STEADY)
        self.assertEqual(self.state().replacements, 5)
        process.handle(Registered("punch://x:1"))
        self.clock.advance(STEADY)
        self.assertEqual(self.state().replacements, 0)

    def test_a_person_does_not_wait(self) -> None:
        """If a person is at the terminal, the process does not wait, but says that it was replaced."""
        self.state().remember_replacements(5)
        self.process(self.state(), waits=False)
        self.assertEqual((len(self.told), self.started), (1, [0.0]))

    def test_stopped_in_the_pause(self) -> None:
        self.state().remember_replacements(1)
        self.process(self.state()).stop()
        self.clock.advance(FIRST_PAUSE)
        self.assertEqual((self.started, self.clock.getDelayedCalls()), ([], []))

    def test_other_failures(self) -> None:
        """A call that failed, or another refusal, is no replacement."""
        process = self.process(self.state())
        self.assertFalse(process.handle(CallFailed(None, OtherCause("version", "Update."))))
        self.assertEqual(self.state().replacements, 0)

    def test_a_damaged_file(self) -> None:
        """It says nothing, and is written anew."""
        for content in (b"", b"x\n", b"-3\n", b"99999999999999999999\n", b"\xff\n"):
            (self.state().directory / "replaced").write_bytes(content)
            self.assertEqual(self.state().replacements, 0)
        self.state().remember_replacements(2)
        self.assertEqual(self.state().replacements, 2)

"""How long `punch receive CODE` waits for a sender that is away."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from punch.cli.commands.node_command import LOOK_INTERVAL, CommandFailed, ExitStatus, NodeCommand
from punch.cli.commands.receive import Receiving
from punch.cli.commands.transfers import AWAY_TIME, NO_PATH_TIME
from punch.identity import Identity
from punch.local.access import Allow
from punch.ui.transfer_progress import Display

PEER = Identity.generate().peer_id


class Node:
    """A node that may have a link, which may have a path."""

    peer_id = Identity.generate().peer_id

    def __init__(self) -> None:
        self.links: list[dict[str, Any]] = []

    def serve(self, service: str, factory: Any, allow: Allow) -> Deferred[Any]:
        return succeed(lambda: None)

    def status(self) -> Deferred[Any]:
        return succeed({"registered": True, "links": self.links})


class WaitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.node = Node()
        options = Namespace(state_dir=self.mktemp(), name="bob", json=False, yes=True, once=True)
        command = NodeCommand("punch receive", options, self.clock)
        command.display = Display(lambda text, end="": None, None)
        node: Any = self.node
        receiving = Receiving(command, Path(self.mktemp()))
        self.ended = Deferred.fromCoroutine(receiving.run(node, Allow(frozenset((PEER,))), PEER))

    def wait(self, seconds: float) -> None:
        self.clock.pump([LOOK_INTERVAL] * int(seconds / LOOK_INTERVAL))

    def link(self, *, dark: bool) -> None:
        other = str(Identity.generate().peer_id)
        self.node.links = [{"peer": other, "dark": True}, {"peer": str(PEER), "dark": dark}]

    def is_given_up(self) -> None:
        failed = self.failureResultOf(self.ended, CommandFailed).value
        self.assertEqual((failed.status, failed.reason), (ExitStatus.NOT_THERE, "gone"))
        self.assertIn("is gone, and a code works once", str(failed))

    def test_a_sender_that_never_comes(self) -> None:
        self.wait(AWAY_TIME)
        self.assertNoResult(self.ended)
        self.wait(2 * LOOK_INTERVAL)
        self.is_given_up()

    def test_a_sender_that_comes_back(self) -> None:
        for _ in range(3):
            self.wait(AWAY_TIME - LOOK_INTERVAL)
            self.link(dark=False)
            self.wait(10 * AWAY_TIME)
            self.node.links = []
        self.assertNoResult(self.ended)
        self.wait(AWAY_TIME + 2 * LOOK_INTERVAL)
        self.is_given_up()

    def test_a_sender_that_was_killed(self) -> None:
        """Nobody has closed its link, which has no path."""
        self.link(dark=True)
        self.wait(NO_PATH_TIME)
        self.assertNoResult(self.ended)
        self.wait(2 * LOOK_INTERVAL)
        self.is_given_up()

    def test_this_machine_has_slept(self) -> None:
        """That is no time in which the sender could come back."""
        self.wait(AWAY_TIME / 2)
        self.clock.advance(10 * NO_PATH_TIME)
        self.wait(AWAY_TIME / 4)
        self.assertNoResult(self.ended)

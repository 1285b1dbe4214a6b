"""How long `punch send` waits for a peer that is away."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.source import find_source
from punch.apps.files.transfers import LAST_RETRY
from punch.cli.commands.node_command import LOOK_INTERVAL, CommandFailed, ExitStatus, NodeCommand
from punch.cli.commands.send import send_to_partner
from punch.cli.commands.transfers import AWAY_TIME
from punch.identity import Identity, PeerID
from punch.local.protocol import CommandError
from punch.ui.transfer_progress import Display

PEER = Identity.generate().peer_id


class Node:
    """A node whose peer may be away."""

    def __init__(self) -> None:
        self.there = True
        self.streams: list[Any] = []

    def open(self, peer: PeerID, service: str, factory: Any) -> Deferred[Any]:
        if not self.there:
            return fail(CommandError("not-registered", "The peer is not registered."))
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport())
        self.streams.append(protocol)
        return succeed(protocol)

    def status(self) -> Deferred[Any]:
        return succeed({"links": [{"peer": str(PEER), "dark": False}] if self.there else []})

    def report_transfer(self, transfer: int, report: Any) -> Deferred[None]:
        return succeed(None)


class CodeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.node = Node()
        file = Path(self.mktemp())
        file.write_bytes(b"content")
        options = Namespace(state_dir=self.mktemp(), name="alice", json=False, wait=False)
        command = NodeCommand("punch send", options, self.clock)
        command.display = Display(lambda text, end="": None, None)
        node: Any = self.node
        sending = send_to_partner(command, node, PEER, find_source([str(file)]))
        self.ended = Deferred.fromCoroutine(sending)

    def interrupt(self) -> None:
        self.node.there = False
        self.node.streams[-1].connectionLost(Failure(ConnectionLost()))

    def wait(self, seconds: float) -> None:
        self.clock.pump([1.0] * int(seconds))

    def test_a_peer_that_is_away_after_a_long_time(self) -> None:
        """The time counts from when it was there last, not from when the transfer began."""
        self.wait(10 * AWAY_TIME)
        self.interrupt()
        self.wait(AWAY_TIME - LAST_RETRY)
        self.node.there = True
        self.wait(LAST_RETRY)
        self.assertEqual(len(self.node.streams), 2)
        self.wait(AWAY_TIME)
        self.assertNoResult(self.ended)

    def test_a_peer_that_does_not_come_back(self) -> None:
        self.interrupt()
        self.wait(AWAY_TIME)
        self.assertNoResult(self.ended)
        self.wait(2 * LOOK_INTERVAL)
        failed = self.failureResultOf(self.ended, CommandFailed).value
        self.assertEqual((failed.status, failed.reason), (ExitStatus.NOT_THERE, "gone"))
        self.assertIn("run punch send again for a new one", str(failed))

"""How long `punch forward --reverse` wants a port, and how much is said of one that comes and goes."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import parse_address
from punch.apps.forward.messages import ForwardFailure
from punch.apps.forward.reverse import LISTENING, listen_service
from punch.cli.commands.forward_common import CHANGES, FIRST_RETRY, PAUSE, ReverseForward, StateNotices
from punch.cli.commands.node_command import CommandFailed, ExitStatus, NodeCommand
from punch.identity import Identity, PeerID
from punch.link.transport import StreamAborted
from punch.ui.transfer_progress import Display

PEER = Identity.generate().peer_id


class Node:
    """A node whose peer answers when the test says so."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def serve(self, service: str, factory: Any, allow: Any) -> Deferred[None]:
        return succeed(None)

    def open(self, peer: PeerID, service: str, factory: Any) -> Deferred[Any]:
        request = factory.buildProtocol(None)
        request.makeConnection(StringTransport())
        self.requests.append(request)
        return succeed(request)


class CommandTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        options = Namespace(state_dir=self.mktemp(), name="alice", json=False)
        self.command = NodeCommand("punch forward", options, self.clock)
        self.command.display = Display(lambda text, end="": self.lines.append(text), None)


class ReverseForwardTests(CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.node = Node()
        local = parse_address("localhost:3000")
        service = listen_service("tcp/localhost:8080")
        forward = ReverseForward(self.command, cast(Any, self.node), local, PEER, service, "8080")
        self.ended = Deferred.fromCoroutine(forward.run())

    def lose(self, error: Exception) -> None:
        self.node.requests[-1].connectionLost(Failure(error))

    def is_taken(self) -> None:
        """It has ended, and nothing is asked for any more."""
        failed = self.failureResultOf(self.ended, CommandFailed).value
        self.assertEqual((failed.status, failed.reason), (ExitStatus.REFUSED, "reset"))
        self.assertIn("another punch forward", str(failed))
        requests = len(self.node.requests)
        self.clock.advance(10 * FIRST_RETRY)
        self.assertEqual(len(self.node.requests), requests)

    def test_another_command_asks_for_it(self) -> None:
        """While this one has it: each would take it away from the other for ever."""
        self.node.requests[0].dataReceived(LISTENING)
        self.lose(StreamAborted(ForwardFailure.RESET))
        self.is_taken()

    def test_another_command_asks_at_the_same_time(self) -> None:
        """Before this one has it again, after its link was lost."""
        self.node.requests[0].dataReceived(LISTENING)
        self.lose(ConnectionLost())
        self.assertNoResult(self.ended)
        self.clock.advance(FIRST_RETRY)
        self.assertEqual(len(self.node.requests), 2)
        self.lose(StreamAborted(ForwardFailure.RESET))
        self.is_taken()

    def test_a_peer_that_closes_it_again_and_again(self) -> None:
        """It is asked for again each time, and not all of that is told."""
        times = 50
        for _ in range(times):
            self.node.requests[-1].dataReceived(LISTENING)
            self.lose(ConnectionLost())
            self.clock.advance(FIRST_RETRY)
        self.assertEqual(len(self.node.requests), times + 1)
        self.assertLessEqual(len(self.lines), CHANGES + times * FIRST_RETRY / PAUSE + 1)


class StateNoticesTests(CommandTestCase):
    def test_the_last_state_is_told(self) -> None:
        """Many changes at once are few lines; after a while, what is told is true again."""
        notices = StateNotices(self.command)
        for number in range(1000):
            notices.tell(f"state {number}")
        self.assertEqual(len(self.lines), CHANGES)
        self.clock.advance(PAUSE)
        self.assertEqual(self.lines[CHANGES:], ["state 999"])
        notices.tell("other")
        notices.tell("state 999")
        self.clock.advance(2 * PAUSE)
        self.assertEqual(len(self.lines), CHANGES + 1)
        notices.tell("later")
        self.assertEqual(self.lines[-1], "later")
        self.assertEqual(self.clock.getDelayedCalls(), [])

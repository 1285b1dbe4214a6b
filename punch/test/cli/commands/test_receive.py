"""How long `punch receive CODE` waits for a sender that is away, how it ends, and what its events name."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.codec import decode_failed, encode_offer
from punch.apps.files.messages import EntryKind, FilesOffer, Item
from punch.cli.commands.node_command import LOOK_INTERVAL, CommandFailed, ExitStatus, NodeCommand
from punch.cli.commands.receive import CLOSE_TIMEOUT, Receiving
from punch.cli.commands.transfers import AWAY_TIME, NO_PATH_TIME
from punch.identity import Identity, PeerID
from punch.link.transport import PunchAddress
from punch.local.access import Allow
from punch.ui.transfer_progress import Display

PEER = Identity.generate().peer_id
OTHER = Identity.generate().peer_id
OFFER = FilesOffer((Item("a", EntryKind.FILE, 10, 1),), 1, ("sha256",))

T = TypeVar("T")


class Node:
    """A node that may have a link, which may have a path."""

    peer_id = Identity.generate().peer_id

    def __init__(self) -> None:
        self.links: list[dict[str, Any]] = []
        self.factory: Any = None

    def serve(self, service: str, factory: Any, allow: Allow) -> Deferred[Any]:
        self.factory = factory
        return succeed(lambda: None)

    def status(self) -> Deferred[Any]:
        return succeed({"registered": True, "links": self.links})

    def report_transfer(self, transfer: int, report: Any) -> Deferred[None]:
        return succeed(None)

    def offer(self, peer: PeerID) -> Sender:
        """A stream of a peer, on which it offers a file."""
        return Sender(self.factory.buildProtocol(PunchAddress(peer, "files/1")))


class Sender:
    """The other end of a stream."""

    def __init__(self, receiver: Any) -> None:
        self.receiver = receiver
        self.transport = StringTransport()
        receiver.makeConnection(self.transport)
        message = encode_offer(OFFER)
        receiver.dataReceived(len(message).to_bytes(4, "big") + message)

    def heard_failure(self) -> str:
        """Why the receiving side has ended the transfer."""
        assert self.transport.disconnecting
        return decode_failed(self.transport.value()[4:]).code.value

    def close(self) -> None:
        self.receiver.connectionLost(Failure(ConnectionLost()))


class Command(NodeCommand):
    """Without threads."""

    def in_thread(self, call: Callable[[], T], /) -> Deferred[T]:
        return execute(call)


class WaitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.node = Node()
        options = Namespace(state_dir=self.mktemp(), name="bob", json=False, yes=True, once=True)
        command = NodeCommand("punch receive", options, self.clock)
        command.display = Display(lambda text, end="": None, None)
        node: Any = self.node
        receiving = Receiving(command, Path(self.mktemp()), PEER)
        self.ended = Deferred.fromCoroutine(receiving.run(node, Allow(frozenset((PEER,)))))

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


class EventTests(SynchronousTestCase):
    """With `--json`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.node = Node()
        self.output = io.StringIO()
        self.patch(sys, "stdout", self.output)
        # Nobody can be asked, wherever the tests run
        self.patch(sys, "stdin", None)

    def receive(self, sender: PeerID | None = None, **options: bool) -> Deferred[None]:
        given = {"json": True, "yes": False, "once": sender is not None, **options}
        command = Command(
            "punch receive", Namespace(state_dir=self.mktemp(), name="bob", **given), self.clock
        )
        folder = Path(self.mktemp())
        folder.mkdir()
        allow = Allow(frozenset((sender,)) if sender else frozenset(), anyone=sender is None)
        node: Any = self.node
        return Deferred.fromCoroutine(Receiving(command, folder, sender).run(node, allow))

    def events(self, *names: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [event for event in found if event["event"] in names]

    def test_refused_by_code(self) -> None:
        """A code works once: the command ends when the sender has heard it, or does not want to."""
        for closes in (True, False):
            ended = self.receive(PEER)
            sender = self.node.offer(PEER)
            self.assertEqual(sender.heard_failure(), "refused")
            self.assertNoResult(ended)
            if closes:
                sender.close()
            else:
                self.clock.advance(CLOSE_TIMEOUT)
            failed = self.failureResultOf(ended, CommandFailed).value
            self.assertEqual((failed.status, failed.reason), (ExitStatus.REFUSED, "refused"))

    def test_refused_without_a_code(self) -> None:
        """It waits for others."""
        ended = self.receive(once=True)
        sender = self.node.offer(PEER)
        self.assertEqual(sender.heard_failure(), "refused")
        sender.close()
        self.assertNoResult(ended)

    def test_two_senders(self) -> None:
        """Each event says whose transfer it is about."""
        self.receive()
        for peer in (PEER, OTHER):
            self.node.offer(peer).close()
        expected = [(1, str(PEER)), (2, str(OTHER))]
        for name in ("transfer-offered", "transfer-refused"):
            found = [(event["transfer"], event["peer"]) for event in self.events(name)]
            self.assertEqual(found, expected, name)

    def test_two_transfers(self) -> None:
        """The same, of those that run and are interrupted."""
        self.receive(yes=True)
        senders = [self.node.offer(peer) for peer in (PEER, OTHER)]
        self.clock.advance(1.0)
        for sender in senders:
            sender.close()
        expected = {(1, str(PEER)), (2, str(OTHER))}
        for name in ("transfer-progress", "transfer-failed"):
            found = {(event["transfer"], event["peer"]) for event in self.events(name)}
            self.assertEqual(found, expected, name)

"""The transfers of processes with a user interface, between two nodes on the simulated internet."""

from __future__ import annotations

from pathlib import Path
from random import Random
from types import SimpleNamespace

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from punch.apps.files.codec import encode_offer
from punch.apps.files.events import (
    Stage,
    Transfer,
    TransferDismissed,
    TransferEvent,
    TransferProblem,
    TransferProgress,
    UnknownTransfer,
)
from punch.apps.files.messages import SERVICE, EntryKind, FailureCode, FilesOffer, Item, TransferFailed
from punch.apps.files.protocol import FileSender
from punch.apps.files.source import text_source
from punch.apps.files.transfers import (
    MAX_LISTED,
    Transfers,
)
from punch.identity import PeerID
from punch.link.services import anyone
from punch.local.access import Allow
from punch.local.own import OwnNode
from punch.local.protocol import CommandError
from punch.node.node import Node
from punch.test.internet import LinkSpec
from punch.test.node.test_services import NodeTestCase
from punch.ui.json.events import transfer_fields
from punch.ui.text.causes import event_sentence

MIB = 1024 * 1024


class Side:
    """One process with its transfers."""

    def __init__(self, test: TransfersCase, name: str, node: Node) -> None:
        self.root = Path(test.mktemp()).resolve()
        self.root.mkdir(parents=True)
        self.peer = node.identity.peer_id
        self.granted = False
        self.events: list[TransferEvent] = []
        self.opened: list[PeerID] = []
        self.sends = 0
        self.done = 0
        host = test.hosts[name]
        self.own = OwnNode(
            node,
            book=test.books[name],
            clock=host.reactor,
            rendezvous=[test.rendezvous.address],
            name=lambda: name,
            sentence=event_sentence,
        )
        self.transfers = Transfers(
            self.own,
            granted=lambda peer: self.granted,
            blocked=test.books[name].blocked,
            opening=self.opened.append,
            folder=self.root / "to",
            run=maybeDeferred,
            clock=host.reactor,
            tell=self.events.append,
        )
        test.addCleanup(self.transfers.stop)

    def send(self, to: Side, *contents: bytes) -> Deferred[Transfer]:
        self.sends += 1
        folder = self.root / str(self.sends)
        folder.mkdir()
        paths = [folder / f"file {number}" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return self.transfers.send(to.peer, paths, self.count)

    def count(self) -> None:
        self.done += 1

    @property
    def last(self) -> Transfer:
        return self.transfers.all[-1]

    def stages(self) -> list[Stage]:
        """Those of the last transfer that can't be another one: each as it is now, not as it was told."""
        return [each.stage for each in self.transfers.all]


class TransfersCase(NodeTestCase):
    """Two nodes, one of which asks about what it is offered."""

    link = LinkSpec(delay=0.01, rate=10e6)

    def setUp(self) -> None:
        super().setUp()
        self.a = Side(self, "alice", self.alice)
        self.b = Side(self, "bob", self.bob)
        self.b.own.serve_by_default(SERVICE, self.b.transfers.service, anyone)

    def sent(self, *contents: bytes) -> Transfer:
        """Alice has begun to send something to Bob."""
        return self.successResultOf(self.a.send(self.b, *contents))

    def until(self, side: Side, stage: Stage, seconds: float = 40.0) -> Transfer:
        self.run_until(lambda: bool(side.transfers.all) and side.last.stage is stage, seconds)
        return side.last

    def offered(self, size: int) -> Protocol:
        """Bob's end of a stream on which a file was offered."""
        offer = encode_offer(FilesOffer((Item("photo.jpg", EntryKind.FILE, size, 1),), 1, ("sha256",)))
        receiver = self.b.transfers.service.buildProtocol(SimpleNamespace(peer=self.a.peer))
        receiver.makeConnection(StringTransport())
        receiver.dataReceived(len(offer).to_bytes(4, "big") + offer)
        return receiver


class TransfersTests(TransfersCase):
    def test_asked_and_accepted(self) -> None:
        """Both sides show the same: an offer, how far it is, and the end; the sender's files are released."""
        content = Random(1).randbytes(MIB)
        transfer = self.sent(content, b"")
        offered = self.until(self.b, Stage.OFFERED)
        self.assertEqual((offered.peer, offered.outgoing, offered.offer.files), (self.a.peer, False, 2))
        self.assertIsNone(offered.folder)
        self.b.transfers.accept(offered.number)
        self.until(self.a, Stage.DONE)
        self.until(self.b, Stage.DONE)
        self.assertEqual([path.read_bytes() for path in offered.finals], [content, b""])
        self.assertEqual(offered.folder, self.b.root / "to")
        self.assertEqual((transfer.position, offered.position), (len(content), len(content)))
        for side in (self.a, self.b):
            self.assertTrue(any(isinstance(event, TransferProgress) for event in side.events))
        self.assertEqual(self.a.done, 1)
        for run, problem in (
            (self.b.transfers.accept, TransferProblem.NOT_OFFERED),
            (self.b.transfers.cancel, TransferProblem.OVER),
        ):
            error = self.assertRaises(UnknownTransfer, run, offered.number)
            self.assertEqual((error.problem, error.number), (problem, offered.number))
        self.b.transfers.dismiss(offered.number)
        self.assertEqual(self.b.transfers.all, [])
        self.assertIsInstance(self.b.events[-1], TransferDismissed)

    def test_refused(self) -> None:
        self.sent(b"x")
        offered = self.until(self.b, Stage.OFFERED)
        error = self.assertRaises(UnknownTransfer, self.b.transfers.dismiss, offered.number)
        self.assertEqual(error.problem, TransferProblem.NOT_OVER)
        self.b.transfers.refuse(offered.number)
        problem = self.until(self.a, Stage.FAILED).problem
        assert isinstance(problem, TransferFailed)
        self.assertEqual((problem.code, problem.by_peer, self.a.done), (FailureCode.REFUSED, True, 1))
        self.assertIs(offered.stage, Stage.FAILED)
        self.assertFalse((self.b.root / "to").exists())

    def test_withdrawn(self) -> None:
        """The sender ends it while the other user is asked: nobody can accept it any more."""
        transfer = self.sent(b"x")
        offered = self.until(self.b, Stage.OFFERED)
        self.a.transfers.cancel(transfer.number)
        self.until(self.b, Stage.FAILED)
        self.assertEqual((transfer.stage, self.a.done), (Stage.FAILED, 1))
        with self.assertRaises(UnknownTransfer):
            self.b.transfers.accept(offered.number)

    def test_granted(self) -> None:
        """Nobody is asked; several at once."""
        self.b.granted = True
        for number in range(3):
            self.sent(Random(number).randbytes(100_000 + number))
        self.run_until(lambda: self.b.stages() == [Stage.DONE] * 3, 40.0)
        names = sorted(path.name for path in (self.b.root / "to").iterdir())
        self.assertEqual(names, ["file 0", "file 0 (1)", "file 0 (2)"])
        self.run_until(lambda: self.a.stages() == [Stage.DONE] * 3, 5.0)

    def test_nobody_receives_yet(self) -> None:
        """It is tried again until somebody does; but not if the peer wants no link."""
        transfer = self.successResultOf(self.b.send(self.a, b"x"))
        self.until(self.b, Stage.FAILED)
        assert isinstance(transfer.problem, CommandError)
        self.assertEqual(transfer.problem.reason, "refused")
        self.books["alice"].add(self.b.peer, "bob")
        transfer = self.successResultOf(self.b.send(self.a, b"x"))
        self.until(self.b, Stage.WAITING)
        assert isinstance(transfer.problem, CommandError)
        self.assertEqual(transfer.problem.reason, "no-service")
        told = len(self.b.events)
        self.run_until(lambda: len(self.b.opened) >= 5, 40.0)
        self.assertEqual((len(self.b.events), transfer.stage), (told, Stage.WAITING))
        self.a.own.serve_by_default(SERVICE, self.a.transfers.service, anyone)
        self.until(self.a, Stage.OFFERED)
        self.assertIs(self.until(self.b, Stage.OFFERED), transfer)

    def test_away(self) -> None:
        self.rendezvous.stop()
        transfer = self.sent(b"x")
        self.until(self.a, Stage.WAITING, 200.0)
        assert isinstance(transfer.problem, CommandError)
        self.rendezvous.start()
        self.until(self.b, Stage.OFFERED, 100.0)
        self.assertIs(self.until(self.a, Stage.OFFERED), transfer)
        self.a.transfers.cancel(transfer.number)
        self.until(self.b, Stage.FAILED)

    def test_blocked_meanwhile(self) -> None:
        """Whom the user has blocked is not called, however the transfer was interrupted."""
        transfer = self.sent(Random(4).randbytes(2 * MIB))
        self.b.transfers.accept(self.until(self.b, Stage.OFFERED).number)
        self.run_until(lambda: self.a.last.position > 0, 40.0)
        self.books["alice"].block(self.b.peer)
        self.alice.hangup(self.b.peer)
        self.until(self.a, Stage.FAILED)
        assert isinstance(transfer.problem, CommandError)
        self.assertEqual((transfer.problem.reason, self.a.done), ("blocked", 1))
        self.assertEqual(self.alice.calls(), {})
        self.assertIsNone(self.alice.link(self.b.peer))

    def test_a_program_that_receives(self) -> None:
        """While punch receive serves, it gets the offers; afterwards this process does again."""
        taken: list[Protocol] = []

        class Taking(Protocol):
            def connectionMade(self) -> None:
                taken.append(self)

        end = self.successResultOf(self.b.own.serve(SERVICE, Factory.forProtocol(Taking), Allow(anyone=True)))
        transfer = self.sent(b"x")
        self.run_until(lambda: bool(taken), 20.0)
        self.assertEqual(self.b.transfers.all, [])
        self.failureResultOf(
            self.b.own.serve(SERVICE, Factory.forProtocol(Taking), Allow(anyone=True)), CommandError
        )
        self.a.transfers.cancel(transfer.number)
        end()
        end()
        self.sent(b"y")
        self.until(self.b, Stage.OFFERED)

    def test_a_text(self) -> None:
        """It is shown, and no file is made of it."""
        sender = FileSender(text_source("The key is under the mat."), maybeDeferred)
        self.a.own.open(self.b.peer, SERVICE, Factory.forProtocol(lambda: sender))
        offered = self.until(self.b, Stage.OFFERED)
        self.assertEqual(transfer_fields(offered, "alice")["content"], None)
        self.b.transfers.accept(offered.number)
        self.until(self.b, Stage.DONE)
        fields = transfer_fields(offered, "alice")
        self.assertEqual((fields["content"], fields["folder"]), ("The key is under the mat.", None))
        self.assertFalse((self.b.root / "to").exists())

    def test_a_text_stays_listed(self) -> None:
        """Offers that come to nothing push out one another; a text that has arrived is nowhere else."""
        self.b.granted = True
        sender = FileSender(text_source("The key is under the mat."), maybeDeferred)
        self.a.own.open(self.b.peer, SERVICE, Factory.forProtocol(lambda: sender))
        text = self.until(self.b, Stage.DONE)
        self.sent(b"x")
        self.run_until(lambda: self.b.stages() == [Stage.DONE] * 2, 40.0)
        file = self.b.last
        self.b.granted = False
        for _ in range(MAX_LISTED + 5):
            receiver = self.offered(5)
            self.assertIs(self.b.last.stage, Stage.OFFERED)
            receiver.connectionLost(Failure(ConnectionLost()))
            self.assertIs(self.b.last.stage, Stage.FAILED)
        self.assertEqual(len(self.b.transfers.all), MAX_LISTED)
        self.assertEqual(self.b.transfers.all[:2], [text, file])
        self.b.granted = True
        for size in range(MAX_LISTED):
            self.offered(size).connectionLost(Failure(ConnectionLost()))
            self.assertIs(self.b.last.stage, Stage.WAITING)
        self.assertEqual(self.b.transfers.all[0], text)
        self.assertNotIn(file, self.b.transfers.all)

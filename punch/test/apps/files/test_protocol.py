"""Transfers between two nodes on the simulated internet."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from punch.apps.files.codec import (
    decode_failed,
    encode_accept,
    encode_data,
    encode_done,
    encode_have_end,
    encode_offer,
    message_type,
)
from punch.apps.files.messages import (
    SERVICE,
    EntryKind,
    FailureCode,
    FilesOffer,
    Item,
    MessageType,
    TransferFailed,
)
from punch.apps.files.protocol import FileSender, Run, TransferState
from punch.apps.files.receiver import (
    MAX_RUNNING,
    MAX_RUNNING_OF_PEER,
    MAX_WAITING,
    MAX_WAITING_OF_PEER,
    OFFER_TIMEOUT,
    FileReceiver,
    FileService,
)
from punch.apps.files.source import find_source, text_source
from punch.link.services import anyone
from punch.link.transport import StreamTransport
from punch.test.node.test_services import NodeTestCase

T = TypeVar("T")


def run(call: Callable[[], T]) -> Deferred[T]:
    """At once: what waits for the disk here waits for nothing else."""
    return maybeDeferred(call)


def never(call: Callable[[], T]) -> Deferred[T]:
    """A disk that does not answer."""
    return Deferred()


class RecordingClient(Int32StringReceiver):
    """A client of the service that sends what a test tells it to."""

    MAX_LENGTH = 300_000
    transport: StreamTransport

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.lost = False

    def send(self, message: bytes) -> None:
        self.sendString(message)

    def stringReceived(self, string: bytes) -> None:
        self.messages.append(string)

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True


class TransferCase(NodeTestCase):
    """Two nodes, between which files are sent."""

    def setUp(self) -> None:
        super().setUp()
        root = Path(self.mktemp()).resolve()
        self.source, self.folder = root / "from", root / "to"
        self.source.mkdir(parents=True)
        self.folder.mkdir()
        self.asked: list[tuple[str, FilesOffer, Deferred[Path]]] = []
        self.cancelled = 0
        self.received: list[Any] = []
        self.transfers: list[FileReceiver] = []
        self.answer: Callable[[Deferred[Path]], None] = lambda asked: asked.callback(self.folder)
        service = FileService(self.decide, self.net.host("a clock", "203.0.113.9").reactor, run)
        self.stop = self.bob.serve(SERVICE, service, anyone)

    def decide(self, transfer: FileReceiver, offer: FilesOffer) -> Deferred[Path]:
        def cancelled(_: Deferred[Path]) -> None:
            self.cancelled += 1

        asked: Deferred[Path] = Deferred(cancelled)
        self.asked.append((transfer.peer, offer, asked))
        self.transfers.append(transfer)
        transfer.when_finished().addBoth(self.received.append)
        self.answer(asked)
        return asked

    def open(self, protocol: Protocol) -> None:
        link = self.net.wait(self.alice.connect(self.bob.identity.peer_id), 5.0, "a link")
        opened = link.connect(SERVICE, Factory.forProtocol(lambda: protocol))
        self.net.wait(opened, 2.0, "a stream")

    def send(self, *names: str) -> FileSender:
        sender = FileSender(find_source([str(self.source / name) for name in names]), run)
        self.results: list[Any] = []
        sender.when_finished().addBoth(self.results.append)
        self.open(sender)
        return sender

    def failure(self, sender: FileSender) -> TransferFailed:
        self.run_until(lambda: bool(self.results), 5.0)
        error = cast(Failure, self.results[0]).value
        self.assertIsInstance(error, TransferFailed)
        self.assertTrue(sender.over)
        return cast(TransferFailed, error)

    def file(self, name: str, content: bytes) -> None:
        (self.source / name).write_bytes(content)

    def send_text(self, text: str) -> FileSender:
        source = text_source(text)
        self.addCleanup(os.close, source.pipe)
        sender = FileSender(source, run)
        self.results = []
        sender.when_finished().addBoth(self.results.append)
        self.open(sender)
        return sender

    def send_with(self, run: Run, size: int) -> FileSender:
        """Send one file of that size, which `run` reads."""
        self.file("a", Random(4).randbytes(size))
        sender = FileSender(find_source([str(self.source / "a")]), run)
        self.results = []
        sender.when_finished().addBoth(self.results.append)
        self.open(sender)
        return sender


class TransferTests(TransferCase):
    def test_two_files(self) -> None:
        content = Random(1).randbytes(100_005)
        self.file("a", content)
        self.file("b", b"")
        sender = self.send("a", "b")
        self.run_until(lambda: bool(self.results), 20.0)
        self.assertEqual(self.results, [[]])
        self.assertEqual(self.received, [[self.folder / "a", self.folder / "b"]])
        self.assertEqual((self.folder / "a").read_bytes(), content)
        self.assertEqual((self.folder / "b").read_bytes(), b"")
        self.assertEqual((sender.position, sender.sent), (100_005, 100_005))
        peer, offer, _ = self.asked[0]
        self.assertEqual(peer, str(self.alice.identity.peer_id))
        self.assertEqual([(item.name, item.size) for item in offer.items], [("a", 100_005), ("b", 0)])

    def test_a_text_for_who_shows_it(self) -> None:
        """It is there with the offer, and no file is made of it."""
        service = FileService(
            self.decide, self.net.host("another clock", "203.0.113.8").reactor, run, shows_texts=True
        )
        self.stop()
        self.bob.serve(SERVICE, service, anyone)
        self.send_text("a\nb")
        self.run_until(lambda: bool(self.results), 20.0)
        self.assertEqual((self.results, self.received), ([[]], [[]]))
        self.assertEqual(self.asked[0][1].text, "a\nb")
        self.assertEqual(list(self.folder.iterdir()), [])
        self.answer = lambda asked: asked.errback(TransferFailed(FailureCode.REFUSED))
        self.assertIs(self.failure(self.send_text("c")).code, FailureCode.REFUSED)

    def test_a_text_for_who_shows_none(self) -> None:
        """As a receiver of an older release: it becomes a file."""
        self.send_text("a\nb")
        self.run_until(lambda: bool(self.results), 20.0)
        self.assertEqual((self.results, self.received), ([[]], [[self.folder / "text.txt"]]))
        self.assertEqual((self.folder / "text.txt").read_bytes(), b"a\nb")

    def test_the_user_says_no(self) -> None:
        self.file("a", b"x")
        self.answer = lambda asked: asked.errback(TransferFailed(FailureCode.REFUSED))
        failed = self.failure(self.send("a"))
        self.assertEqual((failed.code, failed.by_peer), (FailureCode.REFUSED, True))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_cancelled_while_the_user_is_asked(self) -> None:
        self.file("a", b"x")
        self.answer = lambda asked: None
        sender = self.send("a")
        self.run_until(lambda: bool(self.asked), 2.0)
        self.assertIs(sender.state, TransferState.OFFERED)
        sender.cancel()
        self.assertIs(self.failure(sender).code, FailureCode.CANCELLED)
        self.run_until(lambda: self.cancelled == 1, 2.0)

    def test_the_receiving_disk_fails(self) -> None:
        self.file("a", b"x")
        self.answer = lambda asked: asked.callback(self.folder / "gone")
        failed = self.failure(self.send("a"))
        self.assertEqual((failed.code, failed.by_peer), (FailureCode.DISK, True))

    def test_strangers_messages(self) -> None:
        offer = encode_offer(find_source([str(self.source)]).offer)
        for messages in (
            [b""],
            [b"\xff"],
            [encode_data(0, 0, b"x")],
            [b"\x01not JSON"],
            [offer, offer],
            [offer, encode_data(0, 0, b"x")],
            [bytes([MessageType.FAILED]) + b"{"],
        ):
            client = RecordingClient()
            self.answer = lambda asked: None
            self.open(client)
            for message in messages:
                client.send(message)
            self.run_until(lambda client=client: client.lost, 2.0)  # type: ignore[misc]
            self.assertEqual([message_type(one) for one in client.messages], [MessageType.FAILED])
            self.assertIs(decode_failed(client.messages[0]).code, FailureCode.PROTOCOL)

    def test_a_message_that_is_too_long(self) -> None:
        client = RecordingClient()
        self.open(client)
        client.transport.write(b"\xff\xff\xff\xff")
        self.run_until(lambda: client.lost, 2.0)

    def test_no_offer(self) -> None:
        client = RecordingClient()
        self.open(client)
        self.net.advance(OFFER_TIMEOUT - 2)
        self.assertFalse(client.lost)
        self.net.advance(4)
        self.assertTrue(client.lost)

    def test_many_offers_wait(self) -> None:
        self.answer = lambda asked: None
        self.assertLess(MAX_WAITING_OF_PEER, MAX_WAITING)
        offer = encode_offer(find_source([str(self.source)]).offer)
        clients = [RecordingClient() for _ in range(MAX_WAITING_OF_PEER + 1)]
        for client in clients:
            self.open(client)
            client.send(offer)
        self.run_until(lambda: clients[-1].lost, 2.0)
        self.assertIs(decode_failed(clients[-1].messages[0]).code, FailureCode.BUSY)
        self.assertEqual(len(self.asked), MAX_WAITING_OF_PEER)
        clients[0].transport.loseConnection()
        self.run_until(lambda: self.cancelled == 1, 2.0)
        client = RecordingClient()
        self.open(client)
        client.send(offer)
        self.run_until(lambda: len(self.asked) == MAX_WAITING_OF_PEER + 1, 2.0)

    def test_many_transfers_run(self) -> None:
        self.assertLess(MAX_RUNNING_OF_PEER, MAX_RUNNING)
        clients = [RecordingClient() for _ in range(MAX_RUNNING_OF_PEER + 1)]
        for number, client in enumerate(clients):
            self.open(client)
            client.send(encode_offer(FilesOffer((Item(str(number), EntryKind.FILE, 5, 1),), 1, ("sha256",))))
            self.run_until(lambda client=client: bool(client.messages), 2.0)  # type: ignore[misc]
        kinds = [message_type(client.messages[0]) for client in clients]
        self.assertEqual(kinds, [MessageType.ACCEPT] * MAX_RUNNING_OF_PEER + [MessageType.FAILED])
        self.assertIs(decode_failed(clients[-1].messages[0]).code, FailureCode.BUSY)
        clients[0].transport.loseConnection()
        self.run_until(lambda: len(self.received) == 1, 2.0)
        client = RecordingClient()
        self.open(client)
        client.send(encode_offer(FilesOffer((Item("x", EntryKind.FILE, 5, 1),), 1, ("sha256",))))
        self.run_until(lambda: bool(client.messages), 2.0)
        self.assertIs(message_type(client.messages[0]), MessageType.ACCEPT)


class HostileReceiver(Int32StringReceiver):
    """A service that answers each offer with messages that a test chose."""

    MAX_LENGTH = 300_000

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers

    def stringReceived(self, string: bytes) -> None:
        if message_type(string) is MessageType.OFFER:
            for answer in self.answers:
                self.sendString(answer)


class HostileReceiverTests(NodeTestCase):
    def fails(self, *answers: bytes) -> TransferFailed:
        path = Path(self.mktemp()).resolve()
        path.write_bytes(bytes(5))
        stop = self.bob.serve(SERVICE, Factory.forProtocol(lambda: HostileReceiver(list(answers))), anyone)
        self.addCleanup(stop)
        sender = FileSender(find_source([str(path)]), never)
        results: list[Any] = []
        sender.when_finished().addBoth(results.append)
        link = self.net.wait(self.alice.connect(self.bob.identity.peer_id), 5.0, "a link")
        self.net.wait(link.connect(SERVICE, Factory.forProtocol(lambda: sender)), 2.0, "a stream")
        self.run_until(lambda: bool(results), 2.0)
        self.assertIs(sender.accepted, message_type(answers[0]) is MessageType.ACCEPT)
        error = cast(Failure, results[0]).value
        self.assertIsInstance(error, TransferFailed)
        return cast(TransferFailed, error)

    def test_the_end_before_anything_was_sent(self) -> None:
        """It does not count as sent."""
        failed = self.fails(encode_accept("sha256"), encode_have_end(), encode_done())
        self.assertEqual((failed.code, failed.by_peer), (FailureCode.PROTOCOL, False))

    def test_files_are_not_shown_as_a_text_is(self) -> None:
        """The end in place of an answer does not count as sent either."""
        failed = self.fails(encode_done())
        self.assertEqual((failed.code, failed.by_peer), (FailureCode.PROTOCOL, False))

"""Files over links: holes in them, breaks, and streams that come in pieces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import cast
from unittest import SkipTest

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.files.codec import COPIED, DataMessage, Message, MessageReader, frames
from punch.apps.files.events import Stage, TooManyTransfers, TransferChanged
from punch.apps.files.messages import BLOCK, PIECE, FailureCode, TransferFailed
from punch.apps.files.protocol import TransferState
from punch.apps.files.source import SourceError
from punch.apps.files.transfers import MAX_LISTED, MAX_SENDING
from punch.test.apps.files.test_codec import CONTENT, MESSAGES, STREAM, plain
from punch.test.apps.files.test_protocol import T, TransferCase
from punch.test.apps.files.test_transfer import HoleCase, send
from punch.test.apps.files.test_transfers import TransfersCase

MIB = 1024 * 1024


class HoleTests(HoleCase):
    """Holes of files, where something is already."""

    def test_they_are_no_larger_there(self) -> None:
        source = self.find("image")
        self.assertEqual((source.offer.size, source.offer.stored), (self.SIZE, 3 * PIECE))
        send(source, self.folder)
        self.is_there(3 * PIECE + 65_536)

    def test_where_something_else_was(self) -> None:
        """An earlier attempt has written what is a hole now."""
        os.truncate(self.path, 0)
        self.put(0, Random(1).randbytes(30 * BLOCK))
        os.truncate(self.path, self.SIZE)
        send(self.find("image"), self.folder, stop_after=100)
        os.truncate(self.path, 0)
        os.truncate(self.path, self.SIZE)
        self.put(BLOCK, b"data")
        send(self.find("image"), self.folder)
        self.is_there(30 * BLOCK)

    def test_an_attempt_that_ended_in_a_hole(self) -> None:
        for stop_after in (30, 250, 257):
            send(self.find("image"), self.folder, stop_after=stop_after)
        send(self.find("image"), self.folder)
        self.is_there(3 * PIECE + 65_536)


class TransferTests(TransferCase):
    """Transfers between two nodes that are disturbed."""

    def test_the_link_is_lost_and_the_transfer_continued(self) -> None:
        content = Random(2).randbytes(MIB + 400_000)
        self.file("a", content)
        self.send("a")
        self.run_until(lambda: bool(self.transfers) and self.transfers[0].position >= MIB, 20.0)
        self.alice.hangup(self.bob.identity.peer_id)
        self.run_until(lambda: bool(self.results), 5.0)
        self.assertTrue(cast(Failure, self.results[0]).check(ConnectionDone, ConnectionLost))
        self.run_until(lambda: self.bob.link(self.alice.identity.peer_id) is None, 5.0)
        self.assertFalse((self.folder / "a").exists())
        again = self.send("a")
        self.run_until(lambda: bool(self.results), 20.0)
        self.assertEqual(self.results, [[]])
        self.assertEqual((self.folder / "a").read_bytes(), content)
        self.assertLess(again.sent, MIB)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["a"])

    def test_the_source_changes(self) -> None:
        self.file("a", Random(3).randbytes(2 * MIB))
        sender = self.send("a")
        self.run_until(lambda: sender.state is TransferState.RUNNING, 2.0)
        (self.source / "a").write_bytes(b"short")
        self.assertIs(self.failure(sender).code, FailureCode.SOURCE_CHANGED)
        self.run_until(lambda: bool(self.received), 2.0)
        self.assertIs(self.received[0].value.code, FailureCode.SOURCE_CHANGED)

    def test_the_next_block_is_read_while_one_is_sent(self) -> None:
        reads: list[int] = []

        def read(call: Callable[[], T]) -> Deferred[T]:
            reads.append(sender.sent)
            return maybeDeferred(call)

        sender = self.send_with(lambda call: read(call), 4 * MIB)
        self.run_until(lambda: bool(reads), 2.0)
        # The stream takes less than one block, and the second one is ready
        self.assertEqual(reads, [0, MIB])
        self.run_until(lambda: bool(self.results), 20.0)
        self.assertEqual(reads, [0, MIB, 2 * MIB, 3 * MIB, 4 * MIB, 4 * MIB])

    def test_stopped_while_a_block_is_read(self) -> None:
        """The file is closed when the thread has done with it, and not before."""
        waiting: list[Callable[[], object]] = []

        def later(call: Callable[[], T]) -> Deferred[T]:
            done: Deferred[T] = Deferred()
            waiting.append(lambda: maybeDeferred(call).chainDeferred(done))
            return done

        def is_open() -> bool:
            # The descriptor of the list itself is closed by now
            links = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
            return any(os.readlink(each).startswith(str(self.source / "a")) for each in links)

        if not Path("/proc/self/fd").is_dir():
            raise SkipTest("this system does not list the open files of a process")
        sender = self.send_with(later, 4 * MIB)
        self.run_until(lambda: bool(waiting), 2.0)
        waiting.pop()()
        self.assertEqual(len(waiting), 1)
        sender.cancel()
        self.assertIs(self.failure(sender).code, FailureCode.CANCELLED)
        self.assertTrue(is_open())
        waiting.pop()()
        self.assertFalse(is_open())
        self.net.advance(5.0)
        self.assertEqual(waiting, [])


class TransfersTests(TransfersCase):
    """All transfers of a process."""

    def test_a_break(self) -> None:
        """The link is lost: it is continued, without asking again, and not from the beginning."""
        content = Random(2).randbytes(2 * MIB)
        transfer = self.sent(content)
        offered = self.until(self.b, Stage.OFFERED)
        self.b.transfers.accept(offered.number)
        self.run_until(lambda: offered.position >= MIB, 40.0)
        self.alice.hangup(self.b.peer)
        self.until(self.b, Stage.WAITING)
        self.until(self.a, Stage.WAITING)
        self.until(self.a, Stage.DONE)
        self.until(self.b, Stage.DONE)
        self.assertEqual(offered.finals[0].read_bytes(), content)
        self.assertEqual((self.a.transfers.all, self.b.transfers.all), ([transfer], [offered]))
        self.assertEqual((transfer.problem, offered.problem), (None, None))

    def test_stopped_by_the_receiver(self) -> None:
        transfer = self.sent(Random(3).randbytes(2 * MIB))
        offered = self.until(self.b, Stage.OFFERED)
        self.b.transfers.accept(offered.number)
        self.run_until(lambda: offered.position > 0, 40.0)
        self.b.transfers.cancel(offered.number)
        problem = self.until(self.a, Stage.FAILED).problem
        assert isinstance(problem, TransferFailed)
        self.assertEqual((problem.code, problem.by_peer), (FailureCode.CANCELLED, True))
        self.assertEqual((offered.stage, transfer.stage), (Stage.FAILED, Stage.FAILED))

    def test_bounds(self) -> None:
        """What can't be sent releases its files at once; so many at a time; so many are listed."""
        self.failureResultOf(
            self.a.transfers.send(self.b.peer, [self.a.root / "gone"], self.a.count), SourceError
        )
        self.assertEqual(self.a.done, 1)
        for _ in range(MAX_SENDING):
            self.sent(b"x")
        self.failureResultOf(self.a.send(self.b, b"x"), TooManyTransfers)
        self.assertEqual(self.a.done, 2)
        for transfer in self.a.transfers.all:
            self.a.transfers.cancel(transfer.number)
        self.run_until(lambda: self.a.done == 2 + MAX_SENDING, 60.0)
        for _ in range(MAX_LISTED):
            self.a.transfers.cancel(self.sent(b"x").number)
            self.net.advance(0.1)
        self.assertLessEqual(len(self.a.transfers.all), MAX_LISTED)
        told = [event.transfer.number for event in self.a.events if isinstance(event, TransferChanged)]
        self.assertEqual(max(told), MAX_SENDING + MAX_LISTED)


class PieceTests(SynchronousTestCase):
    """Streams that are cut anywhere."""

    def test_where_it_is_cut_makes_no_difference(self) -> None:
        for size in (1, 3, 17, 1200, COPIED, COPIED + 1, 65_536, len(STREAM)):
            reader, found = MessageReader(), list[Message]()
            for at in range(0, len(STREAM), size):
                found += reader.receive(STREAM[at : at + size])
            self.assertEqual(list(map(plain, found)), list(map(plain, MESSAGES)), size)
            self.assertEqual([isinstance(each, DataMessage) for each in found].count(True), 2)
            self.assertEqual([len(each) for each in found], [len(plain(each)) for each in MESSAGES])

    def test_a_stream_in_pieces_of_few_bytes(self) -> None:
        """Each piece would take a hundred bytes, if it was kept."""
        reader = MessageReader()
        stream = b"".join(frames([DataMessage(0, 0, [CONTENT])]))
        (message,) = [each for at in range(len(stream)) for each in reader.receive(stream[at : at + 1])]
        assert isinstance(message, DataMessage)
        self.assertEqual(len(message.parts), 1)

"""
The transfers of one process with a user interface: what is sent to peers, and what they offer.

`punch send` and `punch receive` are one transfer each, with the same protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.files.events import (
    PeerBlocked,
    Stage,
    TooManyTransfers,
    Transfer,
    TransferChanged,
    TransferDismissed,
    TransferEvent,
    TransferProblem,
    TransferProgress,
    UnknownTransfer,
)
from punch.apps.files.messages import SERVICE, FailureCode, FilesOffer, TransferFailed
from punch.identity import PeerID
from punch.local.protocol import CommandError

if TYPE_CHECKING:
    from punch.apps.files.protocol import FileSender, Run
    from punch.apps.files.receiver import FileReceiver, FileService
    from punch.apps.files.source import Source

MAX_SENDING = 32
"""Transfers to peers that are not over, at the same time."""
MAX_LISTED = 50
"""
Transfers that are listed, although they are over or wait for their sender. For a further one the oldest is
dismissed, but offers of peers that came to nothing are dismissed before all others, and texts that have
arrived, which are kept nowhere else, after them.
"""
INTERVAL = 0.25
"""Seconds between two `TransferProgress` of a transfer."""
FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds after which a transfer that was interrupted is tried again, and the longest such time."""
_RETRIED = frozenset(
    (
        "not-registered",
        "gone",
        "timeout",
        "no-service",
        "busy",
        "unreachable",
        "rendezvous-unreachable",
        "lost",
    )
)
"""Reasons why a stream to a peer can't be opened now, but maybe later."""


class Opener(Protocol):
    """The part of `NodeAccess` that sends."""

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Open a stream to a service of a peer."""


class Transfers:
    """
    All transfers of this process, until they are dismissed.

    :param node: opens the streams on which files are sent.
    :param granted: whether offers of a peer are accepted without asking.
    :param blocked: whether the user has blocked a peer: nothing is sent to it.
    :param opening: is told of the peer before a stream to it is opened, for which it may be called.
    :param folder: where accepted files go; it is made if it is not there.
    :param run: makes a call that waits for the disk.
    :param tell: is told what happens.
    :ivar blocked: the parameter of this name.
    :ivar opening: the parameter of this name.
    :ivar service: answers offers of peers.
    """

    _log = Logger()

    def __init__(
        self,
        node: Opener,
        *,
        granted: Callable[[PeerID], bool],
        blocked: Callable[[PeerID], bool],
        opening: Callable[[PeerID], object],
        folder: Path,
        run: Run,
        clock: IReactorTime,
        tell: Callable[[TransferEvent], object],
    ) -> None:
        self.folder = folder
        self.service = _LazyFileService(self._make_service)
        self._node = node
        self._granted = granted
        self.blocked = blocked
        self.opening = opening
        self._run = run
        self._clock = clock
        self._tell = tell
        self._numbers = count(1)
        self._transfers: dict[int, Transfer] = {}
        self._outgoing: dict[int, _Outgoing] = {}
        self._asked: dict[int, Deferred[Path]] = {}
        self._receivers: dict[int, FileReceiver] = {}
        self._progress = LoopingCall(self._tell_progress)
        self._progress.clock = clock

    def _make_service(self) -> FileService:
        from punch.apps.files.receiver import FileService

        return FileService(self._offered, self._clock, self._run, shows_texts=True)

    @property
    def all(self) -> list[Transfer]:
        """The transfers, the oldest first."""
        return list(self._transfers.values())

    def get(self, number: int) -> Transfer:
        """
        The transfer with a number.

        :raise UnknownTransfer: there is none.
        """
        try:
            return self._transfers[number]
        except KeyError:
            raise UnknownTransfer(TransferProblem.NOT_THERE, number) from None

    def stop(self) -> None:
        """
        End what is sent. To be called before the node stops, which ends what is received: that continues when
        it is offered again.
        """
        for transfer in self.all:
            # `_outgoing` may have one that was cancelled, until its call has ended.
            if transfer.number in self._outgoing and not transfer.stage.over:
                self.cancel(transfer.number)
        if self._progress.running:
            self._progress.stop()

    # -- sending --

    def send(
        self, peer: PeerID, paths: Sequence[Path], done: Callable[[], object] = lambda: None
    ) -> Deferred[Transfer]:
        """
        Send files and folders to a peer. It is tried until everything has arrived, the other side refuses it,
        or it is cancelled.

        :param done: called when the paths are no longer needed, in any case.
        :return: fires with the transfer when it is known what is sent. It fails with `SourceError` or
            `TooManyTransfers`.
        """
        sending = Deferred.fromCoroutine(self._send(peer, paths, done))

        def failed(failure: Failure) -> Failure:
            done()
            return failure

        return sending.addErrback(failed)

    async def _send(self, peer: PeerID, paths: Sequence[Path], done: Callable[[], object]) -> Transfer:
        from punch.apps.files.source import find_source

        source = await self._run(partial(find_source, [str(path) for path in paths]))
        if len(self._outgoing) >= MAX_SENDING:
            raise TooManyTransfers(MAX_SENDING)
        transfer = self._add(Transfer(next(self._numbers), peer, True, source.offer))
        outgoing = self._outgoing[transfer.number] = _Outgoing(self, transfer, source)

        def over(_: object) -> None:
            del self._outgoing[transfer.number]
            done()

        running = Deferred.fromCoroutine(outgoing.run(self._node, self._run, self._clock))
        running.addErrback(self._broke, transfer).addBoth(over)
        return transfer

    def _broke(self, failure: Failure, transfer: Transfer) -> None:
        self._log.failure("A transfer ended by an error of this program.", failure)
        self.failed(transfer, TransferFailed(FailureCode.INTERNAL))

    # -- receiving --

    def _offered(self, receiver: FileReceiver, offer: FilesOffer) -> Deferred[Path]:
        peer = PeerID.parse(receiver.peer)
        again = self._offered_again(peer, offer)
        if again is not None and again.stage is Stage.RUNNING:
            # This side has not noticed yet that the connection before was lost.
            return fail(TransferFailed(FailureCode.IN_PROGRESS))
        transfer = again or self._add(Transfer(next(self._numbers), peer, False, offer))
        if again is not None or self._granted(peer):
            return self._accept(transfer, receiver)
        asked: Deferred[Path] = Deferred()
        self._asked[transfer.number] = asked
        self._receivers[transfer.number] = receiver
        return asked.addErrback(self._not_accepted, transfer)

    def _offered_again(self, peer: PeerID, offer: FilesOffer) -> Transfer | None:
        """The transfer that was accepted before, when the connection was lost and the sender comes back."""
        for transfer in self._transfers.values():
            same = not transfer.outgoing and transfer.peer == peer and transfer.offer == offer
            if same and transfer.stage in (Stage.RUNNING, Stage.WAITING):
                return transfer
        return None

    def _not_accepted(self, failure: Failure, transfer: Transfer) -> Failure:
        self._asked.pop(transfer.number, None)
        self._receivers.pop(transfer.number, None)
        if not transfer.stage.over:
            error = failure.value
            withdrawn = TransferFailed(FailureCode.CANCELLED, by_peer=True)
            self.failed(transfer, error if isinstance(error, TransferFailed) else withdrawn)
        return failure

    def _accept(self, transfer: Transfer, receiver: FileReceiver) -> Deferred[Path]:
        transfer.folder = None if transfer.offer.text is not None else self.folder
        self._receivers[transfer.number] = receiver
        receiver.when_finished().addCallbacks(
            partial(self._received, transfer, receiver), partial(self._interrupted, transfer)
        )
        self.changed(transfer, Stage.RUNNING)
        return succeed(self.folder) if transfer.offer.text is not None else self._run(self._make_folder)

    def _make_folder(self) -> Path:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            from punch.apps.files.partial_folder import disk_failure

            raise disk_failure(error, self.folder) from error
        return self.folder

    def _received(self, transfer: Transfer, receiver: FileReceiver, finals: list[Path]) -> None:
        transfer.finals = finals
        transfer.left_out = receiver.left_out
        transfer.odd_names = receiver.odd_names
        transfer.position = receiver.position
        self._receivers.pop(transfer.number, None)
        self.changed(transfer, Stage.DONE)

    def _interrupted(self, transfer: Transfer, failure: Failure) -> None:
        self._receivers.pop(transfer.number, None)
        if transfer.stage.over:
            return
        error = failure.value
        if not isinstance(error, TransferFailed):
            self.changed(transfer, Stage.WAITING)
        elif error.code is FailureCode.IN_PROGRESS:
            # Files of the same names are being received: the sender comes back.
            self.changed(transfer, Stage.WAITING, error)
        else:
            self.failed(transfer, error)

    def accept(self, number: int) -> Transfer:
        """
        Receive what a peer offers.

        :raise UnknownTransfer: no offer with this number waits.
        """
        transfer, asked, receiver = self._take_question(number)
        self._accept(transfer, receiver).addCallbacks(asked.callback, asked.errback)
        return transfer

    def refuse(self, number: int) -> Transfer:
        """
        Refuse what a peer offers.

        :raise UnknownTransfer: no offer with this number waits.
        """
        transfer, asked, _ = self._take_question(number)
        asked.errback(TransferFailed(FailureCode.REFUSED))
        return transfer

    def _take_question(self, number: int) -> tuple[Transfer, Deferred[Path], FileReceiver]:
        transfer = self.get(number)
        asked = self._asked.pop(number, None)
        if asked is None:
            raise UnknownTransfer(TransferProblem.NOT_OFFERED, number)
        return transfer, asked, self._receivers[number]

    # -- both --

    def cancel(self, number: int) -> Transfer:
        """
        End a transfer. What the receiving side has of it is kept, and continued the next time.

        :raise UnknownTransfer: no transfer with this number is under way.
        """
        transfer = self.get(number)
        if transfer.stage.over:
            raise UnknownTransfer(TransferProblem.OVER, number)
        if number in self._asked:
            return self.refuse(number)
        self.failed(transfer, TransferFailed(FailureCode.CANCELLED))
        outgoing, receiver = self._outgoing.get(number), self._receivers.get(number)
        if outgoing is not None:
            outgoing.cancel()
        if receiver is not None:
            receiver.cancel()
        return transfer

    def dismiss(self, number: int) -> Transfer:
        """
        Take a transfer that is over out of the list.

        :raise UnknownTransfer: it is under way, or not there.
        """
        transfer = self.get(number)
        if not transfer.stage.over:
            raise UnknownTransfer(TransferProblem.NOT_OVER, number)
        self._dismiss(transfer)
        return transfer

    def _dismiss(self, transfer: Transfer) -> None:
        del self._transfers[transfer.number]
        self._tell(TransferDismissed(transfer))

    def _add(self, transfer: Transfer) -> Transfer:
        idle = [
            each
            for each in self._transfers.values()
            if each.stage.over or (not each.outgoing and each.stage is Stage.WAITING)
        ]
        idle.sort(key=_dismissal_order)
        for each in idle[: max(0, len(idle) - MAX_LISTED + 1)]:
            self._dismiss(each)
        self._transfers[transfer.number] = transfer
        self._tell(TransferChanged(transfer))
        return transfer

    def changed(
        self, transfer: Transfer, stage: Stage, problem: TransferFailed | CommandError | None = None
    ) -> None:
        """A transfer has reached another stage."""
        transfer.stage, transfer.problem = stage, problem
        self._tell(TransferChanged(transfer))
        if stage is Stage.RUNNING and not self._progress.running:
            self._progress.start(INTERVAL, now=False)

    def accepted(self, transfer: Transfer) -> None:
        """The other side wants what is sent."""
        if not transfer.stage.over:
            self.changed(transfer, Stage.RUNNING)

    def failed(self, transfer: Transfer, problem: TransferFailed | CommandError) -> None:
        """A transfer has ended before everything has arrived."""
        if not transfer.stage.over:
            self.changed(transfer, Stage.FAILED, problem)

    def _tell_progress(self) -> None:
        running = [each for each in self._transfers.values() if each.stage is Stage.RUNNING]
        for transfer in running:
            outgoing = self._outgoing.get(transfer.number)
            end = self._receivers.get(transfer.number) if outgoing is None else outgoing.sender
            if end is not None and end.position != transfer.position:
                transfer.position = end.position
                self._tell(TransferProgress(transfer))
        if not running:
            self._progress.stop()


class _LazyFileService(ServerFactory):
    """Makes `FileService` when the first stream is opened: most processes transfer nothing."""

    def __init__(self, make: Callable[[], FileService]) -> None:
        self._make = make
        self._service: FileService | None = None

    def buildProtocol(self, addr: Any) -> FileReceiver:
        """Return the receiving end of a stream."""
        if self._service is None:
            self._service = self._make()
        return self._service.buildProtocol(addr)


class _Outgoing:
    """
    A transfer to a peer: tries until it is complete, or can't be.

    :ivar sender: this side of the stream that there is now.
    """

    def __init__(self, transfers: Transfers, transfer: Transfer, source: Source) -> None:
        self.sender: FileSender | None = None
        self._transfers = transfers
        self._transfer = transfer
        self._source = source
        self._delay = FIRST_RETRY
        self._waiting: Deferred[None] | None = None

    async def run(self, node: Opener, run: Run, clock: IReactorTime) -> None:
        """Send all, or fail."""
        transfer = self._transfer
        while not transfer.stage.over:
            why = await self._attempt(node, run)
            if transfer.stage.over:
                return
            if transfer.stage is not Stage.WAITING or _code(why) != _code(transfer.problem):
                self._transfers.changed(transfer, Stage.WAITING, why)
            self._waiting = deferLater(clock, self._delay, lambda: None)
            self._delay = min(2 * self._delay, LAST_RETRY)
            try:
                await self._waiting
            except CancelledError:
                return

    async def _attempt(self, node: Opener, run: Run) -> CommandError | TransferFailed | None:
        """Return why it has to be tried again, if it is not over."""
        transfers, transfer = self._transfers, self._transfer
        if transfers.blocked(transfer.peer):
            transfers.failed(transfer, PeerBlocked())
            return None
        from punch.apps.files.protocol import FileSender

        sender = self.sender = FileSender(self._source, run)
        sender.when_accepted().addCallback(lambda _: transfers.accepted(transfer))
        try:
            transfers.opening(transfer.peer)
            await node.open(transfer.peer, SERVICE, Factory.forProtocol(lambda: sender))
            if transfer.stage.over:
                sender.cancel()
            elif transfer.stage is Stage.WAITING:
                transfers.changed(transfer, Stage.OFFERED)
            await sender.when_finished()
        except CommandError as error:
            if error.reason in _RETRIED:
                return error
            transfers.failed(transfer, error)
        except TransferFailed as error:
            if error.code is FailureCode.IN_PROGRESS:
                # The other side has not noticed yet that the connection before was lost, or it receives
                # other files of these names.
                return error
            transfers.failed(transfer, error)
        except (ConnectionDone, ConnectionLost):
            return None
        else:
            transfer.position = sender.position
            transfers.changed(transfer, Stage.DONE)
        finally:
            if sender.position:
                self._delay = FIRST_RETRY
        return None

    def cancel(self) -> None:
        """Try no longer. The transfer is over already."""
        if self.sender is not None and self.sender.transport is not None:
            self.sender.cancel()
        if self._waiting is not None:
            self._waiting.cancel()


def _dismissal_order(transfer: Transfer) -> int:
    """Whether a transfer is dismissed before others, the lowest number first (`MAX_LISTED`)."""
    if not transfer.outgoing and transfer.stage is Stage.FAILED and transfer.folder is None:
        return 0
    if not transfer.outgoing and transfer.stage is Stage.DONE and transfer.offer.text is not None:
        return 2
    return 1


def _code(problem: CommandError | TransferFailed | None) -> str | None:
    """What is the same for problems of one kind."""
    if isinstance(problem, TransferFailed):
        return problem.code.value
    return None if problem is None else problem.reason

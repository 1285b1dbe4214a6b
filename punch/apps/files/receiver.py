"""The receiving end of a transfer, and the service "files/1" of a node, which makes one for each stream."""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.python.failure import Failure

from punch.apps.files.codec import (
    DataMessage,
    Message,
    decode_offer,
    encode_accept,
    encode_done,
    message_type,
)
from punch.apps.files.events import OddNames
from punch.apps.files.messages import FailureCode, FilesMessageError, FilesOffer, MessageType, TransferFailed
from punch.apps.files.protocol import Run, TransferProtocol, TransferState
from punch.apps.files.target import Target
from punch.net.driver import Timer

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes that wait for the disk before the stream is paused."""
OFFER_TIMEOUT = 30.0
"""Seconds in which an opened stream has to bring its offer."""
_BATCH = 64
"""Messages that one call in a thread writes at most, so that the end of a transfer need not wait for long."""
_OVERHEAD = 64
"""Bytes that a message takes in memory besides its own."""


class Decide(Interface):
    """Asks the user, or an option, about an offer."""

    def __call__(self, transfer: FileReceiver, offer: FilesOffer, /) -> Deferred[Path]:
        """Fires with the folder for the files, or fails with `TransferFailed`. It may be cancelled."""


class FileReceiver(TransferProtocol):
    """
    Takes files that the other side offers.

    :ivar peer: the other side's ID.
    :ivar offer: what it offers, once that is known.
    :param decide: says where the files of an offer go, or refuses it.
    :param shows_texts: whether the text of an offer is shown to the user: then it is not saved as a file.
    """

    def __init__(
        self, peer: str, decide: Decide, clock: IReactorTime, run: Run, *, shows_texts: bool = False
    ) -> None:
        super().__init__(run)
        self.offer: FilesOffer | None = None
        self.peer = peer
        self._decide = decide
        self._shows_texts = shows_texts
        self._target: Target | None = None
        self._queue: deque[Message] = deque()
        self._queued = 0
        self._read_paused = False
        self._working = False
        self._closing = False
        self._deciding: Deferred[Path] | None = None
        self._timeout = Timer(clock)

    @property
    def position(self) -> int:
        """Bytes of content that are there."""
        return 0 if self._target is None else self._target.position

    @property
    def left_out(self) -> list[str]:
        """The links that the file system did not take, when the transfer is complete."""
        return [] if self._target is None else self._target.left_out

    @property
    def odd_names(self) -> OddNames:
        """What is unusual about the names in the folders of the transfer, as far as they have come."""
        return OddNames() if self._target is None else self._target.odd_names

    def connectionMade(self) -> None:
        """Wait for the offer."""
        self._timeout.start(OFFER_TIMEOUT, self.fail, FilesMessageError("no offer in time"))

    def message_received(self, message: Message) -> None:
        """Handle a message of the sender."""
        if self.offer is None:
            if isinstance(message, DataMessage) or message_type(message) is not MessageType.OFFER:
                raise FilesMessageError("a message before the offer")
            self.offer = decode_offer(message)
            self._timeout.cancel()
            self.run_steps(self._answer(self.offer))
        elif self._target is None:
            raise FilesMessageError("a message before the offer was answered")
        else:
            self._queue.append(message)
            self._queued += len(message) + _OVERHEAD
            if self._queued > MAX_QUEUED and not self._read_paused:
                self._read_paused = True
                self.transport.pauseProducing()
            if not self._working:
                self._working = True
                self.run_steps(self._write(self._target))

    async def _answer(self, offer: FilesOffer) -> None:
        self._deciding = self._decide(self, offer)
        try:
            folder = await self._deciding
        finally:
            self._deciding = None
        if self.over:
            return
        if offer.text is not None and self._shows_texts:
            self.send(encode_done())
            self.complete([])
            return
        target = await self._run(lambda: Target(folder, self.peer, offer))
        if self.state is not TransferState.OFFERED:
            await self._run(target.close)
            return
        self._target = target
        self.state = TransferState.RUNNING
        self.send(encode_accept(target.hash_name))

    async def _write(self, target: Target) -> None:
        try:
            while self._queue and not self.over:
                messages = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
                answers = await self._run(partial(target.receive_all, messages))
                for answer in answers:
                    self.send(answer)
                if target.finals:
                    self.complete(target.finals)
                self._queued -= sum(len(message) + _OVERHEAD for message in messages)
                if self._read_paused and self._queued <= MAX_QUEUED // 2 and not self.over:
                    self._read_paused = False
                    self.transport.resumeProducing()
        finally:
            self._working = False
            if self.over:
                self._close(target)

    def fail(self, failed: TransferFailed) -> None:
        """End the transfer."""
        super().fail(failed)
        self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the transfer; what is there is kept."""
        super().connectionLost(reason)
        self._stop()

    def _stop(self) -> None:
        self._timeout.cancel()
        self._queue.clear()
        if self._deciding is not None:
            self._deciding.cancel()
        if self._target is not None:
            self._target.stop()
            if not self._working:
                self._close(self._target)

    def _close(self, target: Target) -> None:
        # Once: two threads must not close the same file.
        if not self._closing:
            self._closing = True
            self._run(target.close)


T = TypeVar("T")
MAX_WAITING = 16
"""Offers that wait for the user at the same time."""
MAX_WAITING_OF_PEER = 4
"""Of the offers that wait, how many may be of one peer."""
MAX_RUNNING = 32
"""Transfers that are received at the same time."""
MAX_RUNNING_OF_PEER = 16
"""Of the transfers that are received, how many may be of one peer."""


class FileService(ServerFactory):
    """
    Answers the streams of "files/1": makes a `FileReceiver` for each.

    It bounds how many offers wait for the user, and how many transfers run, at the same time.

    :param shows_texts: as `FileReceiver` takes it.
    """

    def __init__(self, decide: Decide, clock: IReactorTime, run: Run, *, shows_texts: bool = False) -> None:
        self._ask = decide
        self._clock = clock
        self._run = run
        self._shows_texts = shows_texts
        self._waiting = _Places(MAX_WAITING, MAX_WAITING_OF_PEER)
        self._running = _Places(MAX_RUNNING, MAX_RUNNING_OF_PEER)

    def buildProtocol(self, addr: Any) -> FileReceiver:
        """The receiving end of a stream; `addr` has the ID of its `peer`."""
        peer = str(addr.peer)
        return FileReceiver(peer, self._decide, self._clock, self._run, shows_texts=self._shows_texts)

    def _decide(self, transfer: FileReceiver, offer: FilesOffer) -> Deferred[Path]:
        peer = transfer.peer
        if not self._running.free(peer) or not self._waiting.take(peer):
            return fail(TransferFailed(FailureCode.BUSY))

        def decided(folder: T) -> T:
            self._waiting.give_back(peer)
            return folder

        def accepted(folder: Path) -> Path:
            if not self._running.take(peer):
                raise TransferFailed(FailureCode.BUSY)
            transfer.when_finished().addBoth(lambda _: self._running.give_back(peer))
            return folder

        asked: Deferred[Path] = maybeDeferred(self._ask, transfer, offer)
        asked.addBoth(decided)
        return asked.addCallback(accepted)


class _Places:
    """Counts the places that peers have taken, up to a bound for all and one for each of them."""

    def __init__(self, most: int, most_of_peer: int) -> None:
        self._most = most
        self._most_of_peer = most_of_peer
        self._taken: Counter[str] = Counter()

    def free(self, peer: str) -> bool:
        """Whether a place is free for a peer."""
        return self._taken[peer] < self._most_of_peer and self._taken.total() < self._most

    def take(self, peer: str) -> bool:
        """Take a place for a peer; return whether one was free."""
        if not self.free(peer):
            return False
        self._taken[peer] += 1
        return True

    def give_back(self, peer: str) -> None:
        """Give back a place that a peer has taken."""
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]

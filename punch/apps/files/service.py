"""The service "files/1" of a node: how many offers and transfers it takes at the same time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ServerFactory

from punch.apps.files.messages import FailureCode, FilesOffer, TransferFailed
from punch.apps.files.protocol import Decide, FileReceiver, Run

T = TypeVar("T")

MAX_WAITING = 16
"""Offers that wait for the user at the same time."""
MAX_WAITING_OF_PEER = 4
"""Of these, how many may be of one peer."""
MAX_RUNNING = 32
"""Transfers that are received at the same time."""
MAX_RUNNING_OF_PEER = 16
"""Of these, how many may be of one peer."""


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
    """Counts what peers have, up to a bound for all and one for each of them."""

    def __init__(self, most: int, most_of_peer: int) -> None:
        self._most = most
        self._most_of_peer = most_of_peer
        self._taken: Counter[str] = Counter()

    def free(self, peer: str) -> bool:
        """Whether there is one for a peer."""
        return self._taken[peer] < self._most_of_peer and self._taken.total() < self._most

    def take(self, peer: str) -> bool:
        """Take one for a peer; whether there was one."""
        if not self.free(peer):
            return False
        self._taken[peer] += 1
        return True

    def give_back(self, peer: str) -> None:
        """One of a peer is free again."""
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]

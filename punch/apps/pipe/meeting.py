"""How two peers who both run `punch pipe` get one stream: who is there first waits for the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from punch.apps.pipe.messages import SERVICE
from punch.apps.pipe.protocol import Pipe
from punch.identity import PeerID
from punch.local.access import Allow, NodeAccess
from punch.local.protocol import CommandError
from punch.net.driver import Timer

RETRY = 2.0
"""Seconds after which a peer is asked again that has the service, but not for this side now."""
LATE_RETRY = 30.0
"""
Seconds after which one is asked again that is not there: it may have asked while this side could not be
reached, as when the rendezvous starts again.
"""
_RETRIES = {
    "not-allowed": RETRY,
    "no-service": LATE_RETRY,
    "not-registered": LATE_RETRY,
    "gone": LATE_RETRY,
}
"""By the reason why a peer could not be asked. Those whose user said no, or did not answer, are not."""


class Meeting(Factory):
    """
    Serves the pipe for one peer, and opens it at this peer, until there is one stream.

    Each side first serves, and then opens. So whoever comes later finds the other. If both open at the same
    time, the stream of the side with the smaller ID counts: that side refuses the other's while its own is
    not answered.

    :param waits: whether the peer is to be waited for after this error; it may tell the user.
    """

    noisy = False

    def __init__(
        self, node: NodeAccess, peer: PeerID, clock: IReactorTime, waits: Callable[[CommandError], bool]
    ) -> None:
        self._node = node
        self._peer = peer
        self._clock = clock
        self._waits = waits
        self._met: Deferred[Pipe] = Deferred()
        self._chosen = False
        self._opening: Deferred[Any] | None = None
        self._retry = Timer(clock)

    async def meet(self) -> Pipe:
        """
        Wait for the other side, and return this end of the stream.

        :raise CommandError: there can't be one.
        """
        stop = await self._node.serve(SERVICE, self, Allow(frozenset([self._peer])))
        try:
            self._open()
            return await self._met
        finally:
            self._retry.cancel()
            stop()

    def buildProtocol(self, addr: Any) -> Pipe | None:
        """The peer opens a stream."""
        if self._chosen or (self._opening is not None and self._node.peer_id < self._peer):
            return None
        pipe = Pipe(self._clock)
        self._chosen = True
        self._retry.cancel()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        pipe.ready.addCallbacks(lambda _: self._met.callback(pipe), self._not_ready)
        return pipe

    def _open(self) -> None:
        self._opening = Deferred.fromCoroutine(self._try())
        self._opening.addCallbacks(self._opened, self._not_opened)

    async def _try(self) -> Pipe:
        pipe = Pipe(self._clock)
        try:
            await self._node.open(self._peer, SERVICE, Factory.forProtocol(lambda: pipe))
        except BaseException:
            pipe.ready.addErrback(lambda _: None)
            raise
        try:
            await pipe.ready
        except CancelledError:
            pipe.transport.abortConnection()
            raise
        return pipe

    def _opened(self, pipe: Pipe) -> None:
        self._chosen = True
        self._met.callback(pipe)

    def _not_opened(self, failure: Failure) -> None:
        if self._chosen:
            return
        self._opening = None
        error = failure.value
        retry: float | None = RETRY
        if isinstance(error, CommandError):
            retry, waits = _RETRIES.get(error.reason), self._waits(error)
        else:
            # A program that is attached to its node refuses a stream only after the node has accepted it
            waits = isinstance(error, (ConnectionDone, ConnectionLost))
        if not waits:
            self._met.errback(failure)
        elif retry is not None:
            self._retry.start(retry, self._open)

    def _not_ready(self, failure: Failure) -> None:
        """The stream that the peer opened was lost before it was used."""
        self._chosen = False
        self._retry.start(RETRY, self._open)

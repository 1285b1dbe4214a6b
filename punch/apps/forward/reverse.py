"""
Reverse forwarding, as `ssh -R` does it: a peer asks for a port of this machine, and connections to it go to a
port of the peer.

The peer opens a stream to the service of the port and sends a token of `TOKEN_SIZE` characters. This side
listens, answers with `LISTENING`, and opens a stream to the service `reverse/TOKEN` of the peer for each
connection. It listens until the first stream ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.apps.forward.addresses import check_service
from punch.apps.forward.messages import ForwardFailure
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.protocol import CommandError

TOKEN_SIZE = 16
"""Characters of a token, hexadecimal digits."""
LISTENING = b"\1"
"""What the side answers that listens."""
_TOKEN = re.compile(rb"[0-9a-f]{%d}" % TOKEN_SIZE)


class ListenFailed(Exception):
    """The port can't be listened at. Its `__cause__` says why."""


class ListeningPort(Interface):
    """As `IListeningPort`."""

    def stopListening(self) -> Any:
        """Listen no more; the result may be a Deferred."""


def listen_service(service: str) -> str:
    """
    Return the name of the service by which a peer asks for a port.

    :param service: that of the port, if it were exposed.
    :raise ForwardAddressError: it is too long.
    """
    return check_service(f"listen/{service}")


def reverse_service(token: str) -> str:
    """Return the name of the service to which a stream is opened for each connection to the port."""
    return f"reverse/{token}"


class ReversePort(Factory):
    """
    Answers the streams of peers that ask for the port. One peer at a time has it; if the same one asks again,
    because it has lost its link, the new stream counts.

    :param listen: listens, and returns the port; raises `ListenFailed`.
    :param forwarder: makes what answers the connections to the port, for a peer and a service of it.
    :param changed: is told which peer has the port now, and that none has it.
    :param failed: is told for which peer the port could not be listened at, and why.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        listen: Callable[[Factory | DatagramProtocol], ListeningPort],
        forwarder: Callable[[PeerID, str], Factory | DatagramProtocol],
        changed: Callable[[PeerID | None], object],
        failed: Callable[[PeerID, ListenFailed], object],
    ) -> None:
        self._listen = listen
        self._forwarder = forwarder
        self._changed = changed
        self._failed = failed
        self._holder: _Holder | None = None
        self._listening: tuple[_Holder, ListeningPort] | None = None
        self._lock = DeferredLock()

    def buildProtocol(self, addr: Any) -> _Holder:
        """A peer opens a stream."""
        return _Holder(self, addr.peer)

    def take(self, holder: _Holder) -> None:
        """A peer asks for the port."""
        before = self._holder
        if before is not None and before.peer != holder.peer:
            holder.give_up(ForwardFailure.BUSY)
            return
        self._holder = holder
        if before is not None:
            before.give_up(ForwardFailure.RESET)
        self._update()

    def leave(self, holder: _Holder) -> None:
        """The stream of a peer is over."""
        if self._holder is holder:
            self._holder = None
            self._update()

    def _update(self) -> None:
        Deferred.fromCoroutine(self._updating()).addErrback(
            lambda failure: self._log.failure("A port could not be listened at.", failure)
        )

    async def _updating(self) -> None:
        await self._lock.acquire()
        try:
            await self._stop()
            self._start()
        finally:
            self._lock.release()

    async def _stop(self) -> None:
        if self._listening is None or self._listening[0] is self._holder:
            return
        _, port = self._listening
        self._listening = None
        await maybeDeferred(port.stopListening)
        self._changed(None)

    def _start(self) -> None:
        holder = self._holder
        if holder is None or self._listening is not None:
            return
        try:
            port = self._listen(self._forwarder(holder.peer, reverse_service(holder.token)))
        except ListenFailed as error:
            self._holder = None
            holder.give_up(ForwardFailure.NOT_LISTENING)
            self._failed(holder.peer, error)
            return
        self._listening = (holder, port)
        holder.transport.write(LISTENING)
        self._changed(holder.peer)


class _Holder(Protocol):
    """The stream of a peer that asks for a port, or has it."""

    transport: Any

    def __init__(self, port: ReversePort, peer: PeerID) -> None:
        self.peer = peer
        self._port = port
        self._received = b""

    @property
    def token(self) -> str:
        """What the peer calls the service."""
        return self._received.decode("ascii")

    def give_up(self, failure: ForwardFailure) -> None:
        """The peer does not get the port, or loses it."""
        self.transport.abort_with(failure)

    def dataReceived(self, data: bytes) -> None:
        """Take the token; nothing may follow."""
        if len(self._received) + len(data) > TOKEN_SIZE:
            self.transport.abortConnection()
            return
        self._received += data
        if len(self._received) < TOKEN_SIZE:
            return
        if _TOKEN.fullmatch(self._received) is None:
            self.transport.abortConnection()
            return
        self._port.take(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The peer wants the port no more, or its link is lost."""
        self._port.leave(self)


class PortRequest(Protocol):
    """
    The stream by which this side asks for a port of the peer. It has the port until the stream ends.

    :ivar lost: fires with why the stream ended.
    """

    transport: Any

    def __init__(self, token: str) -> None:
        self._token = token
        self.lost: Deferred[Exception] = Deferred()
        self._listening: Deferred[None] = Deferred()

    async def ask(self, node: NodeAccess, peer: PeerID, service: str) -> None:
        """
        Ask for the port, and wait until the peer listens.

        :raise CommandError: the stream can't be opened.
        :raise ConnectionLost: the peer gave it up; see `failure_of`.
        """
        try:
            await node.open(peer, service, Factory.forProtocol(lambda: self))
        except CommandError:
            self._listening.addErrback(lambda _: None)  # The same is said by the exception
            raise
        await self._listening

    def connectionMade(self) -> None:
        """Ask for the port."""
        self.transport.write(self._token.encode("ascii"))

    def dataReceived(self, data: bytes) -> None:
        """The peer listens, and says nothing else."""
        if self._listening.called or data != LISTENING:
            self.transport.abortConnection()
        else:
            self._listening.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The port is lost, or was not given."""
        error: Any = reason.value
        if not self._listening.called:
            self._listening.errback(error if isinstance(error, ConnectionLost) else ConnectionLost())
        self.lost.callback(error)

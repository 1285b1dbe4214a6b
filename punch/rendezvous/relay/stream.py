"""
TURN over TCP and TLS (RFC 8656, section 3.1): one connection of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from twisted.internet import protocol
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.rendezvous.protocol_sniffer import Established
from punch.turn.server.allocation import FiveTuple
from punch.wire.address import Address, canonical
from punch.wire.turn import MAX_REQUEST, FramingError, StreamSplitter

TURN_BYTES = 60 * 1024
"""
Bytes that are written in one turn of the reactor; the rest is dropped. The transport reports when more than
64 KiB are queued, and nothing is written then: so there are never more than 128 KiB, TLS's own buffer
included.
"""

MESSAGES_WITHOUT_ALLOCATION = 64
"""Messages that a connection without an allocation may send; a client needs two."""


class RelayStreamOwner(Protocol):
    """What a connection needs from the relay."""

    clock: IReactorTime
    idle_time: float

    def stream_opened(self, stream: RelayStream, remote: Address, local: Address) -> FiveTuple:
        """A connection is open. Return the five-tuple for it."""

    def stream_received(self, client: FiveTuple, messages: Sequence[bytes]) -> float:
        """Handle messages of a connection. Return the seconds for which it should not be read from."""

    def stream_closed(self, client: FiveTuple) -> None:
        """A connection is closed."""

    def has_allocation(self, client: FiveTuple) -> bool:
        """Whether a client has an allocation that relays."""


@implementer(IPushProducer)
class RelayStream(protocol.Protocol):
    """
    One connection. It is a producer to its own transport, to learn when that is full: messages are dropped
    then.

    :param established: called when the client has an allocation.
    """

    def __init__(self, owner: RelayStreamOwner, established: Established) -> None:
        self._owner = owner
        self._established: Established | None = established
        self._client: FiveTuple | None = None
        self._splitter = StreamSplitter()
        self._messages = 0
        self._full = False
        self._written = 0
        self._reset: IDelayedCall | None = None
        self._idle: IDelayedCall | None = None
        self._held: IDelayedCall | None = None

    @property
    def host(self) -> str:
        """The client's IP address; empty if the connection is closed."""
        return "" if self._client is None else self._client.remote.host

    def connectionMade(self) -> None:
        """Begin. The client has some seconds to make an allocation."""
        assert self.transport is not None
        cast(IConsumer, self.transport).registerProducer(self, True)
        try:
            remote, local = _address(self.transport.getPeer()), _address(self.transport.getHost())
        except ValueError:
            # A UNIX socket has no address to relay from.
            self.abort()
            return
        self._client = self._owner.stream_opened(self, remote, local)
        self._check_later()

    def dataReceived(self, data: bytes) -> None:
        """Cut the stream into messages and handle them."""
        if self._client is None:
            return
        # A client without an allocation has nothing to send but requests.
        longest = None if self._owner.has_allocation(self._client) else MAX_REQUEST
        try:
            messages = self._splitter.feed(data, longest=longest, longest_request=MAX_REQUEST)
        except FramingError:
            self.abort()
            return
        if longest is not None:
            self._messages += len(messages)
            if self._messages > MESSAGES_WITHOUT_ALLOCATION:
                self.abort()
                return
        if messages:
            wait = self._owner.stream_received(self._client, messages)
            if wait > 0.0:
                self._hold(wait)
            if self._established is not None and self._owner.has_allocation(self._client):
                established, self._established = self._established, None
                if established(metered=False) is not None:
                    self.abort()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """The connection is gone, and its allocation with it."""
        client, self._client = self._client, None
        for timer in (self._reset, self._idle, self._held):
            if timer is not None and timer.active():
                timer.cancel()
        if client is not None:
            self._owner.stream_closed(client)

    def send(self, messages: Sequence[bytes]) -> None:
        """Send messages, and drop those that there is no room for."""
        if self._client is None:
            return
        batch: list[bytes] = []
        for message in messages:
            if self._full or self._written + len(message) > TURN_BYTES:
                continue
            if not self._written:
                self._reset = self._owner.clock.callLater(0, self._turn_over)
            self._written += len(message)
            batch.append(message)
        if batch:
            assert self.transport is not None
            self.transport.write(b"".join(batch))

    def abort(self) -> None:
        """Close at once."""
        cast(ITCPTransport, self.transport).abortConnection()

    # -- IPushProducer --

    def pauseProducing(self) -> None:
        """The transport is full: drop what comes."""
        self._full = True

    def resumeProducing(self) -> None:
        """The transport has room again."""
        self._full = False

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- within --

    def _hold(self, seconds: float) -> None:
        """Read nothing for a while: the client has exceeded its share of requests."""
        if self._held is not None:
            self._held.cancel()
        else:
            cast(IPushProducer, self.transport).pauseProducing()
        self._held = self._owner.clock.callLater(seconds, self._read_on)

    def _read_on(self) -> None:
        self._held = None
        cast(IPushProducer, self.transport).resumeProducing()

    def _turn_over(self) -> None:
        self._written = 0

    def _check_later(self) -> None:
        self._idle = self._owner.clock.callLater(self._owner.idle_time, self._check)

    def _check(self) -> None:
        if self._client is not None and self._owner.has_allocation(self._client):
            self._check_later()
        else:
            self.abort()


def _address(end: IAddress) -> Address:
    """:raise ValueError: it is no IP address and port."""
    return canonical(str(getattr(end, "host", "")).partition("%")[0], int(getattr(end, "port", -1)))

"""
The control channel of one connection: lines over TLS, for a `ControlSession`. `docs/protocol.md` describes
the protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

from OpenSSL.SSL import Connection
from twisted.internet.interfaces import (
    IConsumer,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.identity import PeerID, PeerIDError
from punch.net.driver import Timer
from punch.rendezvous.control_session import ControlSession
from punch.rendezvous.tcp.protocol_sniffer import Established
from punch.wire.address import canonical
from punch.wire.control import Error, ErrorCode
from punch.wire.control_lines import MAX_LINE, encode
from punch.wire.invitation import BINDING_LABEL, BINDING_SIZE

_CLOSE_TIME = 3.0
"""Seconds that the peer has to read the last lines and to close TLS."""

_IGNORED_BYTES = 65_536
"""Bytes that are read and ignored meanwhile; beyond, nothing more is read."""

_LINES_AT_ONCE = 4
"""
How many lines of one peer are handled before the other connections have their turn. Otherwise, hundreds of
peers with a full burst each would keep everybody waiting for seconds.
"""

_ALWAYS_FITS = 49_152
"""
Bytes that a peer may be sent before the transport is asked to tell whether it reads them: they fit into its
buffer, which is full at 65,536. Most peers are never sent more, and being told takes 0.8 KiB of memory.
"""
_OVERHEAD = 22
"""Bytes that TLS adds to what is sent at once."""

UNKNOWN_ADDRESS = "0.0.0.0"
"""The address in `welcome` if the client has no IP address (a UNIX socket without the PROXY protocol)."""


class ControlServerOwner(Protocol):
    """What a control connection needs from its service."""

    clock: IReactorTime
    monotonic: Callable[[], float]
    unread_bytes: int

    def denied(self, peer: PeerID, address: str) -> Error | None:
        """The error for a peer that the operator refuses; None for other peers."""

    def was_registered(self, peer: PeerID) -> bool:
        """Whether a peer was registered before."""

    def opened(self, protocol: ControlServerProtocol, peer: PeerID, address: str) -> ControlSession:
        """A peer has proved its key. Return the session for it, whose timer the service takes care of."""

    def line_came(self, session: ControlSession) -> float:
        """A session got a line. Return the seconds for which it should read no other."""

    def registry_changed(self) -> None:
        """A session has changed the registry, which may have something to deliver."""

    def lost(self, session: ControlSession) -> None:
        """The connection of a session is gone."""


@implementer(IPushProducer)
class ControlServerProtocol(LineReceiver):
    """
    One control connection, from the end of its TLS handshake.

    It is a producer to its own transport, once much has been sent: while the peer does not read what it is
    sent, nothing is read from it.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self, owner: ControlServerOwner, established: Established) -> None:
        self._owner = owner
        self._established = established
        self._session: ControlSession | None = None
        self._late = Timer(owner.clock)
        self._sent = 0
        self._is_producer = False
        self._unread: int | None = None
        self._held = Timer(owner.clock)
        self._closing = False
        self._ignored = 0
        self._at_once = 0

    def connectionMade(self) -> None:
        """Check the client's certificate, and begin a session or send an error."""
        try:
            peer = self._proved_peer()
        except PeerIDError as problem:
            self._refuse(Error(ErrorCode.BAD_CERTIFICATE, str(problem)))
            return
        address = self._seen_address()
        denied = self._owner.denied(peer, address)
        too_many = None if denied is not None else self._established(earlier=self._owner.was_registered(peer))
        if too_many is not None:
            denied = Error(ErrorCode.TOO_MANY, too_many)
        if denied is not None:
            self._refuse(denied)
            return
        self._session = self._owner.opened(self, peer, address)
        self._owner.registry_changed()

    def dataReceived(self, data: bytes) -> None:
        """Split into lines; what comes after the end of the session is ignored."""
        if not self._closing:
            self._at_once = 0
            super().dataReceived(data)  # type: ignore[no-untyped-call]
            return
        self._ignored += len(data)
        if self._ignored > _IGNORED_BYTES:
            cast(IPushProducer, self.transport).pauseProducing()

    def lineReceived(self, line: bytes) -> None:
        """Handle one message of the peer."""
        if self._session is not None and not self._closing:
            self._session.receive_line(line, self._owner.monotonic())
            self._after()
            wait = self._owner.line_came(self._session)
            self._at_once += 1
            if (wait > 0.0 or self._at_once >= _LINES_AT_ONCE) and not self._closing:
                # This connection sends more than its share, or others have their turn.
                self._held.start(wait, self._read_on)
                self._stop_reading()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Close the session: a line is longer than any message may be."""
        if self._session is not None and not self._closing:
            self._session.receive_long_line(self._owner.monotonic())
            self._after()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._closing = True
        self._stop_timers()
        # The transport refers to its producer
        self._unregister()
        if self._session is not None:
            self._session.connection_lost(self._owner.monotonic())
            self._owner.lost(self._session)
            self._owner.registry_changed()

    def channel_binding(self) -> bytes:
        """The channel binding of this TLS connection (RFC 9266), for which vouchers are signed."""
        connection = cast(Connection, self.transport.getHandle())  # type: ignore[union-attr]
        return connection.export_keying_material(BINDING_LABEL, BINDING_SIZE)

    @property
    def session(self) -> ControlSession | None:
        """The session; None if the client has not shown a usable certificate."""
        return self._session

    def flush(self) -> None:
        """Send the lines of the session, and close the connection if the session is over."""
        session = self._session
        if session is None or self._closing:
            return
        lines = session.lines_to_send()
        if lines:
            self._write(b"".join(lines))
        if session.closed and not self._closing:
            self._close()
            self._owner.registry_changed()

    # -- IPushProducer; LineReceiver stops and resumes reading --

    def pauseProducing(self) -> None:
        """Stop reading from a peer that does not read."""
        self._unread = 0
        self._stop_reading()

    def resumeProducing(self) -> None:
        """Read again: the peer has read what it was sent."""
        self._unread = None
        self._read_on()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    # -- within --

    def _stop_reading(self) -> None:
        if not self._closing:
            super().pauseProducing()  # type: ignore[no-untyped-call]

    def _read_on(self) -> None:
        if not self._closing and self._unread is None and not self._held.running:
            super().resumeProducing()  # type: ignore[no-untyped-call]

    def _refuse(self, error: Error) -> None:
        self._write(encode(error) + b"\n")
        self._close()

    def _after(self) -> None:
        self.flush()
        self._owner.registry_changed()

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        if self._unread is not None:
            self._unread += len(data)
            if self._unread > self._owner.unread_bytes:
                cast(ITCPTransport, self.transport).abortConnection()
                return
        self._sent += len(data) + _OVERHEAD
        if self._sent > _ALWAYS_FITS and not self._is_producer:
            self._is_producer = True
            cast(IConsumer, self.transport).registerProducer(self, True)
        self.transport.write(data)

    def _close(self) -> None:
        assert self.transport is not None
        self._closing = True
        self._stop_timers()
        self.clearLineBuffer()  # type: ignore[no-untyped-call]
        self._unregister()
        # The close of the other side has to be read.
        cast(IPushProducer, self.transport).resumeProducing()
        self.transport.loseConnection()
        # The other side may never close.
        self._late.start(_CLOSE_TIME, cast(ITCPTransport, self.transport).abortConnection)

    def _unregister(self) -> None:
        if self._is_producer:
            self._is_producer = False
            cast(IConsumer, self.transport).unregisterProducer()

    def _stop_timers(self) -> None:
        self._late.cancel()
        self._held.cancel()

    def _proved_peer(self) -> PeerID:
        """:raise PeerIDError: with a sentence for the client."""
        connection = cast(Connection, self.transport.getHandle())  # type: ignore[union-attr]
        try:
            certificate = connection.get_peer_certificate(as_cryptography=True)
        except Exception as problem:  # this parser raises various errors
            raise PeerIDError("The client certificate can't be read; make it anew, as X.509 v3.") from problem
        if certificate is None:
            raise PeerIDError("A peer shows a client certificate with its Ed25519 identity key; none came.")
        return PeerID.from_certificate(certificate)

    def _seen_address(self) -> str:
        assert self.transport is not None
        host = str(getattr(self.transport.getPeer(), "host", ""))
        try:
            return canonical(host.partition("%")[0], 0).host
        except ValueError:
            return UNKNOWN_ADDRESS

"""
One control connection of one peer: what the rendezvous answers to its lines, and when it closes the
connection. Pure.

The peer has proved its key in the TLS handshake (client certificate), so that a session always has a peer.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol, TypedDict

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry.admission import IntroductionRefusal
from punch.rendezvous.registry.registry import Introducing, Registry
from punch.wire.control import (
    Error,
    ErrorCode,
    Ping,
    Pong,
    Probe,
    Probed,
    Register,
    Relays,
    RenewRelays,
    Reply,
    Revoke,
    Welcome,
)
from punch.wire.control_lines import MAX_LINE, ControlError, UnknownType, decode_request, encode
from punch.wire.turn import RelayServer

_NO_REVOCATIONS = Error(ErrorCode.FORBIDDEN, "Not here.")


class Probing(Protocol):
    """The reflector's second port, and what is sent from there."""

    port: int
    addresses: tuple[str, ...]

    def probe(self, peer: PeerID, request: Probe, now: float) -> Probed:
        """Send the probe that a registered peer asks for, if it may be sent, and return the outcome."""


class SessionState(Enum):
    """
    UNREGISTERED: no `register` line was accepted. REGISTERED: one was. CLOSED: the connection closes when the
    last lines are sent.
    """

    UNREGISTERED = "unregistered"
    REGISTERED = "registered"
    CLOSED = "closed"


class SessionFunctions(TypedDict, total=False):
    """The functions that a `ControlSession` calls; see there."""

    relays: Callable[[PeerID, str], tuple[RelayServer, ...]]
    relays_for_members: Callable[[PeerID], bool]
    admit: Callable[[ControlSession, Register], PeerID | Error]
    revoke: Callable[[ControlSession, Revoke], Error]
    limit_hit: Callable[[ControlSession, str, ErrorCode], None]


class ControlSession:
    """
    The service's side of one control connection.

    There may be thousands of sessions, so they share one set of functions (`SessionFunctions`), which take
    the session or the peer as an argument.

    :param connection: the number of the connection.
    :param peer: the peer that has proved its key on this connection.
    :param address: the IP address that the peer is seen from.
    :param relays: returns the relays that a peer at an address may use, with new credentials.
    :param relays_for_members: returns whether there are relays that a peer may not use since it is no member.
    :param probing: the reflector's second port, from which probes are sent.
    :param admit: returns who answers for the peer if it may register, itself or a member who vouches for it,
        or why it may not.
    :param revoke: takes the peer's revocation of its own ID, and returns the last line.
    :param limit_hit: called with the name of a limit that the peer has hit and the code of the refusal.
    :param now: monotonic seconds, as in all methods.
    :ivar state: the state of the session.
    :ivar account: who answers for the peer, whose rates and quotas count.
    """

    __slots__ = (
        "_admit",
        "_deadline",
        "_limit_hit",
        "_limits",
        "_lines",
        "_probing",
        "_reflector_port",
        "_registry",
        "_relays",
        "_relays_for_members",
        "_revoke",
        "account",
        "address",
        "connection",
        "peer",
        "state",
    )

    def __init__(
        self,
        registry: Registry,
        connection: int,
        peer: PeerID,
        address: str,
        *,
        reflector_port: int,
        limits: RendezvousLimits,
        now: float,
        probing: Probing,
        relays: Callable[[PeerID, str], tuple[RelayServer, ...]] = lambda peer, address: (),
        relays_for_members: Callable[[PeerID], bool] = lambda peer: False,
        admit: Callable[[ControlSession, Register], PeerID | Error] = lambda session, request: session.peer,
        revoke: Callable[[ControlSession, Revoke], Error] = lambda session, request: _NO_REVOCATIONS,
        limit_hit: Callable[[ControlSession, str, ErrorCode], None] = lambda session, limit, code: None,
    ) -> None:
        self.state = SessionState.UNREGISTERED
        self.connection = connection
        self.peer: PeerID = peer
        self.account = peer
        self.address = address
        self._registry = registry
        self._reflector_port = reflector_port
        self._limits = limits
        self._probing = probing
        self._relays = relays
        self._relays_for_members = relays_for_members
        self._admit = admit
        self._revoke = revoke
        self._limit_hit = limit_hit
        self._deadline = now + limits.register_time
        self._lines: list[bytes] = []

    @property
    def closed(self) -> bool:
        """Whether to close the connection, once the last lines are sent."""
        return self.state is SessionState.CLOSED

    def receive_line(self, line: bytes, now: float) -> None:
        """Handle one line, given without its newline."""
        if self.closed:
            return
        if not self._registry.allow_message(self.account, now):
            self._limit_hit(self, "message-rate", ErrorCode.RATE)
            self.close(Error(ErrorCode.RATE, "Too many messages in too short a time."), now)
            return
        try:
            request = decode_request(line)
        except UnknownType as unknown:
            self._heard(now)
            self.send(Error(unknown.code, unknown.text, unknown.call))
            return
        except ControlError as error:
            self.close(Error(error.code, error.text), now)
            return
        self._heard(now)
        if isinstance(request, Ping):
            self.send(Pong(self._retry))
        elif isinstance(request, Register):
            self._register(request, now)
        elif self.state is SessionState.UNREGISTERED:
            call = None if isinstance(request, (RenewRelays, Probe, Revoke)) else request.call
            self.send(Error(ErrorCode.FORBIDDEN, "Register first.", call))
        elif isinstance(request, RenewRelays):
            self.send(Relays(self._relays(self.account, self.address)))
        elif isinstance(request, Revoke) and self.account != self.peer:
            self.close(Error(ErrorCode.FORBIDDEN, "This key is registered by a voucher."), now)
        elif isinstance(request, Revoke):
            self.close(self._revoke(self, request), now)
        elif isinstance(request, Probe):
            self.send(self._probing.probe(self.peer, request, now))
        else:
            self._introduce(request, now)

    def receive_long_line(self, now: float) -> None:
        """A line was received that is longer than `MAX_LINE`: close the connection."""
        self.close(Error(ErrorCode.TOO_LONG, f"A line has more than {MAX_LINE} bytes."), now)

    def send(self, reply: Reply) -> None:
        """Queue one line for this peer."""
        if not self.closed:
            self._lines.append(encode(reply) + b"\n")

    def close(self, error: Error, now: float) -> None:
        """Close the connection after `error`, which is queued as the last line."""
        self.send(error)
        self._end(error.code.value, now)

    def connection_lost(self, now: float) -> None:
        """The connection is gone."""
        self._end("closed", now)

    def lines_to_send(self) -> list[bytes]:
        """Return and forget the queued lines, each with its newline."""
        lines, self._lines = self._lines, []
        return lines

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        return None if self.closed else self._deadline

    def handle_timer(self, now: float) -> None:
        """Close if no line came for too long."""
        if self.closed or now < self._deadline:
            return
        text = "No register line came in time."
        if self.state is SessionState.REGISTERED:
            text = f"Nothing was heard from this peer for {self._limits.silence:g} seconds."
        self.close(Error(ErrorCode.TIMEOUT, text), now)

    # -- within --

    @property
    def _retry(self) -> int:
        """Seconds after which this peer should return if the service goes away, so that all can."""
        return int(len(self._registry) / self._limits.return_rate)

    def _register(self, request: Register, now: float) -> None:
        if self.state is SessionState.REGISTERED:
            self.send(Error(ErrorCode.FORBIDDEN, "This connection is registered already."))
            return
        account = self._admit(self, request)
        if isinstance(account, Error):
            self.close(account, now)
            return
        try:
            self._registry.register(
                self.connection,
                self.peer,
                request.name,
                request.accept,
                self.address,
                now,
                prekey=request.prekey,
                account=account,
            )
        except IntroductionRefusal as refusal:
            self._limit_hit(self, "registrations", refusal.code)
            self.close(Error(refusal.code, refusal.text), now)
            return
        self.state = SessionState.REGISTERED
        self.account = account
        self._heard(now)
        self.send(
            Welcome(
                self.peer,
                self.address,
                self._reflector_port,
                self._limits.keepalive,
                relays=self._relays(account, self.address),
                second_reflector=self._probing.port,
                reflector_addresses=self._probing.addresses,
                retry=self._retry,
                relays_for_members=self._relays_for_members(account),
            )
        )
        self._registry.resume(self.peer)

    def _introduce(self, request: Introducing, now: float) -> None:
        try:
            self._registry.request(self.peer, self.connection, request, now)
        except IntroductionRefusal as refusal:
            if refusal.code in (ErrorCode.TOO_MANY, ErrorCode.BUSY):
                self._limit_hit(self, "calls", refusal.code)
            self.send(Error(refusal.code, refusal.text, request.call))

    def _heard(self, now: float) -> None:
        # Before the registration, nothing extends the time that a peer has to register
        if self.state is SessionState.REGISTERED:
            self._deadline = now + self._limits.silence

    def _end(self, reason: str, now: float) -> None:
        """End the registration; `reason` is for the log."""
        if not self.closed:
            self.state = SessionState.CLOSED
            self._registry.disconnected(self.peer, self.connection, reason, now)

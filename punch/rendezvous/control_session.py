"""
One control connection of one peer: what it answers to lines, and when it closes. Pure.

    unregistered ──register──> registered
         └──close──> closed <──close──┘

The peer has proved its key in the TLS handshake (client certificate), so a session always has a peer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.registry import Introducing, IntroductionRefusal, Registry
from punch.wire.control import (
    ControlError,
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
    UnknownType,
    Welcome,
    decode_request,
    encode,
)
from punch.wire.turn_uri import RelayServer


class ControlInputs(Protocol):
    """What can happen on a control connection."""

    def registering(self, request: Register, now: float) -> None:
        """A `register` line came."""

    def requested(self, request: Introducing, now: float) -> None:
        """A line about an introduction came."""

    def relays_wanted(self) -> None:
        """A `relay` line came."""

    def probe_wanted(self, request: Probe, now: float) -> None:
        """A `probe` line came."""

    def pinged(self) -> None:
        """A `ping` line came."""

    def silent(self) -> None:
        """No line came for too long."""

    def closing(self, error: Error | None, reason: str) -> None:
        """The connection is to end after `error` is sent; `reason` is for the log."""


LimitHit = Callable[[str, ErrorCode], None]
"""Called with the name of a limit and the code of the refusal."""


class Probing(Protocol):
    """The reflector's second port, and what is sent from there."""

    port: int
    addresses: tuple[str, ...]

    def probe(self, peer: PeerID, request: Probe, now: float) -> Probed:
        """Send the probe that a registered peer asks for, if it may be sent, and return the outcome."""


@dataclass
class ControlSessionCore:
    """The data of a session."""

    registry: Registry
    connection: int
    peer: PeerID
    address: str
    reflector_port: int
    limits: RendezvousLimits
    deadline: float
    relays: Callable[[PeerID], tuple[RelayServer, ...]]
    probing: Probing
    limit_hit: LimitHit
    silence: float | None = None
    """Seconds after each line until the connection is given up; None before registering."""
    lines: list[bytes] = field(default_factory=list)
    closed: bool = False

    def send(self, reply: Reply) -> None:
        """Queue one line."""
        self.lines.append(encode(reply) + b"\n")

    def finish(self, error: Error | None, reason: str) -> None:
        """Queue `error` as the last line, and end the registration."""
        self.closed = True
        if error is not None:
            self.send(error)
        self.registry.disconnected(self.peer, self.connection, reason)


_builder = TypeMachineBuilder(ControlInputs, ControlSessionCore)
_unregistered = _builder.state("unregistered")
_registered = _builder.state("registered")
_closed = _builder.state("closed")


def _retry(core: ControlSessionCore) -> int:
    return int(len(core.registry) / core.limits.return_rate)


def _refused(core: ControlSessionCore, refusal: IntroductionRefusal) -> None:
    if refusal.code in (ErrorCode.TOO_MANY, ErrorCode.BUSY):
        core.limit_hit("calls", refusal.code)


@_unregistered.upon(ControlInputs.registering).to(_registered)
def _register(inputs: ControlInputs, core: ControlSessionCore, request: Register, now: float) -> None:
    try:
        core.registry.register(core.connection, core.peer, request.name, request.accept, core.address, now)
    except IntroductionRefusal as refusal:
        core.limit_hit("registrations", refusal.code)
        inputs.closing(Error(refusal.code, refusal.text), refusal.code.value)
        return
    core.silence = core.limits.silence
    core.deadline = now + core.silence
    core.send(
        Welcome(
            core.peer,
            core.address,
            core.reflector_port,
            core.limits.keepalive,
            relays=core.relays(core.peer),
            second_reflector=core.probing.port,
            reflector_addresses=core.probing.addresses,
            retry=_retry(core),
        )
    )
    core.registry.resume(core.peer)


@_registered.upon(ControlInputs.registering).loop()
def _register_twice(inputs: ControlInputs, core: ControlSessionCore, request: Register, now: float) -> None:
    core.send(Error(ErrorCode.FORBIDDEN, "This connection is registered already."))


@_registered.upon(ControlInputs.requested).loop()
def _request(inputs: ControlInputs, core: ControlSessionCore, request: Introducing, now: float) -> None:
    try:
        core.registry.request(core.peer, core.connection, request, now)
    except IntroductionRefusal as refusal:
        _refused(core, refusal)
        core.send(Error(refusal.code, refusal.text, request.call))


@_unregistered.upon(ControlInputs.requested).loop()
def _request_early(inputs: ControlInputs, core: ControlSessionCore, request: Introducing, now: float) -> None:
    core.send(Error(ErrorCode.FORBIDDEN, "Register first.", request.call))


@_registered.upon(ControlInputs.relays_wanted).loop()
def _renew_relays(inputs: ControlInputs, core: ControlSessionCore) -> None:
    core.send(Relays(core.relays(core.peer)))


@_registered.upon(ControlInputs.probe_wanted).loop()
def _probe(inputs: ControlInputs, core: ControlSessionCore, request: Probe, now: float) -> None:
    core.send(core.probing.probe(core.peer, request, now))


@_unregistered.upon(ControlInputs.probe_wanted).loop()
def _probe_early(inputs: ControlInputs, core: ControlSessionCore, request: Probe, now: float) -> None:
    core.send(Error(ErrorCode.FORBIDDEN, "Register first."))


@_unregistered.upon(ControlInputs.relays_wanted).loop()
def _renew_relays_early(inputs: ControlInputs, core: ControlSessionCore) -> None:
    core.send(Error(ErrorCode.FORBIDDEN, "Register first."))


@_unregistered.upon(ControlInputs.pinged).loop()
@_registered.upon(ControlInputs.pinged).loop()
def _ping(inputs: ControlInputs, core: ControlSessionCore) -> None:
    core.send(Pong(_retry(core)))


@_unregistered.upon(ControlInputs.silent).to(_closed)
def _never_registered(inputs: ControlInputs, core: ControlSessionCore) -> None:
    core.finish(Error(ErrorCode.TIMEOUT, "No register line came in time."), "timeout")


@_registered.upon(ControlInputs.silent).to(_closed)
def _fell_silent(inputs: ControlInputs, core: ControlSessionCore) -> None:
    text = f"Nothing was heard from this peer for {core.limits.silence:g} seconds."
    core.finish(Error(ErrorCode.TIMEOUT, text), "timeout")


@_unregistered.upon(ControlInputs.closing).to(_closed)
@_registered.upon(ControlInputs.closing).to(_closed)
def _close(inputs: ControlInputs, core: ControlSessionCore, error: Error | None, reason: str) -> None:
    core.finish(error, reason)


_closed.upon(ControlInputs.registering).loop().returns(None)
_closed.upon(ControlInputs.requested).loop().returns(None)
_closed.upon(ControlInputs.relays_wanted).loop().returns(None)
_closed.upon(ControlInputs.probe_wanted).loop().returns(None)
_closed.upon(ControlInputs.pinged).loop().returns(None)
_closed.upon(ControlInputs.silent).loop().returns(None)
_closed.upon(ControlInputs.closing).loop().returns(None)

_machine: Callable[[ControlSessionCore], ControlInputs] = _builder.build()


class ControlSession:
    """
    The service's side of one control connection.

    :param address: the IP address that the peer is seen from.
    :param relays: returns the relays that a peer may use, with new credentials.
    :param probing: the reflector's second port, from which probes are sent.
    :param limit_hit: called with the name of a limit that the peer has hit and the code of the refusal.
    :param now: monotonic seconds, as in all methods.
    """

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
        relays: Callable[[PeerID], tuple[RelayServer, ...]] = lambda _: (),
        limit_hit: LimitHit = lambda limit, code: None,
    ) -> None:
        self._core = ControlSessionCore(
            registry,
            connection,
            peer,
            address,
            reflector_port,
            limits,
            now + limits.register_time,
            relays,
            probing,
            limit_hit,
        )
        self._machine = _machine(self._core)

    @property
    def peer(self) -> PeerID:
        """The peer that has proved its key on this connection."""
        return self._core.peer

    @property
    def connection(self) -> int:
        """The number of the connection."""
        return self._core.connection

    @property
    def address(self) -> str:
        """The IP address that the peer is seen from."""
        return self._core.address

    @property
    def closed(self) -> bool:
        """Whether to close the connection, once the last lines are sent."""
        return self._core.closed

    def receive_line(self, line: bytes, now: float) -> None:
        """Handle one line, given without its newline."""
        core = self._core
        if core.closed:
            return
        if not core.registry.allow_message(core.peer, now):
            core.limit_hit("message-rate", ErrorCode.RATE)
            self.close(Error(ErrorCode.RATE, "Too many messages in too short a time."))
            return
        try:
            request = decode_request(line)
        except UnknownType as unknown:
            self._heard(now)
            core.send(Error(unknown.code, unknown.text, unknown.call))
            return
        except ControlError as error:
            self.close(Error(error.code, error.text))
            return
        self._heard(now)
        if isinstance(request, Register):
            self._machine.registering(request, now)
        elif isinstance(request, RenewRelays):
            self._machine.relays_wanted()
        elif isinstance(request, Probe):
            self._machine.probe_wanted(request, now)
        elif isinstance(request, Ping):
            self._machine.pinged()
        else:
            self._machine.requested(request, now)

    def receive_long_line(self) -> None:
        """A line came that is longer than any message may be."""
        self.close(Error(ErrorCode.TOO_LONG, "A line has more than 16384 bytes."))

    def send(self, reply: Reply) -> None:
        """Queue a message of the registry for this peer."""
        if not self._core.closed:
            self._core.send(reply)

    def close(self, error: Error) -> None:
        """Close the connection after `error`, which is queued as the last line."""
        self._machine.closing(error, error.code.value)

    def connection_lost(self, reason: str = "closed") -> None:
        """The connection is gone."""
        self._machine.closing(None, reason)

    def lines_to_send(self) -> list[bytes]:
        """Return and forget the queued lines, each with its newline."""
        lines, self._core.lines = self._core.lines, []
        return lines

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called."""
        return None if self._core.closed else self._core.deadline

    def handle_timer(self, now: float) -> None:
        """Close if no line came for too long."""
        if now >= self._core.deadline:
            self._machine.silent()

    def _heard(self, now: float) -> None:
        # Pings do not extend the time that a peer has to register.
        core = self._core
        if core.silence is not None:
            core.deadline = now + core.silence

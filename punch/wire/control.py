"""
The messages of the control channel, between a peer and its rendezvous.

`docs/protocol.md` has the whole protocol. Each message is a frozen dataclass;
`punch.wire.control_codec` writes and reads them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

from punch.identity import PeerID, RandomBytes
from punch.wire.probing import ProbeOutcome, Vantage
from punch.wire.sealed import Envelope
from punch.wire.turn_uri import RelayServer

VERSION = 1
"""The version of this protocol."""
MAX_KEEPALIVE = 3600.0
"""Seconds."""
MAX_REFLECTORS = 8
"""How many further addresses of its reflector a service tells of."""


class Accept(str, Enum):
    """Whose calls a peer takes: after asking its user, only from peers it knows, or from anyone."""

    ASK = "ask"
    KNOWN = "known"
    ANYONE = "anyone"


class ErrorCode(str, Enum):
    """Why something didn't work, for a program; the text beside it is for a person."""

    NOT_REGISTERED = "not-registered"
    """No peer of this ID is registered now."""
    REFUSED = "refused"
    """The called peer's user, or its policy, said no."""
    BUSY = "busy"
    """Too many calls wait for the called peer, or it takes no further one now."""
    GONE = "gone"
    """The other peer was there, and its connection ended during the introduction."""
    REPLACED = "replaced"
    """The same identity registered anew: this older registration is over. Don't reconnect."""
    MALFORMED = "malformed"
    """A line is no message. The connection is closed."""
    TOO_LONG = "too-long"
    """A line has more than 16,384 bytes. The connection is closed."""
    UNKNOWN_TYPE = "unknown-type"
    """A message has a type that is not known. The connection stays."""
    VERSION = "version"
    """The protocol version is not known. The connection is closed."""
    RATE = "rate"
    """Too many messages in too short a time."""
    TOO_MANY = "too-many"
    """Too many connections, registrations or introductions."""
    TIMEOUT = "timeout"
    """Nobody answered in time, or the connection was silent for too long."""
    CANCELLED = "cancelled"
    """The caller gave up."""
    SHUTDOWN = "shutdown"
    """The service ends. Reconnect after a while."""
    BAD_CERTIFICATE = "bad-certificate"
    """The client certificate is missing or is no Ed25519 certificate."""
    DENIED = "denied"
    """The operator refuses this peer, or its network. The connection is closed."""
    FORBIDDEN = "forbidden"
    """This message is not allowed here: before registering, to oneself, in somebody else's introduction."""
    OTHER = "other"
    """A code that this version doesn't know; never sent."""


@dataclass(frozen=True)
class Register:
    """The first message of a peer."""

    name: str
    accept: Accept
    version: int = VERSION


@dataclass(frozen=True)
class Ping:
    """Sent when nothing else was for a keepalive interval."""


@dataclass(frozen=True)
class Establish:
    """A caller asks to be introduced. It chooses the call ID."""

    call: str
    to: PeerID
    offer: Envelope


@dataclass(frozen=True)
class Answer:
    """The called peer says yes."""

    call: str
    to: PeerID
    answer: Envelope


@dataclass(frozen=True)
class Trickle:
    """Either side found more candidates."""

    call: str
    to: PeerID
    envelope: Envelope


@dataclass(frozen=True)
class Reject:
    """The called peer says no: `code` is `REFUSED` or `BUSY`."""

    call: str
    to: PeerID
    code: ErrorCode


@dataclass(frozen=True)
class Cancel:
    """The introduction is over for this side: the caller gave up, or either needs it no longer."""

    call: str
    to: PeerID


@dataclass(frozen=True)
class RenewRelays:
    """The credentials for the relays expire soon: new ones, please."""


@dataclass(frozen=True)
class Probe:
    """
    Send one datagram to my own reflexive address: an answer to a Binding request with this transaction ID.

    `address` and `port` are what a reflector of this service told, and `proof` is what came with that, for
    `nonce` (see `punch.wire.probing`).
    """

    address: str
    port: int
    vantage: Vantage
    transaction: bytes
    nonce: bytes
    proof: bytes


@dataclass(frozen=True)
class Welcome:
    """
    The peer is registered.

    `address` is the public IP address it is seen from; `reflector` the UDP port of the STUN server on the
    service's host, 0 if there is none; `keepalive` how many seconds a connection may be silent.
    """

    id: PeerID
    address: str
    reflector: int
    keepalive: float
    version: int = VERSION
    relays: tuple[RelayServer, ...] = ()
    """Where a link can be relayed, none if nowhere."""
    second_reflector: int = 0
    """The UDP port of a second reflector on the same host, for RFC 5780's tests; 0 if there is none."""
    reflector_addresses: tuple[str, ...] = ()
    """Further IP addresses of the service at which the same ports are."""
    retry: int = 0
    """
    If the service goes away, the mean seconds between two tries of one peer to come back: so that all of them
    together don't come faster than it can take them; 0 if they are few.
    """


@dataclass(frozen=True)
class Relays:
    """The answer to `RenewRelays`: where a link can be relayed, with new credentials."""

    relays: tuple[RelayServer, ...]


@dataclass(frozen=True)
class Probed:
    """The answer to `Probe`."""

    transaction: bytes
    outcome: ProbeOutcome


@dataclass(frozen=True)
class Pong:
    """The answer to `Ping`. `retry` is what it is in `Welcome`, as it is now."""

    retry: int = 0


@dataclass(frozen=True)
class Incoming:
    """Somebody calls: `name` is what the caller registered with; the one in the opened offer is signed."""

    call: str
    sender: PeerID
    name: str
    offer: Envelope


@dataclass(frozen=True)
class Answered:
    """The called peer said yes."""

    call: str
    sender: PeerID
    answer: Envelope


@dataclass(frozen=True)
class Candidates:
    """The other side found more candidates."""

    call: str
    sender: PeerID
    envelope: Envelope


@dataclass(frozen=True)
class Ended:
    """The introduction is over, before it came to a link."""

    call: str
    code: ErrorCode
    text: str
    sender: PeerID | None = None


@dataclass(frozen=True)
class Error:
    """Something the peer sent was not accepted; with `call`, the introduction that is over for it."""

    code: ErrorCode
    text: str
    call: str | None = None


Request = Register | Ping | Establish | Answer | Trickle | Reject | Cancel | RenewRelays | Probe
Reply = Welcome | Relays | Probed | Pong | Incoming | Answered | Candidates | Ended | Error
Message = Request | Reply


def new_call(random: RandomBytes = os.urandom) -> str:
    """A fresh call ID."""
    return random(16).hex()

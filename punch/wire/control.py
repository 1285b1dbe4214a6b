"""
The messages of the control channel, between a peer and its rendezvous: one JSON object a line.

Each message is a frozen dataclass that is declared as `punch.wire.fields` says. `punch.wire.control_lines`
reads and writes them, and `docs/protocol.md` describes the whole protocol.

**Probes** are datagrams that a service sends to an address on request. Only a peer that receives at the
address can make such a request. RFC 5780 tests the filtering of a NAT by asking a server to answer from
another address. A server that does this for strangers sends to any address that they forge. So the request is
made over the control channel, and only for an address at which the peer has just received: its Binding
request carries a commitment to its key, and the reflector's answer, which goes to the source of that request,
carries a proof for the commitment and the address. The probe request contains the proof and what the
commitment was made from. A proof that was overheard is useless to others, since it was made for another key,
and the reflector stores nothing.
"""

# Annotations are not postponed here: those of the messages are read when the classes are declared.
import os
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import Annotated

from punch.identity import Identity, PeerID, RandomBytes
from punch.wire import fields as read
from punch.wire.fields import FieldSpec, MessageShape, integer, json_message
from punch.wire.invitation import VOUCHER_SIZE, AdmissionRefusal
from punch.wire.peers.prekey import SIGNED_SIZE
from punch.wire.peers.sealed import Envelope
from punch.wire.turn import MAX_RELAYS, RelayServer

NONCE_SIZE = 16
COMMITMENT_SIZE = 16
PROOF_SIZE = 16
TRANSACTION_SIZE = 12

_LABEL = b"punch/1 probe\0"


class Vantage(str, Enum):
    """The source of a probe, relative to the address to which the Binding request was sent."""

    SAME = "same"
    """The same address and port."""
    PORT = "port"
    """The same address, the other port."""
    ADDRESS = "address"
    """Another address, the other port."""


class ProbeOutcome(str, Enum):
    """The outcome of a probe request."""

    SENT = "sent"
    REFUSED = "refused"
    """The proof is wrong, or too old: ask the reflector again."""
    UNAVAILABLE = "unavailable"
    """The service has no such other port or address."""
    RATE = "rate"
    """Too many in too short a time."""


def commitment(peer: PeerID, nonce: bytes) -> bytes:
    """The commitment in a Binding request: 16 bytes that do not reveal the key, and fit no other key."""
    return sha256(_LABEL + peer.key + nonce).digest()[:COMMITMENT_SIZE]


MAX_KEEPALIVE = 3600.0
"""The longest keepalive interval in seconds."""
RING_TIME = 60.0
"""Seconds that a call rings: then an offer that was not answered has expired, for both peers."""
MAX_REFLECTORS = 8
"""The most further addresses of its reflector that a service may name."""


class Accept(str, Enum):
    """Whose calls a peer takes: after asking its user, only from peers it knows, or from anyone."""

    ASK = "ask"
    KNOWN = "known"
    ANYONE = "anyone"


class ErrorCode(str, Enum):
    """The reason of a failure, for a program; the text beside it is for a person."""

    NOT_REGISTERED = "not-registered"
    """No peer of this ID is registered now."""
    REFUSED = "refused"
    """The called peer's user, or its policy, said no."""
    BUSY = "busy"
    """Too many calls wait for the called peer, or it takes no further one now."""
    GONE = "gone"
    """The other peer was registered, and its connection ended during the introduction."""
    REPLACED = "replaced"
    """The same identity registered on another connection: this registration is over. Do not reconnect."""
    MALFORMED = "malformed"
    """A line is not a message. The connection is closed."""
    TOO_LONG = "too-long"
    """A line has more than 16,384 bytes. The connection is closed."""
    UNKNOWN_TYPE = "unknown-type"
    """A message has an unknown type. The connection stays open."""
    VERSION = "version"
    """The protocol version is unknown. The connection is closed."""
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
    """The client certificate is missing or is not an Ed25519 certificate."""
    DENIED = "denied"
    """The operator refuses this peer, or its network. The connection is closed."""
    FORBIDDEN = "forbidden"
    """The message is not allowed here: before registering, to oneself, or in another peer's introduction."""
    OTHER = "other"
    """Any code that this version does not know; never sent."""


_read_word = read.matching("[a-z][a-z0-9-]{0,31}", "a short word")
read_call = read.matching("[0-9a-f]{32}", "32 lower-case hexadecimal digits")
"""Reads a call ID."""


def _read_code(value: object) -> ErrorCode:
    text = _read_word(value)
    try:
        return ErrorCode(text)
    except ValueError:
        return ErrorCode.OTHER


def _read_refusal(value: object) -> AdmissionRefusal | None:
    text = _read_word(value)
    try:
        return AdmissionRefusal(text)
    except ValueError:
        return None


_Call = Annotated[str, FieldSpec(read_call)]
_Peer = Annotated[PeerID, FieldSpec(read.peer_id)]
_Sender = Annotated[PeerID, FieldSpec(read.peer_id, "from")]
_Recipient = Annotated[PeerID, FieldSpec(read.named_peer)]
"""The service only looks for it among the peers that are registered, which takes no check of its key."""
_Name = Annotated[str, FieldSpec(read.name)]
_Text = Annotated[str, FieldSpec(read.sentence)]
_Code = Annotated[ErrorCode, FieldSpec(_read_code)]
_Sealed = Annotated[Envelope, FieldSpec(Envelope.from_json)]
_PassedOn = Annotated[Envelope, FieldSpec(partial(Envelope.from_json, to=read.named_peer))]
_IP = Annotated[str, FieldSpec(read.ip)]
_Port = Annotated[int, FieldSpec(integer(1, 65535))]
_PortOrZero = Annotated[int, FieldSpec(integer(0, 65535))]
_Seconds = Annotated[int, FieldSpec(integer(0, 2**31 - 1))]
_Relays = Annotated[tuple[RelayServer, ...], FieldSpec(read.sequence(RelayServer.from_json, MAX_RELAYS))]
_Voucher = Annotated[bytes, FieldSpec(read.binary(VOUCHER_SIZE, VOUCHER_SIZE))]
_SignedPrekey = Annotated[bytes, FieldSpec(read.binary(SIGNED_SIZE, SIGNED_SIZE))]
_Transaction = Annotated[bytes, FieldSpec(read.binary(TRANSACTION_SIZE, TRANSACTION_SIZE))]


# -- the messages --


REQUESTS: dict[str, MessageShape] = {}
"""The messages of peers, by type."""
REPLIES: dict[str, MessageShape] = {}
"""The messages of the service, by type."""


@json_message(REQUESTS, "register", versioned=True)
@dataclass(frozen=True)
class Register:
    """
    The first message of a peer. `invitation` is the token of an invitation to the service; empty: none.
    `prekey` is its signed prekey (`punch.wire.peers.prekey`); empty: it has none. `voucher` is that of a
    member who vouches for this peer (`Voucher`); empty: nobody does.
    """

    name: _Name
    accept: Annotated[Accept, FieldSpec(read.one_of(*Accept))]
    invitation: Annotated[str, FieldSpec(read.token)] = ""
    prekey: _SignedPrekey = b""
    voucher: _Voucher = b""


@json_message(REQUESTS, "ping")
@dataclass(frozen=True)
class Ping:
    """Sent when nothing else was sent for a keepalive interval."""


@json_message(REQUESTS, "establish")
@dataclass(frozen=True)
class Establish:
    """
    A caller asks to be introduced. It chooses the call ID. `notify` asks for `Returned`, once, if the called
    peer is away and registers within the next hour, and `prekey` for `Prekey`, if it is there and does not
    answer.
    """

    call: _Call
    to: _Recipient
    offer: _PassedOn
    notify: Annotated[bool, FieldSpec(read.boolean)] = False
    prekey: Annotated[bool, FieldSpec(read.boolean)] = False


@json_message(REQUESTS, "answer")
@dataclass(frozen=True)
class Answer:
    """The called peer accepts the call."""

    call: _Call
    to: _Recipient
    answer: _PassedOn


@json_message(REQUESTS, "candidate")
@dataclass(frozen=True)
class Trickle:
    """Either peer found more candidates."""

    call: _Call
    to: _Recipient
    envelope: _PassedOn


@json_message(REQUESTS, "reject")
@dataclass(frozen=True)
class Reject:
    """The called peer refuses the call: `code` is `REFUSED` or `BUSY`."""

    call: _Call
    to: _Recipient
    code: Annotated[ErrorCode, FieldSpec(read.one_of(ErrorCode.REFUSED, ErrorCode.BUSY))]


@json_message(REQUESTS, "cancel")
@dataclass(frozen=True)
class Cancel:
    """The introduction is over for this peer: the caller gave up, or either no longer needs it."""

    call: _Call
    to: _Recipient


@json_message(REQUESTS, "relay")
@dataclass(frozen=True)
class RenewRelays:
    """A request for new credentials for the relays, because the present ones expire soon."""


@json_message(REQUESTS, "probe")
@dataclass(frozen=True)
class Probe:
    """
    A request to send one datagram to the peer's own reflexive address: an answer to a Binding request with
    this transaction ID.

    `address` and `port` are what a reflector of this service told the peer, and `proof` is what came with
    them, for `nonce`.
    """

    address: _IP
    port: _Port
    vantage: Annotated[Vantage, FieldSpec(read.one_of(*Vantage), "from")]
    transaction: _Transaction
    nonce: Annotated[bytes, FieldSpec(read.binary(NONCE_SIZE, NONCE_SIZE))]
    proof: Annotated[bytes, FieldSpec(read.binary(PROOF_SIZE, PROOF_SIZE))]


REVOCATION_LABEL = b"punch/1 revocation"


@json_message(REQUESTS, "revoke")
@dataclass(frozen=True)
class Revoke:
    """The owner of this peer ID asks the service to refuse it for ever, and has signed that."""

    signature: Annotated[bytes, FieldSpec(read.binary(64, 64))]

    @classmethod
    def by(cls, identity: Identity) -> "Revoke":
        """The request of the owner of a key."""
        return cls(identity.sign(REVOCATION_LABEL, identity.peer_id.key))

    def is_by(self, peer: PeerID) -> bool:
        """Whether the owner of `peer` has signed it."""
        return peer.verify(REVOCATION_LABEL, peer.key, self.signature)


@json_message(REPLIES, "welcome", versioned=True)
@dataclass(frozen=True)
class Welcome:
    """
    The peer is registered.

    `address` is the public IP address that the peer is seen from; `reflector` the UDP port of the STUN server
    on the service's host, 0 if there is none; `keepalive` the seconds that a connection may be silent.
    """

    id: _Peer
    address: _IP
    reflector: _PortOrZero
    keepalive: Annotated[float, FieldSpec(read.number(0.1, MAX_KEEPALIVE))]
    relays: _Relays = ()
    """The relays that the peer may use; empty if there are none."""
    second_reflector: _PortOrZero = 0
    """The UDP port of a second reflector on the same host, for RFC 5780's tests; 0 if there is none."""
    reflector_addresses: Annotated[tuple[str, ...], FieldSpec(read.sequence(read.ip, MAX_REFLECTORS))] = ()
    """Further IP addresses of the service with the same ports."""
    retry: _Seconds = 0
    """
    The mean seconds between attempts to reconnect, so that the service can handle all peers; 0 if it has few.
    """
    relays_for_members: Annotated[bool, FieldSpec(read.boolean)] = False
    """
    Whether there are relays, but only for members, and neither the peer nor the one that vouches for it is a
    member.
    """


@json_message(REPLIES, "relay")
@dataclass(frozen=True)
class Relays:
    """The answer to `RenewRelays`: the relays, with new credentials."""

    relays: _Relays


@json_message(REPLIES, "probed")
@dataclass(frozen=True)
class Probed:
    """The answer to `Probe`."""

    transaction: _Transaction
    outcome: Annotated[ProbeOutcome, FieldSpec(read.one_of(*ProbeOutcome))]


@json_message(REPLIES, "pong")
@dataclass(frozen=True)
class Pong:
    """The answer to `Ping`. `retry` is the present value of `Welcome.retry`."""

    retry: _Seconds = 0


@json_message(REPLIES, "incoming")
@dataclass(frozen=True)
class Incoming:
    """Another peer calls. `name` is the name that it registered, which is not signed as that in the offer."""

    call: _Call
    sender: _Sender
    name: _Name
    offer: _Sealed


@json_message(REPLIES, "answered")
@dataclass(frozen=True)
class Answered:
    """The called peer accepted the call."""

    call: _Call
    sender: _Sender
    answer: _Sealed


@json_message(REPLIES, "candidate")
@dataclass(frozen=True)
class Candidates:
    """The other peer found more candidates."""

    call: _Call
    sender: _Sender
    envelope: _Sealed


@json_message(REPLIES, "prekey")
@dataclass(frozen=True)
class Prekey:
    """
    The signed prekey of a peer, which it has registered with. The caller asked for it, and the call was not
    answered: a link would have told it.
    """

    sender: _Sender
    prekey: _SignedPrekey


@json_message(REPLIES, "ended")
@dataclass(frozen=True)
class Ended:
    """The introduction ended before there was a link."""

    call: _Call
    sender: Annotated[PeerID | None, FieldSpec(read.peer_id, "from")] = dataclass_field(
        default=None, kw_only=True
    )
    code: _Code
    text: _Text


@json_message(REPLIES, "returned")
@dataclass(frozen=True)
class Returned:
    """A peer is registered again that was away when this peer called it with `notify`."""

    sender: _Sender


@json_message(REPLIES, "error")
@dataclass(frozen=True)
class Error:
    """
    A message of the peer was not accepted; `call` is the introduction that is over for it, if any.

    `refusal` says, beside the code `DENIED`, why the service does not admit the peer, and `contact` whom to
    ask, in the operator's words.
    """

    code: _Code
    text: _Text
    call: Annotated[str | None, FieldSpec(read_call)] = None
    refusal: Annotated[AdmissionRefusal | None, FieldSpec(_read_refusal)] = None
    contact: Annotated[str, FieldSpec(read.sentence)] = ""


Request = Register | Ping | Establish | Answer | Trickle | Reject | Cancel | RenewRelays | Probe | Revoke
Reply = (
    Welcome | Relays | Probed | Pong | Incoming | Answered | Candidates | Prekey | Ended | Returned | Error
)
Message = Request | Reply


def new_call(random: RandomBytes = os.urandom) -> str:
    """A fresh call ID."""
    return random(16).hex()

"""
The control channel's lines: one JSON object each, for one message of `punch.wire.control`.

`encode` writes it, `decode_request` reads what a service accepts, `decode_reply` what a peer accepts. Unknown
fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar, cast

from punch.identity import PeerID
from punch.wire import strict_json
from punch.wire.address import canonical
from punch.wire.control import (
    MAX_KEEPALIVE,
    MAX_REFLECTORS,
    VERSION,
    Accept,
    Answer,
    Answered,
    Cancel,
    Candidates,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Message,
    Ping,
    Pong,
    Probe,
    Probed,
    Register,
    Reject,
    Relays,
    RenewRelays,
    Reply,
    Request,
    Trickle,
    Welcome,
)
from punch.wire.fields import (
    FieldError,
    Reader,
    binary,
    clean,
    field,
    integer,
    mapping,
    matching,
    name,
    number,
    peer_id,
    sentence,
    sequence,
    string,
    to_base64,
)
from punch.wire.probing import NONCE_SIZE, PROOF_SIZE, TRANSACTION_SIZE, ProbeOutcome, Vantage
from punch.wire.sealed import Envelope
from punch.wire.turn_uri import MAX_RELAYS, RelayServer

MAX_LINE = 16384
"""Bytes of a line, without its newline."""


class ControlError(Exception):
    """A line is not an acceptable message: `code` for the other program, `text` for a person."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class UnknownType(ControlError):
    """A message of a type that isn't known: it is answered with an error, and the connection stays."""

    def __init__(self, text: str, call: str | None = None) -> None:
        super().__init__(ErrorCode.UNKNOWN_TYPE, text)
        self.call = call


class Malformed(ControlError):
    """A line is no message, too long, or of another version: the connection is closed with this reason."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        super().__init__(code, text)


def encode(message: Message) -> bytes:
    """
    One line, without its newline.

    :raise ValueError: it would be longer than `MAX_LINE`.
    """
    shape = _SHAPES[type(message)]
    value: dict[str, Any] = {"type": shape.type}
    for entry in shape.fields:
        content = getattr(message, entry.attribute)
        if entry.required or content not in _NOTHING:
            value[entry.key] = _to_json(content)
    if "text" in value:
        value["text"] = clean(value["text"])
    line = strict_json.dumps(value)
    if len(line) > MAX_LINE:
        raise ValueError(f"a line of {len(line)} bytes is too long")
    return line


def decode_request(line: bytes) -> Request:
    """
    What a peer sent, read by the service.

    :param line: without its newline.
    :raise UnknownType: answer with an error and go on.
    :raise Malformed: say why and close.
    """
    return cast(Request, _decode(line, _REQUESTS))


def decode_reply(line: bytes) -> Reply:
    """
    What the service sent, read by a peer.

    :param line: without its newline.
    :raise UnknownType: ignore it.
    :raise Malformed: say why and close.
    """
    return cast(Reply, _decode(line, _REPLIES))


# What a field that may be missing has where it is.
_NOTHING = (None, (), 0)


class _Field(NamedTuple):
    attribute: str
    key: str
    read: Reader[Any]
    required: bool = True


class _Shape(NamedTuple):
    message: type[Any]
    type: str
    fields: tuple[_Field, ...]


E = TypeVar("E", bound=Enum)


def _one_of(*members: E) -> Reader[E]:
    by_value = {member.value: member for member in members}

    def read(value: object) -> E:
        member = by_value.get(string(value))
        if member is None:
            raise FieldError("must be " + ", ".join(by_value))
        return member

    return read


def _code(value: object) -> ErrorCode:
    text = _word(value)
    try:
        return ErrorCode(text)
    except ValueError:
        return ErrorCode.OTHER


def _ip(value: object) -> str:
    text = string(value)
    try:
        ip_address(text)
    except ValueError as error:
        raise FieldError("must be an IP address") from error
    return canonical(text, 0).host


def _envelope(value: object) -> Envelope:
    return Envelope.from_json(value)


_word = matching("[a-z][a-z0-9-]{0,31}", "a short word")
_call = matching("[0-9a-f]{32}", "32 lower-case hexadecimal digits")

_VERSION = _Field("version", "version", integer(1, 2**31 - 1))
_CALL = _Field("call", "call", _call)
_TO = _Field("to", "to", peer_id)
_FROM = _Field("sender", "from", peer_id)
_NAME = _Field("name", "name", name)
_CODE = _Field("code", "code", _code)
_TEXT = _Field("text", "text", sentence)
_OFFER = _Field("offer", "offer", _envelope)
_ANSWER = _Field("answer", "answer", _envelope)
_ENVELOPE = _Field("envelope", "envelope", _envelope)
_RELAYS = _Field("relays", "relays", sequence(RelayServer.from_json, MAX_RELAYS))
_TRANSACTION = _Field("transaction", "transaction", binary(TRANSACTION_SIZE, TRANSACTION_SIZE))
_RETRY = _Field("retry", "retry", integer(0, 2**31 - 1), required=False)
_DECISION = _Field("code", "code", _one_of(ErrorCode.REFUSED, ErrorCode.BUSY))

_REQUESTS = {
    shape.type: shape
    for shape in (
        _Shape(Register, "register", (_VERSION, _NAME, _Field("accept", "accept", _one_of(*Accept)))),
        _Shape(Ping, "ping", ()),
        _Shape(Establish, "establish", (_CALL, _TO, _OFFER)),
        _Shape(Answer, "answer", (_CALL, _TO, _ANSWER)),
        _Shape(Trickle, "candidate", (_CALL, _TO, _ENVELOPE)),
        _Shape(Reject, "reject", (_CALL, _TO, _DECISION)),
        _Shape(Cancel, "cancel", (_CALL, _TO)),
        _Shape(RenewRelays, "relay", ()),
        _Shape(
            Probe,
            "probe",
            (
                _Field("address", "address", _ip),
                _Field("port", "port", integer(1, 65535)),
                _Field("vantage", "from", _one_of(*Vantage)),
                _TRANSACTION,
                _Field("nonce", "nonce", binary(NONCE_SIZE, NONCE_SIZE)),
                _Field("proof", "proof", binary(PROOF_SIZE, PROOF_SIZE)),
            ),
        ),
    )
}
_REPLIES = {
    shape.type: shape
    for shape in (
        _Shape(
            Welcome,
            "welcome",
            (
                _VERSION,
                _Field("id", "id", peer_id),
                _Field("address", "address", _ip),
                _Field("reflector", "reflector", integer(0, 65535)),
                _Field("keepalive", "keepalive", number(0.1, MAX_KEEPALIVE)),
                _RELAYS._replace(required=False),
                _Field("second_reflector", "second_reflector", integer(0, 65535), required=False),
                _Field(
                    "reflector_addresses",
                    "reflector_addresses",
                    sequence(_ip, MAX_REFLECTORS),
                    required=False,
                ),
                _RETRY,
            ),
        ),
        _Shape(Relays, "relay", (_RELAYS,)),
        _Shape(Probed, "probed", (_TRANSACTION, _Field("outcome", "outcome", _one_of(*ProbeOutcome)))),
        _Shape(Pong, "pong", (_RETRY,)),
        _Shape(Incoming, "incoming", (_CALL, _FROM, _NAME, _OFFER)),
        _Shape(Answered, "answered", (_CALL, _FROM, _ANSWER)),
        _Shape(Candidates, "candidate", (_CALL, _FROM, _ENVELOPE)),
        _Shape(Ended, "ended", (_CALL, _FROM._replace(required=False), _CODE, _TEXT)),
        _Shape(Error, "error", (_CODE, _TEXT, _CALL._replace(required=False))),
    )
}
_SHAPES: Mapping[type[Any], _Shape] = {
    shape.message: shape for shapes in (_REQUESTS, _REPLIES) for shape in shapes.values()
}


def _to_json(content: object) -> object:
    if isinstance(content, PeerID):
        return str(content)
    if isinstance(content, Envelope):
        return content.to_json()
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, bytes):
        return to_base64(content)
    if isinstance(content, RelayServer):
        return content.to_json()
    if isinstance(content, tuple):
        return [_to_json(entry) for entry in content]
    return content


def _decode(line: bytes, shapes: Mapping[str, _Shape]) -> Message:
    if len(line) > MAX_LINE:
        raise Malformed(f"A line has more than {MAX_LINE} bytes.", ErrorCode.TOO_LONG)
    try:
        value = field({"it": strict_json.loads(line)}, "it", mapping)
        type_ = field(value, "type", string)
    except FieldError as error:
        raise Malformed(f"A line is not a message: {error}.") from error
    except strict_json.JSONError as error:
        raise Malformed(f"A line is not a message: {error}.") from error
    shape = shapes.get(type_)
    if shape is None:
        call = value.get("call")
        known_call = call if isinstance(call, str) and _is_call(call) else None
        raise UnknownType(f"The message type {type_[:32]!a} is not known.", known_call)
    return _build(shape, value)


def _is_call(text: str) -> bool:
    try:
        _call(text)
    except FieldError:
        return False
    return True


def _build(shape: _Shape, value: Mapping[str, Any]) -> Message:
    contents: dict[str, Any] = {}
    try:
        for entry in shape.fields:
            if not entry.required and entry.key not in value:
                continue
            contents[entry.attribute] = field(value, entry.key, entry.read)
            # Another version may mean anything by its other fields, so it is told apart before they are read.
            if entry is _VERSION and contents["version"] != VERSION:
                raise Malformed(
                    f"Protocol version {contents['version']} is not known here, only version {VERSION}.",
                    ErrorCode.VERSION,
                )
        message = cast(Message, shape.message(**contents))
        if isinstance(message, (Establish, Answer, Trickle)):
            _check_recipient(message)
    except FieldError as error:
        raise Malformed(f"A {shape.type} message is wrong: {error}.") from error
    return message


def _check_recipient(message: Establish | Answer | Trickle) -> None:
    """The service routes by `to`, and the recipient checks the signed one: they may not differ."""
    if isinstance(message, Establish):
        envelope = message.offer
    elif isinstance(message, Answer):
        envelope = message.answer
    else:
        envelope = message.envelope
    if envelope.to != message.to:
        raise FieldError("to is not the peer that the envelope is for")

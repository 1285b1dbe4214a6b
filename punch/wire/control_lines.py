"""
The lines of the control channel: reads and writes the messages of `punch.wire.control`.

`encode` writes a line, `decode_request` reads what a service accepts, `decode_reply` what a peer accepts.
Keys that a message does not declare are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

from punch.wire import fields as read
from punch.wire import strict_json
from punch.wire.control import REPLIES, REQUESTS, ErrorCode, Message, Reply, Request, read_call
from punch.wire.fields import SHAPES, FieldError, MessageShape, field, integer
from punch.wire.peers.sealed import Envelope

VERSION = 1
"""The version of this protocol."""
MAX_LINE = 16384
"""The longest line in bytes, without its newline; whoever receives a longer one closes the connection."""

_read_version = integer(1, 2**31 - 1)


class ControlError(Exception):
    """A line is not an acceptable message: `code` is for the other program, `text` for a person."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class UnknownType(ControlError):
    """
    A message has an unknown type: it is answered with an error, and the connection stays open.

    :ivar call: the call ID in the message, if it has one.
    """

    def __init__(self, text: str, call: str | None = None) -> None:
        super().__init__(ErrorCode.UNKNOWN_TYPE, text)
        self.call = call


class Malformed(ControlError):
    """A line is not a message, is too long, or has another version: the connection is closed."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        super().__init__(code, text)


def encode(message: Message) -> bytes:
    """
    One line, without its newline.

    :raise ValueError: it would be longer than `MAX_LINE`.
    """
    shape = SHAPES[type(message)]
    value: dict[str, Any] = {"type": shape.type}
    if shape.versioned:
        value["version"] = VERSION
    value.update(shape.write(message))
    if "text" in value:
        value["text"] = read.clean(value["text"])
    line = strict_json.dumps(value)
    if len(line) > MAX_LINE:
        raise ValueError(f"a line of {len(line)} bytes is too long")
    return line


def decode_request(line: bytes) -> Request:
    """
    Read what a peer sent.

    :param line: without its newline.
    :raise UnknownType: the service answers with an error and goes on.
    :raise Malformed: the service sends the reason and closes the connection.
    """
    return cast(Request, _decode(line, REQUESTS))


def decode_reply(line: bytes) -> Reply:
    """
    Read what the service sent.

    :param line: without its newline.
    :raise UnknownType: the peer ignores the line.
    :raise Malformed: the peer closes the connection.
    """
    return cast(Reply, _decode(line, REPLIES))


def decode_passed_on(line: bytes) -> Reply:
    """
    As `decode_reply`, for a process of the service that passes the reply on to one of its peers. The keys of
    peers are not checked: that peer checks them.

    :raise UnknownType: the reply is of an unknown type.
    :raise Malformed: it is not a reply.
    """
    return cast(Reply, _decode(line, _PASSED_ON_REPLIES))


_UNCHECKED: dict[Any, Any] = {
    read.peer_id: read.named_peer,
    Envelope.from_json: partial(Envelope.from_json, to=read.named_peer),
}
_PASSED_ON_REPLIES = {
    type_: shape._replace(
        fields=tuple(each._replace(read=_UNCHECKED.get(each.read, each.read)) for each in shape.fields)
    )
    for type_, shape in REPLIES.items()
}


def _decode(line: bytes, shapes: Mapping[str, MessageShape]) -> Message:
    if len(line) > MAX_LINE:
        raise Malformed(f"A line has more than {MAX_LINE} bytes.", ErrorCode.TOO_LONG)
    try:
        value = field({"it": strict_json.loads(line)}, "it", read.mapping)
        type_ = field(value, "type", read.string)
    except (FieldError, strict_json.JSONError) as error:
        raise Malformed(f"A line is not a message: {error}.") from error
    shape = shapes.get(type_)
    if shape is None:
        call = None
        with suppress(FieldError):
            call = field(value, "call", read_call, None)
        raise UnknownType(f"The message type {type_[:32]!a} is not known.", call)
    try:
        # In another version the other fields may have other meanings, so the version is checked first
        if shape.versioned and (version := field(value, "version", _read_version)) != VERSION:
            raise Malformed(
                f"Protocol version {version} is not known here, only version {VERSION}.", ErrorCode.VERSION
            )
        content = shape.read(value)
        # The service routes by `to`, and the recipient checks the signed one: they may not differ.
        for envelope in vars(content).values():
            if isinstance(envelope, Envelope) and envelope.to != getattr(content, "to", envelope.to):
                raise FieldError("to is not the peer that the envelope is for")
    except FieldError as error:
        raise Malformed(f"A {shape.type} message is wrong: {error}.") from error
    return cast(Message, content)

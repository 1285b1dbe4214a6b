"""
Messages that are declared once: a frozen dataclass is a JSON object, and the annotations of its fields say
how they are read.

    @json_message(SHAPES, "answer")
    @dataclass(frozen=True)
    class Answer:
        call: Annotated[str, FieldSpec(read_call)]

A field with a default may be missing from the object, and is not written when it has its default. The order
of the fields is their order in the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, NamedTuple, TypeVar, cast

from punch.identity import PeerID
from punch.wire.fields import Reader, field, to_base64
from punch.wire.peers.sealed import Envelope
from punch.wire.turn_uri import RelayServer

T = TypeVar("T")


class FieldSpec(NamedTuple):
    """How a field is read, and its key in the object if that is not the field's name."""

    read: Reader[Any]
    key: str | None = None


class MessageField(NamedTuple):
    """A field: its attribute in Python, its key in JSON, and its default, `MISSING` if it is required."""

    attribute: str
    key: str
    read: Reader[Any]
    default: Any


class MessageShape(NamedTuple):
    """How one message is written: the value of `type`, and its fields in the order of the object."""

    message: type[Any]
    type: str
    fields: tuple[MessageField, ...]
    versioned: bool
    """Whether the object has the version of the protocol."""

    def read(self, value: Mapping[str, Any]) -> Any:
        """
        Return the message in an object. Keys that it does not declare are ignored.

        :raise FieldError: a field is missing or wrong.
        """
        contents = {
            entry.attribute: field(value, entry.key, entry.read)
            for entry in self.fields
            if entry.default is MISSING or entry.key in value
        }
        return self.message(**contents)

    def write(self, message: object) -> dict[str, Any]:
        """Return the fields of a message as an object, without its type and version."""
        contents = ((entry, getattr(message, entry.attribute)) for entry in self.fields)
        return {entry.key: _to_json(content) for entry, content in contents if content != entry.default}


SHAPES: dict[type[Any], MessageShape] = {}
"""All messages, by class."""


def json_message(
    shapes: dict[str, MessageShape], type_: str, *, versioned: bool = False
) -> Callable[[type[T]], type[T]]:
    """
    Return a class decorator: the dataclass is the message `type_` in `shapes`.

    The module of the class must not postpone its annotations.
    """

    def declare(cls: type[T]) -> type[T]:
        entries = []
        for each in fields(cast(Any, cls)):
            spec: FieldSpec = cast(Any, each.type).__metadata__[0]
            entries.append(MessageField(each.name, spec.key or each.name, spec.read, each.default))
        shapes[type_] = SHAPES[cls] = MessageShape(cls, type_, tuple(entries), versioned)
        return cls

    return declare


def _to_json(content: object) -> object:
    if isinstance(content, PeerID):
        return str(content)
    if isinstance(content, (Envelope, RelayServer)):
        return content.to_json()
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, bytes):
        return to_base64(content)
    if isinstance(content, tuple):
        return [_to_json(entry) for entry in content]
    return content

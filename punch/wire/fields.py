"""
The fields of JSON objects: readers, which say what names, keys and numbers are valid, and messages that are
declared once.

Every reader takes a JSON value and returns the typed one, or raises `FieldError` with the rest of a sentence
that begins with the name of the field.

A message is a frozen dataclass, and the annotations of its fields say how they are read:

    @json_message(SHAPES, "answer")
    @dataclass(frozen=True)
    class Answer:
        call: Annotated[str, FieldSpec(read_call)]

A field with a default may be missing from the object, and is not written when it has its default. The order
of the fields is their order in the object. What has a method `to_json` is written as that returns.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from enum import Enum
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar, cast

from punch.identity import PeerID, PeerIDError
from punch.wire.address import canonical

MAX_NAME = 64
MAX_TEXT = 500
MAX_TOKEN = 100

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Reader = Callable[[object], T]

_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_REQUIRED = object()


class FieldError(ValueError):
    """A field has a wrong type or value."""


def field(container: Mapping[str, Any], name: str, read: Reader[T], default: Any = _REQUIRED) -> T:
    """
    Read one field. An absent field has the default; without a default it is an error.

    :raise FieldError: with a text that names the field.
    """
    if name not in container:
        if default is _REQUIRED:
            raise FieldError(f"{name} is missing")
        value: T = default
        return value
    try:
        return read(container[name])
    except FieldError as error:
        raise FieldError(f"{name} {error}") from error


def is_visible(text: str) -> bool:
    """
    Whether a text can be shown unchanged: it has no control characters (such as terminal escapes), no
    invisible formatting (such as bidirectional overrides), no line breaks, and no spaces but U+0020.
    """
    for character in text:
        category = unicodedata.category(character)
        if category in _BAD_CATEGORIES or (category == "Zs" and character != " "):
            return False
    return True


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """A text that can be sent: characters that cannot be shown are replaced, and it is cut to `limit`."""
    return "".join(c if is_visible(c) else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])


def string(value: object) -> str:
    """Any string."""
    if not isinstance(value, str):
        raise FieldError("must be a string")
    return value


def name(value: object) -> str:
    """A person's or machine's name: 1 to 64 visible characters, with no space at either end."""
    text = string(value)
    if not 1 <= len(text) <= MAX_NAME:
        raise FieldError(f"must have 1 to {MAX_NAME} characters")
    if not is_visible(text):
        raise FieldError("has a character that can't be shown")
    if text != text.strip():
        raise FieldError("begins or ends with a space")
    return text


def check_name(text: str) -> str:
    """
    Check a name that a user typed, and return it.

    :raise ValueError: with a sentence for the user.
    """
    try:
        return name(text)
    except FieldError as error:
        raise ValueError(f"The name {text[:MAX_NAME]!r} can't be used: it {error}.") from error


def sentence(value: object) -> str:
    """A text for a person: at most 500 visible characters."""
    text = string(value)
    if len(text) > MAX_TEXT:
        raise FieldError(f"has more than {MAX_TEXT} characters")
    if not is_visible(text):
        raise FieldError("has a character that can't be shown")
    return text


def token(value: object) -> str:
    """An opaque text of at most 100 visible ASCII characters."""
    text = string(value)
    if len(text) > MAX_TOKEN or not all("!" <= character <= "~" for character in text):
        raise FieldError(f"must have at most {MAX_TOKEN} visible ASCII characters")
    return text


def integer(low: int, high: int) -> Reader[int]:
    """An integer from `low` to `high`, both included."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise FieldError("must be an integer")
        if not low <= value <= high:
            raise FieldError(f"must be {low} to {high}")
        return value

    return read


def number(low: float, high: float) -> Reader[float]:
    """A number from `low` to `high`, both included."""

    def read(value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise FieldError("must be a number")
        if not low <= value <= high:
            raise FieldError(f"must be {low:g} to {high:g}")
        return float(value)

    return read


def boolean(value: object) -> bool:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise FieldError("must be true or false")
    return value


def matching(pattern: str, what: str) -> Reader[str]:
    """A string that matches `pattern` as a whole. `what` describes it in the error."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        text = string(value)
        if compiled.fullmatch(text) is None:
            raise FieldError(f"must be {what}")
        return text

    return read


def one_of(*members: E) -> Reader[E]:
    """One of these members of an enumeration of strings, by its value."""
    by_value = {member.value: member for member in members}

    def read(value: object) -> E:
        member = by_value.get(string(value))
        if member is None:
            raise FieldError("must be " + ", ".join(by_value))
        return member

    return read


def ip(value: object) -> str:
    """An IP address without a zone, which is returned in its canonical form."""
    text = string(value)
    if "%" in text:
        # A zone may have any characters, and means nothing to others
        raise FieldError("must be an IP address")
    try:
        ip_address(text)
    except ValueError as error:
        raise FieldError("must be an IP address") from error
    return canonical(text, 0).host


def binary(low: int, high: int) -> Reader[bytes]:
    """
    From `low` to `high` bytes as base64url (RFC 4648, section 5), unpadded and in its one canonical form.
    """

    def read(value: object) -> bytes:
        text = string(value)
        if len(text) > (high * 4 + 2) // 3:
            raise FieldError(f"has more than {high} bytes")
        if re.fullmatch(r"[A-Za-z0-9_-]*", text) is None:
            raise FieldError("must be base64url without padding")
        if len(text) % 4 == 1:
            raise FieldError("must be base64url without padding")
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if to_base64(data) != text:
            raise FieldError("is not in canonical base64url")
        if not low <= len(data) <= high:
            raise FieldError(f"must have {low} bytes" if low == high else f"must have {low} to {high} bytes")
        return data

    return read


def to_base64(data: bytes) -> str:
    """base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def peer_id(value: object) -> PeerID:
    """A peer ID in lower case, without spaces or dashes."""
    return _peer_id(value, PeerID.parse)


def named_peer(value: object) -> PeerID:
    """
    A peer ID as `peer_id` reads it, but with an unchecked key (`PeerID.parse_unchecked`): it is only compared
    with those of known peers.
    """
    return _peer_id(value, PeerID.parse_unchecked)


def _peer_id(value: object, parse: Callable[[str], PeerID]) -> PeerID:
    text = string(value)
    try:
        peer = parse(text)
    except PeerIDError as error:
        raise FieldError(f"is not a peer ID. {error}") from error
    if str(peer) != text:
        raise FieldError("must be a peer ID in lower case, without spaces or dashes")
    return peer


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise FieldError("must be an object")
    return value


def sequence(read: Reader[T], limit: int) -> Reader[tuple[T, ...]]:
    """An array of at most `limit` values."""

    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise FieldError("must be an array")
        if len(value) > limit:
            raise FieldError(f"has more than {limit} entries")
        result = []
        for index, entry in enumerate(value):
            try:
                result.append(read(entry))
            except FieldError as error:
                raise FieldError(f"[{index}] {error}") from error
        return tuple(result)

    return read_all


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
        for each in dataclass_fields(cast(Any, cls)):
            spec: FieldSpec = cast(Any, each.type).__metadata__[0]
            entries.append(MessageField(each.name, spec.key or each.name, spec.read, each.default))
        shapes[type_] = SHAPES[cls] = MessageShape(cls, type_, tuple(entries), versioned)
        return cls

    return declare


def _to_json(content: object) -> object:
    if isinstance(content, PeerID):
        return str(content)
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, bytes):
        return to_base64(content)
    if isinstance(content, tuple):
        return [_to_json(entry) for entry in content]
    write = getattr(content, "to_json", None)
    return content if write is None else write()

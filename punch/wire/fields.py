"""
Readers for the fields of JSON objects: which names, keys and numbers are valid.

Every reader takes a JSON value and returns the typed one, or raises `FieldError` with the rest of a sentence
that begins with the name of the field.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import ip_address
from typing import Any, TypeVar

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
    The same, for a peer ID that is only compared with those of known peers (`PeerID.parse_unchecked`).
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

"""
Strict JSON (RFC 8259), which all implementations read in the same way.

Refused: bytes that are not UTF-8, duplicate keys, NaN and the infinities, numbers too large for a double or
for an exact integer in one, lone surrogates, and values nested deeper than any message of ours.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DEPTH = 32
"""Objects and arrays inside each other."""
MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON implementation keeps exact (RFC 7493, section 2.2)."""

# It matches at every position, so no text can make it backtrack
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class JSONError(ValueError):
    """A text is not strict JSON, or a value can't be written as strict JSON."""


def loads(data: bytes) -> Any:
    """
    Read one JSON value.

    :raise JSONError: anything is wrong with it.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(f"invalid UTF-8 at byte {error.start}") from error
    _check_depth(text)
    try:
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except JSONError:
        raise
    except UnicodeEncodeError as error:
        raise JSONError("a lone surrogate in a string") from error
    except json.JSONDecodeError as error:
        raise JSONError(f"not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise JSONError("nested too deep") from error
    return value


def dumps(value: object) -> bytes:
    """
    Write one JSON value as ASCII, without spaces and without a newline.

    :raise JSONError: it has a number or a string that `loads` would refuse.
    """
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise JSONError(str(error)) from error
    return text.encode("ascii")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _TOKENS.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JSONError(f"nested more than {MAX_DEPTH} deep")
        elif token in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise JSONError("a key stands twice in one object")
    return result


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JSONError("a number is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise JSONError("an integer is too large")
    return value


def _constant(text: str) -> NoReturn:
    raise JSONError(f"{text} is no JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_integer, parse_constant=_constant
)
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

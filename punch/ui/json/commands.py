"""Commands as JSON, and what belongs into every answer: the same on stdin (`--json`) and from a browser."""

from __future__ import annotations

from typing import Any

from punch.apps.chat import ChatError
from punch.ui.commands import is_client_id
from punch.wire import strict_json

#: Longest command, in bytes: a message of 16 KiB fits with every byte written as an escape.
MAX_COMMAND = 128 * 1024

#: Characters of a `request` that an answer repeats.
MAX_REQUEST = 128

JSON = dict[str, Any]


def read(text: bytes) -> JSON:
    """
    The fields of a command.

    :raise ChatError: it is too long, or not a JSON object.
    """
    if len(text) > MAX_COMMAND:
        raise too_long()
    try:
        value = strict_json.loads(text)
    except strict_json.JSONError as error:
        raise ChatError("malformed", f"A command must be one JSON object: {error}.") from None
    if not isinstance(value, dict):
        raise ChatError("malformed", 'A command must be a JSON object, such as {"command": "quit"}.')
    return value


def too_long() -> ChatError:
    """A command is longer than any may be."""
    return ChatError("too-long", f"A command has more than {MAX_COMMAND:,} bytes: send long texts in parts.")


def request_fields(fields: JSON) -> JSON:
    """What the answer repeats, so that it is known what it answers."""
    request = fields.get("request")
    if isinstance(request, str):
        return {"request": request[:MAX_REQUEST]}
    return {"request": request} if is_client_id(request) else {}


def error_fields(fields: JSON, error: ChatError) -> JSON:
    """What is told of a command that could not be done."""
    told: JSON = {"reason": error.code, "text": str(error), **request_fields(fields)}
    name = fields.get("command")
    if isinstance(name, str):
        told["command"] = name[:64]
    if is_client_id(fields.get("id")):
        told["id"] = fields["id"]
    return told

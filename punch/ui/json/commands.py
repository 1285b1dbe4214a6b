"""
Reads commands as JSON, and makes the fields of error answers.

They are the same for stdin (`--json`), for pages, and for programs that are attached to the node.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from punch.local.protocol import MAX_LINE as MAX_COMMAND
from punch.local.protocol import MAX_REQUEST, CommandError, read_fields, request_fields
from punch.local.protocol import too_long as too_long_line
from punch.ui.command import Answer, CommandContext, CommandRefused
from punch.ui.commands import is_client_id, perform, why

__all__ = [
    "MAX_COMMAND",
    "MAX_REQUEST",
    "error_fields",
    "perform_for_program",
    "read",
    "request_fields",
    "too_long",
]

JSON = dict[str, Any]

_log = Logger()


def read(text: bytes) -> JSON:
    """
    Read the fields of a command.

    :param text: a JSON object in UTF-8.
    :raise CommandRefused: it is too long, or not a JSON object.
    """
    try:
        return read_fields(text)
    except CommandError as error:
        raise CommandRefused(error.reason, str(error)) from None


def too_long() -> CommandRefused:
    """Return the error for a command of more than `MAX_COMMAND` bytes."""
    error = too_long_line()
    return CommandRefused(error.reason, str(error))


def error_fields(fields: JSON, error: CommandRefused) -> JSON:
    """Return the fields of the `error` event for a command that could not be done."""
    told: JSON = {"reason": error.code, "text": str(error), **request_fields(fields)}
    name = fields.get("command")
    if isinstance(name, str):
        told["command"] = name[:64]
    if is_client_id(fields.get("id")):
        told["id"] = fields["id"]
    return told


def perform_for_program(context: CommandContext, name: str, fields: JSON) -> Deferred[Answer | None]:
    """
    Do a command of a program that is attached to the node.

    :return: fires with the answer; fails with `CommandError`.
    :raise CommandError: it can't be done, and that is known at once.
    """

    def failed(failure: Failure) -> Answer | None:
        raise _command_error(why(failure, _log))

    try:
        return perform(context, name, fields).addErrback(failed)
    except CommandRefused as error:
        raise _command_error(error) from None


def _command_error(error: CommandRefused) -> CommandError:
    return CommandError(error.code, str(error))

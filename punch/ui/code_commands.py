"""Commands about codes, by which two peers get into the address book of each other (docs/codes.md)."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from punch.apps.chat import ChatError, ContactSummary
from punch.apps.chat.codes import ContactCodes
from punch.apps.chat.events import CodeMade
from punch.apps.codes.code import Code, CodeError, CodeFailed, CodePurpose
from punch.extras import install_command_here
from punch.node.causes import ControlProblem
from punch.ui.command import Answer, Command, CommandContext, CommandRefused, Field, FieldKind, Fields, Result
from punch.ui.json.events import code_fields, contact_fields
from punch.ui.text.chat import chat_error_sentence
from punch.ui.text.codes import code_error_sentence, ended_reason, ended_sentence, failure_sentence


def _codes(context: CommandContext) -> ContactCodes:
    codes = context.applications.codes
    if codes is None:
        raise CommandRefused("no-codes", "Codes can't be used here: run punch invite, or punch join.")
    return codes


def _missing(error: ModuleNotFoundError) -> CommandRefused:
    return CommandRefused(
        "no-codes",
        f"Codes need a package that is not there, {error.name}: {install_command_here('codes')}, then start "
        "Punch again.",
    )


def _invite(context: CommandContext, fields: Fields) -> Result:
    try:
        return _codes(context).invite(fields.get("name")).addCallbacks(_made, _ended)
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def _made(made: CodeMade) -> Answer:
    return code_fields(made)


def _ended(failure: Failure) -> NoReturn:
    error = failure.value
    if not isinstance(error, CodeFailed | ControlProblem | CancelledError):
        failure.raiseException()
    assert error is not None
    raise CommandRefused(ended_reason(error), ended_sentence(error))


def _uninvite(context: CommandContext, fields: Fields) -> None:
    _codes(context).withdraw()


def _join(context: CommandContext, fields: Fields) -> Result:
    codes = _codes(context)
    try:
        code = Code.parse(fields["code"])
    except CodeError as error:
        raise CommandRefused("bad-code", code_error_sentence(error)) from None
    try:
        joining = codes.join(code, fields.get("name"))
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return joining.addCallbacks(_met, partial(_not_met, code, codes.where))


def _met(met: tuple[ContactSummary, ChatError | None]) -> Answer:
    contact, problem = met
    return {**contact_fields(contact), "problem": "" if problem is None else chat_error_sentence(problem)}


def _not_met(code: Code, where: str, failure: Failure) -> NoReturn:
    error = failure.value
    if isinstance(error, CodeFailed):
        sentence = failure_sentence(
            error, CodePurpose.CONTACT, issuer=False, number=code.number, where=where, commands=False
        )
        raise CommandRefused(error.failure.value, sentence)
    _ended(failure)


TABLE = (
    Command(
        "invite",
        (Field("name", FieldKind.NAME),),
        _invite,
        "make a code that somebody new uses once, to get to know each other",
        asks=True,
    ),
    Command("uninvite", (), _uninvite, "make your code void"),
    Command(
        "join",
        (Field("code", FieldKind.TEXT, required=True), Field("name", FieldKind.NAME)),
        _join,
        "use a code that somebody else has made",
        ("code",),
        asks=True,
    ),
)
"""The commands about codes; `punch.ui.commands.COMMANDS` contains them."""

"""Sentences about codes: how to use one, what is wrong with one, and why one failed."""

from __future__ import annotations

from punch.apps.codes.code import (
    FIRST_NUMBER,
    LIFE,
    WORDS,
    CodeError,
    CodeFailed,
    CodeFailure,
    CodeProblem,
    CodePurpose,
)
from punch.node.causes import ControlProblem
from punch.sanitize import quoted
from punch.ui.text.causes import problem_sentence
from punch.wire.invitation import AdmissionRefusal

COMMANDS = {
    CodePurpose.CONTACT: ("punch invite", "punch join"),
    CodePurpose.FILES: ("punch send", "punch receive"),
}
"""For each purpose of a code, the command that makes one and the command that uses it."""

_MINUTES = f"{LIFE / 60:.0f} minutes"
_AGAIN = "Make a new one{by_make}."

_ISSUER = {
    CodeFailure.WRONG: "Somebody used this number with other words, so the code is void. If it was a typing "
    "error of the other side, make a new one{by_make}; if not, somebody tries to guess.",
    CodeFailure.EXPIRED: f"Nobody has used the code within {_MINUTES}, so it is void. {_AGAIN}",
    CodeFailure.NUMBER_TAKEN: f"Somebody else uses the number of this code, so it is void. {_AGAIN}",
    CodeFailure.TOO_MANY: "Others began to use this code again and again and did not finish, so it is void: "
    f"their connection is bad, or somebody tries to guess. {_AGAIN}",
    CodeFailure.OTHER_PURPOSE: "The other side used this code with {their_take}, but it is for {take}. It is "
    f"void now. {_AGAIN}",
    CodeFailure.MALFORMED: "The other side knows the code, but what it says makes no sense; check that both "
    "run the same version of Punch.",
}
_REDEEMER = {
    CodeFailure.WRONG: "This is not the code of the other side: check its words. It is void now, and the "
    "other side is told; ask for a new one{by_make}.",
    CodeFailure.NOBODY: "Nobody waits for a code with the number {number} at {where}: it was typed wrongly, "
    f"was used already, is older than {_MINUTES}, or is of another rendezvous{{by_option}}.",
    CodeFailure.BUSY: "The rendezvous takes no more calls from here now; wait a minute, then type the code "
    "again.",
    CodeFailure.LOST: "The other side did not answer, or its connection was lost; type the code again, and "
    "if that does not help, ask for a new one{by_make}.",
    CodeFailure.OTHER_PURPOSE: "This code is of {their_make}: use {their_take} with a new one, as this one "
    "is void now.",
    CodeFailure.OTHER_VERSION: "The other side's Punch knows another version of codes; update the older of "
    "the two.",
    CodeFailure.MALFORMED: "What the other side answered makes no sense; check that both run the same "
    "version of Punch.",
}
_COMPARE = "Compare it with what the other side shows."
_SHOWN = 40
"""The most characters of a wrong part of a code that are shown."""


def code_error_sentence(error: CodeError) -> str:
    """Return what is wrong with a text that should be a code. Only the wrong part of the text is repeated."""
    found = quoted(error.found, _SHOWN)
    match error.problem:
        case CodeProblem.EMPTY:
            return "The code is empty: type it as the other side shows it."
        case CodeProblem.NUMBER:
            return (
                f"A code begins with a number of five digits, as in {FIRST_NUMBER}-mayonnaise-coyote-tulip, "
                f"not with {found}. {_COMPARE}"
            )
        case CodeProblem.WORD:
            hint = f"Did you mean {error.near}?" if error.near else "Compare it with what they show."
            return f"{found} is not a word of any code. {hint}"
        case CodeProblem.LENGTH:
            return f"A code has {WORDS} words after its number, and this one has {error.found}. {_COMPARE}"


def failure_sentence(
    failed: CodeFailed,
    purpose: CodePurpose,
    *,
    issuer: bool,
    number: int = 0,
    where: str = "",
    commands: bool = True,
) -> str:
    """
    Return why a code failed, and what the user can do.

    :param purpose: what this side uses the code for.
    :param issuer: whether this side has made the code; otherwise it has typed it.
    :param number: the number of the code.
    :param where: the host and port of the rendezvous.
    :param commands: whether to name commands of the shell; False for the user of a page or a chat.
    """
    make, take = COMMANDS[purpose]
    their_make, their_take = COMMANDS[failed.card.purpose] if failed.card is not None else ("", "")
    table = _ISSUER if issuer else _REDEEMER
    return table.get(failed.failure, "The code can't be used.").format(
        take=take,
        their_make=their_make,
        their_take=their_take,
        number=number,
        where=where,
        by_make=f" ({make})" if commands else "",
        by_option=" (--rendezvous)" if commands else "",
    )


def unregistered_sentence(problem: ControlProblem) -> str:
    """Return why this peer could not register at the rendezvous to make or use a code."""
    sentence = problem_sentence(problem)
    if problem.refusal in (AdmissionRefusal.NOT_INVITED, AdmissionRefusal.NOT_LISTED):
        sentence += (
            " If it admits your own ID, its release is too old for codes: exchange your IDs instead. punch "
            "id prints yours, and punch peers add ID NAME takes theirs."
        )
    return sentence


def code_lines(code: str, purpose: CodePurpose) -> str:
    """Return what the user who made a code has to do, with the code itself, as several lines."""
    _, take = COMMANDS[purpose]
    return f"Have the other side run this within {_MINUTES}; it works once:\n\n    {take} {code}\n"


def ended_sentence(why: BaseException) -> str:
    """
    Return why a code that this side made for its address book can't be used any more.

    :param why: the `why` of a `CodeVoid`.
    """
    if isinstance(why, CodeFailed):
        return failure_sentence(why, CodePurpose.CONTACT, issuer=True, commands=False)
    if isinstance(why, ControlProblem):
        return unregistered_sentence(why)
    return "The code was withdrawn, and can't be used any more."


def ended_reason(why: BaseException) -> str:
    """Return the same for programs, as the `reason` of an error."""
    if isinstance(why, CodeFailed):
        return why.failure.value
    return why.reason if isinstance(why, ControlProblem) else "withdrawn"

"""What a person reads of forwarded ports."""

from __future__ import annotations

from punch.apps.forward.failures import ForwardFailure
from punch.sanitize import cut, name_on_one_line, sanitize

_SENTENCES = {
    ForwardFailure.CONNECTION_REFUSED: "Nobody listens at {what} of {who}: start it there.",
    ForwardFailure.UNREACHABLE: "{who} can't reach {what}: it does not answer.",
    ForwardFailure.NO_HOST: "{who} knows no host of this name: {what}.",
    ForwardFailure.NOT_PERMITTED: "The user of {who} has no permission for {what} there.",
    ForwardFailure.BUSY: "{who} has too many connections open to {what}: close some, or try again later.",
    ForwardFailure.FAILED: "{who} can't connect to {what}; the output of punch expose there says why.",
    ForwardFailure.RESET: "{what} of {who} reset the connection.",
    ForwardFailure.NOT_LISTENING: "{who} can't listen at {what}; the output of punch expose there says why.",
}


_OWN_SENTENCES = {
    ForwardFailure.CONNECTION_REFUSED: "Nobody listens at {what}, which {who} wants to reach.",
    ForwardFailure.UNREACHABLE: "{what}, which {who} wants to reach, does not answer.",
    ForwardFailure.NO_HOST: "There is no host of this name, which {who} wants to reach: {what}.",
    ForwardFailure.NOT_PERMITTED: "You have no permission for {what}, which {who} wants to reach.",
}
"""The same on the side that exposes."""


def exposed_failure_text(failure: ForwardFailure, who: str, what: str, error: Exception) -> str:
    """A sentence for the user who exposes `what`, which the peer `who` could not reach."""
    sentence = _OWN_SENTENCES.get(failure, "{what}, which {who} wants to reach, can't be connected: {error}.")
    return sentence.format_map({"who": who, "what": what, "error": str(error).rstrip(".")})


def open_failure_text(reason: str, text: str, who: str, what: str) -> str:
    """
    A sentence that says why a stream to an exposed port can't be opened.

    :param reason: the code of the error, and `text` its sentence.
    """
    shown = cut(name_on_one_line(what), 100)
    if reason == "no-service":
        return f"{who} exposes no {shown} now: ask for punch expose {shown} --to YOUR-ID there."
    if reason == "not-allowed":
        return f"{who} does not expose {shown} to you: ask for punch expose {shown} --to YOUR-ID there."
    return text


def reversed_failure_text(failure: ForwardFailure | None, error: Exception, address: str, who: str) -> str:
    """
    A sentence for the user whose port `address` leads to `who`, where a connection to it did not arrive.

    :param failure: what `who` said, if it said something.
    """
    reason = failure.reason.replace("-", " ") if failure is not None else str(error).rstrip(".")
    return f"A connection to {address} did not get through to {who}: {cut(sanitize(reason), 200)}."


def unlistened_text(failure: ForwardFailure, who: str, what: str) -> str:
    """A sentence that says why a port of `who` does not lead here."""
    if failure is ForwardFailure.BUSY:
        return f"{cut(name_on_one_line(what), 100)} of {who} leads to somebody else now: try again later."
    return failure_text(failure, who, what)


def failure_text(failure: ForwardFailure, who: str, what: str) -> str:
    """
    A sentence that says why an exposed port can't be reached.

    :param who: the peer that exposes it.
    :param what: the port, or the name of its service.
    """
    text = _SENTENCES[failure].format_map({"who": who, "what": cut(name_on_one_line(what), 100)})
    return text[0].upper() + text[1:]
